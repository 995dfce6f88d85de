"""The real services under the real launcher: readiness, health, crashes, and what clients notice of them."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.appliance.launcher import DEADLINE_S, Launcher, is_alive, launcher_variables, launching, run
from tests.factory import event_json, make_event
from tests.process import ORLY, ORLY_DB, clean_environment
from websockets.asyncio.client import ClientConnection, connect

from orly.nostr.event import EncodedEvent

SERVE = [["own", "ready"], ["serve"]]


def await_ready(launcher: Launcher, workers: Sequence[str] = ("orly",), *, count: int = 1) -> str:
    """The relay's URL, once every worker listens."""
    lines = [launcher.await_line(f" {worker} INFO  main | listening on ws://", count=count) for worker in workers]
    return lines[0].rpartition(" ")[2]


def healthcheck(launcher: Launcher, **variables: str) -> tuple[int, list[str]]:
    """Exit status and lines of the container's health check."""
    done = subprocess.run(
        [sys.executable, "-m", "orly.appliance.healthcheck"],
        env=clean_environment(launcher.run_dir, {"ORLY_RUN_DIR": str(launcher.run_dir), **variables}),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.stderr == ""
    return done.returncode, done.stdout.splitlines()


def status(launcher: Launcher, directory: Path) -> tuple[int, list[list[str]], str]:
    """Exit status, cells and errors of `orly status`."""
    done = subprocess.run(
        [ORLY, "status"],
        env=clean_environment(directory, launcher.variables),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    return done.returncode, [line.split(None, 4) for line in done.stdout.splitlines()], done.stderr


async def publish(client: ClientConnection, event: EncodedEvent) -> list[object]:
    """Sends an event; returns the relay's answer to it."""
    await client.send(f'["EVENT",{event_json(event).decode()}]')
    async with asyncio.timeout(DEADLINE_S):
        while True:
            answer = json.loads(await client.recv())
            if answer[0] == "OK":
                assert isinstance(answer, list)
                return answer[1:]


async def received(client: ClientConnection) -> list[object]:
    """The next message."""
    async with asyncio.timeout(DEADLINE_S):
        answer = json.loads(await client.recv())
    assert isinstance(answer, list)
    return answer


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """While this runs, a process stands still."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_ready_in_order_well_and_gone_in_reverse(tmp_path: Path) -> None:
    workers = ("orly-0", "orly-1")
    with launching(tmp_path, ORLY_RELAY_WORKERS="2") as launcher:
        await_ready(launcher, workers)
        logs = launcher.logs()
        for worker in workers:
            assert logs.index(" orly-db INFO  db.run | listening on") < logs.index(f" {worker} INFO  main | listening")
        assert healthcheck(launcher) == (0, [])
        code, rows, errors = status(launcher, tmp_path)
        assert (code, errors) == (0, "")
        assert [(row[0], row[1], row[4]) for row in rows] == [
            ("PROCESS", "STATE", "HEALTH"),
            *((name, "up", "ok") for name in ("orly-db", *workers)),
        ]
        assert launcher.stop() == 0
        logs = launcher.logs()
        for worker in workers:
            assert logs.index(f" {worker} INFO  main | stopped") < logs.index(" orly-db INFO  main | SIGTERM: stopping")
        assert logs.index(" orly-db INFO  main | stopped") < logs.index("appliance.supervisor | stopped\n")
        assert "Traceback" not in logs
        assert healthcheck(launcher) == (1, [f"no orly-launcher runs with the run directory {launcher.run_dir}"])
        assert status(launcher, tmp_path)[0] == 1


def test_a_slow_store_is_waited_for(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    slow = tmp_path / "slow-db"
    slow.write_text(f'#!/bin/sh\nwhile [ ! -e "{gate}" ]; do sleep 0.01; done\nexec "{ORLY_DB}"\n')
    slow.chmod(0o755)
    with launching(tmp_path, ORLY_LAUNCHER_DB_BINARY=str(slow)) as launcher:
        launcher.await_line(" orly INFO  main | waiting for orly-db")
        code, lines = healthcheck(launcher)
        assert code == 1
        assert sorted(line.partition(":")[0] for line in lines) == ["orly", "orly-db"]
        gate.touch()
        await_ready(launcher)
        assert healthcheck(launcher) == (0, [])
        assert launcher.stop() == 0


def test_a_store_that_never_comes_ends_everything_by_name(tmp_path: Path) -> None:
    scripts = {"orly-db": SERVE}
    variables = launcher_variables(tmp_path, scripts, {})
    del variables["ORLY_LAUNCHER_RELAY_BINARY"]
    with launching(tmp_path, None, ORLY_LAUNCHER_DB_READY_TIMEOUT="1s", **variables) as launcher:
        assert launcher.await_exit() == 69
        (why,) = [text for text in launcher.messages("orly") if text.startswith("orly: ")]
        assert why.startswith(f"orly: waited 1 s for orly-db at {variables['ORLY_DB_LISTEN']}")
        assert "orly left with exit status 69: something it needs is in use or out of reach; everything is stopped" in (
            launcher.messages()
        )


def test_each_service_recovers_and_clients_keep_their_sockets(tmp_path: Path) -> None:
    with launching(tmp_path, ORLY_RELAY_WORKERS="2") as launcher:
        url = await_ready(launcher, ("orly-0", "orly-1"))
        asyncio.run(_crash_the_store(launcher, url))
        for worker in ("orly-0", "orly-1"):
            pid = launcher.pid_of(worker)
            os.kill(pid, signal.SIGKILL)
            await_ready(launcher, (worker,), count=2)
        launcher.await_until(lambda: healthcheck(launcher) == (0, []) or None, "good health")
        assert is_alive(launcher.pid_of("orly-db", count=2))
        assert launcher.stop() == 0


async def _crash_the_store(launcher: Launcher, url: str) -> None:
    before, after = make_event(1, content="before"), make_event(1, content="after")
    async with connect(url) as reader, connect(url) as writer:
        await reader.send('["REQ","all",{}]')
        assert await received(reader) == ["EOSE", "all"]
        assert (await publish(writer, before))[1] is True
        assert (await received(reader))[2]["content"] == "before"  # type: ignore[index]
        os.kill(launcher.pid_of("orly-db"), signal.SIGKILL)
        while (answer := await publish(writer, after))[1] is not True:  # away for longer than it waits
            assert str(answer[2]).startswith("error:")
        assert (await received(reader))[2]["content"] == "after"  # type: ignore[index]


def test_a_service_that_stands_still_is_not_well(tmp_path: Path) -> None:
    with launching(tmp_path, ORLY_RELAY_WORKERS="2") as launcher:
        await_ready(launcher, ("orly-0", "orly-1"))
        with stopped(launcher.pid_of("orly-db")):
            code, lines = healthcheck(launcher)
            address = launcher.variables["ORLY_DB_LISTEN"]
            assert code == 1
            assert f"orly-db: no answer from {address} within 3 s" in lines
        with stopped(launcher.pid_of("orly-1")):
            code, lines = healthcheck(launcher)
            assert code == 1
            assert [line.partition(":")[0] for line in lines] == ["orly-0", "orly-1"]
            code, rows, _ = status(launcher, tmp_path)
            assert code == 1
            assert [(row[0], row[4] == "ok") for row in rows[1:]] == [
                ("orly-db", True),
                ("orly-0", False),
                ("orly-1", False),
            ]
        launcher.await_until(lambda: healthcheck(launcher) == (0, []) or None, "good health")
        assert launcher.stop() == 0


@pytest.mark.parametrize("place", ["environment", "file", ".env"])
def test_health_over_mutual_tls_with_a_token(tmp_path: Path, place: str) -> None:
    certs = tmp_path / "certs"
    subprocess.run([ORLY, "certs", certs], env=clean_environment(tmp_path, {}), check=True, capture_output=True)
    token = "a-token-that-nobody-guesses"
    given = {}
    match place:
        case "environment":
            given = {"ORLY_GRPC_TOKEN": token}
        case "file":
            (tmp_path / "token").write_text(f"{token}\n")
            given = {"ORLY_GRPC_TOKEN_FILE": str(tmp_path / "token")}
        case ".env":
            (tmp_path / ".config/ORLY").mkdir(parents=True)
            (tmp_path / ".config/ORLY/.env").write_text(f"ORLY_GRPC_TOKEN='{token}'\n")
    tls = {
        "ORLY_GRPC_TLS": "mtls",
        "ORLY_GRPC_TLS_CA": str(certs / "ca.pem"),
        "ORLY_GRPC_TLS_CERT": str(certs / "server.pem"),
        "ORLY_GRPC_TLS_KEY": str(certs / "server.key"),
        "ORLY_GRPC_TLS_CLIENT_CERT": str(certs / "client.pem"),
        "ORLY_GRPC_TLS_CLIENT_KEY": str(certs / "client.key"),
    }
    with launching(tmp_path, None, **tls, **given) as launcher:
        await_ready(launcher)
        assert healthcheck(launcher, **given) == (0, [])
        assert token not in "".join(path.read_text() for path in launcher.run_dir.iterdir())
        if place == "environment":
            assert healthcheck(launcher) == (
                1,
                ["orly-db: ORLY_GRPC_TOKEN is not set here, but the launcher has it from environment"],
            )
            wrong = healthcheck(launcher, ORLY_GRPC_TOKEN="another-token-of-some-length")
            assert wrong[0] == 1
            assert "UNAUTHENTICATED" in wrong[1][0]
        assert launcher.stop() == 0


def test_a_unix_socket_serves_as_well(tmp_path: Path) -> None:
    with launching(tmp_path, ORLY_DB_LISTEN=f"unix:{tmp_path}/db.sock") as launcher:
        await_ready(launcher)
        assert healthcheck(launcher) == (0, [])
        assert launcher.stop() == 0


def test_a_directory_that_somebody_uses_is_named(tmp_path: Path) -> None:
    with launching(tmp_path) as first:
        await_ready(first)
        other = tmp_path / "other"
        other.mkdir()
        done = run(other, **launcher_variables(other, None, {"ORLY_DATA_DIR": first.variables["ORLY_DATA_DIR"]}))
        assert done.returncode == 69
        assert "orly-db left with exit status 69" in done.stdout
        assert first.variables["ORLY_DATA_DIR"] in done.stdout.partition("left with exit status 69")[0]
        assert first.stop() == 0
