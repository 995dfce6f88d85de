"""The launcher with `orly-sync-negentropy`: order, health, crashes, and what clients notice of them."""

import asyncio
import json
import os
import signal
import socket
from pathlib import Path

import pytest
from tests.appliance.launcher import DEADLINE_S, Launcher, launcher_variables, launching, run
from tests.appliance.test_real import await_ready, healthcheck, publish, received, status
from tests.factory import make_event
from tests.process import free_port, running_relay
from websockets.asyncio.client import ClientConnection, connect

from orly.negentropy import Initiator, ItemSet

SERVE = [["own", "ready"], ["serve"]]
SYNC = "orly-sync-negentropy"
ON = {"ORLY_LAUNCHER_SYNC_NEGENTROPY_ENABLED": "true"}


def with_sync(**variables: str) -> dict[str, str]:
    """Variables that run the service on a free port."""
    return {**ON, "ORLY_SYNC_NEGENTROPY_LISTEN": f"127.0.0.1:{free_port()}", **variables}


def await_sync(launcher: Launcher, *, count: int = 1) -> None:
    """Returns when the service listens, for the n-th time."""
    launcher.await_line(f" {SYNC} INFO  sync.negentropy.run_service | listening on ", count=count)


async def reconcile(client: ClientConnection) -> list[object]:
    """The answer to a first NEG message of who has nothing."""
    await client.send(json.dumps(["NEG-OPEN", "n", {}, Initiator(ItemSet.from_rows(b"")).initiate().hex()]))
    while (answer := await received(client))[0] not in ("NEG-MSG", "NEG-ERR"):
        pass
    return answer


def test_it_stands_between_the_store_and_the_workers(tmp_path: Path) -> None:
    with launching(tmp_path, None, **with_sync(ORLY_RELAY_WORKERS="2")) as launcher:
        workers = ("orly-0", "orly-1")
        await_ready(launcher, workers)
        await_sync(launcher)
        launcher.await_until(lambda: healthcheck(launcher) == (0, []) or None, "good health")
        code, rows, errors = status(launcher, tmp_path)
        assert (code, errors) == (0, "")
        assert [(row[0], row[1], row[4]) for row in rows[1:]] == [
            (name, "up", "ok") for name in ("orly-db", SYNC, *workers)
        ]
        assert launcher.stop() == 0
        logs = launcher.logs()
        starts = [logs.index(f"| {name} started, pid ") for name in ("orly-db", SYNC, *workers)]
        assert starts == sorted(starts)
        assert logs.index(f" {SYNC} INFO  main | waiting for orly-db") > 0
        for worker in workers:
            assert logs.index(f" {worker} INFO  main | stopped") < logs.index(f" {SYNC} INFO  main | SIGTERM")
        assert logs.index(f" {SYNC} INFO  main | stopped") < logs.index(" orly-db INFO  main | SIGTERM")
        assert "Traceback" not in logs


def test_a_crash_of_it_leaves_the_others_alone(tmp_path: Path) -> None:
    with launching(tmp_path, None, **with_sync(ORLY_GRPC_SYNC_TIMEOUT="100ms", ORLY_QUERY_TIMEOUT="1s")) as launcher:
        url = await_ready(launcher)
        await_sync(launcher)
        asyncio.run(_crash_it(launcher, url))
        await_sync(launcher, count=2)
        launcher.await_until(lambda: healthcheck(launcher) == (0, []) or None, "good health")
        assert launcher.stop() == 0
        assert launcher.logs().count("| orly started, pid ") == 1
        assert launcher.logs().count("| orly-db started, pid ") == 1


async def _crash_it(launcher: Launcher, url: str) -> None:
    async with asyncio.timeout(DEADLINE_S), connect(url) as client:
        assert (await publish(client, make_event(content="before")))[1] is True
        assert (await reconcile(client))[0] == "NEG-MSG"
        pid = launcher.pid_of(SYNC)
        os.kill(pid, signal.SIGSTOP)  # away for as long as the test likes
        refusal = await reconcile(client)
        assert refusal[0] == "NEG-ERR"
        assert str(refusal[2]).startswith("error: ")
        assert (await publish(client, make_event(content="meanwhile")))[1] is True
        os.kill(pid, signal.SIGKILL)
        while (await reconcile(client))[0] != "NEG-MSG":
            pass


def test_a_service_that_stands_still_is_not_well(tmp_path: Path) -> None:
    with launching(tmp_path, None, **with_sync()) as launcher:
        await_ready(launcher)
        await_sync(launcher)
        pid = launcher.pid_of(SYNC)
        os.kill(pid, signal.SIGSTOP)
        try:
            code, lines = healthcheck(launcher)
        finally:
            os.kill(pid, signal.SIGCONT)
        assert (code, lines) == (
            1,
            [f"{SYNC}: no answer from {launcher.variables['ORLY_SYNC_NEGENTROPY_LISTEN']} within 3 s"],
        )


def test_what_it_pulls_reaches_the_clients_of_the_workers(tmp_path: Path) -> None:
    with running_relay(ORLY_NEGENTROPY_ENABLED="true") as peer:
        variables = with_sync(
            ORLY_RELAY_WORKERS="2", ORLY_SYNC_NEGENTROPY_PEERS=peer.url, ORLY_SYNC_NEGENTROPY_INTERVAL="1s"
        )
        with launching(tmp_path, None, **variables) as launcher:
            url = await_ready(launcher, ("orly-0", "orly-1"))
            asyncio.run(_pulled(launcher, url, peer.url))
            launcher.await_until(lambda: healthcheck(launcher) == (0, []) or None, "good health")
            assert launcher.logs().count(f"| {SYNC} started, pid ") == 1
            assert launcher.stop() == 0


async def _pulled(launcher: Launcher, url: str, peer_url: str) -> None:
    note, later = make_event(content="from afar"), make_event(content="while the store is away")
    async with asyncio.timeout(DEADLINE_S), connect(url) as reader, connect(peer_url) as writer:
        await reader.send('["REQ","live",{"limit":0}]')
        assert await received(reader) == ["EOSE", "live"]
        assert (await publish(writer, note))[1] is True
        assert (await received(reader))[2]["id"] == note.event.id  # type: ignore[index]
        os.kill(launcher.pid_of("orly-db"), signal.SIGKILL)
        assert (await publish(writer, later))[1] is True
        assert (await received(reader))[2]["id"] == later.event.id  # type: ignore[index]


def test_children_are_told_of_it(tmp_path: Path) -> None:
    scripts = {"orly-db": SERVE, SYNC: SERVE, "orly": [["environment"], ["serve"]]}
    with launching(tmp_path, scripts, **with_sync(**_fake_binary(tmp_path))) as launcher:
        launcher.await_line(" orly INFO  fake | {")
        told = json.loads(launcher.messages("orly")[0])
        given = launcher.variables
        assert told["ORLY_NEGENTROPY_ENABLED"] == "true"
        assert (told["ORLY_SYNC_TYPE"], told["ORLY_GRPC_SYNC_NEGENTROPY"]) == (
            "grpc",
            given["ORLY_SYNC_NEGENTROPY_LISTEN"],
        )
        assert told["ORLY_SYNC_NEGENTROPY_DB_TYPE"] == "grpc"
        assert told["ORLY_SYNC_NEGENTROPY_DB_SERVER"] == given["ORLY_DB_LISTEN"]


def test_what_was_forbidden_stays_so_and_what_has_no_effect_is_said(tmp_path: Path) -> None:
    scripts = {"orly-db": SERVE, SYNC: SERVE, "orly": [["environment"], ["serve"]]}
    variables = with_sync(
        ORLY_NEGENTROPY_ENABLED="false",
        ORLY_GRPC_SYNC_NEGENTROPY="127.0.0.1:9",
        ORLY_SYNC_NEGENTROPY_DB_SERVER="127.0.0.1:9",
        ORLY_SYNC_NEGENTROPY_DB_TYPE="local",
        ORLY_SYNC_TYPE="local",
        **_fake_binary(tmp_path),
    )
    with launching(tmp_path, scripts, **variables) as launcher:
        launcher.await_line(" orly INFO  fake | {")
        told = json.loads(launcher.messages("orly")[0])
        assert told["ORLY_NEGENTROPY_ENABLED"] == "false"
        assert told["ORLY_GRPC_SYNC_NEGENTROPY"] == launcher.variables["ORLY_SYNC_NEGENTROPY_LISTEN"]
        for name in ("ORLY_GRPC_SYNC_NEGENTROPY", "ORLY_SYNC_NEGENTROPY_DB_SERVER"):
            launcher.await_line(f"{name}=127.0.0.1:9 has no effect here")
        for name in ("ORLY_SYNC_TYPE", "ORLY_SYNC_NEGENTROPY_DB_TYPE"):
            launcher.await_line(f"{name}=local has no effect here")


def _fake_binary(tmp_path: Path) -> dict[str, str]:
    return {"ORLY_LAUNCHER_SYNC_NEGENTROPY_BINARY": str(tmp_path / "fake-program")}


@pytest.mark.parametrize("is_on", [True, False])
def test_it_is_rendered_only_when_it_is_on(tmp_path: Path, is_on: bool) -> None:
    done = run(tmp_path, "--render-only", ORLY_DATA_DIR=str(tmp_path / "data"), **(ON if is_on else {}))
    assert done.returncode == 0, done.stderr
    assert (f"[program:{SYNC}]" in done.stdout) is is_on


def test_what_keeps_it_from_running_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        given = {
            **ON,
            "ORLY_LAUNCHER_SYNC_NEGENTROPY_BINARY": str(missing),
            "ORLY_SYNC_NEGENTROPY_LISTEN": address,
        }
        done = run(tmp_path, "--check", **launcher_variables(tmp_path, None, given))
    assert done.returncode == 78
    assert [line.removeprefix("orly-launcher: ") for line in done.stderr.splitlines()] == [
        f"ORLY_LAUNCHER_SYNC_NEGENTROPY_BINARY={missing}: No such file or directory",
        f"{SYNC} cannot listen on {address}: another process already does",
    ]
