"""Items on LMDB: every way through the indexes gives the same set, in slices of loop time, whatever the writer does."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
from tests.component.follower_backend import FollowerBackend
from tests.component.lmdb_backend import MAX_BYTES, LmdbBackend
from tests.component.store_play import play
from tests.component.store_world import Backend, FakeClock, packed
from tests.factory import KEYS, NOW_S, expiring_event, fake_event, gift_wrap

from orly.nostr.event import EncodedEvent, encode_event
from orly.nostr.filter import Filter
from orly.store.base import READ_ALL, Query, ReadScope
from orly.store.lmdb import item_search, keys, planner, time_keys
from orly.store.lmdb.item_search import ItemSearch
from orly.store.lmdb.store import LmdbStore
from orly.store.lmdb.time_keys import TimeKeys

ALL = Query(filters=(Filter(),))


def on_store(directory: Path, body: Callable[[LmdbStore], Awaitable[None]], **options: Any) -> None:
    async def run() -> None:
        store = await LmdbStore.open(directory, max_bytes=MAX_BYTES, now_s=lambda: NOW_S, **options)
        try:
            await body(store)
        finally:
            await store.close()

    asyncio.run(run())


def with_id(event_id: str, kind: int = 1, created_at: int = NOW_S) -> EncodedEvent:
    """An event with an id of one's choice; a store does not check it."""
    event = msgspec.structs.replace(fake_event(0, kind, created_at).event, id=event_id)
    model = fake_event(0, kind, created_at)
    return EncodedEvent(event, encode_event(event), bytes.fromhex(event_id), model.pubkey, model.sig)


@pytest.mark.parametrize("keep_versions", [False, True])
@pytest.mark.parametrize("backend", [LmdbBackend(1), LmdbBackend(7), FollowerBackend(1), FollowerBackend(7)])
@pytest.mark.parametrize("seed", range(3))
def test_histories_in_the_smallest_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: Backend, keep_versions: bool, seed: int
) -> None:
    monkeypatch.setattr(item_search, "WALK_ROWS", 1 + seed)
    monkeypatch.setattr(time_keys, "_MIN_WALK", 1)
    monkeypatch.setattr(time_keys, "_SKIPPED_WALKS", seed)
    monkeypatch.setattr(planner, "_COMMON", (0, 2, 1_000)[seed])
    sizes = {"steps": 60, "pool_size": 100, "every": 2}
    asyncio.run(play(tmp_path / "data", Random(seed), backend=backend, keep_versions=keep_versions, **sizes))


@pytest.mark.parametrize("is_settled", [False, True])
def test_ids_that_begin_alike(tmp_path: Path, is_settled: bool) -> None:
    """Positions hold 8 bytes of the id; the order of the rest must come from the whole."""
    random = Random(3)
    same = [with_id("ab" * 8 + random.randbytes(24).hex(), random.randrange(3) + 40) for _ in range(300)]
    others = [fake_event(0, 41, NOW_S + n) for n in (-1, 1)]
    events = [*same, *others]

    async def fill(store: LmdbStore) -> None:
        await store.save(events)

    async def body(store: LmdbStore) -> None:
        if not is_settled:
            await fill(store)
        for wanted, scope in (
            (Filter(), READ_ALL),
            (Filter(authors=frozenset({KEYS[0]})), READ_ALL),
            (Filter(authors=frozenset({KEYS[0]}), limit=1_000), READ_ALL),
            (Filter(kinds=frozenset({40, 41, 42})), ReadScope(private_kinds=frozenset({41}), readers=frozenset(KEYS))),
            (Filter(ids=frozenset(event.event.id for event in events)), READ_ALL),
        ):
            assert (await store.items(Query(filters=(wanted,), scope=scope))).rows == packed(events), wanted

    if is_settled:
        on_store(tmp_path, fill)
    on_store(tmp_path, body)


@contextmanager
def looked_up(store: LmdbStore) -> Iterator[TimeKeys]:
    with store._tables.env.begin() as txn:
        found = TimeKeys(txn, store._tables)
        yield found
        found.close()


def test_ids_are_found_by_walking_by_seeking_and_in_the_event(tmp_path: Path) -> None:
    events = [fake_event(n % 8, 1, NOW_S + n // 3, content=f"{n}") for n in range(2_000)]
    late = [fake_event(n % 8, 1, NOW_S + n // 3, content=f"late {n}") for n in range(2_000)]

    async def fill(store: LmdbStore) -> None:
        await store.save(events)

    async def body(store: LmdbStore) -> None:
        await store.save(late)
        both = list(enumerate([*events, *late], start=1))
        random = Random(5)
        with looked_up(store) as time_keys:
            for count in (1, 2, 31, 32, 33, 300, 4_000):
                for _ in range(20 if count < 1_000 else 1):
                    some = random.sample(both, count)
                    asked = sorted(
                        (keys.position(e.event.created_at, e.id, e.event.kind, serial) for serial, e in some),
                        reverse=True,
                    )
                    expected = sorted(keys.time_key(event.event.created_at, event.id) for _, event in some)
                    assert time_keys.of(asked) == expected
            nowhere = keys.position(NOW_S, b"\x01" * 32, 1, 9_999)
            assert time_keys.of([nowhere]) == []

    on_store(tmp_path, fill)
    on_store(tmp_path, body)


def test_a_walk_gives_the_loop_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock on which every look is a slice later, others get a turn at each chunk."""
    monkeypatch.setattr(item_search, "WALK_ROWS", 50)
    clock = FakeClock()
    events = [fake_event(n % 8, 1, NOW_S + n) for n in range(2_000)]

    async def fill(store: LmdbStore) -> None:
        await store.save(events)

    async def body(store: LmdbStore) -> None:
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.ensure_future(other())
        await asyncio.sleep(0)
        clock.tick_s, before = 1.0, turns
        assert (await store.items(ALL)).rows == packed(events)
        assert turns - before >= 2_000 // 50
        before = turns
        assert (await store.items(Query(filters=(Filter(authors=frozenset({KEYS[1]})),)))).rows == packed(events[1::8])
        assert turns - before >= 1
        task.cancel()

    on_store(tmp_path, fill)
    on_store(tmp_path, body, monotonic_s=clock.monotonic_s)


@pytest.mark.parametrize("is_settled", [False, True])
@pytest.mark.parametrize("wanted", [Filter(), Filter(authors=frozenset(KEYS))])
def test_a_set_is_that_of_the_moment_it_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_settled: bool, wanted: Filter
) -> None:
    """What is stored while the search is interrupted is not in it, and what is removed does not break it."""
    monkeypatch.setattr(item_search, "WALK_ROWS", 10)
    clock = FakeClock()
    events = [fake_event(n % 8, 1, NOW_S + n) for n in range(500)]
    more = [fake_event(n % 8, 1, NOW_S + n, content="more") for n in range(500)]

    async def fill(store: LmdbStore) -> None:
        await store.save(events)

    async def body(store: LmdbStore) -> None:
        if not is_settled:
            await fill(store)
        clock.tick_s = 1.0
        call = asyncio.ensure_future(store.items(Query(filters=(wanted,))))
        await asyncio.sleep(0)
        assert not call.done()
        await store.save(more)
        await store.delete([event.id for event in events[:100]])
        found = await call
        assert found.through_serial == 500
        rows = {found.rows[start : start + 40] for start in range(0, len(found.rows), 40)}
        assert rows >= {packed([event]) for event in events[100:]}
        assert rows <= {packed([event]) for event in events}

    if is_settled:
        on_store(tmp_path, fill)
    on_store(tmp_path, body, monotonic_s=clock.monotonic_s, generation_events=64)


def test_more_than_the_loop_joins_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events = [fake_event(created_at=NOW_S + n) for n in range(20)]

    async def body(store: LmdbStore) -> None:
        await store.save(events)
        for most in (19, 20):
            monkeypatch.setattr("orly.store.lmdb.reads.MAX_ITEMS_JOINED", most)
            assert (await store.items(ALL)).rows == packed(events)

    on_store(tmp_path, body)


def test_many_expired_events_that_wait_to_be_purged(tmp_path: Path) -> None:
    now = NOW_S
    events = [expiring_event(NOW_S + 1 + n % 7, created_at=NOW_S - n) for n in range(700)]

    async def run() -> None:
        nonlocal now
        store = await LmdbStore.open(tmp_path, max_bytes=MAX_BYTES, now_s=lambda: now)
        try:
            await store.save(events)
            for now in range(NOW_S, NOW_S + 9):
                left = [event for n, event in enumerate(events) if NOW_S + 1 + n % 7 > now]
                assert (await store.items(ALL)).rows == packed(left)
        finally:
            await store.close()

    asyncio.run(run())


@pytest.mark.parametrize(("n_rare", "is_walked"), [(31, False), (32, True), (128, True)])
def test_common_kinds_are_walked_to(tmp_path: Path, n_rare: int, is_walked: bool) -> None:
    """One in four of the newest 128 events is common."""
    older = [fake_event(0, 7, NOW_S - 1_000 + n) for n in range(300)]
    newest = [fake_event(0, 7 if n < n_rare else 1, NOW_S + n) for n in range(128)]

    async def body(store: LmdbStore) -> None:
        await store.save([*older, *newest])
        query = Query(filters=(Filter(kinds=frozenset({7})),))
        with store._read() as txn:
            search = ItemSearch(store._view(txn), query, None)
            assert search._is_walked(query.filters[0]) is is_walked
        assert (await store.items(query)).rows == packed([*older, *newest[:n_rare]])

    on_store(tmp_path, body)


def test_private_events_among_many(tmp_path: Path) -> None:
    notes = [fake_event(n % 8, 1, NOW_S + n) for n in range(3_000)]
    wraps = [gift_wrap(KEYS[1 + n % 3], key=4, created_at=NOW_S + 50 * n) for n in range(60)]

    async def body(store: LmdbStore) -> None:
        await store.save([*notes, *wraps])
        for readers, mine in ((frozenset(), []), ({KEYS[1]}, wraps[::3]), ({KEYS[4]}, wraps), ({KEYS[7]}, [])):
            scope = ReadScope(readers=frozenset(readers))
            assert (await store.items(Query(filters=(Filter(),), scope=scope))).rows == packed([*notes, *mine])
            wrapped = Query(filters=(Filter(kinds=frozenset({1059})),), scope=scope)
            assert (await store.items(wrapped)).rows == packed(mine)

    on_store(tmp_path, body)
    on_store(tmp_path, body)


def test_the_feed_leads_to_the_same_set_whatever_one_commit_does(tmp_path: Path) -> None:
    """An event is removed and comes back, another comes and is gone at once; removals count after what is stored."""
    back, brief = fake_event(content="comes back"), fake_event(content="is gone at once")

    async def body(store: LmdbStore) -> None:
        await store.save([back])
        feed = store.feed(None)
        calls = [
            asyncio.ensure_future(call)
            for call in (store.delete([back.id]), store.save([back, brief]), store.delete([brief.id]))
        ]
        await asyncio.gather(*calls)
        batch = await anext(feed)
        assert [item.event.id for item in batch.stored] == [back.id, brief.id], "not one commit"
        assert (batch.removed, batch.through_serial) == ((brief.id,), 3)
        assert (await store.items(ALL)).rows == packed([back])

    on_store(tmp_path, body)
