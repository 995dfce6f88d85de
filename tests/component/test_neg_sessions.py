"""Sessions of clients: one table of cases for the sets of this process and for those behind gRPC."""

import asyncio
import threading
from pathlib import Path
from typing import Any, Final

import pytest
from tests.component.async_test import async_test
from tests.component.neg_world import EMPTY, FIRST, difference, ids_of, items_of, serving_sets, sets_world
from tests.component.remote_world import mute_peer
from tests.factory import KEYS, NOW_S, delete_event, expiring_event, fake_event, gift_wrap, vanish_event
from tests.process import free_port

from orly.negentropy import ITEM_BYTES, Initiator, Responder, is_complete
from orly.nostr.filter import MAX_LIMIT, Filter
from orly.pb.orlysync.common.v1 import types_pb2 as common_pb2
from orly.pb.orlysync.negentropy.v1 import types_pb2
from orly.pb.orlysync.negentropy.v1.service_pb2_grpc import NegentropyServiceStub
from orly.reconciling import NegRefusedError
from orly.rpc.channel import open_channel
from orly.store.base import READ_ALL, Query, ReadScope, StoreError
from orly.sync.negentropy import sessions
from orly.sync.negentropy.remote import RemoteSets

KINDS: Final = ("local", "remote")
EVERYTHING: Final = Query(filters=(Filter(),), scope=ReadScope())
NOTES: Final = Query(filters=(Filter(kinds=frozenset({1})),), scope=ReadScope())
DEADLINE_S: Final = 20.0

both = pytest.mark.parametrize("kind", KINDS)


async def refusal(awaited: Any) -> NegRefusedError:
    with pytest.raises(NegRefusedError) as caught:
        await awaited
    return caught.value


@both
@async_test
async def test_the_set_is_what_a_query_would_find(tmp_path: Path, kind: str) -> None:
    async with sets_world(tmp_path, kind) as world:
        kept = [fake_event(created_at=NOW_S + n, tags=[["t", "ab"[n % 2]]], key=n % 3) for n in range(60)]
        profile, newer = fake_event(kind=0), fake_event(kind=0, created_at=NOW_S + 1)
        deleted, expiring, wrap = fake_event(content="x"), expiring_event(NOW_S + 5), gift_wrap(KEYS[1], key=4)
        vanished = fake_event(key=5)
        deletion, vanish = delete_event(deleted), vanish_event(key=5)
        await world.fill(*kept, profile, newer, deleted, expiring, wrap, vanished, deletion, vanish)
        public = [*kept, newer, deletion, vanish]
        assert await world.pull() == ids_of(*public, expiring)
        world.time.now = NOW_S + 5
        assert await world.pull() == ids_of(*public)
        assert await world.pull(scope=READ_ALL) == ids_of(*public, wrap)
        assert await world.pull(scope=ReadScope(readers=frozenset({KEYS[1]}))) == ids_of(*public, wrap)
        assert await world.pull(scope=ReadScope(readers=frozenset({KEYS[2]}))) == ids_of(*public)
        cases: list[tuple[Filter, list[Any]]] = [
            (Filter(limit=7), sorted(public, key=lambda e: (-e.event.created_at, e.event.id))[:7]),
            (Filter(limit=0), []),
            (Filter(limit=MAX_LIMIT), public),
            (Filter(kinds=frozenset({1})), kept),
            (Filter(kinds=frozenset()), []),
            (Filter(authors=frozenset({KEYS[2]})), [e for e in kept if e.event.pubkey == KEYS[2]]),
            (Filter(tags={"t": frozenset({"b"})}), kept[1::2]),
            (Filter(tags={"t": frozenset({"b"})}, limit=3), kept[-1:-6:-2]),
            (Filter(since=NOW_S + 50), kept[50:]),
            (Filter(since=NOW_S + 10, until=NOW_S + 12), kept[10:13]),
            (Filter(until=-1), []),
            (Filter(since=2**63), []),
            (Filter(ids=frozenset(e.event.id for e in (kept[3], deleted))), [kept[3]]),
        ]
        for wanted, events in cases:
            assert await world.pull(wanted) == ids_of(*events), wanted


@both
@async_test
async def test_both_sides_learn_exactly_what_differs(tmp_path: Path, kind: str) -> None:
    async with sets_world(tmp_path, kind, negentropy_answer_bytes=4096) as world:
        common = [fake_event(created_at=NOW_S + n) for n in range(3_000)]
        theirs = [fake_event(created_at=NOW_S + 3 * n, content="theirs") for n in range(700)]
        ours = [fake_event(created_at=NOW_S + 2 * n, content="ours") for n in range(700)]
        for start in range(0, 3_000, 500):
            await world.fill(*common[start : start + 500])
        await world.fill(*theirs)
        rounds = 0

        async def ask(message: bytes) -> bytes:
            nonlocal rounds
            rounds += 1
            answer = (
                await world.sets.open("c", "s", EVERYTHING, message)
                if rounds == 1
                else await world.sets.go_on("c", "s", message)
            )
            assert len(answer) <= 4096
            return answer

        found = await difference(items_of([*common, *ours]), ask)
        assert found == (ids_of(*ours), ids_of(*theirs))
        assert rounds > 5
        (session,) = world.local.sessions()
        assert session.rounds == rounds
        assert session.created_at == session.last_activity == NOW_S
        world.sets.close("c", "s")


@both
@async_test
async def test_what_is_stored_meanwhile_does_not_change_the_set(tmp_path: Path, kind: str) -> None:
    async with sets_world(tmp_path, kind) as world:
        events = [fake_event(created_at=NOW_S + n) for n in range(40)]
        await world.fill(*events)
        for query in (EVERYTHING, NOTES):
            before = await world.sets.open("c", "s", query, FIRST)
            await world.fill(fake_event(content=f"new {query.filters}"), delete_event(events[0]))
            assert await world.sets.go_on("c", "s", FIRST) == before
        assert await world.sets.open("c", "s", EVERYTHING, FIRST) != before


@both
@async_test
async def test_messages_for_what_is_not_open(tmp_path: Path, kind: str) -> None:
    async with sets_world(tmp_path, kind) as world:
        assert (await refusal(world.sets.go_on("c", "s", FIRST))).word == "closed"
        await world.sets.open("c", "s", EVERYTHING, FIRST)
        for ids in (("c", "other"), ("other", "s")):
            assert (await refusal(world.sets.go_on(*ids, FIRST))).word == "closed"
        await world.sets.go_on("c", "s", FIRST)
        world.sets.close("c", "s")
        world.sets.close("c", "s")
        world.sets.gone("nobody")
        assert (await refusal(world.sets.go_on("c", "s", FIRST))).word == "closed"
        await settled(world)
        assert world.local.sessions() == []


async def settled(world: Any, count: int = 0) -> None:
    """Wait until so many sessions are open; a remote server hears of a close a moment later."""
    async with asyncio.timeout(DEADLINE_S):
        while len(world.local.sessions()) != count:  # noqa: ASYNC110 - what is waited for tells nobody
            await asyncio.sleep(0.001)


@both
@async_test
async def test_a_malformed_message_ends_the_session(tmp_path: Path, kind: str) -> None:
    async with sets_world(tmp_path, kind) as world:
        for message in (b"\x61\x00", b"\x61\xff", b"\x61\x00\x00\x03", b"\x61" + b"\x80" * 20):
            await world.sets.open("c", "s", EVERYTHING, FIRST)
            error = await refusal(world.sets.go_on("c", "s", message))
            assert error.word == "invalid"
            assert len(str(error)) > len("invalid: ")
            assert world.local.sessions() == []
            assert (await refusal(world.sets.go_on("c", "s", FIRST))).word == "closed"
            assert (await refusal(world.sets.open("c", "s", EVERYTHING, message))).word == "invalid"
            assert world.local.sessions() == []


@both
@async_test
async def test_another_version_is_told_ours_and_may_go_on(tmp_path: Path, kind: str) -> None:
    async with sets_world(tmp_path, kind) as world:
        await world.fill(fake_event())
        assert await world.sets.open("c", "s", EVERYTHING, b"\x62\x01\x02") == b"\x61"
        assert not is_complete(await world.sets.go_on("c", "s", FIRST))
        assert await world.sets.go_on("c", "s", b"\x60") == b"\x61"


@both
@async_test
async def test_open_again_replaces(tmp_path: Path, kind: str) -> None:
    async with sets_world(tmp_path, kind) as world:
        note, profile = fake_event(), fake_event(kind=0)
        await world.fill(note, profile)
        await world.sets.open("c", "s", NOTES, FIRST)
        assert world.local._keeper.held_bytes == ITEM_BYTES
        answer = await world.sets.open("c", "s", Query(filters=(Filter(kinds=frozenset({0})),)), FIRST)
        assert len(world.local.sessions()) == 1
        assert world.local._keeper.held_bytes == ITEM_BYTES
        assert profile.id in answer
        assert note.id not in answer


@both
@async_test
async def test_so_many_sessions_and_no_more(tmp_path: Path, kind: str) -> None:
    limits = {"negentropy_max_sessions_per_connection": 2, "negentropy_max_sessions": 3}
    async with sets_world(tmp_path, kind, **limits) as world:
        for ids in (("c", "1"), ("c", "2")):
            await world.sets.open(*ids, EVERYTHING, FIRST)
        error = await refusal(world.sets.open("c", "3", EVERYTHING, FIRST))
        assert str(error) == "blocked: this connection has 2 reconciliations open, the maximum"
        await world.sets.open("c", "2", EVERYTHING, FIRST)
        await world.sets.open("d", "1", EVERYTHING, FIRST)
        error = await refusal(world.sets.open("e", "1", EVERYTHING, FIRST))
        assert str(error) == "blocked: 3 reconciliations are open, the maximum; try again later"
        world.sets.close("c", "1")
        await settled(world, 2)
        await world.sets.open("e", "1", EVERYTHING, FIRST)
        world.sets.gone("c")
        await settled(world, 2)
        assert {session.sub_id for session in world.local.sessions()} == {"1"}


@both
@async_test
async def test_a_set_that_is_too_large_is_refused_with_the_maximum(tmp_path: Path, kind: str) -> None:
    async with sets_world(tmp_path, kind, negentropy_max_items=3) as world:
        await world.fill(*[fake_event(created_at=NOW_S + n) for n in range(3)])
        await world.sets.open("c", "s", NOTES, FIRST)
        await world.fill(fake_event(content="one too many"))
        error = await refusal(world.sets.open("c", "s", NOTES, FIRST))
        assert (str(error), error.max_items) == ("blocked: too many query results, the maximum is 3 events", 3)
        assert world.local.sessions() == []
        await world.sets.open("c", "s", EVERYTHING, FIRST)


@both
@async_test
async def test_no_room_for_a_set(tmp_path: Path, kind: str) -> None:
    async with sets_world(tmp_path, kind) as world:
        world.local._keeper.max_client_bytes = 2 * ITEM_BYTES
        await world.fill(fake_event(), fake_event(content="x"))
        await world.sets.open("c", "1", NOTES, FIRST)
        error = await refusal(world.sets.open("c", "2", NOTES, FIRST))
        assert (error.word, error.max_items) == ("blocked", None)
        assert "the sets of this connection take 80 bytes" in str(error)
        await world.sets.open("d", "2", NOTES, FIRST)
        world.sets.gone("d")
        world.sets.gone("c")
        await settled(world)
        await world.sets.open("c", "2", NOTES, FIRST)


@both
@async_test
async def test_a_store_that_fails(tmp_path: Path, kind: str) -> None:
    async with sets_world(tmp_path, kind) as world:

        async def fail(query: Query, *, max_items: int | None = None) -> Any:
            raise StoreError("the disk is gone")

        world.store.items = fail  # type: ignore[method-assign]
        for query in (EVERYTHING, NOTES):
            error = await refusal(world.sets.open("c", "s", query, FIRST))
            assert str(error) == "error: the disk is gone"
        assert world.local.sessions() == []
        del world.store.items
        await world.sets.open("c", "s", EVERYTHING, FIRST)


@both
@async_test
async def test_idle_sessions_end(tmp_path: Path, kind: str) -> None:
    async with sets_world(tmp_path, kind, sync_negentropy_session_timeout_s=60) as world:
        await world.sets.open("c", "1", EVERYTHING, FIRST)
        world.time.steady += 30
        await world.sets.open("c", "2", EVERYTHING, FIRST)
        world.time.steady += 29.9
        assert world.local.expire() == 0
        await world.sets.go_on("c", "2", FIRST)
        world.time.steady += 0.1
        assert world.local.expire() == 1
        assert [session.sub_id for session in world.local.sessions()] == ["2"]
        assert (await refusal(world.sets.go_on("c", "1", FIRST))).word == "closed"
        world.time.steady += 59.9
        assert world.local.expire() == 1


@async_test
async def test_a_timer_looks_for_idle_sessions(tmp_path: Path) -> None:
    async with sets_world(tmp_path, "local") as world:
        world.local._timeout_s = 0.05
        await world.sets.open("c", "1", EVERYTHING, FIRST)
        world.time.steady += 0.04
        await world.sets.open("c", "2", EVERYTHING, FIRST)
        world.time.steady += 0.02
        await settled(world, 1)
        assert [session.sub_id for session in world.local.sessions()] == ["2"]
        world.time.steady += 1
        await settled(world, 0)


@both
@async_test
async def test_messages_are_answered_in_their_order(tmp_path: Path, kind: str) -> None:
    async with sets_world(tmp_path, kind) as world:
        events = [fake_event(created_at=NOW_S + n) for n in range(2_500)]
        for start in range(0, 2_500, 500):
            await world.fill(*events[start : start + 500])
        own = items_of(events[::2])
        await world.sets.open("c", "s", EVERYTHING, FIRST)
        long = Initiator(own).reconcile(await world.sets.go_on("c", "s", Initiator(own).initiate())).next
        assert long is not None
        assert len(long) > sessions.INLINE_MESSAGE_BYTES, "this one is answered by a thread"
        done: list[int] = []

        async def ask(number: int, message: bytes) -> bytes:
            answer = await world.sets.go_on("c", "s", message)
            done.append(number)
            return answer

        answers = await asyncio.gather(*(ask(n, long if n % 2 else FIRST) for n in range(6)))
        assert done == list(range(6))
        assert answers[1] == answers[3] == answers[5]
        assert answers[0] == answers[2] == answers[4] != answers[1]


@pytest.mark.parametrize("n_events", [0, 100])
@pytest.mark.parametrize("n_bytes", [sessions.INLINE_MESSAGE_BYTES, sessions.INLINE_MESSAGE_BYTES + 4])
@async_test
async def test_long_messages_are_answered_by_a_thread_whatever_the_set(
    tmp_path: Path, n_bytes: int, n_events: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []
    compute = Responder.answer

    def answer(self: Responder, message: bytes) -> bytes:
        threads.append(threading.get_ident())
        return compute(self, message)

    monkeypatch.setattr(Responder, "answer", answer)
    async with sets_world(tmp_path, "local") as world:
        await world.fill(*[fake_event(created_at=NOW_S + n) for n in range(n_events)])
        await world.sets.open("c", "s", EVERYTHING, FIRST)
        empty_ranges = b"\x61" + bytes.fromhex("01000200") * ((n_bytes - 1) // 4) + bytes((n_bytes - 1) % 4)
        assert len(empty_ranges) == n_bytes
        await world.sets.go_on("c", "s", empty_ranges)
    here = threading.get_ident()
    assert [thread == here for thread in threads] == [True, n_bytes <= sessions.INLINE_MESSAGE_BYTES]


@async_test
async def test_a_session_that_is_closed_while_its_set_is_read(tmp_path: Path) -> None:
    async with sets_world(tmp_path, "local") as world:
        reached, go_on = asyncio.Event(), asyncio.Event()
        items = world.store.items

        async def wait(query: Query, *, max_items: int | None = None) -> Any:
            reached.set()
            await go_on.wait()
            return await items(query, max_items=max_items)

        world.store.items = wait  # type: ignore[method-assign]
        await world.fill(fake_event())
        opening = asyncio.create_task(world.sets.open("c", "s", NOTES, FIRST))
        await reached.wait()
        world.sets.gone("c")
        go_on.set()
        assert (await refusal(opening)).word == "closed"
        assert world.local._keeper.held_bytes == 0
        reached.clear()
        go_on.clear()
        opening = asyncio.create_task(world.sets.open("c", "s", NOTES, FIRST))
        await reached.wait()
        opening.cancel()
        await asyncio.gather(opening, return_exceptions=True)
        assert world.local.sessions() == []
        assert world.local._keeper.held_bytes == 0


# The service, seen by others


@async_test
async def test_the_calls_of_the_service(tmp_path: Path) -> None:
    async with sets_world(tmp_path, "local") as world, serving_sets(world.local) as served:
        wrap, notes = gift_wrap(KEYS[1], key=2), [fake_event(created_at=NOW_S + n) for n in range(40)]
        await world.fill(wrap, *notes)
        async with open_channel(served.address, credentials=None, token=None) as channel:
            stub: Any = NegentropyServiceStub(channel)  # type: ignore[no-untyped-call]
            answer = await stub.HandleNegOpen(
                types_pb2.NegOpenRequest(subscription_id="s", connection_id="c", initial_message=FIRST)
            )
            assert (answer.error, answer.complete, list(answer.have_ids), list(answer.need_ids)) == ("", False, [], [])
            step = Initiator(EMPTY).reconcile(answer.message)
            assert sorted(each.hex() for each in step.need) == ids_of(*notes), "without a scope a stranger asks"
            same = await stub.HandleNegMsg(
                types_pb2.NegMsgRequest(
                    subscription_id="s", connection_id="c", message=Initiator(items_of(notes)).initiate()
                )
            )
            assert (same.complete, same.error) == (True, "")
            (session,) = (await stub.ListSessions(common_pb2.Empty())).sessions
            assert (session.subscription_id, session.connection_id, session.round_count) == ("s", "c", 2)
            assert session.created_at == session.last_activity == NOW_S
            await stub.HandleNegOpen(
                types_pb2.NegOpenRequest(subscription_id="s", connection_id="d", initial_message=FIRST)
            )
            await stub.CloseSession(types_pb2.CloseSessionRequest(subscription_id="s", connection_id="d"))
            assert len((await stub.ListSessions(common_pb2.Empty())).sessions) == 1
            await stub.HandleNegOpen(
                types_pb2.NegOpenRequest(subscription_id="s", connection_id="d", initial_message=FIRST)
            )
            await stub.CloseSession(types_pb2.CloseSessionRequest(subscription_id="s"))
            assert len((await stub.ListSessions(common_pb2.Empty())).sessions) == 0
            gone = await stub.HandleNegMsg(
                types_pb2.NegMsgRequest(subscription_id="s", connection_id="c", message=FIRST)
            )
            assert gone.error.startswith("closed: ")
            assert not gone.message


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (types_pb2.NegOpenRequest(connection_id="c", initial_message=FIRST), "invalid: a subscription id is needed"),
        (types_pb2.NegOpenRequest(subscription_id="s"), "blocked: an initial message is needed"),
        (
            types_pb2.NegOpenRequest(
                subscription_id="s", initial_message=FIRST, filter=common_pb2.Filter(ids=[b"short"])
            ),
            "invalid: filter ids must hold 32 bytes each",
        ),
        (
            types_pb2.NegOpenRequest(
                subscription_id="s", initial_message=FIRST, filter=common_pb2.Filter(search=b"word")
            ),
            "unsupported: filter key 'search'",
        ),
        (
            types_pb2.NegOpenRequest(
                subscription_id="s", initial_message=FIRST, scope=types_pb2.ReadScope(readers=[b"short"])
            ),
            "invalid: scope: a reader has 5 bytes",
        ),
        (
            types_pb2.NegOpenRequest(
                subscription_id="s", initial_message=FIRST, scope=types_pb2.ReadScope(private_kinds=[65_536])
            ),
            "invalid: scope: kind 65536",
        ),
    ],
)
@async_test
async def test_the_service_refuses_by_name(tmp_path: Path, request_: types_pb2.NegOpenRequest, error: str) -> None:
    async with sets_world(tmp_path, "local") as world, serving_sets(world.local) as served:
        async with open_channel(served.address, credentials=None, token=None) as channel:
            stub: Any = NegentropyServiceStub(channel)  # type: ignore[no-untyped-call]
            answer = await stub.HandleNegOpen(request_)
            assert answer.error.startswith(error), answer.error
            assert not answer.message
        assert world.local.sessions() == []


# A service that is away


@async_test
async def test_a_service_that_is_not_there_is_waited_for(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    async with sets_world(tmp_path, "local") as world:
        channel = open_channel(address, credentials=None, token=None)
        impatient = RemoteSets(channel, timeout_s=0.2)
        error = await refusal(impatient.open("c", "s", EVERYTHING, FIRST))
        assert str(error) == "error: the service that reconciles cannot be asked: it was not reached within 0.2 s"
        patient = RemoteSets(channel, timeout_s=DEADLINE_S)
        opening = asyncio.create_task(patient.open("c", "s", EVERYTHING, FIRST))
        await asyncio.sleep(0)
        async with serving_sets(world.local, address) as served:
            await opening
            await patient.go_on("c", "s", FIRST)
            await served.server.stop(0)
        for session in world.local.sessions():
            world.local.close(session.connection_id, session.sub_id)
        going_on = asyncio.create_task(patient.go_on("c", "s", FIRST))
        async with serving_sets(world.local, address):
            assert (await refusal(going_on)).word == "closed", "the service that came back knows nothing of it"
            await patient.open("c", "s", EVERYTHING, FIRST)
            assert len(world.local.sessions()) == 1
            await patient.aclose()
            await settled(world)
        await impatient.aclose()
        await channel.close()
        assert (await refusal(patient.open("c", "s", EVERYTHING, FIRST))).word == "error"


@async_test
async def test_a_service_that_is_mute_is_not_waited_for_for_ever() -> None:
    async with mute_peer() as address:
        channel = open_channel(address, credentials=None, token=None)
        sets = RemoteSets(channel, timeout_s=0.2, build_timeout_s=0.0)
        assert (await refusal(sets.open("c", "s", EVERYTHING, FIRST))).word == "error"
        await sets.aclose()
        await channel.close()


@async_test
async def test_two_workers_have_connections_of_their_own(tmp_path: Path) -> None:
    async with (
        sets_world(tmp_path, "local") as world,
        serving_sets(world.local) as served,
        open_channel(served.address, credentials=None, token=None) as channel,
    ):
        first, second = (RemoteSets(channel, timeout_s=DEADLINE_S) for _ in range(2))
        await first.open("1", "s", EVERYTHING, FIRST)
        await second.open("1", "s", EVERYTHING, FIRST)
        assert len({session.connection_id for session in world.local.sessions()}) == 2
        first.gone("1")
        await settled(world, 1)
        await second.go_on("1", "s", FIRST)
        await second.aclose()
        await settled(world)
        await first.aclose()


@async_test
async def test_close_and_open_under_one_id_keep_their_order(tmp_path: Path) -> None:
    async with sets_world(tmp_path, "remote") as world:
        assert isinstance(world.sets, RemoteSets)
        for _ in range(30):
            await world.sets.open("c", "s", EVERYTHING, FIRST)
            world.sets.close("c", "s")
        await world.sets.open("c", "s", EVERYTHING, FIRST)
        await world.sets.go_on("c", "s", FIRST)
        assert len(world.local.sessions()) == 1
        world.sets.close("c", "s")
        await settled(world)
        world.sets.gone("c")
        assert not world.sets._connections


@async_test
async def test_the_service_has_heard_of_what_was_closed_before_another_is_opened(tmp_path: Path) -> None:
    async with sets_world(tmp_path, "remote", negentropy_max_sessions_per_connection=2) as world:
        await world.fill(*[fake_event(created_at=NOW_S + n) for n in range(50)])
        await world.sets.open("c", "0", NOTES, FIRST)
        await world.sets.open("c", "1", NOTES, FIRST)
        for number in range(2, 40):
            world.sets.close("c", str(number - 1))
            await world.sets.open("c", str(number), NOTES, FIRST)
        assert {session.sub_id for session in world.local.sessions()} == {"0", "39"}
        world.sets.gone("c")
        await settled(world)


@pytest.mark.parametrize("n_ids", [1, 1_000])
@async_test
async def test_what_is_closed_before_the_service_heard_of_it_costs_nothing(n_ids: int) -> None:
    async with mute_peer() as address, open_channel(address, credentials=None, token=None) as channel:
        remote = RemoteSets(channel, timeout_s=0.3, build_timeout_s=0.3)

        async def open_and_close(number: int) -> None:
            opening = asyncio.create_task(remote.open("c", str(number % n_ids), NOTES, FIRST))
            await asyncio.sleep(0)
            opening.cancel()
            remote.close("c", str(number % n_ids))
            await asyncio.gather(opening, return_exceptions=True)

        for number in range(3_000):
            await open_and_close(number)
            assert len(remote._farewells) <= 1
        await remote.aclose()
        assert not remote._connections
        assert not remote._farewells
