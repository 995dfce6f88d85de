"""`SplitStore`: reads the store's file directly, and has the store's service write it.

For a process on the same machine as the service (`ORLY_DB_DIRECT_READ`): a read costs no call, and is answered while
the service is away.
"""

import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

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
    StoredEvent,
    StoreError,
    StoreUnavailableError,
)
from orly.store.lmdb.follower import LmdbFollower

__all__ = ["SplitStore"]

log = logging.getLogger(__name__)


class SplitStore(EventStore):
    """See `EventStore`.

    What the service has acknowledged, and what its feed has told, is in every later answer: a reader's snapshot is
    taken after the commit. A snapshot may be ahead of the feed; its `through_serial` says how far.
    """

    def __init__(self, service: EventStore, follower: LmdbFollower, directory: Path) -> None:
        """Use both; `close` closes both. See `open`, which makes sure that they belong together."""
        self._service = service
        self._follower = follower
        self._directory = directory
        self._is_closed = False

    @classmethod
    async def open(cls, service: EventStore, follower: LmdbFollower, directory: Path) -> "SplitStore":
        """Put the two together.

        Args:
            service: The store that writes.
            follower: A reader of the file that it writes.
            directory: Where that is, for messages.

        Raises:
            StoreUnavailableError: The service writes another file.
            StoreError: The service cannot be asked.
        """
        before = await follower.last_serial()
        newest = await service.last_serial()
        after = await follower.last_serial()
        if not before <= newest <= after:
            raise StoreUnavailableError(
                f"{directory} is not where the store's service keeps its events: the newest there has the serial "
                f"{after}, the service's {newest}; check ORLY_DATA_DIR, or turn ORLY_DB_DIRECT_READ off"
            )
        return cls(service, follower, directory)

    # Writing

    async def save(self, events: Sequence[EncodedEvent]) -> list[SaveResult]:
        self._follower.expect(events)
        results = await self._service.save(events)
        stored = [
            StoredEvent(result.serial, event)
            for event, result in zip(events, results, strict=True)
            if result.status is SaveStatus.STORED
        ]
        if stored:
            self._follower.told(stored)
            await self._expect(stored[-1].serial)
        return results

    async def delete(self, ids: Sequence[bytes]) -> int:
        return await self._service.delete(ids)

    async def _expect(self, serial: int) -> None:
        """What the service has committed must be in the file.

        Raises:
            StoreError: It is not, so this is not the service's file.
        """
        newest = await self._follower.last_serial()
        if newest < serial:
            text = (
                f"the store's service has stored the serial {serial}, and {self._directory} ends at {newest}: "
                "that is not where it keeps its events; check ORLY_DATA_DIR, or turn ORLY_DB_DIRECT_READ off"
            )
            log.error("%s", text)
            raise StoreError(text)

    # Reading

    def known(self, ids: Sequence[bytes]) -> list[bool]:
        return self._follower.known(ids)

    def query(self, query: Query, sink: QuerySink) -> QueryHandle:
        return self._follower.query(query, sink)

    async def count(self, query: Query) -> int:
        return await self._follower.count(query)

    async def versions(self, query: Query) -> list[bytes]:
        return await self._follower.versions(query)

    async def deleted(self, event: EncodedEvent) -> SaveStatus | None:
        return await self._follower.deleted(event)

    async def items(self, query: Query, *, max_items: int | None = None) -> ItemRows:
        await self._service.feeds_have_begun()
        return await self._follower.items(query, max_items=max_items)

    async def expirations(self, after_s: int) -> bytes:
        await self._service.feeds_have_begun()
        return await self._follower.expirations(after_s)

    async def serials(self, query: Query) -> list[int]:
        return await self._follower.serials(query)

    async def markers(self, prefix: str, *, after: str = "", limit: int = MAX_MARKERS) -> list[Marker]:
        return await self._service.markers(prefix, after=after, limit=limit)

    async def change_markers(self, changes: Mapping[str, bytes | None]) -> None:
        await self._service.change_markers(changes)

    async def hide(self, wanted: Sequence[HiddenKey]) -> None:
        await self._service.hide(wanted)

    async def show(self, wanted: Sequence[HiddenKey]) -> None:
        await self._service.show(wanted)

    async def hidden(
        self, after: HiddenKey | None = None, *, limit: int = MAX_HIDDEN_KEYS
    ) -> list[tuple[HiddenKey, bool]]:
        return await self._service.hidden(after, limit=limit)

    async def last_serial(self) -> int:
        return await self._follower.last_serial()

    # The feed

    def feed(self, after_serial: int | None) -> AsyncIterator[FeedBatch]:
        return _SplitFeed(self, self._service.feed(after_serial))

    async def follow(self, batch: FeedBatch) -> None:
        """Bring the reading side to where the feed is.

        Raises:
            StoreError: The file does not hold what the service tells.
        """
        if self._is_closed:
            return
        self._follower.told(batch.stored)
        if batch.stored or batch.removed or batch.hidden:
            self._follower.refresh()
            await self._expect(batch.through_serial)

    async def close(self) -> None:
        await self._service.close()
        self._is_closed = True
        await self._follower.close()


class _SplitFeed(AsyncIterator[FeedBatch]):
    """The service's feed; what it tells can be read by then."""

    def __init__(self, store: SplitStore, feed: AsyncIterator[FeedBatch]) -> None:
        self._store = store
        self._feed = feed

    async def __anext__(self) -> FeedBatch:
        batch = await anext(self._feed)
        await self._store.follow(batch)
        return batch

    async def aclose(self) -> None:
        """Leave the feed."""
        close = getattr(self._feed, "aclose", None)
        if close is not None:
            await close()
