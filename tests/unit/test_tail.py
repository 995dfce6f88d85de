"""Rows that wait in memory: what is read of them, how they get to the tables, and back when a commit fails."""

import bisect
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.factory import KEYS, NOW_S, fake_event
from tests.strategies import QUICK

from orly.nostr.event import EncodedEvent
from orly.store.lmdb import keys
from orly.store.lmdb.scan import _woven
from orly.store.lmdb.tail import INDEXES, Flush, Generation, Tail

EVENTS = [fake_event(n % 3, 1 + n % 2, NOW_S + n, [["t", "x"], ["p", KEYS[n % 3]]]) for n in range(8)]


def generation(*events: EncodedEvent) -> Generation:
    made = Generation()
    for serial, event in enumerate(events, 1):
        made.add(event, serial)
    return made


def expected(*events: tuple[EncodedEvent, int]) -> dict[str, list[tuple[bytes, bytes]]]:
    """The rows of events with their serials as `IndexRows` has them, by table, sorted."""
    rows: dict[str, list[tuple[bytes, bytes]]] = {name: [] for name in ("ids", *INDEXES)}
    for event, serial in events:
        made = keys.IndexRows(event, serial)
        rows["ids"].append((event.id, made.serial))
        rows["times"].append((made.time, made.time_value))
        rows["authors"].append((made.author, b""))
        rows["author_kinds"].append((made.author_kind, b""))
        rows["kinds"].append((made.kind, b""))
        rows["tags"] += [(tag, b"") for tag in made.tags]
    return {name: sorted(found) for name, found in rows.items()}


def written(flush: Flush, max_rows: int) -> tuple[dict[str, list[tuple[bytes, bytes]]], list[bool]]:
    """Every slice until the end, confirmed one by one, and what each said about being the last."""
    rows: dict[str, list[tuple[bytes, bytes]]] = {name: [] for name in ("ids", *INDEXES)}
    last = []
    while not flush.is_done:
        table, part, is_last = flush.slice(max_rows)
        assert len(part) <= max_rows
        rows[table] += part
        last.append(is_last)
        flush.confirm()
    return rows, last


@pytest.mark.parametrize("max_rows", [1, 3, 8, 1000])
def test_a_flush_writes_every_row_once_and_in_order(max_rows: int) -> None:
    rows, last = written(Flush(generation(*EVENTS)), max_rows)
    assert rows == expected(*((event, serial) for serial, event in enumerate(EVENTS, 1)))
    assert last == [False] * (len(last) - 1) + [True]


def test_a_slice_that_is_not_confirmed_comes_again() -> None:
    flush = Flush(generation(*EVENTS))
    assert flush.slice(3) == flush.slice(3)


def test_what_is_removed_during_a_flush_is_not_written_later() -> None:
    tail = Tail(generation_events=len(EVENTS))
    for serial, event in enumerate(EVENTS, 1):
        tail.add(event, serial)
    tail.rotate()
    assert tail.flush is not None
    tail.flush.slice(2)
    tail.written()
    tail.remove(EVENTS[7])
    rows, _ = written(tail.flush, 2)
    gone = keys.serial_bytes(8)
    assert not [row for name in INDEXES for row in rows[name] if (row[1] or row[0])[-8:] == gone]


@pytest.mark.parametrize("after_slices", range(12))
def test_a_removal_that_is_rolled_back_leaves_no_row_behind(after_slices: int) -> None:
    tail = Tail(generation_events=len(EVENTS))
    for serial, event in enumerate(EVENTS, 1):
        tail.add(event, serial)
    tail.rotate()
    flush = tail.flush
    assert flush is not None
    rows: dict[str, list[tuple[bytes, bytes]]] = {name: [] for name in ("ids", *INDEXES)}
    for _ in range(after_slices):
        table, part, _ = flush.slice(5)
        rows[table] += part
        tail.written()
    found = tail.remove(EVENTS[3])
    assert found is flush.generation
    flush.slice(5)  # the transaction that fails
    tail.restore(EVENTS[3], 4, found)
    later, _ = written(flush, 5)
    assert {name: rows[name] + later[name] for name in rows} == expected(
        *((event, serial) for serial, event in enumerate(EVENTS, 1))
    )


def test_rotation_waits_for_a_full_generation_and_for_the_flush_before() -> None:
    tail = Tail(generation_events=2)
    tail.add(EVENTS[0], 1)
    tail.rotate()
    assert len(tail.generations()) == 1
    tail.add(EVENTS[1], 2)
    tail.rotate()
    assert tail.flush is not None
    assert tail.newest_before == NOW_S + 1
    first = tail.flush
    tail.add(EVENTS[2], 3)
    tail.add(EVENTS[3], 4)
    tail.rotate()
    assert tail.flush is first
    while not first.is_done:
        first.slice(1000)
        tail.written()
    assert tail.generations() == (tail.active,)
    assert tail.position_of(EVENTS[0].id) is None
    assert tail.position_of(EVENTS[2].id) is not None


@QUICK
@given(st.lists(st.sampled_from(EVENTS), unique_by=lambda event: event.id), st.data())
def test_adding_and_removing_leaves_what_was_only_added(events: list[EncodedEvent], data: st.DataObject) -> None:
    made = generation(*events)
    gone = data.draw(st.lists(st.sampled_from(events), unique_by=lambda event: event.id) if events else st.just([]))
    for event in gone:
        assert made.remove(event)
        assert not made.remove(event)
    left = [(event, serial) for serial, event in enumerate(events, 1) if event not in gone]
    assert {name: made.rows(name) for name in ("ids", *INDEXES)} == expected(*left)
    if not left:
        assert not any(made.tables.values())


@QUICK
@given(st.lists(st.lists(st.binary(min_size=2, max_size=2), max_size=12), max_size=4), st.data())
def test_woven_scans_are_their_sorted_union(scans: list[list[bytes]], data: st.DataObject) -> None:
    chunked = []
    for scan in scans:
        rows = sorted(set(scan), reverse=True)
        cuts = sorted(data.draw(st.lists(st.integers(0, len(rows)), max_size=3)))
        edges = [0, *cuts, len(rows)]
        chunked.append(iter([rows[a:b] for a, b in itertools.pairwise(edges) if a < b]))
    found = [row for chunk in _woven(chunked) for row in chunk]
    assert found == sorted({row for scan in scans for row in scan}, reverse=True)


def test_the_rows_of_one_prefix_stay_sorted() -> None:
    made = Generation()
    for serial, event in enumerate(reversed(EVENTS), 1):
        made.add(event, serial)
    rows = made.tables["times"][b""]
    assert rows == sorted(rows)
    assert bisect.bisect_left(rows, keys.time_bytes(NOW_S + 3)) == 3
