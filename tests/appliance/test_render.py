"""The rendered file: supervisor's own parser takes it, and holds nothing that supervisor would silently ignore."""

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.appliance.launcher import run
from tests.factory import KEYS

from orly.appliance.plan import Plan, Program, Trust
from orly.appliance.render import render, unusable_path, unusable_value

KNOWN_KEYS = {
    "supervisord": {"nodaemon", "logfile", "logfile_maxbytes", "pidfile", "nocleanup"},
    "program": {
        "command",
        "process_name",
        "numprocs",
        "priority",
        "autorestart",
        "startsecs",
        "startretries",
        "stopsignal",
        "stopwaitsecs",
        "stopasgroup",
        "killasgroup",
        "redirect_stderr",
        "stdout_logfile",
        "stdout_logfile_maxbytes",
    },
}
"""What supervisor 4 documents for these sections and we use; it ignores any other key without a word."""

PARSE = """
import json, sys
from supervisor.options import ServerOptions
options = ServerOptions()
options.realize(["-c", sys.argv[1]])
names = ("name", "command", "priority", "startsecs", "startretries", "stopsignal", "stopwaitsecs", "stopasgroup",
         "killasgroup", "redirect_stderr", "stdout_logfile", "stdout_logfile_maxbytes", "uid", "environment")
print(json.dumps({
    "nodaemon": options.nodaemon or options.configroot.supervisord.nodaemon,
    "servers": len(options.server_configs),
    "warnings": options.parse_warnings,
    "groups": [[group.name, group.priority, [
        {name: getattr(p, name) for name in names} | {"always": p.autorestart.__name__} for p in group.process_configs
    ]] for group in sorted(options.process_group_configs, key=lambda g: g.priority)],
}))
"""


def program(name: str = "orly-db", path: str = "/opt/bin/orly-db", processes: int = 1, priority: int = 10) -> Program:
    """A program for the tests below."""
    return Program(
        name=name,
        path=path,
        processes=processes,
        priority=priority,
        start_s=32,
        start_retries=7,
        stop_s=9,
        probe="grpc",
        address="127.0.0.1:50051",
    )


def plan(*programs: Program) -> Plan:
    """A plan of these programs."""
    return Plan(
        programs=programs,
        trust=Trust(),
        data_dir="/data",
        log_level="info",
        log_format="text",
        log_file="",
        crash_limit=7,
        crash_window_s=300,
    )


def parsed(text: str, directory: Path) -> dict[str, Any]:
    """What supervisor's own parser makes of a file; it runs in a process of its own."""
    path = directory / "supervisord.conf"
    path.write_text(text)
    done = subprocess.run([sys.executable, "-c", PARSE, path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


def test_supervisor_reads_what_was_meant(tmp_path: Path) -> None:
    found = parsed(render(plan(program(), program("orly", "/opt/bin/orly", processes=2, priority=40))), tmp_path)
    common = {
        "startsecs": 32,
        "startretries": 7,
        "stopsignal": 15,
        "stopwaitsecs": 9,
        "stopasgroup": True,
        "killasgroup": True,
        "redirect_stderr": True,
        "stdout_logfile": "/dev/stdout",
        "stdout_logfile_maxbytes": 0,
        "uid": None,
        "environment": {},
        "always": "RestartUnconditionally",
    }
    assert found == {
        "nodaemon": True,
        "servers": 0,
        "warnings": [],
        "groups": [
            ["orly-db", 10, [common | {"name": "orly-db", "command": "/opt/bin/orly-db", "priority": 10}]],
            [
                "orly",
                40,
                [common | {"name": f"orly-{n}", "command": "/opt/bin/orly", "priority": 40} for n in range(2)],
            ],
        ],
    }


def unknown_keys(text: str) -> list[str]:
    """Sections and keys that are not in the list of those we mean."""
    found = []
    kind = ""
    for line in text.splitlines():
        if line.startswith("["):
            kind = line.strip("[]").partition(":")[0]
            found += [] if kind in KNOWN_KEYS else [line]
        elif line and not line.startswith(";"):
            key = line.partition("=")[0]
            found += [] if key in KNOWN_KEYS.get(kind, ()) else [f"{kind}: {key}"]
    return found


def test_nothing_is_in_it_that_supervisor_would_ignore() -> None:
    text = render(plan(program(), program("orly", processes=4, priority=40)))
    assert unknown_keys(text) == []
    assert unknown_keys(text.replace("stopsignal", "username")) == ["program: username"] * 2


def test_it_takes_nothing_from_the_environment() -> None:
    text = render(plan(program(), program("orly", processes=4, priority=40)))
    assert "ENV_" not in text
    assert "environment=" not in text


@pytest.mark.parametrize(
    "path",
    ["/opt/my bin/orly", "/opt/a ;b", "/opt/a #b/x", "/opt/100%/%(here)s", "/opt/it's", '/opt/"x"', "/opt/$HOME/\\n"],
)
def test_any_path_reaches_the_process_as_it_is(tmp_path: Path, path: str) -> None:
    found = parsed(render(plan(program(path=path))), tmp_path)
    (group,) = found["groups"]
    assert shlex.split(group[2][0]["command"]) == [path]


@pytest.mark.parametrize(("path", "is_usable"), [("/opt/é b", True), ("/opt/a\nb", False), ("/opt/\x7f", False)])
def test_a_path_that_cannot_be_written_is_known(path: str, is_usable: bool) -> None:
    assert (unusable_path(path) is None) is is_usable


def test_what_the_programs_are_told_reaches_each_of_them(tmp_path: Path) -> None:
    told = {
        "ORLY_DB_TYPE": "grpc",
        "ORLY_GRPC_SERVER": "unix:/run/a b,c=\\n;#$HOME",
        "ORLY_RELAY_WORKERS": "4",
    }
    assert [why for value in told.values() if (why := unusable_value(value))] == []
    groups = parsed(render(plan(program(), program("orly", processes=4, priority=40)), told), tmp_path)["groups"]
    assert [each["environment"] for _, _, of in groups for each in of] == [told] * 5


@pytest.mark.parametrize("value", ["/run/it's", '/run/"x"', "/run/a ;b", "/run/a #b", "/run/a\nb", "/run/%a"])
def test_a_value_that_cannot_be_written_is_known(value: str) -> None:
    assert unusable_value(value) is not None


def test_such_a_value_is_refused_and_named(tmp_path: Path) -> None:
    done = run(tmp_path, "--render-only", ORLY_DB_LISTEN="unix:/run/it's")
    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr.startswith("orly-launcher: ORLY_GRPC_SERVER=unix:/run/it's: quotes, ")


def test_the_launcher_prints_it(tmp_path: Path) -> None:
    done = run(tmp_path, "--render-only", ORLY_RELAY_WORKERS="3", ORLY_DATA_DIR=str(tmp_path / "data"))
    assert done.returncode == 0, done.stderr
    groups = parsed(done.stdout, tmp_path)["groups"]
    assert [(name, priority, [p["name"] for p in of]) for name, priority, of in groups] == [
        ("orly-db", 10, ["orly-db"]),
        ("orly", 40, ["orly-0", "orly-1", "orly-2"]),
    ]
    assert not (tmp_path / "data").exists()


def test_it_holds_what_access_control_and_syncing_need_and_no_secret(tmp_path: Path) -> None:
    given = {
        "ORLY_OWNERS": KEYS[0],
        "ORLY_ACL_MODE": "managed",
        "ORLY_ACL_LISTEN": "0.0.0.0:7",
        "ORLY_LAUNCHER_SYNC_NEGENTROPY_ENABLED": "true",
        "ORLY_RELAY_WORKERS": "2",
        "ORLY_GRPC_TOKEN": "a-token-nobody-may-see",
        "ORLY_GRPC_ALLOW_INSECURE": "true",
    }
    done = run(tmp_path, "--render-only", **given)
    assert done.returncode == 0, done.stderr
    assert "a-token-nobody-may-see" not in done.stdout
    groups = parsed(done.stdout, tmp_path)["groups"]
    (told,) = {tuple(sorted(each["environment"].items())) for _, _, of in groups for each in of}
    assert dict(told) == {
        "ORLY_ACL_DB_TYPE": "grpc",
        "ORLY_ACL_GRPC_DB_SERVER": "127.0.0.1:50051",
        "ORLY_ACL_MODE": "managed",
        "ORLY_ACL_TYPE": "grpc",
        "ORLY_DB_DIRECT_READ": "true",
        "ORLY_DB_TYPE": "grpc",
        "ORLY_GRPC_ACL_SERVER": "127.0.0.1:7",
        "ORLY_GRPC_SERVER": "127.0.0.1:50051",
        "ORLY_GRPC_SYNC_NEGENTROPY": "127.0.0.1:50064",
        "ORLY_LOG_TO_STDOUT": "true",
        "ORLY_NEGENTROPY_ENABLED": "true",
        "ORLY_RELAY_WORKERS": "2",
        "ORLY_SYNC_NEGENTROPY_DB_SERVER": "127.0.0.1:50051",
        "ORLY_SYNC_NEGENTROPY_DB_TYPE": "grpc",
        "ORLY_SYNC_TYPE": "grpc",
    }
