"""The one writer of a query stream: whatever became ready since its last message is the next one."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

from orly.pb.orlydb.v1 import streams_pb2

__all__ = ["BACKLOG_BYTES", "MESSAGE_BYTES", "AnswerWriter"]

MESSAGE_BYTES: Final = 512 * 1024
"""Payload joined in one message, unless a single part is larger."""

BACKLOG_BYTES: Final = 4 * 1024 * 1024
"""What may wait for a slow caller; then its queries are held back."""

_PART_BYTES: Final = 16
"""What a part costs beside its payload, about."""


class AnswerWriter:
    """Gathers parts of answers in messages and writes these one by one.

    Args:
        write: Sends one message; waits while the caller does not read.
        drained: Called when the backlog, after it was full, has room again.

    Attributes:
        open_message: Where the next part goes; a part that lies in it may still be added to.
    """

    def __init__(
        self, write: Callable[[streams_pb2.QueryAnswers], Awaitable[None]], drained: Callable[[], None]
    ) -> None:
        self.open_message = streams_pb2.QueryAnswers()
        self._open_bytes = 0
        self._closed: deque[tuple[streams_pb2.QueryAnswers, int]] = deque()
        self._backlog_bytes = 0
        self._write = write
        self._drained = drained
        self._was_full = False
        self._ready = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def add(self, query_id: int, size: int) -> streams_pb2.AnswerPart:
        """A new part, whose payload has `size` bytes; to be filled in before the loop's next turn."""
        if self._open_bytes and self._open_bytes + size > MESSAGE_BYTES:
            self._closed.append((self.open_message, self._open_bytes))
            self.open_message = streams_pb2.QueryAnswers()
            self._open_bytes = 0
        size += _PART_BYTES
        self._open_bytes += size
        self._backlog_bytes += size
        self._wake()
        return self.open_message.parts.add(query_id=query_id)

    def pong(self) -> None:
        """Tell that we are alive."""
        self.open_message.pong = True
        self._wake()

    def is_full(self) -> bool:
        """Whether queries must wait; `drained` says when they may go on."""
        if self._backlog_bytes < BACKLOG_BYTES:
            return False
        self._was_full = True
        return True

    async def run(self) -> None:
        """Write until cancelled; raises what writing raises."""
        while True:
            await self._ready.wait()
            message, size = self._take()
            await self._write(message)
            self._backlog_bytes -= size
            if not self._ready.is_set():
                self._idle.set()
            if self._was_full and self._backlog_bytes < BACKLOG_BYTES // 2:
                self._was_full = False
                self._drained()

    async def flush(self) -> None:
        """Wait until all is written."""
        await self._idle.wait()

    def _wake(self) -> None:
        self._ready.set()
        self._idle.clear()

    def _take(self) -> tuple[streams_pb2.QueryAnswers, int]:
        if self._closed:
            return self._closed.popleft()
        taken = self.open_message, self._open_bytes
        self.open_message = streams_pb2.QueryAnswers()
        self._open_bytes = 0
        self._ready.clear()
        return taken
