"""Hiding in one database: the journal and its readers, interrupted work, and many random changes."""

import asyncio
from pathlib import Path
from random import Random
from typing import Any

import pytest
from tests.component.follower_backend import for_reading
from tests.component.lmdb_backend import MAX_BYTES, assert_sound
from tests.factory import KEYS, NOW_S, fake_event

from orly.nostr.filter import Filter
from orly.store.base import HiddenKey, Query, ReadScope, StoreError
from orly.store.lmdb import hiding
from orly.store.lmdb.environment import Environment, open_environment
from orly.store.lmdb.follower import LmdbFollower
from orly.store.lmdb.store import LmdbStore
from orly.store.lmdb.transaction import Transaction

MOST = Query(filters=(Filter(),), scope=ReadScope(private_kinds=frozenset()))
ALL = Query(filters=(Filter(),))
AUTHOR = HiddenKey(bytes.fromhex(KEYS[0]), True)


async def opened(directory: Path) -> LmdbStore:
    return await LmdbStore.open(directory, max_bytes=MAX_BYTES)


def test_a_long_journal_is_written_anew_and_readers_begin_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hiding, "MAX_ROWS", 5)
    monkeypatch.setattr(hiding, "HIDE_EVENTS", 2)
    events = [fake_event(n % 2, created_at=NOW_S + n) for n in range(10)]
    left = [event.event.id for event in reversed(events[1::2])]

    async def ids(store: LmdbStore | LmdbFollower) -> list[str]:
        assert len((await store.items(MOST)).rows) == 40 * await store.count(MOST)
        found = await store.versions(MOST)
        return [raw[7:71].decode() for raw in found]

    async def main() -> None:
        store = await opened(tmp_path)
        await store.save(events)
        for _ in range(3):
            await store.hide([AUTHOR])
            assert await ids(store) == left
            await store.show([AUTHOR])
        await store.hide([AUTHOR])
        await store.delete([events[0].id])
        await store.close()
        tables = open_environment(tmp_path, max_bytes=MAX_BYTES)
        with tables.env.begin() as txn:
            before = txn.stat(tables.hidden)["entries"]
        assert before > 5
        follower = LmdbFollower(for_reading(tables))
        assert await ids(follower) == left
        store = LmdbStore(tables)
        with tables.env.begin() as txn:
            assert txn.stat(tables.hidden)["entries"] == 2
        assert await ids(store) == left
        assert await ids(follower) == left
        await store.show([AUTHOR])
        assert await ids(store) == await ids(follower) == [event.event.id for event in reversed(events[1:])]
        await follower.close()
        await store.close()

    asyncio.run(main())
    assert_sound(tmp_path)


def test_a_journal_that_cannot_be_shorter_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hiding, "MAX_ROWS", 5)
    monkeypatch.setattr(hiding, "HIDE_EVENTS", 1)
    events = [fake_event(created_at=NOW_S + n) for n in range(8)]
    keys = [HiddenKey(event.id, False) for event in events]
    compact, n_rows = hiding.compact, list[int]()

    def counting(txn: Any, tables: Environment) -> None:
        n_rows.append(txn.stat(tables.hidden)["entries"])
        compact(txn, tables)

    monkeypatch.setattr(hiding, "compact", counting)

    async def main() -> None:
        store = await opened(tmp_path)
        await store.save(events)
        await store.hide(keys)
        for expected in ([8], [8], [8]):
            await store.close()
            store = await opened(tmp_path)
            assert n_rows == expected
        await store.show(keys[:4])
        await store.hide(keys[:3])
        await store.close()
        store = await opened(tmp_path)
        assert n_rows == [8], "15 rows are not twice as many"
        await store.hide(keys[3:4])
        await store.show(keys[1:])
        for _ in range(2):
            await store.close()
            store = await opened(tmp_path)
            assert n_rows == [8, 23]
            assert await store.count(MOST) == 7
        await store.close()

    asyncio.run(main())
    assert_sound(tmp_path)


class Serials(set[bytes]):
    """Refuses what makes another set: with millions hidden that took seconds, once for each row."""

    def __ror__(self, other: Any) -> Any:
        raise AssertionError("the set was copied")

    __rsub__ = __ror__


def test_a_journal_is_written_anew_without_a_copy_for_each_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events = [fake_event(n % 2, created_at=NOW_S + n) for n in range(10)]
    read = hiding._journal

    async def main() -> None:
        tables = open_environment(tmp_path, max_bytes=MAX_BYTES)
        store = LmdbStore(tables)
        await store.save(events)
        await store.hide([AUTHOR])
        await store.show([AUTHOR])
        await store.hide([AUTHOR])
        with monkeypatch.context() as patch, tables.env.begin(write=True) as txn:
            patch.setattr(hiding, "_journal", lambda *given: ((sign, Serials(each)) for sign, each in read(*given)))
            hiding.compact(txn, tables)
        assert await store.count(MOST) == 5
        await store.close()

    asyncio.run(main())
    assert_sound(tmp_path)


class CountedTransaction:
    """Counts the cursors that are opened."""

    def __init__(self, txn: Any) -> None:
        self._txn = txn
        self.n_cursors = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._txn, name)

    def cursor(self, table: Any) -> Any:
        self.n_cursors += 1
        return self._txn.cursor(table)


@pytest.mark.parametrize("n_authors", [0, 1])
@pytest.mark.parametrize("n_events", [0, 1])
def test_a_transaction_opens_one_cursor_to_see_what_is_hidden(tmp_path: Path, n_authors: int, n_events: int) -> None:
    event = fake_event(0)

    async def main() -> None:
        tables = open_environment(tmp_path, max_bytes=MAX_BYTES)
        store = LmdbStore(tables)
        await store.hide([AUTHOR] * n_authors + [HiddenKey(event.id, False)] * n_events)
        with tables.env.begin() as txn:
            counted = CountedTransaction(txn)
            hidden_keys = hiding.HiddenKeys(tables, counted, set())
            assert counted.n_cursors == (1 if n_authors or n_events else 0)
            assert hidden_keys.cover(event) == bool(n_authors or n_events)
            assert hidden_keys.cover(fake_event(0, content="other")) == bool(n_authors)
            assert not hidden_keys.cover(fake_event(1))
        await store.close()

    asyncio.run(main())


@pytest.mark.parametrize("max_shown", [1, 2, 1000])
def test_who_was_shown_before_is_hidden_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, max_shown: int
) -> None:
    monkeypatch.setattr(hiding, "MAX_SHOWN", max_shown)
    authors = [HiddenKey(bytes.fromhex(key), True) for key in KEYS[:4]]
    events = [[fake_event(key, created_at=NOW_S + n) for key in range(4)] for n in range(4)]

    async def seen(store: LmdbStore) -> set[str]:
        return {raw[7:71].decode() for raw in await store.versions(MOST)}

    async def main() -> None:
        store = await opened(tmp_path)
        await store.hide([authors[3]])
        await store.save(events[0])
        await store.save(events[1])  # of authors who have been looked up
        assert await seen(store) == {event.event.id for event in (*events[0][:3], *events[1][:3])}
        await store.hide([authors[0], HiddenKey(events[2][1].id, False)])
        await store.save(events[2])
        wanted = {event.event.id for n in (0, 1) for event in events[n][1:3]} | {events[2][2].event.id}
        assert await seen(store) == wanted
        await store.show([authors[0], authors[3]])
        await store.save(events[3])
        assert await seen(store) == {event.event.id for row in events for event in row} - {events[2][1].event.id}
        await store.close()

    asyncio.run(main())
    assert_sound(tmp_path)


@pytest.mark.parametrize("is_hidden", [True, False])
@pytest.mark.parametrize("n_steps", [0, 1, 2])
def test_what_was_broken_off_is_finished_when_it_is_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_steps: int, is_hidden: bool
) -> None:
    monkeypatch.setattr(hiding, "HIDE_EVENTS", 3)
    events = [fake_event(0, created_at=NOW_S + n) for n in range(10)]

    async def main() -> None:
        store = await opened(tmp_path)
        await store.save(events)
        await store.close()  # else all of them wait in memory, and are done at once
        store = await opened(tmp_path)
        if not is_hidden:
            await store.hide([AUTHOR])
        step, left = hiding.HidingJob.step, n_steps

        def failing(self: hiding.HidingJob, transaction: Transaction) -> None:
            nonlocal left
            if not left:
                raise StoreError("the disk is full")
            left -= 1
            step(self, transaction)

        monkeypatch.setattr(hiding.HidingJob, "step", failing)
        change = store.hide if is_hidden else store.show
        with pytest.raises(StoreError):
            await change([AUTHOR])
        seen = await store.count(MOST)
        assert seen == (10 if is_hidden else 0) if n_steps == 0 else 0 < seen < 10
        is_done = [done for _, done in await store.hidden()]
        assert is_done == ([] if is_hidden and n_steps == 0 else [not is_hidden and n_steps == 0])
        await store.close()
        monkeypatch.setattr(hiding.HidingJob, "step", step)
        store = await opened(tmp_path)
        assert await store.count(MOST) == seen
        await (store.hide if is_hidden else store.show)([AUTHOR])
        assert await store.count(MOST) == (0 if is_hidden else 10)
        assert await store.hidden() == ([(AUTHOR, True)] if is_hidden else [])
        await store.close()

    asyncio.run(main())
    assert_sound(tmp_path)


@pytest.mark.parametrize("seed", range(6))
def test_whatever_is_hidden_and_shown_everyone_agrees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(hiding, "MAX_ROWS", 8)
    monkeypatch.setattr(hiding, "HIDE_EVENTS", 4)
    random = Random(seed)
    pool = [fake_event(random.randrange(4), random.choice([0, 1, 30_000]), NOW_S + n) for n in range(80)]
    keys = [HiddenKey(bytes.fromhex(key), True) for key in KEYS[:4]] + [HiddenKey(event.id, False) for event in pool]

    async def main() -> None:
        wanted: set[HiddenKey] = set()
        tables = open_environment(tmp_path, max_bytes=MAX_BYTES)
        store = LmdbStore(tables, generation_events=7)
        for _ in range(60):
            match random.randrange(7):
                case 0 | 1 | 2:
                    await store.save(random.choices(pool, k=random.randrange(1, 9)))
                case 3:
                    chosen = random.choices(keys, k=random.randrange(1, 4))
                    await store.hide(chosen)
                    wanted |= set(chosen)
                case 4:
                    chosen = random.choices(keys, k=random.randrange(1, 4))
                    await store.show(chosen)
                    wanted -= set(chosen)
                case 5:
                    await store.delete([random.choice(pool).id])
                case _:
                    await store.close()
                    tables = open_environment(tmp_path, max_bytes=MAX_BYTES)
                    store = LmdbStore(tables, generation_events=7)
            raws = await store.fetch(ALL)
            hidden = {each.key.hex() for each in wanted}
            visible = [raw for raw in raws if not {raw[7:71].decode(), raw[83:147].decode()} & hidden]
            assert await store.fetch(MOST) == visible
            assert len((await store.items(MOST)).rows) == 40 * len(visible)
            follower = LmdbFollower(for_reading(tables))
            assert await follower.count(MOST) == len(visible)
            await follower.close()
            assert {key for key, _ in await store.hidden()} == wanted
        await store.close()

    asyncio.run(main())
    assert_sound(tmp_path)
