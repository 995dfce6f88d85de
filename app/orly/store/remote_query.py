"""One query to a remote store: the parts of its answer on their way to whoever asked."""

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from typing import Final, Protocol

from orly.pb.orlydb.v1 import streams_pb2
from orly.rpc.convert import error_from_pb, filter_to_json, query_to_pb
from orly.store.base import Query, QuerySink, StoreError

__all__ = [
    "FIRST_WINDOW_BYTES",
    "WINDOW_BYTES",
    "Gathered",
    "GatheredAnswer",
    "PushedAnswer",
    "QueryStream",
    "RemoteQuery",
]

FIRST_WINDOW_BYTES: Final = 64 * 1024
"""What the service sends of an answer before its reader has shown that it takes it."""

WINDOW_BYTES: Final = 512 * 1024
"""What may be under way of an answer, and so what a reader that holds back later makes us keep."""

_SERIAL_BYTES: Final = 8


class QueryStream(Protocol):
    """Where a query's messages go."""

    def more(self, query: "RemoteQuery", n_bytes: int) -> None:
        """Let the service send so much more of the answer."""

    def has_room(self) -> bool:
        """Whether there is memory for answers that wait for their readers."""

    def buffered(self, n_bytes: int) -> None:
        """Count bytes that wait for their reader; negative when they wait no longer."""

    def cancelled(self, query: "RemoteQuery") -> None:
        """Nobody wants the answer any more."""

    def over(self, query: "RemoteQuery") -> None:
        """The answer was given, or failed."""


class RemoteQuery(ABC):
    """What every kind of query has.

    Attributes:
        id: Its name on the stream.
        n_bytes: What it takes to ask it, about.
        since_s: Since when it waits for the service, in loop time.
        is_complete: Whether all of the answer is here.
    """

    __slots__ = (
        "_filters",
        "_is_over",
        "_query",
        "_stream",
        "_taken_bytes",
        "_window_bytes",
        "id",
        "is_complete",
        "n_bytes",
        "since_s",
    )

    first_window_bytes = WINDOW_BYTES

    def __init__(self, query_id: int, query: Query, since_s: float, stream: QueryStream) -> None:
        self.id = query_id
        self.since_s = since_s
        self._query = query
        self._filters = list(map(filter_to_json, query.filters))
        self.n_bytes = sum(map(len, self._filters))
        self.is_complete = False
        self._stream = stream
        self._is_over = False
        self._taken_bytes = 0
        self._window_bytes = self.first_window_bytes

    def ask(self, start: streams_pb2.QueryStart) -> None:
        """Write down what is asked."""
        query_to_pb(start, self._query, self._filters)
        start.window_bytes = self._window_bytes

    @property
    def is_waiting(self) -> bool:
        """Whether it waits for the service, not for its own reader."""
        return not self.is_complete

    @abstractmethod
    def part(self, part: streams_pb2.AnswerPart) -> None:
        """The next part of the answer."""

    @abstractmethod
    def fail(self, error: StoreError) -> None:
        """There will be no answer, or no more of it."""

    def begin_again(self) -> bool:
        """Forget what came, for it will be asked again; False if somebody has seen some of it."""
        self._taken_bytes = 0
        self._window_bytes = self.first_window_bytes
        return True

    @abstractmethod
    def drop(self) -> None:
        """The store is closed."""

    def _ask_for_more(self) -> None:
        """Let the service send what was taken again; told in portions, while half a window is still under way."""
        if self.is_complete:
            return
        if self._window_bytes < WINDOW_BYTES:
            if self._stream.has_room():
                self._taken_bytes += WINDOW_BYTES - self._window_bytes
                self._window_bytes = WINDOW_BYTES
        elif self._taken_bytes < WINDOW_BYTES // 2:
            return
        self._stream.more(self, self._taken_bytes)
        self._taken_bytes = 0


class PushedAnswer(RemoteQuery):
    """Hands events to a `QuerySink`; see `QueryHandle`."""

    __slots__ = ("_buffer", "_end", "_has_begun", "_is_held", "_sink")

    first_window_bytes = FIRST_WINDOW_BYTES

    def __init__(self, query_id: int, query: Query, since_s: float, stream: QueryStream, sink: QuerySink) -> None:
        super().__init__(query_id, query, since_s, stream)
        self._sink = sink
        self._buffer: deque[tuple[list[bytes], int]] = deque()
        self._end: streams_pb2.AnswerPart | None = None
        self._has_begun = False
        self._is_held = False

    @property
    def is_waiting(self) -> bool:
        return not self._is_held and not self.is_complete

    def part(self, part: streams_pb2.AnswerPart) -> None:
        if part.WhichOneof("end") is not None:
            self.is_complete = True
            self._end = part
        events = list(part.events)
        if events:
            n_bytes = sum(map(len, events))
            if self._is_held:
                self._buffer.append((events, n_bytes))
                self._stream.buffered(n_bytes)
            else:
                self._push(events, n_bytes)
        if self.is_complete and not self._is_held:
            self._finish()

    def resume(self) -> None:
        """Go on after `rows` answered False."""
        if self._is_over or not self._is_held:
            return
        self._is_held = False
        self.since_s = asyncio.get_running_loop().time()
        while self._buffer and not self._is_held:
            events, n_bytes = self._buffer.popleft()
            self._stream.buffered(-n_bytes)
            self._push(events, n_bytes)
        if not self._is_held:
            if self.is_complete:
                self._finish()
            elif self._taken_bytes:
                self._ask_for_more()

    def cancel(self) -> None:
        """Stop; the sink hears nothing more."""
        if not self._is_over:
            self.drop()
            self._stream.cancelled(self)

    def fail(self, error: StoreError) -> None:
        if not self._is_over:
            self.drop()
            self._stream.over(self)
            self._sink.failed(error)

    def begin_again(self) -> bool:
        return super().begin_again() and not self._has_begun

    def drop(self) -> None:
        self._is_over = True
        self._stream.buffered(-sum(n_bytes for _, n_bytes in self._buffer))
        self._buffer.clear()

    def _push(self, events: list[bytes], n_bytes: int) -> None:
        self._has_begun = True
        try:
            goes_on = self._sink.rows(events)
        except BaseException:
            self.cancel()
            raise
        if not self._is_over:
            self._taken_bytes += n_bytes
            self._is_held = not goes_on
            if goes_on:
                self._ask_for_more()

    def _finish(self) -> None:
        if self._is_over:
            return
        assert self._end is not None
        if self._end.HasField("error"):
            self.fail(error_from_pb(self._end.error))
        else:
            self._is_over = True
            self._stream.over(self)
            self._sink.done(self._end.through_serial)


class Gathered:
    """An answer that is wanted whole; one of its parts is filled."""

    __slots__ = ("count", "events", "items", "serials", "through_serial")

    def __init__(self) -> None:
        self.count = 0
        self.through_serial = 0
        self.events: list[bytes] = []
        self.items = bytearray()
        self.serials: list[int] = []


class GatheredAnswer(RemoteQuery):
    """Gathers an answer.

    Attributes:
        answer: Gets the answer, or the error.
    """

    __slots__ = ("_after_s", "_gathered", "_kind", "_max_items", "answer")

    def __init__(
        self,
        query_id: int,
        query: Query,
        since_s: float,
        stream: QueryStream,
        *,
        kind: "streams_pb2.QueryStart.Kind",
        max_items: int | None,
        after_s: int | None,
    ) -> None:
        super().__init__(query_id, query, since_s, stream)
        self._kind = kind
        self._max_items = max_items
        self._after_s = after_s
        self._gathered = Gathered()
        self.answer: asyncio.Future[Gathered] = asyncio.get_running_loop().create_future()

    def ask(self, start: streams_pb2.QueryStart) -> None:
        super().ask(start)
        start.kind = self._kind
        if self._max_items is not None:
            start.max_items = self._max_items
        if self._after_s is not None:
            start.after_s = self._after_s

    def part(self, part: streams_pb2.AnswerPart) -> None:
        gathered = self._gathered
        gathered.events.extend(part.events)
        gathered.items += part.items
        gathered.serials.extend(part.serials)
        end = part.WhichOneof("end")
        if end is None:
            self._taken_bytes += sum(map(len, part.events)) + len(part.items) + len(part.serials) * _SERIAL_BYTES
            self._ask_for_more()
        elif end == "error":
            self.fail(error_from_pb(part.error))
        else:
            self.is_complete = True
            gathered.count = part.count
            gathered.through_serial = part.through_serial
            self._stream.over(self)
            if not self.answer.done():
                self.answer.set_result(gathered)

    def fail(self, error: StoreError) -> None:
        self.is_complete = True
        self._stream.over(self)
        if not self.answer.done():
            self.answer.set_exception(error)

    def begin_again(self) -> bool:
        self._gathered = Gathered()
        return super().begin_again()

    def drop(self) -> None:
        if not self.answer.done():
            self.answer.set_exception(StoreError("the store is closed"))
