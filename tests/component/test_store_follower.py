"""The store suite on a follower beside a writer, and what only a follower has to get right."""

import asyncio
import math
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
from tests.component.follower_backend import FollowerBackend, for_reading
from tests.component.lmdb_backend import MAX_BYTES, assert_sound
from tests.component.store_faults import ALL, open_reads
from tests.component.store_suite_direct import DirectSuite
from tests.component.store_world import DEADLINE_S, FakeClock, Sink
from tests.factory import KEYS, NOW_S, expiring_event, fake_event

from orly.nostr.event import EncodedEvent, decode_verified
from orly.nostr.filter import Filter
from orly.store.base import READ_ALL, Query, StoredEvent, StoreError, StoreMissingError, StoreUnavailableError
from orly.store.lmdb import followed_tail, follower, recent, removals
from orly.store.lmdb.environment import Environment, open_environment
from orly.store.lmdb.follower import UNREAD_S, LmdbFollower
from orly.store.lmdb.meta import indexed_through, last_serial
from orly.store.lmdb.recent import RecentEvents
from orly.store.lmdb.removals import newest_removal, removed_between, write_removals
from orly.store.lmdb.store import LmdbStore
from orly.store.lmdb.tail import GENERATION_EVENTS

NOTES: Final = [fake_event(n % 4, 1, NOW_S + n, [["t", f"{n % 3}"]]) for n in range(1_000)]


class TestFollower(DirectSuite):
    backend = FollowerBackend()


class TestFollowerOfSmallGenerations(DirectSuite):
    """The same with index rows that are partly in memory, partly in the tables, and partly in both."""

    backend = FollowerBackend(generation_events=3)


class Pair:
    """A writer, and a follower whose monotonic clock ends every slice at the first look while `tick_s` is set."""

    def __init__(
        self,
        directory: Path,
        wrap: Callable[[Environment], Environment] = lambda tables: tables,
        generation_events: int = GENERATION_EVENTS,
    ) -> None:
        self.clock = FakeClock()
        self.tables = wrap(open_environment(directory, max_bytes=MAX_BYTES))
        self.writer = LmdbStore(self.tables, now_s=self.clock.now_s, generation_events=generation_events)
        self.follower = self.another()

    def another(self) -> LmdbFollower:
        """One more follower, which has seen nothing yet."""
        return LmdbFollower(for_reading(self.tables), now_s=self.clock.now_s, monotonic_s=self.clock.monotonic_s)

    def far_behind(self) -> LmdbFollower:
        """One that needs many slices."""
        self.clock.tick_s = 1.0
        return self.another()

    async def close(self) -> None:
        await self.follower.close()
        await self.writer.close()


def play(directory: Path, body: Callable[[Pair], Awaitable[None]], **options: Any) -> None:
    async def main() -> None:
        pair = Pair(directory, **options)
        try:
            await asyncio.wait_for(body(pair), DEADLINE_S)
        finally:
            await pair.close()

    asyncio.run(main())
    assert_sound(directory)


def wait_for_commit(pair: Pair, serial: int) -> None:
    """Until the writer's thread has got so far; the loop stands still."""
    end_s = time.monotonic() + DEADLINE_S
    while True:
        with pair.tables.env.begin() as txn:
            if last_serial(txn, pair.tables) >= serial:
                return
        assert time.monotonic() < end_s, "the commit never came"


async def turns_until(condition: Callable[[], bool]) -> int:
    """Let the loop turn until the condition holds; returns how often it did."""
    for turns in range(10_000):
        if condition():
            return turns
        await asyncio.sleep(0)
    raise AssertionError("the condition never held")


def newest_first(*events: EncodedEvent) -> list[bytes]:
    return [event.raw for event in sorted(events, key=lambda event: -event.event.created_at)]


# Far behind


def test_far_behind_a_query_starts_later_and_the_loop_goes_on(tmp_path: Path) -> None:
    async def body(pair: Pair) -> None:
        await pair.writer.save(NOTES)
        follower, sink = pair.far_behind(), Sink()
        follower.query(ALL, sink)
        assert (sink.calls, sink.is_over) == (0, False)
        turns = await turns_until(lambda: sink.is_over)
        assert turns > len(NOTES) / followed_tail.EVENTS_AT_ONCE
        assert (sink.events, sink.through_serial) == (newest_first(*NOTES), len(NOTES))
        await follower.close()

    play(tmp_path, body)


def test_what_was_committed_before_a_query_is_in_its_answer_even_if_the_catch_up_began_earlier(tmp_path: Path) -> None:
    async def body(pair: Pair) -> None:
        await pair.writer.save(NOTES[:500])
        follower, first = pair.far_behind(), Sink()
        follower.query(ALL, first)
        saving = asyncio.ensure_future(pair.writer.save(NOTES[500:]))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        wait_for_commit(pair, 1_000)
        assert follower._target is not None
        second = Sink()
        follower.query(ALL, second)
        counting = asyncio.ensure_future(follower.count(ALL))
        await first.over()
        await second.over()
        assert (first.events, first.through_serial) == (newest_first(*NOTES[:500]), 500)
        assert (second.events, second.through_serial) == (newest_first(*NOTES), 1_000)
        assert await counting == 1_000
        await saving
        await follower.close()

    play(tmp_path, body)


def test_many_who_wait_share_one_transaction_and_none_is_left_open(tmp_path: Path) -> None:
    async def body(pair: Pair) -> None:
        await pair.writer.save(NOTES)
        follower = pair.far_behind()
        sinks = [Sink() for _ in range(300)]  # more than LMDB has places for readers
        handles = [follower.query(Query(filters=(Filter(limit=5),)), sink) for sink in sinks]
        counts = [asyncio.ensure_future(follower.count(ALL)) for _ in range(10)]
        await asyncio.sleep(0)
        for handle in handles[::3]:
            handle.resume()
            handle.cancel()
        for count in counts[::3]:
            count.cancel()
        assert open_reads(pair.writer) == 1
        for n, sink in enumerate(sinks):
            if n % 3:
                await sink.over()
                assert sink.events == newest_first(*NOTES[-5:])
        found = await asyncio.gather(*counts, return_exceptions=True)
        assert [n if isinstance(n, int) else type(n) for n in found] == [
            1_000 if n % 3 else asyncio.CancelledError for n in range(10)
        ]
        assert not any(sink.is_over or sink.calls for sink in sinks[::3])
        assert open_reads(pair.writer) == 0
        await follower.close()

    play(tmp_path, body)


def test_closing_fails_who_waits(tmp_path: Path) -> None:
    async def body(pair: Pair) -> None:
        await pair.writer.save(NOTES)
        follower, sink, gone = pair.far_behind(), Sink(), Sink()
        follower.query(ALL, sink)
        follower.query(ALL, gone).cancel()
        counting = asyncio.ensure_future(follower.count(ALL))
        await asyncio.sleep(0)
        await follower.close()
        await follower.close()
        assert "closed" in str(sink.error)
        assert not gone.is_over
        with pytest.raises(StoreError, match="closed"):
            await counting
        with pytest.raises(StoreError, match="closed"):
            follower.refresh()
        await asyncio.sleep(0)  # the slice that was scheduled finds nothing to do
        assert open_reads(pair.writer) == 0

    play(tmp_path, body)


def test_known_far_behind_says_only_what_is_sure(tmp_path: Path) -> None:
    async def body(pair: Pair) -> None:
        await pair.writer.save(NOTES[:10])
        follower = pair.another()
        follower.refresh()
        await pair.writer.delete([NOTES[0].id])
        await pair.writer.save(NOTES[10:])
        pair.clock.tick_s = 1.0
        follower.refresh()
        asked = [NOTES[0].id, NOTES[1].id, NOTES[999].id, fake_event(7).id]
        assert follower.known(asked) == [False, True, False, False]
        assert await follower.count(ALL) == 999
        assert follower.known(asked) == [False, True, True, False]
        await follower.close()

    play(tmp_path, body)


def test_known_alone_gets_on(tmp_path: Path) -> None:
    async def body(pair: Pair) -> None:
        await pair.writer.save(NOTES)
        follower = pair.far_behind()
        pair.clock.tick_s = 0.01  # longer than a slice, and all of it is over before nobody counts as reading
        asked = [event.id for event in NOTES]
        before = 0
        for _ in NOTES:
            found = sum(follower.known(asked))
            assert found > before
            if found == len(NOTES):
                break
            before = found
        assert found == len(NOTES)
        await follower.close()

    play(tmp_path, body)


def test_unread_it_takes_nothing_in_until_it_is_read(tmp_path: Path) -> None:
    async def body(pair: Pair) -> None:
        async def save(events: list[EncodedEvent]) -> None:
            results = await pair.writer.save(events)
            pair.follower.told(StoredEvent(result.serial, event) for result, event in zip(results, events, strict=True))
            pair.follower.refresh()

        follower = pair.follower
        await save(NOTES[:10])
        pair.clock.monotonic += UNREAD_S - 0.001
        await save(NOTES[10:20])
        assert follower._tail.seen == 20
        pair.clock.monotonic += 0.001
        await save(NOTES[20:30])
        assert follower._tail.seen == 20
        assert follower.known([event.id for event in NOTES[:31]]) == [True] * 30 + [False]
        await pair.writer.delete([NOTES[5].id, NOTES[25].id])
        asked = [NOTES[n].id for n in (4, 5, 24, 25)]
        assert follower.known(asked) == [True, False, True, False]
        assert await follower.count(ALL) == 28
        assert follower._tail.seen == 30
        await save(NOTES[30:40])
        assert follower._tail.seen == 40

    play(tmp_path, body)


def test_unread_it_forgets_which_of_many_it_knows_but_never_answers_wrongly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recent, "MAX_RECENT_EVENTS", 5)

    async def body(pair: Pair) -> None:
        pair.clock.monotonic += UNREAD_S
        results = await pair.writer.save(NOTES[:8])
        pair.follower.told(StoredEvent(result.serial, event) for result, event in zip(results, NOTES, strict=False))
        assert pair.follower.known([event.id for event in NOTES[:9]]) == [False] * 3 + [True] * 5 + [False]
        await pair.writer.delete([NOTES[7].id])
        (again,) = await pair.writer.save([NOTES[7]])
        assert pair.follower.known([NOTES[7].id]) == [False]
        pair.follower.told([StoredEvent(again.serial, NOTES[7])])
        assert pair.follower.known([NOTES[7].id]) == [True]

    play(tmp_path, body)


def test_far_behind_an_export_is_refused_and_not_wrong(tmp_path: Path) -> None:
    async def body(pair: Pair) -> None:
        await pair.writer.save(NOTES)
        follower = pair.far_behind()
        with pytest.raises(StoreError, match="try again"):
            list(follower.export(Filter()))
        assert await follower.count(ALL) == len(NOTES)
        pair.clock.tick_s = 0.0
        assert [raw for chunk in follower.export(Filter()) for raw in chunk] == newest_first(*NOTES)
        await follower.close()

    play(tmp_path, body)


def test_refreshing_during_a_catch_up_goes_on_to_the_newest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower, "UNREAD_S", math.inf)  # the clock runs fast

    async def body(pair: Pair) -> None:
        await pair.writer.save(NOTES[:500])
        follower = pair.far_behind()
        follower.refresh()
        await pair.writer.save(NOTES[500:])
        follower.refresh()
        await turns_until(lambda: follower._tail.seen == 1_000)
        assert open_reads(pair.writer) == 0
        await follower.close()

    play(tmp_path, body)


def test_an_event_that_cannot_be_read_fails_everyone_by_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def body(pair: Pair) -> None:
        await pair.writer.save(NOTES)
        with pair.tables.env.begin(write=True) as txn:
            txn.put((900).to_bytes(8, "big"), b"\xff broken", db=pair.tables.events)
        follower, sink = pair.far_behind(), Sink()
        follower.query(ALL, sink)
        with pytest.raises(StoreError, match=r"damaged.*orly check"):
            await follower.count(ALL)
        assert "damaged" in str(sink.error)
        pair.clock.tick_s = 0
        with pytest.raises(StoreError, match="damaged"):
            follower.query(ALL, Sink())
        with pytest.raises(StoreError, match="damaged"):
            follower.known([NOTES[0].id])
        pair.clock.tick_s = 1.0
        another = pair.another()
        another.refresh()
        await turns_until(lambda: "damaged" in caplog.text)
        assert open_reads(pair.writer) == 0
        await another.close()
        await follower.close()
        with pair.tables.env.begin(write=True) as txn:
            txn.put((900).to_bytes(8, "big"), NOTES[899].raw, db=pair.tables.events)

    play(tmp_path, body)


# A search under way


@pytest.mark.parametrize("generation_events", [1, 3, GENERATION_EVENTS])
def test_a_search_under_way_sees_what_was_there_when_it_began(tmp_path: Path, generation_events: int) -> None:
    """Although the rows in memory have gone on: to removals, to the same events stored again, to the tables."""
    profiles = [fake_event(0, 0, NOW_S + n) for n in range(3)]

    async def body(pair: Pair) -> None:
        await pair.writer.save([*NOTES[:20], profiles[1]])
        with pair.follower._read() as txn:
            pair.follower._tail.advance(txn)
            view = pair.follower._view(txn)
            serials = {event.id: view.scan.serial_of(event.id) for event in (*NOTES[:20], profiles[1])}
            assert None not in serials.values()
            for n in range(8):
                await pair.writer.delete([NOTES[n].id, NOTES[n + 8].id])
                await pair.writer.save([NOTES[n], NOTES[100 + n]])
                pair.follower.refresh()
            await pair.writer.save([profiles[2]])
            await pair.writer.delete([NOTES[19].id])
            pair.follower.refresh()
            for wanted in (Filter(), Filter(kinds=frozenset({0, 1})), Filter(authors=frozenset(KEYS))):
                rows = [row for chunk in view.reader(READ_ALL).chunks(wanted, None) for row in chunk]
                assert sorted(row[-8:] for row in rows) == sorted(value for value in serials.values() if value)
            assert {event_id: view.scan.serial_of(event_id) for event_id in serials} == serials
            assert view.scan.serial_of(NOTES[100].id) is None
        assert await pair.follower.count(ALL) == 20
        assert pair.follower.known([NOTES[0].id, NOTES[8].id, NOTES[19].id]) == [True, False, False]

    play(tmp_path, body, generation_events=generation_events)


# Expiry


@pytest.mark.parametrize("passes_over", [False, True])
def test_what_expired_before_it_was_seen_is_not_shown(tmp_path: Path, passes_over: bool) -> None:
    """The clock was put back, or a commit took long, and the follower has looked at the later second already."""

    async def body(pair: Pair) -> None:
        pair.clock.now = NOW_S + 5
        assert await pair.follower.count(ALL) == 0
        pair.clock.now = NOW_S
        await pair.writer.save([expiring_event(NOW_S + 5), NOTES[0]])
        if passes_over:
            for n in range(8):  # until the index rows are all in the tables
                await pair.writer.save([fake_event(kind=20_000, created_at=n)])
            with pair.tables.env.begin() as txn:
                assert indexed_through(txn, pair.tables) == 2
        pair.clock.now = NOW_S + 5
        assert await pair.follower.serials(ALL) == [2]
        assert (pair.follower._tail.active.last_serial == 0) == passes_over

    play(tmp_path, body, generation_events=1)


# What was told


def test_what_was_told_is_not_decoded_again_and_what_was_decoded_can_be_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[bytes] = []

    def counted(raw: bytes) -> EncodedEvent:
        decoded.append(raw)
        return decode_verified(raw)

    monkeypatch.setattr(followed_tail, "decode_verified", counted)

    async def body(pair: Pair) -> None:
        results = await pair.writer.save(NOTES[:4])
        told = [StoredEvent(result.serial, event) for result, event in zip(results, NOTES, strict=False)]
        pair.follower.told(told[::2])
        pair.follower.refresh()
        assert decoded == [NOTES[1].raw, NOTES[3].raw]
        assert [pair.follower.event_of(serial) for serial in range(6)] == [None, *NOTES[:4], None]
        assert pair.follower.event_of(1) is NOTES[0]
        assert await pair.follower.serials(ALL) == [4, 3, 2, 1]
        assert len(decoded) == 2

    play(tmp_path, body)


def test_what_was_expected_is_not_decoded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[bytes] = []

    def counted(raw: bytes) -> EncodedEvent:
        decoded.append(raw)
        return decode_verified(raw)

    monkeypatch.setattr(followed_tail, "decode_verified", counted)

    async def body(pair: Pair) -> None:
        pair.follower.expect(NOTES[:2])
        await pair.writer.save(NOTES[:3])
        assert pair.follower.known([NOTES[0].id]) == [True]
        assert decoded == [NOTES[2].raw]
        assert pair.follower.event_of(1) is NOTES[0]
        await pair.writer.delete([NOTES[0].id])
        await pair.writer.save([NOTES[0]])
        assert pair.follower.known([NOTES[0].id]) == [True]
        assert decoded == [NOTES[2].raw, NOTES[0].raw]

    play(tmp_path, body)


def test_expected_events_are_kept_within_their_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent, "MAX_RECENT_EVENTS", 3)
    monkeypatch.setattr(recent, "MAX_EXPECTED_EVENT_BYTES", max(len(note.raw) for note in NOTES[:6]))
    kept = RecentEvents()
    kept.expect(NOTES[:4])
    large = fake_event(content="x" * 1_000)
    kept.expect([large])
    assert [kept.take(event.raw) for event in (*NOTES[:4], large)] == [None, *NOTES[1:4], None]
    assert kept.take(NOTES[1].raw) is None
    forged = fake_event(content="another")
    kept.expect([forged])
    assert kept.take(forged.raw.replace(b"another", b"ANOTHER")) is None


def test_recent_events_are_kept_within_their_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent, "MAX_RECENT_EVENTS", 3)
    kept = RecentEvents()
    for serial in (1, 2, 3, 3):
        kept.add(serial, NOTES[serial])
    assert [kept.get(serial) for serial in (1, 2, 3)] == NOTES[1:4]
    kept.add(4, NOTES[4])
    assert [kept.get(serial) for serial in (1, 2, 3, 4)] == [None, *NOTES[2:5]]
    size = len(fake_event(content="x" * 1_000).raw)
    monkeypatch.setattr(recent, "MAX_RECENT_BYTES", 2 * size)
    for serial in (5, 6):
        kept.add(serial, fake_event(content="x" * 1_000))
    assert [kept.get(serial) is not None for serial in (3, 4, 5, 6)] == [False, False, True, True]
    kept.add(7, fake_event(content="x" * 1_001))
    assert [kept.get(serial) is not None for serial in (5, 6, 7)] == [False, False, True]


# The removal journal


def test_the_journal_has_one_row_for_each_transaction_that_removed_what_waits(tmp_path: Path) -> None:
    async def body(pair: Pair) -> None:
        await pair.writer.save(NOTES[:6])
        await pair.writer.delete([NOTES[0].id, NOTES[2].id])
        await pair.writer.save([fake_event(0, 0), fake_event(0, 0, NOW_S + 1)])  # replaced before anyone saw it
        await pair.writer.delete([NOTES[0].id])
        await pair.writer.delete([NOTES[4].id])
        with pair.tables.env.begin() as txn:
            assert newest_removal(txn, pair.tables) == 2
            rows = removed_between(txn, pair.tables, 0, 2)
        serials = [(1).to_bytes(8, "big"), (3).to_bytes(8, "big")], [(5).to_bytes(8, "big")]
        assert rows == [(1, serials[0]), (2, serials[1])]

    play(tmp_path, body)


def test_what_is_in_the_tables_needs_no_journal(tmp_path: Path) -> None:
    async def first(pair: Pair) -> None:
        await pair.writer.save(NOTES[:6])

    async def second(pair: Pair) -> None:
        assert await pair.writer.delete([NOTES[0].id]) == 1
        assert await pair.follower.count(ALL) == 5
        with pair.tables.env.begin() as txn:
            assert newest_removal(txn, pair.tables) == 0

    play(tmp_path, first)
    play(tmp_path, second)


def test_the_journal_keeps_its_newest_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(removals, "MAX_ROWS", 5)
    serial = (1).to_bytes(8, "big")
    tables = open_environment(tmp_path, max_bytes=MAX_BYTES)
    with tables.env.begin(write=True) as txn:
        for _ in range(5):
            write_removals(txn, tables, [serial])
        assert removed_between(txn, tables, 0, 5) == [(n, [serial]) for n in range(1, 6)]
        write_removals(txn, tables, [serial])
        assert removed_between(txn, tables, 0, 6) is None
        assert removed_between(txn, tables, 1, 6) == [(n, [serial]) for n in range(2, 7)]
        assert removed_between(txn, tables, 6, 6) == []
        long_row = [n.to_bytes(8, "big") for n in range(removals.MAX_TABLE_BYTES // 8)]
        write_removals(txn, tables, long_row)
        assert removed_between(txn, tables, 6, 7) == [(7, long_row)]
        assert removed_between(txn, tables, 5, 7) is None
        write_removals(txn, tables, [serial])
        assert removed_between(txn, tables, 7, 8) == [(8, [serial])]
        assert removed_between(txn, tables, 6, 8) is None
    tables.close()


@pytest.mark.parametrize("removed", [5, 6])
def test_who_is_behind_the_journal_reads_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, removed: int) -> None:
    monkeypatch.setattr(removals, "MAX_ROWS", 5)

    async def body(pair: Pair) -> None:
        await pair.writer.save(NOTES[:20])
        pair.follower.refresh()
        generation = pair.follower._tail.active
        for event in NOTES[:removed]:
            await pair.writer.delete([event.id])
        assert await pair.follower.count(ALL) == 20 - removed
        assert (pair.follower._tail.active is generation) == (removed == 5)

    play(tmp_path, body)


def test_a_database_of_an_earlier_version_is_read_without_a_journal(tmp_path: Path) -> None:
    async def body(pair: Pair) -> None:
        for n in range(0, 40, 10):
            await pair.writer.save(NOTES[n : n + 10])
            assert await pair.writer.delete([NOTES[n].id]) == 1
            expected = newest_first(*(event for m, event in enumerate(NOTES[: n + 10]) if m % 10))
            sink = Sink()
            pair.follower.query(ALL, sink)
            assert sink.events == expected

    play(tmp_path, body, wrap=lambda tables: replace(tables, removals=None))


def test_the_journal_is_made_when_an_earlier_database_is_first_written_to(tmp_path: Path) -> None:
    tables = open_environment(tmp_path, max_bytes=MAX_BYTES)
    with tables.env.begin(write=True) as txn:
        txn.drop(tables.removals)
    tables.close()
    assert open_removals(tmp_path, read_only=True) == [True, True]
    assert open_removals(tmp_path, read_only=False) == [False, False]
    assert open_removals(tmp_path, read_only=True) == [False, False]


def open_removals(directory: Path, *, read_only: bool) -> list[bool]:
    """Whether the journal is missing, asked twice."""
    missing = []
    for _ in range(2):
        tables = open_environment(directory, max_bytes=MAX_BYTES, read_only=read_only)
        missing.append(tables.removals is None)
        tables.close()
    return missing


def test_an_earlier_database_without_room_for_the_journal_is_opened_without(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tables = open_environment(tmp_path, max_bytes=MAX_BYTES)
    with tables.env.begin(write=True) as txn:
        txn.drop(tables.removals)
    size = int(tables.env.info()["last_pgno"] + 1) * 4096
    tables.close()
    tables = open_environment(tmp_path, max_bytes=size)
    assert tables.removals is None
    assert "raise ORLY_DB_MAX_SIZE" in caplog.text
    tables.close()


# Opening


def test_a_directory_without_a_database_is_told_apart(tmp_path: Path) -> None:
    async def open_follower(directory: Path) -> None:
        await (await LmdbFollower.open(directory, max_bytes=MAX_BYTES)).close()

    with pytest.raises(StoreMissingError, match="there is no database"):
        asyncio.run(open_follower(tmp_path / "none"))
    (tmp_path / "data.mdb").write_bytes(b"x" * 4096)
    with pytest.raises(StoreUnavailableError, match="cannot be opened") as caught:
        asyncio.run(open_follower(tmp_path))
    assert not isinstance(caught.value, StoreMissingError)
    open_environment(tmp_path / "made", max_bytes=MAX_BYTES).close()
    before = len(os.listdir("/proc/self/fd"))
    asyncio.run(open_follower(tmp_path / "made"))
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_damaged_database_is_refused_when_it_is_opened(tmp_path: Path) -> None:
    async def main() -> None:
        store = await LmdbStore.open(tmp_path / "data", max_bytes=MAX_BYTES)
        await store.save(NOTES[:3])
        (tmp_path / "copy").mkdir()
        (tmp_path / "copy" / "data.mdb").write_bytes((tmp_path / "data" / "data.mdb").read_bytes())
        await store.close()
        tables = open_environment(tmp_path / "copy", max_bytes=MAX_BYTES)
        with tables.env.begin(write=True) as txn:
            txn.put((2).to_bytes(8, "big"), b"\xff broken", db=tables.events)
        tables.close()
        for _ in range(2):
            with pytest.raises(StoreUnavailableError, match=r"damaged.*orly check"):
                await LmdbFollower.open(tmp_path / "copy", max_bytes=MAX_BYTES)

    asyncio.run(main())
