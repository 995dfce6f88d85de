"""A store that is written through its service and read from its file, as a backend of the store suite.

The service and its client are two ends of a real connection in one process. LMDB may open a database only once in a
process, so both sides use one environment; see `follower_backend`. Tests with several processes are in
`test_workers.py`.
"""

from pathlib import Path

from tests.component.follower_backend import for_reading
from tests.component.lmdb_backend import MAX_BYTES, assert_sound
from tests.component.remote_backend import ServedStore, serve
from tests.component.store_world import FakeClock, StoreOptions

from orly.store.base import EventStore
from orly.store.lmdb.environment import open_environment
from orly.store.lmdb.follower import LmdbFollower
from orly.store.lmdb.store import LmdbStore
from orly.store.lmdb.tail import GENERATION_EVENTS
from orly.store.split import SplitStore

__all__ = ["ServedSplitStore", "SplitBackend"]


class ServedSplitStore(SplitStore):
    """With the service behind it.

    Attributes:
        served: The connection, and what is at its other end.
    """

    def __init__(self, served: ServedStore, follower: LmdbFollower, directory: Path) -> None:
        super().__init__(served, follower, directory)
        self.served = served


class SplitBackend:
    """See `Backend`.

    Args:
        generation_events: See `Tail`.
    """

    def __init__(self, generation_events: int = GENERATION_EVENTS) -> None:
        self.generation_events = generation_events

    async def open(self, directory: Path, clock: FakeClock, options: StoreOptions) -> EventStore:
        tables = open_environment(directory, max_bytes=MAX_BYTES)
        local = LmdbStore(
            tables,
            own_urls=options.own_urls,
            keep_versions=options.keep_versions,
            now_s=clock.now_s,
            monotonic_s=clock.monotonic_s,
            generation_events=self.generation_events,
        )
        follower = LmdbFollower(for_reading(tables), now_s=clock.now_s, monotonic_s=clock.monotonic_s)
        served = ServedStore(local, *await serve(local), event_of=follower.event_of, recent_ids=0)
        return ServedSplitStore(served, follower, directory)

    async def sweep(self, store: EventStore) -> int:
        assert isinstance(store, ServedSplitStore)
        return await store.served.local.sweep()

    async def verify(self, directory: Path) -> None:
        assert_sound(directory)
