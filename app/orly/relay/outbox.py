"""The outbound half of a connection: frames queue up, leave once per loop turn, and a slow reader is bounded."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Final, cast

from orly.relay.frames import text_frame

if TYPE_CHECKING:
    from orly.relay.hub import Hub

__all__ = ["HIGH_WATER_BYTES", "SLICE_BYTES", "Outbox"]

HIGH_WATER_BYTES: Final = 256 * 1024
"""What may queue within one turn before it is written at once rather than at the end of the turn."""

SLICE_BYTES: Final = 64 * 1024
"""How much is joined for one write: large enough to save system calls, small enough to stop when the reader does."""

_TRANSPORT_HIGH_BYTES: Final = 64 * 1024
_TRANSPORT_LOW_BYTES: Final = 16 * 1024
_WRITE_THROUGH: Final = -1


class Outbox(asyncio.Protocol):
    """Queues whole frames in order and writes them when the transport takes them.

    Frames of a turn leave in one write, control frames among them in their place. While the transport is paused,
    frames stay in the queue as references, so an event on its way to many slow readers exists once; their size is
    counted, here and in the hub. `can_write` turns false as soon as the transport pauses, and `_on_writable` is called
    once the queue is empty again.

    Attributes:
        can_write: False while nothing more should be sent because the reader has not taken what it was sent.
        backlog_bytes: What waits for this reader, transport included; 0 unless the transport is paused.
        message_at_s: When a message last went either way, by the hub's clock.
        progress_at_s: When the reader was last seen to take something it had been kept waiting for.
        check_at_s: When the hub looks at this connection next; it may be earlier than anything is due, never later.
    """

    hub: "ClassVar[Hub]"
    __slots__ = (
        "_ends",
        "_mark_bytes",
        "_open",
        "_paused",
        "_queue",
        "_queued_bytes",
        "_scheduled",
        "_transport",
        "backlog_bytes",
        "can_write",
        "check_at_s",
        "message_at_s",
        "progress_at_s",
    )

    def __init__(self) -> None:
        self._transport: asyncio.Transport
        self._queue: list[bytes] = []
        self._queued_bytes = 0
        self._mark_bytes: int = HIGH_WATER_BYTES
        self._open = False
        self._ends = False
        self._paused = False
        self._scheduled = False
        self.backlog_bytes = 0
        self.can_write = True
        self.message_at_s = self.progress_at_s = self.hub.now_s
        self.check_at_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop or by the HTTP protocol that hands its socket over."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=_TRANSPORT_HIGH_BYTES, low=_TRANSPORT_LOW_BYTES)

    def send(self, payload: bytes) -> None:
        """Sends one text message; `payload` must be UTF-8. Nothing is sent once a close is under way."""
        if self._open:
            frame = text_frame(payload)
            self._queue.append(frame)
            self._queued_bytes += len(frame)
            if not self._scheduled:
                self._schedule()
            if self._queued_bytes > self._mark_bytes:
                self._grew()

    def send_frames(self, frames: Sequence[bytes]) -> None:
        """Sends frames made by `text_frame`, which may be shared with other connections and are not copied here."""
        if self._open:
            self._queue += frames
            self._queued_bytes += len(frames[0]) if len(frames) == 1 else sum(map(len, frames))
            if not self._scheduled:
                self._schedule()
            if self._queued_bytes > self._mark_bytes:
                self._grew()

    def _send_control(self, chunks: Sequence[bytes]) -> None:
        """Queues what the protocol library wants written; an empty chunk says that nothing follows."""
        for chunk in chunks:
            if chunk:
                self._queue.append(chunk)
                self._queued_bytes += len(chunk)
            else:
                self._ends = True
        if not self._scheduled:
            self._scheduled = True
            self.hub.flush_soon(self)
        if self._queued_bytes > self._mark_bytes:
            self._grew()

    def _schedule(self) -> None:
        self._scheduled = True
        self.message_at_s = self.hub.now_s
        self.hub.flush_soon(self)

    def _grew(self) -> None:
        if self._paused or not self._drain():
            self._count()

    def flush(self) -> None:
        """Writes what the turn has queued; called by the hub, once per turn."""
        if self._paused:
            return  # still marked as scheduled: resume_writing carries on
        self._scheduled = False
        if not self._drain():
            self._count()

    def _drain(self) -> bool:
        """Gives the transport what it takes; false when it is paused now."""
        queue = self._queue
        if self._transport.is_closing():
            self._discard_queue()
            return True
        if self._queued_bytes > SLICE_BYTES:
            self._drain_slices()
        elif queue:
            self._transport.write(queue[0] if len(queue) == 1 else b"".join(queue))
            queue.clear()
            self._queued_bytes = 0
        if self._ends and not queue:
            self._on_end()
        return not self._paused

    def _drain_slices(self) -> None:
        queue, transport = self._queue, self._transport
        start = size = written = 0
        for index, frame in enumerate(queue, 1):
            size += len(frame)
            if size >= SLICE_BYTES:
                transport.write(b"".join(queue[start:index]))
                start, written, size = index, written + size, 0
                if self._paused:
                    break
        else:
            if size:
                transport.write(b"".join(queue[start:]))
            start, written = len(queue), written + size
        del queue[:start]
        self._queued_bytes -= written

    def _discard_queue(self) -> None:
        """Drops what has not been given to the transport. The queue holds whole frames, so the stream stays sound."""
        self._queue.clear()
        self._queued_bytes = 0

    def _count(self) -> None:
        pending = self._queued_bytes + self._transport.get_write_buffer_size()
        self.hub.count_backlog(self, pending)
        if self.backlog_bytes:
            self._on_backlog(pending)

    def pause_writing(self) -> None:
        """Called by the transport when the socket takes no more."""
        self._paused = True
        self._scheduled = True
        self._mark_bytes = _WRITE_THROUGH
        self.can_write = False
        self.progress_at_s = self.hub.now_s
        self.check_at_s = 0.0

    def resume_writing(self) -> None:
        """Called by the transport when the socket has taken nearly all it was given."""
        self._paused = False
        self._mark_bytes = HIGH_WATER_BYTES
        self.progress_at_s = self.hub.now_s
        if not self._drain():
            self._count()
            return
        self._scheduled = False
        self.hub.count_backlog(self, 0)
        self._on_backlog(0)
        self.can_write = True
        self.hub.call_soon(self._on_writable)

    def abort(self) -> None:
        """Cuts the socket and frees what waits for it at once."""
        self._open = False
        self._discard_queue()
        self.hub.count_backlog(self, 0)
        self._transport.abort()

    def _on_backlog(self, pending_bytes: int) -> None:
        """What waits for the reader has changed while the transport is paused, or is gone (0)."""
        raise NotImplementedError

    def _on_writable(self) -> None:
        """The queue is empty again after the transport was paused; runs in a turn of its own."""
        raise NotImplementedError

    def _on_end(self) -> None:
        """All is written that was queued before the end of the stream."""
        raise NotImplementedError
