"""The client side of StreamQueries: all queries of a process on one stream."""

import asyncio
from collections import deque
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

__all__ = ["AMPLE_BUFFER_BYTES", "MAX_OPEN", "RemoteQueries"]

AMPLE_BUFFER_BYTES: Final = 32 * 1024 * 1024
"""From so much on that waits for readers, no more is asked of an answer than the next piece."""

MAX_OPEN: Final = 50_000
"""Queries that are not over; a further one fails at once."""

MAX_START_BYTES: Final = 32 * 1024 * 1024
"""Of one query; a larger one does not fit into a message."""

MESSAGE_BYTES: Final = 1024 * 1024
"""Queries joined in one message, unless a single one is larger."""

PACE_S: Final = 0.001
"""How long a message waits for an answer to the one before it."""

_ACTION_BYTES: Final = 24


class RemoteQueries:
    """Sends all that is asked in one turn of the loop in one message; see `QueryStream` of a query."""

    def __init__(self, connection: StoreConnection) -> None:
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._call = LastingCall(
            connection, "StreamQueries", lambda: connection.stub.StreamQueries(wait_for_ready=True), self._converse
        )
        self._open: dict[int, RemoteQuery] = {}
        self._last_id = 0
        self._outbox = _Outbox()
        self._buffered_bytes = 0
        self._heard_s = 0.0
        self._heard = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._is_closed = False

    def query(self, query: Query, sink: QuerySink) -> QueryHandle:
        """See `EventStore.query`."""
        pushed = PushedAnswer(self._next_id(), query, self._loop.time(), self, sink)
        self._add(pushed)
        return pushed

    async def gather(
        self, query: Query, kind: "streams_pb2.QueryStart.Kind", *, max_items: int | None = None
    ) -> Gathered:
        """The whole answer to another kind of query.

        Raises:
            StoreError: The store failed, or did not answer.
        """
        asked = GatheredAnswer(self._next_id(), query, self._loop.time(), self, kind=kind, max_items=max_items)
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
        query.ask(self._outbox.action(query.id, query.n_bytes).start)

    # What queries say (QueryStream)

    def more(self, query: RemoteQuery, n_bytes: int) -> None:
        if self._call.is_made:
            self._outbox.action(query.id).more_bytes = n_bytes

    def has_room(self) -> bool:
        return self._buffered_bytes < AMPLE_BUFFER_BYTES

    def buffered(self, n_bytes: int) -> None:
        self._buffered_bytes += n_bytes

    def cancelled(self, query: RemoteQuery) -> None:
        if self._open.pop(query.id, None) is not None and self._call.is_made and not query.is_complete:
            self._outbox.action(query.id).cancel.SetInParent()

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
                self._heard.set()
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
        """Send what was asked; while answers come, one message for each, and what was asked meanwhile is the next.

        A message costs as much as several queries. Behind queries that take their time the next one leaves after
        `PACE_S` all the same.
        """
        while True:
            message = await self._outbox.next()
            self._heard.clear()
            await call.write(message)
            if not self._heard.is_set():
                timer = self._loop.call_later(PACE_S, self._heard.set)
                await self._heard.wait()
                timer.cancel()

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


class _Outbox:
    """What is to be sent: actions are written straight into the next message."""

    def __init__(self) -> None:
        self._message = streams_pb2.QueryRequests()
        self._n_bytes = 0
        self._closed: deque[streams_pb2.QueryRequests] = deque()
        self._filled = asyncio.Event()

    def action(self, query_id: int, n_bytes: int = 0) -> streams_pb2.QueryAction:
        """One more action, to be filled in before the loop's next turn."""
        if self._n_bytes and self._n_bytes + n_bytes > MESSAGE_BYTES:
            self._closed.append(self._message)
            self._message = streams_pb2.QueryRequests()
            self._n_bytes = 0
        self._n_bytes += n_bytes + _ACTION_BYTES
        self._filled.set()
        return self._message.actions.add(query_id=query_id)

    def ping(self) -> None:
        """Ask the service to show that it is alive."""
        self._message.ping = True
        self._filled.set()

    def clear(self) -> None:
        """Forget everything."""
        self._closed.clear()
        self._message = streams_pb2.QueryRequests()
        self._n_bytes = 0
        self._filled.clear()

    async def next(self) -> streams_pb2.QueryRequests:
        """The next message, once there is one."""
        await self._filled.wait()
        if self._closed:
            return self._closed.popleft()
        message = self._message
        self.clear()
        return message
