"""A WebSocket to another relay: handshake, messages in, silence and close. It knows nothing of Nostr."""

import asyncio
from functools import lru_cache
from ssl import SSLContext, create_default_context
from typing import Final, Protocol

from websockets.frames import CloseCode

from orly.sync.peer_errors import (
    PeerClosedError,
    PeerError,
    PeerJunkError,
    PeerRefusedError,
    PeerSilentError,
    PeerUnreachableError,
)
from orly.sync.peer_frames import CLOSE, PING, PONG, FrameError, FrameSplitter, close_payload
from orly.sync.peer_handshake import Handshake, because
from orly.sync.peer_options import PeerOptions
from orly.sync.peer_outbox import PeerOutbox

__all__ = ["PeerSocket", "SocketUser"]

_TICKS_PER_LIMIT: Final = 4
_PINGS_PER_SILENCE: Final = 3


class SocketUser(Protocol):
    """Who speaks over a socket."""

    def receive(self, messages: list[bytes]) -> None:
        """All that one read brought."""

    def awaited(self) -> str:
        """What is awaited now, for the text of an error."""

    def overdue(self, now_s: float) -> str | None:
        """What should have come by now; None = nothing. `now_s` is the time of the loop."""

    def reading_resumed(self, now_s: float) -> None:
        """Nothing could come until now."""

    def connection_lost(self, error: PeerError) -> None:
        """The connection is over. Called once, and nothing is called after it."""


class PeerSocket(PeerOutbox):
    """The connection. Every method is called on the loop that it was made on.

    Attributes:
        name: The URL without what is secret in it.
        bytes_received: Read from the socket, handshake included.
        messages_received: Text messages.
    """

    __slots__ = (
        "_closed",
        "_cut",
        "_handshake",
        "_heard_at_s",
        "_is_reading",
        "_opened",
        "_options",
        "_pinged",
        "_splitter",
        "_taken_bytes",
        "_tick_by_s",
        "_timer",
        "_user",
        "_was_held_up",
        "bytes_received",
        "messages_received",
        "name",
    )

    def __init__(self, url: str, options: PeerOptions, user: SocketUser) -> None:
        """Reads the URL.

        Raises:
            PeerUnreachableError: It is none of a relay.
        """
        super().__init__()
        self._handshake: Handshake | None = Handshake(url)
        self.name = self._handshake.name
        self.bytes_received = self.messages_received = 0
        self._options = options
        self._user = user
        self._opened: asyncio.Future[PeerError | None] = self._loop.create_future()
        self._closed: asyncio.Future[None] = self._loop.create_future()
        self._splitter = FrameSplitter(options.max_message_bytes)
        self._is_reading = True
        self._pinged = False
        self._heard_at_s = self._tick_by_s = self._loop.time()
        self._taken_bytes = 0
        self._was_held_up = False
        self._timer: asyncio.TimerHandle | None = None
        self._cut: asyncio.TimerHandle | None = None

    # The socket opens and closes.

    async def connect(self) -> None:
        """Connects and shakes hands; called once, before anything else.

        Raises:
            PeerUnreachableError: Nobody is there or closes at once, or the time is up.
            PeerRefusedError: The other side does not want to.
        """
        handshake = self._handshake
        assert handshake is not None
        tls = (self._options.tls or _system_tls()) if handshake.is_secure else None
        transport: asyncio.BaseTransport | None = None
        is_connected = False
        try:
            async with asyncio.timeout(self._options.connect_timeout_s):
                transport, _ = await self._loop.create_connection(lambda: self, handshake.host, handshake.port, ssl=tls)
                refusal = await self._opened
            is_connected = refusal is None
        except TimeoutError as error:
            text = f"{self.name} did not answer within {self._options.connect_timeout_s:g} s"
            raise PeerUnreachableError(text) from error
        except (OSError, ValueError) as error:  # the latter for names that no host can have
            raise PeerUnreachableError(f"{self.name} cannot be reached{because(error)}") from error
        finally:
            if transport is not None and not is_connected:  # the end of the handshake may have come too late
                self._transport.abort()
        if refusal is not None:
            raise refusal

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called with the socket, after TLS if there is any."""
        super().connection_made(transport)
        assert self._handshake is not None
        self._write(self._handshake.request(self._options.user_agent, self._options.headers))

    @property
    def is_open(self) -> bool:
        """Whether the handshake is over and the connection is not."""
        return self._handshake is None and self.error is None

    def connection_lost(self, exc: Exception | None) -> None:
        """Called once the socket is closed, by whichever side."""
        if self._handshake is not None:
            self._end(PeerUnreachableError(f"{self.name} closed the connection during the handshake{because(exc)}"))
        self._end(PeerClosedError(f"{self.name} closed the connection without a close frame{because(exc)}"))
        for timer in (self._timer, self._cut):
            if timer is not None:
                timer.cancel()
        if not self._closed.done():
            self._closed.set_result(None)

    def _end(self, error: PeerError) -> None:
        """Says once that the connection is over; what is left is to close the socket."""
        if self.error is not None:
            return
        self._discard_queue(error)
        if self._handshake is not None:
            if not self._opened.done():
                self._opened.set_result(error)
        else:
            self._user.connection_lost(error)

    def _fail(self, error: PeerError, code: int, reason: str) -> None:
        """Ends the connection with a close frame that says why."""
        if not self._closing:
            self._say_close(code, reason)
        self._end(error)
        self._transport.close()

    def _say_close(self, code: int, reason: str) -> None:
        self._closing = True
        self._write(self._masker.frame(CLOSE, close_payload(code, reason)))
        self._cut = self._loop.call_later(self._options.close_timeout_s, self._transport.abort)

    async def close(self) -> None:
        """Sends what the socket takes of the queue and a close frame; returns when it is closed, one way or another."""
        if self.error is None and not self._closing:
            self.flush()
            self._say_close(CloseCode.NORMAL_CLOSURE, "")
            self._end(PeerClosedError(f"the connection to {self.name} was closed by us"))
            if not self._is_reading:
                self._transport.resume_reading()  # to see the close frame of the other side
        await asyncio.shield(self._closed)

    # Inbound.

    def data_received(self, data: bytes) -> None:
        """Called by the loop with what the socket gave."""
        self.bytes_received += len(data)
        self._heard_at_s = self._loop.time()
        self._pinged = False
        if self._handshake is not None:
            data = self._shake_hands(data)
        if data and self._handshake is None:
            self._take(data)

    def _shake_hands(self, data: bytes) -> bytes:
        """Takes the answer to the handshake; returns what came after it."""
        assert self._handshake is not None
        try:
            rest = self._handshake.take(data)
        except PeerRefusedError as error:
            self._end(error)
            self._transport.abort()
            return b""
        if rest is None:
            return b""
        self._handshake = None
        if not self._opened.done():
            self._opened.set_result(None)
        self._tick_by_s = self._loop.time()
        self._tick()
        return rest

    def _take(self, data: bytes) -> None:
        splitter = self._splitter
        messages: list[bytes] = []
        problem: FrameError | None = None
        try:
            splitter.feed(data, messages)
        except FrameError as error:
            problem = error
        if messages and self.error is None:
            self.messages_received += len(messages)
            self._user.receive(messages)
        if problem is not None:
            self._fail(PeerJunkError(f"{self.name} sent {problem}"), problem.code, str(problem))
        elif splitter.close is not None:
            self._closed_by_peer(*splitter.close)
        elif splitter.ping is not None and not self._closing:
            self._write(self._masker.frame(PONG, splitter.ping))
            splitter.ping = None

    def _closed_by_peer(self, code: int | None, reason: str) -> None:
        said = "" if code is None else f" with code {code}"
        error = PeerClosedError(f"{self.name} closed the connection{said}{because(reason)}", code)
        self._fail(error, CloseCode.NORMAL_CLOSURE if code is None else code, "")

    def junk(self, text: str) -> None:
        """Ends the connection since the other side talks nonsense."""
        self._fail(PeerJunkError(f"{self.name} sent {text}"), CloseCode.POLICY_VIOLATION, text)

    def pause_reading(self) -> None:
        """Reads nothing more until `resume_reading`; what was read already is still handed over."""
        if self._is_reading and self.error is None:
            self._is_reading = False
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Ends `pause_reading`. What could not be read meanwhile is nobody's silence."""
        if not self._is_reading and self.error is None:
            self._is_reading = True
            self._start_clocks()
            self._transport.resume_reading()

    def _start_clocks(self) -> None:
        now_s = self._loop.time()
        self._heard_at_s = self._progress_at_s = now_s
        self._pinged = False
        self._user.reading_resumed(now_s)

    # Silence.

    def _tick(self) -> None:
        """Looks at what is overdue, several times within each limit."""
        if self.error is not None:
            return
        now_s = self._loop.time()
        options = self._options
        interval_s = min(options.silence_timeout_s, options.answer_timeout_s) / _TICKS_PER_LIMIT
        if now_s > self._tick_by_s + interval_s:
            self._start_clocks()  # this process stood still, the other side may well have spoken
        self._tick_by_s = now_s + interval_s
        if self._is_reading:
            self._check_silence(now_s)
        if self.error is None:
            self._timer = self._loop.call_later(interval_s, self._tick)

    def _check_silence(self, now_s: float) -> None:
        silence_s = self._options.silence_timeout_s
        unsent_bytes = self._transport.get_write_buffer_size()
        taken_bytes = self.bytes_sent - unsent_bytes
        if taken_bytes != self._taken_bytes or not unsent_bytes:
            if self._was_held_up:
                self._heard_at_s = now_s  # it reads, and may come to our ping late
            self._taken_bytes = taken_bytes
            self._progress_at_s = now_s
        self._was_held_up = unsent_bytes > 0
        overdue = self._user.overdue(now_s)
        if now_s - self._heard_at_s >= silence_s:
            self._give_up("said nothing", silence_s, self._user.awaited())
        elif now_s - self._progress_at_s >= silence_s:
            self._give_up("took nothing that was sent", silence_s, "the other side to read")
        elif overdue is not None:
            self._give_up("did not answer", self._options.answer_timeout_s, overdue)
        elif now_s - self._heard_at_s >= silence_s / _PINGS_PER_SILENCE and not self._pinged:
            self._pinged = True
            self._write(self._masker.frame(PING, b""))

    def _give_up(self, what: str, timeout_s: float, awaited: str) -> None:
        self._end(PeerSilentError(f"{self.name} {what} for {timeout_s:g} s; awaited: {awaited}", awaited))
        self._transport.abort()


@lru_cache(maxsize=1)
def _system_tls() -> SSLContext:
    return create_default_context()
