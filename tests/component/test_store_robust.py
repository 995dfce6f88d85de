"""Reads that go wrong and stores that close: nothing stays open, nothing accepted is lost, everybody hears of it."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.component.lmdb_backend import MAX_BYTES
from tests.component.store_faults import ALL, open_reads, play
from tests.component.store_world import Sink
from tests.factory import NOW_S, fake_event

from orly.nostr.filter import Filter
from orly.store.base import Query, SaveStatus, StoreError
from orly.store.lmdb.environment import open_environment
from orly.store.lmdb.store import LmdbStore

# Reading: whatever goes wrong, no transaction stays open


def test_a_clock_that_fails_leaves_no_transaction_open(tmp_path: Path) -> None:
    is_broken = False

    def now_s() -> int:
        if is_broken:
            raise OSError("no clock")
        return NOW_S

    async def body(store: LmdbStore) -> None:
        nonlocal is_broken
        await store.save([fake_event()])
        is_broken = True
        with pytest.raises(OSError, match="no clock"):
            store.query(ALL, Sink())
        with pytest.raises(OSError, match="no clock"):
            await store.count(ALL)
        is_broken = False
        assert open_reads(store) == 0
        assert await store.count(ALL) == 1

    play(tmp_path, body, now_s=now_s)


def test_a_sink_that_fails_leaves_no_transaction_open(tmp_path: Path) -> None:
    class FailingSink(Sink):
        def rows(self, events: Sequence[bytes]) -> bool:
            raise ZeroDivisionError("a defect")

    async def body(store: LmdbStore) -> None:
        await store.save([fake_event()])
        with pytest.raises(ZeroDivisionError):
            store.query(ALL, FailingSink())
        assert open_reads(store) == 0

    play(tmp_path, body)


def test_a_paused_query_holds_no_transaction(tmp_path: Path) -> None:
    async def body(store: LmdbStore) -> None:
        await store.save([fake_event(created_at=NOW_S + n, content="x" * 40_000) for n in range(9)])
        sinks = [Sink(credit=1) for _ in range(300)]
        handles = []
        for sink in sinks:
            handles.append(store.query(ALL, sink))
            await sink.wait(lambda sink=sink: sink.calls == 1, "the first rows")  # type: ignore[misc]
        assert open_reads(store) == 0
        for handle in handles:
            handle.cancel()

    play(tmp_path, body)


def test_an_unreadable_event_ends_a_query_with_the_reason(tmp_path: Path) -> None:
    async def save(store: LmdbStore) -> None:
        await store.save([fake_event(tags=[["t", "x"], ["p", "y"]])])

    async def body(store: LmdbStore) -> None:
        tags = {"t": frozenset({"x"}), "p": frozenset({"y"})}
        query = Query(filters=(Filter(tags=tags),))
        with pytest.raises(StoreError, match=r"damaged.*orly check"):
            await store.fetch(query)
        with pytest.raises(StoreError, match=r"damaged.*orly check"):
            await store.count(query)
        assert open_reads(store) == 0

    play(tmp_path, save)
    environment = open_environment(tmp_path, max_bytes=MAX_BYTES)
    with environment.env.begin(write=True) as txn:
        txn.put((1).to_bytes(8, "big"), b"\xff\xfe broken", db=environment.events)
    environment.close()
    play(tmp_path, body)


def test_a_sink_may_cancel_from_within(tmp_path: Path) -> None:
    class Cancelling(Sink):
        handle: Any = None

        def rows(self, events: Sequence[bytes]) -> bool:
            super().rows(events)
            if self.handle is not None:
                self.handle.cancel()
            return self.handle is not None

    async def body(store: LmdbStore) -> None:
        await store.save([fake_event(created_at=NOW_S + n, content="x" * 40_000) for n in range(9)])
        sink = Cancelling()
        sink.handle = store.query(ALL, sink)
        sink.handle.resume()
        assert (sink.calls, sink.is_over) == (2, False)
        assert open_reads(store) == 0

    play(tmp_path, body)


# Closing


def test_closing_finishes_what_was_accepted(tmp_path: Path) -> None:
    async def body(store: LmdbStore) -> None:
        saves = [asyncio.ensure_future(store.save([fake_event(created_at=n)])) for n in range(2_000)]
        await asyncio.sleep(0)
        await asyncio.gather(store.close(), store.close())
        results = await asyncio.gather(*saves)
        assert {result.status for call in results for result in call} == {SaveStatus.STORED}

    async def count(store: LmdbStore) -> None:
        assert await store.count(ALL) == 2_000

    play(tmp_path, body)
    play(tmp_path, count)


def test_closing_during_a_count_ends_it_with_the_reason(tmp_path: Path) -> None:
    async def save(store: LmdbStore) -> None:
        await store.save([fake_event(created_at=n) for n in range(1_000)])

    async def body(store: LmdbStore) -> None:
        counting = asyncio.ensure_future(store.count(Query(filters=(Filter(),) * 50_000)))
        await asyncio.sleep(0)
        assert not counting.done()
        await store.close()
        with pytest.raises(StoreError):
            await counting

    play(tmp_path, save)
    ticks = iter(range(10**9))
    play(tmp_path, body, monotonic_s=lambda: float(next(ticks)))


def test_a_caller_that_goes_away_disturbs_nobody(tmp_path: Path) -> None:
    async def body(store: LmdbStore) -> None:
        calls = [asyncio.ensure_future(store.save([fake_event(created_at=n)])) for n in range(20)]
        await asyncio.sleep(0)
        for call in calls[::2]:
            call.cancel()
        done = await asyncio.gather(*calls, return_exceptions=True)
        assert [isinstance(result, asyncio.CancelledError) for result in done] == [True, False] * 10
        assert (await store.save([fake_event(1)]))[0].status is SaveStatus.STORED
        assert await store.count(ALL) == 21

    play(tmp_path, body)
