"""The store suite on a split store, and what only such a store has to get right."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.component.follower_backend import for_reading
from tests.component.lmdb_backend import MAX_BYTES
from tests.component.remote_backend import ServedStore, serve
from tests.component.split_backend import ServedSplitStore, SplitBackend
from tests.component.store_suite_direct import DirectSuite
from tests.component.store_world import DEADLINE_S, FakeClock, StoreOptions, World, on_store
from tests.factory import fake_event

from orly.nostr import event as event_module
from orly.nostr.event import EncodedEvent
from orly.nostr.filter import Filter
from orly.store import remote_feed
from orly.store.base import Query, SaveStatus, StoreError, StoreUnavailableError
from orly.store.lmdb import followed_tail
from orly.store.lmdb.environment import open_environment
from orly.store.lmdb.follower import LmdbFollower
from orly.store.lmdb.store import LmdbStore
from orly.store.split import SplitStore


class TestSplitStore(DirectSuite):
    backend = SplitBackend()

    @on_store()
    async def test_what_the_feed_has_told_can_be_read(self, world: World) -> None:
        feed = world.store.feed(None)
        events = [fake_event(content=f"{n}") for n in range(200)]
        saving = asyncio.create_task(world.store.save(events))
        through = 0
        while through < len(events):
            through = (await world.next_batch(feed)).through_serial
            assert await world.store.last_serial() >= through
            assert await world.count() >= through
        await saving


class TestSplitStoreOfSmallGenerations(DirectSuite):
    """The same with index rows that are partly in memory, partly in the tables, and partly in both."""

    backend = SplitBackend(generation_events=3)


def play(directory: Path, body: Callable[[ServedSplitStore], Awaitable[None]]) -> None:
    async def main() -> None:
        store = await SplitBackend().open(directory, FakeClock(), StoreOptions())
        assert isinstance(store, ServedSplitStore)
        try:
            await asyncio.wait_for(body(store), DEADLINE_S)
        finally:
            await store.close()

    asyncio.run(main())


@pytest.mark.parametrize("is_own", [True, False], ids=["own", "others"])
def test_an_event_is_decoded_once_at_most(is_own: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[bytes] = []
    decode = event_module.decode_verified

    def counting(raw: bytes) -> Any:
        decoded.append(raw)
        return decode(raw)

    for module in (remote_feed, followed_tail):
        monkeypatch.setattr(module, "decode_verified", counting)
    events = [fake_event(content=f"{n}") for n in range(300)]

    async def body(store: ServedSplitStore) -> None:
        feed = store.feed(None)
        await store.delete([b"\0" * 32])  # passes once the feed has begun
        writer = store if is_own else store.served.local
        told: list[EncodedEvent] = []
        for end in range(50, len(events) + 1, 50):
            await writer.save(events[end - 50 : end])
            if end % 100:
                assert await store.last_serial() == end  # here the file is read before the feed has come
            while len(told) < end:
                told += [item.event for item in (await anext(feed)).stored]
        assert [event.raw for event in told] == [event.raw for event in events]
        assert await store.last_serial() == len(events)
        assert sorted(decoded) == ([] if is_own else sorted(event.raw for event in events))

    play(tmp_path, body)


# Another database than the service's


class Worlds:
    """A service with its database, and another database that has nothing to do with it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    async def __aenter__(self) -> "Worlds":
        ours, theirs = (open_environment(self.root / name, max_bytes=MAX_BYTES) for name in ("ours", "theirs"))
        self.local = LmdbStore(ours)
        self.other = LmdbStore(theirs)
        self.served = ServedStore(self.local, *await serve(self.local))
        self.follower = LmdbFollower(for_reading(theirs))
        self.own_follower = LmdbFollower(for_reading(ours))
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.follower.close()
        await self.own_follower.close()
        await self.served.close()
        await self.other.close()


@pytest.mark.parametrize(("n_ours", "n_theirs"), [(1, 0), (0, 1), (3, 2)])
def test_a_file_that_is_not_the_services_is_refused_by_name(n_ours: int, n_theirs: int, tmp_path: Path) -> None:
    events = [fake_event(content=f"{n}") for n in range(3)]

    async def main() -> None:
        async with Worlds(tmp_path) as worlds:
            await worlds.local.save(events[:n_ours])
            await worlds.other.save(events[:n_theirs])
            with pytest.raises(StoreUnavailableError, match="is not where the store's service keeps its events"):
                await SplitStore.open(worlds.served, worlds.follower, tmp_path / "theirs")
            await SplitStore.open(worlds.served, worlds.own_follower, tmp_path / "ours")

    asyncio.run(main())


def test_a_file_that_looked_like_the_services_is_found_out_by_what_is_saved(tmp_path: Path) -> None:
    async def main() -> None:
        async with Worlds(tmp_path) as worlds:
            store = await SplitStore.open(worlds.served, worlds.follower, tmp_path / "theirs")
            with pytest.raises(StoreError, match=r"has stored the serial 1, and .*theirs ends at 0"):
                await store.save([fake_event()])

    asyncio.run(main())


def test_a_file_that_looked_like_the_services_is_found_out_by_what_is_told(tmp_path: Path) -> None:
    async def main() -> None:
        async with Worlds(tmp_path) as worlds:
            store = await SplitStore.open(worlds.served, worlds.follower, tmp_path / "theirs")
            feed = store.feed(None)
            await asyncio.wait_for(worlds.served.delete([b"\0" * 32]), DEADLINE_S)  # passes once the feed has begun
            await worlds.local.save([fake_event()])
            with pytest.raises(StoreError, match="has stored the serial 1"):
                await asyncio.wait_for(anext(feed), DEADLINE_S)

    asyncio.run(main())


def test_a_service_that_writes_while_the_store_is_opened_is_no_other(tmp_path: Path) -> None:
    """Its serials are compared at two moments: they may go on in between."""

    async def main() -> None:
        async with Worlds(tmp_path) as worlds:
            correct = worlds.served.last_serial

            async def later() -> int:
                await worlds.local.save([fake_event(content="before it answers")])
                serial = await correct()
                await worlds.local.save([fake_event(content="after it has answered")])
                return serial

            worlds.served.last_serial = later  # type: ignore[method-assign]
            store = await SplitStore.open(worlds.served, worlds.own_follower, tmp_path / "ours")
            assert await store.last_serial() == 2

    asyncio.run(main())


# While the service is away


def test_reads_go_on_and_writes_fail_while_the_service_is_away(tmp_path: Path) -> None:
    async def body(store: ServedSplitStore) -> None:
        event, late = fake_event(content="stored"), fake_event(content="late")
        store.served._connection.timeout_s = 0.2
        await store.save([event])
        store.served.service.stop()
        await store.served.server.stop(0.1)
        (result,) = await store.save([late])
        assert (result.status, result.detail) == (SaveStatus.FAILED, "the store did not answer within 0.2 s")
        assert store.served.trouble is not None
        assert store.known([event.id, late.id]) == [True, False]
        assert await store.fetch(Query(filters=(Filter(),))) == [event.raw]
        assert await store.last_serial() == 1

    play(tmp_path, body)
