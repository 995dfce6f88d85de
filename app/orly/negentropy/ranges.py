"""Reading the ranges of a message, a bounded number at a time.

A message is one byte for the version and then ranges: an upper bound, a mode, and what belongs to the mode. A range
begins where the one before ended. What is read here was written by a stranger: every length is checked against what
is there before anything is made of it, and the work is proportional to the bytes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from orly.negentropy.encoding import INFINITY_S, read_varint
from orly.negentropy.errors import NegentropyError

__all__ = [
    "FINGERPRINT",
    "FINGERPRINT_BYTES",
    "ID_BYTES",
    "ID_LIST",
    "PROTOCOL_VERSION",
    "SKIP",
    "Ranges",
    "check_version",
    "is_complete",
    "read_ranges",
]

PROTOCOL_VERSION: Final = 0x61
"""The first byte of every message: version 1."""

_VERSIONS: Final = range(0x60, 0x70)

ID_BYTES: Final = 32
FINGERPRINT_BYTES: Final = 16

SKIP: Final = 0
"""Nothing is to be done about the range."""

FINGERPRINT: Final = 1
"""The sender's fingerprint of the range follows."""

ID_LIST: Final = 2
"""The number of the sender's ids in the range follows, and the ids."""

_PLAIN: Final = bytes((0, FINGERPRINT))
"""What follows the timestamp of nearly every range: nothing of an id, and a fingerprint."""

_PLAIN_BYTES: Final = len(_PLAIN) + FINGERPRINT_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranges:
    """Some consecutive ranges of a message, field by field.

    Attributes:
        keys: The upper bounds as rows of an item set, one after the other: timestamp, id filled up with zeros.
        timestamps_s: The timestamps of the upper bounds.
        id_prefixes: What the upper bounds have of an id.
        modes: `SKIP`, `FINGERPRINT` or `ID_LIST`.
        starts: Where in the message the fingerprint or the first id is.
        counts: How many ids there are.
    """

    keys: bytes
    timestamps_s: list[int]
    id_prefixes: list[bytes]
    modes: list[int]
    starts: list[int]
    counts: list[int]


def check_version(message: bytes) -> int:
    """The version a message begins with.

    Raises:
        NegentropyError: It is empty, or begins with no version.
    """
    if not message:
        raise NegentropyError("the message is empty")
    version = message[0]
    if version not in _VERSIONS:
        raise NegentropyError(f"the message begins with 0x{version:02x}, which is no version of the protocol")
    return version


def read_ranges(message: bytes, *, at_a_time: int) -> Iterator[Ranges]:
    """The ranges of a message, up to so many at a time.

    Raises:
        NegentropyError: A range is malformed. Those before it were given out.
    """
    at = 1
    end = len(message)
    last_s = 0
    last_key = b""
    while at < end:
        keys: list[bytes] = []
        timestamps_s: list[int] = []
        id_prefixes: list[bytes] = []
        modes: list[int] = []
        starts: list[int] = []
        counts: list[int] = []
        while at < end and len(modes) < at_a_time:
            begin = at
            distance, at = read_varint(message, at)
            last_s = min(last_s + distance - 1, INFINITY_S) if distance else INFINITY_S
            if message[at : at + 2] == _PLAIN and at + _PLAIN_BYTES <= end:
                id_prefix, mode, start, count = b"", FINGERPRINT, at + 2, 0
                at += _PLAIN_BYTES
            else:
                id_prefix, at = _read_id_prefix(message, at)
                mode, at = read_varint(message, at)
                start, count, at = _read_payload(message, mode, at)
            key = last_s.to_bytes(8, "big") + id_prefix.ljust(ID_BYTES, b"\0")
            if key < last_key:
                raise NegentropyError(f"the bound at byte {begin} lies below the one before")
            last_key = key
            keys.append(key)
            timestamps_s.append(last_s)
            id_prefixes.append(id_prefix)
            modes.append(mode)
            starts.append(start)
            counts.append(count)
        yield Ranges(
            keys=b"".join(keys),
            timestamps_s=timestamps_s,
            id_prefixes=id_prefixes,
            modes=modes,
            starts=starts,
            counts=counts,
        )


def _read_id_prefix(message: bytes, at: int) -> tuple[bytes, int]:
    """The id part of a bound, and where the next field begins."""
    length, start = read_varint(message, at)
    if not length:
        return b"", start
    if length > ID_BYTES:
        raise NegentropyError(f"the bound has {length} bytes of an id at byte {at}; an id has {ID_BYTES}")
    end = start + length
    if end > len(message):
        raise NegentropyError(f"the message ends inside the id of the bound at byte {at}")
    return message[start:end], end


def _read_payload(message: bytes, mode: int, at: int) -> tuple[int, int, int]:
    """What follows a mode: where its data begins, how many ids it has, and where the next field begins."""
    if mode == FINGERPRINT:
        if at + FINGERPRINT_BYTES > len(message):
            raise NegentropyError(f"the message ends inside the fingerprint at byte {at}")
        return at, 0, at + FINGERPRINT_BYTES
    if mode == ID_LIST:
        count, start = read_varint(message, at)
        if count > (len(message) - start) // ID_BYTES:
            raise NegentropyError(f"the list at byte {at} announces {count} ids; the message ends before")
        return start, count, start + count * ID_BYTES
    if mode == SKIP:
        return at, 0, at
    raise NegentropyError(f"the range before byte {at} has the unknown mode {mode}")


def is_complete(message: bytes) -> bool:
    """Whether an answer says that nothing is left to do: it has no range, or skips only.

    Raises:
        NegentropyError: The message is malformed, or of another version.
    """
    if check_version(message) != PROTOCOL_VERSION:
        raise NegentropyError(f"the message is of version 0x{message[0]:02x}, not of 0x{PROTOCOL_VERSION:02x}")
    return all(mode == SKIP for ranges in read_ranges(message, at_a_time=256) for mode in ranges.modes)
