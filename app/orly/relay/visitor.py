"""What one connection may do, by the keys it has proven and where it comes from; kept up to date with the lists."""

from typing import Final

from orly.access.addresses import place_of
from orly.access.control import AccessControl
from orly.access.decide import (
    ANYBODY,
    NO_SNAPSHOT,
    Standing,
    Treatment,
    is_open,
    refuse_read,
    refuse_write,
    standing_of,
    treatment_of,
)
from orly.access.snapshot import Snapshot
from orly.nostr.event import EncodedEvent
from orly.nostr.reason import Refusal

__all__ = ["Visitor"]

_NEVER: Final = -1


class Visitor:
    """Decides by the snapshot that is there when it is asked.

    Args:
        access: Knows the lists; None = there are none, everybody may do everything.
        address: Where the connection comes from, as `ipaddress` writes it.

    Attributes:
        address: The same.
        place: What stands for the client there; empty if that is not known, as for loopback.
    """

    __slots__ = ("_access", "_is_open", "_keys", "_revision", "_snapshot", "_standing", "address", "place")

    def __init__(self, access: AccessControl | None, address: str) -> None:
        self.address = address
        self.place = place_of(address)
        self._access = access
        self._keys: tuple[bytes, ...] = ()
        self._snapshot: Snapshot | None = None
        self._revision = _NEVER
        self._standing = ANYBODY
        self._is_open = False

    def has_proven(self, keys: frozenset[str]) -> None:
        """The keys (hex) that the connection has authenticated with."""
        self._keys = tuple(map(bytes.fromhex, keys))
        self._revision = _NEVER

    def _current(self) -> Snapshot | None:
        access = self._access
        assert access is not None
        snapshot = access.snapshot
        if snapshot is None:
            return None
        if snapshot.revision != self._revision or snapshot is not self._snapshot:
            self._snapshot, self._revision = snapshot, snapshot.revision
            self._standing = standing_of(snapshot, self._keys, self.address)
            self._is_open = self._standing.barred is None and is_open(snapshot)
        return snapshot

    @property
    def standing(self) -> Standing:
        """What it may do; as anybody while nothing is known."""
        if self._access is not None:
            self._current()
        return self._standing

    def refuse_read(self) -> Refusal | None:
        """Why it is told nothing; None if it may ask."""
        if self._access is None:
            return None
        return NO_SNAPSHOT if self._current() is None else refuse_read(self._standing)

    def refuse_write(self, event: EncodedEvent) -> Refusal | None:
        """Why an event may not be stored that it brings; None if it may, once its signature is found valid."""
        if self._access is None:
            return None
        snapshot = self._current()
        if snapshot is None:
            return NO_SNAPSHOT
        return None if self._is_open else refuse_write(snapshot, event, self._standing)

    def treatment(self, event: EncodedEvent) -> Treatment:
        """How an event is taken that is not refused."""
        if self._access is None:
            return Treatment.FREE
        snapshot = self._current()
        return Treatment.FREE if snapshot is None else treatment_of(snapshot, event, self._standing)
