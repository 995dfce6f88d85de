"""WebSocket frames of a client (RFC 6455 section 5): many messages out of one read, many into one write.

Pure: bytes in, messages out. No extension is offered, so the reserved bits are never set.
"""

from collections.abc import Iterable
from os import urandom
from struct import Struct
from typing import Final

from websockets.frames import CloseCode

try:
    from websockets.speedups import apply_mask
except ImportError:  # the library without its C part
    from websockets.utils import apply_mask

__all__ = ["FrameError", "FrameSplitter", "Masker", "close_payload"]

CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA

_CONTINUATION: Final = 0x0
_TEXT: Final = 0x1
_BINARY: Final = 0x2
_FIN: Final = 0x80
_FIN_TEXT: Final = _FIN | _TEXT
_RESERVED_BITS: Final = 0x70
_MASKED: Final = 0x80
_MEDIUM: Final = 126
_LONG: Final = 127
_MAX_CONTROL_BYTES: Final = 125
_MAX_REASON_BYTES: Final = 123
_MAX_MEDIUM_BYTES: Final = 0xFFFF
_MASK_BYTES: Final = 4
_POOL_BYTES: Final = 4096

_pack_short = Struct("!BB").pack
_pack_medium = Struct("!BBH").pack
_pack_long = Struct("!BBQ").pack

_PRIVATE_CODES: Final = range(3000, 5000)
_KNOWN_CODES: Final = frozenset({1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014})


class FrameError(Exception):
    """The server broke a rule; the connection must fail.

    Attributes:
        code: Goes into our close frame.
    """

    def __init__(self, code: CloseCode, text: str) -> None:
        super().__init__(text)
        self.code = code


class FrameSplitter:
    """Cuts the byte stream of a server into text messages.

    Attributes:
        ping: Payload of the last ping that is not answered yet; an earlier one needs no answer (section 5.5.3).
        close: Code (None if the frame had none) and reason of the server's close frame. Nothing after it is read.
    """

    __slots__ = ("_buffered", "_chunks", "_fragments", "_max_message_bytes", "_wanted", "close", "ping")

    def __init__(self, max_message_bytes: int) -> None:
        self._max_message_bytes = max_message_bytes
        self._chunks: list[bytes] = []
        self._buffered = 0
        self._wanted = 0
        self._fragments: bytearray | None = None
        self.ping: bytes | None = None
        self.close: tuple[int | None, str] | None = None

    @property
    def unfinished_bytes(self) -> int:
        """What is held of a message that has not come to its end."""
        return self._buffered + (0 if self._fragments is None else len(self._fragments))

    def feed(self, data: bytes, messages: list[bytes]) -> None:
        """Takes what was read and appends every message that is complete now.

        Those before a broken rule are appended too.

        Raises:
            FrameError: A rule is broken. Nothing may be fed after that.
        """
        if self._buffered:
            self._chunks.append(data)
            self._buffered += len(data)
            if self._buffered < self._wanted:
                return  # joined once the frame is there: joining each time would cost the square of its size
            data = b"".join(self._chunks)
            self._chunks.clear()
            self._buffered = 0
        position, self._wanted = self._split(data, messages)
        if position < len(data):
            self._chunks.append(data[position:] if position else data)
            self._buffered = len(data) - position

    def _split(self, data: bytes, messages: list[bytes]) -> tuple[int, int]:
        """Returns where the first incomplete frame starts, and how many bytes it needs at least to go on."""
        size = len(data)
        position = 0
        append = messages.append
        max_bytes = self._max_message_bytes
        while size - position >= 2:
            head = data[position]
            length = data[position + 1]
            start = position + 2
            if length >= _MEDIUM:
                if length > _LONG:
                    raise FrameError(CloseCode.PROTOCOL_ERROR, "a masked frame")
                width = 2 if length == _MEDIUM else 8
                start += width
                if size < start:
                    return position, start - position
                length = int.from_bytes(data[start - width : start], "big")
                if length > max_bytes:
                    raise self._too_big()
            end = start + length
            if size < end:
                self._check_start(head, length)
                return position, end - position
            position = end
            if head == _FIN_TEXT and self._fragments is None and length <= max_bytes:
                payload = data[start:end]
                if not payload.isascii():
                    _check_utf8(payload)
                append(payload)
            elif self._other(head, data[start:end], messages):
                return size, 0
        return position, 2

    def _check_start(self, head: int, length: int) -> None:
        """Refuses a frame before its payload has come, so that what is refused is never collected."""
        opcode = head & 0x0F
        if head & _RESERVED_BITS:
            raise FrameError(CloseCode.PROTOCOL_ERROR, "a frame with reserved bits set")
        if opcode >= CLOSE:
            if opcode > PONG:
                raise FrameError(CloseCode.PROTOCOL_ERROR, f"a frame of the unknown kind {opcode}")
            if length > _MAX_CONTROL_BYTES or not head & _FIN:
                raise FrameError(CloseCode.PROTOCOL_ERROR, "a control frame that is too long or fragmented")
            return
        if opcode == _BINARY:
            raise FrameError(CloseCode.UNSUPPORTED_DATA, "a binary message")
        if opcode > _BINARY:
            raise FrameError(CloseCode.PROTOCOL_ERROR, f"a frame of the unknown kind {opcode}")
        if (opcode == _CONTINUATION) != (self._fragments is not None):
            raise FrameError(CloseCode.PROTOCOL_ERROR, "fragments of a message out of order")
        if length + (0 if self._fragments is None else len(self._fragments)) > self._max_message_bytes:
            raise self._too_big()

    def _too_big(self) -> FrameError:
        return FrameError(CloseCode.MESSAGE_TOO_BIG, f"a message of more than {self._max_message_bytes} bytes")

    def _other(self, head: int, payload: bytes, messages: list[bytes]) -> bool:
        """Takes a frame that is not a whole message; true if it ends the stream."""
        self._check_start(head, len(payload))
        opcode = head & 0x0F
        if opcode == CLOSE:
            self.close = _read_close(payload)
            return True
        if opcode == PING:
            self.ping = payload
        elif opcode != PONG:
            if self._fragments is None:
                self._fragments = bytearray()
            self._fragments += payload
            if head & _FIN:
                message, self._fragments = bytes(self._fragments), None
                _check_utf8(message)
                messages.append(message)
        return False


def _check_utf8(payload: bytes) -> None:
    try:
        payload.decode()
    except UnicodeDecodeError as error:
        raise FrameError(CloseCode.INVALID_DATA, f"a message that is not UTF-8 at byte {error.start}") from error


def _read_close(payload: bytes) -> tuple[int | None, str]:
    if not payload:
        return None, ""
    code = int.from_bytes(payload[:2], "big")
    if len(payload) < 2 or (code not in _KNOWN_CODES and code not in _PRIVATE_CODES):
        raise FrameError(CloseCode.PROTOCOL_ERROR, "a close frame without a valid code")
    try:
        return code, payload[2:].decode()
    except UnicodeDecodeError as error:
        raise FrameError(CloseCode.INVALID_DATA, "a close frame whose reason is not UTF-8") from error


class Masker:
    """Makes the frames of a client, each masked with a random key of its own (section 5.3)."""

    __slots__ = ("_pool", "_used")

    def __init__(self) -> None:
        self._pool = b""
        self._used = 0

    def frame(self, opcode: int, payload: bytes) -> bytes:
        """One final frame."""
        return b"".join(self._parts(_FIN | opcode, payload))

    def text_frames(self, payloads: Iterable[bytes]) -> bytes:
        """The frames of many text messages, joined; the payloads must be UTF-8."""
        parts: list[bytes] = []
        for payload in payloads:
            parts += self._parts(_FIN_TEXT, payload)
        return b"".join(parts)

    def _parts(self, head: int, payload: bytes) -> tuple[bytes, bytes, bytes]:
        length = len(payload)
        if length < _MEDIUM:
            header = _pack_short(head, _MASKED | length)
        elif length <= _MAX_MEDIUM_BYTES:
            header = _pack_medium(head, _MASKED | _MEDIUM, length)
        else:
            header = _pack_long(head, _MASKED | _LONG, length)
        if self._used == len(self._pool):
            self._pool = urandom(_POOL_BYTES)
            self._used = 0
        key = self._pool[self._used : self._used + _MASK_BYTES]
        self._used += _MASK_BYTES
        return header, key, apply_mask(payload, key)


def close_payload(code: int, reason: str) -> bytes:
    """What a close frame carries; the reason is cut between characters to what fits."""
    return code.to_bytes(2, "big") + reason.encode()[:_MAX_REASON_BYTES].decode(errors="ignore").encode()
