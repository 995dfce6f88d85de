"""A store that writes as `LmdbStore` and reads as `LmdbFollower`, as a backend of the store suite.

LMDB may open a database only once in a process. So both share one environment, and nothing else: the follower knows
what the file says. Tests with a second process are in `test_store_two_processes.py`.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.component.lmdb_backend import MAX_BYTES, assert_sound
from tests.component.store_world import FakeClock, StoreOptions

from orly.nostr.event import EncodedEvent
from orly.store.base import (
    MAX_HIDDEN_KEYS,
    MAX_MARKERS,
    EventStore,
    FeedBatch,
    HiddenKey,
    ItemRows,
    Marker,
    Query,
    QueryHandle,
    QuerySink,
    SaveResult,
    SaveStatus,
)
from orly.store.lmdb.environment import Environment, open_environment
from orly.store.lmdb.follower import LmdbFollower
from orly.store.lmdb.store import LmdbStore
from orly.store.lmdb.tail import GENERATION_EVENTS

__all__ = ["FollowedStore", "FollowerBackend", "for_reading", "unclosed"]


class _Unclosed:
    """An LMDB environment that its owner closes."""

    def __init__(self, env: Any) -> None:
        self._env = env

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)

    def close(self) -> None:
        """Leave it open."""


def unclosed(tables: Environment) -> Environment:
    """An environment as someone may use and close it who does not own it."""
    return replace(tables, env=_Unclosed(tables.env))


def for_reading(tables: Environment) -> Environment:
    """The environment of a writer in this process, as a follower may use it."""
    return replace(unclosed(tables), lock_fd=None)


class FollowedStore(EventStore):
    """Writes by one, reads by the other."""

    def __init__(self, writer: LmdbStore, follower: LmdbFollower) -> None:
        self.writer = writer
        self.follower = follower

    async def save(self, events: Sequence[EncodedEvent]) -> list[SaveResult]:
        return await self.writer.save(events)

    async def delete(self, ids: Sequence[bytes]) -> int:
        return await self.writer.delete(ids)

    async def hide(self, wanted: Sequence[HiddenKey]) -> None:
        await self.writer.hide(wanted)

    async def show(self, wanted: Sequence[HiddenKey]) -> None:
        await self.writer.show(wanted)

    async def hidden(
        self, after: HiddenKey | None = None, *, limit: int = MAX_HIDDEN_KEYS
    ) -> list[tuple[HiddenKey, bool]]:
        return await self.follower.hidden(after, limit=limit)

    async def markers(self, prefix: str, *, after: str = "", limit: int = MAX_MARKERS) -> list[Marker]:
        return await self.follower.markers(prefix, after=after, limit=limit)

    async def change_markers(self, changes: Mapping[str, bytes | None]) -> None:
        await self.writer.change_markers(changes)

    def feed(self, after_serial: int | None) -> AsyncIterator[FeedBatch]:
        return self.writer.feed(after_serial)

    def known(self, ids: Sequence[bytes]) -> list[bool]:
        return self.follower.known(ids)

    def query(self, query: Query, sink: QuerySink) -> QueryHandle:
        return self.follower.query(query, sink)

    async def count(self, query: Query) -> int:
        return await self.follower.count(query)

    async def versions(self, query: Query) -> list[bytes]:
        return await self.follower.versions(query)

    async def deleted(self, event: EncodedEvent) -> SaveStatus | None:
        return await self.follower.deleted(event)

    async def items(self, query: Query, *, max_items: int | None = None) -> ItemRows:
        return await self.follower.items(query, max_items=max_items)

    async def expirations(self, after_s: int) -> bytes:
        return await self.follower.expirations(after_s)

    async def serials(self, query: Query) -> list[int]:
        return await self.follower.serials(query)

    async def last_serial(self) -> int:
        return await self.follower.last_serial()

    async def close(self) -> None:
        await self.follower.close()
        await self.writer.close()


class FollowerBackend:
    """See `Backend`.

    Args:
        generation_events: See `Tail`.
    """

    def __init__(self, generation_events: int = GENERATION_EVENTS) -> None:
        self.generation_events = generation_events

    async def open(self, directory: Path, clock: FakeClock, options: StoreOptions) -> EventStore:
        tables = open_environment(directory, max_bytes=MAX_BYTES)
        writer = LmdbStore(
            tables,
            own_urls=options.own_urls,
            keep_versions=options.keep_versions,
            now_s=clock.now_s,
            monotonic_s=clock.monotonic_s,
            generation_events=self.generation_events,
        )
        follower = LmdbFollower(for_reading(tables), now_s=clock.now_s, monotonic_s=clock.monotonic_s)
        return FollowedStore(writer, follower)

    async def sweep(self, store: EventStore) -> int:
        assert isinstance(store, FollowedStore)
        return await store.writer.sweep()

    async def verify(self, directory: Path) -> None:
        assert_sound(directory)
