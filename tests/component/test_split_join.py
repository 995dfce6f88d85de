"""The join of stored answers and live events where several relays work on one service.

What a relay reads is not what it hears of: the file may be ahead of the feed, and others write as well.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from itertools import cycle
from pathlib import Path
from typing import Any, Final

import pytest
from tests.component.follower_backend import for_reading
from tests.component.join_hammer import PAUSE_S, UnhurriedStore, hammer
from tests.component.lmdb_backend import MAX_BYTES
from tests.component.relay_client import NostrClient
from tests.component.relay_server import FakeTime, TestedRelay, serving
from tests.component.remote_backend import serve
from tests.component.store_proxy import StoreProxy
from tests.factory import NOW_S
from tests.transport import run_async

from orly.nostr.event import EncodedEvent
from orly.rpc.channel import open_channel
from orly.settings import Settings
from orly.store.base import EventStore, FeedBatch
from orly.store.lmdb.environment import Environment, open_environment
from orly.store.lmdb.follower import LmdbFollower
from orly.store.lmdb.store import LmdbStore
from orly.store.remote import RemoteStore
from orly.store.split import SplitStore

RELAYS: Final = 2


class LateFeed(StoreProxy):
    """Hears of everything late, so that its answers are far ahead of its feed."""

    def feed(self, after_serial: int | None) -> AsyncIterator[FeedBatch]:
        return _late(self.inner.feed(after_serial))


async def _late(feed: AsyncIterator[FeedBatch]) -> AsyncIterator[FeedBatch]:
    async for batch in feed:
        await asyncio.sleep(5 * PAUSE_S)
        yield batch


class Relays:
    """Several relays that are one to their clients."""

    def __init__(self, local: LmdbStore, relays: Sequence[TestedRelay]) -> None:
        self._local = local
        self._next = cycle(relays)

    def client(self) -> AbstractAsyncContextManager[NostrClient]:
        return next(self._next).client()

    async def fill(self, events: Sequence[EncodedEvent]) -> None:
        await self._local.save(events)


@asynccontextmanager
async def relays_on_one_service(
    directory: Path, *, reads_directly: bool, wrap: Callable[[EventStore], StoreProxy]
) -> AsyncIterator[Relays]:
    time = FakeTime()
    tables = open_environment(directory, max_bytes=MAX_BYTES)
    local = LmdbStore(tables, now_s=time.now_s, generation_events=200)
    server, service = await serve(local)
    try:
        async with AsyncExitStack() as stack:
            relays = []
            for _ in range(RELAYS):
                store = await _open(server.address, tables, reads_directly=reads_directly)
                stack.push_async_callback(store.close)
                settings = Settings(data_dir=directory, listen="127.0.0.1", port=0, default_limit=5000)
                relays.append(await stack.enter_async_context(serving(settings, wrap(store), time)))
            yield Relays(local, relays)
    finally:
        service.stop()
        await server.stop(1.0)
        await local.close()


async def _open(address: str, tables: Environment, *, reads_directly: bool) -> EventStore:
    channel = open_channel(address, credentials=None, token=None)
    if not reads_directly:
        return RemoteStore(channel, timeout_s=10)
    follower = LmdbFollower(for_reading(tables), now_s=lambda: NOW_S)
    remote = RemoteStore(channel, timeout_s=10, event_of=follower.event_of, recent_ids=0)
    return await SplitStore.open(remote, follower, tables.directory)


@pytest.mark.parametrize("reads_directly", [True, False], ids=["split", "remote"])
@pytest.mark.parametrize(
    ("n_stored", "wrap", "options"),
    [
        (1200, StoreProxy, {}),
        (0, StoreProxy, {"pause_turns": 60}),
        (1200, UnhurriedStore, {"pause_turns": 60}),
        (300, LateFeed, {"pause_turns": 60}),
    ],
    ids=["full", "empty", "slow", "late"],
)
def test_every_event_exactly_once(
    reads_directly: bool,
    n_stored: int,
    wrap: Callable[[EventStore], StoreProxy],
    options: dict[str, Any],
    tmp_path: Path,
) -> None:
    async def main() -> None:
        async with relays_on_one_service(tmp_path / "store", reads_directly=reads_directly, wrap=wrap) as relays:
            faults = await hammer(relays, seed=1, n_events=500, n_stored=n_stored, **options)
        assert faults == []

    run_async(main())
