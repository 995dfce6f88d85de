"""The client side of WatchEvents: a feed that goes on where it was when its call breaks."""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Final

import grpc

from orly.nostr.event import EncodedEvent, EventError, decode_verified
from orly.pb.orlydb.v1 import streams_pb2
from orly.store.base import FeedBatch, StoredEvent, StoreError
from orly.store.remote_connection import EndedError, Gate, LastingCall, StoreConnection

__all__ = ["UNREAD_BYTES", "RemoteFeed"]

UNREAD_BYTES: Final = 8 * 1024 * 1024
"""What a slow consumer may leave unread; then nothing more is taken from the service, which holds it back."""

_OVERHEAD_BYTES: Final = 200
_ID_BYTES: Final = 32

log = logging.getLogger(__name__)

EventOf = Callable[[int, bytes], EncodedEvent | None]
"""(serial, canonical JSON) -> the event, if it was decoded before; the serial of an ephemeral one is 0."""


class RemoteFeed(AsyncIterator[FeedBatch]):
    """One consumer's view.

    The position of a feed "from now on" is the service's when it takes the call. What this process saves or deletes
    after it has asked for the feed is held back until then, so that for this process it is as if the position had
    been taken at once. What others store in between may or may not be told.

    Args:
        connection: The service.
        after_serial: See `EventStore.feed`.
        gate: Kept closed until the position is known.
        event_of: Spares decoding.
        told: Hears of every batch as it comes in.
        interrupted: Called when the call breaks: removals may go unheard from now on.
        left: Called when the feed is over.
    """

    def __init__(
        self,
        connection: StoreConnection,
        after_serial: int | None,
        *,
        gate: Gate,
        event_of: EventOf,
        told: Callable[[FeedBatch], None],
        interrupted: Callable[["RemoteFeed"], None],
        left: Callable[["RemoteFeed"], None],
    ) -> None:
        self._connection = connection
        self._gate = gate
        self._event_of = event_of
        self._told = told
        self._interrupted = interrupted
        self._left = left
        self._loop = asyncio.get_running_loop()
        self.through_serial: int | None = after_serial
        """Everything up to here has come in; None until the service has said where the feed begins."""
        self.is_connected = False
        self._has_begun = False
        self._told_serial = 0
        self._unread: deque[tuple[FeedBatch, int]] = deque()
        self._unread_bytes = 0
        self._arrived = asyncio.Event()
        self._read = asyncio.Event()
        self._error: StoreError | None = None
        self._has_ended = False
        self._call = LastingCall(connection, "WatchEvents", self._open, self._converse)
        gate.close_for(self)
        self._call.start()

    async def __anext__(self) -> FeedBatch:
        while not self._unread:
            if self._error is not None:
                raise self._error
            if self._has_ended:
                raise StopAsyncIteration
            self._arrived.clear()
            await self._arrived.wait()
        batch, n_bytes = self._unread.popleft()
        self._unread_bytes -= n_bytes
        self._read.set()
        return batch

    async def reached(self, serial: int) -> None:
        """Wait until everything up to a serial has come in, or the consumer is too slow for that."""
        while not self._has_ended and (self.through_serial or 0) < serial and self._unread_bytes <= UNREAD_BYTES:
            self._arrived.clear()
            await self._arrived.wait()

    async def aclose(self) -> None:
        """Leave the feed."""
        self._unread.clear()
        await self.end()

    async def end(self) -> None:
        """Take nothing more from the service; the consumer still gets what is here."""
        if not self._has_ended:
            self._has_ended = True
            self._gate.open_for(self)
            self._arrived.set()
            self._read.set()
            self._left(self)
        await self._call.close()

    def _open(self) -> Any:
        request = streams_pb2.WatchRequest(after_serial=self.through_serial)
        return self._connection.stub.WatchEvents(request, wait_for_ready=True)

    async def _converse(self, call: Any) -> None:
        try:
            first = True
            while (message := await call.read()) is not grpc.aio.EOF:
                self._call.heard()
                if first:
                    first = False
                    self._begin(message)
                else:
                    self._take(message)
                while self._unread_bytes > UNREAD_BYTES and not self._has_ended:
                    self._read.clear()
                    await self._read.wait()
        finally:
            self.is_connected = False
            self._interrupted(self)

    def _begin(self, message: streams_pb2.WatchBatch) -> None:
        """The first message says where the feed begins: where we were, unless the service has less than that."""
        if self.through_serial is not None and message.through_serial < self._told_serial:
            log.warning("the store ends at serial %d, and had come to %d", message.through_serial, self._told_serial)
        self.through_serial = message.through_serial
        self.is_connected = True
        self._gate.open_for(self)
        if self._has_begun:  # on an earlier call
            self._queue(FeedBatch(through_serial=message.through_serial, may_lack_removals=True), _OVERHEAD_BYTES)
        self._has_begun = True

    def _take(self, message: streams_pb2.WatchBatch) -> None:
        through_serial = self.through_serial or 0
        if len(message.serials) != len(message.events) or message.through_serial < through_serial:
            raise EndedError("its feed makes no sense")
        try:
            batch = FeedBatch(
                through_serial=message.through_serial,
                stored=tuple(self._stored(message, through_serial)),
                ephemeral=tuple(self._decode(0, raw) for raw in message.ephemeral),
                removed=tuple(_ids(message.removed)),
                hidden=tuple(_ids(message.hidden)),
                may_lack_removals=message.may_lack_removals,
            )
        except EventError as error:
            self._error = StoreError(f"the store told of something that is no event: {error}")
            self._arrived.set()
            raise EndedError(str(self._error)) from None
        self.through_serial = self._told_serial = batch.through_serial
        self._told(batch)
        self._queue(batch, _OVERHEAD_BYTES + message.ByteSize())

    def _queue(self, batch: FeedBatch, n_bytes: int) -> None:
        self._unread.append((batch, n_bytes))
        self._unread_bytes += n_bytes
        self._arrived.set()

    def _stored(self, message: streams_pb2.WatchBatch, through_serial: int) -> Iterator[StoredEvent]:
        for serial, raw in zip(message.serials, message.events, strict=True):
            if serial > through_serial:
                through_serial = serial
                yield StoredEvent(serial, self._decode(serial, raw))

    def _decode(self, serial: int, raw: bytes) -> EncodedEvent:
        return self._event_of(serial, raw) or decode_verified(raw)


def _ids(packed: bytes) -> Iterator[bytes]:
    for start in range(0, len(packed), _ID_BYTES):
        yield packed[start : start + _ID_BYTES]
