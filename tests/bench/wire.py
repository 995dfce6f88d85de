"""WebSocket framing for the load client: as little work per frame as Python allows.

Only what a benchmark needs of RFC 6455: masked text frames out, unmasked text, ping and close frames in. Nothing
here is used by the relay. No compression is ever offered.
"""

import base64
import hashlib
import struct
from collections.abc import Callable
from typing import Final

from tests.bench.errors import BenchError

__all__ = ["FrameReader", "handshake_request", "handshake_verdict", "masked_frame", "text_frame"]

_MASK: Final = b"\x5a\xc3\x17\x9e"
_KEY: Final = base64.b64encode(b"orly bench load!").decode()
_ACCEPT: Final = base64.b64encode(
    hashlib.sha1((_KEY + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode(), usedforsecurity=False).digest()
).decode()

_CONTINUATION: Final = 0x0
_TEXT: Final = 0x1
_CLOSE: Final = 0x8
_PING: Final = 0x9
_PONG: Final = 0xA


def masked_frame(opcode: int, payload: bytes) -> bytes:
    """Build one final client frame. The mask is fixed: the server has to undo it all the same."""
    n = len(payload)
    if n < 126:
        head = struct.pack("!BB", 0x80 | opcode, 0x80 | n)
    elif n < 65536:
        head = struct.pack("!BBH", 0x80 | opcode, 0x80 | 126, n)
    else:
        head = struct.pack("!BBQ", 0x80 | opcode, 0x80 | 127, n)
    mask = (_MASK * (n // 4 + 1))[:n]
    body = int.from_bytes(payload, "big") ^ int.from_bytes(mask, "big")
    return head + _MASK + body.to_bytes(n, "big")


def text_frame(payload: bytes) -> bytes:
    """Build one masked text frame."""
    return masked_frame(_TEXT, payload)


def handshake_request(host: str, port: int, path: str) -> bytes:
    """The opening request, without any extension."""
    return (
        f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {_KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()


def handshake_verdict(head: bytes) -> None:
    """Check a response head.

    Raises:
        BenchError: the server did not switch protocols, or answered another key.
    """
    lines = head.decode("latin-1").split("\r\n")
    if lines[0].split(" ")[1:2] != ["101"]:
        raise BenchError(f"WebSocket handshake refused: {lines[0]!r}")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    if headers.get("sec-websocket-accept") != _ACCEPT:
        raise BenchError("WebSocket handshake answered with a wrong Sec-WebSocket-Accept")
    if "sec-websocket-extensions" in headers:
        raise BenchError("the server switched on an extension that was not offered")


class FrameReader:
    """Cuts a byte stream into text messages.

    `on_text(data, start, end)` gets a message as a range of a buffer, so that a caller who only counts never copies.
    `on_control(frame)` gets a frame to write back (a pong).
    """

    __slots__ = ("_buffer", "_on_control", "_on_text", "_parts")

    def __init__(self, on_text: Callable[[bytes, int, int], None], on_control: Callable[[bytes], None]) -> None:
        self._buffer = b""
        self._parts: list[bytes] = []
        self._on_text = on_text
        self._on_control = on_control

    def feed(self, data: bytes) -> None:
        """Take bytes from the socket and hand over every complete message.

        Raises:
            BenchError: a close frame, or something a server must not send.
        """
        if self._buffer:
            data = self._buffer + data
        size = len(data)
        pos = 0
        on_text = self._on_text
        while size - pos >= 2:
            head = data[pos]
            n = data[pos + 1]
            start = pos + 2
            if n >= 126:
                width = 2 if n == 126 else 8
                if n > 127:
                    raise BenchError("the server sent a masked frame")
                start += width
                if size < start:
                    break
                n = int.from_bytes(data[start - width : start], "big")
            end = start + n
            if size < end:
                break
            if head == 0x81:
                on_text(data, start, end)
            else:
                self._other(head, data[start:end])
            pos = end
        self._buffer = data[pos:] if pos else data

    def _other(self, head: int, payload: bytes) -> None:
        opcode = head & 0x0F
        if opcode == _PING:
            self._on_control(masked_frame(_PONG, payload))
        elif opcode == _CLOSE:
            code = int.from_bytes(payload[:2], "big")
            raise BenchError(f"the server closed the connection: {code} {payload[2:].decode(errors='replace')}")
        elif opcode == _TEXT or (opcode == _CONTINUATION and self._parts):
            self._parts.append(payload)
            if head & 0x80:
                message = b"".join(self._parts)
                self._parts.clear()
                self._on_text(message, 0, len(message))
        elif opcode != _PONG:
            raise BenchError(f"the server sent an unexpected frame (first byte 0x{head:02x})")
