"""A query in progress: searched in slices of loop time, sent as fast as its reader takes it."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any, Final

import lmdb
import msgspec

from orly.nostr.event import EventError
from orly.store.base import Query, QuerySink, QueryTimeoutError, StoreError
from orly.store.lmdb.environment import Environment, translate_error
from orly.store.lmdb.keys import SERIAL_SLICE
from orly.store.lmdb.reader import Reader, View

__all__ = ["READ_ERRORS", "RunningQuery", "filter_limit"]

READ_ERRORS: Final = (lmdb.Error, msgspec.MsgspecError, EventError)
"""What reading may raise when the file is damaged or the environment was closed."""

SLICE_S: Final = 0.003
"""Loop time a query may take at a stretch."""

ROWS_BYTES: Final = 64 * 1024
"""Payload handed over at once."""


def filter_limit(asked: int | None, query: Query) -> int | None:
    """How many events a filter yields: what it asks for, within the query's bounds."""
    limit = query.default_limit if asked is None else asked
    if query.max_limit is None:
        return limit
    return query.max_limit if limit is None else min(limit, query.max_limit)


class RunningQuery:
    """First the positions of the answer, within one read transaction; then the events, slice by slice.

    A reader that takes its time holds no transaction open, only the list of positions: what is deleted or expires
    meanwhile is not sent.

    Args:
        view: What is searched; its transaction is ended here.
        begin: Begins a read transaction of a later moment.
        unseen: From a read transaction, sets of serials that the reader may not see any more.
        finished: Called once, when the query is over for whatever reason.
    """

    __slots__ = (
        "_begin",
        "_finished",
        "_found",
        "_loop",
        "_monotonic",
        "_over",
        "_packed",
        "_paused",
        "_query",
        "_search",
        "_sent",
        "_serials",
        "_sink",
        "_started_s",
        "_tables",
        "_through_serial",
        "_txn",
        "_unseen",
        "_unseen_now",
    )

    def __init__(
        self,
        tables: Environment,
        query: Query,
        sink: QuerySink,
        *,
        view: View,
        begin: Callable[[], Any],
        loop: asyncio.AbstractEventLoop,
        monotonic: Callable[[], float],
        unseen: Callable[[Any], tuple[set[bytes], ...]],
        finished: Callable[["RunningQuery"], None],
    ) -> None:
        self._tables = tables
        self._query = query
        self._sink = sink
        self._txn: Any = view.txn
        self._through_serial = view.through_serial
        self._begin = begin
        self._loop = loop
        self._monotonic = monotonic
        self._unseen = unseen
        self._unseen_now: tuple[set[bytes], ...] = ()
        self._finished = finished
        self._started_s = monotonic()
        reader = view.reader(query.scope)
        first = query.filters[0] if len(query.filters) == 1 else None
        self._search: Iterator[list[bytes]] = (
            self._chunks(reader) if first is None else reader.chunks(first, filter_limit(first.limit, query))
        )
        self._found: list[bytes] = []
        self._serials: list[bytes] = []
        self._packed = b""
        self._sent = 0
        self._paused = False
        self._over = False

    def _chunks(self, reader: Reader) -> Iterator[list[bytes]]:
        for wanted in self._query.filters:
            yield from reader.chunks(wanted, filter_limit(wanted.limit, self._query))

    def run(self) -> None:
        """Search on; called once by the store, then by the loop."""
        if self._over:
            return
        try:
            until_s = self._monotonic() + SLICE_S
            for chunk in self._search:
                self._found.extend(chunk)
                now_s = self._monotonic()
                if now_s < until_s:
                    continue
                timeout_s = self._query.timeout_s
                if timeout_s is not None and now_s - self._started_s > timeout_s:
                    self._fail(QueryTimeoutError(f"the query took longer than {timeout_s:g} s"))
                else:
                    self._loop.call_soon(self.run)
                return
        except READ_ERRORS as error:
            self._fail(translate_error(error, self._tables.directory))
            return
        except BaseException:
            self._end()
            raise
        if len(self._query.filters) > 1:
            self._found = sorted(set(self._found), reverse=True)
        self._serials = [row[SERIAL_SLICE] for row in self._found]
        self._found = []
        self._send()

    def resume(self) -> None:
        """Send on after the sink held back."""
        if self._paused and not self._over:
            self._paused = False
            packed, self._packed = self._packed, b""
            self._serials = [packed[start : start + 8] for start in range(0, len(packed), 8)]
            self._send()

    def cancel(self) -> None:
        """Drop what is left."""
        self._end()

    def _send(self) -> None:
        if self._over or self._paused:
            return
        try:
            until_s = self._monotonic() + SLICE_S
            while self._sent < len(self._serials):
                rows = self._next_rows()
                if rows and not self._sink.rows(rows):
                    self._paused = True
                if self._is_over():
                    return
                if self._paused or self._monotonic() > until_s:
                    self._release()
                    if self._paused:
                        self._pack()
                    else:
                        self._loop.call_soon(self._send)
                    return
        except StoreError as error:
            self._fail(error)
            return
        except READ_ERRORS as error:
            self._fail(translate_error(error, self._tables.directory))
            return
        except BaseException:
            self._end()
            raise
        self._end()
        self._sink.done(self._through_serial)

    def _pack(self) -> None:
        """Keep 8 bytes an event while the reader lets us wait, for there may be many such readers."""
        self._packed = b"".join(self._serials[self._sent :])
        self._serials = []
        self._sent = 0

    def _next_rows(self) -> list[bytes]:
        if self._txn is None:
            self._txn = self._begin()
            self._unseen_now = self._unseen(self._txn)
        unseen = [serials for serials in self._unseen_now if serials]
        get, events = self._txn.get, self._tables.events
        rows: list[bytes] = []
        size = 0
        index = self._sent
        serials = self._serials
        while index < len(serials) and size < ROWS_BYTES:
            serial = serials[index]
            index += 1
            raw = get(serial, None, events)
            if raw is not None and not (unseen and any(serial in serials for serials in unseen)):
                rows.append(raw)
                size += len(raw)
        self._sent = index
        return rows

    def _is_over(self) -> bool:
        """Whether the sink cancelled the query while it was called."""
        return self._over

    def _release(self) -> None:
        if self._txn is not None:
            self._txn.abort()
            self._txn = None

    def _fail(self, error: StoreError) -> None:
        self._end()
        self._sink.failed(error)

    def _end(self) -> None:
        if not self._over:
            self._over = True
            self._search = iter(())
            self._found = []
            self._serials = []
            self._packed = b""
            self._release()
            self._finished(self)
