"""`orly-sync-negentropy` and `orly` with peers, as processes: how they start, sync in the background, and stop."""

import asyncio
import json
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import pytest
from tests.component.async_test import async_test
from tests.component.relay_client import NostrClient
from tests.factory import make_event
from tests.process import (
    ORLY_SYNC,
    Program,
    RelayProcess,
    clean_environment,
    free_port,
    running_db,
    running_relay,
    running_sync,
    running_worker,
)
from tests.wsclient import connect, http, until

from orly import __version__
from orly.negentropy import Initiator, ItemSet
from orly.nostr.event import EncodedEvent

DEADLINE_S = 30.0
QUICK_STOP_S = 10.0
SOON = {"ORLY_SYNC_NEGENTROPY_INTERVAL": "1s"}
"""Rounds follow each other as quickly as the settings allow."""


def run_sync(tmp_path: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs the program to its end, which must come by itself."""
    given = {
        "ORLY_DATA_DIR": str(tmp_path / "data"),
        "ORLY_SYNC_NEGENTROPY_LISTEN": f"unix:{tmp_path}/sync",
        **variables,
    }
    return subprocess.run(
        [ORLY_SYNC, *arguments],
        env=clean_environment(tmp_path, given),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=DEADLINE_S,
        text=True,
        check=False,
    )


@asynccontextmanager
async def client_of(relay: RelayProcess) -> AsyncIterator[NostrClient]:
    async with connect(relay.url) as socket:
        yield NostrClient(socket)


def events(name: str, count: int) -> list[EncodedEvent]:
    """Notes that no other name has."""
    return [make_event(content=f"{name} {number}") for number in range(count)]


def ids_of(*lists: list[EncodedEvent]) -> list[str]:
    return sorted(event.event.id for each in lists for event in each)


async def holds(relay: RelayProcess, wanted: list[str]) -> None:
    """Waits until a relay has exactly these events."""
    async with client_of(relay) as client, asyncio.timeout(DEADLINE_S):
        while sorted(await client.request("all", {"limit": 5000})) != wanted:
            await client.send("CLOSE", "all")
            await asyncio.sleep(0.05)


async def logged(program: Program, text: str) -> None:
    """Waits until a program has logged this."""
    await until(lambda: text in program.logs(), text)


async def reconcile(client: NostrClient) -> list[str]:
    """The answer to a first NEG message of who has nothing."""
    await client.send("NEG-OPEN", "n", {}, Initiator(ItemSet.from_rows(b"")).initiate().hex())
    answer = await client.take(lambda message: message[0] in ("NEG-MSG", "NEG-ERR"))
    return list(map(str, answer))


# The program


def test_help_is_printed(tmp_path: Path) -> None:
    done = run_sync(tmp_path, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: orly-sync-negentropy ")
    for word in ("ORLY_SYNC_NEGENTROPY_LISTEN", "69", "70", "78"):
        assert word in done.stdout
    assert not (tmp_path / "data").exists()


def test_its_version_is_printed(tmp_path: Path) -> None:
    done = run_sync(tmp_path, "--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"orly-sync-negentropy {__version__}\n", "")


def test_what_it_does_not_know_is_wrong_usage(tmp_path: Path) -> None:
    done = run_sync(tmp_path, "serve")
    assert done.returncode == 2
    assert "serve" in done.stderr


def test_all_wrong_settings_are_listed_and_nothing_is_opened(tmp_path: Path) -> None:
    done = run_sync(
        tmp_path,
        ORLY_SYNC_NEGENTROPY_PEERS="gopher://x",
        ORLY_SYNC_NEGENTROPY_DIRECTION="sideways",
        ORLY_SYNC_NEGENTROPY_FILTER="{",
    )
    assert done.returncode == 78
    assert len(done.stderr.splitlines()) == 3
    assert all(line.startswith("orly-sync-negentropy: ORLY_SYNC_NEGENTROPY_") for line in done.stderr.splitlines())
    assert not (tmp_path / "data").exists()


def test_a_write_plugin_that_cannot_be_run_is_a_wrong_setting(tmp_path: Path) -> None:
    done = run_sync(tmp_path, ORLY_WRITE_PLUGIN="/nonexistent/policy")
    assert done.returncode == 78
    assert "orly-sync-negentropy: ORLY_WRITE_PLUGIN=/nonexistent/policy: No such file or directory\n" in done.stderr
    assert not (tmp_path / "data").exists()


def test_a_store_that_never_comes_is_named(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    done = run_sync(
        tmp_path,
        ORLY_SYNC_NEGENTROPY_DB_TYPE="grpc",
        ORLY_SYNC_NEGENTROPY_DB_SERVER=address,
        ORLY_LAUNCHER_DB_READY_TIMEOUT="1s",
    )
    assert done.returncode == 69
    assert f"orly-sync-negentropy: waited 1 s for orly-db at {address}" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        done = run_sync(tmp_path, ORLY_SYNC_NEGENTROPY_LISTEN=address)
    assert done.returncode == 69
    assert f"cannot listen on {address}: another process already does" in done.stderr


def test_a_data_directory_in_use_is_named(tmp_path: Path) -> None:
    with running_relay() as relay:
        done = run_sync(tmp_path, ORLY_DATA_DIR=str(relay.data_dir))
    assert done.returncode == 69
    assert f"(pid {relay.pid})" in done.stderr


def test_peers_that_cannot_be_read_are_a_thing_to_change(tmp_path: Path) -> None:
    path = tmp_path / "data/sync/negentropy.json"
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    done = run_sync(tmp_path)
    assert done.returncode == 78
    assert f"{path} is damaged" in done.stderr


@pytest.mark.parametrize(
    ("levels", "is_heard"),
    [
        ({"ORLY_LOG_LEVEL": "info"}, True),
        ({"ORLY_LOG_LEVEL": "info", "ORLY_SYNC_NEGENTROPY_LOG_LEVEL": "warn"}, False),
    ],
)
def test_its_own_log_level_counts_before_the_common_one(levels: dict[str, str], is_heard: bool) -> None:
    peer = f"ws://127.0.0.1:{free_port()}"
    with tempfile.TemporaryDirectory(prefix="orly-test-") as home:
        given = {"ORLY_SYNC_NEGENTROPY_LISTEN": f"unix:{home}/s", "ORLY_SYNC_NEGENTROPY_PEERS": peer, **levels}
        child = subprocess.Popen(
            [ORLY_SYNC],
            env=clean_environment(Path(home), given),
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert child.stderr is not None
            lines = [child.stderr.readline()]
            while "cannot be reached" not in lines[-1]:
                lines.append(child.stderr.readline())
                assert lines[-1], lines
            child.terminate()
            child.communicate(timeout=DEADLINE_S)
        finally:
            if child.poll() is None:
                child.kill()
                child.communicate()
    assert child.returncode == 0
    assert ("syncing with 1 peers every 60 s" in "".join(lines)) == is_heard


def test_a_peer_that_never_answers_does_not_hold_up_a_stop() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        peer = f"ws://127.0.0.1:{silent.getsockname()[1]}"
        with running_sync(ORLY_SYNC_NEGENTROPY_PEERS=peer) as program:
            connection, _ = silent.accept()
            with connection:
                assert program.stop(within_s=DEADLINE_S) < QUICK_STOP_S


# Background sync by the service


@async_test
async def test_a_service_on_its_own_store_syncs_both_ways_and_in_the_directions_of_its_settings(tmp_path: Path) -> None:
    ours, theirs = events("ours", 30), events("theirs", 20)
    with running_relay(ORLY_DATA_DIR=str(tmp_path / "data")) as own:
        async with client_of(own) as client:
            await client.accept(*ours)
    with running_relay(ORLY_NEGENTROPY_ENABLED="true") as peer:
        async with client_of(peer) as client:
            await client.accept(*theirs)
        variables = {"ORLY_DATA_DIR": str(tmp_path / "data"), "ORLY_SYNC_NEGENTROPY_PEERS": peer.url}
        with running_sync(**variables, ORLY_SYNC_NEGENTROPY_DIRECTION="down") as program:
            await logged(program, "fetched 20, sent 0")
        await holds(peer, ids_of(theirs))
        with running_sync(**variables) as program:
            await logged(program, "fetched 0, sent 30")
        await holds(peer, ids_of(ours, theirs))
    with running_relay(ORLY_DATA_DIR=str(tmp_path / "data")) as own:
        await holds(own, ids_of(ours, theirs))


@pytest.mark.parametrize("reads_directly", [True, False], ids=["split", "remote"])
@async_test
async def test_what_the_service_pulls_reaches_live_subscribers(reads_directly: bool) -> None:
    with ExitStack() as stack:
        peer = stack.enter_context(running_relay(ORLY_NEGENTROPY_ENABLED="true"))
        db = stack.enter_context(running_db())
        shared = {"ORLY_DATA_DIR": str(db.data_dir)} if reads_directly else {}
        program = stack.enter_context(
            running_sync(
                ORLY_DB_TYPE="lmdb",  # its own settings count
                ORLY_GRPC_SERVER=f"127.0.0.1:{free_port()}",
                ORLY_SYNC_NEGENTROPY_DB_TYPE="grpc",
                ORLY_SYNC_NEGENTROPY_DB_SERVER=db.address,
                ORLY_DB_DIRECT_READ=str(reads_directly).lower(),
                ORLY_SYNC_NEGENTROPY_PEERS=peer.url,
                **shared,
                **SOON,
            )
        )
        worker = stack.enter_context(
            running_worker(
                db,
                reads_directly=reads_directly,
                ORLY_NEGENTROPY_ENABLED="true",
                ORLY_GRPC_SYNC_NEGENTROPY=program.address,
            )
        )
        async with client_of(worker) as reader, client_of(peer) as writer:
            assert await reader.request("live", {}) == []
            note, own = make_event(content="from afar"), make_event(content="from here")
            await writer.accept(note)
            assert await reader.next_event("live") == note.event.id
            await reader.accept(own)
            assert await reader.next_event("live") == own.event.id
            await holds(peer, ids_of([note, own]))
            assert (await reconcile(reader))[0] == "NEG-MSG"


@async_test
async def test_the_documented_command_line_starts_it() -> None:
    address = f"127.0.0.1:{free_port()}"
    with running_db() as db, ExitStack() as stack:
        variables = {
            "ORLY_LAUNCHER_SYNC_NEGENTROPY_LISTEN": address,
            "ORLY_SYNC_NEGENTROPY_LISTEN": "",
            "ORLY_DB_TYPE": "grpc",
            "ORLY_GRPC_SERVER": db.address,
        }
        program = stack.enter_context(running_sync(address=address, **variables))
        assert f"listening on {address}\n" in program.logs()


@async_test
async def test_a_relay_tells_its_clients_that_the_service_is_away_and_goes_on_when_it_is_there() -> None:
    address = f"127.0.0.1:{free_port()}"
    with ExitStack() as stack:
        db = stack.enter_context(running_db())
        worker = stack.enter_context(
            running_worker(
                db,
                reads_directly=True,
                ORLY_NEGENTROPY_ENABLED="true",
                ORLY_SYNC_TYPE="grpc",
                ORLY_GRPC_SYNC_NEGENTROPY=address,
                ORLY_GRPC_SYNC_TIMEOUT="300ms",
            )
        )
        async with client_of(worker) as client:
            assert (await reconcile(client))[2].startswith("error: ")
            await client.accept(make_event())
            program = stack.enter_context(
                running_sync(address=address, ORLY_DB_TYPE="grpc", ORLY_GRPC_SERVER=db.address)
            )
            async with asyncio.timeout(DEADLINE_S):
                while (await reconcile(client))[0] != "NEG-MSG":
                    pass
            assert program.child.poll() is None


# One process


@async_test
async def test_a_relay_alone_syncs_with_its_peers_and_answers_clients() -> None:
    ours, theirs = events("ours", 25), events("theirs", 35)
    with ExitStack() as stack:
        peer = stack.enter_context(running_relay(ORLY_NEGENTROPY_ENABLED="true"))
        async with client_of(peer) as client:
            await client.accept(*theirs)
        own = stack.enter_context(
            running_relay(ORLY_NEGENTROPY_ENABLED="true", ORLY_SYNC_NEGENTROPY_PEERS=peer.url, **SOON)
        )
        async with client_of(own) as client, client_of(peer) as writer:
            await client.accept(*ours)
            await holds(own, ids_of(ours, theirs))
            await holds(peer, ids_of(ours, theirs))
            assert (await reconcile(client))[0] == "NEG-MSG"
            await client.send("REQ", "live", {"limit": 0})
            await client.next("EOSE", of="live")
            note = make_event(content="later")
            await writer.accept(note)
            assert await client.next_event("live") == note.event.id
        document = json.loads((await http(own.url, ["Accept: application/nostr+json"])).body)
        assert 77 in document["supported_nips"]
        assert (own.data_dir / "sync/negentropy.json").exists()


@async_test
async def test_a_relay_with_peers_need_not_answer_clients() -> None:
    theirs = events("theirs", 3)
    with ExitStack() as stack:
        peer = stack.enter_context(running_relay())  # one that knows nothing of negentropy
        async with client_of(peer) as client:
            await client.accept(*theirs)
        own = stack.enter_context(running_relay(ORLY_SYNC_NEGENTROPY_PEERS=peer.url, **SOON))
        await holds(own, ids_of(theirs))
        async with client_of(own) as client:
            answer = await reconcile(client)
            assert (answer[0], answer[2].split(":")[0]) == ("NEG-ERR", "blocked")


@async_test
async def test_of_several_relay_processes_none_syncs_and_that_is_said() -> None:
    peer = f"ws://127.0.0.1:{free_port()}"
    with running_db() as db:
        given = {"ORLY_NEGENTROPY_ENABLED": "true", "ORLY_SYNC_NEGENTROPY_PEERS": peer}
        with running_worker(db, reads_directly=True, **given) as worker:
            assert "set ORLY_LAUNCHER_SYNC_NEGENTROPY_ENABLED=true" in worker.logs()
            async with client_of(worker) as client:
                assert (await reconcile(client))[0] == "NEG-MSG"  # each has sets of its own
            assert peer not in worker.logs()


def test_a_relay_without_it_loads_nothing_for_it() -> None:
    def libraries(relay: RelayProcess) -> str:
        return Path(f"/proc/{relay.pid}/maps").read_text()

    with running_relay() as plain, running_relay(ORLY_NEGENTROPY_ENABLED="true") as on:
        assert "numpy" not in libraries(plain)
        assert "cygrpc" not in libraries(plain)
        assert "numpy" in libraries(on)
        assert "cygrpc" not in libraries(on)


def test_a_relay_whose_peers_cannot_be_read_does_not_start(tmp_path: Path) -> None:
    path = tmp_path / "sync/negentropy.json"
    path.parent.mkdir()
    path.write_text("{}")
    with (
        pytest.raises(AssertionError, match="left with status 78"),
        running_relay(ORLY_DATA_DIR=str(tmp_path), ORLY_SYNC_NEGENTROPY_PEERS="wss://peer.invalid"),
    ):
        pass
