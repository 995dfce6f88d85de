"""What the connections of one server share: limits, the clock, one flush per loop turn, one keep-alive timer."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orly.relay.gate import Gate

if TYPE_CHECKING:
    from orly.relay.connection import Connection, Session
    from orly.relay.outbox import Outbox

__all__ = ["ConnectionLimits", "Hub"]

_log = logging.getLogger(__name__)

_MIN_TOTAL_UNFINISHED_BYTES = 64 * 1024 * 1024
_UNFINISHED_MESSAGES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """Bounds of one connection and of all together; a time of 0 switches its check off.

    Attributes:
        max_message_bytes: Largest message a client may send, over all its fragments.
        max_send_backlog_bytes: What may wait for one slow reader before it is dropped.
        max_total_send_backlog_bytes: What may wait for all readers before the slowest is dropped.
        send_timeout_s: How long a reader may take nothing while something waits for it.
        ping_interval_s: Silence after which a client is pinged.
        pong_timeout_s: How long a pinged client may stay silent.
        idle_timeout_s: How long a client without a subscription may exchange no message.
        close_timeout_s: How long a close may take before the socket is cut.
    """

    max_message_bytes: int
    max_send_backlog_bytes: int
    max_total_send_backlog_bytes: int
    send_timeout_s: float
    ping_interval_s: float
    pong_timeout_s: float
    idle_timeout_s: float
    close_timeout_s: float = 5.0


class Hub:
    """The shared state of all connections of a server. It belongs to one event loop.

    `now_s` is a clock that moves once per tick, so that a connection can note the time of every read for the price
    of an attribute.

    Args:
        limits: Bounds that every connection keeps.
        gate: Admits connections and counts them.
        make_session: Gives an opened connection the session that understands its messages.
        clock: Monotonic seconds.
        tick_s: Seconds between two rounds of keep-alive checks.
    """

    def __init__(
        self,
        *,
        limits: ConnectionLimits,
        gate: Gate,
        make_session: "Callable[[Connection], Session]",
        clock: Callable[[], float],
        tick_s: float = 1.0,
    ) -> None:
        self.limits = limits
        self.gate = gate
        self.make_session = make_session
        self.clock = clock
        self.now_s = clock()
        self.stopping = False
        self.connections: set[Connection] = set()
        self.total_backlog_bytes = 0
        self.total_unfinished_bytes = 0
        self.max_total_unfinished_bytes = max(
            _MIN_TOTAL_UNFINISHED_BYTES, _UNFINISHED_MESSAGES * limits.max_message_bytes
        )
        self._tick_s = tick_s
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._dirty: list[Outbox] = []
        self._backlogged: set[Outbox] = set()
        self._last_number = 0
        self._empty = asyncio.Event()
        self._empty.set()

    def start(self) -> None:
        """Starts the keep-alive timer; `stop` ends it."""
        self._timer = self._loop.call_later(self._tick_s, self._on_tick)

    def stop(self) -> None:
        """Ends the timer. Connections are closed by the server, not here."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def add(self, connection: "Connection") -> int:
        """Takes in a new connection and returns its number, which no other connection of this process has."""
        self.connections.add(connection)
        self._empty.clear()
        self._last_number += 1
        return self._last_number

    def discard(self, connection: "Connection") -> None:
        """Forgets a connection that is lost."""
        self.connections.discard(connection)
        if not self.connections:
            self._empty.set()

    async def wait_empty(self) -> None:
        """Returns once no connection is left."""
        await self._empty.wait()

    def call_soon(self, callback: Callable[[], object]) -> None:
        """Runs `callback` in the next turn of the loop, where its errors hurt nobody else."""
        self._loop.call_soon(callback)

    def flush_soon(self, outbox: "Outbox") -> None:
        """Has everything queued in this turn of the loop written together, once."""
        if not self._dirty:
            self._loop.call_soon(self._flush)
        self._dirty.append(outbox)

    def _flush(self) -> None:
        dirty, self._dirty = self._dirty, []
        for outbox in dirty:
            outbox.flush()

    def count_backlog(self, outbox: "Outbox", pending_bytes: int) -> None:
        """Notes what waits for one reader; past the total, the reader with the largest backlog is cut off."""
        self.total_backlog_bytes += pending_bytes - outbox.backlog_bytes
        outbox.backlog_bytes = pending_bytes
        if not pending_bytes:
            self._backlogged.discard(outbox)
            return
        self._backlogged.add(outbox)
        while self._backlogged and self.total_backlog_bytes > self.limits.max_total_send_backlog_bytes:
            largest = max(self._backlogged, key=_backlog_bytes)
            _log.warning(
                "%d bytes wait for slow readers, over the limit of %d: the one with %d is cut off",
                self.total_backlog_bytes,
                self.limits.max_total_send_backlog_bytes,
                largest.backlog_bytes,
            )
            largest.abort()

    def count_unfinished(self, connection: "Connection", unfinished_bytes: int) -> None:
        """Notes the size of a message that is still arriving; past the total, the largest such sender is refused."""
        self.total_unfinished_bytes += unfinished_bytes - connection.unfinished_bytes
        connection.unfinished_bytes = unfinished_bytes
        if unfinished_bytes and self.total_unfinished_bytes > self.max_total_unfinished_bytes:
            largest = max(self.connections, key=_unfinished_bytes)
            _log.warning(
                "%d bytes of unfinished messages are held: the largest is refused", self.total_unfinished_bytes
            )
            largest.refuse_unfinished()

    def _on_tick(self) -> None:
        self._timer = self._loop.call_later(self._tick_s, self._on_tick)
        self.tick(self.clock())

    def tick(self, now_s: float) -> None:
        """Moves the clock and checks every connection whose time has come."""
        self.now_s = now_s
        for connection in [each for each in self.connections if each.check_at_s <= now_s]:
            connection.check(now_s)


def _backlog_bytes(outbox: "Outbox") -> int:
    return outbox.backlog_bytes


def _unfinished_bytes(connection: "Connection") -> int:
    return connection.unfinished_bytes
