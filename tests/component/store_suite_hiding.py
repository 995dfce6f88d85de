"""Store suite: what is hidden from most readers, and shown again."""

import pytest
from tests.component.store_world import Backend, Sink, World, ids_of, on_store
from tests.factory import KEYS, NOW_S, expiring_event, fake_event

from orly.nostr.filter import Filter
from orly.store.base import MAX_HIDDEN_KEYS, READ_ALL, HiddenKey, Query, ReadScope, SaveStatus

MOST = ReadScope(private_kinds=frozenset())
"""Somebody who sees all but what is hidden."""
PLAIN = ReadScope()


def author(key: int) -> HiddenKey:
    return HiddenKey(bytes.fromhex(KEYS[key]), True)


def single(event_id: bytes) -> HiddenKey:
    return HiddenKey(event_id, False)


class HidingSuite:
    backend: Backend

    @on_store()
    async def test_hidden_events_are_seen_by_those_who_see_everything(self, world: World) -> None:
        mine = [fake_event(0, created_at=NOW_S + n) for n in range(3)]
        theirs = [fake_event(1, kind=7, created_at=NOW_S + n, tags=[["t", "x"]]) for n in range(4)]
        await world.put(*mine, *theirs)
        await world.store.hide([author(1), single(mine[0].id)])
        left = [mine[2].event.id, mine[1].event.id]
        shown = [mine[2].event, mine[1].event]
        for _ in range(2):
            assert await world.ids(scope=MOST) == left
            assert await world.ids(scope=PLAIN) == left
            assert len(await world.ids(scope=READ_ALL)) == 7
            assert await world.count(scope=MOST) == 2
            assert await world.count() == 7
            assert len(await world.items(scope=MOST)) == 2 * 40
            assert len(await world.items(scope=READ_ALL)) == 7 * 40
            assert len(await world.serials(scope=MOST)) == 2
            assert await world.versions(scope=MOST) == left
            for wanted in (
                Filter(ids=frozenset({theirs[0].event.id, mine[0].event.id})),
                Filter(authors=frozenset({KEYS[1]})),
                Filter(authors=frozenset({KEYS[1]}), kinds=frozenset({7})),
                Filter(kinds=frozenset({7})),
                Filter(tags={"t": frozenset({"x"})}),
                Filter(since=NOW_S + 3),
            ):
                assert await world.ids(wanted, scope=MOST) == [], wanted
                assert await world.ids(wanted) != []
                assert await world.items(wanted, scope=MOST) == b""
                assert await world.count(wanted, Filter(limit=1), scope=MOST) == 1
            assert await world.ids(Filter(limit=1), scope=MOST) == [shown[0].id]
            await world.reopen()

    @on_store()
    async def test_what_is_shown_again_is_as_it_was(self, world: World) -> None:
        events = [fake_event(n % 2, created_at=NOW_S + n) for n in range(6)]
        await world.put(*events)
        await world.store.hide([author(0), single(events[0].id), single(events[1].id)])
        assert len(await world.ids(scope=MOST)) == 2
        await world.store.show([author(0)])
        ids = [event.event.id for event in reversed(events)]
        assert await world.ids(scope=MOST) == ids[:4], "what a second key hides stays hidden"
        await world.store.show([single(events[1].id), single(events[0].id)])
        assert await world.ids(scope=MOST) == ids
        assert await world.store.hidden() == []
        await world.store.show([author(3)])
        await world.reopen()
        assert await world.ids(scope=MOST) == ids

    @on_store()
    async def test_what_an_author_hides_hides_an_event_that_is_shown(self, world: World) -> None:
        event = fake_event()
        await world.put(event)
        await world.store.hide([author(0), single(event.id)])
        await world.store.show([single(event.id)])
        assert await world.ids(scope=MOST) == []
        await world.store.show([author(0)])
        assert await world.ids(scope=MOST) == [event.event.id]

    @on_store()
    async def test_later_events_are_hidden_from_the_start(self, world: World) -> None:
        later, by_id, other = fake_event(0), fake_event(1), fake_event(2)
        await world.store.hide([author(0), single(by_id.id)])
        feed = world.store.feed(None)
        await world.store.feeds_have_begun()
        assert await world.save(later, by_id, other) == [SaveStatus.STORED] * 3
        assert await world.ids(scope=MOST) == [other.event.id]
        assert len(await world.ids()) == 3
        assert await world.save(later) == [SaveStatus.DUPLICATE]
        batch = await world.next_batch(feed)
        assert {item.event.id for item in batch.stored} == {later.id, by_id.id, other.id}
        assert set(batch.hidden) == {later.id, by_id.id}
        await feed.aclose()  # type: ignore[attr-defined]

    @on_store()
    async def test_the_feed_tells_what_is_hidden_and_that_something_is_shown(self, world: World) -> None:
        events = [fake_event(created_at=NOW_S + n) for n in range(3)]
        await world.put(*events)
        feed = world.store.feed(None)
        await world.store.feeds_have_begun()
        await world.store.hide([author(0)])
        batch = await world.next_batch(feed)
        assert (set(batch.hidden), batch.stored, batch.removed) == ({event.id for event in events}, (), ())
        assert not batch.may_lack_removals
        await world.store.show([author(0)])
        assert (await world.next_batch(feed)).may_lack_removals
        await feed.aclose()  # type: ignore[attr-defined]

    @on_store()
    async def test_who_reads_the_feed_from_the_tables_hears_what_is_hidden(self, world: World) -> None:
        events = [fake_event(n % 2, created_at=NOW_S + n) for n in range(4)]
        await world.put(*events)
        await world.store.hide([author(1)])
        feed = world.store.feed(0)
        batch = await world.next_batch(feed)
        assert [item.event.id for item in batch.stored] == [event.id for event in events]
        assert list(batch.hidden) == [events[1].id, events[3].id]
        await feed.aclose()  # type: ignore[attr-defined]

    @on_store()
    async def test_an_author_of_many_events_is_hidden_in_several_transactions(self, world: World) -> None:
        events = [fake_event(0, created_at=NOW_S + n) for n in range(4_500)]
        await world.put(*events, fake_event(1))
        await world.reopen()
        more = [fake_event(0, created_at=NOW_S - 1 - n) for n in range(300)]
        await world.put(*more)
        await world.store.hide([author(0), single(bytes(32))])
        assert await world.count(scope=MOST) == 1
        assert await world.count() == 4_801
        assert await world.store.hidden() == [(author(0), True), (single(bytes(32)), True)]
        await world.store.show([author(0)])
        assert await world.count(scope=MOST) == 4_801

    @on_store()
    async def test_what_is_hidden_is_told_in_pages(self, world: World) -> None:
        keys = [HiddenKey(n.to_bytes(32, "big"), n % 2 == 0) for n in range(25)]
        await world.store.hide(keys)
        found: list[HiddenKey] = []
        while page := await world.store.hidden(found[-1] if found else None, limit=4):
            assert len(page) <= 4
            assert all(is_done for _, is_done in page)
            found += [key for key, _ in page]
        assert found == sorted(keys, key=lambda each: (not each.is_author, each.key))
        assert await world.store.hidden(limit=0) == []

    @on_store()
    async def test_removals_and_replacements_of_hidden_events(self, world: World) -> None:
        old, new = fake_event(0, kind=0), fake_event(0, kind=0, created_at=NOW_S + 1)
        gone, expiring = fake_event(0, created_at=NOW_S - 5), expiring_event(NOW_S + 10, key=0)
        await world.put(old, gone, expiring)
        await world.store.hide([author(0)])
        await world.put(new)
        assert await world.store.delete([gone.id]) == 1
        world.clock.now = NOW_S + 10
        assert await world.ids(scope=MOST) == []
        assert await world.ids() == [new.event.id]
        assert await world.sweep() == 1
        await world.store.show([author(0)])
        assert await world.ids(scope=MOST) == [new.event.id]
        await world.put(gone)
        assert await world.ids(scope=MOST) == [new.event.id, gone.event.id]

    @on_store()
    async def test_private_kinds_stay_private(self, world: World) -> None:
        public, private = fake_event(0), fake_event(0, kind=4, tags=[["p", KEYS[1]]])
        await world.put(public, private)
        party = ReadScope(readers=frozenset({KEYS[1]}))
        assert len(await world.ids(scope=party)) == 2
        await world.store.hide([author(0)])
        assert await world.ids(scope=party) == []
        sees = ReadScope(readers=frozenset({KEYS[2]}), sees_hidden=True)
        assert await world.ids(scope=sees) == [public.event.id]

    @on_store()
    async def test_an_answer_under_way_goes_on_without_what_is_hidden_meanwhile(self, world: World) -> None:
        events = [fake_event(n % 2, created_at=NOW_S + n, content="x" * 60_000) for n in range(400)]
        await world.put(*events)
        sink = Sink(credit=1)
        handle = world.store.query(Query(filters=(Filter(),), scope=MOST), sink)
        await sink.wait(lambda: sink.calls > 0, "the first events")
        await world.store.hide([author(0)])
        sink.credit = 1_000
        handle.resume()
        await sink.over()
        sent = set(ids_of(sink.events))
        hidden = {event.event.id for event in events[::2]}
        assert len(sent & hidden) < 100, "no more than what was on its way"
        assert sent >= {event.event.id for event in events[1::2]}

    @on_store()
    async def test_keys_that_are_none(self, world: World) -> None:
        for n_bytes in (0, 31, 33):
            with pytest.raises(ValueError, match=f"has 32 bytes, not {n_bytes}"):
                await world.store.hide([author(0), HiddenKey(bytes(n_bytes), True)])
        too_many = [single(n.to_bytes(32, "big")) for n in range(MAX_HIDDEN_KEYS + 1)]
        with pytest.raises(ValueError, match="10001 keys are more than the 10000"):
            await world.store.show(too_many)
        assert await world.store.hidden() == []
        await world.store.hide(too_many[1:])
        assert len(await world.store.hidden(limit=2 * MAX_HIDDEN_KEYS)) == MAX_HIDDEN_KEYS
