"""The store suite on a store behind gRPC, and what happens when that is away, stopped, mute or mad."""

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.component.remote_backend import RemoteBackend
from tests.component.remote_world import (
    SAVED,
    Follower,
    connected,
    mute_peer,
    numbered,
    serving,
    statuses,
    stored_behind,
    until,
)
from tests.component.store_proxy import StoreProxy
from tests.component.store_suite import StoreSuite
from tests.component.store_world import Sink
from tests.factory import NOW_S, delete_event, fake_event
from tests.process import free_port, running_db

from orly.db.querying import Querying
from orly.nostr.event import decode_verified
from orly.nostr.filter import Filter
from orly.pb.orlydb.v1 import service_pb2_grpc, streams_pb2
from orly.rpc.convert import STREAM_OPEN
from orly.store import remote_queries, remote_query, remote_saving
from orly.store.base import Query, QueryTimeoutError, SaveStatus, StoreError
from orly.store.remote import RemoteStore

EVERYTHING = Query(filters=(Filter(),))
Context = grpc.aio.ServicerContext[Any, Any]


class TestRemoteStore(StoreSuite):
    backend = RemoteBackend()


# Away and back


def test_nothing_is_lost_or_told_twice_when_the_service_is_killed_again_and_again() -> None:
    async def play() -> None:
        with running_db() as db:
            async with connected(db.address) as store:
                feed = Follower(store.feed(None))
                events = numbered(20_000)
                answered = 0

                async def save(part: Sequence[Any]) -> None:
                    nonlocal answered
                    assert statuses(await store.save(part)) <= SAVED
                    answered += len(part)

                saves = asyncio.gather(*(save(events[n : n + 7]) for n in range(0, 20_000, 7)))
                for _ in range(5):
                    seen = answered
                    await until(lambda seen=seen: answered > seen, "an answer")  # type: ignore[misc]
                    assert answered < 20_000, "nothing was under way"
                    db.kill()
                    db.start_again()
                await saves
                await until(lambda: len(feed.serials) >= 20_000, "the feed")
                assert feed.serials == sorted(set(feed.serials))
                assert sorted(feed.ids) == sorted(event.id for event in events)
                stored = await store.fetch(EVERYTHING)
                assert sorted(stored) == sorted(event.raw for event in events)
                assert store.trouble is None
                await feed.stop()

    asyncio.run(play())


def test_a_query_without_an_answer_is_asked_again_and_a_half_answered_one_fails() -> None:
    async def play() -> None:
        with running_db() as db:
            async with connected(db.address) as store:
                large = [fake_event(0, 1, NOW_S + n, content="x" * 40_000) for n in range(40)]
                assert statuses(await store.save(large)) == {SaveStatus.STORED}
                begun = Sink(credit=1)
                store.query(EVERYTHING, begun)
                await begun.wait(lambda: begun.calls == 1, "the first rows")
                db.kill()
                later = Sink()
                store.query(EVERYTHING, later)
                count = asyncio.create_task(store.count(EVERYTHING))
                await begun.over()
                assert "broke in the middle" in str(begun.error)
                await until(lambda: store.trouble is not None, "the break")
                db.start_again()
                await later.over()
                assert (len(later.events), later.through_serial) == (40, 40)
                assert await count == 40

    asyncio.run(play())


def test_what_waits_for_a_service_that_never_comes_fails_at_the_bound(caplog: pytest.LogCaptureFixture) -> None:
    async def play() -> None:
        async with connected(f"127.0.0.1:{free_port()}", timeout_s=0.5) as store:
            await everything_fails(store, "0.5 s")

    with caplog.at_level(logging.INFO, "orly.store"):
        asyncio.run(play())


def test_what_waits_for_a_mute_peer_fails_at_the_bound() -> None:
    async def play() -> None:
        async with mute_peer() as address, connected(address, timeout_s=0.5) as store:
            await everything_fails(store, "0.5 s")

    asyncio.run(play())


async def everything_fails(store: RemoteStore, bound: str) -> None:
    """Each call says that the store did not answer; none says OK."""
    text = f"did not answer within {bound}"
    sink = Sink()
    store.query(EVERYTHING, sink)
    saving = asyncio.create_task(store.save(numbered(3)))
    calls = (
        store.count(EVERYTHING), store.items(EVERYTHING), store.versions(EVERYTHING), store.serials(EVERYTHING),
        store.delete([bytes(32)]), store.deleted(fake_event()), store.last_serial(),
    )  # fmt: skip
    errors = await asyncio.gather(*calls, return_exceptions=True)
    results = await saving
    assert statuses(results) == {SaveStatus.FAILED}
    assert {result.detail for result in results} == {f"the store {text}"}
    for error in errors:
        assert isinstance(error, StoreError)
        assert text in str(error)
    await sink.over()
    assert text in str(sink.error)


def test_a_stopped_service_fails_what_waits_and_recovers() -> None:
    async def play() -> None:
        with running_db() as db:
            async with connected(db.address, timeout_s=1.0) as store:
                feed = Follower(store.feed(None))
                assert statuses(await store.save(numbered(10))) == {SaveStatus.STORED}
                assert await store.count(EVERYTHING) == 10
                db.signal(signal.SIGSTOP)
                try:
                    await everything_fails(store, "1 s")
                    await everything_fails(store, "1 s")
                finally:
                    db.signal(signal.SIGCONT)
                again = numbered(10, "after")
                results = await store.save(again)
                while statuses(results) == {SaveStatus.FAILED}:  # the connection heals in its own time
                    results = await store.save(again)
                assert statuses(results) <= SAVED
                await until(lambda: {event.id for event in again} <= set(feed.ids), "the feed")
                assert len(feed.serials) == len(set(feed.serials))
                assert set(feed.ids) == {decode_verified(raw).id for raw in await store.fetch(EVERYTHING)}
                await feed.stop()

    asyncio.run(play())


def test_a_break_is_logged_once_and_its_end_once(caplog: pytest.LogCaptureFixture) -> None:
    async def play() -> None:
        with running_db() as db:
            async with connected(db.address) as store:
                feed = Follower(store.feed(None))
                await store.save(numbered(1))
                await store.count(EVERYTHING)
                db.kill()
                await until(lambda: store.trouble is not None, "the break")
                db.start_again()
                await until(lambda: store.trouble is None, "the end of the break")
                await store.save(numbered(2))
                await feed.stop()

    with caplog.at_level(logging.INFO, "orly.store"):
        asyncio.run(play())
    texts = [record.getMessage() for record in caplog.records if record.name.startswith("orly.store.remote")]
    assert [text.partition(":")[0] for text in texts] == ["the store is away", "the store is back"]


# Mad peers


class Mad(service_pb2_grpc.DatabaseServiceServicer):
    """Answers what was not asked."""

    def __init__(self, answer: streams_pb2.SaveBatchResult) -> None:
        self.answer = answer
        self.calls = 0

    async def SaveEvents(self, request_iterator: AsyncIterator[streams_pb2.SaveBatch], context: Context) -> None:
        self.calls += 1
        await context.send_initial_metadata(STREAM_OPEN)
        async for request in request_iterator:
            if not self.answer.batch_id:
                self.answer.batch_id = request.batch_id
            await context.write(self.answer)

    async def StreamQueries(self, request_iterator: AsyncIterator[streams_pb2.QueryRequests], context: Context) -> None:
        self.calls += 1
        await context.send_initial_metadata(STREAM_OPEN)
        async for _ in request_iterator:
            await context.write(streams_pb2.QueryAnswers(parts=[streams_pb2.AnswerPart(query_id=999, count=1)]))

    async def WatchEvents(self, request: streams_pb2.WatchRequest, context: Context) -> None:
        self.calls += 1
        await context.send_initial_metadata(STREAM_OPEN)
        await context.write(streams_pb2.WatchBatch(through_serial=5))
        await context.write(streams_pb2.WatchBatch(through_serial=6, serials=[6], events=[b"no event"]))
        await asyncio.Event().wait()


@pytest.mark.parametrize(
    "answer",
    [
        streams_pb2.SaveBatchResult(batch_id=77, outcomes=b"\x01\x01", serials=[1, 2]),
        streams_pb2.SaveBatchResult(outcomes=b"\x01", serials=[1]),
        streams_pb2.SaveBatchResult(outcomes=b"\x01\x01\x01", serials=[1, 2, 3]),
        streams_pb2.SaveBatchResult(outcomes=b"\x01\x01", serials=[1]),
        streams_pb2.SaveBatchResult(outcomes=b"\x01\x63", serials=[1]),
        streams_pb2.SaveBatchResult(outcomes=b"\x08\x01", serials=[1]),
    ],
    ids=["another batch", "too few", "too many", "a serial is missing", "unknown outcome", "a reason is missing"],
)
def test_an_answer_that_makes_no_sense_is_no_ok(answer: streams_pb2.SaveBatchResult) -> None:
    async def play() -> None:
        mad = Mad(answer)
        async with serving(mad) as address, connected(address, timeout_s=1.0) as store:
            results = await store.save(numbered(2))
            assert [result.status for result in results] == [SaveStatus.FAILED] * 2
            assert "did not answer within 1 s" in results[0].detail
            assert mad.calls > 1, "the call was not made again"

    asyncio.run(play())


def test_an_answer_to_a_query_that_was_not_asked_breaks_the_call() -> None:
    async def play() -> None:
        mad = Mad(streams_pb2.SaveBatchResult())
        async with serving(mad) as address, connected(address) as store:
            counting = asyncio.create_task(store.count(EVERYTHING))
            await until(lambda: mad.calls > 2, "the call being made again")
            assert not counting.done()
            counting.cancel()
            await asyncio.wait((counting,))

    asyncio.run(play())


def test_a_feed_that_tells_of_what_is_no_event_ends_with_an_error() -> None:
    async def play() -> None:
        async with serving(Mad(streams_pb2.SaveBatchResult())) as address, connected(address) as store:
            feed = store.feed(None)
            with pytest.raises(StoreError, match="no event"):
                await anext(feed)
            await feed.aclose()

    asyncio.run(play())


class Refusing(service_pb2_grpc.DatabaseServiceServicer):
    """Takes no stream."""

    async def SaveEvents(self, request_iterator: AsyncIterator[streams_pb2.SaveBatch], context: Context) -> None:
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, "the token is wrong")


def test_a_refused_stream_is_not_taken_for_a_connection(caplog: pytest.LogCaptureFixture) -> None:
    async def play() -> None:
        async with serving(Refusing()) as address, connected(address, timeout_s=2.0) as store:
            assert statuses(await store.save(numbered(1))) == {SaveStatus.FAILED}
            assert store.trouble == "the token is wrong"

    with caplog.at_level(logging.INFO, "orly.store"):
        asyncio.run(play())
    assert [record.getMessage() for record in caplog.records] == ["the store is away: the token is wrong"]


# Long answers, many queries, limits


class Slow(service_pb2_grpc.DatabaseServiceServicer):
    """Answers queries from a store that takes its time, and counts signs of life that are asked for."""

    def __init__(self, store: StoreProxy) -> None:
        self.querying = Querying(store, 10)
        self.pings = 0

    async def StreamQueries(self, request_iterator: AsyncIterator[streams_pb2.QueryRequests], context: Context) -> None:
        await self.querying.StreamQueries(self._counted(request_iterator), context)

    async def _counted(
        self, requests: AsyncIterator[streams_pb2.QueryRequests]
    ) -> AsyncIterator[streams_pb2.QueryRequests]:
        async for request in requests:
            self.pings += request.ping
            yield request


def test_a_long_query_goes_on_while_the_service_is_alive(tmp_path: Path) -> None:
    async def play() -> None:
        async with stored_behind(tmp_path / "data") as (local, _):
            proxy = StoreProxy(local)
            slow = Slow(proxy)
            async with serving(slow) as address, connected(address, timeout_s=1.0) as store:
                proxy.hold_counts()
                counting = asyncio.create_task(store.count(EVERYTHING))
                await until(lambda: slow.pings >= 12 or counting.done(), "signs of life")  # 12 eighths of the bound
                assert not counting.done()
                proxy.release()
                assert await counting == 0

    asyncio.run(play())


def test_errors_of_queries_keep_their_kind(tmp_path: Path) -> None:
    async def play() -> None:
        async with stored_behind(tmp_path / "data") as (local, _):
            proxy = StoreProxy(local)
            async with serving(Slow(proxy)) as address, connected(address) as store:
                proxy.query_error = QueryTimeoutError("too slow")
                for ask in (store.count, store.fetch):
                    with pytest.raises(QueryTimeoutError, match="too slow"):
                        await ask(EVERYTHING)
                proxy.query_error = StoreError("the disk is gone")
                with pytest.raises(StoreError, match="the disk is gone"):
                    await store.fetch(EVERYTHING)

    asyncio.run(play())


def test_a_reader_that_holds_back_is_in_nobodys_way(tmp_path: Path) -> None:
    async def play() -> None:
        async with stored_behind(tmp_path / "data") as (_, address), connected(address) as store:
            large = [fake_event(0, 1, NOW_S + n, content="x" * 40_000) for n in range(100)]
            await store.save(large)
            held = [Sink(credit=1 + n % 3) for n in range(60)]
            handles = [store.query(EVERYTHING, sink) for sink in held]
            for sink in held:
                await sink.wait(lambda sink=sink: sink.credit <= 0, "the rows it takes")  # type: ignore[misc]
            assert await store.count(EVERYTHING) == 100
            assert statuses(await store.save(numbered(5))) == {SaveStatus.STORED}
            assert len(await store.fetch(EVERYTHING)) == 105
            for sink, handle in zip(held, handles, strict=True):
                assert not sink.is_over
                sink.credit = 1_000
                handle.resume()
            for sink in held:
                await sink.over()
                assert sink.events == [event.raw for event in reversed(large)]

    asyncio.run(play())


def test_what_waits_for_its_readers_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of 40,000 bytes fill a call of `rows`; a reader that has shown that it takes them may get a window ahead."""
    monkeypatch.setattr(remote_queries, "AMPLE_BUFFER_BYTES", 300_000)

    async def play() -> None:
        async with stored_behind(tmp_path / "data") as (_, address), connected(address) as store:
            await store.save([fake_event(0, 1, NOW_S + n, content="x" * 40_000) for n in range(100)])
            first = Sink(credit=2)
            store.query(EVERYTHING, first)
            await first.wait(lambda: first.credit <= 0, "the rows it takes")
            queries = store._queries
            await until(lambda: queries._buffered_bytes > 300_000, "the window to fill")
            assert queries._buffered_bytes <= remote_query.WINDOW_BYTES + 100_000
            before = queries._buffered_bytes
            second = Sink(credit=3)
            store.query(EVERYTHING, second)
            await second.wait(lambda: second.credit <= 0, "the rows it takes")
            assert await store.count(EVERYTHING) == 100
            assert queries._buffered_bytes <= before + remote_query.FIRST_WINDOW_BYTES + 40_000

    asyncio.run(play())


def test_thousands_of_queries_at_once(tmp_path: Path) -> None:
    async def play() -> None:
        async with (
            stored_behind(tmp_path / "data", max_concurrent_queries=20) as (_, address),
            connected(address) as store,
        ):
            events = numbered(200)
            await store.save(events)
            filters = [Filter(ids=frozenset({event.event.id})) for event in events]
            answers = await asyncio.gather(
                *(store.fetch(Query(filters=(filters[n % 200],))) for n in range(3_000)),
                *(store.count(Query(filters=(filters[n % 200], Filter(limit=0)))) for n in range(300)),
            )
            assert answers[:3_000] == [[events[n % 200].raw] for n in range(3_000)]
            assert answers[3_000:] == [1] * 300
            handles = [store.query(EVERYTHING, Sink()) for _ in range(300)]
            for handle in handles:
                handle.cancel()
            assert await store.count(EVERYTHING) == 200

    asyncio.run(play())


def test_too_many_waiting_queries_fail_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_queries, "MAX_OPEN", 3)

    async def play() -> None:
        async with connected(f"127.0.0.1:{free_port()}") as store:
            handles = [store.query(EVERYTHING, Sink()) for _ in range(3)]
            with pytest.raises(StoreError, match="too many queries"):
                store.query(EVERYTHING, Sink())
            handles[0].cancel()
            store.query(EVERYTHING, Sink())

    asyncio.run(play())


def test_a_query_that_fits_no_message_fails_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = Query(filters=(Filter(tags={"t": frozenset({"x" * 100})}),))
    size = len('{"#t":["' + "x" * 100 + '"]}')

    async def play() -> None:
        async with connected(f"127.0.0.1:{free_port()}") as store:
            monkeypatch.setattr(remote_queries, "MAX_START_BYTES", size)
            store.query(wanted, Sink()).cancel()
            monkeypatch.setattr(remote_queries, "MAX_START_BYTES", size - 1)
            with pytest.raises(StoreError, match="too large"):
                store.query(wanted, Sink())

    asyncio.run(play())


def test_too_many_waiting_events_fail_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    events = numbered(30)
    n_bytes = sum(len(event.raw) for event in events[:25])

    async def play(max_events: int, max_bytes: int) -> tuple[str, str]:
        monkeypatch.setattr(remote_saving, "MAX_WAITING_EVENTS", max_events)
        monkeypatch.setattr(remote_saving, "MAX_WAITING_BYTES", max_bytes)
        async with connected(f"127.0.0.1:{free_port()}", timeout_s=0.5) as store:
            waiting = asyncio.create_task(store.save(events[:20]))
            await asyncio.sleep(0)
            more = (await store.save(events[20:25]))[0].detail
            return more, (await waiting)[0].detail

    late, refused = "the store did not answer within 0.5 s", "too many events wait for the store"
    assert asyncio.run(play(25, 1 << 30)) == (late, late)
    assert asyncio.run(play(24, 1 << 30)) == (refused, late)
    assert asyncio.run(play(1_000, n_bytes)) == (late, late)
    assert asyncio.run(play(1_000, n_bytes - 1)) == (refused, late)
    assert asyncio.run(play(1, 1)) == (refused, late), "one save may always wait"


def test_a_large_save_goes_in_several_messages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_saving, "MAX_BATCH_EVENTS", 10)
    monkeypatch.setattr(remote_saving, "MAX_BATCH_BYTES", 20_000)

    async def play() -> None:
        async with stored_behind(tmp_path / "data") as (_, address), connected(address) as store:
            events = [*numbered(95), *(fake_event(content="x" * 9_000 + str(n)) for n in range(9)), *numbered(5)]
            events.insert(50, fake_event(content="x" * 30_000))
            results = await store.save(events)
            assert [result.serial for result in results] == [*range(1, 106), 0, 0, 0, 0, 0]
            assert {result.status for result in results[105:]} == {SaveStatus.DUPLICATE}

    asyncio.run(play())


def test_an_event_that_fits_no_message_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    large, larger = fake_event(content="x" * 10_000), fake_event(content="x" * 10_001)
    monkeypatch.setattr(remote_saving, "MAX_EVENT_BYTES", len(large.raw))
    monkeypatch.setattr(remote_saving, "MAX_BATCH_BYTES", 1_000)

    async def play() -> None:
        async with stored_behind(tmp_path / "data") as (_, address), connected(address) as store:
            results = await store.save([*numbered(2), larger, large, *numbered(3)])
            assert [result.status for result in results] == [
                SaveStatus.STORED, SaveStatus.STORED, SaveStatus.FAILED, SaveStatus.STORED,
                SaveStatus.DUPLICATE, SaveStatus.DUPLICATE, SaveStatus.STORED,
            ]  # fmt: skip
            assert "too large" in results[2].detail

    asyncio.run(play())


# What is known, the feed, the end


def test_known_follows_the_feed_and_is_forgotten_when_that_breaks() -> None:
    async def play() -> None:
        with running_db() as db:
            async with connected(db.address, recent_ids=3) as store:
                events = numbered(5)
                ids = [event.id for event in events]
                await store.save(events[:1])
                assert store.known(ids) == [False] * 5, "known without a feed that would tell of its removal"
                feed = Follower(store.feed(None))
                await store.save(events[1:3])
                await until(lambda: len(feed.serials) == 2, "the feed")
                assert store.known(ids) == [False, True, True, False, False]
                await store.save([delete_event(events[1], key=1)])
                await until(lambda: len(feed.serials) == 3, "the feed")
                assert store.known(ids) == [False, False, True, False, False]
                await store.save(events[3:])
                await until(lambda: len(feed.serials) == 5, "the feed")
                assert store.known(ids) == [False, False, False, True, True], "not the newest three"
                db.kill()
                await until(lambda: store.trouble is not None, "the break")
                assert store.known(ids) == [False] * 5
                await feed.stop()

    asyncio.run(play())


def test_what_comes_back_on_the_feed_is_not_decoded_again(tmp_path: Path) -> None:
    async def play() -> None:
        async with stored_behind(tmp_path / "data") as (local, address):
            mine, ephemeral, others, at_hand = numbered(1)[0], fake_event(kind=20_000), fake_event(1), fake_event(2)
            asked: list[int] = []

            def event_of(serial: int) -> Any:
                asked.append(serial)
                return at_hand if serial == 3 else None

            async with connected(address, event_of=event_of) as store:
                feed = Follower(store.feed(None))
                await store.save([mine])
                await store.save([ephemeral])
                await local.save([others])
                await local.save([at_hand])
                await until(lambda: len(feed.serials) == 3, "the feed")
                told = [item.event for batch in feed.batches for item in batch.stored]
                assert told[0] is mine
                assert (told[1], told[1] is others) == (others, False)
                assert told[2] is at_hand
                assert next(batch.ephemeral[0] for batch in feed.batches if batch.ephemeral) is ephemeral
                assert asked == [2, 3]
                await feed.stop()

    asyncio.run(play())


def test_closing_finishes_what_was_accepted_and_leaves_nothing_behind(tmp_path: Path) -> None:
    async def play() -> None:
        before = asyncio.all_tasks()
        async with stored_behind(tmp_path / "data") as (local, address):
            async with connected(address) as store:
                feed = store.feed(None)
                saves = [asyncio.create_task(store.save([event])) for event in numbered(50)]
                held, waiting = Sink(credit=0), asyncio.create_task(store.count(EVERYTHING))
                store.query(EVERYTHING, held)
                await asyncio.sleep(0)
            assert {status for save in saves for status in statuses(await save)} == {SaveStatus.STORED}
            assert [item.serial async for batch in feed for item in batch.stored] == list(range(1, 51))
            await asyncio.wait((waiting,))
            assert await local.last_serial() == 50
            for call in (store.count(EVERYTHING), store.last_serial(), store.delete([bytes(32)])):
                with pytest.raises(StoreError, match="closed"):
                    await call
            with pytest.raises(StoreError, match="closed"):
                store.feed(None)
        await until(lambda: asyncio.all_tasks() <= before, "tasks to end")

    asyncio.run(play())


def test_after_a_break_a_feed_says_that_removals_may_be_missing() -> None:
    async def play() -> None:
        with running_db() as db:
            async with connected(db.address) as store:
                feed = Follower(store.feed(None))
                await store.save(numbered(2))
                await until(lambda: len(feed.serials) == 2, "the feed")
                assert not any(batch.may_lack_removals for batch in feed.batches)
                for n in (1, 2):
                    db.kill()
                    await until(lambda: store.trouble is not None, "the break")
                    db.start_again()
                    await until(lambda n=n: sum(b.may_lack_removals for b in feed.batches) == n, "the word")  # type: ignore[misc]
                    last = feed.batches[-1]
                    assert (last.through_serial, last.stored, last.removed) == (2, (), ())
                await store.save(numbered(3))
                await until(lambda: len(feed.serials) == 3, "the feed")
                assert not feed.batches[-1].may_lack_removals
                await feed.stop()

    asyncio.run(play())


def test_a_set_waits_for_where_its_feed_begins_within_the_bound() -> None:
    async def play() -> None:
        with running_db() as db:
            async with connected(db.address, timeout_s=2.0) as store:
                assert len((await store.items(EVERYTHING)).rows) == 0
                db.kill()
                feed = store.feed(None)
                for call in (store.items(EVERYTHING), store.expirations(0), store.feeds_have_begun()):
                    with pytest.raises(StoreError):
                        await call
                await feed.aclose()
                await store.feeds_have_begun()

    asyncio.run(play())


def test_an_abandoned_feed_holds_no_save_back() -> None:
    async def play() -> None:
        with running_db() as db:
            async with connected(db.address) as store:
                feed = store.feed(None)
                await feed.aclose()
                assert statuses(await store.save(numbered(1))) == {SaveStatus.STORED}
                with pytest.raises(StopAsyncIteration):
                    await anext(feed)

    asyncio.run(play())
