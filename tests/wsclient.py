"""WebSocket clients for tests: a well-behaved one that speaks JSON, and a raw one that may break every rule."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import cycle
from struct import pack, unpack
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as ws_connect
from websockets.exceptions import ConnectionClosed
from websockets.frames import Close

__all__ = [
    "BINARY",
    "CLOSE",
    "CONTINUATION",
    "DEADLINE_S",
    "PING",
    "PONG",
    "TEXT",
    "Client",
    "HttpReply",
    "RawClient",
    "connect",
    "frame",
    "http",
    "until",
]

DEADLINE_S: Final = 20.0
"""How long a test waits for what must happen; far beyond what it takes on a loaded machine."""

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA


async def until(condition: Callable[[], object], awaited: str = "the condition") -> None:
    """Waits until `condition()` holds; past the deadline it fails and says what was awaited."""
    loop = asyncio.get_running_loop()
    end_s = loop.time() + DEADLINE_S
    while not condition():
        assert loop.time() < end_s, f"waited {DEADLINE_S:g} s for {awaited}"
        await asyncio.sleep(0.002)


class Client:
    """A client on the `websockets` library: sends and receives JSON arrays."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    async def send(self, *message: Any) -> None:
        """Sends one message, given by its elements."""
        await self.connection.send(json.dumps(message, separators=(",", ":"), ensure_ascii=False))

    async def receive_text(self) -> str:
        """The next message as it came."""
        async with asyncio.timeout(DEADLINE_S):
            received = await self.connection.recv()
        assert isinstance(received, str)
        return received

    async def receive(self) -> list[Any]:
        """The next message."""
        message = json.loads(await self.receive_text())
        assert isinstance(message, list)
        return message

    async def receive_until(self, kind: str) -> list[list[Any]]:
        """Messages up to and including the first of that kind, such as `EOSE`."""
        messages = [await self.receive()]
        while messages[-1][0] != kind:
            messages.append(await self.receive())
        return messages

    async def closed(self) -> tuple[int, str]:
        """Waits for the server's close; code and reason. Messages before it are dropped."""
        close: Close | None = None
        try:
            async with asyncio.timeout(DEADLINE_S):
                while True:
                    await self.connection.recv()
        except ConnectionClosed as error:
            close = error.rcvd
        assert close is not None, "the connection ended without a close frame"
        return int(close.code), close.reason


@asynccontextmanager
async def connect(
    url: str, *, headers: Mapping[str, str] | None = None, max_size: int | None = None
) -> AsyncIterator[Client]:
    """Connects without compression, through no proxy, and pings nobody on its own.

    Raises:
        websockets.exceptions.InvalidStatus: The server refused the handshake.
    """
    async with ws_connect(
        url,
        additional_headers=dict(headers or {}),
        compression=None,
        max_size=max_size,
        open_timeout=DEADLINE_S,
        ping_interval=None,
        proxy=None,
    ) as connection:
        yield Client(connection)


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, masked: bool = True) -> bytes:
    """One frame as a client sends it, or as none should."""
    mask_bit = 0x80 if masked else 0
    length = len(payload)
    first = (0x80 if fin else 0) | opcode
    if length < 126:
        header = pack("!BB", first, mask_bit | length)
    elif length < 1 << 16:
        header = pack("!BBH", first, mask_bit | 126, length)
    else:
        header = pack("!BBQ", first, mask_bit | 127, length)
    if not masked:
        return header + payload
    key = os.urandom(4)
    return header + key + bytes(byte ^ mask for byte, mask in zip(payload, cycle(key), strict=False))


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpReply:
    """An HTTP response; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""


@dataclass(slots=True)
class RawClient:
    """A socket that says exactly what it is told to."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    url: str

    @classmethod
    async def open(cls, url: str) -> Self:
        """Opens a socket to the server of that URL and says nothing yet."""
        parts = urlsplit(url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=1 << 24)
        return cls(reader, writer, url)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.writer.transport.abort()
        await self.ended()

    def send(self, data: bytes) -> None:
        """Queues bytes without waiting for the server to take them."""
        self.writer.write(data)

    async def request(
        self, headers: Sequence[str] = (), *, method: str = "GET", path: str = "/", host: bool = True
    ) -> HttpReply:
        """Sends a request of these header lines and reads the answer."""
        lines = [f"{method} {path} HTTP/1.1", *headers]
        if host:
            lines.append(f"Host: {urlsplit(self.url).netloc}")
        self.send("".join(f"{line}\r\n" for line in [*lines, ""]).encode())
        return await self.reply(has_body=method != "HEAD")

    async def reply(self, *, has_body: bool = True) -> HttpReply:
        """Reads one HTTP response."""
        async with asyncio.timeout(DEADLINE_S):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = {}
            for line in filter(None, head[1:]):
                name, _, value = line.partition(":")
                headers[name.lower()] = value.strip()
            length = int(headers.get("content-length", 0)) if has_body else 0
            body = await self.reader.readexactly(length)
        return HttpReply(status=int(head[0].split(" ")[1]), headers=headers, body=body)

    async def upgrade(
        self, headers: Sequence[str] = (), *, path: str = "/", method: str = "GET", host: bool = True
    ) -> HttpReply:
        """Asks for a WebSocket; status 101 when it is one now."""
        asked = [
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==",
            "Sec-WebSocket-Version: 13",
        ]
        return await self.request([*asked, *headers], path=path, method=method, host=host)

    async def receive_frame(self) -> tuple[int, bytes]:
        """Opcode and payload of the next frame; fails when it is fragmented or masked."""
        async with asyncio.timeout(DEADLINE_S):
            first, second = await self.reader.readexactly(2)
            assert first & 0xF0 == 0x80, "a server sends whole frames without reserved bits"
            length = second
            if second == 126:
                (length,) = unpack("!H", await self.reader.readexactly(2))
            elif second == 127:
                (length,) = unpack("!Q", await self.reader.readexactly(8))
            assert second < 128, "a server does not mask"
            return first & 0x0F, await self.reader.readexactly(length)

    async def receive_close(self) -> tuple[int, str]:
        """Code and reason of the close frame that must come next."""
        opcode, payload = await self.receive_frame()
        assert opcode == CLOSE, f"a close frame was due, not opcode {opcode}: {payload[:80]!r}"
        return unpack("!H", payload[:2])[0], payload[2:].decode()

    async def ended(self) -> bytes:
        """Waits for the end of the stream, however it comes, and returns what came before it."""
        received = b""
        try:
            async with asyncio.timeout(DEADLINE_S):
                while chunk := await self.reader.read(1 << 20):
                    received += chunk
        except ConnectionError:
            pass
        return received


async def http(
    url: str, headers: Sequence[str] = (), *, method: str = "GET", path: str = "/", host: bool = True
) -> HttpReply:
    """One plain HTTP request on a socket of its own."""
    async with await RawClient.open(url) as client:
        return await client.request(headers, method=method, path=path, host=host)
