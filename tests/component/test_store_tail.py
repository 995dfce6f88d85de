"""Rows that wait in memory: readers see what is committed and nothing else, and a crash leaves no stale row."""

import asyncio
import shutil
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, Final

import pytest
from tests.component.lmdb_backend import MAX_BYTES, assert_sound
from tests.component.store_faults import ALL, BrokenEnvironment, play
from tests.component.store_model import Model, make_pool
from tests.component.store_world import DEADLINE_S
from tests.factory import KEYS, NOW_S, delete_event, fake_event, vanish_event

from orly.nostr.event import EncodedEvent
from orly.nostr.filter import Filter
from orly.store.base import ITEM_BYTES, Query, SaveStatus, StoreUnavailableError
from orly.store.lmdb import keys
from orly.store.lmdb.environment import Environment, open_environment
from orly.store.lmdb.store import LmdbStore
from orly.store.lmdb.tail import GENERATION_EVENTS

SIZES: Final = (1, 2, 7, GENERATION_EVENTS)
"""Generations: from always on the way to the tables to always in memory."""


KINDS: Final = frozenset({0, 1, 3, 5, 62, 1059, 10_002, 30_023, 30_024})


class HeldTransaction:
    """A write transaction whose commit waits for a signal."""

    def __init__(self, txn: Any, signal: threading.Event) -> None:
        self._txn = txn
        self._signal = signal

    def __getattr__(self, name: str) -> Any:
        return getattr(self._txn, name)

    def commit(self) -> None:
        assert self._signal.wait(DEADLINE_S), "nobody gave the signal"
        self._txn.commit()


class HeldEnvironment:
    """An LMDB environment whose commits wait while `signal` is clear."""

    def __init__(self, env: Any) -> None:
        self._env = env
        self.signal = threading.Event()
        self.signal.set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)

    def moment(self) -> int:
        """The number of the last commit that readers see."""
        with self._env.begin() as txn:
            return int(txn.id())

    def begin(self, write: bool = False) -> Any:
        txn = self._env.begin(write=write)
        return HeldTransaction(txn, self.signal) if write else txn


async def answers(store: LmdbStore) -> list[bytes]:
    """Everything, asked for in several ways that must agree."""
    found = await store.fetch(ALL)
    others = [
        Filter(authors=frozenset(KEYS)),
        Filter(kinds=KINDS),
        Filter(authors=frozenset(KEYS), kinds=KINDS),
        Filter(ids=frozenset(raw[7:71].decode() for raw in found)),
    ]
    for wanted in others:
        assert await store.fetch(Query(filters=(wanted,))) == found, wanted
    assert await store.count(ALL) == len(found)
    assert len((await store.items(ALL)).rows) == len(found) * ITEM_BYTES
    assert store.known([bytes.fromhex(raw[7:71].decode()) for raw in found]) == [True] * len(found)
    return found


OLD: Final = fake_event(0, 0, NOW_S)
NEW: Final = fake_event(0, 0, NOW_S + 1)
NOTE: Final = fake_event(0, 1, NOW_S + 5)
DELETION: Final = delete_event(NOTE, OLD, created_at=NOW_S + 6)
REQUEST: Final = vanish_event(created_at=NOW_S + 7)
CHANGES: Final[dict[str, tuple[Callable[[LmdbStore], Awaitable[Any]], list[EncodedEvent]]]] = {
    "replacement": (lambda store: store.save([NEW]), [NOTE, NEW]),
    "deletion": (lambda store: store.save([DELETION]), [DELETION]),
    "vanish": (lambda store: store.save([REQUEST]), [REQUEST]),
    "administration": (lambda store: store.delete([NOTE.id]), [OLD]),
}


@pytest.mark.parametrize("generation_events", SIZES)
@pytest.mark.parametrize("change", CHANGES)
def test_what_a_commit_takes_out_is_seen_until_it_is_done(tmp_path: Path, change: str, generation_events: int) -> None:
    held: list[HeldEnvironment] = []

    def wrap(environment: Environment) -> Environment:
        held.append(HeldEnvironment(environment.env))
        return replace(environment, env=held[0])

    async def body(store: LmdbStore) -> None:
        act, after = CHANGES[change]
        for event in (OLD, NOTE):
            await store.save([event])
        before = [NOTE.raw, OLD.raw]
        assert await answers(store) == before
        moment = held[0].moment()
        held[0].signal.clear()
        changing = asyncio.ensure_future(act(store))
        try:
            for _ in range(5):
                await asyncio.sleep(0)
                assert await answers(store) == before
            assert not changing.done()
        finally:
            held[0].signal.set()
        deadline_s = time.monotonic() + DEADLINE_S
        while held[0].moment() == moment:  # the loop must not learn of the commit yet
            assert time.monotonic() < deadline_s, "the commit never came"
        assert await store.fetch(ALL) == [event.raw for event in after]
        await changing
        assert await answers(store) == [event.raw for event in after]

    play(tmp_path, body, wrap=wrap, generation_events=generation_events)
    assert_sound(tmp_path)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("generation_events", SIZES)
def test_what_a_failed_commit_did_is_taken_back(tmp_path: Path, generation_events: int, seed: int) -> None:
    """A random history in which every third commit fails is that of a model that never heard of those."""
    random, model, broken = Random(seed), Model(keep_versions=bool(seed % 2)), list[BrokenEnvironment]()
    pool = make_pool(random, 200)

    def wrap(environment: Environment) -> Environment:
        broken.append(BrokenEnvironment(environment.env))
        return replace(environment, env=broken[0])

    async def body(store: LmdbStore) -> None:
        for n in range(150):
            events = random.choices(pool[max(0, n - 15) : n + 15], k=random.randrange(1, 8))
            fails = random.random() < 0.35
            broken[0].fails_at = "commit" if fails else ""
            statuses = [result.status for result in await store.save(events)]
            if fails:
                assert statuses == [SaveStatus.FAILED] * len(events)
            else:
                assert statuses == [model.save(event, NOW_S) for event in events]
            ordered = sorted(model.visible.values(), key=lambda event: (-event.event.created_at, event.event.id))
            assert await answers(store) == [event.raw for event in ordered]
            assert await store.last_serial() == model.serial

    play(
        tmp_path,
        body,
        wrap=wrap,
        generation_events=generation_events,
        keep_versions=model.keep_versions,
        now_s=lambda: NOW_S,
    )
    assert_sound(tmp_path)


@pytest.mark.parametrize("generation_events", SIZES)
def test_a_search_under_way_misses_nothing_that_moves_to_the_tables(tmp_path: Path, generation_events: int) -> None:
    events = [fake_event(n % 8, 1, NOW_S + n, [["t", f"{n % 3}"]]) for n in range(200)]

    async def body(store: LmdbStore) -> None:
        for start in range(0, 200, 5):
            await store.save(events[start : start + 5])
        with store._read() as txn:
            reader = store._reader(txn, ALL)
            for n in range(100):
                await store.save([fake_event(n % 8, 1, NOW_S + 1_000 + n)])
            for key in KEYS:
                wanted = Filter(authors=frozenset({key}))
                found = [row for chunk in reader.chunks(wanted, None) for row in chunk]
                assert len(found) == len(set(found)) == 25
        assert await store.count(ALL) == 300

    play(tmp_path, body, generation_events=generation_events)
    assert_sound(tmp_path)


def crashed(store: LmdbStore, copy: Path) -> None:
    """What a crash would leave of a store whose commits are done."""
    copy.mkdir()
    shutil.copy(store._tables.directory / "data.mdb", copy / "data.mdb")


@pytest.mark.parametrize("generation_events", [16, GENERATION_EVENTS])
@pytest.mark.parametrize("transactions", range(9))
@pytest.mark.parametrize("change", ["replace", "delete", "deletion", "vanish"])
def test_a_flush_that_was_broken_off_leaves_no_stale_rows(
    tmp_path: Path, transactions: int, change: str, generation_events: int
) -> None:
    """One table is written with each transaction, so every stage of the way is met."""
    profiles = [fake_event(key, 0, NOW_S, [["t", "x"]]) for key in range(8)]
    notes = [fake_event(key, 1, NOW_S + 1, [["t", "x"]]) for key in range(8)]

    async def crash(store: LmdbStore) -> None:
        await store.save(profiles + notes)
        for n in range(transactions):
            await store.save([fake_event(kind=20_000, created_at=n)])
        crashed(store, tmp_path / "copy")

    async def go_on(store: LmdbStore) -> None:
        assert await store.count(ALL) == 16
        assert len(await answers(store)) == 16
        match change:
            case "replace":
                await store.save([fake_event(key, 0, NOW_S + 2) for key in range(8)])
                assert len(await answers(store)) == 16
            case "delete":
                assert await store.delete([event.id for event in profiles]) == 8
                assert len(await answers(store)) == 8
                assert (await store.save([profiles[0]]))[0].status is SaveStatus.STORED
            case "deletion":
                await store.save([delete_event(profiles[key], notes[key], key=key) for key in range(8)])
                assert len(await answers(store)) == 8
            case "vanish":
                await store.save([vanish_event(key=key, created_at=NOW_S + 1) for key in range(8)])
                assert len(await answers(store)) == 8
        assert await store.count(Query(filters=(Filter(tags={"t": frozenset({"x"})}),))) == {
            "replace": 8, "delete": 9, "deletion": 0, "vanish": 0
        }[change]  # fmt: skip
        crashed(store, tmp_path / "copy again")

    play(tmp_path / "data", crash, generation_events=16)
    assert_sound(tmp_path / "copy")
    play(tmp_path / "copy", go_on, generation_events=generation_events)
    assert_sound(tmp_path / "copy")
    assert_sound(tmp_path / "copy again")


def test_a_generation_that_a_failed_commit_was_added_to_ends_where_it_did_before(tmp_path: Path) -> None:
    """Else the tables would claim the rows of later events, which a crash then loses."""
    broken: list[BrokenEnvironment] = []

    def wrap(environment: Environment) -> Environment:
        broken.append(BrokenEnvironment(environment.env))
        return replace(environment, env=broken[0])

    async def body(store: LmdbStore) -> None:
        notes = [fake_event(n % 8, 1, NOW_S + n) for n in range(40)]
        await store.save(notes[:3])
        broken[0].fails_at = "commit"
        assert (await store.save(notes[20:]))[0].status is SaveStatus.FAILED
        for n in range(3, 12):  # the first four are in the tables by then, the others wait
            await store.save([notes[n]])
        crashed(store, tmp_path / "copy")

    play(tmp_path / "data", body, wrap=wrap, generation_events=4)
    assert_sound(tmp_path / "copy")


def test_an_unreadable_event_that_waits_is_refused_at_the_start(tmp_path: Path) -> None:
    async def crash(store: LmdbStore) -> None:
        await store.save([fake_event()])
        crashed(store, tmp_path / "copy")

    async def reopen() -> None:
        for _ in range(2):
            with pytest.raises(StoreUnavailableError, match=r"damaged.*orly check"):
                await LmdbStore.open(tmp_path / "copy", max_bytes=MAX_BYTES)

    play(tmp_path / "data", crash)
    environment = open_environment(tmp_path / "copy", max_bytes=MAX_BYTES)
    with environment.env.begin(write=True) as txn:
        txn.put((1).to_bytes(8, "big"), b"\xff broken", db=environment.events)
    environment.close()
    asyncio.run(reopen())


def test_a_reader_beside_a_writer_reads_what_waits_there(tmp_path: Path) -> None:
    async def body(store: LmdbStore) -> None:
        events = [fake_event(created_at=NOW_S + n) for n in range(40)]
        for n, event in enumerate(events):
            await store.save([event])
            crashed(store, tmp_path / f"{n}")
            reader = await LmdbStore.open(tmp_path / f"{n}", max_bytes=MAX_BYTES, read_only=True)
            assert await answers(reader) == [event.raw for event in reversed(events[: n + 1])]
            await reader.close()

    play(tmp_path / "data", body, generation_events=5)


def test_a_search_under_way_does_not_see_what_is_stored_meanwhile(tmp_path: Path) -> None:
    """A late event may be dated before the rows that are still to be read; it comes by the live tail, once."""

    async def main() -> None:
        store = await LmdbStore.open(tmp_path, max_bytes=MAX_BYTES, now_s=lambda: NOW_S)
        await store.save([fake_event(created_at=NOW_S - n) for n in range(10)])
        with store._read() as txn:
            scan = store._scan(txn)
            chunks = scan.chunks("times", b"", 0, NOW_S, 2)
            seen = next(chunks)
            await store.save([fake_event(1, created_at=NOW_S - 5)])
            seen += [row for chunk in chunks for row in chunk]
        assert len(seen) == 10
        assert all(row[keys.SERIAL_SLICE] <= scan.through for row in seen)
        await store.close()

    asyncio.run(main())
