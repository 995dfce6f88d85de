"""The set of everything that a scope shows, kept in memory: loaded once, then brought forward by the store's feed."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from heapq import heapify, heappop, heappush
from typing import Final

from orly.negentropy import ItemSet
from orly.nostr.event import EncodedEvent
from orly.nostr.filter import Filter
from orly.nostr.tags import expiration
from orly.store.base import (
    EXPIRATION_BYTES,
    ITEM_BYTES,
    EventStore,
    FeedBatch,
    Query,
    ReadScope,
    StoreError,
    StoreUnavailableError,
)

__all__ = ["FEED_DEADLINE_S", "FullSet", "row_of", "set_of"]

FEED_DEADLINE_S: Final = 10.0
"""How long a set may wait for the feed to tell what the store has acknowledged."""

FOLD_CHANGES: Final = 20_000
"""Changes that may wait to be folded into the set while nobody asks for it; about 4 MB."""

INLINE_ROWS: Final = 50_000
"""A set of so many rows is made, or changed, in a few milliseconds; a larger one is left to a thread."""

INLINE_CHANGES: Final = 2_000
"""Changes with known rows take a millisecond, however large the set; looking for an id alone goes through all of it."""

FEW_EXPIRING: Final = 1_000
"""Times of expiry that are kept without looking whether their events are still there."""

_SECOND_BYTES: Final = 8
_CREATED_BYTES: Final = 8

log = logging.getLogger(__name__)


def row_of(event: EncodedEvent) -> bytes:
    """The item of an event, as in `ItemSet`."""
    return event.event.created_at.to_bytes(8, "big") + event.id


async def set_of(rows: bytes) -> ItemSet:
    """The set of sorted rows; a large one is made by a thread."""
    if len(rows) <= INLINE_ROWS * ITEM_BYTES:
        return ItemSet.from_rows(rows, is_sorted=True)
    return await asyncio.to_thread(ItemSet.from_rows, rows, is_sorted=True)


class FullSet:
    """One set that follows the store; used from one event loop.

    Changes gather while nobody asks and are folded in many at once. What expires leaves in its second, by the clock.
    When the feed breaks, or may have left removals out, the set is dropped and loaded again by the next who asks.

    Args:
        store: Whose events.
        scope: What the set shows; one without readers.
        now_s: The clock that decides expiry.
    """

    def __init__(self, store: EventStore, scope: ReadScope, *, now_s: Callable[[], int]) -> None:
        assert not scope.readers
        self._store = store
        self._scope = scope
        self._now_s = now_s
        self._following: _Following | None = None
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def is_loaded(self) -> bool:
        """Whether the next who asks is served from memory."""
        return self._following is not None and self._following.is_loaded

    async def current(self) -> ItemSet:
        """The set with everything that the store had acknowledged when this was called.

        Raises:
            StoreError: It cannot be read, or its feed does not get that far in time.
        """
        for _ in range(2):
            following = self._following
            is_old = not (following is None or following.is_over or following.is_ahead_of(self._now_s()))
            if following is None or not is_old:
                following = self._begin()
            try:
                return await following.current()
            except _GapError:
                continue
            except StoreError:
                if not (is_old and following.is_over):  # else its feed broke just now: a new one may not
                    raise
        raise StoreUnavailableError("the store's feed breaks again and again")

    def _begin(self) -> "_Following":
        old = self._following
        new = self._following = _Following(self._store, self._scope, self._now_s)
        if old is not None:
            closing = asyncio.create_task(old.close())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
        return new

    async def close(self) -> None:
        """Leave the feed and forget the set."""
        following, self._following = self._following, None
        if following is not None:
            await following.close()
        await asyncio.gather(*self._closing)


class _GapError(StoreError):
    """The set cannot be brought forward any more."""


class _Following:
    """A loaded set and the feed since; as long as nothing is missed."""

    def __init__(self, store: EventStore, scope: ReadScope, now_s: Callable[[], int]) -> None:
        self._store = store
        self._scope = scope
        self._now_s = now_s
        self._items: ItemSet | None = None
        self._loaded_serial = 0
        self._told_serial = 0
        self._early: list[FeedBatch] = []
        self._added: dict[bytes, bytes] = {}
        self._removed: dict[bytes, bytes | None] = {}
        self._expiring: list[bytes] = []
        self._most_expiring = FEW_EXPIRING
        self._expired_s = 0
        self._error: StoreError | None = None
        self._moved = asyncio.Event()
        self._folding = asyncio.Lock()
        loop = asyncio.get_running_loop()
        self._feed = store.feed(None)
        self._reader = loop.create_task(self._read())
        self._loader = loop.create_task(self._load())

    @property
    def is_over(self) -> bool:
        return self._error is not None

    @property
    def is_loaded(self) -> bool:
        return self._items is not None and not self.is_over

    def is_ahead_of(self, now_s: int) -> bool:
        """Whether something was taken out as expired that has not expired by a clock that was set back."""
        return now_s < self._expired_s

    async def current(self) -> ItemSet:
        """See `FullSet.current`."""
        newest = await self._store.last_serial()
        await asyncio.wait((self._loader,))  # which is cancelled when another set takes the place of this one
        try:
            async with asyncio.timeout(FEED_DEADLINE_S):
                while not self.is_over and max(self._told_serial, self._loaded_serial) < newest:
                    self._moved.clear()
                    await self._moved.wait()
        except TimeoutError:
            raise StoreError(
                f"the store's feed has told of the serial {self._told_serial} only, {newest} was stored, and nothing "
                f"came for {FEED_DEADLINE_S:g} s"
            ) from None
        self._raise_error()
        await self._fold()
        self._raise_error()
        assert self._items is not None
        return self._items

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    async def close(self) -> None:
        self._end(StoreUnavailableError("the set was closed"))
        self._reader.cancel()
        self._loader.cancel()
        await asyncio.wait((self._reader, self._loader))
        leave = getattr(self._feed, "aclose", None)
        if leave is not None:
            await leave()

    def _end(self, error: StoreError) -> None:
        if self._error is None:
            self._error = error
        self._items = None
        self._early.clear()
        self._added.clear()
        self._removed.clear()
        self._expiring.clear()
        self._moved.set()

    # Loading

    async def _load(self) -> None:
        """Read the set; errors reach whoever asks for it."""
        try:
            before_s = self._now_s() - 1
            expirations = await self._store.expirations(before_s)
            found = await self._store.items(Query(filters=(Filter(),), scope=self._scope))
            items = await set_of(found.rows)
        except StoreError as error:
            self._end(error)
            return
        if self.is_over:
            return
        self._loaded_serial = found.through_serial
        self._expiring += [
            expirations[start : start + EXPIRATION_BYTES] for start in range(0, len(expirations), EXPIRATION_BYTES)
        ]
        heapify(self._expiring)
        self._most_expiring = FEW_EXPIRING + 2 * len(self._expiring)
        self._items = items
        early, self._early = self._early, []
        for batch in early:
            self._take(batch)
        log.debug("the set of everything is loaded: %d events", len(items))

    # Following

    async def _read(self) -> None:
        try:
            async for batch in self._feed:
                if self.is_over:
                    return
                if self._items is None:
                    self._early.append(batch)
                    continue
                self._take(batch)
                if len(self._added) + len(self._removed) > FOLD_CHANGES:
                    await self._fold()
        except StoreError as error:
            log.warning("the set of everything is given up, the store's feed broke: %s", error)
            self._end(error)
        finally:
            self._end(StoreUnavailableError("the store's feed has ended"))

    def _take(self, batch: FeedBatch) -> None:
        """Note what a commit changed; what the loaded set shows already is left out."""
        if batch.may_lack_removals:
            self._end(_GapError("removals may have gone untold"))
            return
        for event_id, row in self._stored(batch):
            self._added[event_id] = row
            self._removed.pop(event_id, None)
        gone = batch.removed if self._scope.sees_hidden else batch.removed + batch.hidden
        if gone and batch.through_serial >= self._loaded_serial:
            for gone_id in gone:
                self._removed[gone_id] = self._added.pop(gone_id, None) or self._removed.get(gone_id)
        self._told_serial = max(self._told_serial, batch.through_serial)
        self._moved.set()

    def _stored(self, batch: FeedBatch) -> Iterator[tuple[bytes, bytes]]:
        private_kinds = self._scope.private_kinds
        for item in batch.stored:
            event = item.event.event
            if event.kind in private_kinds:
                continue
            row = row_of(item.event)
            expires_at = expiration(event) if event.tags else None
            if expires_at is not None:
                heappush(self._expiring, expires_at.to_bytes(_SECOND_BYTES, "big") + row)
            if item.serial > self._loaded_serial:
                yield item.event.id, row

    # Folding in

    async def _fold(self) -> None:
        async with self._folding:
            items = self._items
            if items is None:
                return
            gone = self._take_expired()
            added, self._added = self._added, {}
            removed, self._removed = self._removed, {}
            gone += [row for row in removed.values() if row is not None]
            unknown = [event_id for event_id, row in removed.items() if row is None]

            looked_at: list[bytes] = []
            if len(self._expiring) > self._most_expiring:
                looked_at, self._expiring = self._expiring, []

            def change(whole: ItemSet) -> tuple[ItemSet, list[bytes]]:
                changed = whole.changed(added=b"".join(added.values()), removed=b"".join(gone))
                if unknown:
                    changed = changed.without_ids(unknown)
                return changed, _still_there(looked_at, changed)

            is_large = len(items) > INLINE_ROWS and (unknown or len(added) + len(gone) > INLINE_CHANGES)
            is_large = is_large or len(looked_at) > INLINE_CHANGES
            items, kept = await asyncio.to_thread(change, items) if is_large else change(items)
            if not self.is_over:
                self._items = items
                if looked_at:
                    self._keep_expiring(kept)

    def _keep_expiring(self, kept: list[bytes]) -> None:
        """Put back the times that were looked at; others may have come meanwhile."""
        come, self._expiring = self._expiring, kept
        for entry in come:
            heappush(kept, entry)
        self._most_expiring = FEW_EXPIRING + 2 * len(kept)

    def _take_expired(self) -> list[bytes]:
        """The rows of what has expired since."""
        rows: list[bytes] = []
        now_s = self._now_s()
        end = (now_s + 1).to_bytes(_SECOND_BYTES, "big")
        while self._expiring and self._expiring[0] < end:
            entry = heappop(self._expiring)
            row = entry[_SECOND_BYTES:]
            self._expired_s = int.from_bytes(entry[:_SECOND_BYTES], "big")
            self._added.pop(row[_CREATED_BYTES:], None)
            rows.append(row)
        return rows


def _still_there(expiring: list[bytes], items: ItemSet) -> list[bytes]:
    """The times of expiry of what has not left before, in order; an author may name the year 9999."""
    by_row = sorted(expiring, key=_row_of_entry)
    held = items.holds(b"".join(map(_row_of_entry, by_row)))
    return sorted(entry for entry, is_held in zip(by_row, held, strict=True) if is_held)


def _row_of_entry(entry: bytes) -> bytes:
    return entry[_SECOND_BYTES:]
