"""The three hot streams as any client meets them, and the parts they are made of."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.component.lmdb_backend import MAX_BYTES
from tests.component.remote_backend import POLICY
from tests.component.remote_world import DEADLINE_S, numbered, until
from tests.component.store_proxy import StoreProxy
from tests.component.store_world import packed
from tests.factory import NOW_S, event_json, expiring_event, fake_event, make_event
from tests.strategies import QUICK

from orly.db import answer_writer
from orly.db.answer_writer import BACKLOG_BYTES, MESSAGE_BYTES, AnswerWriter
from orly.db.querying import Querying
from orly.db.saving import MAX_UNDER_WAY, Saving
from orly.db.watching import Watching, joined, pieces
from orly.intake.verify import Verifier
from orly.pb.orlydb.v1 import service_pb2, service_pb2_grpc, streams_pb2
from orly.rpc.channel import open_channel
from orly.rpc.server import RpcServer
from orly.store.base import FeedBatch, StoredEvent, StoreError
from orly.store.lmdb.store import LmdbStore

SERVICE = service_pb2.DESCRIPTOR.services_by_name["DatabaseService"].full_name
Call = Any


class Streams(service_pb2_grpc.DatabaseServiceServicer):
    """The service reduced to its streams."""

    def __init__(self, store: StoreProxy, **options: Any) -> None:
        self.saving = Saving(store, POLICY, Verifier(share=False), lambda: NOW_S)
        self.querying = Querying(store, options.pop("max_concurrent", 1_000), **options)
        self.watching = Watching(store)

    async def SaveEvents(self, request_iterator: Any, context: Any) -> None:
        await self.saving.SaveEvents(request_iterator, context)

    async def StreamQueries(self, request_iterator: Any, context: Any) -> None:
        await self.querying.StreamQueries(request_iterator, context)

    async def WatchEvents(self, request: streams_pb2.WatchRequest, context: Any) -> None:
        await self.watching.WatchEvents(request, context)

    def stop(self) -> None:
        self.saving.stop()
        self.querying.stop()
        self.watching.stop()


class World:
    """A store, its streams, and a client."""

    def __init__(self, store: StoreProxy, streams: Streams, stub: Any) -> None:
        self.store = store
        self.streams = streams
        self.stub = stub


@asynccontextmanager
async def world(directory: Path, **options: Any) -> AsyncIterator[World]:
    local = await LmdbStore.open(
        directory / "data", max_bytes=MAX_BYTES, now_s=lambda: NOW_S, monotonic_s=lambda: 0.0
    )  # a clock that stands still: how an answer is cut does not depend on how busy the machine is
    store = StoreProxy(local)
    streams = Streams(store, **options)
    server = RpcServer("127.0.0.1:0", credentials=None)
    server.add(service_pb2_grpc.add_DatabaseServiceServicer_to_server, streams, SERVICE)
    await server.start()
    channel = open_channel(server.address, credentials=None, token=None)
    try:
        async with asyncio.timeout(DEADLINE_S):
            yield World(store, streams, service_pb2_grpc.DatabaseServiceStub(channel))  # type: ignore[no-untyped-call]
    finally:
        await channel.close()
        streams.stop()
        await server.stop(1.0)
        await store.close()


def start(query_id: int, *filters: bytes, **options: Any) -> streams_pb2.QueryRequests:
    return streams_pb2.QueryRequests(
        actions=[
            streams_pb2.QueryAction(
                query_id=query_id, start=streams_pb2.QueryStart(filters=filters or [b"{}"], **options)
            )
        ]
    )


def more(query_id: int, n_bytes: int) -> streams_pb2.QueryRequests:
    return streams_pb2.QueryRequests(actions=[streams_pb2.QueryAction(query_id=query_id, more_bytes=n_bytes)])


def cancel(query_id: int) -> streams_pb2.QueryRequests:
    action = streams_pb2.QueryAction(query_id=query_id)
    action.cancel.SetInParent()
    return streams_pb2.QueryRequests(actions=[action])


async def parts(call: Call, until_end_of: Sequence[int]) -> list[streams_pb2.AnswerPart]:
    """All parts until these queries are answered."""
    found: list[streams_pb2.AnswerPart] = []
    left = set(until_end_of)
    while left:
        answers = await call.read()
        assert answers is not grpc.aio.EOF, "the stream ended"
        found += answers.parts
        left -= {part.query_id for part in answers.parts if part.WhichOneof("end")}
    return found


async def ping(call: Call) -> list[streams_pb2.AnswerPart]:
    """What came before the answer to a ping: all that was ready."""
    await call.write(streams_pb2.QueryRequests(ping=True))
    found: list[streams_pb2.AnswerPart] = []
    while True:
        answers = await call.read()
        found += answers.parts
        if answers.pong:
            return found


def names(outcomes: bytes) -> list[str]:
    return [streams_pb2.SaveOutcome.Name(outcome) for outcome in outcomes]


# SaveEvents


def test_events_nobody_has_checked_pass_every_check(tmp_path: Path) -> None:
    async def play() -> None:
        async with world(tmp_path) as here:
            stored, good = make_event(content="stored"), [make_event(n % 8, content=f"{n}") for n in range(300)]
            forged = fake_event(content="forged")
            await here.store.inner.save([stored])
            call = here.stub.SaveEvents()
            batch = [
                good[0].raw, forged.raw, b"junk", event_json(good[1], content="other"), stored.raw,
                make_event(created_at=2**62 + NOW_S + 1).raw, expiring_event(NOW_S, signed=True).raw,
                make_event(kind=20_000).raw, event_json(stored, sig="00" * 64),
                make_event(tags=[["-"]]).raw, *(event.raw for event in good[1:]),
            ]  # fmt: skip
            await call.write(streams_pb2.SaveBatch(batch_id=9, events=batch))
            answer = await call.read()
            assert answer.batch_id == 9
            assert names(answer.outcomes) == [
                "STORED", "REFUSED", "REFUSED", "REFUSED", "DUPLICATE", "REFUSED", "EXPIRED", "DELIVERED", "DUPLICATE",
                *["STORED"] * 300,
            ]  # fmt: skip
            assert list(answer.serials) == list(range(2, 303))
            assert answer.reasons[0] == "invalid: the signature does not match"
            assert answer.reasons[1].startswith("invalid: event is not valid JSON")
            assert answer.reasons[2] == "invalid: id does not match the event"
            assert "s in the future" in answer.reasons[3]
            assert len(answer.reasons) == 4

    asyncio.run(play())


def test_checked_events_that_are_none_are_refused_one_by_one(tmp_path: Path) -> None:
    async def play() -> None:
        async with world(tmp_path) as here:
            call = here.stub.SaveEvents()
            events = [event.raw for event in numbered(1_200)]
            events[700] = b'{"id":"'
            events[701] = b""
            await call.write(streams_pb2.SaveBatch(batch_id=1, events=events, verified=True))
            await call.write(streams_pb2.SaveBatch(batch_id=2, verified=True))
            first, second = await call.read(), await call.read()
            assert names(first.outcomes) == ["STORED"] * 700 + ["REFUSED"] * 2 + ["STORED"] * 498
            assert all(reason.startswith("invalid: ") for reason in first.reasons)
            assert (second.batch_id, second.outcomes) == (2, b"")
            await call.done_writing()
            assert await call.read() is grpc.aio.EOF
            assert await call.code() is grpc.StatusCode.OK

    asyncio.run(play())


def test_a_stream_is_not_read_beyond_the_batches_that_may_be_under_way(tmp_path: Path) -> None:
    async def play() -> None:
        async with world(tmp_path) as here:
            here.store.hold_saves()
            call = here.stub.SaveEvents()
            for n, event in enumerate(numbered(20)):
                await call.write(streams_pb2.SaveBatch(batch_id=n, events=[event.raw], verified=True))
            await until(lambda: len(here.store.saved) == MAX_UNDER_WAY, "the batches that may be under way")
            other = here.stub.SaveEvents()  # what is sent on a second stream overtakes what waits on the first
            await other.write(streams_pb2.SaveBatch(events=[fake_event(7).raw], verified=True))
            await until(lambda: len(here.store.saved) == MAX_UNDER_WAY + 1, "the other stream")
            assert len(here.store.saved) == MAX_UNDER_WAY + 1
            here.store.release()
            assert [(await call.read()).batch_id for _ in range(20)] == list(range(20))
            assert len(here.store.saved) == 21

    asyncio.run(play())


def test_a_store_that_fails_says_so_for_each_event(tmp_path: Path) -> None:
    async def play() -> None:
        async with world(tmp_path) as here:
            here.store.save_error = StoreError("the disk is full")
            call = here.stub.SaveEvents()
            batch = streams_pb2.SaveBatch(events=[fake_event().raw, b"junk", fake_event(1).raw], verified=True)
            await call.write(batch)
            answer = await call.read()
            assert names(answer.outcomes) == ["FAILED", "REFUSED", "FAILED"]
            assert [answer.reasons[0], answer.reasons[2]] == ["the disk is full"] * 2

    asyncio.run(play())


def test_stopping_answers_what_was_read_and_takes_no_new_stream(tmp_path: Path) -> None:
    async def play() -> None:
        async with world(tmp_path) as here:
            here.store.hold_saves()
            saving, asking, watching = (
                here.stub.SaveEvents(),
                here.stub.StreamQueries(),
                here.stub.WatchEvents(streams_pb2.WatchRequest()),
            )
            await saving.write(streams_pb2.SaveBatch(batch_id=3, events=[fake_event().raw], verified=True))
            await ping(asking)
            assert (await watching.read()).through_serial == 0
            await until(lambda: len(here.store.saved) == 1, "the save")
            here.streams.stop()
            here.store.release()
            assert (await saving.read()).batch_id == 3
            for call in (saving, asking, watching):
                assert await call.code() is grpc.StatusCode.UNAVAILABLE
                assert await call.details() == "the store is stopping"
            for call in (
                here.stub.SaveEvents(),
                here.stub.StreamQueries(),
                here.stub.WatchEvents(streams_pb2.WatchRequest()),
            ):
                assert await call.code() is grpc.StatusCode.UNAVAILABLE

    asyncio.run(play())


# StreamQueries


def test_a_window_holds_an_answer_back_to_the_byte(tmp_path: Path) -> None:
    async def play() -> None:
        async with world(tmp_path) as here:
            events = [fake_event(0, 1, NOW_S + n, content="x" * 65_536) for n in range(5)]
            await here.store.inner.save(events)
            size = len(events[0].raw)
            call = here.stub.StreamQueries()
            await call.write(start(1, window_bytes=2 * size))
            first = await ping(call)
            assert [len(part.events) for part in first] == [1, 1]
            assert not any(part.WhichOneof("end") for part in first)
            await call.write(more(1, 1))
            assert [len(part.events) for part in await ping(call)] == [1], "one byte of room is enough for a part"
            await call.write(more(1, size - 1))
            assert await ping(call) == []
            await call.write(more(1, 1))
            assert [len(part.events) for part in await ping(call)] == [1]
            await call.write(more(1, 10 * size))
            rest = await parts(call, [1])
            assert [event for part in (*first, *rest) for event in part.events] != []
            assert rest[-1].through_serial == 5

    asyncio.run(play())


def test_the_end_comes_with_the_last_events(tmp_path: Path) -> None:
    async def play() -> None:
        async with world(tmp_path) as here:
            await here.store.inner.save(numbered(3))
            call = here.stub.StreamQueries()
            await call.write(start(7))
            answers = await call.read()
            assert [(part.query_id, len(part.events), part.through_serial) for part in answers.parts] == [(7, 3, 3)]

    asyncio.run(play())


def test_a_held_answer_takes_no_turn_from_others(tmp_path: Path) -> None:
    async def play() -> None:
        async with world(tmp_path, max_concurrent=1) as here:
            await here.store.inner.save([fake_event(0, 1, NOW_S + n, content="x" * 65_536) for n in range(3)])
            call = here.stub.StreamQueries()
            await call.write(start(1, window_bytes=1))
            assert [part.query_id for part in await ping(call)] == [1]
            await call.write(start(2, window_bytes=1 << 20))
            assert len(await parts(call, [2])) == 3
            await call.write(more(1, 1 << 20))
            assert len(await parts(call, [1])) == 2

    asyncio.run(play())


def test_queries_beyond_those_worked_on_wait_in_order(tmp_path: Path) -> None:
    async def play() -> None:
        async with world(tmp_path, max_concurrent=2, max_open=5) as here:
            here.store.hold_counts()
            call = here.stub.StreamQueries()
            for n in range(1, 7):
                await call.write(start(n, kind=streams_pb2.QueryStart.COUNT))
            found = await ping(call)
            assert [(part.query_id, part.error.detail) for part in found] == [(6, "5 queries are open, the maximum")]
            assert len(here.store.queries) == 2
            await call.write(cancel(3))
            await call.write(cancel(99))
            await ping(call)
            here.store.release()
            assert [part.query_id for part in await parts(call, [1, 2, 4, 5])] == [1, 2, 4, 5]
            assert len(here.store.queries) == 4

    asyncio.run(play())


def test_a_query_whose_time_runs_out_before_its_turn_says_so(tmp_path: Path) -> None:
    async def play() -> None:
        now = [0.0]
        async with world(tmp_path, max_concurrent=1, monotonic_s=lambda: now[0]) as here:
            here.store.hold_counts()
            call = here.stub.StreamQueries()
            for n in (1, 2, 3):
                await call.write(start(n, kind=streams_pb2.QueryStart.COUNT, timeout_s=1.0 * n))
            await ping(call)
            now[0] = 2.5
            here.store.release()
            found = {part.query_id: part for part in await parts(call, [1, 2, 3])}
            assert found[2].error.kind == streams_pb2.QueryError.TIMEOUT
            assert "2 s for its turn" in found[2].error.detail
            assert [found[n].WhichOneof("end") for n in (1, 3)] == ["count", "count"]

    asyncio.run(play())


def test_lists_come_in_pieces(tmp_path: Path) -> None:
    async def play() -> None:
        async with world(tmp_path) as here:
            events = [fake_event(n % 8, 1, NOW_S + n, content="x" * 300) for n in range(9_000)]
            await here.store.inner.save(events)
            call = here.stub.StreamQueries()
            kinds = streams_pb2.QueryStart
            for query_id, kind in enumerate((kinds.COUNT, kinds.VERSIONS, kinds.ITEMS, kinds.SERIALS)):
                await call.write(start(query_id, kind=kind, window_bytes=1 << 30))
            found = await parts(call, [0, 1, 2, 3])
            assert [part.count for part in found if part.query_id == 0] == [9_000]
            assert [raw for part in found for raw in part.events] == [event.raw for event in reversed(events)]
            items = b"".join(part.items for part in found)
            assert items == packed(events)
            assert {part.through_serial for part in found if part.query_id == 2 and part.WhichOneof("end")} == {9_000}
            assert [serial for part in found for serial in part.serials] == list(range(9_000, 0, -1))
            for query_id in (1, 2, 3):
                assert len([part for part in found if part.query_id == query_id]) > 1
            await call.write(start(9, kind=kinds.ITEMS, window_bytes=1))
            assert [len(part.items) for part in (await call.read()).parts] == [64 * 1024]
            assert await ping(call) == []
            await call.write(more(9, 1 << 30))
            await parts(call, [9])
            await call.write(start(10, kind=kinds.ITEMS, max_items=8_999))
            assert (await parts(call, [10]))[0].error.kind == streams_pb2.QueryError.TOO_LARGE

    asyncio.run(play())


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (start(1, b"[]"), "invalid query: a filter must be an object"),
        (start(1, kind=77), "invalid query: kind 77 is unknown"),
        (streams_pb2.QueryRequests(actions=[streams_pb2.QueryAction(query_id=1, start=streams_pb2.QueryStart())]),
         "invalid query: a query needs a filter"),
    ],
)  # fmt: skip
def test_a_bad_query_harms_no_other(tmp_path: Path, request_: streams_pb2.QueryRequests, text: str) -> None:
    async def play() -> None:
        async with world(tmp_path) as here:
            call = here.stub.StreamQueries()
            await call.write(request_)
            await call.write(start(2))
            found = await parts(call, [1, 2])
            assert [part.error.detail for part in found] == [text, ""]
            await call.done_writing()
            assert await call.read() is grpc.aio.EOF

    asyncio.run(play())


def test_an_id_that_is_in_use_ends_the_stream(tmp_path: Path) -> None:
    async def play() -> None:
        async with world(tmp_path) as here:
            here.store.hold_counts()
            for again in (start(1), streams_pb2.QueryRequests(actions=[streams_pb2.QueryAction(query_id=2)])):
                call = here.stub.StreamQueries()
                await call.write(start(1, kind=streams_pb2.QueryStart.COUNT))
                await call.write(again)
                assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
                assert (await call.details()).startswith("invalid: query ")

    asyncio.run(play())


def test_who_closes_its_side_still_gets_its_answers(tmp_path: Path) -> None:
    async def play() -> None:
        async with world(tmp_path) as here:
            events = numbered(2_000)
            await here.store.inner.save(events)
            here.store.hold_counts()
            call = here.stub.StreamQueries()
            await call.write(start(1, kind=streams_pb2.QueryStart.COUNT))
            await call.write(start(2, window_bytes=1 << 30))
            await call.done_writing()
            await until(lambda: len(here.store.queries) == 2, "the queries")
            here.store.release()
            found = await parts(call, [1, 2])
            assert sum(len(part.events) for part in found) == 2_000
            assert await call.read() is grpc.aio.EOF
            assert await call.code() is grpc.StatusCode.OK

    asyncio.run(play())


def test_queries_of_a_client_that_is_gone_are_cancelled(tmp_path: Path) -> None:
    async def play() -> None:
        async with world(tmp_path) as here:
            await here.store.inner.save([fake_event(0, 1, NOW_S + n, content="x" * 65_536) for n in range(3)])
            here.store.hold_counts()
            before = asyncio.all_tasks()
            call = here.stub.StreamQueries()
            await call.write(start(1, window_bytes=1))
            await call.write(start(2, kind=streams_pb2.QueryStart.COUNT))
            await ping(call)
            local = here.store.inner
            assert isinstance(local, LmdbStore)
            assert len(local._queries) == 1
            call.cancel()
            await until(lambda: not local._queries, "the query to end")
            await until(
                lambda: not any("ListQuery" in repr(task) for task in asyncio.all_tasks() - before), "the count"
            )

    asyncio.run(play())


def test_a_writer_joins_what_is_ready_and_says_when_there_is_room() -> None:
    async def play() -> None:
        written: list[streams_pb2.QueryAnswers] = []
        gate = asyncio.Event()
        drained = 0

        async def write(message: streams_pb2.QueryAnswers) -> None:
            await gate.wait()
            written.append(message)

        def on_drained() -> None:
            nonlocal drained
            drained += 1

        writer = AnswerWriter(write, on_drained)
        for n in range(10):
            writer.add(n, 100)
        task = asyncio.create_task(writer.run())
        await asyncio.sleep(0)
        n_parts = 10
        while not writer.is_full():
            writer.add(n_parts, 50_000)
            n_parts += 1
        assert BACKLOG_BYTES <= 50_000 * (n_parts - 10) + 10_000 < BACKLOG_BYTES + 60_000
        assert (written, drained) == ([], 0)
        gate.set()
        await writer.flush()
        assert drained == 1
        assert [part.query_id for message in written for part in message.parts] == list(range(n_parts))
        assert len(written[0].parts) == 10
        assert max(len(message.parts) for message in written) == MESSAGE_BYTES // (50_000 + 16)
        task.cancel()

    asyncio.run(play())


def test_queries_wait_while_the_backlog_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that asks for much and reads nothing makes the service keep no more than the backlog."""
    monkeypatch.setattr(answer_writer, "BACKLOG_BYTES", 200_000)
    backlogs: list[int] = []
    add = AnswerWriter.add

    def noted(self: AnswerWriter, query_id: int, size: int) -> streams_pb2.AnswerPart:
        part = add(self, query_id, size)
        backlogs.append(self._backlog_bytes)
        return part

    monkeypatch.setattr(AnswerWriter, "add", noted)

    async def play() -> None:
        async with world(tmp_path) as here:
            events = [fake_event(0, 1, NOW_S + n, content="x" * 65_536) for n in range(200)]
            await here.store.inner.save(events)
            call = here.stub.StreamQueries()
            for n in range(20):
                await call.write(start(n, window_bytes=1 << 40))
            found = await parts(call, list(range(20)))
            for n in range(20):
                mine = [raw for part in found if part.query_id == n for raw in part.events]
                assert mine == [event.raw for event in reversed(events)]
            assert max(backlogs) < 200_000 + 70_000

    asyncio.run(play())


# WatchEvents


def test_the_first_message_says_where_the_feed_begins(tmp_path: Path) -> None:
    async def play() -> None:
        async with world(tmp_path) as here:
            await here.store.inner.save(numbered(5))
            for after, begins in ((None, 5), (0, 0), (3, 3), (5, 5), (99, 5)):
                call = here.stub.WatchEvents(streams_pb2.WatchRequest(after_serial=after))
                assert (await call.read()).through_serial == begins
                if begins < 5:
                    batch = await call.read()
                    assert (list(batch.serials), batch.through_serial) == (list(range(begins + 1, 6)), 5)
                call.cancel()

    asyncio.run(play())


def test_closing_the_store_ends_the_feed_after_what_was_told(tmp_path: Path) -> None:
    async def play() -> None:
        async with world(tmp_path) as here:
            call = here.stub.WatchEvents(streams_pb2.WatchRequest())
            assert (await call.read()).through_serial == 0
            await here.store.inner.save(numbered(3))
            await here.store.close()
            told = [serial async for batch in call_until_end(call) for serial in batch.serials]
            assert told == [1, 2, 3]
            assert await call.code() is grpc.StatusCode.UNAVAILABLE

    asyncio.run(play())


async def call_until_end(call: Call) -> AsyncIterator[streams_pb2.WatchBatch]:
    try:
        while (batch := await call.read()) is not grpc.aio.EOF:
            yield batch
    except grpc.aio.AioRpcError:
        return


def feed_batch(first_serial: int, n_stored: int, n_ephemeral: int, removed: Sequence[bytes] = ()) -> FeedBatch:
    stored = tuple(StoredEvent(first_serial + n, fake_event(content=f"{first_serial + n}")) for n in range(n_stored))
    told = tuple(fake_event(kind=20_000, content=f"{first_serial} {n}") for n in range(n_ephemeral))
    return FeedBatch(through_serial=first_serial + n_stored - 1, stored=stored, ephemeral=told, removed=tuple(removed))


@QUICK
@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3), st.integers(0, 40)), min_size=1, max_size=12),
    st.sampled_from([1, 32, 700, 1_500, 10_000, 1 << 20]),
)
def test_whatever_is_joined_and_cut_everything_is_told_once_and_in_order(
    shapes: list[tuple[int, int, int]], max_bytes: int
) -> None:
    serial = 1
    batches: deque[FeedBatch] = deque()
    for n, (n_stored, n_ephemeral, n_removed) in enumerate(shapes):
        removed = [bytes([n, k]) * 16 for k in range(n_removed)]
        batches.append(feed_batch(serial, n_stored, n_ephemeral, removed))
        serial += n_stored
    expected = list(batches)
    messages: list[streams_pb2.WatchBatch] = []
    while batches:
        messages += pieces(joined(batches, max_bytes), max_bytes)
    assert [s for m in messages for s in m.serials] == [i.serial for b in expected for i in b.stored]
    assert [raw for m in messages for raw in m.events] == [i.event.raw for b in expected for i in b.stored]
    assert [raw for m in messages for raw in m.ephemeral] == [event.raw for b in expected for event in b.ephemeral]
    assert b"".join(m.removed for m in messages) == b"".join(i for b in expected for i in b.removed)
    throughs = [m.through_serial for m in messages]
    assert throughs == sorted(throughs)
    assert throughs[-1] == expected[-1].through_serial
    told = 0
    for message in messages:
        told = max([told, *message.serials])
        assert message.through_serial >= told
        rest = [s for m in messages[messages.index(message) + 1 :] for s in m.serials]
        assert all(s > message.through_serial for s in rest), "it says that it told what comes later"
        size = sum(map(len, message.events)) + sum(map(len, message.ephemeral))
        assert size <= max_bytes or len(message.events) + len(message.ephemeral) == 1


def test_what_is_stored_again_is_not_joined_with_its_removal() -> None:
    event = fake_event(content="1")
    batches = deque(
        [
            feed_batch(1, 1, 0),
            FeedBatch(through_serial=1, removed=(event.id,)),
            FeedBatch(through_serial=2, stored=(StoredEvent(2, event),)),
            FeedBatch(through_serial=2, removed=(event.id,)),
        ]
    )
    found = [joined(batches, 1 << 20) for _ in range(2)]
    assert not batches
    assert [[item.serial for item in batch.stored] for batch in found] == [[1], [2]]
    assert [batch.removed for batch in found] == [(event.id,), (event.id,)]


@pytest.mark.parametrize("max_bytes", [1, 700, 1 << 20])
@pytest.mark.parametrize("at", [None, 0, 1, 2])
def test_that_removals_may_be_missing_reaches_the_caller(max_bytes: int, at: int | None) -> None:
    batches = deque(
        msgspec.structs.replace(feed_batch(1 + 3 * n, 3, 2, [bytes([n]) * 32]), may_lack_removals=n == at)
        for n in range(3)
    )
    messages: list[streams_pb2.WatchBatch] = []
    while batches:
        messages += pieces(joined(batches, max_bytes), max_bytes)
    assert any(message.may_lack_removals for message in messages) is (at is not None)
    if at is not None:  # no later than the first that the batch could have lacked them before
        first = next(message for message in messages if message.may_lack_removals)
        assert not first.serials or first.serials[0] <= 1 + 3 * at


def test_a_slow_reader_of_the_feed_is_held_back_and_loses_nothing(tmp_path: Path) -> None:
    async def play() -> None:
        async with world(tmp_path) as here:
            call = here.stub.WatchEvents(streams_pb2.WatchRequest())
            await call.read()
            events = [fake_event(n % 8, content=f"{n} " + "x" * 2_000) for n in range(12_000)]
            for first in range(0, 12_000, 500):
                await here.store.inner.save(events[first : first + 500])
            serials: list[int] = []
            while len(serials) < 12_000:
                serials += (await call.read()).serials
            assert serials == list(range(1, 12_001))

    asyncio.run(play())
