"""The relays that the benchmark can start by itself, each on loopback with a fresh directory."""

import asyncio
import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import msgspec
from tests.bench.client import Endpoint, fetch
from tests.bench.errors import BenchError
from tests.bench.measure import ProcessTree
from tests.bench.workload import request
from tests.process import free_port

__all__ = ["BUILT_IN", "DEFAULT", "Launch", "Relay", "executable", "orly_command", "orly_environment", "python_tool"]

_START_S: Final = 60.0
_STOP_S: Final = 20.0
_POLL_S: Final = 0.05

_BANNED: Final = 1_000_000


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """How one relay is started in one directory."""

    command: tuple[str, ...]
    environment: dict[str, str]
    note: str


class Relay:
    """A running relay; a context manager that ends it."""

    def __init__(self, name: str, plan: Callable[[int, Path], Launch], directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.name = name
        self.port = free_port()
        self.launch = plan(self.port, directory)
        self.endpoint = Endpoint(host="127.0.0.1", port=self.port)
        self._log = directory / "output.log"
        with self._log.open("ab") as log:
            try:
                self._process = subprocess.Popen(
                    self.launch.command,
                    cwd=directory,
                    env=self.launch.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            except OSError as error:
                raise BenchError(f"{name} does not start: {error}") from error

    def __enter__(self) -> "Relay":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    async def ready(self) -> ProcessTree:
        """Wait for the first REQ that is answered.

        Raises:
            BenchError: it ended, or is not there in time; the text has the end of its output.
        """
        deadline = time.perf_counter() + _START_S
        while True:
            if self._process.poll() is not None:
                raise BenchError(f"{self.name} ended with status {self._process.returncode}:\n{self._tail()}")
            try:
                await fetch(self.endpoint, request("ready", {"limit": 1}))
            except BenchError as error:
                if time.perf_counter() > deadline:
                    raise BenchError(
                        f"{self.name} is not ready after {_START_S:g} s: {error}\n{self._tail()}"
                    ) from error
                await asyncio.sleep(_POLL_S)
            else:
                return ProcessTree(self._process.pid)

    def stop(self) -> None:
        """Ask it to end; force it after a while."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()

    def _tail(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-15:])


def python_tool(name: str) -> str:
    """A console script beside this interpreter.

    Raises:
        BenchError: it is not installed.
    """
    path = Path(sys.executable).parent / name
    if not path.exists():
        raise BenchError(f"{name} is not installed beside {sys.executable}: pip install --editable '.[bench]'")
    return str(path)


def orly_command(*arguments: str) -> tuple[str, ...]:
    """The project's own command line."""
    return (python_tool("orly"), *arguments)


def orly_environment(directory: Path, port: int = 0) -> dict[str, str]:
    """Settings of the project's relay: defaults, with the limits that a load test would hit out of the way."""
    return {
        **_plain_environment(directory),
        "ORLY_DATA_DIR": str(directory / "data"),
        "ORLY_LISTEN": "127.0.0.1",
        "ORLY_PORT": str(port),
        "ORLY_MAX_EVENTS_PER_SECOND": "0",
        "ORLY_MAX_GLOBAL_CONNECTIONS": "5000",
        "ORLY_MAX_CONN_PER_IP": "0",
    }


def executable(template: str) -> Callable[[int, Path], Launch]:
    """A plan from a command line with {port} and {dir} in it.

    Raises:
        BenchError: the command has no {port}, cannot be split, or does not exist.
    """
    try:
        words = shlex.split(template)
    except ValueError as error:
        raise BenchError(f"--exec {template!r}: {error}") from error
    if not words or "{port}" not in template:
        raise BenchError(f"--exec {template!r}: the command needs {{port}} where the port number goes")
    program = shutil.which(words[0])
    if program is None:
        raise BenchError(f"--exec {template!r}: there is no program {words[0]!r}")

    def plan(port: int, directory: Path) -> Launch:
        rest = (word.replace("{port}", str(port)).replace("{dir}", str(directory)) for word in words[1:])
        return Launch(
            command=(os.path.abspath(program), *rest), environment=_plain_environment(directory), note=template
        )

    return plan


def _orly(port: int, directory: Path) -> Launch:
    return Launch(
        command=orly_command(),
        environment=orly_environment(directory, port),
        note="this project, one process, LMDB, OK after fsync",
    )


def _orly_banned(port: int, directory: Path) -> Launch:
    """The same relay with a long list of keys that may not write."""
    environment = orly_environment(directory, port)
    generator = random.Random(1)
    keys = directory / "banned"
    keys.write_text("".join(f"{generator.randbytes(32).hex()}\n" for _ in range(_BANNED)))
    command = orly_command("acl", "ban", "--file", str(keys))
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"orly acl ban: {done.stderr.strip()}")
    return Launch(command=orly_command(), environment=environment, note=f"like orly, with {_BANNED:,} banned keys")


def _appliance(*, workers: int, direct_read: bool) -> Callable[[int, Path], Launch]:
    """The same relay as services under `orly-launcher`."""

    def plan(port: int, directory: Path) -> Launch:
        return Launch(
            command=(python_tool("orly-launcher"),),
            environment={
                **orly_environment(directory, port),
                "ORLY_DB_LISTEN": f"127.0.0.1:{free_port()}",
                "ORLY_DB_DIRECT_READ": "true" if direct_read else "false",
                "ORLY_RELAY_WORKERS": str(workers),
                "ORLY_RUN_DIR": str(directory / "run"),
            },
            note=f"this project under orly-launcher: orly-db, {workers} worker(s), "
            + ("reads from the file, writes over gRPC" if direct_read else "reads and writes over gRPC"),
        )

    return plan


def _local_relay(port: int, directory: Path) -> Launch:
    if find_spec("nostr_sdk") is None:
        raise BenchError("local-relay needs the package nostr-sdk: pip install --editable '.[bench]'")
    root = str(Path(__file__).parents[2])
    return Launch(
        command=(sys.executable, "-m", "tests.bench.local_relay", str(port)),
        environment={**_plain_environment(directory), "PYTHONPATH": root},
        note="rust-nostr LocalRelay from nostr-sdk, events in memory only",
    )


def _nostr_relay(port: int, directory: Path) -> Launch:
    script = python_tool("nostr-relay")
    on_lmdb = find_spec("lmdb") is not None and find_spec("msgpack") is not None
    validators = ["is_not_too_large", "is_signed", "is_recent"]
    storage: dict[str, object] = (
        {"class": "nostr_relay.storage.kv.LMDBStorage", "path": str(directory / "events"), "map_size": 2**36}
        if on_lmdb
        else {"sqlalchemy.url": f"sqlite+aiosqlite:///{directory / 'events.sqlite3'}"}
    )
    config = {
        "storage": {**storage, "validators": [f"nostr_relay.validators.{name}" for name in validators]},
        "logging": {"version": 1, "root": {"level": "WARNING"}},
        "gunicorn": {"bind": f"127.0.0.1:{port}", "workers": 1, "loglevel": "warning"},
        "authentication": {"enabled": False},
        "verification": {"nip05_verification": "disabled"},
        "subscription_limit": 1000,
        "max_limit": 6000,
        "message_timeout": 1800,
    }
    path = directory / "config.yaml"
    path.write_text(json.dumps(config))
    return Launch(
        command=(script, "-c", str(path), "serve"),
        environment=_plain_environment(directory),
        note="nostr-relay, " + ("LMDB, OK before the write" if on_lmdb else "SQLite (pip install msgpack for LMDB)"),
    )


def _plain_environment(directory: Path) -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8", "HOME": str(directory)}


BUILT_IN: Final[dict[str, Callable[[int, Path], Launch]]] = {
    "orly": _orly,
    "orly-banned": _orly_banned,
    "orly-split": _appliance(workers=2, direct_read=True),
    "orly-grpc": _appliance(workers=2, direct_read=False),
    "orly-split1": _appliance(workers=1, direct_read=True),
    "orly-grpc1": _appliance(workers=1, direct_read=False),
    "nostr-relay": _nostr_relay,
    "local-relay": _local_relay,
}

DEFAULT: Final = ("orly", "orly-split", "orly-grpc", "nostr-relay", "local-relay")
"""What is measured when nothing is named."""
