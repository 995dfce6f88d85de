"""Headers of outgoing text frames (RFC 6455 section 5.2), so that one frame can be shared by many connections.

Nothing else of the wire format is made by hand: pings, pongs, closes and everything inbound belong to `websockets`.
"""

from collections.abc import Sequence
from struct import Struct
from typing import Final

__all__ = ["event_frames", "text_frame", "text_header"]

_FIN_TEXT: Final = 0x81  # final frame, opcode text; bit 8 of the next byte stays clear: a server does not mask
_SHORT_MAX: Final = 125
_MEDIUM_MAX: Final = 0xFFFF
_SHORT: Final = tuple(bytes((_FIN_TEXT, length)) for length in range(_SHORT_MAX + 1))
_pack_medium = Struct("!BBH").pack
_pack_long = Struct("!BBQ").pack


def text_header(length_bytes: int) -> bytes:
    """Header of an unmasked, unfragmented text frame whose payload has `length_bytes` bytes.

    Raises:
        ValueError: The length is negative or above 2^63-1, which no frame can carry.
    """
    if 0 <= length_bytes <= _SHORT_MAX:
        return _SHORT[length_bytes]
    if 0 <= length_bytes <= _MEDIUM_MAX:
        return _pack_medium(_FIN_TEXT, 126, length_bytes)
    if 0 <= length_bytes < 1 << 63:
        return _pack_long(_FIN_TEXT, 127, length_bytes)
    raise ValueError(f"a frame cannot carry {length_bytes} bytes")


def text_frame(payload: bytes) -> bytes:
    """One whole text frame as a server sends it; `payload` must be UTF-8, which is not checked here."""
    return text_header(len(payload)) + payload


def event_frames(prefix: bytes, rows: Sequence[bytes], suffix: bytes) -> bytes:
    """The frames of many payloads, each `prefix` + row + `suffix`, as one piece; every byte is copied once."""
    if len(rows) == 1:
        return text_frame(prefix + rows[0] + suffix)
    around = len(prefix) + len(suffix)
    pack_with_prefix = Struct(f"!BBH{len(prefix)}s").pack
    pieces: list[bytes] = []
    for row in rows:
        length = around + len(row)
        if _SHORT_MAX < length <= _MEDIUM_MAX:
            pieces += (pack_with_prefix(_FIN_TEXT, 126, length, prefix), row, suffix)
        else:
            pieces += (text_header(length), prefix, row, suffix)
    return b"".join(pieces)
