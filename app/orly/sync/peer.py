"""A client of another relay: reconcile, fetch and publish on one WebSocket, all at once.

Everything happens on the loop it was opened on. Nothing waits for ever: whatever the peer does or leaves undone, every
wait ends with an answer or a `PeerError`, by the limits of `PeerOptions`.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Self, assert_never

from orly import clock
from orly.sync.peer_auth import Authentication
from orly.sync.peer_errors import (
    PeerClosedError,
    PeerError,
    PeerJunkError,
    PeerRefusedError,
    PeerSilentError,
    PeerUnreachableError,
    ReconcileRefusedError,
)
from orly.sync.peer_fetch import Fetch, Fetches, FetchSink
from orly.sync.peer_messages import (
    Answer,
    Challenge,
    Closed,
    EndOfStored,
    Events,
    Junk,
    Notice,
    PeerMessage,
    ReconcileAnswer,
    ReconcileEnd,
    bare_reason,
    read_messages,
)
from orly.sync.peer_options import PeerCounters, PeerOptions
from orly.sync.peer_publish import Answered, Publishing
from orly.sync.peer_reconcile import Reconciliation
from orly.sync.peer_socket import PeerSocket

__all__ = [
    "Fetch",
    "FetchSink",
    "PeerClosedError",
    "PeerConnection",
    "PeerCounters",
    "PeerError",
    "PeerJunkError",
    "PeerOptions",
    "PeerRefusedError",
    "PeerSilentError",
    "PeerUnreachableError",
    "ReconcileRefusedError",
]

_KEPT_NOTICES: Final = 8
_MAX_NOTICE_CHARACTERS: Final = 300


class PeerConnection:
    """One connection; make it with `open`."""

    __slots__ = (
        "_auth",
        "_fetches",
        "_loop",
        "_n_junk",
        "_n_unexpected",
        "_notices",
        "_options",
        "_over",
        "_publishing",
        "_reconciliation",
        "_socket",
    )

    def __init__(self, url: str, options: PeerOptions, now_s: Callable[[], int]) -> None:
        self._options = options
        self._socket = PeerSocket(url, options, self)
        self._loop = asyncio.get_running_loop()
        self._over: asyncio.Future[PeerError] = self._loop.create_future()
        self._notices: deque[str] = deque(maxlen=_KEPT_NOTICES)
        self._n_junk = self._n_unexpected = 0
        self._auth = Authentication(
            self._socket.name if "@" in url else url,  # no password goes into an event
            key=options.auth_key,
            timeout_s=options.auth_timeout_s,
            now_s=now_s,
            send=self._socket.send,
        )
        publishing = self._publishing = Publishing(self._auth, self._socket.send_all)
        self._fetches = Fetches(self._auth, self._socket.send, lambda: publishing.n_sent)
        self._reconciliation = Reconciliation(
            self._socket.name, self._auth, self._socket.send, lambda: publishing.n_sent
        )

    @classmethod
    async def open(cls, url: str, options: PeerOptions, *, now_s: Callable[[], int] = clock.now_s) -> Self:
        """Connects.

        Args:
            url: `ws://` or `wss://`; it also stands in the AUTH event, but for a password.
            options: Limits and key.
            now_s: The clock for AUTH events.

        Raises:
            PeerUnreachableError: The URL is none of a relay, nobody is there, or the time is up.
            PeerRefusedError: The other side refused the handshake.
        """
        connection = cls(url, options, now_s)
        await connection._socket.connect()
        return connection

    async def close(self) -> None:
        """Says goodbye and returns when the socket is closed.

        What is queued is sent before as far as the socket takes it: await `drained` for the rest, and OKs for events.
        """
        await self._socket.close()

    async def lost(self) -> PeerError:
        """Returns when the connection is over, with the reason; also after `close`."""
        return await asyncio.shield(self._over)

    async def drained(self) -> None:
        """Returns when the socket takes more of what is published and asked for.

        Raises:
            PeerError: It never will.
        """
        await self._socket.drained()

    def pause_reading(self) -> None:
        """Reads nothing more from the socket; what one read brought is still handed over. No limit runs meanwhile."""
        self._socket.pause_reading()

    def resume_reading(self) -> None:
        """Ends `pause_reading`."""
        self._socket.resume_reading()

    # What can be asked of a peer.

    async def reconcile_open(self, filter_json: bytes, first: bytes) -> bytes:
        """Opens a negentropy session (NEG-OPEN), ending the one before; returns the payload of the answer.

        Args:
            filter_json: One filter.
            first: The initiator's first message.

        Raises:
            ReconcileRefusedError: The peer does not want to.
            PeerError: The connection is over.
        """
        self._check_open()
        return await self._reconciliation.open(filter_json, first)

    async def reconcile_next(self, message: bytes) -> bytes:
        """Sends the next message (NEG-MSG); returns and raises what `reconcile_open` does."""
        self._check_open()
        return await self._reconciliation.next(message)

    def reconcile_close(self) -> None:
        """Ends the session (NEG-CLOSE), if one is open."""
        self._reconciliation.close()

    def fetch(self, filters_json: Sequence[bytes], sink: FetchSink, *, most: int | None = None) -> Fetch:
        """Sends a REQ with a subscription of its own, which is closed after EOSE. Several may be under way.

        Args:
            filters_json: At least one filter.
            sink: Where the answer goes.
            most: How many events that may be, as those beyond it are no headway; None = any number.

        Raises:
            PeerError: The connection is over.
        """
        self._check_open()
        return self._fetches.ask(filters_json, sink, most)

    def publish(self, events: Sequence[tuple[bytes, bytes]], answered: Answered) -> None:
        """Sends EVENTs. How many may be without an answer is up to the caller; `drained` waits for the socket.

        Args:
            events: Id (32 bytes) and JSON of each.
            answered: Gets (id, accepted, reason) of what is answered, per read; an answer of anything else is ignored.

        Raises:
            PeerError: The connection is over.
            ValueError: One of the events is under way already.
        """
        self._check_open()
        self._publishing.send(events, answered)

    def _check_open(self) -> None:
        if self._socket.error is not None:
            raise self._socket.error

    # What is known of it.

    @property
    def name(self) -> str:
        """The URL without what may be secret in it."""
        return self._socket.name

    @property
    def error(self) -> PeerError | None:
        """Why the connection is over; None while it is not."""
        return self._socket.error

    @property
    def notices(self) -> tuple[str, ...]:
        """The last NOTICE texts, oldest first, cut to a length for a log line."""
        return tuple(self._notices)

    @property
    def unanswered(self) -> int:
        """Events that were published and have no OK yet."""
        return len(self._publishing)

    def counters(self) -> PeerCounters:
        """What the connection has done so far."""
        socket = self._socket
        return PeerCounters(
            bytes_sent=socket.bytes_sent,
            bytes_received=socket.bytes_received,
            messages_sent=socket.messages_sent,
            messages_received=socket.messages_received,
            junk_messages=self._n_junk,
            unexpected_messages=self._n_unexpected,
        )

    # Called by the socket.

    def receive(self, messages: list[bytes]) -> None:
        """Takes all that one read brought; called by the socket."""
        for message in read_messages(messages):
            self._take(message)
            if self._socket.error is not None:
                return
        self._publishing.hand_over()

    def _take(self, message: PeerMessage) -> None:
        match message:
            case Answer(event_id, accepted, reason):
                self._take_answer(event_id, accepted, bare_reason(reason))
            case Events(sub_id, rows):
                if not self._fetches.events(sub_id, rows):
                    self._n_unexpected += len(rows)
            case EndOfStored(sub_id):
                self._n_unexpected += not self._fetches.end_of_stored(sub_id)
            case Closed(sub_id, reason):
                text = bare_reason(reason)
                is_ours = self._fetches.closed(sub_id, text) or self._reconciliation.refused(sub_id, text)
                self._n_unexpected += not is_ours
            case ReconcileAnswer(sub_id, payload):
                self._n_unexpected += not self._reconciliation.answered(sub_id, payload)
            case ReconcileEnd(sub_id, reason, max_items):
                self._n_unexpected += not self._reconciliation.refused(sub_id, bare_reason(reason), max_items)
            case Notice(text):
                self._notices.append(text[:_MAX_NOTICE_CHARACTERS])
                self._reconciliation.noticed(text, is_alone=not self._fetches and not self._publishing)
            case Challenge(text):
                if not self._auth.challenged(text):
                    self._socket.junk("too many AUTH challenges")
            case Junk(excerpt):
                self._n_junk += 1
                if self._n_junk > self._options.max_junk_messages:
                    self._socket.junk(f"too much that is no message of a relay, such as {excerpt!r}")
            case _:
                assert_never(message)

    def _take_answer(self, event_id: str, accepted: bool, reason: str) -> None:
        n_settled = self._publishing.n_settled
        if self._publishing.answered(event_id, accepted=accepted, reason=reason):
            # A peer that works in the order of what it gets comes to a question once the EVENTs before it are answered.
            now_s = self._loop.time()
            if n_settled < self._reconciliation.behind:
                self._reconciliation.asked_at_s = now_s
            if n_settled < self._fetches.behind:
                self._fetches.progress_at_s = now_s
        elif not self._auth.answered(event_id, accepted=accepted, reason=reason):
            self._n_unexpected += 1

    def awaited(self) -> str:
        """What is awaited now, in words."""
        parts = []
        if self._reconciliation.is_waiting:
            parts.append("the answer to a NEG message")
        if self._fetches:
            parts.append(f"the end of {len(self._fetches)} REQs")
        if self._publishing:
            parts.append(f"OKs for {len(self._publishing)} events")
        awaited = " and ".join(parts) or "a pong"
        return awaited + (f"; its last notice: {self._notices[-1]}" if self._notices else "")

    def overdue(self, now_s: float) -> str | None:
        """What should have come by now, in words. Called by the socket.

        Each kind has its own progress, and what is behind EVENTs also theirs.
        """
        since_s = now_s - self._options.answer_timeout_s
        is_overdue = (
            (self._reconciliation.is_waiting and self._reconciliation.asked_at_s <= since_s)
            or (bool(self._fetches) and self._fetches.progress_at_s <= since_s)
            or (bool(self._publishing) and self._publishing.progress_at_s <= since_s)
        )
        return self.awaited() if is_overdue else None

    def reading_resumed(self, now_s: float) -> None:
        """Starts all clocks again; called by the socket."""
        self._reconciliation.asked_at_s = self._fetches.progress_at_s = self._publishing.progress_at_s = now_s

    def connection_lost(self, error: PeerError) -> None:
        """Ends every wait; called by the socket."""
        self._auth.stop()
        self._reconciliation.lost(error)
        self._fetches.lost(error)
        self._publishing.lost()
        if not self._over.done():
            self._over.set_result(error)
