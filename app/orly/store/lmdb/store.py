"""`LmdbStore`: the embedded event store, for the process that owns the data directory."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from struct import Struct
from typing import Any, Final

import lmdb

from orly import clock
from orly.nostr.event import EncodedEvent, decode_verified
from orly.store.base import (
    EventStore,
    FeedBatch,
    HiddenKey,
    SaveResult,
    SaveStatus,
    StoreError,
    StoreUnavailableError,
    check_hidden_keys,
    check_marker_changes,
)
from orly.store.lmdb.committer import MAX_BATCH_EVENTS, Committer
from orly.store.lmdb.environment import Environment, open_environment
from orly.store.lmdb.feed import Feed, FeedHub
from orly.store.lmdb.followed_tail import FollowedTail, newest_in_tables
from orly.store.lmdb.hiding import HidingJob, compact_if_long, packed_key
from orly.store.lmdb.markers import write_markers
from orly.store.lmdb.meta import indexed_through, last_serial
from orly.store.lmdb.reads import LmdbReads
from orly.store.lmdb.scan import Scan
from orly.store.lmdb.tail import GENERATION_EVENTS, Tail
from orly.store.lmdb.transaction import Transaction

__all__ = ["LmdbStore"]

SWEEP_EVENTS: Final = 500
"""Expired events removed in one transaction."""

_U64: Final = Struct(">Q")
log = logging.getLogger(__name__)


class LmdbStore(LmdbReads, EventStore):
    """See `EventStore`. Reads run on the event loop in short slices, writes on a thread (see `Committer`)."""

    def __init__(
        self,
        tables: Environment,
        *,
        own_urls: Sequence[str] = (),
        keep_versions: bool = False,
        now_s: Callable[[], int] = clock.now_s,
        monotonic_s: Callable[[], float] = clock.monotonic_s,
        sweep_interval_s: float | None = None,
        generation_events: int = GENERATION_EVENTS,
    ) -> None:
        """Use an open environment; must be called on the event loop that will use the store.

        Args:
            tables: From `open_environment`; closed by `close`. Opened for reading only, what another process writes is
                seen, and the first call after it may keep the loop for long (`LmdbFollower` does not).
            own_urls: The URLs under which requests to vanish (NIP-62) may name this relay.
            keep_versions: Whether superseded versions stay readable by `versions`.
            now_s: The clock that decides expiry.
            monotonic_s: The clock that measures how long queries take.
            sweep_interval_s: How often expired events are purged; None = never.
            generation_events: See `Tail`; small values are for tests.
        """
        super().__init__(tables, now_s=now_s, monotonic_s=monotonic_s)
        self._own_urls = tuple(own_urls)
        self._keep_versions = keep_versions
        self._shown_authors: set[bytes] = set()
        self._hub = FeedHub(self.read_after, self.hidden_among)
        self._tail = Tail(generation_events)
        self._followed: FollowedTail | None = None
        self._closing: asyncio.Task[None] | None = None
        self._committer: Committer | None = None
        self._sweeper: asyncio.Task[None] | None = None
        if tables.lock_fd is None:  # another process may write
            self._followed = FollowedTail(tables, expires=self._expired.added)
            with self._read() as txn:
                self._followed.advance(txn)
        else:
            compact_if_long(tables)
            self._load_tail()
            self._committer = Committer(tables, begin=self._begin, committed=self._committed, loop=self._loop)
            if sweep_interval_s is not None:
                self._sweeper = self._loop.create_task(self._sweep_regularly(sweep_interval_s))

    @classmethod
    async def open(
        cls,
        directory: Path,
        *,
        max_bytes: int,
        read_only: bool = False,
        own_urls: Sequence[str] = (),
        keep_versions: bool = False,
        sweep_interval_s: float | None = None,
        now_s: Callable[[], int] = clock.now_s,
        monotonic_s: Callable[[], float] = clock.monotonic_s,
        generation_events: int = GENERATION_EVENTS,
    ) -> "LmdbStore":
        """Open a data directory.

        Raises:
            StoreUnavailableError: It cannot be used; the text says why.
        """
        tables = open_environment(directory, max_bytes=max_bytes, read_only=read_only)
        try:
            return cls(
                tables,
                own_urls=own_urls,
                keep_versions=keep_versions,
                now_s=now_s,
                monotonic_s=monotonic_s,
                sweep_interval_s=sweep_interval_s,
                generation_events=generation_events,
            )
        except BaseException as error:
            tables.close()
            if isinstance(error, StoreError):
                raise StoreUnavailableError(str(error)) from None
            raise

    # Writing

    def _begin(self, txn: Any) -> Transaction:
        self._tail.begin(txn.id())
        return Transaction(
            self._tables,
            txn,
            self._tail,
            now_s=self._now_s(),
            own_urls=self._own_urls,
            keep_versions=self._keep_versions,
            shown_authors=self._shown_authors,
        )

    def _committed(self, transaction: Transaction) -> None:
        if transaction.first_expiry_s is not None:
            self._expired.added(transaction.first_expiry_s)
        batch = FeedBatch(
            through_serial=transaction.serial,
            stored=tuple(transaction.stored),
            ephemeral=tuple(transaction.ephemeral),
            removed=tuple(transaction.removed),
            hidden=tuple(transaction.hidden),
            may_lack_removals=transaction.shows,
        )
        if batch.stored or batch.ephemeral or batch.removed or batch.hidden or batch.may_lack_removals:
            self._hub.publish(batch)

    def _writer(self) -> Committer:
        if self._committer is None:
            raise StoreError("the store was opened for reading only")
        return self._committer

    async def save(self, events: Sequence[EncodedEvent]) -> list[SaveResult]:
        writer = self._writer()
        parts = [events[start : start + MAX_BATCH_EVENTS] for start in range(0, len(events), MAX_BATCH_EVENTS)]
        futures = [writer.submit(partial(_save_all, part), len(part)) for part in parts]
        results: list[SaveResult] = []
        for part, future in zip(parts, futures, strict=True):
            try:
                results.extend(await future)
            except StoreError as error:
                results.extend([SaveResult(SaveStatus.FAILED, detail=str(error))] * len(part))
        return results

    async def delete(self, ids: Sequence[bytes]) -> int:
        return await self._writer().submit(partial(_remove_all, tuple(ids)), len(ids))

    async def change_markers(self, changes: Mapping[str, bytes | None]) -> None:
        check_marker_changes(changes)
        writer = self._writer()
        if self._tables.markers is None:
            raise StoreError(f"{self._tables.directory} has no table of markers: make room for it, then start again")
        await writer.submit(partial(_write_markers, dict(changes)), len(changes))

    async def hide(self, wanted: Sequence[HiddenKey]) -> None:
        await self._change_hidden(wanted, is_hidden=True)

    async def show(self, wanted: Sequence[HiddenKey]) -> None:
        await self._change_hidden(wanted, is_hidden=False)

    async def _change_hidden(self, wanted: Sequence[HiddenKey], *, is_hidden: bool) -> None:
        check_hidden_keys(wanted)
        writer = self._writer()
        if self._tables.hidden is None or self._tables.hidden_keys is None:
            raise StoreError(f"{self._tables.directory} has no table of what is hidden: make room, then start again")
        job = HidingJob([packed_key(each) for each in wanted], is_hidden=is_hidden)
        while not job.is_done:
            await writer.submit(job.step, MAX_BATCH_EVENTS)

    async def sweep(self) -> int:
        """Purge what has expired; returns how many events that were."""
        total = 0
        while True:
            removed = await self._writer().submit(_remove_expired, SWEEP_EVENTS)
            total += removed
            if removed < SWEEP_EVENTS:
                return total

    async def _sweep_regularly(self, interval_s: float) -> None:
        while True:
            try:
                removed = await self.sweep()
                if removed:
                    log.info("purged %d expired events", removed)
                self._tables.env.reader_check()  # a tool that was killed while reading would pin old pages
            except (StoreError, lmdb.Error) as error:
                log.warning("expired events could not be purged: %s", error)
            await asyncio.sleep(interval_s)

    # Reading

    def _load_tail(self) -> None:
        """Read the events again whose index rows were not written yet."""
        with self._read() as txn:
            tail = Tail(
                self._tail.generation_events, newest_in_tables(txn, self._tables), last_serial(txn, self._tables)
            )
            with txn.cursor(self._tables.events) as cursor:
                if cursor.set_range(_U64.pack(indexed_through(txn, self._tables) + 1)):
                    for key, raw in cursor.iternext(keys=True, values=True):
                        event = decode_verified(raw)
                        kept = txn.get(event.id, None, self._tables.version_ids)
                        if kept is None or kept[-8:] != key:
                            tail.add(event, _U64.unpack(key)[0])
        self._tail = tail

    def _scan(self, txn: Any) -> Scan:
        through = _U64.pack(last_serial(txn, self._tables))
        if self._followed is None:
            return Scan(txn, self._tables, self._tail, through)
        self._followed.advance(txn)
        return Scan(txn, self._tables, self._followed, through)

    # The feed

    def feed(self, after_serial: int | None) -> Feed:
        with self._read() as txn:
            newest = last_serial(txn, self._tables)
        # A position from another life of this data directory may lie ahead: nothing up to it was ever told here.
        after = newest if after_serial is None else max(0, min(after_serial, newest))
        return self._hub.open(after, newest)

    async def close(self) -> None:
        if self._closing is None:
            self._closing = self._loop.create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
            with suppress(asyncio.CancelledError):
                await self._sweeper
        if self._committer is not None:
            try:
                await self._committer.submit(Transaction.settle, 0)
            except StoreError as error:
                log.warning("index rows are left to be read from the events at the next start: %s", error)
            await self._committer.close()
        for query in tuple(self._queries):
            query.cancel()
        self._hub.close()
        self._closed = True
        self._tables.close()


def _save_all(events: Sequence[EncodedEvent], transaction: Transaction) -> list[SaveResult]:
    return [transaction.save(event) for event in events]


def _remove_all(ids: Sequence[bytes], transaction: Transaction) -> int:
    return sum(transaction.remove(event_id) for event_id in ids)


def _write_markers(changes: Mapping[str, bytes | None], transaction: Transaction) -> None:
    write_markers(transaction.txn, transaction.tables, changes)


def _remove_expired(transaction: Transaction) -> int:
    return transaction.remove_expired(SWEEP_EVENTS)
