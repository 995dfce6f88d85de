"""What goes out on a WebSocket: many messages in one write, and how far the other side takes them."""

import asyncio
from collections.abc import Sequence
from typing import Final, cast

from orly.sync.peer_errors import PeerError
from orly.sync.peer_frames import Masker

__all__ = ["PeerOutbox"]

_SLICE_BYTES: Final = 256 * 1024
"""Of messages go into one write; the socket is full when as much as this waits in front of it."""


class PeerOutbox(asyncio.Protocol):
    """The outgoing half of a connection.

    Attributes:
        error: Why the connection is over; None while it is not.
        bytes_sent: Given to the socket, handshake included.
        messages_sent: Text messages.
    """

    __slots__ = (
        "_closing",
        "_loop",
        "_masker",
        "_progress_at_s",
        "_queue",
        "_queued_bytes",
        "_scheduled",
        "_transport",
        "_waiters",
        "_writable",
        "bytes_sent",
        "error",
        "messages_sent",
    )

    def __init__(self) -> None:
        self.error: PeerError | None = None
        self.bytes_sent = self.messages_sent = 0
        self._loop = asyncio.get_running_loop()
        self._masker = Masker()
        self._queue: list[bytes] = []
        self._queued_bytes = 0
        self._scheduled = False
        self._writable = True
        self._closing = False
        self._waiters: list[asyncio.Future[None]] = []
        self._progress_at_s = self._loop.time()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called with the socket."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=_SLICE_BYTES)

    def send(self, payload: bytes) -> None:
        """Queues a text message (UTF-8); what one turn of the loop queues is written at once."""
        if self.error is not None:
            return
        self._queue.append(payload)
        self._queued_bytes += len(payload)
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._flush_scheduled)

    def send_all(self, payloads: Sequence[bytes]) -> None:
        """`send` for each."""
        if payloads and self.error is None:
            self._queue += payloads[:-1]
            self._queued_bytes += sum(map(len, payloads[:-1]))
            self.send(payloads[-1])

    def _flush_scheduled(self) -> None:
        self._scheduled = False
        self.flush()

    def flush(self) -> None:
        """Writes what is queued as far as the socket takes it."""
        queue = self._queue
        while queue and self._writable and not self._closing:
            size = n_taken = 0
            for payload in queue:
                size += len(payload)
                n_taken += 1
                if size >= _SLICE_BYTES:
                    break
            frames = self._masker.text_frames(queue[:n_taken])
            del queue[:n_taken]
            self._queued_bytes -= size
            self.messages_sent += n_taken
            self._write(frames)

    def _write(self, data: bytes) -> None:
        if not self._transport.is_closing():
            self.bytes_sent += len(data)
            self._transport.write(data)

    async def drained(self) -> None:
        """Returns when the socket takes more.

        Raises:
            PeerError: It never will.
        """
        if self.error is not None:
            raise self.error
        if self._queued_bytes >= _SLICE_BYTES:
            self.flush()
        if not self._writable:
            waiter = self._loop.create_future()
            self._waiters.append(waiter)
            await waiter

    def pause_writing(self) -> None:
        """Called by the transport when the socket takes no more."""
        self._writable = False
        self._progress_at_s = self._loop.time()

    def resume_writing(self) -> None:
        """Called by the transport when the socket has taken nearly all."""
        self._writable = True
        self.flush()
        if self._writable:
            waiters, self._waiters = self._waiters, []
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)

    def _discard_queue(self, error: PeerError) -> None:
        """Sends nothing more; who waits to send is told why."""
        self.error = error
        self._queue.clear()
        self._queued_bytes = 0
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_exception(error)
