import ast
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import permutations
from pathlib import Path

import pytest

import orly

APP = Path(orly.__file__).parents[1]

OUTSIDE_WORLD = (
    "asyncio",
    "grpc",
    "lmdb",
    "logging",
    "multiprocessing",
    "os",
    "pathlib",
    "random",
    "secrets",
    "select",
    "selectors",
    "shutil",
    "signal",
    "socket",
    "ssl",
    "subprocess",
    "tempfile",
    "threading",
    "time",
    "uvloop",
)


BY_NAME = ("__import__", "import_module", "importlib.import_module")
"""Calls that import; their argument must be a literal, so that it can be checked."""


SERVICES = ("orly.relay", "orly.db", "orly.acl", "orly.sync")
"""Packages of which each runs as a process of its own."""

WITH_GRPC = (
    "orly.pb*",
    "orly.rpc*",
    "orly.db*",
    "orly.acl*",
    "orly.sync.*service",
    "orly.sync.*remote*",
    "orly.sync.*messages",
    "orly.store.remote*",
    "orly.store.split*",
    "orly.appliance.healthcheck",
    "orly.cli*",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Modules that match `who` and none of `unless` import nothing that is `banned`, or inside it, other than `but`."""

    who: str
    unless: tuple[str, ...] = ()
    banned: tuple[str, ...]
    but: tuple[str, ...] = ()
    why: str


RULES = (
    Rule(who="orly.nostr*", banned=OUTSIDE_WORLD, why="protocol is pure"),
    Rule(
        who="orly.nostr*",
        banned=("orly",),
        but=("orly.nostr",),
        why="protocol knows nothing of the project around it",
    ),
    Rule(
        who="orly.negentropy*",
        unless=("orly.negentropy.harness",),
        banned=OUTSIDE_WORLD,
        why="protocol is pure",
    ),
    Rule(who="orly.negentropy*", banned=("orly",), but=("orly.negentropy",), why="protocol is pure"),
    Rule(who="orly.access*", banned=OUTSIDE_WORLD, why="decisions are pure"),
    Rule(
        who="orly.access*",
        banned=("orly",),
        but=("orly.access", "orly.nostr"),
        why="decisions know nothing of the doors at which they are asked for",
    ),
    Rule(who="orly.sync.*.state", banned=OUTSIDE_WORLD, why="state machines are pure"),
    Rule(who="orly.sync.*.schedule", banned=OUTSIDE_WORLD, why="state machines are pure"),
    Rule(who="orly.sync.*.pace", banned=OUTSIDE_WORLD, why="state machines are pure"),
    Rule(who="orly.units", banned=OUTSIDE_WORLD, why="parsers are pure"),
    Rule(who="orly.env_file", banned=OUTSIDE_WORLD, why="parsers are pure"),
    Rule(who="*", unless=("orly.store.lmdb*",), banned=("lmdb",), why="one package knows the engine"),
    Rule(
        who="*",
        unless=WITH_GRPC,
        banned=("grpc", "grpc_health", "grpc_reflection", "google.protobuf", "orly.pb"),
        why="only what talks to another service knows how",
    ),
    Rule(who="*", unless=("orly.appliance*",), banned=("supervisor",), why="one package supervises"),
    Rule(
        who="orly.store*",
        banned=(*SERVICES, "orly.intake"),
        but=("orly.intake.verdict",),  # the words of an answer, which the remote store gets as text
        why="the store serves, it does not ask",
    ),
    Rule(
        who="orly.store*",
        unless=WITH_GRPC,
        banned=("orly.rpc", "orly.intake"),
        why="an engine knows nothing of services",
    ),
    *(
        Rule(
            who=f"{service}*",
            banned=tuple({*SERVICES} - {service}),
            but=("orly.sync.peer", "orly.sync.ingest")
            if service == "orly.acl"
            else (),  # there is one client of relays
            why="services meet in proto/ and in the store's interface",
        )
        for service in SERVICES
    ),
    Rule(
        who="orly.*",
        unless=("orly.cli*", "orly.appliance*"),
        banned=("orly.cli", "orly.appliance"),
        why="the command line starts programs, not the reverse",
    ),
    Rule(
        who="orly.appliance*",
        banned=(*SERVICES, "orly.store", "orly.intake", "orly.nostr", "orly.cli"),
        why="the appliance runs programs, it is none of them",
    ),
    Rule(
        who="orly.rpc*",
        banned=(*SERVICES, "orly.store", "orly.intake"),
        but=("orly.store.base",),
        why="the plumbing serves every service alike",
    ),
    Rule(
        who="orly.opening*",
        banned=(*SERVICES, "orly.intake", "orly.pb"),
        but=("orly.acl.remote",),  # the client of a service
        why="who opens a store does not serve it",
    ),
    Rule(
        who="orly.process*",
        banned=(*SERVICES, "orly.store", "orly.rpc", "orly.intake", "orly.nostr"),
        why="the life of a program is the same whatever it does",
    ),
    Rule(
        who="orly.intake*",
        banned=("orly",),
        but=(
            "orly.intake",
            "orly.nostr",
            "orly.settings",
            "orly.store.base",
            "orly.access.curating",  # what a configuration must look like, whoever may publish it
        ),
        why="every door has the same lock, so the lock knows no door",
    ),
    Rule(
        who="orly.relay*",
        banned=("orly.store", "orly.opening"),
        but=("orly.store.base",),
        why="the relay knows the interface of a store, not which one it is",
    ),
    Rule(
        who="orly.sync*",
        unless=("orly.sync.*.run_service",),
        banned=("orly.store", "orly.opening"),
        but=("orly.store.base",),
        why="a sync knows the interface of a store, not which one it is",
    ),
)


def is_inside(name: str, package: str) -> bool:
    """Whether a dotted name is a package or lies in it."""
    return name == package or name.startswith(f"{package}.")


def module_name(path: Path, root: Path) -> str:
    """The dotted name of a source file."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, root: Path) -> Iterator[tuple[int, str]]:
    """Line and full dotted name of everything a file imports, wherever in the file that is."""
    package = module_name(path, root).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{source}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in BY_NAME and node.args:
            yield node.lineno, str(ast.literal_eval(node.args[0]))


def applies(rule: Rule, module: str) -> bool:
    """Whether a rule is about a module."""
    return fnmatchcase(module, rule.who) and not any(fnmatchcase(module, pattern) for pattern in rule.unless)


def violations(root: Path) -> list[str]:
    """Each import below `root` that a rule forbids, as `module:line imports name: why`."""
    found = []
    for path in sorted(root.rglob("*.py")):
        module = module_name(path, root)
        rules = [rule for rule in RULES if applies(rule, module)]
        for line, name in imports(path, root):
            for rule in rules:
                is_banned = any(is_inside(name, banned) for banned in rule.banned)
                if is_banned and not any(is_inside(name, allowed) for allowed in rule.but):
                    found.append(f"{module}:{line} imports {name}: {rule.why}")
    return found


def write(root: Path, name: str, text: str) -> None:
    """Write one source file of a made-up tree."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_imports_run_one_way() -> None:
    assert violations(APP) == []


def test_the_walk_sees_the_project() -> None:
    modules = {module_name(path, APP) for path in APP.rglob("*.py")}
    assert {"orly", "orly.settings", "orly.nostr", "orly.nostr.nip19", "orly.cli.docs"} <= modules


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("orly/nostr/x.py", "import asyncio", "orly.nostr.x:1 imports asyncio: protocol is pure"),
        ("orly/nostr/x.py", "a = 1\nfrom os import path", "orly.nostr.x:2 imports os.path: protocol is pure"),
        ("orly/nostr/x.py", "import os.path as p", "orly.nostr.x:1 imports os.path: protocol is pure"),
        ("orly/nostr/x.py", "def f():\n    import time", "orly.nostr.x:2 imports time: protocol is pure"),
        ("orly/nostr/x.py", "__import__('socket')", "orly.nostr.x:1 imports socket: protocol is pure"),
        ("orly/nostr/__init__.py", "import random", "orly.nostr:1 imports random: protocol is pure"),
        (
            "orly/nostr/x.py",
            "from orly import clock",
            "orly.nostr.x:1 imports orly.clock: protocol knows nothing of the project around it",
        ),
        (
            "orly/nostr/x.py",
            "from .. import clock",
            "orly.nostr.x:1 imports orly.clock: protocol knows nothing of the project around it",
        ),
        ("orly/negentropy/x.py", "import threading", "orly.negentropy.x:1 imports threading: protocol is pure"),
        (
            "orly/sync/cluster/state.py",
            "import time",
            "orly.sync.cluster.state:1 imports time: state machines are pure",
        ),
        ("orly/relay/x.py", "import lmdb", "orly.relay.x:1 imports lmdb: one package knows the engine"),
        (
            "orly/store/base.py",
            "from lmdb import Error",
            "orly.store.base:1 imports lmdb.Error: one package knows the engine",
        ),
        (
            "orly/store/lmdb/x.py",
            "from orly.relay import feed",
            "orly.store.lmdb.x:1 imports orly.relay.feed: the store serves, it does not ask",
        ),
        (
            "orly/store/x.py",
            "import orly.cli.main",
            "orly.store.x:1 imports orly.cli.main: the command line starts programs, not the reverse",
        ),
        (
            "orly/relay/x.py",
            "from orly.cli import main",
            "orly.relay.x:1 imports orly.cli.main: the command line starts programs, not the reverse",
        ),
        (
            "orly/rpc/x.py",
            "from orly.appliance import main",
            "orly.rpc.x:1 imports orly.appliance.main: the command line starts programs, not the reverse",
        ),
        (
            "orly/relay/x.py",
            "import grpc.aio",
            "orly.relay.x:1 imports grpc.aio: only what talks to another service knows how",
        ),
        (
            "orly/appliance/main.py",
            "from grpc_health.v1 import health_pb2",
            "orly.appliance.main:1 imports grpc_health.v1.health_pb2: only what talks to another service knows how",
        ),
        (
            "orly/store/base.py",
            "from orly.pb.orlydb.v1 import types_pb2",
            "orly.store.base:1 imports orly.pb.orlydb.v1.types_pb2: only what talks to another service knows how",
        ),
        (
            "orly/store/lmdb/x.py",
            "from orly.rpc.channel import open_channel",
            "orly.store.lmdb.x:1 imports orly.rpc.channel.open_channel: an engine knows nothing of services",
        ),
        (
            "orly/cli/x.py",
            "import supervisor.options",
            "orly.cli.x:1 imports supervisor.options: one package supervises",
        ),
        *(
            (
                f"orly/{one}/x.py",
                f"from orly.{other} import y",
                f"orly.{one}.x:1 imports orly.{other}.y: services meet in proto/ and in the store's interface",
            )
            for one, other in permutations(("relay", "db", "acl", "sync"), 2)
        ),
        (
            "orly/appliance/x.py",
            "from orly.store.base import EventStore",
            "orly.appliance.x:1 imports orly.store.base.EventStore: the appliance runs programs, it is none of them",
        ),
        (
            "orly/rpc/x.py",
            "from orly.store.lmdb.store import LmdbStore",
            "orly.rpc.x:1 imports orly.store.lmdb.store.LmdbStore: the plumbing serves every service alike",
        ),
        (
            "orly/process/serve.py",
            "from orly.rpc import server",
            "orly.process.serve:1 imports orly.rpc.server: the life of a program is the same whatever it does",
        ),
        (
            "orly/intake/x.py",
            "from orly import clock",
            "orly.intake.x:1 imports orly.clock: every door has the same lock, so the lock knows no door",
        ),
        (
            "orly/sync/negentropy/manager.py",
            "import grpc",
            "orly.sync.negentropy.manager:1 imports grpc: only what talks to another service knows how",
        ),
        (
            "orly/sync/negentropy/manager.py",
            "from orly.store.lmdb.store import LmdbStore",
            "orly.sync.negentropy.manager:1 imports orly.store.lmdb.store.LmdbStore: "
            "a sync knows the interface of a store, not which one it is",
        ),
        (
            "orly/negentropy/x.py",
            "from orly.nostr import event",
            "orly.negentropy.x:1 imports orly.nostr.event: protocol is pure",
        ),
        (
            "orly/opening/x.py",
            "from orly.relay import relay",
            "orly.opening.x:1 imports orly.relay.relay: who opens a store does not serve it",
        ),
        (
            "orly/relay/x.py",
            "from orly.store import lmdb",
            "orly.relay.x:1 imports orly.store.lmdb: the relay knows the interface of a store, not which one it is",
        ),
        (
            "orly/relay/x.py",
            "from orly.store.lmdb.store import LmdbStore",
            "orly.relay.x:1 imports orly.store.lmdb.store.LmdbStore: "
            "the relay knows the interface of a store, not which one it is",
        ),
    ],
)
def test_a_violation_is_found(tmp_path: Path, name: str, text: str, found: str) -> None:
    write(tmp_path, name, text)
    assert violations(tmp_path) == [found]


def test_what_is_allowed_is_not_found(tmp_path: Path) -> None:
    write(tmp_path, "orly/nostr/x.py", "import re\nfrom orly.nostr import event\nfrom . import tags\nimport timeit")
    write(tmp_path, "orly/sync/cluster/manager.py", "import time")
    write(tmp_path, "orly/sync/cluster/service.py", "import grpc\nfrom orly.pb.orlysync.cluster.v1 import service_pb2")
    write(tmp_path, "orly/sync/cluster/run_service.py", "from orly.opening.store import open_store")
    write(tmp_path, "orly/negentropy/harness.py", "import os")
    write(tmp_path, "orly/sync/cluster/state.py", "from orly.nostr import event")
    write(tmp_path, "orly/store/lmdb/x.py", "import lmdb, os\nfrom orly.store.base import EventStore")
    write(
        tmp_path,
        "orly/relay/x.py",
        "import asyncio\nfrom orly.store.base import EventStore\nfrom orly.store import base",
    )
    write(
        tmp_path,
        "orly/store/remote_queries.py",
        "import grpc\nfrom orly.rpc import channel\nfrom orly.pb import orlydb",
    )
    write(tmp_path, "orly/rpc/convert.py", "import grpc\nfrom orly.store.base import Query\nfrom orly import clock")
    write(tmp_path, "orly/db/main.py", "from orly.process import serve\nfrom orly.store.lmdb.store import LmdbStore")
    write(tmp_path, "orly/db/saving.py", "from orly.intake.policy import WritePolicy\nfrom orly.db import service")
    write(tmp_path, "orly/intake/policy.py", "from orly.nostr import event\nfrom orly.settings import Settings")
    write(tmp_path, "orly/appliance/healthcheck.py", "import grpc\nfrom orly.services import SERVICES")
    write(tmp_path, "orly/appliance/main.py", "import supervisor\nfrom orly.settings import load\nimport orly.process")
    write(tmp_path, "orly/cli/main.py", "from orly.store.lmdb.store import LmdbStore\nimport orly.relay.server")
    assert violations(tmp_path) == []
