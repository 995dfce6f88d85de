"""Events and filters of `orlydb.v1` messages, for tools and other languages, and those of `orly.nostr`.

Ids and keys travel as raw bytes. A relay of the ORLY family sends the value of an `e` or `p` tag as 33 bytes, the
decoded hex and a zero; it is read, and never written: hex text is understood on both sides.
"""

from collections.abc import Iterable, Mapping
from typing import Final

from orly.nostr.event import MAX_CREATED_AT, Event, EventError
from orly.nostr.filter import MAX_LIMIT, Filter, FilterError
from orly.nostr.kinds import MAX_KIND
from orly.nostr.tags import TAG_LETTERS
from orly.pb.orlydb.v1 import types_pb2

__all__ = ["ID_BYTES", "filter_from_pb", "filter_to_pb", "from_pb", "to_pb"]

ID_BYTES: Final = 32
"""Length of an id and of a public key."""

_SIG_BYTES: Final = 64
_BINARY_TAGS: Final = frozenset("ep")


def to_pb(event: Event) -> types_pb2.Event:
    """The message for a well-formed event."""
    return types_pb2.Event(
        id=bytes.fromhex(event.id),
        pubkey=bytes.fromhex(event.pubkey),
        created_at=event.created_at,
        kind=event.kind,
        tags=[types_pb2.Tag(values=[value.encode() for value in tag]) for tag in event.tags],
        content=event.content.encode(),
        sig=bytes.fromhex(event.sig),
    )


def from_pb(message: types_pb2.Event) -> Event:
    """The event in a message; numbers, id and signature are not checked.

    Raises:
        EventError: A field has a wrong length or is not UTF-8; the text names it.
    """
    event_id = message.id.hex()
    for name, value, n_bytes in (
        ("id", message.id, ID_BYTES),
        ("pubkey", message.pubkey, ID_BYTES),
        ("sig", message.sig, _SIG_BYTES),
    ):
        if len(value) != n_bytes:
            raise EventError(f"{name} has {len(value)} bytes, not {n_bytes}", event_id)
    try:
        tags = [_tag(tag.values) for tag in message.tags]
    except UnicodeDecodeError:
        raise EventError("tags are not valid UTF-8", event_id) from None
    try:
        content = message.content.decode()
    except UnicodeDecodeError:
        raise EventError("content is not valid UTF-8", event_id) from None
    return Event(event_id, message.pubkey.hex(), message.created_at, message.kind, tags, content, message.sig.hex())


def _tag(values: Iterable[bytes]) -> list[str]:
    items = list(values)
    if len(items) > 1:
        return [items[0].decode(), _tag_value(items[0].decode(), items[1]), *(item.decode() for item in items[2:])]
    return [item.decode() for item in items]


def _tag_value(name: str, value: bytes) -> str:
    if name in _BINARY_TAGS and len(value) == ID_BYTES + 1 and value[-1] == 0:
        return value[:-1].hex()
    return value.decode()


def filter_to_pb(wanted: Filter) -> types_pb2.Filter:
    """The message for a filter.

    A message cannot hold an empty list or a time above every event; a filter that has one matches nothing, and so
    does the message, by a limit of 0.
    """
    message = types_pb2.Filter(
        ids=_to_bytes(wanted.ids),
        authors=_to_bytes(wanted.authors),
        kinds=sorted(wanted.kinds or ()),
        tags={
            letter: types_pb2.TagSet(values=sorted(value.encode() for value in values))
            for letter, values in wanted.tags.items()
        },
    )
    if wanted.since > 0:
        message.since = min(wanted.since, MAX_CREATED_AT)
    if wanted.until < MAX_CREATED_AT:
        message.until = wanted.until
    if wanted.limit is not None:
        message.limit = wanted.limit
    if wanted.matches_nothing():
        message.limit = 0
    return message


def _to_bytes(texts: frozenset[str] | None) -> list[bytes]:
    return [bytes.fromhex(text) for text in sorted(texts or ())]


def filter_from_pb(message: types_pb2.Filter) -> Filter:
    """The filter in a message; a list without entries does not limit.

    Raises:
        FilterError: A value has a wrong length or form, or a key is not supported; the text names the field.
    """
    if message.search:
        raise FilterError("filter key 'search' is not supported", unsupported=True)
    if any(kind > MAX_KIND for kind in message.kinds):
        raise FilterError(f"filter kinds must hold integers from 0 to {MAX_KIND}")
    return Filter(
        ids=_hex_set("ids", message.ids),
        authors=_hex_set("authors", message.authors),
        kinds=frozenset(message.kinds) or None,
        tags=_tags(message.tags),
        since=max(message.since, 0) if message.HasField("since") else 0,
        until=max(message.until, -1) if message.HasField("until") else MAX_CREATED_AT,
        limit=min(message.limit, MAX_LIMIT) if message.HasField("limit") else None,
    )


def _hex_set(name: str, values: Iterable[bytes]) -> frozenset[str] | None:
    found = list(values)
    for value in found:
        if len(value) != ID_BYTES:
            raise FilterError(f"filter {name} must hold {ID_BYTES} bytes each, not {len(value)}")
    return frozenset(value.hex() for value in found) or None


def _tags(sets: Mapping[str, types_pb2.TagSet]) -> dict[str, frozenset[str]]:
    tags: dict[str, frozenset[str]] = {}
    for key, values in sets.items():
        letter = key.removeprefix("#")
        if letter not in TAG_LETTERS:
            raise FilterError(f"filter key {key[:40]!r} is not supported", unsupported=True)
        try:
            found = frozenset(_tag_value(letter, value) for value in values.values)
        except UnicodeDecodeError:
            raise FilterError(f"filter tags {key!r} must hold UTF-8 only") from None
        tags[letter] = tags.get(letter, frozenset()) | found
    return tags
