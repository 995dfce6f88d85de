"""A store in front of another, for tests of what uses a store: its calls can be held back or made to fail."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence

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
    StoreError,
)

__all__ = ["StoreProxy"]


class StoreProxy(EventStore):
    """Passes everything on.

    Attributes:
        inner: The store behind.
        save_error: What `save` raises instead.
        query_error: What `query` and `count` raise instead.
        known_error: What `known` raises instead.
        saved: Batches given to `save`, in order.
        queries: Queries started, in order.
    """

    def __init__(self, inner: EventStore) -> None:
        self.inner = inner
        self.save_error: BaseException | None = None
        self.query_error: StoreError | None = None
        self.known_error: StoreError | None = None
        self.saved: list[list[EncodedEvent]] = []
        self.queries: list[Query] = []
        self._saving = asyncio.Event()
        self._counting = asyncio.Event()
        self.release()

    def hold_saves(self) -> None:
        """Have every save wait for `release`."""
        self._saving.clear()

    def hold_counts(self) -> None:
        """Have every count wait for `release`."""
        self._counting.clear()

    def release(self) -> None:
        """Let what waits go on."""
        self._saving.set()
        self._counting.set()

    async def save(self, events: Sequence[EncodedEvent]) -> list[SaveResult]:
        self.saved.append(list(events))
        await self._saving.wait()
        if self.save_error is not None:
            raise self.save_error
        return await self.inner.save(events)

    def known(self, ids: Sequence[bytes]) -> list[bool]:
        if self.known_error is not None:
            raise self.known_error
        return self.inner.known(ids)

    def query(self, query: Query, sink: QuerySink) -> QueryHandle:
        self.queries.append(query)
        if self.query_error is not None:
            raise self.query_error
        return self.inner.query(query, sink)

    async def count(self, query: Query) -> int:
        self.queries.append(query)
        await self._counting.wait()
        if self.query_error is not None:
            raise self.query_error
        return await self.inner.count(query)

    async def delete(self, ids: Sequence[bytes]) -> int:
        return await self.inner.delete(ids)

    async def versions(self, query: Query) -> list[bytes]:
        return await self.inner.versions(query)

    async def deleted(self, event: EncodedEvent) -> SaveStatus | None:
        return await self.inner.deleted(event)

    async def items(self, query: Query, *, max_items: int | None = None) -> ItemRows:
        return await self.inner.items(query, max_items=max_items)

    async def expirations(self, after_s: int) -> bytes:
        return await self.inner.expirations(after_s)

    async def serials(self, query: Query) -> list[int]:
        return await self.inner.serials(query)

    async def hide(self, wanted: Sequence[HiddenKey]) -> None:
        await self.inner.hide(wanted)

    async def show(self, wanted: Sequence[HiddenKey]) -> None:
        await self.inner.show(wanted)

    async def hidden(
        self, after: HiddenKey | None = None, *, limit: int = MAX_HIDDEN_KEYS
    ) -> list[tuple[HiddenKey, bool]]:
        return await self.inner.hidden(after, limit=limit)

    async def markers(self, prefix: str, *, after: str = "", limit: int = MAX_MARKERS) -> list[Marker]:
        return await self.inner.markers(prefix, after=after, limit=limit)

    async def change_markers(self, changes: Mapping[str, bytes | None]) -> None:
        await self.inner.change_markers(changes)

    def feed(self, after_serial: int | None) -> AsyncIterator[FeedBatch]:
        return self.inner.feed(after_serial)

    async def last_serial(self) -> int:
        return await self.inner.last_serial()

    async def close(self) -> None:
        await self.inner.close()
