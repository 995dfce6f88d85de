"""Events: strict decoding, the id of NIP-01, and the one canonical encoding that is stored and sent."""

import json
from binascii import Error as HexError
from binascii import unhexlify
from hashlib import sha256
from typing import Any, Final

import msgspec
import orjson

from orly.nostr.kinds import MAX_KIND

__all__ = [
    "ID_IN_JSON",
    "MAX_CREATED_AT",
    "PUBKEY_IN_JSON",
    "DuplicateKeyError",
    "EncodedEvent",
    "Event",
    "EventError",
    "compute_id",
    "decode_event",
    "decode_stored",
    "decode_verified",
    "encode_event",
    "refuse_duplicate_keys",
]

MAX_CREATED_AT: Final = 2**63 - 1
ID_IN_JSON: Final = slice(7, 71)
"""Where canonical JSON has the id: `{"id":"<64>"`."""

PUBKEY_IN_JSON: Final = slice(83, 147)
"""Where it has the author: `{"id":"<64>","pubkey":"<64>"`."""

_MAX_ECHOED_ID: Final = 64


class Event(msgspec.Struct, frozen=True, gc=False):
    """A signed event with the seven fields of NIP-01, in the order of the canonical encoding."""

    id: str
    pubkey: str
    created_at: int
    kind: int
    tags: list[list[str]]
    content: str
    sig: str


class EncodedEvent(msgspec.Struct, frozen=True, gc=False):
    """A well-formed event beside what the hot paths need of it.

    Attributes:
        event: The decoded fields.
        raw: Canonical JSON, exactly the bytes that are stored and sent.
        id: 32 bytes.
        pubkey: 32 bytes.
        sig: 64 bytes, not yet verified (see `orly.nostr.signing`).
    """

    event: Event
    raw: bytes
    id: bytes
    pubkey: bytes
    sig: bytes


class EventError(ValueError):
    """An event breaks NIP-01; the text says how.

    Attributes:
        event_id: What the event gave as its id, if that is text of at most 64 characters.
    """

    def __init__(self, detail: str, event_id: str | None = None) -> None:
        super().__init__(detail)
        self.event_id = event_id if event_id is not None and len(event_id) <= _MAX_ECHOED_ID else None


class DuplicateKeyError(ValueError):
    """A JSON object names the same key twice."""


class _Named(msgspec.Struct, frozen=True, gc=False):
    """As much of a broken event as an answer needs; every other field is skipped unread."""

    id: str


_decoder: Final = msgspec.json.Decoder(Event)
_encoder: Final = msgspec.json.Encoder()
_named_decoder: Final = msgspec.json.Decoder(_Named)


def compute_id(pubkey: str, created_at: int, kind: int, tags: list[list[str]], content: str) -> str:
    """The id of NIP-01 in lower-case hex.

    Control characters other than the seven that NIP-01 names are hashed in their JSON escape, as every
    implementation does; DEL and everything above is hashed verbatim.
    """
    return sha256(orjson.dumps([0, pubkey, created_at, kind, tags, content])).hexdigest()


def _id_with_escaped_del(event: Event) -> str:
    """The id that strfry computes: there DEL (0x7f) is hashed as a six-character escape."""
    text = orjson.dumps([0, event.pubkey, event.created_at, event.kind, event.tags, event.content])
    return sha256(text.replace(b"\x7f", b"\\u007f")).hexdigest()


def encode_event(event: Event) -> bytes:
    """Canonical JSON: the seven keys in the order of `Event`, no white space, shortest escapes."""
    return _encoder.encode(event)


def decode_stored(raw: bytes) -> Event:
    """Decode canonical JSON that this project wrote; nothing is checked again."""
    return _decoder.decode(raw)


def decode_verified(raw: bytes) -> EncodedEvent:
    """Decode canonical JSON that another process of this relay has checked.

    Raises:
        EventError: The bytes are no event at all. What they say is not checked again.
    """
    try:
        event = _decoder.decode(raw)
        return EncodedEvent(event, raw, unhexlify(event.id), unhexlify(event.pubkey), unhexlify(event.sig))
    except (msgspec.DecodeError, UnicodeError, RecursionError, HexError, ValueError) as error:
        raise EventError(_describe(error), None) from None


def decode_event(raw: bytes) -> EncodedEvent:
    """Decode and check one event, all but its signature (NIP-01).

    Unknown top-level keys are dropped; they are no part of the id.

    Raises:
        EventError: The bytes are no event: JSON, types, ranges, hex, lengths or the id are wrong.
    """
    try:
        event = _decoder.decode(raw)
        encoded = _encoder.encode(event)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise EventError(_describe(error), _find_id(raw)) from None
    if len(encoded) != len(raw):
        _check_keys(raw, event.id)
    if not 0 <= event.kind <= MAX_KIND:
        raise EventError(f"kind is outside 0..{MAX_KIND}", event.id)
    if not 0 <= event.created_at <= MAX_CREATED_AT:
        raise EventError("created_at is outside 0..2^63-1", event.id)
    if [] in event.tags:
        raise EventError(f"tag {event.tags.index([])} is empty", event.id)
    pubkey = _hex_field(event, "pubkey", event.pubkey, 32)
    sig = _hex_field(event, "sig", event.sig, 64)
    id_bytes = sha256(orjson.dumps([0, event.pubkey, event.created_at, event.kind, event.tags, event.content])).digest()
    if id_bytes.hex() != event.id:
        id_bytes = _hex_field(event, "id", event.id, 32)
        if b"\x7f" not in encoded or _id_with_escaped_del(event) != event.id:
            raise EventError("id does not match the event", event.id)
    return EncodedEvent(event, encoded, id_bytes, pubkey, sig)


def _hex_field(event: Event, name: str, text: str, n_bytes: int) -> bytes:
    try:
        value = unhexlify(text)
    except (HexError, ValueError):
        value = b""
    if len(value) != n_bytes or value.hex() != text:
        raise EventError(f"{name} is not {n_bytes * 2} lower-case hex digits", event.id)
    return value


def _check_keys(raw: bytes, event_id: str) -> None:
    try:
        refuse_duplicate_keys(raw)
    except DuplicateKeyError as error:
        raise EventError(str(error), event_id) from None


def refuse_duplicate_keys(raw: bytes) -> None:
    """Check JSON that already decoded: no object in it may name a key twice.

    Raises:
        DuplicateKeyError: Names the key. Parsers differ on which of the two counts, so neither does. Also raised
            for faults in what the first decoding skipped unread: UTF-8, nesting, numbers of thousands of digits.
    """
    try:
        json.loads(raw.decode(), object_pairs_hook=_unique_pairs)
    except DuplicateKeyError:
        raise
    except UnicodeError:
        raise DuplicateKeyError("JSON is not valid UTF-8") from None
    except RecursionError:
        raise DuplicateKeyError("JSON is nested too deeply") from None
    except ValueError:
        raise DuplicateKeyError("JSON holds a number that is out of range") from None


def _unique_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise DuplicateKeyError(f"key {key[:40]!r} appears twice")
        found[key] = value
    return found


def _describe(error: Exception) -> str:
    match error:
        case msgspec.ValidationError():
            return f"event has a wrong field: {error}"
        case RecursionError():
            return "event is nested too deeply"
        case UnicodeError():
            return "event is not valid UTF-8"
        case _:
            return f"event is not valid JSON: {error}"


def _find_id(raw: bytes) -> str | None:
    """The id of something that is not an event, so that the answer can name it."""
    try:
        return _named_decoder.decode(raw).id
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
