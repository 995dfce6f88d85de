"""What keeps the programs from being started is said all at once, and before any of them is."""

import os
import signal
import socket
from pathlib import Path

import pytest
from tests.appliance.launcher import free_port, launcher_variables, launching, run
from tests.factory import KEYS
from tests.settings_environment import load_with

from orly.appliance.checks import find_problems

SERVE = [["own", "ready"], ["serve"]]
FAKES = {"orly-db": SERVE, "orly": SERVE}


def given(directory: Path, **variables: str) -> dict[str, str]:
    """The variables of a launcher that would start."""
    return launcher_variables(directory, FAKES, variables)


def refused(directory: Path, code: int, *arguments: str, **variables: str) -> list[str]:
    """What a launcher says that leaves with this status; nothing was started."""
    done = run(directory, *arguments, **given(directory, **variables))
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert not (directory / "data").exists()
    lines = done.stderr.splitlines()
    assert all(line.startswith("orly-launcher: ") for line in lines)
    return [line.removeprefix("orly-launcher: ") for line in lines]


def test_all_wrong_settings_are_listed(tmp_path: Path) -> None:
    lines = refused(
        tmp_path, 78, ORLY_LAUNCHER_CRASH_LIMIT="0", ORLY_LAUNCHER_STOP_TIMEOUT="soon", ORLY_RELAY_WORKER="2"
    )
    assert lines == [
        "ORLY_RELAY_WORKER: no such setting; did you mean ORLY_RELAY_WORKERS?",
        'ORLY_LAUNCHER_STOP_TIMEOUT="soon": not a duration: write 25ms, 30s, 5m, 1h30m or whole seconds',
        'ORLY_LAUNCHER_CRASH_LIMIT="0": must be at least 1',
    ]


def test_all_that_is_in_the_way_is_listed(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("no program")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        lines = refused(
            tmp_path,
            78,
            ORLY_LAUNCHER_DB_BINARY=str(tmp_path / "missing"),
            ORLY_LAUNCHER_RELAY_BINARY=str(plain),
            ORLY_RUN_DIR=str(plain / "run"),
            ORLY_PORT=str(port),
        )
    assert lines == [
        f"ORLY_LAUNCHER_DB_BINARY={tmp_path}/missing: No such file or directory",
        f"ORLY_LAUNCHER_RELAY_BINARY={plain}: is not executable",
        f"the run directory {plain}/run: {plain} is not a directory",
        f"orly cannot listen on 127.0.0.1:{port}: another process already does",
    ]


def test_a_program_must_be_a_file(tmp_path: Path) -> None:
    assert refused(tmp_path, 78, ORLY_LAUNCHER_DB_BINARY=str(tmp_path)) == [
        f"ORLY_LAUNCHER_DB_BINARY={tmp_path}: is not a file"
    ]


def test_a_write_plugin_must_be_a_program(tmp_path: Path) -> None:
    assert refused(tmp_path, 78, ORLY_WRITE_PLUGIN=str(tmp_path)) == [f"ORLY_WRITE_PLUGIN={tmp_path}: is not a file"]
    assert refused(tmp_path, 78, ORLY_WRITE_PLUGIN="no-such-policy -v") == [
        "ORLY_WRITE_PLUGIN=no-such-policy -v: there is no program no-such-policy on PATH"
    ]


def test_lists_are_kept_by_one_program(tmp_path: Path) -> None:
    off = {"ORLY_OWNERS": KEYS[0], "ORLY_LAUNCHER_ACL_ENABLED": "false"}
    (line,) = refused(tmp_path, 78, **off)
    assert line.startswith(
        "ORLY_LAUNCHER_ACL_ENABLED=false, but there are owners, admins or a mode: each program would"
    )
    assert refused(tmp_path, 78, ORLY_ADMINS=KEYS[0], ORLY_LAUNCHER_ACL_ENABLED="false") == [line]
    assert refused(tmp_path, 78, ORLY_OWNERS=KEYS[0], ORLY_ACL_MODE="managed", ORLY_LAUNCHER_ACL_ENABLED="0") == [line]
    for elsewhere in ({"ORLY_ACL_TYPE": "grpc"}, {"ORLY_GRPC_ACL_SERVER": "127.0.0.1:9"}):
        done = run(tmp_path, "--check", **given(tmp_path, **elsewhere, **off))
        assert done.returncode == 0, done.stderr
    here = {"ORLY_ACL_TYPE": "local", "ORLY_GRPC_ACL_SERVER": "127.0.0.1:9"}
    assert refused(tmp_path, 78, **here, **off) == [line]


ALL = {
    "ORLY_OWNERS": KEYS[0],
    "ORLY_LAUNCHER_SYNC_NEGENTROPY_ENABLED": "true",
    "ORLY_LISTEN": "127.0.0.1",
    "ORLY_PORT": "50001",
    "ORLY_DB_LISTEN": "127.0.0.1:50002",
    "ORLY_ACL_LISTEN": "127.0.0.1:50003",
    "ORLY_SYNC_NEGENTROPY_LISTEN": "127.0.0.1:50004",
}
"""Every program, each at an address of its own."""


def shared(**variables: str) -> list[str]:
    """What is said of these addresses, apart from what listens on this machine."""
    problems = find_problems(load_with(ORLY_DATA_DIR="/tmp/orly-test-addresses", **(ALL | variables)).settings)
    return [problem.text for problem in problems if "cannot both listen" in problem.text]


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        (
            {"ORLY_ACL_LISTEN": "127.0.0.1:50002"},
            "ORLY_DB_LISTEN=127.0.0.1:50002 and ORLY_ACL_LISTEN=127.0.0.1:50002: orly-db and orly-acl",
        ),
        (
            {"ORLY_ACL_LISTEN": "localhost:50004"},
            "ORLY_ACL_LISTEN=localhost:50004 and ORLY_SYNC_NEGENTROPY_LISTEN=127.0.0.1:50004: orly-acl and "
            "orly-sync-negentropy",
        ),
        (
            {"ORLY_DB_LISTEN": "unix:/run/s", "ORLY_ACL_LISTEN": "unix:/run/s"},
            "ORLY_DB_LISTEN=unix:/run/s and ORLY_ACL_LISTEN=unix:/run/s: orly-db and orly-acl",
        ),
        (
            {"ORLY_LISTEN": "0.0.0.0", "ORLY_PORT": "50003"},
            "ORLY_ACL_LISTEN=127.0.0.1:50003 and ORLY_LISTEN=0.0.0.0 ORLY_PORT=50003: orly-acl and orly",
        ),
        (
            {"ORLY_LISTEN": "::", "ORLY_HEALTH_PORT": "50002"},
            "ORLY_DB_LISTEN=127.0.0.1:50002 and ORLY_LISTEN=:: ORLY_HEALTH_PORT=50002: orly-db and orly",
        ),
    ],
)
def test_two_programs_cannot_have_one_address(variables: dict[str, str], line: str) -> None:
    assert shared(**variables) == [f"{line} cannot both listen there"]


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"ORLY_PORT": "0"},
        {"ORLY_ACL_LISTEN": "127.0.0.2:50002"},
        {"ORLY_DB_LISTEN": "unix:/run/1", "ORLY_ACL_LISTEN": "unix:/run/2"},
        {"ORLY_ACL_LISTEN": "127.0.0.1:50002", "ORLY_OWNERS": ""},
    ],
)
def test_addresses_that_differ_or_are_not_used_are_no_problem(variables: dict[str, str]) -> None:
    assert shared(**variables) == []


def test_one_address_for_two_programs_is_refused_before_anything_starts(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    for arguments in ((), ("--check",)):
        (line,) = refused(
            tmp_path, 78, *arguments, ORLY_OWNERS=KEYS[0], ORLY_DB_LISTEN=address, ORLY_ACL_LISTEN=address
        )
        assert line.endswith("orly-db and orly-acl cannot both listen there")


@pytest.mark.parametrize("variable", ["ORLY_PORT", "ORLY_HEALTH_PORT", "ORLY_DB_LISTEN"])
def test_a_port_in_use_is_named(tmp_path: Path, variable: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        value = f"127.0.0.1:{port}" if variable == "ORLY_DB_LISTEN" else str(port)
        who = "orly-db" if variable == "ORLY_DB_LISTEN" else "orly"
        assert refused(tmp_path, 69, **{variable: value}) == [
            f"{who} cannot listen on 127.0.0.1:{port}: another process already does"
        ]


def test_an_address_of_another_machine_is_named(tmp_path: Path) -> None:
    assert refused(tmp_path, 69, ORLY_LISTEN="192.0.2.1", ORLY_PORT="3334") == [
        "orly cannot listen on 192.0.2.1:3334: this machine has no such address"
    ]
    assert refused(tmp_path, 69, ORLY_LISTEN="192.0.2.1", ORLY_PORT="0") == [
        "orly cannot listen on 192.0.2.1:0: this machine has no such address"
    ]


def test_a_unix_socket_in_use_is_named(tmp_path: Path) -> None:
    path = tmp_path / "db.sock"
    with socket.socket(socket.AF_UNIX) as taken:
        taken.bind(str(path))
        taken.listen()
        assert refused(tmp_path, 69, ORLY_DB_LISTEN=f"unix:{path}") == [
            f"orly-db cannot listen on unix:{path}: another process already does"
        ]
    done = run(tmp_path, "--check", **given(tmp_path, ORLY_DB_LISTEN=f"unix:{path}"))
    assert done.returncode == 0, done.stderr  # left behind: nobody listens any more
    assert refused(tmp_path, 78, ORLY_DB_LISTEN=f"unix:{tmp_path}/no/db.sock") == [
        f"orly-db cannot listen on unix:{tmp_path}/no/db.sock: {tmp_path}/no is no directory"
    ]


def test_certificates_are_looked_at(tmp_path: Path) -> None:
    lines = refused(tmp_path, 78, ORLY_GRPC_TLS="mtls", ORLY_GRPC_TLS_CA=str(tmp_path / "ca.pem"))
    assert len(lines) == len(set(lines))
    for name in ("CA", "CERT", "KEY", "CLIENT_CERT", "CLIENT_KEY"):
        assert [line for line in lines if line.startswith((f"ORLY_GRPC_TLS_{name} ", f"ORLY_GRPC_TLS_{name}="))]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a directory that belongs to somebody else")
def test_a_directory_without_permission_is_named(tmp_path: Path) -> None:
    import subprocess

    from tests.appliance.launcher import LAUNCHER
    from tests.process import clean_environment

    tmp_path.chmod(0o755)
    done = subprocess.run(
        ["setpriv", "--bounding-set=-dac_override", "--inh-caps=-all", LAUNCHER, "--check"],
        env=clean_environment(
            tmp_path,
            given(tmp_path, ORLY_DATA_DIR="/proc/orly/data", ORLY_RUN_DIR="/sys/orly"),
        ),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 78
    assert done.stderr.splitlines() == [
        "orly-launcher: the data directory /proc/orly/data cannot be made by user 0: no permission in /proc",
        "orly-launcher: the run directory /sys/orly cannot be made by user 0: no permission in /sys",
    ]


def test_a_check_starts_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    done = run(tmp_path, "--check", **given(tmp_path))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not (tmp_path / "run").exists()


def test_one_launcher_for_each_run_directory(tmp_path: Path) -> None:
    with launching(tmp_path, FAKES) as launcher:
        launcher.await_line("orly INFO  fake | ready")
        second = run(tmp_path, **given(tmp_path))
        assert second.returncode == 69
        assert second.stderr == f"orly-launcher: another orly-launcher runs with the run directory {launcher.run_dir}\n"
        launcher.child.kill()
        launcher.child.wait()
    with launching(tmp_path, FAKES) as again:  # what was left behind is no hindrance
        again.await_line("orly INFO  fake | ready")
        assert again.stop() == 0


def test_without_a_run_directory_it_makes_one_and_removes_it(tmp_path: Path) -> None:
    with launching(tmp_path, FAKES, ORLY_RUN_DIR="", TMPDIR=str(tmp_path)) as launcher:
        launcher.await_line("orly INFO  fake | ready")
        (made,) = tmp_path.glob("orly-*")
        assert made.stat().st_mode & 0o777 == 0o700
        assert launcher.stop() == 0
        assert not made.exists()


def test_a_run_directory_of_somebody_else_is_not_trusted(tmp_path: Path) -> None:
    with launching(tmp_path, FAKES, ORLY_RUN_DIR="", TMPDIR=str(tmp_path)) as launcher:
        launcher.await_line("orly INFO  fake | ready")
        (made,) = tmp_path.glob("orly-*")
        launcher.child.send_signal(signal.SIGTERM)
        assert launcher.await_exit() == 0
    made.mkdir(mode=0o777)
    made.chmod(0o777)
    done = run(tmp_path, **given(tmp_path, ORLY_RUN_DIR="", TMPDIR=str(tmp_path)))
    assert done.returncode == 78
    assert done.stderr == (
        f"orly-launcher: the run directory {made} belongs to somebody else: name another in ORLY_RUN_DIR\n"
    )


@pytest.mark.parametrize("argument", ["--help", "-h", "--version"])
def test_help_needs_no_settings(tmp_path: Path, argument: str) -> None:
    done = run(tmp_path, argument, ORLY_NONSENSE="1")
    assert done.returncode == 0
    assert "orly-launcher" in done.stdout


def test_unknown_arguments_are_wrong_usage(tmp_path: Path) -> None:
    done = run(tmp_path, "--serve")
    assert done.returncode == 2
    assert "unrecognized arguments: --serve" in done.stderr
