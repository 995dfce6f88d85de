"""StreamQueries: many queries on one stream, each with its own flow control, none in the way of another."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import grpc

from orly import clock
from orly.db.answer_writer import AnswerWriter
from orly.db.asked_query import AskedQuery, EventsQuery, ListQuery
from orly.db.saving import STOPPING
from orly.pb.orlydb.v1 import streams_pb2
from orly.rpc.convert import STREAM_OPEN, QueryStartError, error_to_pb, query_from_pb
from orly.store.base import EventStore, QueryTimeoutError, StoreError

__all__ = ["MAX_OPEN", "Querying"]

MAX_OPEN: Final = 100_000
"""Queries of one stream that are not over, those that wait for their turn or their reader among them."""

_SLICE_S: Final = 0.004
"""Loop time in which queries are started at a stretch."""

_KINDS: Final = frozenset(streams_pb2.QueryStart.Kind.values())

Context = grpc.aio.ServicerContext[Any, Any]


class Querying:
    """Serves StreamQueries.

    Args:
        store: Where the answers come from.
        max_concurrent: Queries of one stream that the store works on at once; more wait their turn. One whose reader
            has to catch up does not count.
        max_open: See `MAX_OPEN`.
    """

    def __init__(
        self,
        store: EventStore,
        max_concurrent: int,
        *,
        max_open: int = MAX_OPEN,
        monotonic_s: Callable[[], float] = clock.monotonic_s,
    ) -> None:
        self._store = store
        self._max_concurrent = max_concurrent
        self._max_open = max_open
        self._monotonic_s = monotonic_s
        self._streams: set[asyncio.Task[None]] = set()
        self._is_stopping = False

    def stop(self) -> None:
        """End every stream now; callers ask again elsewhere, or later."""
        self._is_stopping = True
        for reader in self._streams:
            reader.cancel()

    def _stops(self) -> bool:
        return self._is_stopping

    async def StreamQueries(self, request_iterator: AsyncIterator[streams_pb2.QueryRequests], context: Context) -> None:
        """Answer until the caller has closed its side and has all answers, or is gone."""
        if self._stops():
            await context.abort(grpc.StatusCode.UNAVAILABLE, STOPPING)
        await context.send_initial_metadata(STREAM_OPEN)
        stream = _Stream(
            self._store, self._max_concurrent, self._max_open, self._monotonic_s, lambda message: context.write(message)
        )
        loop = asyncio.get_running_loop()
        reader = loop.create_task(stream.read(request_iterator))
        writer = loop.create_task(stream.writer.run())
        self._streams.add(reader)
        try:
            await asyncio.wait((reader, writer), return_when=asyncio.FIRST_COMPLETED)
            if writer.done():
                writer.result()
            if not reader.cancelled():
                reader.result()
        except QueryStartError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"invalid: {error}")
        finally:
            self._streams.discard(reader)
            reader.cancel()
            writer.cancel()
            stream.cancel()
        if self._stops():
            await context.abort(grpc.StatusCode.UNAVAILABLE, STOPPING)


class _Stream:
    """The queries of one caller; see `Asker`."""

    def __init__(
        self,
        store: EventStore,
        max_concurrent: int,
        max_open: int,
        monotonic_s: Callable[[], float],
        write: Callable[[streams_pb2.QueryAnswers], Any],
    ) -> None:
        self.writer = AnswerWriter(write, self._drained)
        self._store = store
        self._max_concurrent = max_concurrent
        self._max_open = max_open
        self._monotonic_s = monotonic_s
        self._loop = asyncio.get_running_loop()
        self._open: dict[int, AskedQuery] = {}
        self._waiting: dict[int, tuple[streams_pb2.QueryStart, float]] = {}
        self._active: set[AskedQuery] = set()
        self._stalled: dict[AskedQuery, None] = {}
        self._start_scheduled = False
        self._emptied = asyncio.Event()

    async def read(self, requests: AsyncIterator[streams_pb2.QueryRequests]) -> None:
        """Do what the caller asks, until it has closed its side and has all answers."""
        async for request in requests:
            now_s = self._monotonic_s()
            for action in request.actions:
                self._act(action, now_s)
            if request.ping:
                self.writer.pong()
            self._start_waiting()
        while self._open or self._waiting:
            self._emptied.clear()
            await self._emptied.wait()
        await self.writer.flush()

    def cancel(self) -> None:
        """The caller is gone."""
        self._waiting.clear()
        for query in tuple(self._open.values()):
            query.cancel()

    def _act(self, action: streams_pb2.QueryAction, now_s: float) -> None:
        query_id = action.query_id
        match action.WhichOneof("action"):
            case "start":
                if query_id in self._open or query_id in self._waiting:
                    raise QueryStartError(f"query {query_id} is open already")
                if len(self._open) + len(self._waiting) >= self._max_open:
                    self._refuse(query_id, StoreError(f"{self._max_open} queries are open, the maximum"))
                else:
                    self._waiting[query_id] = action.start, now_s
            case "more_bytes":
                query = self._open.get(query_id)
                if query is not None:
                    query.more(action.more_bytes)
            case "cancel":
                if self._waiting.pop(query_id, None) is None and query_id in self._open:
                    self._open[query_id].cancel()
            case None:
                raise QueryStartError(f"query {query_id}: nothing that this service knows is asked")

    def _refuse(self, query_id: int, error: StoreError) -> None:
        self.writer.add(query_id, 0).error.CopyFrom(error_to_pb(error))

    # Starting

    def _start_waiting(self) -> None:
        """Start queries that wait, as many as may run and as long as the loop may be kept."""
        self._start_scheduled = False
        now_s = self._monotonic_s()
        until_s = now_s + _SLICE_S
        while self._waiting and len(self._active) < self._max_concurrent and not self.writer.is_full():
            query_id = next(iter(self._waiting))
            start, asked_s = self._waiting.pop(query_id)
            self._start(query_id, start, now_s - asked_s)
            now_s = self._monotonic_s()
            if now_s > until_s:
                self._schedule_start()
                return

    def _schedule_start(self) -> None:
        if self._waiting and not self._start_scheduled:
            self._start_scheduled = True
            self._loop.call_soon(self._start_waiting)

    def _start(self, query_id: int, start: streams_pb2.QueryStart, waited_s: float) -> None:
        try:
            if start.kind not in _KINDS:
                raise QueryStartError(f"kind {start.kind} is unknown")
            query = query_from_pb(start)
        except QueryStartError as error:
            self._refuse(query_id, StoreError(f"invalid query: {error}"))
            self._note_end()
            return
        timeout_s = query.timeout_s
        if timeout_s is not None and waited_s > timeout_s:
            self._refuse(query_id, QueryTimeoutError(f"the query waited longer than {timeout_s:g} s for its turn"))
            self._note_end()
            return
        asked: AskedQuery
        if start.kind == streams_pb2.QueryStart.EVENTS:
            asked = EventsQuery(query_id, query, start.window_bytes, self.writer, self)
        else:
            asked = ListQuery(query_id, query, start, self.writer, self)
        self._open[query_id] = asked
        self._active.add(asked)
        asked.start(self._store)

    # What queries say (Asker)

    def wait_for_room(self, query: AskedQuery) -> None:
        self._stalled[query] = None

    def held(self, query: AskedQuery) -> None:
        self._active.discard(query)
        self._schedule_start()

    def resumed(self, query: AskedQuery) -> None:
        self._active.add(query)

    def over(self, query: AskedQuery) -> None:
        del self._open[query.id]
        self._active.discard(query)
        self._stalled.pop(query, None)
        self._schedule_start()
        self._note_end()

    def _note_end(self) -> None:
        if not self._open and not self._waiting:
            self._emptied.set()

    def _drained(self) -> None:
        """Let queries go on that waited for the backlog, in their order."""
        while self._stalled and not self.writer.is_full():
            query = next(iter(self._stalled))
            del self._stalled[query]
            query.go_on()
        self._schedule_start()
