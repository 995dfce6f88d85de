"""Several relay processes on one `orly-db`: to clients they are one relay."""

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import pytest
from tests.component.api_world import allowing, header_of
from tests.component.orly_child import DEADLINE_S, await_output, child, run
from tests.component.relay_client import NostrClient
from tests.factory import KEYS, NOW_S, delete_event, gift_wrap, make_event
from tests.process import (
    DbProcess,
    RelayProcess,
    free_port,
    running_acl,
    running_db,
    running_relay,
    running_worker,
    shared_port,
)
from tests.transport import run_async
from tests.wsclient import connect, http, until
from websockets.exceptions import ConnectionClosed

from orly.relay.api import RPC_TYPE

STOP_TIMEOUT_S: Final = 3
RELAY_URL: Final = "wss://relay.example.com"
MODES: Final = pytest.mark.parametrize("reads_directly", [True, False], ids=["split", "remote"])
TRIES: Final = 64
"""Connections opened until both processes have one: the odds that one of them gets none are 2 to this power."""


@contextmanager
def two_workers(*, reads_directly: bool, **variables: str) -> Iterator[tuple[DbProcess, RelayProcess, RelayProcess]]:
    """An `orly-db` and two relays on it, each on a port of its own, so that a test can choose."""
    with ExitStack() as stack:
        db = stack.enter_context(running_db(**variables))
        first, second = (
            stack.enter_context(running_worker(db, reads_directly=reads_directly, **variables)) for _ in range(2)
        )
        yield db, first, second


@asynccontextmanager
async def client_of(relay: RelayProcess) -> AsyncIterator[NostrClient]:
    async with connect(relay.url) as socket:
        yield NostrClient(socket)


async def health(relay: RelayProcess) -> tuple[int, str]:
    """The status of `/health` and the reason it gives, if any."""
    reply = await http(relay.url, path="/health")
    return reply.status, json.loads(reply.body).get("reason", "")


@MODES
def test_whatever_one_takes_the_others_tell(reads_directly: bool) -> None:
    async def main(first: RelayProcess, second: RelayProcess) -> None:
        async with client_of(first) as here, client_of(second) as there, client_of(second) as writer_there:
            for reader in (here, there):
                assert await reader.request("s", {"kinds": [1, 5, 0, 20_001]}) == []
            note, other = make_event(content="here"), make_event(1, content="there")
            await here.accept(note)
            await writer_there.accept(other)
            for reader in (here, there):
                assert [await reader.next_event("s") for _ in range(2)] == [note.event.id, other.event.id]

            deletion = delete_event(note, signed=True, created_at=NOW_S + 1)
            await writer_there.accept(deletion)
            for reader in (here, there):
                assert await reader.next_event("s") == deletion.event.id
            for asking in (here, writer_there):
                assert await asking.request("q", {"kinds": [1]}) == [other.event.id]
            assert (await here.refusal(note)) == "blocked: this event was deleted"

            brief = make_event(kind=20_001, content="ephemeral")
            await here.accept(brief)
            for reader in (here, there):
                assert await reader.next_event("s") == brief.event.id
            (again,) = await writer_there.publish(brief)
            assert (again[2], again[3]) == (True, "duplicate: already have this event")
            for asking in (here, writer_there):
                assert await asking.request("q", {"kinds": [20_001]}) == []

            versions = [make_event(kind=0, created_at=NOW_S + n) for n in range(3)]
            for n, version in enumerate(versions):
                await (here if n % 2 else writer_there).accept(version)
            for reader in (here, there):
                assert [await reader.next_event("s") for _ in versions] == [version.event.id for version in versions]
            for asking in (here, writer_there):
                assert await asking.request("q", {"kinds": [0]}) == [versions[-1].event.id]
            for reader in (here, there):
                await reader.fence()
                assert reader.inbox == [], "nothing comes twice"

    with two_workers(reads_directly=reads_directly) as (_, first, second):
        run_async(main(first, second))


@MODES
def test_private_events_reach_their_parties_only_wherever_they_are(reads_directly: bool) -> None:
    async def main(first: RelayProcess, second: RelayProcess) -> None:
        async with client_of(first) as sender, client_of(second) as recipient, client_of(second) as stranger:
            for key, reader in ((1, recipient), (2, stranger)):
                ok = await reader.authenticate(RELAY_URL, key=key, at_s=int(time.time()))
                assert ok[2] is True, ok
                assert await reader.request("s", {"kinds": [1, 1059]}) == []
            secret, public = gift_wrap(KEYS[1], signed=True), make_event(content="for all")
            await sender.accept(secret, public)
            assert [await recipient.next_event("s") for _ in range(2)] == [secret.event.id, public.event.id]
            assert await stranger.next_event("s") == public.event.id
            assert await recipient.request("q", {"kinds": [1059]}) == [secret.event.id]
            assert await stranger.request("q", {"kinds": [1059]}) == []
            assert await recipient.count("c", {"kinds": [1059]}) == 1
            assert await stranger.count("c", {"kinds": [1059]}) == 0

    variables = {"ORLY_RELAY_URL": RELAY_URL, "ORLY_AUTH_ON_CONNECT": "true"}
    with two_workers(reads_directly=reads_directly, **variables) as (_, first, second):
        run_async(main(first, second))


@MODES
def test_an_ok_from_one_holds_at_the_other(reads_directly: bool) -> None:
    async def main(first: RelayProcess, second: RelayProcess) -> None:
        async with client_of(first) as here, client_of(second) as there:
            for n in range(100):
                event = make_event(content=f"{n}")
                writer, reader = (here, there) if n % 2 else (there, here)
                await writer.accept(event)
                assert await reader.request("q", {"ids": [event.event.id]}) == [event.event.id]
                assert await reader.count("c", {"ids": [event.event.id]}) == 1

    with two_workers(reads_directly=reads_directly) as (_, first, second):
        run_async(main(first, second))


@MODES
def test_what_is_imported_reaches_subscribers(reads_directly: bool, tmp_path: Path) -> None:
    events = [make_event(n % 8, content=f"{n}") for n in range(300)]
    file = tmp_path / "events.jsonl"
    file.write_bytes(b"".join(event.raw + b"\n" for event in events))

    async def main(db: DbProcess, first: RelayProcess, second: RelayProcess) -> None:
        async with client_of(first) as here, client_of(second) as there:
            for reader in (here, there):
                assert await reader.request("s", {}) == []
            done = await asyncio.to_thread(
                run, "import", "--server", db.address, str(file), data_dir=tmp_path / "unused"
            )
            assert done.returncode == 0, done.stderr
            wanted = [event.event.id for event in events]
            for reader in (here, there):
                assert [await reader.next_event("s") for _ in events] == wanted

    with two_workers(reads_directly=reads_directly) as workers:
        run_async(main(*workers))


def test_they_share_the_port_and_one_serves_when_the_other_stops() -> None:
    async def main(url: str, workers: tuple[RelayProcess, RelayProcess]) -> None:
        before = [worker.open_sockets() for worker in workers]

        def shares() -> list[int]:
            return [worker.open_sockets() - idle for worker, idle in zip(workers, before, strict=True)]

        opened: list[tuple[NostrClient, object]] = []
        try:
            while not all(shares()):
                assert len(opened) < TRIES, f"{shares()} of {len(opened)} connections"
                context = connect(url)
                opened.append((NostrClient(await context.__aenter__()), context))
            n_lost = shares()[0]
            await asyncio.to_thread(workers[0].stop)
            closed, left = [], []
            for client, _ in opened:
                try:
                    await client.fence()
                    left.append(client)
                except ConnectionClosed as error:
                    closed.append(None if error.rcvd is None else int(error.rcvd.code))
            assert closed == [1001] * n_lost
            assert left
            for n in range(20):
                async with connect(url) as late:
                    event = make_event(content=f"late {n}")
                    await NostrClient(late).accept(event)
        finally:
            for client, _ in opened:
                await client.socket.connection.close()

    with shared_port() as port, shared_port() as health_port, running_db() as db:
        ports = {"ORLY_PORT": str(port), "ORLY_HEALTH_PORT": str(health_port)}
        with (
            running_worker(db, reads_directly=True, **ports) as first,
            running_worker(db, reads_directly=True, **ports) as second,
        ):
            assert first.url == second.url
            run_async(main(first.url, (first, second)))


def test_a_port_is_shared_with_nobody_else() -> None:
    with running_relay() as alone, running_db() as db:
        port = alone.url.rpartition(":")[2]
        variables = {"ORLY_DB_TYPE": "grpc", "ORLY_GRPC_SERVER": db.address}
        done = run(data_dir=db.data_dir, variables={**variables, "ORLY_LISTEN": "127.0.0.1", "ORLY_PORT": port})
        assert done.returncode == 69
        assert f"cannot listen on 127.0.0.1:{port}: another process already does" in done.stderr.decode()
        with running_worker(db, reads_directly=False) as worker:
            port = worker.url.rpartition(":")[2]
            done = run(
                data_dir=alone.data_dir.parent / "other", variables={"ORLY_LISTEN": "127.0.0.1", "ORLY_PORT": port}
            )
            assert done.returncode == 69
            assert f"cannot listen on 127.0.0.1:{port}: another process already does" in done.stderr.decode()


# The start


def test_a_relay_waits_for_its_store(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    variables = {
        "ORLY_DB_TYPE": "grpc",
        "ORLY_GRPC_SERVER": address,
        "ORLY_DB_DIRECT_READ": "true",
        "ORLY_LISTEN": "127.0.0.1",
        "ORLY_PORT": "0",
    }
    with child(data_dir=tmp_path / "data", **variables) as relay:
        await_output(relay, f"waiting for orly-db at {address}".encode())
        assert not (tmp_path / "data").exists()
        with running_db(address=address, ORLY_DATA_DIR=str(tmp_path / "data")):
            await_output(relay, b"listening on ws://127.0.0.1:")
            relay.send_signal(signal.SIGTERM)
            _, rest = relay.communicate(timeout=30)
    assert relay.returncode == 0
    assert b"Traceback" not in rest


def test_a_store_that_never_comes_is_named(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    variables = {
        "ORLY_DB_TYPE": "grpc",
        "ORLY_GRPC_SERVER": address,
        "ORLY_LAUNCHER_DB_READY_TIMEOUT": "300ms",
    }
    done = run(data_dir=tmp_path / "data", variables=variables)
    assert done.returncode == 69
    assert f"orly: waited 0.3 s for orly-db at {address}" in done.stderr.decode()


def test_a_relay_that_waits_for_its_store_can_be_stopped(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    with child(data_dir=tmp_path, ORLY_DB_TYPE="grpc", ORLY_GRPC_SERVER=address) as relay:
        await_output(relay, b"waiting for orly-db")
        relay.send_signal(signal.SIGTERM)
        _, rest = relay.communicate(timeout=30)
    assert relay.returncode == 0, rest


def test_a_data_directory_without_a_store_is_named(tmp_path: Path) -> None:
    with running_db() as db:
        variables = {"ORLY_DB_TYPE": "grpc", "ORLY_GRPC_SERVER": db.address, "ORLY_DB_DIRECT_READ": "true"}
        done = run(data_dir=tmp_path / "data", variables=variables)
    assert done.returncode == 78
    assert f"there is no database in {tmp_path}/data" in done.stderr.decode()
    assert "ORLY_DB_DIRECT_READ" in done.stderr.decode()


def test_the_data_directory_of_another_service_is_refused() -> None:
    async def fill(relay: RelayProcess) -> None:
        async with client_of(relay) as client:
            await client.accept(make_event())

    with running_db() as db, running_db() as other:
        with running_worker(other, reads_directly=True) as relay:
            run_async(fill(relay))
        variables = {"ORLY_DB_TYPE": "grpc", "ORLY_GRPC_SERVER": db.address, "ORLY_DB_DIRECT_READ": "true"}
        done = run(data_dir=other.data_dir, variables=variables)
    assert done.returncode == 78
    assert f"{other.data_dir} is not where the store's service keeps its events" in done.stderr.decode()


def test_the_data_directory_of_another_service_that_looks_alike_is_found_out() -> None:
    """Both are empty, so nothing tells them apart until something is written."""

    async def main(relay: RelayProcess) -> None:
        async with client_of(relay) as client:
            reason = await client.refusal(make_event())
            assert reason.startswith("error: the store's service has stored the serial 1")
        await until(lambda: relay.child.poll() is not None, "the end of the relay")

    with running_db() as db, running_db() as other, ExitStack() as stack:
        relay = stack.enter_context(running_worker(db, reads_directly=True, ORLY_DATA_DIR=str(other.data_dir)))
        relay.killed = True  # it leaves by itself
        run_async(main(relay))
        assert relay.child.returncode == 70


def test_the_log_has_the_name_that_the_supervisor_gives() -> None:
    with running_db() as db:
        with running_worker(db, reads_directly=True, SUPERVISOR_PROCESS_NAME="orly-2") as relay:
            assert all(line.split()[1] == "orly-2" for line in relay.logs().splitlines())
        with running_worker(db, reads_directly=True, SUPERVISOR_PROCESS_NAME="cat") as relay:
            assert all(line.split()[1] == "orly" for line in relay.logs().splitlines())


@pytest.mark.parametrize(
    "given",
    [{"ORLY_OWNERS": KEYS[0]}, {"ORLY_ADMINS": KEYS[0]}, {"ORLY_ACL_MODE": "managed"}],
    ids=lambda given: next(iter(given)),
)
def test_several_do_not_start_with_lists_of_their_own(given: dict[str, str], tmp_path: Path) -> None:
    there = {"ORLY_DB_TYPE": "grpc", "ORLY_GRPC_SERVER": f"unix:{tmp_path}/db", "ORLY_LISTEN": "127.0.0.1"}
    done = run(data_dir=tmp_path, variables={**there, **given, "ORLY_PORT": "0", "ORLY_RELAY_WORKERS": "2"})
    assert done.returncode == 78
    assert b"ORLY_RELAY_WORKERS=2, but there are owners, admins or a mode, and no orly-acl is named" in done.stderr


def test_a_single_one_may_keep_them_and_says_so() -> None:
    said = "no orly-acl is named (ORLY_GRPC_ACL_SERVER): this relay keeps its own lists"
    with running_db() as db:
        with running_worker(db, reads_directly=True, ORLY_OWNERS=KEYS[0], ORLY_RELAY_WORKERS="1") as relay:
            assert relay.logs().count(said) == 1
        with running_worker(db, reads_directly=True, ORLY_RELAY_WORKERS="2") as relay:
            assert said not in relay.logs()
        with running_acl(db, ORLY_OWNERS=KEYS[0]) as acl:
            follows = {"ORLY_OWNERS": KEYS[0], "ORLY_RELAY_WORKERS": "2", "ORLY_GRPC_ACL_SERVER": acl.address}
            with running_worker(db, reads_directly=True, **follows) as relay:
                assert said not in relay.logs()
    with running_relay(ORLY_OWNERS=KEYS[0], ORLY_RELAY_WORKERS="2") as relay:
        assert said not in relay.logs()


def test_a_mode_that_access_control_does_not_have_is_warned_of() -> None:
    owners = {"ORLY_OWNERS": KEYS[0]}
    with running_db() as db, running_acl(db, **owners) as acl:  # alone, its mode is follows
        said = f"has no effect here: orly-acl at {acl.address} has the mode follows"
        there = {**owners, "ORLY_GRPC_ACL_SERVER": acl.address}
        with running_worker(db, reads_directly=True, **there, ORLY_ACL_MODE="none") as relay:
            assert relay.logs().count(f"ORLY_ACL_MODE=none {said}") == 1
        for given in ({}, {"ORLY_ACL_MODE": "follows"}):
            with running_worker(db, reads_directly=True, **there, **given) as relay:
                assert said not in relay.logs()


# Access control stands still


def test_who_manages_is_told_that_access_control_does_not_answer() -> None:
    """However short the time in which others must get their requests answered."""
    owners = {"ORLY_OWNERS": KEYS[0]}
    impatient = {**owners, "ORLY_HANDSHAKE_TIMEOUT": "1s", "ORLY_GRPC_ACL_TIMEOUT": "3s"}
    with ExitStack() as stack:
        db = stack.enter_context(running_db())
        acl = stack.enter_context(running_acl(db, **owners))
        relay = stack.enter_context(
            running_worker(db, reads_directly=True, ORLY_GRPC_ACL_SERVER=acl.address, **impatient)
        )
        assert managed(relay, "listbannedpubkeys") == (200, {"result": []})
        acl.signal(signal.SIGSTOP)
        try:
            answer = managed(relay, "banpubkey", KEYS[1])
        finally:
            acl.signal(signal.SIGCONT)
        assert answer == (503, {"error": "access control did not answer within 3 s"})
        assert managed(relay, "banpubkey", KEYS[1]) == (200, {"result": True})


def managed(relay: RelayProcess, method: str, *params: str) -> tuple[int, object]:
    """The status and the answer to a call of the owner's."""
    body = json.dumps({"method": method, "params": params}).encode()
    event = allowing(0, "POST", f"{relay.http_url}/", body, int(time.time()))
    connection = HTTPConnection(urlsplit(relay.url).netloc, timeout=DEADLINE_S)
    with closing(connection):
        connection.request("POST", "/", body, {"Content-Type": RPC_TYPE, "Authorization": header_of(event)})
        reply = connection.getresponse()
        return reply.status, json.loads(reply.read())


# The store goes away and comes back


@MODES
def test_a_relay_stops_in_time_though_its_store_stands_still(reads_directly: bool) -> None:
    async def main(db: DbProcess, relay: RelayProcess) -> None:
        async with client_of(relay) as client:
            await client.accept(make_event(content="before"))
            db.signal(signal.SIGSTOP)
            try:
                await client.send_text(f'["EVENT",{make_event(content="late").raw.decode()}]')
                took_s = await asyncio.to_thread(relay.stop)
            finally:
                db.signal(signal.SIGCONT)
        assert took_s < STOP_TIMEOUT_S + 10, took_s

    with (
        running_db() as db,
        running_worker(db, reads_directly=reads_directly, ORLY_STOP_TIMEOUT=f"{STOP_TIMEOUT_S}s") as relay,
    ):
        run_async(main(db, relay))


@MODES
def test_health_says_that_the_store_is_away(reads_directly: bool) -> None:
    async def main(db: DbProcess, relay: RelayProcess) -> None:
        assert await health(relay) == (200, "")
        await asyncio.to_thread(db.kill)
        await _until_health(relay, 503)
        assert (await health(relay))[1] == "the store is away"
        db.start_again()
        await _until_health(relay, 200)
        async with client_of(relay) as client:
            await client.accept(make_event())

    with running_db() as db, running_worker(db, reads_directly=reads_directly) as relay:
        run_async(main(db, relay))


async def _until_health(relay: RelayProcess, wanted: int) -> None:
    end_s = time.monotonic() + 20
    while (await health(relay))[0] != wanted:
        assert time.monotonic() < end_s, f"waited 20 s for /health to answer {wanted}"
        await asyncio.sleep(0.02)
