"""What a relay must make of events that arrive: an obvious model over plain JSON, without any of the relay's code."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Final, assert_never

__all__ = ["JsonEvent", "Model", "Outcome", "matching", "newest_first"]

JsonEvent = Mapping[str, Any]

_DELETION: Final = 5
_GIFT_WRAP: Final = 1059


class Outcome(Enum):
    """What becomes of an event that arrives."""

    STORED = auto()
    DELIVERED = auto()
    DUPLICATE = auto()
    SUPERSEDED = auto()
    DELETED = auto()
    EXPIRED = auto()
    TOO_LARGE = auto()
    TOO_MANY_TAGS = auto()
    FUTURE = auto()

    @property
    def ok(self) -> tuple[bool, str]:
        """The third element of the OK, and what the fourth one starts with."""
        match self:
            case Outcome.STORED | Outcome.DELIVERED:
                return True, ""
            case Outcome.DUPLICATE:
                return True, "duplicate:"
            case Outcome.SUPERSEDED:
                return False, "duplicate:"
            case Outcome.DELETED:
                return False, "blocked:"
            case Outcome.EXPIRED | Outcome.TOO_LARGE | Outcome.TOO_MANY_TAGS | Outcome.FUTURE:
                return False, "invalid:"
            case _:
                assert_never(self)

    @property
    def is_bad_line(self) -> bool:
        """Whether an import reports it: it could not be stored whatever else is there."""
        return self in (Outcome.DELIVERED, Outcome.TOO_LARGE, Outcome.TOO_MANY_TAGS, Outcome.FUTURE)


def _values(event: JsonEvent, name: str) -> Iterator[str]:
    return (tag[1] for tag in event["tags"] if tag[0] == name and len(tag) > 1)


def _address(event: JsonEvent) -> str | None:
    kind = event["kind"]
    if kind in (0, 3) or 10_000 <= kind < 20_000:
        return f"{kind}:{event['pubkey']}:"
    if 30_000 <= kind < 40_000:
        return f"{kind}:{event['pubkey']}:{next(_values(event, 'd'), '')}"
    return None


def newest_first(events: Sequence[JsonEvent]) -> list[JsonEvent]:
    """In the order of an answer: by time, and by id where the time is the same."""
    return sorted(events, key=lambda event: (-event["created_at"], event["id"]))


def matching(events: Sequence[JsonEvent], wanted: Mapping[str, Any]) -> list[JsonEvent]:
    """The events that a filter (NIP-01, without `limit`) asks for, newest first."""

    def is_wanted(event: JsonEvent) -> bool:
        if any(event[name] not in wanted[key] for key, name in _FIELDS if key in wanted):
            return False
        if not wanted.get("since", 0) <= event["created_at"] <= wanted.get("until", 2**63):
            return False
        return all(set(_values(event, key[1])) & set(found) for key, found in wanted.items() if key[0] == "#")

    return newest_first([event for event in events if is_wanted(event)])


_FIELDS: Final = (("ids", "id"), ("authors", "pubkey"), ("kinds", "kind"))


@dataclass(slots=True, kw_only=True)
class Model:
    """Takes events one after the other, as they arrive.

    Attributes:
        now_s: The time of all arrivals.
        max_event_bytes: Of an event as compact JSON in UTF-8.
        max_event_tags: Number of tags.
        max_future_s: How far ahead an event may be dated; None = as far as it likes.
    """

    now_s: int
    max_event_bytes: int = 256 * 1024
    max_event_tags: int = 5000
    max_future_s: int | None = 15 * 60
    _visible: dict[str, JsonEvent] = field(default_factory=dict)
    _by_address: dict[str, str] = field(default_factory=dict)
    _deleted_ids: set[tuple[str, str]] = field(default_factory=set)
    _deleted_addresses: dict[str, int] = field(default_factory=dict)

    @property
    def visible(self) -> list[JsonEvent]:
        """What is stored now, newest first."""
        return newest_first(list(self._visible.values()))

    def expire(self, now_s: int) -> None:
        """Time passes; what has expired by then is gone."""
        self.now_s = now_s
        for event in self.visible:
            if int(next(_values(event, "expiration"), now_s + 1)) <= now_s:
                del self._visible[event["id"]]

    def take(self, event: JsonEvent) -> Outcome:
        """One more event arrives, whose id and signature are right."""
        if event["id"] in self._visible:
            return Outcome.DUPLICATE
        if len(json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode()) > self.max_event_bytes:
            return Outcome.TOO_LARGE
        if len(event["tags"]) > self.max_event_tags:
            return Outcome.TOO_MANY_TAGS
        if self.max_future_s is not None and event["created_at"] > self.now_s + self.max_future_s:
            return Outcome.FUTURE
        expires = next(_values(event, "expiration"), None)
        if expires is not None and int(expires) <= self.now_s:
            return Outcome.EXPIRED
        if 20_000 <= event["kind"] < 30_000:
            return Outcome.DELIVERED
        if self._is_deleted(event):
            return Outcome.DELETED
        return self._store(event)

    def _is_deleted(self, event: JsonEvent) -> bool:
        if event["kind"] == _DELETION:
            return False
        address = _address(event)
        if address is not None and event["created_at"] <= self._deleted_addresses.get(address, -1):
            return True
        return any((event["id"], key) in self._deleted_ids for key in self._owners(event))

    def _owners(self, event: JsonEvent) -> list[str]:
        """Who may delete it: the author, and the recipient of a gift wrap."""
        return [event["pubkey"], *(_values(event, "p") if event["kind"] == _GIFT_WRAP else ())]

    def _store(self, event: JsonEvent) -> Outcome:
        address = _address(event)
        if address is not None:
            current = self._visible.get(self._by_address.get(address, ""))
            if current is not None:
                if newest_first([current, event])[0] is current:
                    return Outcome.SUPERSEDED
                del self._visible[current["id"]]
            self._by_address[address] = event["id"]
        self._visible[event["id"]] = event
        if event["kind"] == _DELETION:
            self._delete(event)
        return Outcome.STORED

    def _delete(self, request: JsonEvent) -> None:
        key = request["pubkey"]
        for target in _values(request, "e"):
            self._deleted_ids.add((target, key))
        for address in _values(request, "a"):
            kind, _, rest = address.partition(":")
            author, _, d_value = rest.partition(":")
            if author == key:
                whole = f"{kind}:{author}:{d_value}"
                until = max(self._deleted_addresses.get(whole, -1), request["created_at"])
                self._deleted_addresses[whole] = until
        for event in [each for each in self._visible.values() if self._is_deleted(each)]:
            del self._visible[event["id"]]
