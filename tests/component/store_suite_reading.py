"""Store suite: filters, order, limits, who may read, back-pressure, time limits, counts and item sets."""

from typing import Any

import pytest
from tests.component.store_world import Backend, Sink, World, on_store, packed
from tests.factory import KEYS, NOW_S, delete_event, fake_event, gift_wrap

from orly.nostr.event import MAX_CREATED_AT, EncodedEvent
from orly.nostr.filter import Filter, matches
from orly.store.base import CountTooLargeError, ItemRows, Query, QueryTimeoutError, ReadScope, StoreError


def newest_first(*events: EncodedEvent) -> list[str]:
    """NIP-01's order, obviously."""
    return [event.event.id for event in sorted(events, key=lambda event: (-event.event.created_at, event.event.id))]


def wanted(**parts: object) -> Filter:
    """A filter from plain lists."""
    names = {name: frozenset(value) for name, value in parts.items() if isinstance(value, list) and len(name) > 1}
    tags = {name: frozenset(value) for name, value in parts.items() if isinstance(value, list) and len(name) == 1}
    rest = {name: value for name, value in parts.items() if not isinstance(value, list)}
    return Filter(tags=tags, **names, **rest)  # type: ignore[arg-type]


class FilterSuite:
    backend: Backend

    @on_store()
    async def test_every_condition_and_their_combinations(self, world: World) -> None:
        a = fake_event(0, 1, NOW_S, [["t", "x"], ["p", KEYS[5]]])
        b = fake_event(0, 7, NOW_S + 1, [["t", "x"], ["T", "x"]])
        c = fake_event(1, 1, NOW_S + 2, [["t", "y", "x"], ["e", a.event.id]])
        d = fake_event(1, 7, NOW_S + 3, [["t"], ["tt", "x"], ["t", ""]])
        await world.put(a, b, c, d)
        cases: list[tuple[Filter, list[EncodedEvent]]] = [
            (Filter(), [a, b, c, d]),
            (wanted(ids=[c.event.id, a.event.id, "0" * 64]), [a, c]),
            (wanted(ids=[c.event.id], kinds=[7]), []),
            (wanted(ids=[c.event.id, a.event.id], authors=[KEYS[0]], t=["x"], since=NOW_S), [a]),
            (wanted(authors=[KEYS[0]]), [a, b]),
            (wanted(authors=[KEYS[0], KEYS[1], KEYS[2]]), [a, b, c, d]),
            (wanted(kinds=[7]), [b, d]),
            (wanted(kinds=[7, 1, 99]), [a, b, c, d]),
            (wanted(authors=[KEYS[0]], kinds=[7]), [b]),
            (wanted(t=["x"]), [a, b]),
            (wanted(t=["x", "y"]), [a, b, c]),
            (wanted(t=[""]), [d]),
            (wanted(T=["x"]), [b]),
            (wanted(t=["x"], T=["x"]), [b]),
            (wanted(t=["x"], p=[KEYS[5]]), [a]),
            (wanted(t=["x"], kinds=[7]), [b]),
            (wanted(t=["x"], authors=[KEYS[1]]), []),
            (wanted(t=["x"], authors=[KEYS[0]], kinds=[1], p=[KEYS[5]]), [a]),
            (wanted(e=[a.event.id]), [c]),
            (wanted(e=[a.event.id.upper()]), []),
            (wanted(since=NOW_S + 1, until=NOW_S + 2), [b, c]),
            (wanted(ids=[]), []), (wanted(authors=[]), []), (wanted(kinds=[]), []), (wanted(t=[]), []),
            (wanted(since=2, until=1), []),
        ]  # fmt: skip
        for query, expected in cases:
            assert await world.ids(query) == newest_first(*expected), query
            assert await world.count(query) == len(expected), query
            assert await world.items(query) == packed(expected), query

    @on_store()
    async def test_values_that_look_alike_are_told_apart(self, world: World) -> None:
        key = KEYS[0]
        spellings = [key, key.upper(), key + " ", key[:-1], key[:63] + "g", "é" * 32, "e\u0301", "é", "x" * 600]
        events = [fake_event(0, 1, NOW_S + n, [["p", value]]) for n, value in enumerate(spellings)]
        await world.put(*events)
        for value, event in zip(spellings, events, strict=True):
            assert await world.ids(wanted(p=[value])) == [event.event.id], value

    @on_store()
    async def test_a_repeated_tag_yields_its_event_once(self, world: World) -> None:
        event = fake_event(0, 1, NOW_S, [["t", "x"], ["t", "x", "again"], ["t", "y"]])
        await world.put(event)
        assert await world.ids(wanted(t=["x", "y"])) == [event.event.id]
        assert await world.count(wanted(t=["x", "y"])) == 1

    @on_store()
    async def test_the_ends_of_time(self, world: World) -> None:
        first, second, last = (fake_event(created_at=t) for t in (0, 1, MAX_CREATED_AT))
        await world.put(first, second, last)
        cases: list[tuple[int, int, list[EncodedEvent]]] = [
            (0, MAX_CREATED_AT, [first, second, last]), (0, 0, [first]), (0, -1, []), (1, 1, [second]),
            (2, MAX_CREATED_AT - 1, []), (MAX_CREATED_AT, MAX_CREATED_AT, [last]), (2**63, MAX_CREATED_AT, []),
        ]  # fmt: skip
        for since, until, expected in cases:
            for authors, kinds in ((None, None), (KEYS[0], None), (None, 1), (KEYS[0], 1)):
                query = Filter(
                    since=since,
                    until=until,
                    authors=None if authors is None else frozenset({authors}),
                    kinds=None if kinds is None else frozenset({kinds}),
                )
                assert await world.ids(query) == newest_first(*expected), query
                assert await world.items(query) == packed(expected), query

    @on_store()
    async def test_neighbours_in_an_index_do_not_leak(self, world: World) -> None:
        events = [fake_event(key, kind, NOW_S + key) for key in range(4) for kind in (1, 2, 255, 256, 257, 65_535)]
        await world.put(*events)
        for key in range(4):
            mine = [event for event in events if event.event.pubkey == KEYS[key]]
            assert await world.ids(wanted(authors=[KEYS[key]])) == newest_first(*mine)
        for kind in (0, 1, 254, 255, 256, 258, 65_534, 65_535):
            assert await world.count(wanted(kinds=[kind])) == sum(event.event.kind == kind for event in events)

    @on_store()
    async def test_ties_go_by_lowest_id_also_where_the_limit_cuts(self, world: World) -> None:
        events = [fake_event(n % 3, 1 + n % 2, NOW_S, [["t", f"{n % 2}"]], f"{n}") for n in range(30)]
        await world.put(*events)
        expected = newest_first(*events)
        queries: list[dict[str, Any]] = [
            {}, {"authors": list(KEYS[:3])}, {"kinds": [1, 2]}, {"t": ["0", "1"]},
            {"authors": list(KEYS[:3]), "kinds": [1, 2]}, {"ids": expected},
        ]  # fmt: skip
        for parts in queries:
            for limit in (1, 7, 29, 30, 31):
                assert await world.ids(wanted(**parts, limit=limit)) == expected[:limit], (parts, limit)
                cut = packed(event for event in events if event.event.id in expected[:limit])
                assert await world.items(wanted(**parts, limit=limit)) == cut, (parts, limit)

    @on_store()
    async def test_limits(self, world: World) -> None:
        events = [fake_event(n % 2, created_at=NOW_S + n) for n in range(10)]
        await world.put(*events)
        ids = newest_first(*events)
        assert await world.ids(Filter(limit=0)) == []
        assert await world.count(Filter(limit=0)) == 0
        assert await world.items(Filter(limit=0)) == b""
        assert await world.count(Filter(limit=4)) == 4
        assert await world.ids(Filter(), default_limit=3) == ids[:3]
        assert await world.ids(Filter(limit=5), default_limit=3) == ids[:5]
        assert await world.ids(Filter(limit=5), max_limit=4) == ids[:4]
        assert await world.ids(Filter(limit=4), max_limit=4) == ids[:4]
        assert await world.ids(Filter(), max_limit=4) == ids[:4]
        assert await world.ids(Filter(), default_limit=9, max_limit=4) == ids[:4]
        assert await world.ids(Filter(limit=11)) == ids

    @on_store()
    async def test_each_filter_has_its_own_limit_and_each_event_comes_once(self, world: World) -> None:
        events = [fake_event(n % 2, (1, 2, 7)[n % 3], created_at=NOW_S + n) for n in range(24)]
        await world.put(*events)
        zero = [event for event in reversed(events) if event.event.pubkey == KEYS[0]]
        ones = [event for event in reversed(events) if event.event.kind == 1]
        filters = (wanted(authors=[KEYS[0]], limit=3), wanted(kinds=[1], limit=5), wanted(limit=0))
        expected = newest_first(*{event.id: event for event in zero[:3] + ones[:5]}.values())
        assert await world.ids(*filters) == expected
        assert await world.count(*filters) == len(expected)
        assert await world.items(*filters) == packed(zero[:3] + ones[:5])
        assert await world.versions(*filters) == expected
        assert await world.count(Filter(), Filter(), wanted(kinds=[1])) == 24

    @on_store()
    async def test_hundreds_of_authors_and_kinds(self, world: World) -> None:
        events = [fake_event(n % 8, n % 90 + 100, created_at=NOW_S + n) for n in range(400)]
        await world.put(*events)
        query = wanted(authors=list(KEYS), kinds=list(range(100, 1_000)))
        assert await world.ids(query) == newest_first(*events)
        assert (
            await world.ids(wanted(authors=list(KEYS), kinds=list(range(100, 150)), limit=9))
            == newest_first(*(event for event in events if event.event.kind < 150))[:9]
        )

    @on_store()
    async def test_items_are_packed_in_ascending_order(self, world: World) -> None:
        events = [fake_event(n % 3, 1, NOW_S + n // 4, content=f"{n}") for n in range(40)]
        await world.put(*events)
        mine = [event for event in events if event.event.pubkey == KEYS[0]]
        queries: list[tuple[tuple[Filter, ...], list[EncodedEvent]]] = [
            ((), events),
            ((wanted(kinds=[1]),), events),
            ((wanted(kinds=[1]), Filter()), events),
            ((wanted(authors=[KEYS[0]]),), mine),
            ((wanted(authors=[KEYS[0]]), wanted(authors=list(KEYS[:3]))), events),
            ((wanted(authors=[KEYS[0]]), wanted(authors=[KEYS[0]], kinds=[1])), mine),
        ]
        for filters, expected in queries:
            assert await world.items(*filters) == packed(expected), filters
            assert await world.items(*filters, max_items=len(expected)) == packed(expected), filters
            with pytest.raises(CountTooLargeError, match=f"more than {len(expected) - 1} events"):
                await world.items(*filters, max_items=len(expected) - 1)

    @on_store()
    async def test_items_within_the_bounds_of_a_query(self, world: World) -> None:
        events = [fake_event(n % 2, created_at=NOW_S + n) for n in range(10)]
        await world.put(*events)
        for default, most, count in ((3, None, 3), (None, 4, 4), (9, 4, 4), (3, 4, 3), (None, 11, 10)):
            query = Query(filters=(Filter(),), default_limit=default, max_limit=most)
            assert (await world.store.items(query)).rows == packed(events[10 - count :]), query

    @on_store()
    async def test_items_say_which_serial_they_cover(self, world: World) -> None:
        query = Query(filters=(wanted(kinds=[9]),))
        assert await world.store.items(query) == ItemRows(b"", 0)
        events = [fake_event(content=f"{n}") for n in range(3)]
        await world.put(*events)
        assert await world.store.items(query) == ItemRows(b"", 3)
        await world.store.delete([events[2].id])
        assert await world.store.items(Query(filters=(Filter(),))) == ItemRows(packed(events[:2]), 3)

    @on_store()
    async def test_items_of_many_seconds_and_of_one(self, world: World) -> None:
        spread = [fake_event(n % 8, (1, 7, 9)[n % 3], NOW_S + n * 7 % 2_000) for n in range(2_500)]
        crowd = [fake_event(n % 8, 1, NOW_S + 500, content=f"{n}") for n in range(2_500)]
        events = spread + crowd
        await world.put(*events)
        at = wanted(since=NOW_S + 500, until=NOW_S + 500)
        queries: list[tuple[Filter, ...]] = [
            (Filter(),), (wanted(kinds=[1]),), (wanted(kinds=[7]),), (wanted(authors=[KEYS[3]]),), (at,),
            (wanted(since=NOW_S + 500),), (wanted(until=NOW_S + 499),), (at, wanted(authors=[KEYS[3]])),
            (wanted(kinds=[1]), wanted(authors=[KEYS[3]]), wanted(until=NOW_S + 9)),
        ]  # fmt: skip
        for filters in queries:
            expected = [event for event in events if any(matches(each, event.event) for each in filters)]
            assert await world.items(*filters) == packed(expected), filters

    @on_store()
    async def test_serials_come_in_the_order_of_an_answer(self, world: World) -> None:
        events = [fake_event(n % 3, 1, NOW_S + n * 7 % 40, content=f"{n}") for n in range(40)]
        results = await world.put(*events)
        serial_of = {event.event.id: result.serial for event, result in zip(events, results, strict=True)}
        expected = [serial_of[event_id] for event_id in newest_first(*events)]
        assert await world.serials() == expected
        assert await world.serials(wanted(authors=[KEYS[0]]), wanted(authors=list(KEYS[:3]))) == expected
        assert await world.serials(Filter(limit=7)) == expected[:7]
        assert await world.serials(Filter(limit=0)) == []
        assert await world.serials(wanted(authors=[KEYS[1]]), max_limit=2) == [
            serial_of[event_id] for event_id in newest_first(*events[1::3])[:2]
        ]
        await world.store.delete([events[5].id])
        assert await world.serials() == [serial for serial in expected if serial != serial_of[events[5].event.id]]


class ScopeSuite:
    backend: Backend

    @on_store()
    async def test_private_kinds_are_for_their_parties(self, world: World) -> None:
        wrap = gift_wrap(KEYS[1], key=0, created_at=NOW_S)
        message = fake_event(2, 4, NOW_S + 1, [["p", KEYS[1]], ["p", KEYS[3]]])
        note = fake_event(0, 1, NOW_S + 2, [["p", KEYS[1]]])
        await world.put(wrap, message, note)
        cases: list[tuple[frozenset[str], list[EncodedEvent]]] = [
            (frozenset(), [note]), (frozenset({KEYS[0]}), [wrap, note]), (frozenset({KEYS[1]}), [wrap, message, note]),
            (frozenset({KEYS[3]}), [message, note]), (frozenset({KEYS[7]}), [note]),
            (frozenset({KEYS[0], KEYS[2]}), [wrap, message, note]),
        ]  # fmt: skip
        queries = [
            Filter(), wanted(kinds=[1, 4, 1059]), wanted(p=[KEYS[1]]), wanted(authors=list(KEYS)),
            wanted(authors=list(KEYS), kinds=[1, 4, 1059]), wanted(authors=list(KEYS), p=[KEYS[1]]),
            wanted(ids=[wrap.event.id, message.event.id, note.event.id]),
        ]  # fmt: skip
        for readers, visible in cases:
            scope = ReadScope(readers=readers)
            for query in queries:
                assert await world.ids(query, scope=scope) == newest_first(*visible), (readers, query)
                assert await world.count(query, scope=scope) == len(visible)
                assert await world.items(query, scope=scope) == packed(visible)
                assert await world.versions(query, scope=scope) == newest_first(*visible)
                assert len(await world.serials(query, scope=scope)) == len(visible)
        assert await world.count() == 3

    @on_store()
    async def test_a_bare_p_tag_makes_nobody_a_party(self, world: World) -> None:
        await world.put(fake_event(0, 4, tags=[["p"], ["P", KEYS[1]], ["x", KEYS[1]], ["p", "x", KEYS[1]]]))
        assert await world.ids(scope=ReadScope(readers=frozenset({KEYS[1]}))) == []

    @on_store()
    async def test_a_limit_counts_only_what_may_be_read(self, world: World) -> None:
        events = [fake_event(0, 4 if n % 5 else 1, NOW_S + n) for n in range(60)]
        await world.put(*events)
        public = newest_first(*(event for event in events if event.event.kind == 1))
        for query in (Filter(limit=7), wanted(authors=[KEYS[0]], limit=7), wanted(kinds=[1, 4], limit=7)):
            assert await world.ids(query, scope=ReadScope()) == public[:7]
            assert await world.count(query, scope=ReadScope()) == 7


class DeliverySuite:
    backend: Backend

    @staticmethod
    def large(count: int) -> list[EncodedEvent]:
        """Events of which two already fill one call of `rows`."""
        return [fake_event(0, 1, NOW_S + n, [["t", f"{n}"]], "x" * 40_000) for n in range(count)]

    @on_store()
    async def test_the_answer_says_which_serial_it_covers(self, world: World) -> None:
        sink = Sink()
        world.store.query(Query(filters=(Filter(),)), sink)
        await sink.over()
        assert (sink.through_serial, sink.events) == (0, [])
        await world.put(fake_event(content="1"), fake_event(content="2"))
        await world.store.delete([fake_event(content="2").id])
        sink = Sink()
        world.store.query(Query(filters=(Filter(kinds=frozenset({9})),)), sink)
        await sink.over()
        assert (sink.through_serial, sink.events) == (2, [])

    @on_store()
    async def test_a_reader_that_holds_back_gets_the_rest_later(self, world: World) -> None:
        events = self.large(10)
        await world.put(*events)
        sink = Sink(credit=1)
        handle = world.store.query(Query(filters=(Filter(),)), sink)
        for call in range(1, 100):
            await sink.wait(lambda call=call: sink.calls == call or sink.is_over, "rows")  # type: ignore[misc]
            if sink.is_over:
                break
            await world.put(fake_event(1, created_at=NOW_S + 100 + call))
            assert sink.calls == call, "rows came although the reader held back"
            sink.credit = 1
            handle.resume()
        assert sink.calls >= 4
        assert sink.events == [event.raw for event in reversed(events)]
        assert sink.through_serial == 10

    @on_store()
    async def test_the_end_waits_for_the_reader_too(self, world: World) -> None:
        await world.put(fake_event())
        sink = Sink(credit=1)
        handle = world.store.query(Query(filters=(Filter(),)), sink)
        await sink.wait(lambda: sink.calls == 1, "the rows")
        await world.put(fake_event(1))
        assert not sink.is_over
        handle.resume()
        await sink.over()
        handle.resume()
        handle.cancel()

    @on_store()
    async def test_a_cancelled_query_says_nothing_more(self, world: World) -> None:
        await world.put(*self.large(6))
        sink = Sink(credit=1)
        handle = world.store.query(Query(filters=(Filter(),)), sink)
        await sink.wait(lambda: sink.calls == 1, "the first rows")
        handle.cancel()
        handle.cancel()
        handle.resume()
        assert await world.count() == 6
        assert (sink.calls, sink.is_over) == (1, False)

    @on_store()
    async def test_what_is_deleted_between_search_and_sending_is_not_sent(self, world: World) -> None:
        events = self.large(6)
        await world.put(*events)
        sink = Sink(credit=1)
        handle = world.store.query(Query(filters=(Filter(),)), sink)
        await sink.wait(lambda: sink.calls == 1, "the first rows")
        sent = len(sink.events)
        await world.put(delete_event(*events[1:], created_at=NOW_S + 50))
        sink.credit = 100
        handle.resume()
        await sink.over()
        assert sink.events[sent:] == [events[0].raw]
        assert sink.through_serial == 6

    @on_store()
    async def test_a_query_that_takes_too_long_is_given_up(self, world: World) -> None:
        await world.put(*(fake_event(0, 1, NOW_S + n, [["t", f"{n}"]]) for n in range(500)))
        broad = Filter(limit=400)
        world.clock.tick_s = 0.4
        with pytest.raises(QueryTimeoutError, match=r"1 s|too long"):
            await world.ids(*[broad] * 10, timeout_s=1.0)
        with pytest.raises(QueryTimeoutError):
            await world.count(*[broad] * 10, timeout_s=1.0)
        with pytest.raises(QueryTimeoutError):
            await world.store.items(Query(filters=(broad,) * 10, timeout_s=1.0))
        with pytest.raises(QueryTimeoutError):
            await world.store.items(Query(filters=(Filter(),) * 10, timeout_s=1.0))
        with pytest.raises(QueryTimeoutError):
            await world.versions(*[broad] * 10, timeout_s=1.0)
        with pytest.raises(QueryTimeoutError):
            await world.serials(*[broad] * 10, timeout_s=1.0)
        assert len(await world.ids(*[broad] * 10, timeout_s=1_000.0)) == 400
        assert len(await world.ids(*[broad] * 10)) == 400
        assert await world.count() == 500

    @on_store()
    async def test_a_long_answer_comes_whole_in_many_slices(self, world: World) -> None:
        events = [fake_event(n % 8, 1, NOW_S + n) for n in range(3_000)]
        await world.put(*events)
        world.clock.tick_s = 0.002
        assert await world.ids() == newest_first(*events)
        assert await world.count() == 3_000
        assert await world.items() == packed(events)

    @on_store()
    async def test_queries_at_the_same_time_do_not_disturb_each_other(self, world: World) -> None:
        await world.put(*self.large(8))
        sinks = [Sink(credit=1) for _ in range(50)]
        handles = [world.store.query(Query(filters=(Filter(limit=n % 9),)), sink) for n, sink in enumerate(sinks)]
        for n, (sink, handle) in enumerate(zip(sinks, handles, strict=True)):
            while not sink.is_over:
                sink.credit = 1
                handle.resume()
                await sink.wait(lambda sink=sink: sink.is_over or sink.credit <= 0, "more")  # type: ignore[misc]
            assert len(sink.events) == n % 9

    @on_store()
    async def test_a_closed_store_says_so(self, world: World) -> None:
        await world.put(*self.large(4))
        sink = Sink(credit=1)
        handle = world.store.query(Query(filters=(Filter(),)), sink)
        await sink.wait(lambda: sink.calls == 1, "the first rows")
        await world.store.close()
        handle.resume()
        assert not sink.is_over
        result = (await world.store.save([fake_event(1)]))[0]
        assert "closed" in result.detail
        with pytest.raises(StoreError, match="closed"):
            await world.count()
        with pytest.raises(StoreError, match="closed"):
            world.store.query(Query(filters=(Filter(),)), Sink())
        await world.store.close()
