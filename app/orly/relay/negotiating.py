"""What one client reconciles (NIP-77): its open sets, the order of their messages, and their end."""

import asyncio
import logging
from collections import deque
from functools import partial
from typing import Final

from orly.nostr.filter import Filter
from orly.nostr.message import neg_err_text, neg_msg_text
from orly.reconciling import NegRefusedError, SetServer
from orly.relay.context import SessionContext
from orly.relay.peer import Peer
from orly.store.base import Query, ReadScope

__all__ = ["MAX_WAITING_MESSAGES", "Negotiating"]

MAX_WAITING_MESSAGES: Final = 4
"""Messages of one reconciliation that wait for the answer to the one before. A client that keeps to the protocol has
one; each may be as long as a message of the relay."""

_LONGEST_LOOK_S: Final = 30.0
"""Idle reconciliations are looked for at least this often, or ten times in their timeout."""


log = logging.getLogger(__name__)


class _Exchange:
    """One reconciliation: what its client sent and was not answered yet."""

    __slots__ = ("active_s", "query", "task", "waiting")

    def __init__(self, query: Query, message: bytes, now_s: float) -> None:
        self.query: Query | None = query
        self.waiting: deque[bytes] = deque([message])
        self.active_s = now_s
        self.task: asyncio.Task[None] | None = None


class Negotiating:
    """The reconciling side of a session, for a client that may ask: access is decided by the session.

    Answers are awaited in tasks, so that the client's other messages are handled meanwhile. The messages of one
    reconciliation are answered in their order.
    """

    __slots__ = ("_connection_id", "_context", "_exchanges", "_has_room", "_peer", "_sets", "_timer")

    def __init__(self, peer: Peer, context: SessionContext, sets: SetServer) -> None:
        self._peer = peer
        self._context = context
        self._sets = sets
        self._connection_id = str(peer.number)
        self._exchanges: dict[str, _Exchange] = {}
        self._has_room = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_idle(self) -> bool:
        """Whether nothing is open."""
        return not self._exchanges

    def open(self, sub_id: str, wanted: Filter, scope: ReadScope, message: bytes) -> None:
        """Begin; one that is open under the same id is replaced."""
        rules = self._context.rules
        self._stop(sub_id)
        if len(self._exchanges) >= rules.max_reconciliations:
            text = f"blocked: this connection has {rules.max_reconciliations} reconciliations open, the maximum"
            self._peer.send(neg_err_text(sub_id, text))
            return
        query = Query(filters=(wanted,), scope=scope, timeout_s=rules.query_timeout_s)
        exchange = self._exchanges[sub_id] = _Exchange(query, message, self._context.monotonic_s())
        self._go(sub_id, exchange)
        if self._timer is None:
            self._set_timer()

    def go_on(self, sub_id: str, message: bytes) -> None:
        """The next message of one that is open."""
        exchange = self._exchanges.get(sub_id)
        if exchange is None:
            self._peer.send(neg_err_text(sub_id, "closed: no reconciliation is open under this subscription id"))
        elif len(exchange.waiting) > MAX_WAITING_MESSAGES:
            self.refuse(
                sub_id,
                f"rate-limited: {MAX_WAITING_MESSAGES} messages of this reconciliation wait for their answers, the "
                "maximum",
            )
        else:
            exchange.waiting.append(message)
            if exchange.task is None:
                self._go(sub_id, exchange)

    def close(self, sub_id: str) -> None:
        """The client ends one; one that is not open is no error."""
        if self._stop(sub_id):
            self._sets.close(self._connection_id, sub_id)

    def refuse(self, sub_id: str, reason: str, max_items: int | None = None) -> None:
        """End one, if it is open, and say why."""
        self.close(sub_id)
        self._peer.send(neg_err_text(sub_id, reason, max_items))

    def refuse_all(self, reason: str) -> None:
        """End all that are open, and say why."""
        for sub_id in tuple(self._exchanges):
            self.refuse(sub_id, reason)

    def writable(self) -> None:
        """Go on with the answers that were held back."""
        self._has_room.set()

    def end(self) -> None:
        """The connection is gone."""
        if self._exchanges:
            for sub_id in tuple(self._exchanges):
                self._stop(sub_id)
            self._sets.gone(self._connection_id)

    def _stop(self, sub_id: str) -> bool:
        exchange = self._exchanges.pop(sub_id, None)
        if exchange is None:
            return False
        if exchange.task is not None:
            exchange.task.cancel()
        if not self._exchanges and self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return True

    # Answers

    def _go(self, sub_id: str, exchange: _Exchange) -> None:
        exchange.task = self._context.loop.create_task(self._answer(sub_id, exchange))
        exchange.task.add_done_callback(partial(self._answered, sub_id, exchange))

    async def _answer(self, sub_id: str, exchange: _Exchange) -> None:
        """Answer what waits; what comes meanwhile is answered too. A message waits until it is answered."""
        try:
            while exchange.waiting:
                answer = await self._ask(sub_id, exchange, exchange.waiting[0])
                await self._room()
                exchange.waiting.popleft()
                exchange.active_s = self._context.monotonic_s()
                self._peer.send(neg_msg_text(sub_id, answer))
        except NegRefusedError as refusal:
            if self._exchanges.get(sub_id) is exchange:
                exchange.task = None
                self.refuse(sub_id, str(refusal), refusal.max_items)
        else:
            exchange.task = None

    async def _room(self) -> None:
        """Wait until the client has taken what it was sent: answers of all its reconciliations may be long."""
        while not self._peer.can_write:
            self._has_room.clear()
            await self._has_room.wait()

    def _answered(self, sub_id: str, exchange: _Exchange, task: asyncio.Task[None]) -> None:
        """Whatever else ends the answering, the client is told: some wait for ever."""
        error = None if task.cancelled() else task.exception()
        if exchange.task is task and self._exchanges.get(sub_id) is exchange:
            log.error("a reconciliation ended unexpectedly", exc_info=error)
            self.refuse(sub_id, "error: the relay failed to answer")

    async def _ask(self, sub_id: str, exchange: _Exchange, message: bytes) -> bytes:
        query, exchange.query = exchange.query, None
        if query is not None:
            return await self._sets.open(self._connection_id, sub_id, query, message)
        return await self._sets.go_on(self._connection_id, sub_id, message)

    # Idle ones

    def _set_timer(self) -> None:
        delay_s = min(self._context.rules.reconciliation_timeout_s / 10, _LONGEST_LOOK_S)
        self._timer = self._context.loop.call_later(delay_s, self._look)

    def _look(self) -> None:
        """End what was idle for too long, and say so."""
        self._timer = None
        timeout_s = self._context.rules.reconciliation_timeout_s
        idle_since_s = self._context.monotonic_s() - timeout_s
        for sub_id, exchange in tuple(self._exchanges.items()):
            if exchange.task is None and exchange.active_s <= idle_since_s:
                self.refuse(sub_id, f"closed: this reconciliation was idle for {timeout_s:g} s")
        if self._exchanges and self._timer is None:
            self._set_timer()
