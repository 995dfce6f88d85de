"""`LmdbStore`: the embedded event store, for the process that owns the data directory."""

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from struct import Struct
from typing import Any, Final

import lmdb

from orly import clock
from orly.nostr.event import EncodedEvent, decode_event
from orly.store.base import (
    CountTooLargeError,
    EventStore,
    FeedBatch,
    Query,
    QueryHandle,
    QuerySink,
    SaveResult,
    SaveStatus,
    StoredEvent,
    StoreError,
    StoreUnavailableError,
)
from orly.store.lmdb import keys
from orly.store.lmdb.committer import MAX_BATCH_EVENTS, Committer
from orly.store.lmdb.environment import Environment, open_environment, translate_error
from orly.store.lmdb.feed import Feed, FeedHub
from orly.store.lmdb.reader import ExpiredSerials, Reader
from orly.store.lmdb.running_query import READ_ERRORS, RunningQuery, filter_limit
from orly.store.lmdb.scan import Scan
from orly.store.lmdb.tail import GENERATION_EVENTS, Tail
from orly.store.lmdb.tombstones import Tombstones
from orly.store.lmdb.transaction import Transaction, indexed_through, last_serial
from orly.store.lmdb.unhurried import AsyncChunks

__all__ = ["LmdbStore"]

SWEEP_EVENTS: Final = 500
"""Expired events removed in one transaction."""

_U64: Final = Struct(">Q")
_ID_IN_JSON: Final = slice(7, 71)
"""Where canonical JSON has the id: `{"id":"<64>"`."""

log = logging.getLogger(__name__)


class LmdbStore(EventStore):
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
            tables: From `open_environment`; closed by `close`.
            own_urls: The URLs under which requests to vanish (NIP-62) may name this relay.
            keep_versions: Whether superseded versions stay readable by `versions`.
            now_s: The clock that decides expiry.
            monotonic_s: The clock that measures how long queries take.
            sweep_interval_s: How often expired events are purged; None = never.
            generation_events: See `Tail`; small values are for tests.
        """
        self._tables = tables
        self._own_urls = tuple(own_urls)
        self._keep_versions = keep_versions
        self._now_s = now_s
        self._monotonic_s = monotonic_s
        self._loop = asyncio.get_running_loop()
        self._expired = ExpiredSerials(tables)
        self._queries: set[RunningQuery] = set()
        self._hub = FeedHub(self._read_after)
        self._tail = Tail(generation_events)
        self._tail_txn_id = -1
        self._closed = False
        self._closing: asyncio.Task[None] | None = None
        self._committer: Committer | None = None
        self._sweeper: asyncio.Task[None] | None = None
        with self._read() as txn:
            self._load_tail(txn)
        if tables.lock_fd is not None:
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
        )

    def _committed(self, transaction: Transaction) -> None:
        if transaction.first_expiry_s is not None:
            self._expired.added(transaction.first_expiry_s)
        if transaction.stored or transaction.ephemeral or transaction.removed:
            self._hub.publish(
                FeedBatch(
                    through_serial=transaction.serial,
                    stored=tuple(transaction.stored),
                    ephemeral=tuple(transaction.ephemeral),
                    removed=tuple(transaction.removed),
                )
            )

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

    @contextmanager
    def _read(self) -> Iterator[Any]:
        txn = self._begin_read()
        try:
            yield txn
        except READ_ERRORS as error:
            raise translate_error(error, self._tables.directory) from error
        finally:
            txn.abort()

    def _begin_read(self) -> Any:
        if self._closed:
            raise StoreError("the store is closed")
        try:
            return self._tables.env.begin()
        except lmdb.Error as error:
            raise translate_error(error, self._tables.directory) from error

    def _load_tail(self, txn: Any) -> None:
        """Read the events again whose index rows were not written yet."""
        with txn.cursor(self._tables.times) as cursor:
            newest = _U64.unpack(cursor.key()[:8])[0] if cursor.last() else -1
        tail = Tail(self._tail.generation_events, newest, last_serial(txn, self._tables))
        with txn.cursor(self._tables.events) as cursor:
            if cursor.set_range(_U64.pack(indexed_through(txn, self._tables) + 1)):
                for key, raw in cursor.iternext(keys=True, values=True):
                    event = decode_event(raw)
                    kept = txn.get(event.id, None, self._tables.version_ids)
                    if kept is None or kept[-8:] != key:
                        tail.add(event, _U64.unpack(key)[0])
        self._tail = tail
        self._tail_txn_id = txn.id()

    def _scan(self, txn: Any) -> Scan:
        if self._committer is None and txn.id() != self._tail_txn_id:
            self._load_tail(txn)  # another process writes: nobody tells us what
        return Scan(txn, self._tables, self._tail, _U64.pack(last_serial(txn, self._tables)))

    def _reader(self, txn: Any, query: Query) -> Reader:
        now_s = self._now_s()
        expired = self._expired.at(txn, now_s)
        return Reader(txn, self._tables, self._scan(txn), scope=query.scope, now_s=now_s, expired=expired)

    def known(self, ids: Sequence[bytes]) -> list[bool]:
        with self._read() as txn:
            serial_of = self._scan(txn).serial_of
            return [serial_of(event_id) is not None for event_id in ids]

    def query(self, query: Query, sink: QuerySink) -> QueryHandle:
        txn = self._begin_read()
        try:
            reader = self._reader(txn, query)
            running = RunningQuery(
                self._tables,
                query,
                sink,
                txn=txn,
                reader=reader,
                through_serial=_U64.unpack(reader.through)[0],
                loop=self._loop,
                monotonic=self._monotonic_s,
                expired=lambda txn: self._expired.at(txn, self._now_s()),
                finished=self._queries.discard,
            )
        except BaseException as error:
            txn.abort()
            if isinstance(error, lmdb.Error):
                raise translate_error(error, self._tables.directory) from error
            raise
        self._queries.add(running)
        running.run()
        return running

    def _positions(self, txn: Any, query: Query) -> AsyncChunks:
        reader = self._reader(txn, query)
        chunks = (
            chunk for wanted in query.filters for chunk in reader.chunks(wanted, filter_limit(wanted.limit, query))
        )
        return self._unhurried(chunks, query)

    def _unhurried(self, chunks: Iterator[list[bytes]], query: Query) -> AsyncChunks:
        return AsyncChunks(chunks, self._monotonic_s, query.timeout_s)

    async def count(self, query: Query) -> int:
        with self._read() as txn:
            chunks = self._positions(txn, query)
            if len(query.filters) == 1:
                total = 0
                async for chunk in chunks:
                    total += len(chunk)
                return total
            distinct: set[bytes] = set()
            async for chunk in chunks:
                distinct.update(row[keys.SERIAL_SLICE] for row in chunk)
            return len(distinct)

    async def items(self, query: Query, *, max_items: int | None = None) -> bytes:
        with self._read() as txn:
            rows: set[bytes] = set()
            get, events = txn.get, self._tables.events
            async for chunk in self._positions(txn, query):
                for row in chunk:
                    raw = get(row[keys.SERIAL_SLICE], None, events)
                    if raw is not None:
                        rows.add(row[:8] + bytes.fromhex(raw[_ID_IN_JSON].decode()))
                if max_items is not None and len(rows) > max_items:
                    raise CountTooLargeError(f"more than {max_items} events match")
            return b"".join(sorted(rows))

    async def versions(self, query: Query) -> list[bytes]:
        with self._read() as txn:
            reader = self._reader(txn, query)
            found: set[bytes] = set()
            for wanted in query.filters:
                limit = filter_limit(wanted.limit, query)
                rows = [row async for chunk in self._unhurried(reader.chunks(wanted, limit), query) for row in chunk]
                async for chunk in self._unhurried(reader.kept_versions(wanted), query):
                    rows.extend(chunk)
                found.update(sorted(rows, reverse=True)[:limit])
            get, events = txn.get, self._tables.events
            raws = (get(row[keys.SERIAL_SLICE], None, events) for row in sorted(found, reverse=True))
            return [raw for raw in raws if raw is not None]

    async def deleted(self, event: EncodedEvent) -> SaveStatus | None:
        with self._read() as txn:
            return Tombstones(self._tables, txn).forbids(event, self._scan(txn).serial_of)

    async def last_serial(self) -> int:
        with self._read() as txn:
            return last_serial(txn, self._tables)

    # The feed

    def feed(self, after_serial: int | None) -> Feed:
        with self._read() as txn:
            newest = last_serial(txn, self._tables)
        # A position from another life of this data directory may lie ahead: nothing up to it was ever told here.
        after = newest if after_serial is None else max(0, min(after_serial, newest))
        return self._hub.open(after, newest)

    def _read_after(self, serial: int, limit: int) -> list[StoredEvent]:
        """Stored events after a serial; superseded versions that were kept are not among them."""
        found: list[StoredEvent] = []
        with self._read() as txn, txn.cursor(self._tables.events) as cursor:
            serial_of = self._scan(txn).serial_of
            if not cursor.set_range(_U64.pack(serial + 1)):
                return found
            for key, raw in cursor.iternext(keys=True, values=True):
                event = decode_event(raw)
                if serial_of(event.id) == key:
                    found.append(StoredEvent(_U64.unpack(key)[0], event))
                if len(found) == limit:
                    break
        return found

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


def _remove_expired(transaction: Transaction) -> int:
    return transaction.remove_expired(SWEEP_EVENTS)
