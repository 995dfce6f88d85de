"""The feed's hub by itself: what no store can be made to do at will, and the edges of its queue."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from tests.component.store_world import DEADLINE_S
from tests.factory import fake_event

from orly.store.base import FeedBatch, StoredEvent, StoreError
from orly.store.lmdb.feed import MAX_QUEUED_EVENTS, Feed, FeedHub

EVENT = fake_event()


class Log:
    """Committed events, as the tables would have them."""

    def __init__(self) -> None:
        self.last = 0
        self.reads = 0
        self.closed = False

    def commit(self, count: int = 1) -> FeedBatch:
        first = self.last + 1
        self.last += count
        return FeedBatch(
            through_serial=self.last, stored=tuple(StoredEvent(serial, EVENT) for serial in range(first, self.last + 1))
        )

    def read_after(self, serial: int, limit: int) -> list[StoredEvent]:
        self.reads += 1
        if self.closed:
            raise StoreError("the store is closed")
        return [StoredEvent(n, EVENT) for n in range(serial + 1, min(self.last, serial + limit) + 1)]


def play(body: Callable[[FeedHub, Log], Awaitable[None]]) -> None:
    async def main() -> None:
        log = Log()
        await asyncio.wait_for(body(FeedHub(log.read_after), log), DEADLINE_S)

    asyncio.run(main())


def serials(batch: FeedBatch) -> list[int]:
    return [item.serial for item in batch.stored]


async def is_idle(feed: Feed) -> bool:
    """Whether the feed has nothing to tell at present."""
    step = asyncio.ensure_future(anext(feed))
    for _ in range(3):
        await asyncio.sleep(0)
    idle = not step.done()
    step.cancel()
    await asyncio.gather(step, return_exceptions=True)
    return idle


def test_what_was_read_before_it_was_published_is_not_told_twice() -> None:
    async def body(hub: FeedHub, log: Log) -> None:
        log.commit(3)
        feed = hub.open(0, 3)
        unpublished = log.commit(2)
        assert serials(await anext(feed)) == [1, 2, 3, 4, 5]
        assert await is_idle(feed)
        hub.publish(unpublished)
        late = await anext(feed)
        assert (serials(late), late.through_serial) == ([], 5)
        hub.publish(log.commit())
        assert serials(await anext(feed)) == [6]

    play(body)


def test_a_batch_that_was_read_in_part_is_cut() -> None:
    async def body(hub: FeedHub, log: Log) -> None:
        batch = log.commit(4)
        feed = hub.open(2, 2)
        hub.publish(FeedBatch(through_serial=4, stored=batch.stored, removed=(b"x",), ephemeral=(EVENT,)))
        told = await anext(feed)
        assert (serials(told), told.removed, told.ephemeral) == ([3, 4], (b"x",), (EVENT,))

    play(body)


@pytest.mark.parametrize("extra", [0, 1])
def test_the_queue_holds_exactly_its_bound(extra: int) -> None:
    async def body(hub: FeedHub, log: Log) -> None:
        feed = hub.open(0, 0)
        for count in (1, MAX_QUEUED_EVENTS - 1 + extra):
            hub.publish(log.commit(count))
        told = await anext(feed)
        while told.through_serial < log.last:
            following = await anext(feed)
            assert serials(following)[:1] in ([], [told.through_serial + 1])
            told = following
        assert (log.reads > 0) == bool(extra)

    play(body)


def test_ephemeral_events_and_removals_count_as_unread_too() -> None:
    async def body(hub: FeedHub, log: Log) -> None:
        feed = hub.open(0, 0)
        hub.publish(FeedBatch(through_serial=0, ephemeral=(EVENT,) * (MAX_QUEUED_EVENTS // 2)))
        hub.publish(FeedBatch(through_serial=0, removed=(b"x",) * (MAX_QUEUED_EVENTS // 2)))
        hub.publish(log.commit())
        assert serials(await anext(feed)) == [1]
        assert log.reads > 0, "the queue grew beyond its bound"

    play(body)


def test_one_batch_larger_than_the_queue_is_told() -> None:
    async def body(hub: FeedHub, log: Log) -> None:
        feed = hub.open(0, 0)
        hub.publish(log.commit(MAX_QUEUED_EVENTS + 1))
        assert len((await anext(feed)).stored) == MAX_QUEUED_EVENTS + 1
        assert log.reads == 0

    play(body)


def test_an_overflow_while_the_queue_is_used_leaves_no_gap() -> None:
    async def body(hub: FeedHub, log: Log) -> None:
        feed = hub.open(0, 0)
        told: list[int] = []
        for count in (5, 4_000, 4_000, 4_000, 7, 4_000, 4_000, 4_000, 1):
            hub.publish(log.commit(count))
            if count < 10:
                told += serials(await anext(feed))
        while len(told) < log.last:
            told += serials(await anext(feed))
        assert told == list(range(1, log.last + 1))
        assert await is_idle(feed)

    play(body)


def test_closing_ends_a_consumer_that_is_behind() -> None:
    async def body(hub: FeedHub, log: Log) -> None:
        log.commit(3)
        feed = hub.open(0, 3)
        hub.close()
        log.closed = True
        with pytest.raises(StopAsyncIteration):
            await anext(feed)
        late = hub.open(0, 3)
        with pytest.raises(StopAsyncIteration):
            await anext(late)

    play(body)


def test_a_consumer_that_is_behind_hears_of_a_broken_store() -> None:
    async def body(hub: FeedHub, log: Log) -> None:
        log.commit(3)
        feed = hub.open(0, 3)
        log.closed = True
        with pytest.raises(StoreError, match="closed"):
            await anext(feed)

    play(body)


def test_a_consumer_that_leaves_hears_nothing_more() -> None:
    async def body(hub: FeedHub, log: Log) -> None:
        feed = hub.open(0, 0)
        await feed.aclose()
        hub.publish(log.commit())
        with pytest.raises(StopAsyncIteration):
            await anext(feed)

    play(body)


@pytest.mark.parametrize("lost", ["in the queue", "that did not fit", "while it was behind", "none"])
@pytest.mark.parametrize("is_stored", [False, True])
def test_removals_that_were_lost_are_admitted_once(lost: str, is_stored: bool) -> None:
    async def body(hub: FeedHub, log: Log) -> None:
        feed = hub.open(0, 0)
        some, full = (b"x",), (EVENT,) * MAX_QUEUED_EVENTS
        hub.publish(FeedBatch(through_serial=0, ephemeral=full[1:], removed=some if lost == "in the queue" else ()))
        hub.publish(FeedBatch(through_serial=0, ephemeral=full, removed=some if lost == "that did not fit" else ()))
        if lost == "while it was behind":
            hub.publish(FeedBatch(through_serial=0, removed=some))
        if is_stored:
            hub.publish(log.commit(600))
        elif lost == "none":
            assert await is_idle(feed)
        if is_stored or lost != "none":
            told = await anext(feed)
            assert (len(told.stored), told.removed) == (500 if is_stored else 0, ())
            assert told.may_lack_removals is (lost != "none")
        if is_stored:
            assert not (await anext(feed)).may_lack_removals
        assert await is_idle(feed)
        hub.publish(FeedBatch(through_serial=log.last, removed=some))
        told = await anext(feed)
        assert (told.removed, told.may_lack_removals) == (some, False)

    play(body)
