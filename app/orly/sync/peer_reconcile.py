"""One negentropy session with a peer (NIP-77), as a client: messages out, answers and refusals in."""

import asyncio
from collections.abc import Callable
from typing import Final

from orly.sync.peer_auth import Authentication, wants_auth
from orly.sync.peer_errors import PeerError, ReconcileRefusedError
from orly.sync.peer_messages import bare_reason

__all__ = ["Reconciliation"]

_REFUSING_WORDS: Final = (
    "error",
    "invalid",
    "unrecognized",
    "unrecognised",
    "bad msg",
    "bad message",
    "could not parse",
    "disabled",
    "unsupported",
    "unknown",
)
"""In a NOTICE before the first answer, they mean that the peer does not reconcile: many have no better way."""

_ABOUT_RECONCILING: Final = ("negentropy", "neg-", "neg requests")
"""In any NOTICE, they say that it is about this."""


class Reconciliation:
    """Speaks NEG-OPEN, NEG-MSG and NEG-CLOSE; one session at a time, each with an id of its own.

    Args:
        name: The peer's, for errors.
        auth: Asks again for what is refused for want of a key.
        send: Sends a message.
        n_sent: How many EVENTs have been sent so far.

    Attributes:
        asked_at_s: When what is awaited now was asked for, by the clock of the loop.
        behind: How many EVENTs had been sent before.
    """

    __slots__ = (
        "_answer",
        "_auth",
        "_has_begun",
        "_loop",
        "_n_sent",
        "_n_sessions",
        "_name",
        "_opening",
        "_refusal",
        "_retried",
        "_send",
        "_settling",
        "_sub_id",
        "asked_at_s",
        "behind",
    )

    def __init__(
        self, name: str, auth: Authentication, send: Callable[[bytes], None], n_sent: Callable[[], int]
    ) -> None:
        self._name = name
        self._auth = auth
        self._send = send
        self._n_sent = n_sent
        self._loop = asyncio.get_running_loop()
        self._n_sessions = 0
        self._sub_id: str | None = None
        self._opening = (b"", b"")
        self._has_begun = self._retried = False
        self._answer: asyncio.Future[bytes] | None = None
        self._refusal: ReconcileRefusedError | None = None
        self._settling: asyncio.Future[str | None] | None = None
        self.asked_at_s = 0.0
        self.behind = 0

    @property
    def is_waiting(self) -> bool:
        """Whether an answer is awaited."""
        return self._answer is not None

    async def open(self, filter_json: bytes, first: bytes) -> bytes:
        """NEG-OPEN; a session that is still open is closed before.

        Raises:
            ReconcileRefusedError: The peer does not want to.
            PeerError: The connection is over.
        """
        self._check_alone()
        self.close()
        self._opening = (filter_json, first)
        self._retried = False
        n_answered = self._auth.n_answered
        self._begin()
        answer = await self._wait()
        if self._auth.n_answered == n_answered or self._retried or not await self._has_proven():
            return answer
        self.close()  # the set was that of a stranger; the peer wanted to know who asks, for it may show more
        self._begin()
        return await self._wait()

    async def _has_proven(self) -> bool:
        """Whether the peer took, or may have taken, our answer to its challenge."""
        settling = self._settling = self._loop.create_future()

        def settled(problem: str | None) -> None:
            if not settling.done():
                settling.set_result(problem)

        self._auth.when_settled(settled)
        try:
            return await settling is None
        finally:
            self._settling = None

    def _begin(self) -> None:
        self._n_sessions += 1
        self._sub_id = f"n{self._n_sessions}"
        self._has_begun = False
        self._refusal = None
        filter_json, first = self._opening
        self._ask(b'["NEG-OPEN","%b",%b,"%b"]' % (self._sub_id.encode(), filter_json, first.hex().encode()))

    async def next(self, message: bytes) -> bytes:
        """NEG-MSG; raises what `open` raises."""
        self._check_alone()
        if self._refusal is not None:
            raise self._refusal
        if self._sub_id is None:
            raise RuntimeError("no session is open")
        self._ask(b'["NEG-MSG","%b","%b"]' % (self._sub_id.encode(), message.hex().encode()))
        return await self._wait()

    def _ask(self, payload: bytes) -> None:
        self.asked_at_s = self._loop.time()
        self.behind = self._n_sent()
        self._send(payload)

    def _check_alone(self) -> None:
        if self._answer is not None:
            raise RuntimeError("one message at a time")

    async def _wait(self) -> bytes:
        self._answer = self._loop.create_future()
        try:
            return await self._answer
        except asyncio.CancelledError:
            self.close()  # the answer is on its way; it must not be taken for that to the next message
            raise
        finally:
            self._answer = None

    def close(self) -> None:
        """NEG-CLOSE, if a session is open. Answers that are on their way are ignored."""
        if self._sub_id is not None:
            self._send(b'["NEG-CLOSE","%b"]' % self._sub_id.encode())
            self._sub_id = None

    # What the peer says.

    def answered(self, sub_id: str, message: bytes) -> bool:
        """Takes a NEG-MSG; false if nobody awaited it."""
        if sub_id != self._sub_id or self._answer is None or self._answer.done():
            return False
        self._has_begun = True
        self._answer.set_result(message)
        return True

    def refused(self, sub_id: str, reason: str, max_items: int | None = None) -> bool:
        """Takes a NEG-ERR or CLOSED; false if it is of no open session."""
        if sub_id != self._sub_id:
            return False
        self._sub_id = None
        if wants_auth(reason) and self._auth.is_possible and not self._retried and not self._has_begun:
            self._retried = True
            self._auth.when_settled(lambda problem: self._ask_again(reason, problem))
        else:
            self._refuse(reason, max_items)
        return True

    def _ask_again(self, reason: str, problem: str | None) -> None:
        if self._answer is None or self._answer.done() or self._sub_id is not None:
            return  # nobody waits any more, or for something else
        if problem is None:
            self._begin()
        else:
            self._refuse(f"{reason} (AUTH failed: {problem})", None)

    def _refuse(self, reason: str, max_items: int | None) -> None:
        self._sub_id = None
        text = f"{self._name} does not reconcile: {reason or 'it gave no reason'}"
        self._refusal = ReconcileRefusedError(text, reason, max_items)
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(self._refusal)

    def noticed(self, text: str, *, is_alone: bool) -> None:
        """Takes a NOTICE, which may be all that a peer says to a NEG-OPEN; it names no session.

        Args:
            text: What it says.
            is_alone: Nothing else is awaited that it could be about.
        """
        if self._answer is None or self._sub_id is None:
            return
        lower = text.lower()
        is_ours = any(words in lower for words in _ABOUT_RECONCILING)
        if is_ours or (is_alone and not self._has_begun and any(words in lower for words in _REFUSING_WORDS)):
            self._refuse(bare_reason(text), None)

    def lost(self, error: PeerError) -> None:
        """The connection is over."""
        self._sub_id = None
        for awaited in (self._answer, self._settling):
            if awaited is not None and not awaited.done():
                awaited.set_exception(error)
