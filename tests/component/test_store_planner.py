"""The planner: it picks the index that is expected, and whatever it picks, the answer is that of an obvious filter."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.component.lmdb_backend import MAX_BYTES
from tests.component.store_world import packed
from tests.factory import KEYS, NOW_S, fake_event
from tests.strategies import events, filters

from orly.nostr.event import EncodedEvent
from orly.nostr.filter import Filter, matches
from orly.store.base import READ_ALL, Query, ReadScope
from orly.store.lmdb import keys
from orly.store.lmdb.environment import open_environment
from orly.store.lmdb.planner import MAX_PREFIXES, choose_plan
from orly.store.lmdb.scan import Scan
from orly.store.lmdb.store import LmdbStore
from orly.store.lmdb.tail import GENERATION_EVENTS, Tail

SCOPES: Final = (READ_ALL, ReadScope(), ReadScope(readers=frozenset({KEYS[1]})), ReadScope(readers=frozenset(KEYS[:2])))


def brute_force(stored: Sequence[EncodedEvent], asked: Sequence[Filter], scope: ReadScope) -> list[bytes]:
    """NIP-01 read aloud: newest first, ties by lowest id, each filter with its own limit, each event once."""
    ordered = sorted(stored, key=lambda event: (-event.event.created_at, event.event.id))
    readable = [event for event in ordered if scope.may_read(event.event)]
    found: set[bytes] = set()
    for wanted in asked:
        found.update([event.id for event in readable if matches(wanted, event.event)][: wanted.limit])
    return [event.raw for event in ordered if event.id in found]


async def compare(
    directory: Path,
    offered: Sequence[EncodedEvent],
    queries: Sequence[Sequence[Filter]],
    *,
    generation_events: int = GENERATION_EVENTS,
    batch: int = 512,
) -> int:
    """Ask a store and the oracle the same; returns how many events came back in all."""
    store = await LmdbStore.open(
        directory, max_bytes=MAX_BYTES, now_s=lambda: NOW_S, generation_events=generation_events
    )
    try:
        for start in range(0, len(offered), batch):
            await store.save(offered[start : start + batch])
        environment = store._tables
        with environment.env.begin() as txn:
            known = [raw for _, raw in txn.cursor(environment.events)]
        stored = [event for event in {event.raw: event for event in offered}.values() if event.raw in set(known)]
        total = 0
        for n, asked in enumerate(queries):
            scope = SCOPES[n % len(SCOPES)]
            query = Query(filters=tuple(asked), scope=scope)
            expected = brute_force(stored, asked, scope)
            assert await store.fetch(query) == expected, (asked, scope)
            assert await store.count(query) == len(expected), (asked, scope)
            rows = packed(event for event in stored if event.raw in set(expected))
            assert (await store.items(query)).rows == rows, (asked, scope)
            total += len(expected)
        return total
    finally:
        await store.close()


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_small_stores_answer_like_an_obvious_filter(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    offered = data.draw(st.lists(events(), max_size=25))
    queries = data.draw(st.lists(st.lists(filters(offered), min_size=1, max_size=3), min_size=1, max_size=8))
    sizes = {"generation_events": data.draw(st.integers(1, 30)), "batch": data.draw(st.integers(1, 30))}
    asyncio.run(compare(tmp_path_factory.mktemp("planner"), offered, queries, **sizes))


def random_event(random: Random) -> EncodedEvent:
    tags: list[list[str]] = [["t", f"topic{int(random.paretovariate(0.7)) % 40}"] for _ in range(random.randrange(4))]
    tags += [["p", random.choice(KEYS)] for _ in range(random.randrange(3))]
    if random.random() < 0.3:
        tags.append(["e", f"{random.randrange(60):064x}"])
    kind = random.choice([1, 1, 1, 1, 4, 6, 7, 7, 1059, 1984, 9735])
    return fake_event(random.randrange(8), kind, random.randrange(400), tags, f"{random.random()}")


def random_filter(random: Random) -> Filter:
    def some(choices: Sequence[Any], most: int) -> frozenset[Any]:
        return frozenset(random.sample(choices, random.randint(1, min(most, len(choices)))))

    since, until = random.choice(
        [(0, 2**63 - 1), (0, 2**63 - 1), sorted((random.randrange(400), random.randrange(400)))]
    )
    tags: dict[str, frozenset[str]] = {}
    if random.random() < 0.4:
        tags["t"] = some([f"topic{n}" for n in range(40)], 6)
    if random.random() < 0.3:
        tags["p"] = some(KEYS, 3)
    if random.random() < 0.2:
        tags["e"] = some([f"{n:064x}" for n in range(60)], 20)
    return Filter(
        authors=some(KEYS, 5) if random.random() < 0.4 else None,
        kinds=some([1, 4, 6, 7, 1059, 1984, 9735, 99], 4) if random.random() < 0.4 else None,
        tags=tags,
        since=since,
        until=until,
        limit=random.choice([None, None, 1, 3, 20, 100, 700]),
    )


@pytest.mark.parametrize(("generation_events", "batch"), [(GENERATION_EVENTS, 512), (700, 100), (400, 3_000)])
def test_a_larger_store_answers_like_an_obvious_filter(tmp_path: Path, generation_events: int, batch: int) -> None:
    random = Random(generation_events)
    offered = [random_event(random) for _ in range(3_000)]
    queries = [[random_filter(random) for _ in range(random.choice([1, 1, 1, 2, 3]))] for _ in range(300)]
    for asked in queries[::10]:
        ids = random.sample([event.event.id for event in offered], 40)
        asked.append(Filter(ids=frozenset(ids), kinds=frozenset({1, 7}), limit=random.choice([None, 5])))
    sizes = {"generation_events": generation_events, "batch": batch}
    assert asyncio.run(compare(tmp_path, offered, queries, **sizes)) > 20_000


@contextmanager
def planned(directory: Path, stored: Sequence[EncodedEvent]) -> Iterator[Scan]:
    """What the planner looks at, with the events in the tables."""

    async def fill() -> None:
        store = await LmdbStore.open(directory, max_bytes=MAX_BYTES)
        await store.save(stored)
        await store.close()

    asyncio.run(fill())
    environment = open_environment(directory, max_bytes=MAX_BYTES)
    try:
        with environment.env.begin() as txn:
            yield Scan(txn, environment, Tail(newest_before=NOW_S), b"\xff" * 8)
    finally:
        environment.close()


def test_every_index_is_used(tmp_path: Path) -> None:
    key, other = frozenset({KEYS[0]}), frozenset({KEYS[0], KEYS[1]})
    note, topic = frozenset({1}), {"t": frozenset({"x", "y"})}
    cases: list[tuple[Filter, str, int, bool, bool]] = [
        (Filter(), "times", 1, True, False),
        (Filter(since=1, until=2, limit=3), "times", 1, True, False),
        (Filter(authors=other), "authors", 2, True, False),
        (Filter(authors=other, kinds=frozenset({1, 2, 3})), "author_kinds", 6, True, False),
        (Filter(kinds=frozenset({1, 2})), "kinds", 2, True, False),
        (Filter(tags=topic), "tags", 2, True, False),
        (Filter(tags=topic, kinds=note), "tags", 2, False, False),
    ]
    with planned(tmp_path, []) as scan:
        for wanted, index, parts, kinds_done, fetch in cases:
            found = choose_plan(scan, wanted, NOW_S)
            assert found.index == index, wanted
            assert (len(found.prefixes), found.kinds_done, found.fetch) == (parts, kinds_done, fetch), wanted
        for wanted in (Filter(authors=key, tags=topic), Filter(tags={**topic, "p": key})):
            assert choose_plan(scan, wanted, NOW_S).fetch, wanted


def test_the_rarer_condition_is_scanned(tmp_path: Path) -> None:
    """The author who wrote little is read, not the topic everybody uses, and the other way round."""
    crowd = [fake_event(1, 1, NOW_S - n, [["t", "common"], ["p", KEYS[3]]]) for n in range(300)]
    rare = [fake_event(2, 1, NOW_S - n * 1_000, [["t", "common"]]) for n in range(3)]
    marked = [fake_event(1, 1, NOW_S - n * 1_000, [["t", "rare"], ["p", KEYS[3]]]) for n in range(3)]
    busy, quiet = frozenset({KEYS[1]}), frozenset({KEYS[2]})
    common, seldom, note = {"t": frozenset({"common"})}, {"t": frozenset({"rare"})}, frozenset({1})
    with planned(tmp_path, crowd + rare + marked) as scan:
        assert choose_plan(scan, Filter(authors=quiet, tags=common), NOW_S).index == "authors"
        assert choose_plan(scan, Filter(authors=busy, tags=seldom), NOW_S).index == "tags"
        assert choose_plan(scan, Filter(authors=quiet, kinds=note, tags=common), NOW_S).index == "author_kinds"
        both = choose_plan(scan, Filter(tags={"p": frozenset({KEYS[3]}), **seldom}), NOW_S)
        assert both.prefixes == [keys.tag_prefix("t", "rare")]


@pytest.mark.parametrize("extra", [0, 1])
def test_too_many_authors_times_kinds_are_not_scanned_one_by_one(tmp_path: Path, extra: int) -> None:
    authors = frozenset(f"{n:064x}" for n in range(64))
    kinds = frozenset(range(MAX_PREFIXES // 64 + extra))
    with planned(tmp_path, []) as scan:
        found = choose_plan(scan, Filter(authors=authors, kinds=kinds), NOW_S)
    expected = ("authors", 64, False) if extra else ("author_kinds", MAX_PREFIXES, True)
    assert (found.index, len(found.prefixes), found.kinds_done) == expected
