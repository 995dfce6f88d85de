"""Filters of NIP-01: strict reading, and the one rule that says whether an event matches."""

from re import compile as compile_re
from typing import Any, Final

import msgspec

from orly.nostr.event import MAX_CREATED_AT, Event
from orly.nostr.kinds import MAX_KIND
from orly.nostr.tags import TAG_LETTERS

__all__ = ["MAX_LIMIT", "Filter", "FilterError", "FilterLimits", "matches", "parse_filter"]

MAX_LIMIT: Final = 2**31 - 1
"""Larger limits are read as this one, so that a limit fits every integer type it meets."""

_HEX64: Final = compile_re("[0-9a-f]{64}")


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """One NIP-01 filter; conditions are joined by AND, the values of one by OR.

    Attributes:
        ids: Event ids in hex; None = any. An empty set matches nothing, as for every other condition.
        authors: Public keys in hex.
        kinds: Kind numbers.
        tags: Letter -> values of `#letter`.
        since: Lowest created_at, inclusive. 0..2^63; the last is above every event.
        until: Highest created_at, inclusive. -1..2^63-1; the first is below every event.
        limit: How many stored events are wanted; None = the relay's default. Live events are not limited.
    """

    ids: frozenset[str] | None = None
    authors: frozenset[str] | None = None
    kinds: frozenset[int] | None = None
    tags: dict[str, frozenset[str]] = msgspec.field(default_factory=dict)
    since: int = 0
    until: int = MAX_CREATED_AT
    limit: int | None = None

    def matches_nothing(self) -> bool:
        """Whether no event can match, whatever is stored."""
        return (
            self.since > self.until
            or (self.ids is not None and not self.ids)
            or (self.authors is not None and not self.authors)
            or (self.kinds is not None and not self.kinds)
            or (bool(self.tags) and not all(self.tags.values()))
        )


class FilterLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How large a filter may be: entries in `ids`, `authors`, `kinds` or one tag's values."""

    max_values: int


class FilterError(ValueError):
    """A filter that cannot be read; the text says where.

    Attributes:
        unsupported: True when it is well-formed but asks for something this relay does not do.
    """

    def __init__(self, detail: str, *, unsupported: bool = False) -> None:
        super().__init__(detail)
        self.unsupported = unsupported


def matches(wanted: Filter, event: Event) -> bool:
    """Whether the event satisfies every condition of the filter; `limit` plays no part."""
    if wanted.kinds is not None and event.kind not in wanted.kinds:
        return False
    if not wanted.since <= event.created_at <= wanted.until:
        return False
    if wanted.authors is not None and event.pubkey not in wanted.authors:
        return False
    if wanted.ids is not None and event.id not in wanted.ids:
        return False
    return all(_has_tag(event, letter, choices) for letter, choices in wanted.tags.items())


def _has_tag(event: Event, letter: str, choices: frozenset[str]) -> bool:
    return any(tag[0] == letter and len(tag) > 1 and tag[1] in choices for tag in event.tags)


def parse_filter(data: object, limits: FilterLimits) -> Filter:
    """Read one decoded JSON filter.

    Raises:
        FilterError: It is no object, a value has a wrong type or form, a list is too long, or a key is unknown.
    """
    if not isinstance(data, dict):
        raise FilterError("a filter must be an object")
    ids = authors = kinds = limit = None
    since, until = 0, MAX_CREATED_AT
    tags: dict[str, frozenset[str]] = {}
    for key, value in data.items():
        match key:
            case "ids":
                ids = frozenset(_hex_list(key, value, limits))
            case "authors":
                authors = frozenset(_hex_list(key, value, limits))
            case "kinds":
                kinds = frozenset(_kind_list(value, limits))
            case "since":
                since = min(max(_time(key, value), 0), MAX_CREATED_AT + 1)
            case "until":
                until = max(min(_time(key, value), MAX_CREATED_AT), -1)
            case "limit":
                limit = _limit(value)
            case _ if len(key) == 2 and key[0] == "#" and key[1] in TAG_LETTERS:
                tags[key[1]] = frozenset(_strings(key, value, limits))
            case _:
                raise FilterError(f"filter key {key[:40]!r} is not supported", unsupported=True)
    return Filter(ids=ids, authors=authors, kinds=kinds, tags=tags, since=since, until=until, limit=limit)


def _list(key: str, value: object, limits: FilterLimits) -> list[Any]:
    if not isinstance(value, list):
        raise FilterError(f"filter {key} must be a list")
    if len(value) > limits.max_values:
        raise FilterError(f"filter {key} has {len(value)} values, the maximum is {limits.max_values}")
    return value


def _strings(key: str, value: object, limits: FilterLimits) -> list[str]:
    found = _list(key, value, limits)
    for item in found:
        if not isinstance(item, str):
            raise FilterError(f"filter {key} must hold strings only")
    return found


def _hex_list(key: str, value: object, limits: FilterLimits) -> list[str]:
    found = _strings(key, value, limits)
    for item in found:
        if _HEX64.fullmatch(item) is None:
            raise FilterError(f"filter {key} must hold 64 lower-case hex digits each, not {item[:70]!r}")
    return found


def _kind_list(value: object, limits: FilterLimits) -> list[int]:
    found = _list("kinds", value, limits)
    for item in found:
        if type(item) is not int or not 0 <= item <= MAX_KIND:  # a bool is an int, and not here
            raise FilterError(f"filter kinds must hold integers from 0 to {MAX_KIND}")
    return found


def _time(key: str, value: object) -> int:
    if type(value) is not int:
        raise FilterError(f"filter {key} must be an integer, in seconds")
    return value


def _limit(value: object) -> int:
    if type(value) is not int or value < 0:
        raise FilterError("filter limit must be an integer and not negative")
    return min(value, MAX_LIMIT)
