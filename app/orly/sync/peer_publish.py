"""EVENTs to a peer, and which of them its OKs answer."""

import asyncio
from collections.abc import Callable, Sequence

from orly.sync.peer_auth import Authentication, wants_auth

__all__ = ["Answered", "Publishing"]

Answered = Callable[[Sequence[tuple[bytes, bool, str]]], None]
"""Called with (id, accepted, reason) of all events that one read from the socket answered."""


class _Batch:
    """The events of one call."""

    __slots__ = ("answered", "answers")

    def __init__(self, answered: Answered) -> None:
        self.answered = answered
        self.answers: list[tuple[bytes, bool, str]] = []


class _Sent:
    """One event without an answer."""

    __slots__ = ("batch", "event_id", "number", "raw", "retried")

    def __init__(self, batch: _Batch, event_id: bytes, raw: bytes, number: int) -> None:
        self.batch = batch
        self.event_id = event_id
        self.raw = raw
        self.number = number
        self.retried = False


class Publishing:
    """All EVENTs of a connection that have no answer yet.

    Attributes:
        n_sent: Events sent so far; one that is sent again counts again.
        progress_at_s: When one of them was answered, by the clock of the loop.
    """

    __slots__ = ("_auth", "_loop", "_send_all", "_touched", "_unanswered", "n_sent", "progress_at_s")

    def __init__(self, auth: Authentication, send_all: Callable[[list[bytes]], None]) -> None:
        self._auth = auth
        self._send_all = send_all
        self._loop = asyncio.get_running_loop()
        self._unanswered: dict[str, _Sent] = {}
        self._touched: list[_Batch] = []
        self.n_sent = 0
        self.progress_at_s = 0.0

    def __len__(self) -> int:
        return len(self._unanswered)

    @property
    def n_settled(self) -> int:
        """How many of those sent first are all answered."""
        oldest = next(iter(self._unanswered.values()), None)
        return self.n_sent if oldest is None else oldest.number

    def send(self, events: Sequence[tuple[bytes, bytes]], answered: Answered) -> None:
        """Sends events, given as id and JSON.

        Raises:
            ValueError: One of them is under way already; none is sent.
        """
        batch = _Batch(answered)
        sent = {
            event_id.hex(): _Sent(batch, event_id, raw, number)
            for number, (event_id, raw) in enumerate(events, self.n_sent)
        }
        if len(sent) < len(events) or not sent.keys().isdisjoint(self._unanswered):
            raise ValueError("an event is published twice at a time")
        if not self._unanswered:
            self.progress_at_s = self._loop.time()
        self._unanswered |= sent
        self.n_sent += len(sent)
        self._send_all([b'["EVENT",%b]' % raw for _, raw in events])

    def answered(self, event_id: str, *, accepted: bool, reason: str) -> bool:
        """Takes an OK; false if it is of no event of ours. `hand_over` follows after the last of a read."""
        sent = self._unanswered.get(event_id)
        if sent is None:
            return False
        if not accepted and not sent.retried and wants_auth(reason) and self._auth.is_possible:
            sent.retried = True
            self.progress_at_s = self._loop.time()
            self._auth.when_settled(lambda problem: self._ask_again(event_id, reason, problem))
        else:
            self._note(event_id, accepted, reason)
        return True

    def _note(self, event_id: str, accepted: bool, reason: str) -> None:
        sent = self._unanswered.pop(event_id)
        if not sent.batch.answers:
            self._touched.append(sent.batch)
        sent.batch.answers.append((sent.event_id, accepted, reason))

    def _ask_again(self, event_id: str, reason: str, problem: str | None) -> None:
        sent = self._unanswered.get(event_id)
        if sent is None:
            return
        if problem is None:
            self._unanswered[event_id] = self._unanswered.pop(event_id)
            sent.number = self.n_sent
            self.n_sent += 1
            self._send_all([b'["EVENT",%b]' % sent.raw])
        else:
            self._note(event_id, accepted=False, reason=f"{reason} (AUTH failed: {problem})")
            self._loop.call_soon(self.hand_over)

    def hand_over(self) -> None:
        """Gives the answers of one read to whoever published."""
        if not self._touched:
            return
        self.progress_at_s = self._loop.time()
        touched, self._touched = self._touched, []
        for batch in touched:
            answers, batch.answers = batch.answers, []
            batch.answered(answers)

    def lost(self) -> None:
        """The connection is over. What was answered is handed over; nobody is told about the rest."""
        self.hand_over()
        self._unanswered.clear()
        self._touched.clear()
