"""The bytes of every index key: big-endian, fixed width, serial last, so that keys sort as the values do.

Every index that answers filters ends in a **position** of 26 bytes: created_at, the inverted first 8 bytes of
the id, the kind, the serial. Read backwards, an index is in NIP-01's order: newest first, ties by lowest id.
The kind stands in the position so that kinds, and who may read them, are decided without fetching the event.
"""

from hashlib import sha256
from struct import Struct
from typing import Final

from orly.nostr.event import EncodedEvent
from orly.nostr.tags import TAG_LETTERS, Address, event_address, expiration, indexed

__all__ = [
    "KIND_SLICE",
    "POSITION_BYTES",
    "SERIAL_SLICE",
    "IndexRows",
    "address_key",
    "address_of",
    "author_kind_prefix",
    "expiration_key",
    "index_rows",
    "invert",
    "kind_bytes",
    "position",
    "serial_bytes",
    "tag_prefix",
    "time_bytes",
    "time_key",
]

POSITION_BYTES: Final = 26
KIND_SLICE: Final = slice(16, 18)
SERIAL_SLICE: Final = slice(18, 26)

_INVERT: Final = bytes(255 - byte for byte in range(256))
_POSITION: Final = Struct(">Q8sHQ")
_U64: Final = Struct(">Q")
_U16: Final = Struct(">H")

_HEX_FORM: Final = {letter: letter.encode() + b"\x00" for letter in TAG_LETTERS}
_TEXT_FORM: Final = {letter: letter.encode() + b"\x01" for letter in TAG_LETTERS}

time_bytes = _U64.pack
"""created_at, or any other second, as 8 bytes."""
serial_bytes = _U64.pack
kind_bytes = _U16.pack


def invert(data: bytes) -> bytes:
    """Every bit flipped, so that a backward scan yields ascending values; its own inverse."""
    return data.translate(_INVERT)


def position(created_at: int, event_id: bytes, kind: int, serial: int) -> bytes:
    """The ending that orders an event in every index."""
    return _POSITION.pack(created_at, event_id[:8].translate(_INVERT), kind, serial)


def author_kind_prefix(pubkey: bytes, kind: int) -> bytes:
    """Author (32 bytes), kind."""
    return pubkey + _U16.pack(kind)


def tag_prefix(letter: str, value: str) -> bytes:
    """Letter, one byte for the form, 32 bytes: the value itself if it is hex of that length, else its hash.

    The form byte keeps a hex value from being mistaken for a text that hashes to it.
    """
    if len(value) == 64:
        try:
            packed = bytes.fromhex(value)
        except ValueError:
            packed = b""
        if packed.hex() == value:
            return _HEX_FORM[letter] + packed
    return _TEXT_FORM[letter] + sha256(value.encode()).digest()


def address_key(kind: int, pubkey: bytes, d: str) -> bytes:
    """Kind, author, hash of the `d` value: the place that one replaceable or addressable event may hold."""
    return _U16.pack(kind) + pubkey + sha256(d.encode()).digest()


def address_of(event: EncodedEvent) -> bytes | None:
    """The address key of an event; None for kinds of which every event is kept."""
    address: Address | None = event_address(event.event)
    return None if address is None else address_key(address[0], event.pubkey, address[2])


def time_key(created_at: int, event_id: bytes) -> bytes:
    """created_at, inverted id: every event in time order with its whole id, for scans and negentropy."""
    return _U64.pack(created_at) + event_id.translate(_INVERT)


def expiration_key(expires_at: int, serial: int) -> bytes:
    """Second of expiry, serial."""
    return _U64.pack(expires_at) + _U64.pack(serial)


class IndexRows:
    """The keys under which one event stands in each index."""

    __slots__ = ("author", "author_kind", "expiration", "kind", "serial", "tags", "time", "time_value")

    def __init__(self, event: EncodedEvent, serial: int) -> None:
        fields = event.event
        self.serial = _U64.pack(serial)
        kind = _U16.pack(fields.kind)
        ending = _POSITION.pack(fields.created_at, event.id[:8].translate(_INVERT), fields.kind, serial)
        self.time = ending[:8] + event.id.translate(_INVERT)
        self.time_value = ending[16:]
        self.author = event.pubkey + ending
        self.author_kind = event.pubkey + kind + ending
        self.kind = kind + ending
        self.tags = [tag_prefix(letter, value) + ending for letter, value in indexed(fields)] if fields.tags else []
        expires_at = expiration(fields) if fields.tags else None
        self.expiration = None if expires_at is None else _U64.pack(expires_at) + self.serial


def index_rows(event: EncodedEvent, serial: int) -> IndexRows:
    """All index keys of an event that is stored under a serial."""
    return IndexRows(event, serial)
