"""The rules of storing, written so plainly that they can be checked by reading: the oracle of the model tests."""

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Final

from tests.factory import KEYS, NOW_S, fake_event

from orly.nostr.event import EncodedEvent
from orly.store.base import SaveStatus

__all__ = ["Model", "expires", "make_pool"]


AUTHORS: Final = 3
STEPS: Final = 12
"""Seconds that created_at and expirations are spread over."""

KINDS: Final = (0, 1, 1, 3, 10_002, 30_023, 30_023, 30_024, 1059, 20_001)


def make_pool(random: Random, size: int) -> list[EncodedEvent]:
    """Events that meet: few authors, addresses and seconds, and requests that name others of the pool.

    Time moves along the pool, so that what a request forbids is not everything that follows.
    """
    pool: list[EncodedEvent] = []
    for n in range(size):
        key, created_at = random.randrange(AUTHORS), NOW_S + n // 4 + random.randrange(STEPS)
        tags: list[list[str]] = []
        if random.random() < 0.2:
            tags.append(["expiration", str(NOW_S + n // 16 + random.randrange(1, STEPS))])
        kind = random.choice(KINDS)
        what = random.random()
        if what < 0.15 and pool:
            kind = 5
            tags += [["e", random.choice(pool[-12:]).event.id] for _ in range(random.randrange(3))]
            tags += [["a", random_address(random)] for _ in range(random.randrange(3))]
        elif what < 0.18:
            kind = 62
            tags.append(["relay", random.choice(["ALL_RELAYS", "wss://other.example"])])
        elif kind == 1059:
            tags.append(["p", KEYS[random.randrange(AUTHORS)]])
        elif kind >= 30_000:
            tags += random.choice([[], [["d"]], [["d", ""]], [["d", "x"]], [["d", "x"], ["d", "y"]]])
        pool.append(fake_event(key, kind, created_at, tags, f"{n % 3}"))
    return pool


def random_address(random: Random) -> str:
    kind = random.choice([kind for kind in KINDS if replaced_kind(kind)])
    d = random.choice(["", "x"]) if kind >= 30_000 else ""
    return f"{kind}:{KEYS[random.randrange(AUTHORS)]}:{d}"


def replaced_kind(kind: int) -> bool:
    return kind in (0, 3) or 10_000 <= kind < 20_000 or 30_000 <= kind < 40_000


def address(event: EncodedEvent) -> str | None:
    """`kind:author:d` of what at most one event may be; None for all other kinds."""
    fields = event.event
    if not replaced_kind(fields.kind):
        return None
    d = next((tag[1] if len(tag) > 1 else "" for tag in fields.tags if tag[0] == "d"), "")
    return f"{fields.kind}:{fields.pubkey}:{d if fields.kind >= 30_000 else ''}"


def tagged(event: EncodedEvent, name: str) -> list[str]:
    return [tag[1] for tag in event.event.tags if tag[0] == name and len(tag) > 1]


def expires(event: EncodedEvent) -> int:
    """The second it expires; a time beyond all clocks if never. Model events carry readable values only."""
    return next((int(value) for value in tagged(event, "expiration")), 2**63)


def rank(event: EncodedEvent) -> tuple[int, int]:
    """Higher wins: newer, then lower id."""
    return event.event.created_at, -int(event.event.id, 16)


@dataclass(slots=True)
class Model:
    """What a store should hold.

    Attributes:
        keep_versions: Whether superseded versions are kept.
        visible: Serial -> event.
        kept: Superseded versions.
        deleted: (id, who asked).
        deleted_addresses: Address -> newest time.
        vanished: Author -> newest time.
        serial: The last given.
        now_s: The latest time it was told.
    """

    keep_versions: bool = False
    visible: dict[int, EncodedEvent] = field(default_factory=dict)
    kept: list[EncodedEvent] = field(default_factory=list)
    deleted: set[tuple[str, str]] = field(default_factory=set)
    deleted_addresses: dict[str, int] = field(default_factory=dict)
    vanished: dict[str, int] = field(default_factory=dict)
    serial: int = 0
    now_s: int = -1

    def pass_time(self, now_s: int) -> None:
        if now_s == self.now_s:
            return
        self.now_s = now_s
        self.visible = {serial: event for serial, event in self.visible.items() if expires(event) > now_s}
        self.kept = [event for event in self.kept if expires(event) > now_s]

    def save(self, event: EncodedEvent, now_s: int) -> SaveStatus:
        self.pass_time(now_s)
        refusal = self._refusal(event, now_s)
        if refusal is not None:
            return refusal
        place = address(event)
        if place is not None:
            for serial, other in list(self.visible.items()):
                if address(other) == place:
                    del self.visible[serial]
                    if self.keep_versions:
                        self.kept.append(other)
        self.kept = [other for other in self.kept if other.id != event.id]
        self.serial += 1
        self.visible[self.serial] = event
        if event.event.kind == 5:
            self._delete(event)
        if event.event.kind == 62 and "ALL_RELAYS" in tagged(event, "relay"):
            self._vanish(event)
        return SaveStatus.STORED

    def remove(self, event: EncodedEvent) -> bool:
        """Administrative deletion; whether it was there."""
        before = len(self.visible) + len(self.kept)
        self._drop(lambda other: other.id == event.id)
        return len(self.visible) + len(self.kept) < before

    def _refusal(self, event: EncodedEvent, now_s: int) -> SaveStatus | None:
        fields = event.event
        if expires(event) <= now_s:
            return SaveStatus.EXPIRED
        if 20_000 <= fields.kind < 30_000:
            return SaveStatus.DELIVERED
        is_stored = event.id in {other.id for other in self.visible.values()}
        parties = [fields.pubkey] + (tagged(event, "p") if fields.kind == 1059 else [])
        if any(fields.created_at <= self.vanished.get(key, -1) for key in parties):
            return SaveStatus.DUPLICATE if fields.kind == 62 and is_stored else SaveStatus.VANISHED
        if fields.kind not in (5, 62) and any((fields.id, key) in self.deleted for key in parties):
            return SaveStatus.DELETED
        place = address(event)
        if place is not None and fields.created_at <= self.deleted_addresses.get(place, -1):
            return SaveStatus.DELETED
        if is_stored:
            return SaveStatus.DUPLICATE
        if place is not None and any(
            address(other) == place and rank(other) > rank(event) for other in self.visible.values()
        ):
            return SaveStatus.SUPERSEDED
        return None

    def _drop(self, goes: Callable[[EncodedEvent], bool]) -> None:
        self.visible = {serial: event for serial, event in self.visible.items() if not goes(event)}
        self.kept = [event for event in self.kept if not goes(event)]

    def _delete(self, request: EncodedEvent) -> None:
        author = request.event.pubkey
        for target in tagged(request, "e"):
            self.deleted.add((target, author))
        for place in tagged(request, "a"):
            if place.split(":")[1] == author:
                self.deleted_addresses[place] = max(self.deleted_addresses.get(place, -1), request.event.created_at)

        def goes(event: EncodedEvent) -> bool:
            parties = [event.event.pubkey] + (tagged(event, "p") if event.event.kind == 1059 else [])
            by_id = event.event.kind not in (5, 62) and any((event.event.id, key) in self.deleted for key in parties)
            place = address(event)
            return by_id or (place is not None and event.event.created_at <= self.deleted_addresses.get(place, -1))

        self._drop(goes)

    def _vanish(self, request: EncodedEvent) -> None:
        author, until = request.event.pubkey, request.event.created_at
        self.vanished[author] = until

        def goes(event: EncodedEvent) -> bool:
            if event.id == request.id or event.event.created_at > until:
                return False
            return event.event.pubkey == author or (event.event.kind == 1059 and author in tagged(event, "p"))

        self._drop(goes)
