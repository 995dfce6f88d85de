"""Store suite: the feed of commits."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from tests.component.store_world import DEADLINE_S, Backend, World, on_store
from tests.factory import NOW_S, delete_event, expiring_event, fake_event

from orly.nostr.filter import Filter
from orly.store.base import ITEM_BYTES, FeedBatch, Query, StoredEvent


async def read_serials(world: World, feed: AsyncIterator[FeedBatch], through: int) -> list[StoredEvent]:
    """What a feed tells until it has told a serial."""
    found: list[StoredEvent] = []
    while not found or found[-1].serial < through:
        batch = await world.next_batch(feed)
        found.extend(batch.stored)
        assert not batch.stored or batch.through_serial >= batch.stored[-1].serial
    return found


class FeedSuite:
    backend: Backend

    @on_store()
    async def test_commits_are_told_in_order_without_gap_or_repeat(self, world: World) -> None:
        feed = world.store.feed(None)
        events = [fake_event(n % 3, 1, NOW_S - n, content=f"{n}") for n in range(300)]
        saves = [asyncio.create_task(world.store.save(events[n : n + 7])) for n in range(0, 300, 7)]
        told = await read_serials(world, feed, 300)
        await asyncio.gather(*saves)
        assert [item.serial for item in told] == list(range(1, 301))
        assert [item.event.raw for item in told] == [event.raw for event in events]

    @on_store()
    async def test_a_feed_starts_where_it_was_asked_for(self, world: World) -> None:
        await world.put(fake_event(content="before"))
        feed = world.store.feed(None)
        await world.put(fake_event(content="after"))
        assert [item.serial for item in (await world.next_batch(feed)).stored] == [2]

    @on_store()
    async def test_a_feed_resumes_after_a_serial(self, world: World) -> None:
        events = [fake_event(content=f"{n}") for n in range(1_200)]
        await world.put(*events[:1_100])
        await world.reopen()
        for after in (0, 1, 550, 1_099, 1_100):
            feed = world.store.feed(after)
            extra = fake_event(content=f"extra {after}")
            await world.put(extra)
            newest = await world.store.last_serial()
            told = await read_serials(world, feed, newest)
            assert [item.serial for item in told] == list(range(after + 1, newest + 1))

    @on_store()
    async def test_a_feed_that_catches_up_while_events_arrive(self, world: World) -> None:
        await world.put(*(fake_event(content=f"{n}") for n in range(1_500)))
        feed = world.store.feed(0)
        saves = []
        told: list[StoredEvent] = []
        for n in range(60):
            saves.append(
                asyncio.create_task(world.store.save([fake_event(1, content=f"{n}"), fake_event(2, content=f"{n}")]))
            )
            told.extend((await world.next_batch(feed)).stored if len(told) < 1_500 + n else ())
        await asyncio.gather(*saves)
        told.extend(await read_serials(world, feed, 1_620) if told[-1].serial < 1_620 else ())
        assert [item.serial for item in told] == list(range(1, 1_621))

    @on_store(keep_versions=True)
    async def test_the_past_is_told_without_what_is_gone(self, world: World) -> None:
        versions = [fake_event(kind=0, created_at=NOW_S + n) for n in range(3)]
        target = fake_event()
        await world.put(*versions, target)
        await world.put(delete_event(target))
        told = await read_serials(world, world.store.feed(0), 5)
        assert [item.serial for item in told] == [3, 5]

    @on_store()
    async def test_a_position_ahead_of_the_store_counts_as_the_present(self, world: World) -> None:
        await world.put(fake_event(content="1"))
        feed = world.store.feed(1_000_000)
        await world.put(fake_event(content="2"))
        assert [item.serial for item in (await world.next_batch(feed)).stored] == [2]

    @on_store()
    async def test_ephemeral_events_are_told_and_nothing_else_of_them(self, world: World) -> None:
        feed = world.store.feed(None)
        event = fake_event(kind=20_001)
        await world.save(event)
        batch = await world.next_batch(feed)
        assert (batch.ephemeral, batch.stored, batch.through_serial) == ((event,), (), 0)

    @on_store()
    async def test_removals_are_told(self, world: World) -> None:
        old, new = (fake_event(kind=0, created_at=NOW_S + t) for t in (0, 1))
        target, other, brief = fake_event(content="a"), fake_event(content="b"), expiring_event(NOW_S + 5)
        await world.put(old, target, other, brief)
        feed = world.store.feed(None)
        await world.put(new)
        assert (await world.next_batch(feed)).removed == (old.id,)
        await world.put(delete_event(target))
        assert (await world.next_batch(feed)).removed == (target.id,)
        await world.store.delete([other.id])
        batch = await world.next_batch(feed)
        assert (batch.removed, batch.stored, batch.through_serial) == ((other.id,), (), 6)
        world.clock.now = NOW_S + 5
        await world.sweep()
        assert (await world.next_batch(feed)).removed == (brief.id,)

    @on_store()
    async def test_a_set_that_is_read_after_its_feed_was_opened_misses_nothing(self, world: World) -> None:
        events = [fake_event(content=f"{n}") for n in range(200)]
        await world.put(*events)
        for n in range(0, 200, 20):
            feed = world.store.feed(None)
            found, _, _ = await asyncio.gather(
                world.store.items(Query(filters=(Filter(),))),
                world.store.delete([event.id for event in events[n : n + 20]]),
                world.store.save([fake_event(content=f"more {n}")]),
            )
            present = {found.rows[start : start + 32] for start in range(8, len(found.rows), ITEM_BYTES)}
            newest, told = await world.store.last_serial(), -1
            while told < newest or present & {event.id for event in events[n : n + 20]}:
                batch = await world.next_batch(feed)
                assert not batch.may_lack_removals
                told = batch.through_serial
                present.update(item.event.id for item in batch.stored)
                present.difference_update(batch.removed)
            now = await world.items()
            assert present == {now[start : start + 32] for start in range(8, len(now), ITEM_BYTES)}

    @on_store()
    async def test_what_changes_nothing_is_not_told(self, world: World) -> None:
        event = fake_event()
        await world.put(event)
        feed = world.store.feed(None)
        await world.save(event)
        await world.store.delete([b"\x00" * 32])
        await world.put(fake_event(1))
        assert [item.serial for item in (await world.next_batch(feed)).stored] == [2]

    @on_store()
    async def test_a_consumer_that_sleeps_loses_no_stored_event(self, world: World) -> None:
        slow, fast = world.store.feed(None), world.store.feed(None)
        events = [fake_event(n % 8, content=f"{n}") for n in range(12_000)]
        for start in range(0, 12_000, 400):
            await world.put(*events[start : start + 400])
            await world.next_batch(fast)
        told = await read_serials(world, slow, 12_000)
        assert [item.serial for item in told] == list(range(1, 12_001))
        await world.put(fake_event(content="last"))
        assert [item.serial for item in (await world.next_batch(slow)).stored] == [12_001]

    @on_store()
    async def test_closing_the_store_ends_every_feed_after_what_was_told(self, world: World) -> None:
        behind, waiting, full = world.store.feed(0), world.store.feed(None), world.store.feed(None)
        ended = asyncio.create_task(anext(waiting, None))
        await asyncio.sleep(0)
        await world.put(fake_event())
        first = await asyncio.wait_for(ended, DEADLINE_S)
        assert first is not None
        ended = asyncio.create_task(anext(waiting, None))
        await asyncio.sleep(0)
        await world.store.close()
        assert await asyncio.wait_for(ended, DEADLINE_S) is None
        for feed in (behind, full):
            assert [item.serial for item in (await world.next_batch(feed)).stored] == [1]
            with pytest.raises(StopAsyncIteration):
                await world.next_batch(feed)

    @on_store()
    async def test_a_consumer_that_left_holds_nothing_up(self, world: World) -> None:
        feed = world.store.feed(None)
        waiting = asyncio.create_task(world.next_batch(feed))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await world.put(fake_event())
        assert [item.serial for item in (await world.next_batch(feed)).stored] == [1]
