"""What a process asks next on its query stream, and when that leaves."""

import asyncio
from collections import deque
from typing import Final

from orly.pb.orlydb.v1 import streams_pb2

__all__ = ["GATHER_S", "MESSAGE_BYTES", "Outbox"]

MESSAGE_BYTES: Final = 1024 * 1024
"""Queries joined in one message, unless a single one is larger."""

GATHER_S: Final = 0.004
"""From one message to the next at most, while queries of a busy stream are gathered."""

_ACTION_BYTES: Final = 24


class Outbox:
    """Actions are written straight into the next message; queries that come by many leave together.

    A message costs as much as several queries, and a crowd of clients that wait for answers asks again as soon as it
    has them. So a message waits until as many queries are in it as were under way when the last one left, but leaves
    `GATHER_S` after that one with what it has. A lone query, and whatever is urgent, leaves at once.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._closed: deque[streams_pb2.QueryRequests] = deque()
        self._filled = asyncio.Event()
        self._ripe = asyncio.Event()
        self._n_expected = 0
        self._gather_until_s = 0.0
        self._begin()

    def query(self, query_id: int, n_bytes: int) -> streams_pb2.QueryStart:
        """One more query, to be filled in before the loop's next turn."""
        if self._n_bytes and self._n_bytes + n_bytes > MESSAGE_BYTES:
            self._closed.append(self._message)
            self._begin()
            self._ripe.set()
        self._n_bytes += n_bytes + _ACTION_BYTES
        self._n_queries += 1
        self._filled.set()
        if self._n_queries >= self._n_expected:
            self._ripe.set()
        return self._message.actions.add(query_id=query_id).start

    def urgent(self, query_id: int) -> streams_pb2.QueryAction:
        """One more action that holds nobody up, to be filled in before the loop's next turn."""
        self._hasten()
        self._n_bytes += _ACTION_BYTES
        return self._message.actions.add(query_id=query_id)

    def ping(self) -> None:
        """Ask the service to show that it is alive."""
        self._message.ping = True
        self._hasten()

    def clear(self) -> None:
        """Forget everything."""
        self._closed.clear()
        self._n_expected = 0
        self._begin()
        self._filled.clear()
        self._ripe.clear()

    def gather(self, n_queries: int) -> None:
        """A message leaves: let the next one wait for so many queries, unless that is but one."""
        self._n_expected = n_queries
        self._gather_until_s = self._loop.time() + GATHER_S

    async def next(self) -> streams_pb2.QueryRequests:
        """The next message, once it may leave."""
        await self._filled.wait()
        wait_s = self._gather_until_s - self._loop.time()
        if self._n_expected > 1 and wait_s > 0 and not self._ripe.is_set():
            timer = self._loop.call_later(wait_s, self._ripe.set)
            try:
                await self._ripe.wait()
            finally:
                timer.cancel()
        if self._closed:
            return self._closed.popleft()
        message = self._message
        self._begin()
        self._filled.clear()
        self._ripe.clear()
        return message

    def _begin(self) -> None:
        self._message = streams_pb2.QueryRequests()
        self._n_bytes = 0
        self._n_queries = 0

    def _hasten(self) -> None:
        self._filled.set()
        self._ripe.set()
