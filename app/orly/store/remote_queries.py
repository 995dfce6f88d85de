"""The client side of StreamQueries: all queries of a process on one stream."""

import asyncio
from itertools import takewhile
from typing import Any, Final

import grpc

from orly.pb.orlydb.v1 import streams_pb2
from orly.store.base import Query, QueryHandle, QuerySink, StoreError
from orly.store.remote_connection import CLOSED, EndedError, LastingCall, StoreConnection
from orly.store.remote_query import (
    Gathered,
    GatheredAnswer,
    PushedAnswer,
    RemoteQuery,
)
from orly.store.remote_query_outbox import Outbox

__all__ = ["AMPLE_BUFFER_BYTES", "MAX_OPEN", "RemoteQueries"]

AMPLE_BUFFER_BYTES: Final = 32 * 1024 * 1024
"""From so much on that waits for readers, no more is asked of an answer than the next piece."""

MAX_OPEN: Final = 50_000
"""Queries that are not over; a further one fails at once."""

MAX_START_BYTES: Final = 32 * 1024 * 1024
"""Of one query; a larger one does not fit into a message."""


class RemoteQueries:
    """Sends what is asked at about the same time in one message; see `QueryStream` of a query."""

    def __init__(self, connection: StoreConnection) -> None:
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._call = LastingCall(
            connection, "StreamQueries", lambda: connection.stub.StreamQueries(wait_for_ready=True), self._converse
        )
        self._open: dict[int, RemoteQuery] = {}
        self._last_id = 0
        self._outbox = Outbox()
        self._buffered_bytes = 0
        self._heard_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._is_closed = False

    def query(self, query: Query, sink: QuerySink) -> QueryHandle:
        """See `EventStore.query`."""
        pushed = PushedAnswer(self._next_id(), query, self._loop.time(), self, sink)
        self._add(pushed)
        return pushed

    async def gather(
        self,
        query: Query,
        kind: "streams_pb2.QueryStart.Kind",
        *,
        max_items: int | None = None,
        after_s: int | None = None,
    ) -> Gathered:
        """The whole answer to another kind of query.

        Args:
            query: What is asked.
            kind: Not EVENTS.
            max_items: For ITEMS.
            after_s: For EXPIRATIONS.

        Raises:
            StoreError: The store failed, or did not answer.
        """
        asked = GatheredAnswer(
            self._next_id(), query, self._loop.time(), self, kind=kind, max_items=max_items, after_s=after_s
        )
        self._add(asked)
        try:
            return await asked.answer
        finally:
            if not asked.is_complete:
                self.cancelled(asked)

    async def close(self) -> None:
        """End the stream; readers that hold back hear nothing more, others that the store is closed."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        for query in tuple(self._open.values()):
            if query.is_waiting:
                query.fail(StoreError(CLOSED))
            else:
                query.drop()
        self._open.clear()
        await self._call.close()

    def _next_id(self) -> int:
        if self._is_closed:
            raise StoreError(CLOSED)
        if len(self._open) >= MAX_OPEN:
            raise StoreError("too many queries wait for the store")
        self._last_id += 1
        return self._last_id

    def _add(self, query: RemoteQuery) -> None:
        if query.n_bytes > MAX_START_BYTES:
            raise StoreError("the query is too large for the connection to the store")
        self._open[query.id] = query
        if self._call.is_made:
            self._ask(query)
        else:
            self._call.start()
        if self._timer is None:
            self._timer = self._loop.call_later(self._tick_s(), self._on_tick)

    def _ask(self, query: RemoteQuery) -> None:
        query.ask(self._outbox.query(query.id, query.n_bytes))

    # What queries say (QueryStream)

    def more(self, query: RemoteQuery, n_bytes: int) -> None:
        if self._call.is_made:
            self._outbox.urgent(query.id).more_bytes = n_bytes

    def has_room(self) -> bool:
        return self._buffered_bytes < AMPLE_BUFFER_BYTES

    def buffered(self, n_bytes: int) -> None:
        self._buffered_bytes += n_bytes

    def cancelled(self, query: RemoteQuery) -> None:
        if self._open.pop(query.id, None) is not None and self._call.is_made and not query.is_complete:
            self._outbox.urgent(query.id).cancel.SetInParent()

    def over(self, query: RemoteQuery) -> None:
        self._open.pop(query.id, None)

    # The conversation

    async def _converse(self, call: Any) -> None:
        self._outbox.clear()
        for query in self._open.values():
            if not query.is_complete:
                self._ask(query)
        writer = self._loop.create_task(self._write(call))
        try:
            while (answers := await call.read()) is not grpc.aio.EOF:
                self._heard_s = self._loop.time()
                self._call.heard()
                for part in answers.parts:
                    asked = self._open.get(part.query_id)
                    if asked is not None and not asked.is_complete:
                        asked.part(part)
                    elif part.query_id > self._last_id:
                        raise EndedError(f"it answered query {part.query_id}, which was not asked")
        finally:
            writer.cancel()
            await asyncio.wait((writer,))
            if not writer.cancelled():
                writer.exception()  # the call is broken, and reading has said why
            self._broken()

    def _broken(self) -> None:
        """What was answered in part has failed; the rest is asked again on the next call."""
        self._outbox.clear()
        for query in tuple(self._open.values()):
            if not query.is_complete and not query.begin_again():
                query.fail(StoreError("the connection to the store broke in the middle of the answer"))

    async def _write(self, call: Any) -> None:
        """Send what was asked; the next message waits for as many queries as this one and the last left open.

        Older ones take their time, and say nothing of how many will be asked soon.
        """
        before_last_id = last_id = 0
        while True:
            message = await self._outbox.next()
            self._outbox.gather(self._n_open_after(before_last_id))
            before_last_id, last_id = last_id, self._last_id
            await call.write(message)

    def _n_open_after(self, query_id: int) -> int:
        """How many newer queries are open; that takes as many steps."""
        return sum(1 for _ in takewhile(query_id.__lt__, reversed(self._open)))

    # Silence

    def _tick_s(self) -> float:
        return min(1.0, self._connection.timeout_s / 8)

    def _on_tick(self) -> None:
        """Fail what has waited too long in silence; while the service is heard, queries may take their time."""
        self._timer = None
        if not self._open:
            return
        self._timer = self._loop.call_later(self._tick_s(), self._on_tick)
        waiting = [query for query in self._open.values() if query.is_waiting]
        if not waiting:
            return
        now_s = self._loop.time()
        if self._call.is_made and now_s - self._heard_s >= self._tick_s():
            self._outbox.ping()
        mute_s = self._connection.timeout_s
        mute = [query for query in waiting if now_s - max(query.since_s, self._heard_s) >= mute_s]
        for query in mute:
            query.fail(self._connection.no_answer())
        if mute:
            self._call.give_up(str(self._connection.no_answer()))
