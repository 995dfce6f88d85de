"""The calls that read: whole answers to tools, within one message."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

import grpc

from orly import clock
from orly.db.pace import Pace
from orly.nostr.event import decode_stored
from orly.nostr.reason import Prefix, Refusal
from orly.pb.orlydb.v1 import service_pb2, types_pb2
from orly.rpc.events import filter_from_pb, to_pb
from orly.rpc.options import MAX_MESSAGE_BYTES
from orly.rpc.status import RefusedError
from orly.store.base import EventStore, Query, StoreError

__all__ = ["MAX_COUNT", "MAX_WHOLE_ANSWERS", "Reading"]

MAX_COUNT: Final = 2**31 - 1

MAX_WHOLE_ANSWERS: Final = 4
"""Whole answers made at once, for each may take as much memory as a message may; further ones wait."""

_FIELD_BYTES: Final = 6
"""What stands before an event in a message: its field's number and its length."""

_Context = grpc.aio.ServicerContext[Any, Any]


class AnswerTooLargeError(RefusedError):
    """The answer does not fit into one message."""

    def __init__(self) -> None:
        super().__init__(
            Refusal(
                Prefix.ERROR,
                f"the answer is larger than {MAX_MESSAGE_BYTES} bytes: ask for it in pages, by `until` and `limit`",
            ),
            grpc.StatusCode.RESOURCE_EXHAUSTED,
        )


class Reading:
    """The calls QueryEvents, QueryAllVersions, CountEvents and GetSerials.

    An answer is complete or refused: a filter without a limit asks for everything, and is told to page if that does
    not fit into a message. The time a call may take is its caller's deadline.

    Args:
        store: What is read.
        max_bytes: The longest answer.
        monotonic_s: A steady clock.
    """

    def __init__(
        self,
        store: EventStore,
        *,
        max_bytes: int = MAX_MESSAGE_BYTES,
        monotonic_s: Callable[[], float] = clock.monotonic_s,
    ) -> None:
        self._store = store
        self._max_bytes = max_bytes
        self._monotonic_s = monotonic_s
        self._turn = asyncio.Semaphore(MAX_WHOLE_ANSWERS)

    async def events(
        self, request: service_pb2.QueryEventsRequest, context: _Context
    ) -> service_pb2.QueryEventsResponse:
        """All matching events, newest first."""
        query = _query(request.filter, context)
        async with self._turn:
            answer = _Answer(self._max_bytes, asyncio.get_running_loop().create_future())
            handle = self._store.query(query, answer)
            try:
                await answer.end
            finally:
                handle.cancel()
            return answer.response()

    async def versions(
        self, request: service_pb2.QueryEventsRequest, context: _Context
    ) -> service_pb2.QueryEventsResponse:
        """The same with the superseded versions that were kept."""
        query = _query(request.filter, context)
        async with self._turn:
            answer = _Answer(self._max_bytes, asyncio.get_running_loop().create_future())
            pace = Pace(self._monotonic_s)
            for raw in await self._store.versions(query):
                answer.add(raw)
                await pace.rest()
            return answer.response()

    async def count(
        self, request: service_pb2.QueryEventsRequest, context: _Context
    ) -> service_pb2.CountEventsResponse:
        """How many match; what exceeds the field is told as its largest value."""
        count = await self._store.count(_query(request.filter, context))
        return service_pb2.CountEventsResponse(count=min(count, MAX_COUNT))

    async def serials(
        self, request: service_pb2.GetSerialsRequest, context: _Context
    ) -> service_pb2.GetSerialsResponse:
        """The serials of all matching events, newest event first."""
        response = service_pb2.GetSerialsResponse(serials=await self._store.serials(_query(request.filter, context)))
        if response.ByteSize() > self._max_bytes:
            raise AnswerTooLargeError
        return response


def _query(message: types_pb2.Filter, context: _Context) -> Query:
    return Query(filters=(filter_from_pb(message),), timeout_s=context.time_remaining())


class _Answer:
    """A `QuerySink` that gathers events until they no longer fit.

    Attributes:
        end: Done when the query is over; raises why it failed.
    """

    def __init__(self, max_bytes: int, end: asyncio.Future[None]) -> None:
        self.end = end
        self._left_bytes = max_bytes
        self._events: list[types_pb2.Event] = []

    def add(self, raw: bytes) -> None:
        """Take one event.

        Raises:
            AnswerTooLargeError: It does not fit any more.
        """
        message = to_pb(decode_stored(raw))
        self._left_bytes -= message.ByteSize() + _FIELD_BYTES
        if self._left_bytes < 0:
            raise AnswerTooLargeError
        self._events.append(message)

    def response(self) -> service_pb2.QueryEventsResponse:
        """The answer."""
        return service_pb2.QueryEventsResponse(events=self._events)

    def rows(self, events: Sequence[bytes]) -> bool:
        try:
            for raw in events:
                self.add(raw)
        except AnswerTooLargeError as error:
            self._finish(error)
            return False
        return True

    def done(self, through_serial: int) -> None:
        del through_serial
        self._finish(None)

    def failed(self, error: StoreError) -> None:
        self._finish(error)

    def _finish(self, error: Exception | None) -> None:
        if self.end.done():
            return
        if error is None:
            self.end.set_result(None)
        else:
            self.end.set_exception(error)
