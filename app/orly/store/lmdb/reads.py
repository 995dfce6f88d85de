"""What can be read of a database, whoever writes it: the part that the writing store and the follower share."""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from struct import Struct
from typing import Any, Final, TypeVar

import lmdb

from orly.nostr.event import EncodedEvent, decode_verified
from orly.nostr.filter import Filter
from orly.store.base import (
    MAX_HIDDEN_KEYS,
    MAX_MARKERS,
    HiddenKey,
    ItemRows,
    Marker,
    Query,
    QueryHandle,
    QuerySink,
    SaveStatus,
    StoredEvent,
    StoreError,
)
from orly.store.lmdb import keys
from orly.store.lmdb.environment import Environment, translate_error
from orly.store.lmdb.expiring import expiring
from orly.store.lmdb.hiding import HiddenSerials, read_keys
from orly.store.lmdb.markers import read_markers
from orly.store.lmdb.meta import last_serial
from orly.store.lmdb.reader import ExpiredSerials, Reader, View
from orly.store.lmdb.running_query import READ_ERRORS, RunningQuery, filter_limit
from orly.store.lmdb.scan import Scan
from orly.store.lmdb.tombstones import Tombstones
from orly.store.lmdb.unhurried import AsyncChunks

__all__ = ["LmdbReads"]

EXPORT_EVENTS: Final = 64
"""Events of an export in memory at once, each as large as the limits allow."""

MAX_ITEMS_JOINED: Final = 100_000
"""Rows of items that the loop puts together itself; more take milliseconds, and the interpreter lock is not held."""

_U64: Final = Struct(">Q")
T = TypeVar("T")

log = logging.getLogger(__name__)


class LmdbReads(ABC):
    """The reading methods of `EventStore`, on the event loop in short slices."""

    def __init__(self, tables: Environment, *, now_s: Callable[[], int], monotonic_s: Callable[[], float]) -> None:
        """Use an open environment; must be called on the event loop that will use it.

        Args:
            tables: From `open_environment`.
            now_s: The clock that decides expiry.
            monotonic_s: The clock that measures how long queries take.
        """
        self._tables = tables
        self._now_s = now_s
        self._monotonic_s = monotonic_s
        self._loop = asyncio.get_running_loop()
        self._expired = ExpiredSerials(tables)
        self._hidden = HiddenSerials(tables)
        self._queries: set[RunningQuery] = set()
        self._closed = False

    @abstractmethod
    def _scan(self, txn: Any) -> Scan:
        """The indexes as a transaction that has just begun sees them."""

    # Views

    def _begin_read(self) -> Any:
        if self._closed:
            raise StoreError("the store is closed")
        try:
            try:
                return self._tables.env.begin()
            except lmdb.MapResizedError:
                log.warning("%s is larger than ORLY_DB_MAX_SIZE: going on with its size", self._tables.directory)
                self._tables.env.set_mapsize(0)  # searches under way end with an error
                return self._tables.env.begin()
        except lmdb.Error as error:
            raise translate_error(error, self._tables.directory) from error

    @contextmanager
    def _read(self) -> Iterator[Any]:
        txn = self._begin_read()
        try:
            yield txn
        except READ_ERRORS as error:
            raise translate_error(error, self._tables.directory) from error
        finally:
            txn.abort()

    def _view(self, txn: Any) -> View:
        scan = self._scan(txn)
        now_s = self._now_s()
        expired, hidden = self._expired.at(txn, now_s), self._hidden.at(txn)
        return View(txn, self._tables, scan, now_s=now_s, expired=expired, hidden=hidden)

    def _unseen(self, txn: Any, sees_hidden: bool) -> tuple[set[bytes], ...]:
        """What may not be sent any more, by a transaction of a later moment."""
        expired = self._expired.at(txn, self._now_s())
        return (expired,) if sees_hidden else (expired, self._hidden.at(txn))

    def _reader(self, txn: Any, query: Query) -> Reader:
        return self._view(txn).reader(query.scope)

    def _new_view(self) -> View:
        txn = self._begin_read()
        try:
            return self._view(txn)
        except BaseException as error:
            txn.abort()
            if isinstance(error, READ_ERRORS):
                raise translate_error(error, self._tables.directory) from error
            raise

    async def _await_view(self) -> View:
        """A view that has everything that was committed before the call."""
        return self._new_view()

    @asynccontextmanager
    async def _viewing(self) -> AsyncIterator[View]:
        view = await self._await_view()
        try:
            yield view
        except READ_ERRORS as error:
            raise translate_error(error, self._tables.directory) from error
        finally:
            view.txn.abort()

    # Reading

    def known(self, ids: Sequence[bytes]) -> list[bool]:
        """See `EventStore.known`."""
        with self._read() as txn:
            serial_of = self._scan(txn).serial_of
            return [serial_of(event_id) is not None for event_id in ids]

    def query(self, query: Query, sink: QuerySink) -> QueryHandle:
        """See `EventStore.query`."""
        running = self._start(self._new_view(), query, sink)
        running.run()
        return running

    def _start(self, view: View, query: Query, sink: QuerySink) -> RunningQuery:
        """A query on a view, which is its own from now on; nothing is searched yet."""
        try:
            running = RunningQuery(
                self._tables,
                query,
                sink,
                view=view,
                begin=self._begin_read,
                loop=self._loop,
                monotonic=self._monotonic_s,
                unseen=lambda txn: self._unseen(txn, query.scope.sees_hidden),
                finished=self._queries.discard,
            )
        except BaseException:
            view.txn.abort()
            raise
        self._queries.add(running)
        return running

    def _positions(self, view: View, query: Query) -> AsyncChunks[list[bytes]]:
        reader = view.reader(query.scope)
        chunks = (
            chunk for wanted in query.filters for chunk in reader.chunks(wanted, filter_limit(wanted.limit, query))
        )
        return self._in_slices(chunks, query.timeout_s)

    def _in_slices(self, chunks: Iterator[T], timeout_s: float | None = None) -> AsyncChunks[T]:
        return AsyncChunks(chunks, self._monotonic_s, timeout_s)

    async def count(self, query: Query) -> int:
        """See `EventStore.count`."""
        async with self._viewing() as view:
            chunks = self._positions(view, query)
            if len(query.filters) == 1:
                total = 0
                async for chunk in chunks:
                    total += len(chunk)
                return total
            distinct: set[bytes] = set()
            async for chunk in chunks:
                distinct.update(row[keys.SERIAL_SLICE] for row in chunk)
            return len(distinct)

    async def serials(self, query: Query) -> list[int]:
        """See `EventStore.serials`."""
        async with self._viewing() as view:
            rows = [row async for chunk in self._positions(view, query) for row in chunk]
            if len(query.filters) > 1:
                rows = sorted(set(rows), reverse=True)
            return [_U64.unpack(row[keys.SERIAL_SLICE])[0] for row in rows]

    async def items(self, query: Query, *, max_items: int | None = None) -> ItemRows:
        """See `EventStore.items`."""
        from orly.store.lmdb.item_blocks import ItemGatherer  # numpy takes 12 MB: it is for those who use it
        from orly.store.lmdb.item_search import ItemSearch

        async with self._viewing() as view:
            found = ItemGatherer()
            async for block in self._in_slices(ItemSearch(view, query, max_items).blocks(), query.timeout_s):
                found.add(block)
            through_serial = view.through_serial
        if found.count > MAX_ITEMS_JOINED:
            return ItemRows(await self._loop.run_in_executor(None, found.rows), through_serial)
        return ItemRows(found.rows(), through_serial)

    async def expirations(self, after_s: int) -> bytes:
        """See `EventStore.expirations`."""
        async with self._viewing() as view:
            rows = [row async for chunk in self._in_slices(expiring(view, after_s)) for row in chunk]
            return b"".join(rows)

    async def versions(self, query: Query) -> list[bytes]:
        """See `EventStore.versions`."""
        async with self._viewing() as view:
            reader = view.reader(query.scope)
            timeout_s = query.timeout_s
            found: set[bytes] = set()
            for wanted in query.filters:
                limit = filter_limit(wanted.limit, query)
                rows = [
                    row async for chunk in self._in_slices(reader.chunks(wanted, limit), timeout_s) for row in chunk
                ]
                async for chunk in self._in_slices(reader.kept_versions(wanted), timeout_s):
                    rows.extend(chunk)
                found.update(sorted(rows, reverse=True)[:limit])
            get, events = view.txn.get, self._tables.events
            raws = (get(row[keys.SERIAL_SLICE], None, events) for row in sorted(found, reverse=True))
            return [raw for raw in raws if raw is not None]

    async def deleted(self, event: EncodedEvent) -> SaveStatus | None:
        """See `EventStore.deleted`."""
        async with self._viewing() as view:
            return Tombstones(self._tables, view.txn).forbids(event, view.scan.serial_of)

    async def last_serial(self) -> int:
        """See `EventStore.last_serial`."""
        with self._read() as txn:
            return last_serial(txn, self._tables)

    async def markers(self, prefix: str, *, after: str = "", limit: int = MAX_MARKERS) -> list[Marker]:
        """See `EventStore.markers`."""
        with self._read() as txn:
            return read_markers(txn, self._tables, prefix, after=after, limit=limit)

    async def hidden(
        self, after: HiddenKey | None = None, *, limit: int = MAX_HIDDEN_KEYS
    ) -> list[tuple[HiddenKey, bool]]:
        """See `EventStore.hidden`."""
        with self._read() as txn:
            return read_keys(txn, self._tables, after, min(limit, MAX_HIDDEN_KEYS))

    def export(self, wanted: Filter) -> Generator[list[bytes | None], None, None]:
        """The visible events that match, as canonical JSON, newest first, as they were at the first step.

        One read transaction lasts until the end: nothing that is replaced meanwhile is missed, and a relay that
        writes meanwhile cannot use the space it frees. Lists may be empty: they are where a long search can be
        interrupted. A None stands for an event that an index names and that is not there: the database is damaged.

        Raises:
            StoreError: The database cannot be read.
        """
        with self._read() as txn:
            get, table = txn.get, self._tables.events
            for chunk in self._reader(txn, Query(filters=(wanted,))).chunks(wanted, wanted.limit):
                if not chunk:
                    yield []
                for start in range(0, len(chunk), EXPORT_EVENTS):
                    rows = chunk[start : start + EXPORT_EVENTS]
                    yield [get(row[keys.SERIAL_SLICE], None, table) for row in rows]

    def hidden_among(self, stored: Sequence[StoredEvent]) -> tuple[bytes, ...]:
        """The ids of those events that only who sees everything may see.

        Raises:
            StoreError: That cannot be read.
        """
        with self._read() as txn:
            hidden = self._hidden.at(txn)
            if not hidden:
                return ()
            return tuple(item.event.id for item in stored if _U64.pack(item.serial) in hidden)

    def read_after(self, serial: int, limit: int) -> list[StoredEvent]:
        """Up to `limit` stored events after a serial, in order; superseded versions are not among them.

        Raises:
            StoreError: They cannot be read.
        """
        found: list[StoredEvent] = []
        kept = self._tables.version_ids
        with self._read() as txn, txn.cursor(self._tables.events) as cursor:
            if not cursor.set_range(_U64.pack(serial + 1)):
                return found
            for key, raw in cursor.iternext(keys=True, values=True):
                event = decode_verified(raw)
                version = txn.get(event.id, None, kept)
                if version is None or version[-8:] != key:
                    found.append(StoredEvent(_U64.unpack(key)[0], event))
                if len(found) == limit:
                    break
        return found
