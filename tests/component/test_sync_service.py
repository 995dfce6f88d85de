"""The NegentropyService over real gRPC: its store is real, the syncs with peers are made up."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.component.async_test import async_test
from tests.component.managed_peers import DEADLINE_S, NEVER, A, B, FakeRuns, done, managing, until
from tests.factory import make_event

from orly.negentropy import Initiator, ItemSet
from orly.nostr.filter import Filter
from orly.pb.orlysync.common.v1 import types_pb2 as common_pb2
from orly.pb.orlysync.negentropy.v1 import service_pb2, service_pb2_grpc, types_pb2
from orly.rpc.channel import channel_from_settings
from orly.rpc.server import server_from_settings
from orly.settings import Settings
from orly.store.base import StoreUnavailableError
from orly.store.lmdb.store import LmdbStore
from orly.sync.negentropy.manager import SyncManager
from orly.sync.negentropy.messages import IDS_IN_PART
from orly.sync.negentropy.peer_loop import SyncOptions
from orly.sync.negentropy.request import Direction, Phase, SyncFailedError, SyncProgress, SyncRequest, SyncResult
from orly.sync.negentropy.service import ADMINISTRATIVE, PROGRESS_INTERVAL_S, SERVICE_NAME, NegentropyService
from orly.sync.negentropy.sessions import LocalSets, keeper_from_settings

EMPTY = common_pb2.Empty()
SETTINGS = Settings()
OPTIONS = replace(NEVER, frame_bytes=2048, timeout_s=9.0, auth_key=b"k" * 32)


@dataclass(slots=True, kw_only=True)
class World:
    """A service and a caller of it."""

    stub: Any
    service: NegentropyService
    manager: SyncManager
    runs: FakeRuns
    store: LmdbStore
    sets: LocalSets


@asynccontextmanager
async def serving(directory: Path, options: SyncOptions = OPTIONS, *, start: bool = True) -> AsyncIterator[World]:
    """A service on a free port."""
    store = await LmdbStore.open(directory / "data", max_bytes=2**26)
    keeper = keeper_from_settings(SETTINGS, store)
    sets = LocalSets.from_settings(SETTINGS, keeper)
    runs = FakeRuns()
    async with managing(directory, runs, options, start=start) as manager:
        service = NegentropyService(manager, options, sets, store)
        server = server_from_settings(SETTINGS, "127.0.0.1:0", audited=ADMINISTRATIVE)
        server.add(service_pb2_grpc.add_NegentropyServiceServicer_to_server, service, SERVICE_NAME)
        await server.start()
        channel = channel_from_settings(SETTINGS, server.address)
        try:
            stub: Any = service_pb2_grpc.NegentropyServiceStub(channel)  # type: ignore[no-untyped-call]
            yield World(stub=stub, service=service, manager=manager, runs=runs, store=store, sets=sets)
        finally:
            await channel.close()
            await server.stop(0)
            await sets.aclose()
            await keeper.close()
            await store.close()


async def first(call: Any) -> types_pb2.SyncProgress:
    """The first message of a stream."""
    async with asyncio.timeout(DEADLINE_S):
        message = await call.read()
    assert isinstance(message, types_pb2.SyncProgress)
    return message


async def told(call: Any) -> list[types_pb2.SyncProgress]:
    """All further messages of a stream that ends well."""
    messages = []
    async with asyncio.timeout(DEADLINE_S):
        while (message := await call.read()) is not grpc.aio.EOF:
            messages.append(message)
        assert await call.code() is grpc.StatusCode.OK, await call.details()
    return messages


async def status_of(call: Any) -> tuple[grpc.StatusCode, str]:
    """How a call ends."""
    async with asyncio.timeout(DEADLINE_S):
        return await call.code(), await call.details()


def request(**fields: Any) -> types_pb2.SyncPeerRequest:
    """A request for a sync with B."""
    return types_pb2.SyncPeerRequest(peer_url=B, **fields)


@async_test
async def test_no_call_is_unimplemented(tmp_path: Path) -> None:
    methods = service_pb2.DESCRIPTOR.services_by_name["NegentropyService"].methods
    assert len(methods) == 15
    async with serving(tmp_path) as world:
        for method in methods:
            message = getattr(types_pb2, method.input_type.name, common_pb2.Empty)()
            code, text = await status_of(getattr(world.stub, method.name)(message, timeout=DEADLINE_S))
            assert code in (grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT), f"{method.name}: {text}"


@async_test
async def test_ready_is_what_the_store_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(tmp_path) as world:
        assert (await world.stub.Ready(EMPTY)).ready

        async def fail() -> int:
            raise StoreUnavailableError("away")

        monkeypatch.setattr(world.store, "last_serial", fail)
        assert not (await world.stub.Ready(EMPTY)).ready
        monkeypatch.undo()


# SyncWithPeer


@pytest.mark.parametrize(
    ("message", "wanted"),
    [
        (request(), SyncRequest(url=B, filter=Filter(), direction=Direction.DOWN)),
        (request(direction="both"), SyncRequest(url=B, filter=Filter(), direction=Direction.BOTH)),
        (request(direction="UP"), SyncRequest(url=B, filter=Filter(), direction=Direction.UP)),
        (request(direction="none"), SyncRequest(url=B, filter=Filter(), direction=Direction.NONE)),
        (request(direction="up", dry_run=True), SyncRequest(url=B, filter=Filter(), direction=Direction.NONE)),
        (
            request(filter=common_pb2.Filter(kinds=[1, 2], since=5, until=9, limit=3), since=7, until=8),
            SyncRequest(
                url=B,
                filter=Filter(kinds=frozenset({1, 2}), since=7, until=8, limit=3),
                direction=Direction.DOWN,
            ),
        ),
        (
            request(filter=common_pb2.Filter(since=5, until=9), since=3, until=11),
            SyncRequest(url=B, filter=Filter(since=5, until=9), direction=Direction.DOWN),
        ),
        (
            request(filter=common_pb2.Filter(tags={"t": common_pb2.TagSet(values=[b"x", b"y"])})),
            SyncRequest(url=B, filter=Filter(tags={"t": frozenset({"x", "y"})}), direction=Direction.DOWN),
        ),
        (
            request(list_ids=True, batch=7, private_kinds=True),
            SyncRequest(
                url=B,
                filter=Filter(),
                direction=Direction.DOWN,
                list_ids=True,
                batch_events=7,
                private_kinds=True,
            ),
        ),
    ],
)
@async_test
async def test_what_is_asked_for_is_done(
    tmp_path: Path, message: types_pb2.SyncPeerRequest, wanted: SyncRequest
) -> None:
    async with serving(tmp_path, replace(OPTIONS, peers=())) as world:
        await told(world.stub.SyncWithPeer(message))
        assert world.runs.requests == [replace(wanted, frame_bytes=2048, timeout_s=9.0, auth_key=b"k" * 32)]


@async_test
async def test_a_caller_may_choose_what_the_settings_say(tmp_path: Path) -> None:
    async with serving(tmp_path, replace(OPTIONS, peers=(), private_kinds=True)) as world:
        await told(world.stub.SyncWithPeer(request(frame_bytes=600, timeout_ms=1500)))
        await told(world.stub.SyncWithPeer(request(private_kinds=False)))
        chosen, other = world.runs.requests
        assert (chosen.frame_bytes, chosen.timeout_s, chosen.private_kinds) == (600, 1.5, True)
        assert other.private_kinds is False


@async_test
async def test_a_sync_is_told_while_it_runs_and_at_its_end(tmp_path: Path) -> None:
    async with serving(tmp_path, replace(OPTIONS, peers=())) as world:
        world.runs.hold.clear()
        world.runs.steps = [SyncProgress(phase=Phase.TRANSFERRING, round=2, have=3, need=4, fetched=1)]
        world.runs.end = done(fetched=4, sent=3)
        call = world.stub.SyncWithPeer(request())
        begin = await first(call)
        assert (begin.peer_url, begin.phase, begin.complete, begin.error) == (B, "transferring", False, "")
        assert (begin.round, begin.have_count, begin.need_count, begin.fetched_count) == (2, 3, 4, 1)
        world.runs.hold.set()
        last = (await told(call))[-1]
        assert (last.complete, last.incomplete, last.error, last.phase) == (True, False, "", "done")
        assert (last.fetched_count, last.sent_count) == (4, 3)


@async_test
async def test_progress_is_told_a_few_times_a_second(tmp_path: Path) -> None:
    async with serving(tmp_path, replace(OPTIONS, peers=())) as world:
        world.runs.steps = [SyncProgress(phase=Phase.TRANSFERRING, fetched=n) for n in range(1000)]
        messages = await told(world.stub.SyncWithPeer(request()))
        assert len(messages) <= 3
        assert PROGRESS_INTERVAL_S == 0.2


@async_test
async def test_every_number_is_told(tmp_path: Path) -> None:
    progress = SyncProgress(
        phase=Phase.DONE,
        round=1,
        have=2,
        need=3,
        fetched=4,
        known=5,
        unwanted=6,
        refused=7,
        unavailable=8,
        sent=9,
        unneeded=10,
        rejected=11,
        bytes_sent=12,
        bytes_received=2**40,
    )
    async with serving(tmp_path, replace(OPTIONS, peers=())) as world:
        world.runs.end = SyncResult(progress=progress, is_complete=False, problems=("one", "two"))
        last = (await told(world.stub.SyncWithPeer(request())))[-1]
    assert last == types_pb2.SyncProgress(
        peer_url=B,
        phase="done",
        complete=True,
        incomplete=True,
        problems=["one", "two"],
        round=1,
        have_count=2,
        need_count=3,
        fetched_count=4,
        known=5,
        unwanted=6,
        refused=7,
        unavailable=8,
        sent_count=9,
        unneeded=10,
        rejected=11,
        bytes_sent=12,
        bytes_received=2**40,
    )


@async_test
async def test_ids_come_in_parts_each_once(tmp_path: Path) -> None:
    ids = tuple(number.to_bytes(32, "big") for number in range(IDS_IN_PART + 1))
    async with serving(tmp_path, replace(OPTIONS, peers=())) as world:
        world.runs.end = SyncResult(
            progress=SyncProgress(phase=Phase.DONE), is_complete=True, have_ids=ids, need_ids=ids[:3]
        )
        messages = await told(world.stub.SyncWithPeer(request(list_ids=True)))
    assert [each for message in messages for each in message.have_ids] == list(ids)
    assert [each for message in messages for each in message.need_ids] == list(ids[:3])
    assert [message.complete for message in messages][-2:] == [False, True]


@pytest.mark.parametrize(
    ("end", "error"),
    [
        (SyncFailedError(f"{B} hung up", SyncProgress(fetched=7)), f"{B} hung up"),
        (StoreUnavailableError("no room"), "the store failed: no room"),
    ],
)
@async_test
async def test_a_sync_that_breaks_off_says_why_and_what_was_reached(tmp_path: Path, end: Exception, error: str) -> None:
    async with serving(tmp_path, replace(OPTIONS, peers=())) as world:
        world.runs.steps = [SyncProgress(fetched=7)]
        world.runs.end = end
        last = (await told(world.stub.SyncWithPeer(request())))[-1]
        assert (last.complete, last.error, last.fetched_count) == (False, error, 7)


@async_test
async def test_a_caller_that_goes_away_ends_its_sync(tmp_path: Path) -> None:
    async with serving(tmp_path, replace(OPTIONS, peers=())) as world:
        world.runs.hold.clear()
        call = world.stub.SyncWithPeer(request())
        await first(call)
        call.cancel()
        await until(lambda: world.runs.cancelled == 1)
        assert world.runs.at_once == []


@async_test
async def test_a_stop_of_the_service_is_told(tmp_path: Path) -> None:
    async with serving(tmp_path, replace(OPTIONS, peers=())) as world:
        world.runs.hold.clear()
        call = world.stub.SyncWithPeer(request())
        await first(call)
        world.service.stop()
        assert (await told(call))[-1].error == "the service is stopping"


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (types_pb2.SyncPeerRequest(), "invalid: peer_url is empty"),
        (types_pb2.SyncPeerRequest(peer_url="gopher://x"), "invalid: peer_url 'gopher://x': does not start with"),
        (request(direction="sideways"), "invalid: direction 'sideways': write down, up, both or none"),
        (request(since=-1), "invalid: since is -1"),
        (request(batch=501), "invalid: batch_events is 501"),
        (request(frame_bytes=511), "invalid: frame_bytes is 511"),
        (request(filter=common_pb2.Filter(ids=[b"short"])), "invalid: filter ids must hold 32 bytes"),
    ],
)
@async_test
async def test_a_request_that_makes_no_sense_is_refused(
    tmp_path: Path, message: types_pb2.SyncPeerRequest, why: str
) -> None:
    async with serving(tmp_path, replace(OPTIONS, peers=())) as world:
        code, text = await status_of(world.stub.SyncWithPeer(message))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert text.startswith(why)
        assert world.runs.requests == []


# Peers


@async_test
async def test_peers_are_added_listed_and_removed(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        await world.stub.AddPeer(types_pb2.AddPeerRequest(peer_url="WSS://B.invalid:443/"))
        await world.stub.AddPeer(types_pb2.AddPeerRequest(peer_url=B))
        assert list((await world.stub.GetPeers(EMPTY)).peers) == [A, B]
        await until(lambda: sorted(world.runs.urls) == [A, B])
        await world.stub.RemovePeer(types_pb2.RemovePeerRequest(peer_url=A))
        await world.stub.RemovePeer(types_pb2.RemovePeerRequest(peer_url=A))
        assert list((await world.stub.GetPeers(EMPTY)).peers) == [B]
        for method, message in (
            ("AddPeer", types_pb2.AddPeerRequest(peer_url="nowhere")),
            ("RemovePeer", types_pb2.RemovePeerRequest()),
            ("GetPeerSyncState", types_pb2.PeerSyncStateRequest(peer_url="ftp://x")),
        ):
            assert (await status_of(getattr(world.stub, method)(message)))[0] is grpc.StatusCode.INVALID_ARGUMENT


@async_test
async def test_the_state_of_peers_is_told(tmp_path: Path) -> None:
    async with serving(tmp_path, replace(OPTIONS, peers=(A, B))) as world:
        world.runs.end = done(fetched=2, sent=1)
        await until(lambda: all(peer.state.events_synced for peer in world.manager.peers()))
        status = await world.stub.GetSyncStatus(EMPTY)
        assert (status.active, status.peer_count) == (True, 2)
        assert status.last_sync == status.peer_states[0].last_sync > 0
        found = await world.stub.GetPeerSyncState(types_pb2.PeerSyncStateRequest(peer_url=A + "/"))
        assert found.found
        assert found.state == types_pb2.PeerSyncState(
            peer_url=A, last_sync=status.last_sync, events_synced=3, status="idle"
        )
        missing = await world.stub.GetPeerSyncState(types_pb2.PeerSyncStateRequest(peer_url="wss://c.invalid"))
        assert missing == types_pb2.PeerSyncStateResponse(found=False)
        world.runs.end = SyncFailedError("no", SyncProgress())
        await world.stub.TriggerSync(types_pb2.TriggerSyncRequest(peer_url=A))
        await until(lambda: world.manager.peers()[0].state.consecutive_failures)
        failed = (await world.stub.GetPeerSyncState(types_pb2.PeerSyncStateRequest(peer_url=A))).state
        assert (failed.status, failed.last_error, failed.consecutive_failures) == ("error", "no", 1)
        world.runs.hold.clear()
        await world.stub.TriggerSync(types_pb2.TriggerSyncRequest(peer_url=A))
        await until(lambda: world.runs.at_once)
        assert (await world.stub.GetSyncStatus(EMPTY)).peer_states[0].status == "syncing"


@async_test
async def test_rounds_are_begun_and_ended(tmp_path: Path) -> None:
    async with serving(tmp_path, replace(OPTIONS, interval_s=0.01), start=False) as world:
        await world.stub.Stop(EMPTY)
        assert not (await world.stub.GetSyncStatus(EMPTY)).active
        await world.stub.Start(EMPTY)
        await world.stub.Start(EMPTY)
        await until(lambda: len(world.runs.requests) >= 2)
        world.runs.hold.clear()
        await until(lambda: world.runs.at_once)
        await world.stub.Stop(EMPTY)
        await until(lambda: not world.runs.at_once)
        assert not (await world.stub.GetSyncStatus(EMPTY)).active


@async_test
async def test_a_round_is_asked_for(tmp_path: Path) -> None:
    async with serving(tmp_path, replace(OPTIONS, peers=(A, B)), start=False) as world:
        wanted = types_pb2.TriggerSyncRequest(peer_url=B, filter=common_pb2.Filter(kinds=[7]))
        await world.stub.TriggerSync(wanted)
        await until(lambda: len(world.runs.requests) == 1)
        assert world.runs.requests[0].filter == Filter(kinds=frozenset({7}))
        assert world.runs.requests[0].direction is Direction.BOTH
        await world.stub.TriggerSync(types_pb2.TriggerSyncRequest())
        await until(lambda: sorted(world.runs.urls) == [A, B, B])
        code, text = await status_of(world.stub.TriggerSync(types_pb2.TriggerSyncRequest(peer_url="wss://c.invalid")))
        assert code is grpc.StatusCode.NOT_FOUND
        assert "wss://c.invalid is not a peer" in text


# Clients' sessions


@async_test
async def test_a_client_is_reconciled_with_and_its_session_listed_and_closed(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        events = [make_event(content=str(number)) for number in range(50)]
        await world.store.save(events)
        initiator = Initiator(ItemSet.from_rows(b""))
        answer = await world.stub.HandleNegOpen(
            types_pb2.NegOpenRequest(
                subscription_id="s",
                connection_id="c",
                filter=common_pb2.Filter(),
                initial_message=initiator.initiate(),
            )
        )
        assert answer.error == ""
        need = set(initiator.reconcile(answer.message).need)
        assert need == {event.id for event in events}
        (session,) = (await world.stub.ListSessions(EMPTY)).sessions
        assert (session.subscription_id, session.connection_id, session.round_count) == ("s", "c", 1)
        await world.stub.CloseSession(types_pb2.CloseSessionRequest(subscription_id="s"))
        assert (await world.stub.ListSessions(EMPTY)).sessions == []
        after = await world.stub.HandleNegMsg(
            types_pb2.NegMsgRequest(subscription_id="s", connection_id="c", message=b"a")
        )
        assert after.error.startswith("closed: ")


@async_test
async def test_administrative_calls_are_audited_and_those_of_clients_are_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with serving(tmp_path, start=False) as world:
        await world.stub.AddPeer(types_pb2.AddPeerRequest(peer_url=B))
        await told(world.stub.SyncWithPeer(request()))
        await world.stub.ListSessions(EMPTY)
        await world.stub.HandleNegClose(types_pb2.NegCloseRequest(subscription_id="s", connection_id="c"))
        await until(lambda: caplog.text.count("audit: ") == 2)
    audited = [record.getMessage() for record in caplog.records if "audit: " in record.getMessage()]
    assert ["AddPeer" in audited[0], "SyncWithPeer" in audited[1]] == [True, True]
    assert all("outcome=OK" in line for line in audited)
