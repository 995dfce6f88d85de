"""Sets of events: whatever the store goes through, a snapshot is what its index says at that moment."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any, Final

import pytest
from tests.component import store_play
from tests.component.async_test import async_test
from tests.component.lmdb_backend import LmdbBackend
from tests.component.remote_backend import RemoteBackend
from tests.component.split_backend import SplitBackend
from tests.component.store_model import Model, make_pool
from tests.component.store_proxy import StoreProxy
from tests.component.store_world import DEADLINE_S, Backend, FakeClock, StoreOptions, World
from tests.factory import KEYS, NOW_S, delete_event, expiring_event, fake_event, gift_wrap

from orly.negentropy import ITEM_BYTES
from orly.nostr.filter import Filter
from orly.store.base import (
    READ_ALL,
    CountTooLargeError,
    FeedBatch,
    HiddenKey,
    ItemRows,
    Query,
    ReadScope,
    StoreError,
    StoreUnavailableError,
)
from orly.sync.negentropy import full_set, sets
from orly.sync.negentropy.sets import CLIENT_SHARE, SetKeeper, SetsFullError

PUBLIC: Final = ReadScope()
READER: Final = ReadScope(readers=frozenset(KEYS[1:2]))
EVERYTHING: Final = Query(filters=(Filter(),), scope=PUBLIC)
ASKED: Final = tuple(
    Query(filters=(wanted,), scope=scope)
    for scope in (PUBLIC, READ_ALL, READER)
    for wanted in (Filter(), Filter(since=NOW_S + 6), Filter(since=NOW_S + 3, until=NOW_S + 30))
)
"""All of these are answered from memory."""

OTHERS: Final = (
    Query(filters=(Filter(kinds=frozenset({1, 30_023})),), scope=PUBLIC),
    Query(filters=(Filter(limit=5),), scope=PUBLIC),
    Query(filters=(Filter(authors=frozenset(KEYS[:1])), Filter(kinds=frozenset({0}))), scope=READER),
    Query(filters=(Filter(),), scope=ReadScope(private_kinds=frozenset({1}))),
)


class FedStore(StoreProxy):
    """A store whose feed a test breaks.

    Attributes:
        feeds: How often the feed was asked for.
        item_calls: The queries for items, in order.
        broken: Set when a feed has come to its end.
    """

    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        self.feeds = 0
        self.item_calls: list[Query] = []
        self._called = asyncio.Event()
        self.reading = asyncio.Event()
        self.reading.set()
        self._extra: asyncio.Queue[FeedBatch | StoreError | None] = asyncio.Queue()
        self.is_mute = False
        self.broken = asyncio.Event()

    def tell(self, what: FeedBatch | StoreError | None) -> None:
        """The feed says this next, or fails with it, or ends."""
        self._extra.put_nowait(what)

    def feed(self, after_serial: int | None) -> AsyncIterator[FeedBatch]:
        self.feeds += 1
        return self._feed(self.inner.feed(after_serial))

    async def _feed(self, feed: AsyncIterator[FeedBatch]) -> AsyncIterator[FeedBatch]:
        theirs = asyncio.ensure_future(anext(feed))
        own = asyncio.ensure_future(self._extra.get())
        try:
            while True:
                await asyncio.wait((theirs, own), return_when=asyncio.FIRST_COMPLETED)
                if own.done():
                    match own.result():
                        case FeedBatch() as batch:
                            yield batch
                        case StoreError() as error:
                            raise error
                        case None:
                            return
                    own = asyncio.ensure_future(self._extra.get())
                elif not self.is_mute:
                    yield theirs.result()
                    theirs = asyncio.ensure_future(anext(feed))
                else:
                    await asyncio.wait((own,))
        finally:
            theirs.cancel()
            own.cancel()
            await asyncio.gather(theirs, own, return_exceptions=True)
            await feed.aclose()  # type: ignore[attr-defined]
            self.broken.set()

    async def asked(self, times: int) -> None:
        """Wait until items were asked for so often."""
        async with asyncio.timeout(DEADLINE_S):
            while len(self.item_calls) < times:
                self._called.clear()
                await self._called.wait()

    async def items(self, query: Query, *, max_items: int | None = None) -> ItemRows:
        self.item_calls.append(query)
        self._called.set()
        await self.reading.wait()
        return await super().items(query, max_items=max_items)


@asynccontextmanager
async def keeping(
    directory: Path,
    *,
    backend: Backend | None = None,
    max_items: int = 1_000_000,
    max_sets_bytes: int = 1 << 30,
    options: StoreOptions | None = None,
    wrap: Callable[[Any], StoreProxy] = FedStore,
) -> AsyncIterator[tuple[World, SetKeeper]]:
    """A keeper over a store; both are closed afterwards."""
    clock = FakeClock()
    own = LmdbBackend() if backend is None else backend
    wanted = StoreOptions() if options is None else options
    inner = await own.open(directory, clock, wanted)
    world = World(own, directory, wanted, clock, wrap(inner))
    keeper = SetKeeper(world.store, max_items=max_items, max_sets_bytes=max_sets_bytes, now_s=clock.now_s)
    try:
        yield world, keeper
    finally:
        await keeper.close()
        await inner.close()


async def rows_of(world: World, query: Query) -> bytes:
    return (await world.store.items(query)).rows


async def assert_exact(world: World, keeper: SetKeeper, *queries: Query) -> None:
    for query in queries:
        assert (await keeper.snapshot(query)).rows() == await rows_of(world, query), query


@pytest.mark.parametrize("seed", range(12))
@async_test
async def test_snapshots_are_exact_through_any_history(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = Random(seed)
    if seed % 3 == 0:  # as a large set does it: by a thread, and times of expiry are looked through all the time
        monkeypatch.setattr(full_set, "INLINE_ROWS", 0)
        monkeypatch.setattr(full_set, "INLINE_CHANGES", 0)
        monkeypatch.setattr(full_set, "FEW_EXPIRING", 0)
    keep_versions = bool(seed % 2)
    async with keeping(
        tmp_path,
        backend=LmdbBackend(generation_events=7),
        options=StoreOptions(keep_versions=keep_versions),
        wrap=StoreProxy,
    ) as (world, keeper):
        inner = world.store.inner  # type: ignore[attr-defined]
        direct = World(world.backend, world.directory, world.options, world.clock, inner)
        model = Model(keep_versions=keep_versions)
        pool = make_pool(random, 120)
        actions = [action for action in store_play.ACTIONS if action != "reopen"]
        for n in range(60):
            events = random.choices(pool[max(0, 2 * n - 15) : 2 * n + 15], k=random.randrange(1, 12))
            await store_play.step(direct, model, random.choice(actions), events, random.randrange(3))
            await assert_exact(world, keeper, random.choice(ASKED))
        await assert_exact(world, keeper, *ASKED, *OTHERS)


@pytest.mark.parametrize("backend", [RemoteBackend(), SplitBackend()], ids=["remote", "split"])
@pytest.mark.parametrize("seed", range(3))
@async_test
async def test_the_same_with_a_store_behind_grpc(tmp_path: Path, seed: int, backend: Backend) -> None:
    random = Random(seed)
    async with keeping(tmp_path, backend=backend, wrap=StoreProxy) as (world, keeper):
        inner = world.store.inner  # type: ignore[attr-defined]
        direct = World(world.backend, world.directory, world.options, world.clock, inner)
        model = Model(keep_versions=False)
        pool = make_pool(random, 100)
        for n in range(40):
            events = random.choices(pool[max(0, 2 * n - 15) : 2 * n + 15], k=random.randrange(1, 12))
            action = random.choice(("batch", "separately", "together", "clock"))
            await store_play.step(direct, model, action, events, random.randrange(3))
            await assert_exact(world, keeper, random.choice(ASKED))
        await assert_exact(world, keeper, *ASKED, *OTHERS)


@async_test
async def test_an_event_leaves_in_the_second_it_expires(tmp_path: Path) -> None:
    async with keeping(tmp_path) as (world, keeper):
        before, later = expiring_event(NOW_S + 5), expiring_event(NOW_S + 5, created_at=NOW_S + 1)
        await world.put(before)
        assert len(await keeper.snapshot(EVERYTHING)) == 1
        await world.put(later)
        world.clock.now = NOW_S + 4
        assert len(await keeper.snapshot(EVERYTHING)) == 2
        world.clock.now = NOW_S + 5
        assert len(await keeper.snapshot(EVERYTHING)) == 0
        assert await world.count() == 0
        # A clock that is set back: the store shows them again.
        world.clock.now = NOW_S + 4
        await assert_exact(world, keeper, EVERYTHING)
        assert len(await keeper.snapshot(EVERYTHING)) == 2


@async_test
async def test_a_snapshot_never_changes(tmp_path: Path) -> None:
    async with keeping(tmp_path) as (world, keeper):
        events = [fake_event(created_at=NOW_S + n) for n in range(100)]
        await world.put(*events)
        before = await keeper.snapshot(EVERYTHING)
        rows = before.rows()
        await world.put(fake_event(content="new"), delete_event(*events[:50]))
        assert len(await keeper.snapshot(EVERYTHING)) == 52
        assert before.rows() == rows


@async_test
async def test_private_kinds_are_in_the_sets_of_their_parties_only(tmp_path: Path) -> None:
    async with keeping(tmp_path) as (world, keeper):
        wrap, public = gift_wrap(KEYS[1], key=2), fake_event()
        own = fake_event(key=1, kind=4)
        await world.put(wrap, public)
        sizes = [len(await keeper.snapshot(Query(filters=(Filter(),), scope=each))) for each in (PUBLIC, READER)]
        assert sizes == [1, 2]
        await world.put(own)
        await assert_exact(world, keeper, *ASKED)
        sizes = [len(await keeper.snapshot(Query(filters=(Filter(),), scope=s))) for s in (PUBLIC, READER, READ_ALL)]
        assert sizes == [1, 3, 3]


@async_test
async def test_hidden_events_are_in_the_sets_of_those_who_see_them(tmp_path: Path) -> None:
    def asked(scope: ReadScope) -> Query:
        return Query(filters=(Filter(),), scope=scope)

    most, sees = ReadScope(private_kinds=frozenset()), ReadScope(sees_hidden=True)
    scopes = (PUBLIC, most, sees, READ_ALL)

    async def sizes(world: World, keeper: SetKeeper) -> list[int]:
        await assert_exact(world, keeper, *map(asked, scopes))
        return [len(await keeper.snapshot(asked(scope))) for scope in scopes]

    async with keeping(tmp_path) as (world, keeper):
        mine, theirs, private = fake_event(0), fake_event(1), fake_event(0, kind=4)
        await world.put(mine, theirs, private)
        assert await sizes(world, keeper) == [2, 3, 2, 3]
        await world.store.hide([HiddenKey(mine.pubkey, True)])
        assert await sizes(world, keeper) == [1, 1, 2, 3]
        await world.put(fake_event(0, content="later"), fake_event(2))
        assert await sizes(world, keeper) == [2, 2, 4, 5]
        await world.store.show([HiddenKey(mine.pubkey, True)])
        assert await sizes(world, keeper) == [4, 5, 4, 5]


@async_test
async def test_removed_and_stored_again_in_one_commit(tmp_path: Path) -> None:
    async with keeping(tmp_path) as (world, keeper):
        event, old, new = fake_event(), fake_event(kind=0), fake_event(kind=0, created_at=NOW_S + 1)
        await world.put(event)
        await keeper.snapshot(EVERYTHING)
        again = asyncio.gather(world.store.delete([event.id]), world.save(event), world.save(old), world.save(new))
        await again
        await assert_exact(world, keeper, EVERYTHING)
        gone = asyncio.gather(world.save(fake_event(content="x")), world.store.delete([event.id]))
        await gone
        await assert_exact(world, keeper, EVERYTHING)
        assert len(await keeper.snapshot(EVERYTHING)) == 2


@async_test
async def test_what_is_stored_while_the_set_is_loaded_is_in_it(tmp_path: Path) -> None:
    async with keeping(tmp_path) as (world, keeper):
        store = world.store
        assert isinstance(store, FedStore)
        first = [fake_event(created_at=NOW_S + n) for n in range(20)]
        await world.put(*first)
        store.reading.clear()
        asked = asyncio.create_task(keeper.snapshot(EVERYTHING))
        await store.asked(1)
        await world.put(delete_event(first[0]), expiring_event(NOW_S + 9), fake_event(content="late"))
        assert await store.delete([first[1].id]) == 1
        await world.put(first[1])
        store.reading.set()
        await asked
        await assert_exact(world, keeper, EVERYTHING)
        world.clock.now = NOW_S + 9
        await assert_exact(world, keeper, EVERYTHING)
        assert store.feeds == 1


@async_test
async def test_times_of_expiry_are_kept_only_of_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(full_set, "FEW_EXPIRING", 10)
    async with keeping(tmp_path) as (world, keeper):
        await keeper.snapshot(EVERYTHING)
        for n in range(100):
            await world.put(fake_event(kind=0, created_at=NOW_S + n, tags=[["expiration", "253402300799"]]))
            assert len(await keeper.snapshot(EVERYTHING)) == 1
        following = keeper._full[ReadScope()]._following
        assert following is not None
        assert len(following._expiring) <= 10 + 2 * 1 + 1
        last = expiring_event(NOW_S + 200)
        await world.put(last)
        assert len(await keeper.snapshot(EVERYTHING)) == 2
        world.clock.now = NOW_S + 200
        await assert_exact(world, keeper, EVERYTHING)
        assert len(await keeper.snapshot(EVERYTHING)) == 1


# When the feed is no help


@pytest.mark.parametrize(
    "trouble",
    [FeedBatch(through_serial=1, may_lack_removals=True), StoreUnavailableError("the feed is broken"), None],
    ids=["gap", "error", "end"],
)
@async_test
async def test_a_broken_feed_has_the_set_loaded_again(tmp_path: Path, trouble: FeedBatch | StoreError | None) -> None:
    async with keeping(tmp_path) as (world, keeper):
        store = world.store
        assert isinstance(store, FedStore)
        await world.put(fake_event())
        assert len(await keeper.snapshot(EVERYTHING)) == 1
        store.tell(trouble)
        await asyncio.sleep(0)
        await world.put(fake_event(content="more"))
        assert len(await keeper.snapshot(EVERYTHING)) == 2
        await assert_exact(world, keeper, EVERYTHING)
        assert store.feeds == 2


@async_test
async def test_who_waits_for_a_set_whose_feed_broke_is_told_when_another_takes_its_place(tmp_path: Path) -> None:
    async with keeping(tmp_path) as (world, keeper):
        store = world.store
        assert isinstance(store, FedStore)
        await world.put(fake_event())
        store.reading.clear()
        first = asyncio.create_task(keeper.snapshot(EVERYTHING))
        await store.asked(1)
        store.tell(StoreUnavailableError("the store is away"))
        async with asyncio.timeout(DEADLINE_S):
            await store.broken.wait()
            await asyncio.sleep(0)
            second = asyncio.create_task(keeper.snapshot(EVERYTHING))
            with pytest.raises(StoreUnavailableError, match="the store is away"):
                await first
            store.reading.set()
            assert len(await second) == 1
        assert store.feeds == 2


@async_test
async def test_a_feed_that_says_nothing_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(full_set, "FEED_DEADLINE_S", 0.05)
    async with keeping(tmp_path) as (world, keeper):
        store = world.store
        assert isinstance(store, FedStore)
        await world.put(fake_event())
        await keeper.snapshot(EVERYTHING)
        store.is_mute = True
        await world.put(fake_event(content="untold"))
        with pytest.raises(StoreError, match="the store's feed has told of the serial 0 only, 2 was stored"):
            await keeper.snapshot(EVERYTHING)


@async_test
async def test_many_changes_are_folded_in_also_when_nobody_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(full_set, "FOLD_CHANGES", 10)
    async with keeping(tmp_path) as (world, keeper):
        await keeper.snapshot(EVERYTHING)
        following = keeper._full[ReadScope()]._following
        assert following is not None
        for n in range(35):
            await world.put(fake_event(created_at=NOW_S + n))
        await asyncio.sleep(0)
        assert len(following._added) <= 10
        assert following._items is not None
        assert len(following._items) >= 25
        await assert_exact(world, keeper, EVERYTHING)


# Sets that are built


@async_test
async def test_a_set_may_have_exactly_so_many_items(tmp_path: Path) -> None:
    kinds = Query(filters=(Filter(kinds=frozenset({1})),), scope=PUBLIC)
    async with keeping(tmp_path, max_items=5) as (world, keeper):
        await world.put(*[fake_event(created_at=NOW_S + n) for n in range(5)])
        lease = await keeper.lease(kinds, "c")
        assert len(lease.items) == 5
        lease.release()
        await world.put(fake_event(content="one too many"))
        with pytest.raises(CountTooLargeError):
            await keeper.lease(kinds, "c")
        with pytest.raises(CountTooLargeError):
            await keeper.snapshot(kinds, max_items=5)
        assert len(await keeper.snapshot(kinds)) == 6
        assert len((await keeper.lease(EVERYTHING, "c")).items) == 6
        assert keeper.held_bytes == 0


@async_test
async def test_all_sets_may_take_so_much_memory(tmp_path: Path) -> None:
    kinds = Query(filters=(Filter(kinds=frozenset({1})),), scope=PUBLIC)
    async with keeping(tmp_path, max_sets_bytes=CLIENT_SHARE * 5 * ITEM_BYTES) as (world, keeper):
        await world.put(*[fake_event(created_at=NOW_S + n) for n in range(5)])
        leases = [await keeper.lease(kinds, str(number)) for number in range(CLIENT_SHARE)]
        assert keeper.held_bytes == 20 * ITEM_BYTES
        with pytest.raises(SetsFullError, match="the sets of all clients take 800 bytes, and 800 is the maximum"):
            await keeper.lease(kinds, "late")
        leases[0].release()
        leases[0].release()
        leases[0] = await keeper.lease(kinds, "late")
        for lease in leases:
            lease.release()
        assert keeper.held_bytes == 0
        assert not keeper._clients


@async_test
async def test_the_sets_of_one_client_may_take_a_part_of_it(tmp_path: Path) -> None:
    kinds = Query(filters=(Filter(kinds=frozenset({1})),), scope=PUBLIC)
    one = Query(filters=(Filter(kinds=frozenset({7})),), scope=PUBLIC)
    async with keeping(tmp_path, max_sets_bytes=CLIENT_SHARE * 5 * ITEM_BYTES) as (world, keeper):
        await world.put(*[fake_event(created_at=NOW_S + n) for n in range(4)], fake_event(kind=7))
        first, second = await keeper.lease(kinds, "c"), await keeper.lease(one, "c")
        with pytest.raises(SetsFullError, match="the sets of this connection take 200 bytes, and 200 is the maximum"):
            await keeper.lease(one, "c")
        await keeper.lease(EVERYTHING, "c")
        await keeper.lease(one, "d")
        second.release()
        await keeper.lease(one, "c")
        first.release()
        await world.put(fake_event(content="one more"), fake_event(content="one too many"))
        with pytest.raises(CountTooLargeError):
            await keeper.lease(kinds, "e")
        assert keeper.max_items == 5
        assert keeper._clients.keys() == {"c", "d"}


@async_test
async def test_one_client_has_one_set_read_at_a_time(tmp_path: Path) -> None:
    def asked(kind: int) -> Query:
        return Query(filters=(Filter(kinds=frozenset({kind})),), scope=PUBLIC)

    async with keeping(tmp_path) as (world, keeper):
        store = world.store
        assert isinstance(store, FedStore)
        store.reading.clear()
        greedy = [asyncio.create_task(keeper.lease(asked(kind), "greedy")) for kind in range(5)]
        await store.asked(1)
        other = asyncio.create_task(keeper.lease(asked(10), "other"))
        await store.asked(2)
        for _ in range(10):
            await asyncio.sleep(0)
        assert store.item_calls == [asked(0), asked(10)]
        for task in greedy[1:4]:
            task.cancel()
        store.reading.set()
        await asyncio.gather(*greedy, other, return_exceptions=True)
        assert store.item_calls == [asked(0), asked(10), asked(4)]
        assert not keeper._clients


@async_test
async def test_a_readers_own_private_events_are_bounded_as_others(tmp_path: Path) -> None:
    asked = Query(filters=(Filter(),), scope=READER)
    async with keeping(tmp_path, max_items=10, max_sets_bytes=1 << 30) as (world, keeper):
        await world.put(*[fake_event(key=1, kind=4, created_at=NOW_S + n) for n in range(10)])
        lease = await keeper.lease(asked, "c")
        assert len(lease.items) == 10
        lease.release()
        await world.put(gift_wrap(KEYS[1], key=2))
        with pytest.raises(CountTooLargeError):
            await keeper.lease(asked, "c")
        assert len(await keeper.snapshot(asked)) == 11
        assert keeper.held_bytes == 0
        store = world.store
        assert isinstance(store, FedStore)
        n_calls = len(store.item_calls)
        store.reading.clear()
        leases = [asyncio.create_task(keeper.lease(asked, str(number))) for number in range(5)]
        await store.asked(n_calls + 1)
        store.reading.set()
        found = await asyncio.gather(*leases, return_exceptions=True)
        assert all(isinstance(each, CountTooLargeError) for each in found)
        assert len(store.item_calls) == n_calls + 1, "one read for all of them"


@async_test
async def test_who_asks_after_something_was_removed_does_not_get_it(tmp_path: Path) -> None:
    kinds = Query(filters=(Filter(kinds=frozenset({1})),), scope=PUBLIC)

    class Slow(FedStore):
        async def items(self, query: Query, *, max_items: int | None = None) -> ItemRows:
            found = await self.inner.items(query, max_items=max_items)
            self.item_calls.append(query)
            self._called.set()
            await self.reading.wait()
            return found

    async with keeping(tmp_path, wrap=Slow) as (world, keeper):
        store = world.store
        assert isinstance(store, FedStore)
        kept, gone, expiring = fake_event(content="kept"), fake_event(), expiring_event(NOW_S + 5)
        await world.put(kept, gone, expiring)
        store.reading.clear()
        early = asyncio.create_task(keeper.snapshot(kinds))
        await store.asked(1)
        assert await store.delete([gone.id]) == 1
        world.clock.now = NOW_S + 5
        late = [asyncio.create_task(keeper.snapshot(kinds)) for _ in range(3)]
        await store.asked(2)
        store.reading.set()
        assert len(await early) == 3
        assert [len(each) for each in await asyncio.gather(*late)] == [1, 1, 1]
        assert len(store.item_calls) == 2


@async_test
async def test_who_asks_for_the_same_at_the_same_time_shares_the_work(tmp_path: Path) -> None:
    kinds = Query(filters=(Filter(kinds=frozenset({1}), tags={"t": frozenset({"x", "y"})}),), scope=PUBLIC)
    async with keeping(tmp_path) as (world, keeper):
        store = world.store
        assert isinstance(store, FedStore)
        await world.put(*[fake_event(created_at=NOW_S + n, tags=[["t", "x"]]) for n in range(5)])
        store.reading.clear()
        asked = [asyncio.create_task(keeper.snapshot(kinds)) for _ in range(4)]
        await store.asked(1)
        asked[1].cancel()
        store.reading.set()
        found = await asyncio.gather(*asked, return_exceptions=True)
        assert isinstance(found[1], asyncio.CancelledError)
        assert [len(each) for each in found if not isinstance(each, BaseException)] == [5, 5, 5]
        assert len(store.item_calls) == 1
        assert not keeper._builds


@async_test
async def test_who_asks_after_something_was_stored_gets_it(tmp_path: Path) -> None:
    kinds = Query(filters=(Filter(kinds=frozenset({1})),), scope=PUBLIC)
    async with keeping(tmp_path) as (world, keeper):
        store = world.store
        assert isinstance(store, FedStore)

        class Slow(FedStore):
            async def items(self, query: Query, *, max_items: int | None = None) -> ItemRows:
                found = await store.items(query, max_items=max_items)
                await asyncio.sleep(0.02)
                return found

        slow = Slow(store.inner)
        second = SetKeeper(slow, max_items=100, max_sets_bytes=1 << 20, now_s=world.clock.now_s)
        await world.put(fake_event())
        early = asyncio.create_task(second.snapshot(kinds))
        await store.asked(1)
        await world.put(fake_event(content="later"))
        late = await second.snapshot(kinds)
        assert len(await early) == 1
        assert len(late) == 2
        await second.close()
        assert keeper.held_bytes == 0


@async_test
async def test_only_so_many_sets_are_read_at_once(tmp_path: Path) -> None:
    async with keeping(tmp_path) as (world, keeper):
        store = world.store
        assert isinstance(store, FedStore)
        store.reading.clear()
        asked = [
            asyncio.create_task(keeper.snapshot(Query(filters=(Filter(kinds=frozenset({kind})),))))
            for kind in range(sets.BUILDS_AT_ONCE + 3)
        ]
        await store.asked(sets.BUILDS_AT_ONCE)
        for _ in range(10):
            await asyncio.sleep(0)
        assert len(store.item_calls) == sets.BUILDS_AT_ONCE
        store.reading.set()
        await asyncio.gather(*asked)
        assert len(store.item_calls) == len(asked)


@async_test
async def test_who_goes_away_stops_the_work(tmp_path: Path) -> None:
    kinds = Query(filters=(Filter(kinds=frozenset({1})),), scope=PUBLIC)
    async with keeping(tmp_path) as (world, keeper):
        store = world.store
        assert isinstance(store, FedStore)
        store.reading.clear()
        asked = asyncio.create_task(keeper.snapshot(kinds))
        await store.asked(1)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        assert not keeper._builds
        store.reading.set()
        assert len(await keeper.snapshot(kinds)) == 0
