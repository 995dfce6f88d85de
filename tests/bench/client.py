"""The load client: many WebSocket connections on one loop, one swappable handler each.

A handler sees raw byte ranges and decides itself how much of a message it looks at. Replies it does not expect go to
`surprise`, which turns them into an error: a benchmark never counts a refusal as work done.
"""

import asyncio
from typing import Final, Protocol, cast
from urllib.parse import urlsplit

import msgspec
from tests.bench.errors import BenchError
from tests.bench.wire import FrameReader, handshake_request, handshake_verdict

__all__ = [
    "Channel",
    "Endpoint",
    "Handler",
    "fetch",
    "ok_verdict",
    "open_channel",
    "open_channels",
    "reply_name",
    "sub_of",
]

_OK: Final = b'["OK","'
_LABELS: Final = (b'["EVENT","', b'["EOSE","')
_OPEN_TIMEOUT_S: Final = 15.0
_FETCH_TIMEOUT_S: Final = 30.0


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """Where a relay listens."""

    host: str
    port: int
    path: str = "/"

    @classmethod
    def parse(cls, url: str) -> "Endpoint":
        """Read a ws:// URL.

        Raises:
            BenchError: not a plain WebSocket URL.
        """
        parts = urlsplit(url)
        try:
            port = parts.port or 80
        except ValueError as error:
            raise BenchError(f"{url!r}: {error}") from error
        if parts.scheme != "ws" or not parts.hostname:
            raise BenchError(f"{url!r} is not a ws:// URL (TLS would be measured with the relay; use a plain socket)")
        return cls(host=parts.hostname, port=port, path=parts.path or "/")


class Handler(Protocol):
    """What an operation does with the messages of a connection."""

    def text(self, channel: "Channel", data: bytes, start: int, end: int) -> None:
        """One message: `data[start:end]`."""

    def drained(self, channel: "Channel") -> None:
        """All messages of one socket read were handed over: the moment to write."""

    def failed(self, error: BenchError) -> None:
        """The connection is of no more use."""


class Channel(asyncio.Protocol):
    """One WebSocket connection."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.handler: Handler | None = None
        self.slot = 0
        self._endpoint = endpoint
        self._head = b""
        self._reader = FrameReader(self._text, self._control)
        self._transport: asyncio.Transport | None = None
        self._closing = False
        self._failure: BenchError | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one, but does not say so
        self._transport.write(handshake_request(self._endpoint.host, self._endpoint.port, self._endpoint.path))

    def data_received(self, data: bytes) -> None:
        try:
            if self.opened.done():
                self._reader.feed(data)
                if self.handler is not None:
                    self.handler.drained(self)
            else:
                self._handshake(data)
        except BenchError as error:
            self._fail(error)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._closing:
            self._fail(BenchError(f"the connection was lost: {exc or 'end of stream'}"))

    def write(self, data: bytes) -> None:
        """Send bytes made of complete frames.

        Raises:
            BenchError: the connection failed meanwhile; the text says how.
        """
        if self._failure is not None:
            raise self._failure
        assert self._transport is not None
        self._transport.write(data)

    def close(self) -> None:
        """Drop the connection."""
        self._closing = True
        if self._transport is not None:
            self._transport.abort()

    def _handshake(self, data: bytes) -> None:
        self._head += data
        head, found, rest = self._head.partition(b"\r\n\r\n")
        if not found:
            return
        handshake_verdict(head)
        self.opened.set_result(None)
        self._head = b""
        if rest:
            self._reader.feed(rest)

    def _text(self, data: bytes, start: int, end: int) -> None:
        if self.handler is not None:
            self.handler.text(self, data, start, end)

    def _control(self, frame: bytes) -> None:
        self.write(frame)

    def _fail(self, error: BenchError) -> None:
        self._failure = error
        self.close()
        if not self.opened.done():
            self.opened.set_exception(error)
        elif self.handler is not None:
            self.handler.failed(error)


async def open_channel(endpoint: Endpoint) -> Channel:
    """Connect and finish the handshake.

    Raises:
        BenchError: nothing listens there, or it is no WebSocket server.
    """
    loop = asyncio.get_running_loop()
    where = f"ws://{endpoint.host}:{endpoint.port}{endpoint.path}"
    try:
        async with asyncio.timeout(_OPEN_TIMEOUT_S):
            _, channel = await loop.create_connection(lambda: Channel(endpoint), endpoint.host, endpoint.port)
            await channel.opened
    except TimeoutError as error:
        raise BenchError(f"{where}: no WebSocket handshake within {_OPEN_TIMEOUT_S:g} s") from error
    except OSError as error:
        raise BenchError(f"{where}: {error}") from error
    return channel


async def open_channels(endpoint: Endpoint, count: int) -> list[Channel]:
    """Open `count` connections, in small groups so that no listen queue overflows; `slot` numbers them."""
    channels: list[Channel] = []
    while len(channels) < count:
        group = min(25, count - len(channels))
        channels += await asyncio.gather(*(open_channel(endpoint) for _ in range(group)))
    for slot, channel in enumerate(channels):
        channel.slot = slot
    return channels


async def fetch(endpoint: Endpoint, frame: bytes) -> list[bytes]:
    """Send one REQ frame on a connection of its own and return the EVENT messages up to EOSE.

    Raises:
        BenchError: no connection, a refusal, or no EOSE in time.
    """
    channel = await open_channel(endpoint)
    collector = _Collector()
    channel.handler = collector
    try:
        async with asyncio.timeout(_FETCH_TIMEOUT_S):
            channel.write(frame)
            await collector.done
    except TimeoutError as error:
        raise BenchError(f"a REQ got no EOSE within {_FETCH_TIMEOUT_S:g} s") from error
    finally:
        channel.close()
    return collector.messages


class _Collector:
    """Keeps whole messages up to EOSE."""

    def __init__(self) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.messages: list[bytes] = []

    def text(self, channel: Channel, data: bytes, start: int, end: int) -> None:
        match reply_name(data, start, end):
            case "EVENT":
                self.messages.append(data[start:end])
            case "EOSE" if not self.done.done():
                self.done.set_result(None)
            case _:
                pass

    def drained(self, channel: Channel) -> None:
        """Nothing is sent in answer."""

    def failed(self, error: BenchError) -> None:
        if not self.done.done():
            self.done.set_exception(error)


def ok_verdict(data: bytes, start: int, end: int) -> str | None:
    """The event id of an OK true; None when the message is no OK.

    Raises:
        BenchError: OK false, or the event was there already.
    """
    if data.startswith(_OK, start) and data.startswith(b'",true,""', start + 71):
        return data[start + 7 : start + 71].decode("latin-1")
    fields = _fields(data[start:end])
    if fields[0] != "OK":
        return None
    if len(fields) < 3 or fields[2] is not True:
        raise BenchError(f"the relay refused an event: {data[start:end].decode(errors='replace')[:300]}")
    if len(fields) > 3 and str(fields[3]).startswith("duplicate:"):
        raise BenchError("the relay has these events already, so it would skip most of the work; use another --seed")
    return str(fields[1])


def reply_name(data: bytes, start: int, end: int) -> str:
    """EVENT, EOSE, OK, AUTH ...; a CLOSED or NOTICE is an error.

    Raises:
        BenchError: the relay refused something.
    """
    if data.startswith(b'["EVENT",', start):
        return "EVENT"
    name = str(_fields(data[start:end])[0])
    if name in {"NOTICE", "CLOSED"}:
        raise BenchError(f"the relay answered {data[start:end].decode(errors='replace')[:300]}")
    return name


def sub_of(data: bytes, start: int, end: int) -> str:
    """The subscription id of an EVENT or EOSE message (the benchmark's ids need no escapes)."""
    for label in _LABELS:
        if data.startswith(label, start):
            begin = start + len(label)
            return data[begin : data.index(b'"', begin, end)].decode("latin-1")
    return str(_fields(data[start:end])[1])


def _fields(message: bytes) -> list[object]:
    try:
        fields = msgspec.json.decode(message, type=list[object])
    except msgspec.DecodeError as error:
        raise BenchError(f"the relay sent no JSON array: {message[:200]!r} ({error})") from error
    if len(fields) < 2:
        raise BenchError(f"the relay sent a message without a body: {message[:200]!r}")
    return fields
