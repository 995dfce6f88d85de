"""Numbers and bounds as Negentropy Protocol V1 writes them.

A varint is big-endian, seven bits a byte, with the high bit set in all bytes but the last. A bound is a timestamp,
written as the distance from the bound before plus one (0 stands for infinity), and the shortest part of an id that
tells the two items apart between which it lies.
"""

from collections.abc import Iterable
from typing import Final

from orly.negentropy.errors import NegentropyError

__all__ = ["INFINITY_S", "BoundWriter", "read_varint", "varint"]

INFINITY_S: Final = 2**64 - 1
"""The timestamp above all others; no item may have it."""

_MAX_BEFORE_LAST_BYTE: Final = INFINITY_S >> 7
_ONE_BYTE: Final = [bytes((number,)) for number in range(0x80)]


def varint(number: int) -> bytes:
    """Encode a number from 0 on."""
    if number < 0x80:
        return _ONE_BYTE[number]
    if number < 0x4000:
        return bytes((number >> 7 | 0x80, number & 0x7F))
    found = [number & 0x7F]
    number >>= 7
    while number:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.reverse()
    return bytes(found)


def read_varint(message: bytes, at: int) -> tuple[int, int]:
    """Decode a number of at most 64 bits; returns it and where the next field begins.

    Raises:
        NegentropyError: The message ends inside of it, or it is longer.
    """
    start = at
    number = 0
    try:
        while number <= _MAX_BEFORE_LAST_BYTE:
            byte = message[at]
            at += 1
            if byte < 0x80:
                return number << 7 | byte, at
            number = number << 7 | byte & 0x7F
    except IndexError:
        raise NegentropyError(f"the message ends inside the number at byte {start}") from None
    raise NegentropyError(f"the number at byte {start} has more than 64 bits")


class BoundWriter:
    """Writes the bounds of one message, which build on each other."""

    __slots__ = ("_last_s",)

    def __init__(self) -> None:
        self._last_s = 0

    def bound(self, timestamp_s: int, id_prefix: bytes) -> bytes:
        """The next bound; never below the one before."""
        if timestamp_s == INFINITY_S:
            self._last_s = INFINITY_S
            return b"\0" + bytes((len(id_prefix),)) + id_prefix
        distance = timestamp_s - self._last_s + 1
        self._last_s = timestamp_s
        return varint(distance) + _ONE_BYTE[len(id_prefix)] + id_prefix

    def bounds(self, ascending: Iterable[tuple[int, bytes]]) -> bytes:
        """Many bounds below infinity: of each the timestamp, and all that stands between it and the next one's."""
        last_s = self._last_s
        parts: list[bytes] = []
        for timestamp_s, behind in ascending:
            distance = timestamp_s - last_s + 1
            last_s = timestamp_s
            parts.append(_ONE_BYTE[distance] if distance < 0x80 else varint(distance))
            parts.append(behind)
        self._last_s = last_s
        return b"".join(parts)
