"""The LMDB store as a backend of the store suite."""

from pathlib import Path

from tests.component.store_world import FakeClock, StoreOptions

from orly.store.base import EventStore
from orly.store.lmdb.check import check
from orly.store.lmdb.environment import open_environment
from orly.store.lmdb.store import LmdbStore
from orly.store.lmdb.tail import GENERATION_EVENTS

__all__ = ["MAX_BYTES", "LmdbBackend", "assert_sound"]

MAX_BYTES = 1 << 30


class LmdbBackend:
    """See `Backend`.

    Args:
        generation_events: See `Tail`; with few, rows are always somewhere on their way to the tables.
    """

    def __init__(self, generation_events: int = GENERATION_EVENTS) -> None:
        self.generation_events = generation_events

    async def open(self, directory: Path, clock: FakeClock, options: StoreOptions) -> EventStore:
        return await LmdbStore.open(
            directory,
            max_bytes=MAX_BYTES,
            own_urls=options.own_urls,
            keep_versions=options.keep_versions,
            now_s=clock.now_s,
            monotonic_s=clock.monotonic_s,
            generation_events=self.generation_events,
        )

    async def sweep(self, store: EventStore) -> int:
        assert isinstance(store, LmdbStore)
        return await store.sweep()

    async def verify(self, directory: Path) -> None:
        assert_sound(directory)


def assert_sound(directory: Path) -> None:
    """The check of `orly check` finds nothing."""
    environment = open_environment(directory, max_bytes=MAX_BYTES)
    try:
        report = check(environment)
    finally:
        environment.close()
    assert report.problems == ()
    assert report.is_clean
