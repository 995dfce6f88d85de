"""REQs to a peer, several in flight, each answered into a sink of its own."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from orly.sync.peer_auth import Authentication, wants_auth
from orly.sync.peer_errors import PeerError

__all__ = ["Fetch", "FetchSink", "Fetches"]


class FetchSink(Protocol):
    """Where the answer to a REQ goes. Both methods are called on the loop and must not wait."""

    def events(self, rows: list[bytes]) -> None:
        """Events as they came: JSON text that is not checked in any way."""

    def ended(self, reason: str | None) -> None:
        """The answer is complete: None after EOSE, otherwise what a CLOSED said.

        Some relays send CLOSED after all events of a REQ that asks for ids. Not called when the connection is lost.
        """


class Fetch:
    """One REQ.

    Attributes:
        behind: How many EVENTs had been sent before.
        most: Events that were asked for at most; None = any number.
        n_events: Events that came so far.
    """

    __slots__ = (
        "_fetches",
        "behind",
        "filters_json",
        "is_over",
        "most",
        "n_events",
        "over",
        "retried",
        "sink",
        "sub_id",
    )

    def __init__(self, fetches: "Fetches", filters_json: bytes, sink: FetchSink, most: int | None) -> None:
        self._fetches = fetches
        self.filters_json = filters_json
        self.sink = sink
        self.most = most
        self.sub_id = ""
        self.behind = 0
        self.n_events = 0
        self.retried = False
        self.is_over = False
        self.over: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()

    async def wait(self) -> str | None:
        """Returns when the answer is complete, with what `FetchSink.ended` was told; None also after `stop`.

        Raises:
            PeerError: The connection is over.
        """
        reason = await asyncio.shield(self.over)
        if self._fetches.error is not None and not self.is_over:
            raise self._fetches.error
        return reason

    def stop(self) -> None:
        """Wants nothing more; the sink is not called again."""
        self._fetches.stop(self)


class Fetches:
    """All REQs of a connection.

    Args:
        auth: Asks again for those that are refused for want of a key.
        send: Sends a message.
        n_sent: How many EVENTs have been sent so far.

    Attributes:
        error: Why the connection is over; None while it is not.
        progress_at_s: When something came for one of them, by the clock of the loop.
    """

    __slots__ = ("_active", "_auth", "_loop", "_n_asked", "_n_sent", "_n_waiting", "_send", "error", "progress_at_s")

    def __init__(self, auth: Authentication, send: Callable[[bytes], None], n_sent: Callable[[], int]) -> None:
        self._auth = auth
        self._send = send
        self._n_sent = n_sent
        self._loop = asyncio.get_running_loop()
        self._active: dict[str, Fetch] = {}
        self._n_asked = 0
        self._n_waiting = 0
        self.error: PeerError | None = None
        self.progress_at_s = 0.0

    def __len__(self) -> int:
        return len(self._active)

    @property
    def behind(self) -> int:
        """How many EVENTs had been sent before the oldest of them."""
        oldest = next(iter(self._active.values()), None)
        return 0 if oldest is None else oldest.behind

    def ask(self, filters_json: Sequence[bytes], sink: FetchSink, most: int | None) -> Fetch:
        """Sends a REQ for so many events at most; None = any number."""
        fetch = Fetch(self, b",".join(filters_json), sink, most)
        self._ask(fetch)
        return fetch

    def _ask(self, fetch: Fetch) -> None:
        if not self._active:
            self.progress_at_s = self._loop.time()
        self._n_asked += 1
        fetch.sub_id = f"f{self._n_asked}"
        fetch.behind = self._n_sent()
        self._active[fetch.sub_id] = fetch
        self._send(b'["REQ","%b",%b]' % (fetch.sub_id.encode(), fetch.filters_json))

    def stop(self, fetch: Fetch) -> None:
        """See `Fetch.stop`."""
        if self._active.pop(fetch.sub_id, None) is not None:
            self._send_close(fetch.sub_id)
        self._end(fetch, None)

    def _send_close(self, sub_id: str) -> None:
        self._send(b'["CLOSE","%b"]' % sub_id.encode())

    @staticmethod
    def _end(fetch: Fetch, reason: str | None) -> None:
        if not fetch.is_over:
            fetch.is_over = True
            if not fetch.over.done():
                fetch.over.set_result(reason)

    # What the peer says.

    def events(self, sub_id: str, rows: list[bytes]) -> bool:
        """Takes events; false if they are of no REQ of ours."""
        fetch = self._active.get(sub_id)
        if fetch is None:
            return False
        fetch.n_events += len(rows)
        if fetch.most is None or fetch.n_events <= fetch.most:  # more than that is no headway
            self.progress_at_s = self._loop.time()
        fetch.sink.events(rows)
        return True

    def end_of_stored(self, sub_id: str) -> bool:
        """Takes an EOSE; false if it is of no REQ of ours."""
        fetch = self._active.pop(sub_id, None)
        if fetch is None:
            return False
        self._send_close(sub_id)
        self._ended(fetch, None)
        return True

    def closed(self, sub_id: str, reason: str) -> bool:
        """Takes a CLOSED; false if it is of no REQ of ours."""
        fetch = self._active.get(sub_id)
        if fetch is None:
            return False
        if wants_auth(reason) and self._auth.is_possible and not fetch.retried and not fetch.n_events:
            fetch.retried = True
            self._auth.when_settled(lambda problem: self._ask_again(fetch, reason, problem))
        else:
            del self._active[sub_id]
            self._ended(fetch, reason)
        return True

    def _ask_again(self, fetch: Fetch, reason: str, problem: str | None) -> None:
        if fetch.is_over or self.error is not None:
            return
        del self._active[fetch.sub_id]
        if problem is None:
            self._ask(fetch)
        else:
            self._ended(fetch, f"{reason} (AUTH failed: {problem})")

    def _ended(self, fetch: Fetch, reason: str | None) -> None:
        self.progress_at_s = self._loop.time()
        self._end(fetch, reason)
        fetch.sink.ended(reason)

    def lost(self, error: PeerError) -> None:
        """The connection is over."""
        self.error = error
        active, self._active = self._active, {}
        for fetch in active.values():
            if not fetch.over.done():
                fetch.over.set_result(None)
