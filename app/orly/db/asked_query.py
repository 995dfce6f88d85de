"""One query of a stream: from the caller's question to the end of the answer, within the bytes the caller allows."""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Protocol

from orly.db.answer_writer import AnswerWriter
from orly.pb.orlydb.v1 import streams_pb2
from orly.rpc.convert import MAX_EVENT_BYTES, error_to_pb
from orly.store.base import EventStore, Query, QueryHandle, StoreError

__all__ = ["WINDOW_BYTES", "AskedQuery", "Asker", "EventsQuery", "ListQuery"]

WINDOW_BYTES: Final = 256 * 1024
"""What may be sent of an answer at first, for a caller that does not say."""

PIECE_BYTES: Final = 64 * 1024
"""Of a list of events, items or serials that is sent in pieces."""

_SERIAL_BYTES: Final = 8
_Start = streams_pb2.QueryStart

log = logging.getLogger(__name__)


class Asker(Protocol):
    """The stream that a query belongs to."""

    def wait_for_room(self, query: "AskedQuery") -> None:
        """The backlog is full: call `go_on` once it has room."""

    def held(self, query: "AskedQuery") -> None:
        """The query waits for its reader, and works on nothing meanwhile."""

    def resumed(self, query: "AskedQuery") -> None:
        """It works again."""

    def over(self, query: "AskedQuery") -> None:
        """The query has ended."""


class AskedQuery(ABC):
    """What every kind of query has: a window, and an end.

    Attributes:
        id: The caller's name for it.
    """

    __slots__ = ("_asker", "_is_held", "_is_over", "_message", "_part", "_room_bytes", "_writer", "id")

    def __init__(self, query_id: int, window_bytes: int, writer: AnswerWriter, asker: Asker) -> None:
        self.id = query_id
        self._writer = writer
        self._asker = asker
        self._room_bytes = window_bytes or WINDOW_BYTES
        self._is_held = False
        self._is_over = False
        self._message: streams_pb2.QueryAnswers | None = None
        self._part: streams_pb2.AnswerPart | None = None

    @abstractmethod
    def start(self, store: EventStore) -> None:
        """Ask the store."""

    @abstractmethod
    def go_on(self) -> None:
        """Send more, after the window or the backlog was full."""

    @abstractmethod
    def _release(self) -> None:
        """Let go of the store."""

    def more(self, n_bytes: int) -> None:
        """So many more bytes may be sent."""
        self._room_bytes += n_bytes
        if self._is_held and self._room_bytes > 0:
            self._is_held = False
            self._asker.resumed(self)
            if self._writer.is_full():
                self._asker.wait_for_room(self)
            else:
                self.go_on()

    def cancel(self) -> None:
        """Send nothing more."""
        if not self._is_over:
            self._is_over = True
            self._release()
            self._asker.over(self)

    def failed(self, error: StoreError) -> None:
        """End the answer with an error."""
        if not self._is_over:
            self._last_part().error.CopyFrom(error_to_pb(error))
            self.cancel()

    def done(self, through_serial: int) -> None:
        """All was given."""
        if not self._is_over:
            self._last_part().through_serial = through_serial
            self.cancel()

    def _next_part(self, size: int) -> streams_pb2.AnswerPart:
        self._part = self._writer.add(self.id, size)
        self._message = self._writer.open_message
        self._room_bytes -= size
        return self._part

    def _last_part(self) -> streams_pb2.AnswerPart:
        """Where the end of the answer goes: into its newest part, if that was not sent yet."""
        if self._part is not None and self._message is self._writer.open_message:
            return self._part
        return self._writer.add(self.id, 0)

    def _may_go_on(self) -> bool:
        """Whether there is room for more; if not, `go_on` is called later."""
        if self._room_bytes <= 0:
            self._is_held = True
            self._part = self._message = None  # a message that was sent is not kept for a slow reader
            self._asker.held(self)
            return False
        if self._writer.is_full():
            self._asker.wait_for_room(self)
            return False
        return True


class EventsQuery(AskedQuery):
    """Passes on what the store pushes; see `QuerySink`."""

    __slots__ = ("_handle", "_query")

    def __init__(self, query_id: int, query: Query, window_bytes: int, writer: AnswerWriter, asker: Asker) -> None:
        super().__init__(query_id, window_bytes, writer, asker)
        self._query = query
        self._handle: QueryHandle | None = None

    def start(self, store: EventStore) -> None:
        try:
            handle = store.query(self._query, self)
        except StoreError as error:
            self.failed(error)
            return
        if self._is_over:
            handle.cancel()
        else:
            self._handle = handle

    def go_on(self) -> None:
        if self._handle is not None:
            self._handle.resume()

    def rows(self, events: Sequence[bytes]) -> bool:
        """The next events of the answer."""
        size = sum(map(len, events))
        if size > MAX_EVENT_BYTES and max(map(len, events)) > MAX_EVENT_BYTES:
            self.failed(StoreError("an event of the answer is too large for the connection to the store"))
            return False
        self._next_part(size).events.extend(events)
        return self._may_go_on()

    def _release(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None


class ListQuery(AskedQuery):
    """Asks for a whole list or a number, and sends it in pieces.

    Args:
        query: What is asked, as far as all kinds have it.
        start: Its kind, any but EVENTS, and what only that kind has.
    """

    __slots__ = ("_after_s", "_kind", "_max_items", "_pieces", "_query", "_task", "_through_serial")

    def __init__(self, query_id: int, query: Query, start: _Start, writer: AnswerWriter, asker: Asker) -> None:
        super().__init__(query_id, start.window_bytes, writer, asker)
        self._query = query
        self._kind = start.kind
        self._max_items = start.max_items if start.HasField("max_items") else None
        self._after_s = start.after_s
        self._pieces: Iterator[_Piece] = iter(())
        self._through_serial = 0
        self._task: asyncio.Task[Iterator[_Piece] | int] | None = None

    def start(self, store: EventStore) -> None:
        self._task = asyncio.get_running_loop().create_task(self._ask(store))
        self._task.add_done_callback(self._asked)

    def _asked(self, task: asyncio.Task["Iterator[_Piece] | int"]) -> None:
        self._task = None
        if task.cancelled() or self._is_over:
            return
        match task.exception():
            case None:
                answer = task.result()
                if isinstance(answer, int):
                    self._last_part().count = answer
                    self.cancel()
                else:
                    self._pieces = answer
                    self.go_on()
            case StoreError() as error:
                self.failed(error)
            case error:
                log.error("a query was lost on its way through the store", exc_info=error)
                self.failed(StoreError("internal error"))

    async def _ask(self, store: EventStore) -> "Iterator[_Piece] | int":
        if self._kind == _Start.COUNT:
            return await store.count(self._query)
        if self._kind == _Start.VERSIONS:
            return _event_pieces(await store.versions(self._query))
        if self._kind == _Start.ITEMS:
            items = await store.items(self._query, max_items=self._max_items)
            self._through_serial = items.through_serial
            return _item_pieces(items.rows)
        if self._kind == _Start.EXPIRATIONS:
            return _item_pieces(await store.expirations(self._after_s))
        return _serial_pieces(await store.serials(self._query))

    def go_on(self) -> None:
        if self._is_over or self._task is not None:
            return
        for size, fill in self._pieces:
            fill(self._next_part(size))
            if not self._may_go_on():
                return
        self.done(self._through_serial)

    def _release(self) -> None:
        self._pieces = iter(())
        if self._task is not None:
            self._task.cancel()
            self._task = None


_Piece = tuple[int, Callable[[streams_pb2.AnswerPart], None]]
"""The size of a piece, and what puts it into a part."""


def _event_pieces(events: Sequence[bytes]) -> Iterator[_Piece]:
    start = size = 0
    for index, raw in enumerate(events):
        if size and size + len(raw) > PIECE_BYTES:
            yield _events_piece(events[start:index], size)
            start, size = index, 0
        size += len(raw)
    if start < len(events):
        yield _events_piece(events[start:], size)


def _events_piece(events: Sequence[bytes], size: int) -> _Piece:
    return size, lambda part: part.events.extend(events)


def _item_pieces(items: bytes) -> Iterator[_Piece]:
    for start in range(0, len(items), PIECE_BYTES):
        yield _items_piece(items[start : start + PIECE_BYTES])


def _items_piece(items: bytes) -> _Piece:
    return len(items), lambda part: setattr(part, "items", items)


def _serial_pieces(serials: Sequence[int]) -> Iterator[_Piece]:
    step = PIECE_BYTES // _SERIAL_BYTES
    for start in range(0, len(serials), step):
        yield _serials_piece(serials[start : start + step])


def _serials_piece(serials: Sequence[int]) -> _Piece:
    return len(serials) * _SERIAL_BYTES, lambda part: part.serials.extend(serials)
