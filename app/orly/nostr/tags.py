"""Reading the tags of an event: which are indexed, and the ones with a meaning to a relay."""

from collections.abc import Iterator
from re import DOTALL
from re import compile as compile_re
from typing import Final

from orly.nostr.event import MAX_CREATED_AT, Event
from orly.nostr.kinds import KindClass, classify

__all__ = [
    "TAG_LETTERS",
    "Address",
    "d_value",
    "event_address",
    "expiration",
    "first_value",
    "indexed",
    "is_protected",
    "parse_address",
    "values",
]

TAG_LETTERS: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")

_ADDRESS: Final = compile_re(r"(0|[1-9][0-9]{0,4}):([0-9a-f]{64})(:.*)?", DOTALL)

Address = tuple[int, str, str]
"""Kind, author (hex) and `d` value of a replaceable or addressable event."""


def first_value(event: Event, name: str) -> str | None:
    """The value of the first tag with that name; None if there is none or it has no value."""
    for tag in event.tags:
        if tag[0] == name:
            return tag[1] if len(tag) > 1 else None
    return None


def values(event: Event, name: str) -> Iterator[str]:
    """The first value of every tag with that name."""
    return (tag[1] for tag in event.tags if tag[0] == name and len(tag) > 1)


def indexed(event: Event) -> set[tuple[str, str]]:
    """Every (letter, first value) that a filter can ask for (NIP-01: single letters, first value only)."""
    return {(tag[0], tag[1]) for tag in event.tags if len(tag) > 1 and tag[0] in TAG_LETTERS}


def d_value(event: Event) -> str:
    """The `d` value of an addressable event; empty when the tag is missing or bare (NIP-01)."""
    return first_value(event, "d") or ""


def event_address(event: Event) -> Address | None:
    """The address that at most one stored event may have; None for kinds without one."""
    match classify(event.kind):
        case KindClass.REPLACEABLE:
            return (event.kind, event.pubkey, "")
        case KindClass.ADDRESSABLE:
            return (event.kind, event.pubkey, d_value(event))
        case KindClass.REGULAR | KindClass.EPHEMERAL:
            return None


def parse_address(text: str) -> Address | None:
    """Read an `a` tag's `<kind>:<pubkey>:<d>`; None if it is not the address of any event.

    The last colon may be missing where there is no `d` value: `<kind>:<pubkey>` names a replaceable event too.
    """
    found = _ADDRESS.fullmatch(text)
    if found is None:
        return None
    kind, pubkey, rest = int(found[1]), found[2], found[3]
    match classify(kind):
        case KindClass.ADDRESSABLE:
            return (kind, pubkey, rest[1:]) if rest is not None else None
        case KindClass.REPLACEABLE:
            return (kind, pubkey, "") if rest in (None, ":") else None
        case KindClass.REGULAR | KindClass.EPHEMERAL:
            return None


def expiration(event: Event) -> int | None:
    """The second at which the event stops existing (NIP-40); an unreadable value means never."""
    text = first_value(event, "expiration")
    if text is None or not (text.isascii() and text.isdigit()) or len(text) > 20:
        return None
    return min(int(text), MAX_CREATED_AT)


def is_protected(event: Event) -> bool:
    """Whether only the author may publish it (NIP-70: there is a tag named `-`)."""
    return "-" in [tag[0] for tag in event.tags]
