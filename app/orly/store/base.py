"""The `EventStore` interface: what every store can do, and the data that crosses it.

A stored event has a **serial**: a strictly increasing 64-bit number, given when it is committed. Serials order
the feed, resume it after a break, and make the border between a query's stored answer and its live tail exact.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from enum import Enum, auto
from typing import ClassVar, Final, Protocol

import msgspec

from orly.nostr.event import EncodedEvent, Event
from orly.nostr.filter import Filter
from orly.nostr.kinds import PRIVATE_KINDS
from orly.store.hidden import MAX_HIDDEN_KEYS, HiddenKey, check_hidden_keys
from orly.store.markers import (
    MAX_MARKER_BYTES,
    MAX_MARKER_KEY_BYTES,
    MAX_MARKERS,
    MAX_MARKERS_BYTES,
    Marker,
    check_marker_changes,
    check_marker_range,
)

__all__ = [
    "EXPIRATION_BYTES",
    "ITEM_BYTES",
    "MAX_HIDDEN_KEYS",
    "MAX_MARKERS",
    "MAX_MARKERS_BYTES",
    "MAX_MARKER_BYTES",
    "MAX_MARKER_KEY_BYTES",
    "READ_ALL",
    "CountTooLargeError",
    "EventStore",
    "FeedBatch",
    "HiddenKey",
    "ItemRows",
    "Marker",
    "Query",
    "QueryHandle",
    "QuerySink",
    "QueryTimeoutError",
    "ReadScope",
    "SaveResult",
    "SaveStatus",
    "StoreError",
    "StoreFullError",
    "StoreLockedError",
    "StoreMissingError",
    "StoreUnavailableError",
    "StoredEvent",
    "check_hidden_keys",
    "check_marker_changes",
    "check_marker_range",
]

ITEM_BYTES: Final = 40
"""One negentropy item: created_at (8 bytes, big-endian), then the id (32 bytes)."""

EXPIRATION_BYTES: Final = 48
"""One event that expires: the second (8 bytes, big-endian), then its item of `ITEM_BYTES`."""


class StoreError(Exception):
    """The store could not do what was asked; the text is fit for an operator."""


class StoreUnavailableError(StoreError):
    """The data directory cannot be used: locked, foreign, read-only, or of another format version."""


class StoreLockedError(StoreUnavailableError):
    """Another process writes to the data directory."""


class StoreMissingError(StoreUnavailableError):
    """There is no database in the data directory yet; who only reads may wait for the one who makes it."""


class StoreFullError(StoreError):
    """No room is left in the database or on its disk; nothing of the batch was written."""


class QueryTimeoutError(StoreError):
    """A query was given up because it ran longer than its limit."""


class CountTooLargeError(StoreError):
    """A result has more members than the caller allows."""


class SaveStatus(Enum):
    """What became of an event that was offered."""

    STORED = auto()
    DELIVERED = auto()
    """Ephemeral: on the feed, not stored."""
    DUPLICATE = auto()
    """Stored before."""
    SUPERSEDED = auto()
    """A newer version of this replaceable or addressable event is stored."""
    DELETED = auto()
    """Its author, or the recipient of a gift wrap, asked for its deletion (NIP-09)."""
    VANISHED = auto()
    """Its author asked for everything up to a later time to vanish (NIP-62)."""
    EXPIRED = auto()
    """Its expiration has passed (NIP-40)."""
    FAILED = auto()
    """The store could not write; nothing of it was stored."""


class SaveResult(msgspec.Struct, frozen=True, gc=False):
    """The outcome for one event; `serial` is 0 unless it was stored, `detail` explains a failure."""

    status: SaveStatus
    serial: int = 0
    detail: str = ""


class StoredEvent(msgspec.Struct, frozen=True, gc=False):
    """An event with its serial."""

    serial: int
    event: EncodedEvent


class FeedBatch(msgspec.Struct, frozen=True):
    """What one commit changed, in order.

    Attributes:
        through_serial: Everything stored up to here has been told.
        stored: New events, by serial.
        ephemeral: Events that are delivered but not stored.
        removed: Ids (32 bytes) that are no longer in the visible set: deleted, replaced, purged after they expired.
            Some may stand in `stored` as well: they are gone all the same.
        hidden: Ids that only who sees everything may see from now on; some may stand in `stored` as well.
        may_lack_removals: Since the batch before, removals may have gone untold: the consumer was too slow, or the
            connection to the store broke; or events that were hidden are shown again. Whoever keeps a set reads it
            again.
    """

    through_serial: int
    stored: tuple[StoredEvent, ...] = ()
    ephemeral: tuple[EncodedEvent, ...] = ()
    removed: tuple[bytes, ...] = ()
    hidden: tuple[bytes, ...] = ()
    may_lack_removals: bool = False


class ItemRows(msgspec.Struct, frozen=True, gc=False):
    """The visible set of a query at one moment, for negentropy.

    Attributes:
        rows: `ITEM_BYTES` for each event, ascending by (created_at, id), none twice.
        through_serial: It covers every event up to this serial and none above.
    """

    rows: bytes
    through_serial: int


class ReadScope(msgspec.Struct, frozen=True, kw_only=True):
    """Which events a reader may see.

    Attributes:
        private_kinds: Kinds that only their parties may read; empty for a reader who may see everything.
        readers: The keys (hex) the reader has proven.
        sees_hidden: Whether the reader sees what is hidden from others (`EventStore.hide`).
    """

    private_kinds: frozenset[int] = PRIVATE_KINDS
    readers: frozenset[str] = frozenset()
    sees_hidden: bool = False

    def may_read(self, event: Event) -> bool:
        """Whether the reader may see the event: it is public, or one of the keys is its author or in a `p` tag."""
        if event.kind not in self.private_kinds or event.pubkey in self.readers:
            return True
        return any(tag[0] == "p" and len(tag) > 1 and tag[1] in self.readers for tag in event.tags)


READ_ALL: Final = ReadScope(private_kinds=frozenset(), sees_hidden=True)


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """A read: the union of what the filters match, newest first, ties by lowest id, each event once.

    Attributes:
        filters: Each with its own limit.
        scope: Who reads.
        default_limit: For filters without one; None = no limit.
        max_limit: No filter yields more; None = no limit.
        timeout_s: Time after which the query is given up; None = never.
    """

    filters: tuple[Filter, ...]
    scope: ReadScope = READ_ALL
    default_limit: int | None = None
    max_limit: int | None = None
    timeout_s: float | None = None


class QuerySink(Protocol):
    """Who receives a query's answer: any number of `rows`, then one `done` or `failed`, on the event loop.

    The first calls may come before `EventStore.query` has returned.
    """

    def rows(self, events: Sequence[bytes]) -> bool:
        """The next events, as canonical JSON; False holds the rest back until `QueryHandle.resume`."""

    def done(self, through_serial: int) -> None:
        """All were given. The answer covers every event up to this serial and none above."""

    def failed(self, error: StoreError) -> None:
        """The query ended early; no further call follows."""


class QueryHandle(Protocol):
    """A running query."""

    def resume(self) -> None:
        """Go on after `rows` answered False."""

    def cancel(self) -> None:
        """Stop; the sink hears nothing more."""


class EventStore(ABC):
    """An event store, used from one event loop.

    Every method may raise `StoreError`.

    Attributes:
        ANSWERS_LATER: Whether `query` only passes the question on; many may then be asked at a stretch.
    """

    ANSWERS_LATER: ClassVar[bool] = False

    @abstractmethod
    async def save(self, events: Sequence[EncodedEvent]) -> list[SaveResult]:
        """Store verified events; results come in the same order, after all is on disk.

        Replacement, deletion, vanish and expiry rules are applied here, for every door alike. A store that
        cannot write answers FAILED for the batch and has kept nothing of it.
        """

    @abstractmethod
    def known(self, ids: Sequence[bytes]) -> list[bool]:
        """Which ids are stored already, as far as can be told at once; a hint that saves signature checks."""

    @abstractmethod
    def query(self, query: Query, sink: QuerySink) -> QueryHandle:
        """Start a read; a small one may be answered before this returns."""

    @abstractmethod
    async def count(self, query: Query) -> int:
        """How many distinct visible events match; the filters' limits apply."""

    @abstractmethod
    async def delete(self, ids: Sequence[bytes]) -> int:
        """Remove events for good (administration); returns how many were there. They may be stored again."""

    @abstractmethod
    async def versions(self, query: Query) -> list[bytes]:
        """Like a query, but with the superseded versions that were kept (`ORLY_KEEP_VERSIONS`)."""

    @abstractmethod
    async def deleted(self, event: EncodedEvent) -> SaveStatus | None:
        """DELETED or VANISHED if this event would be refused for that reason, else None."""

    @abstractmethod
    async def items(self, query: Query, *, max_items: int | None = None) -> ItemRows:
        """What a query without its order would find, as packed rows for negentropy; the filters' limits apply.

        A feed that was opened before tells all that changes in it.

        Raises:
            CountTooLargeError: There are more than `max_items`.
        """

    @abstractmethod
    async def expirations(self, after_s: int) -> bytes:
        """Every visible event that expires after a second, as packed `EXPIRATION_BYTES` rows in ascending order.

        For who keeps a set in memory and must know when its members stop existing (NIP-40): the feed tells of that
        only when they are purged.
        """

    @abstractmethod
    async def serials(self, query: Query) -> list[int]:
        """The serials of the visible events that match, in the order of an answer: newest event first."""

    @abstractmethod
    async def hide(self, wanted: Sequence[HiddenKey]) -> None:
        """Hide events that are stored, or will be, from every reader whose scope does not see them.

        Nothing is removed. Of many events some are hidden before others; when this returns, all are. One that fails may
        have hidden some, and is to be called again.

        Raises:
            ValueError: See `check_hidden_keys`.
        """

    @abstractmethod
    async def show(self, wanted: Sequence[HiddenKey]) -> None:
        """Undo `hide`; what another key hides as well stays hidden. As for `hide`, one that fails is called again."""

    @abstractmethod
    async def hidden(
        self, after: HiddenKey | None = None, *, limit: int = MAX_HIDDEN_KEYS
    ) -> list[tuple[HiddenKey, bool]]:
        """What is hidden, and whether all of it already is, in a fixed order; an empty page is the end.

        Args:
            after: Only what is behind this one.
            limit: No more than so many, and never more than `MAX_HIDDEN_KEYS`.
        """

    @abstractmethod
    async def markers(self, prefix: str, *, after: str = "", limit: int = MAX_MARKERS) -> list[Marker]:
        """Markers whose keys begin with a prefix, in ascending order of their UTF-8; an empty page is the end.

        Args:
            prefix: Of the keys.
            after: Only keys behind this one: for the next page, the last of the page before.
            limit: No more than so many, and never more than `MAX_MARKERS` or `MAX_MARKERS_BYTES` of them.

        Raises:
            ValueError: See `check_marker_range`.
        """

    @abstractmethod
    async def change_markers(self, changes: Mapping[str, bytes | None]) -> None:
        """Set markers, and remove those whose value is None; all of it, or nothing if it fails.

        Raises:
            ValueError: See `check_marker_changes`.
        """

    @abstractmethod
    def feed(self, after_serial: int | None) -> AsyncIterator[FeedBatch]:
        """Everything committed after a serial, then what is committed from now on; None = only from now on.

        The position is taken when this is called, not at the first step. Ephemeral events and removals are told
        only while they happen. A slow consumer loses no stored event: it is served from the store again.
        """

    async def feeds_have_begun(self) -> None:  # noqa: B027
        """Wait until every feed that was opened has its position: removals after that are told.

        Where feeds begin at once, there is nothing to wait for.
        """

    @abstractmethod
    async def last_serial(self) -> int:
        """The serial of the newest commit; 0 when nothing was ever stored."""

    @abstractmethod
    async def close(self) -> None:
        """Finish what was accepted, then release the store."""

    async def marker(self, key: str) -> bytes | None:
        """The value of one marker; None if there is none."""
        found = await self.markers(key, limit=1)  # no other key that begins with it is before it
        return found[0].value if found and found[0].key == key else None

    async def fetch(self, query: Query) -> list[bytes]:
        """A whole answer at once; for tools and tests."""
        result: list[bytes] = []
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        handle = self.query(query, _Collector(result, done))
        try:
            await done
        finally:
            handle.cancel()
        return result


class _Collector:
    def __init__(self, result: list[bytes], done: asyncio.Future[int]) -> None:
        self._result = result
        self._done = done

    def rows(self, events: Sequence[bytes]) -> bool:
        self._result.extend(events)
        return True

    def done(self, through_serial: int) -> None:
        if not self._done.done():
            self._done.set_result(through_serial)

    def failed(self, error: StoreError) -> None:
        if not self._done.done():
            self._done.set_exception(error)
