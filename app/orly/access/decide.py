"""The decisions: what a connection stands for, whether it may read, whether an event may be stored, who sees it.

Who wrote an event decides whether it may be stored, for that is proven by its signature; who brings it counts where
the key is barred, or moderates, or is a peer's. Who reads is always who has authenticated.
"""

from collections.abc import Iterable
from enum import Enum, auto
from typing import Final

import msgspec

from orly.access.addresses import network_of
from orly.access.curating import refuse_config
from orly.access.levels import Level, Mode
from orly.access.snapshot import ListName, Snapshot
from orly.nostr.event import EncodedEvent
from orly.nostr.reason import Prefix, Refusal

__all__ = [
    "ANYBODY",
    "NO_SNAPSHOT",
    "Standing",
    "Treatment",
    "block_of",
    "is_hidden",
    "is_open",
    "level_of",
    "refuse_read",
    "refuse_write",
    "standing_of",
    "treatment_of",
]

NO_SNAPSHOT: Final = Refusal(Prefix.ERROR, "access control is not ready yet, try again later")
"""What a relay says that has not heard yet who may do what."""

_ADDRESS_BLOCKED: Final = Refusal(Prefix.BLOCKED, "your address is blocked on this relay")
_KEY_BANNED: Final = Refusal(Prefix.BLOCKED, "the key you authenticated with is banned on this relay")
_AUTHOR_BANNED: Final = Refusal(Prefix.BLOCKED, "its author is banned on this relay")
_EVENT_BANNED: Final = Refusal(Prefix.BLOCKED, "this event is banned on this relay")
_SPAM: Final = Refusal(Prefix.BLOCKED, "this event is marked as spam on this relay")
_NOT_FOLLOWED: Final = Refusal(Prefix.RESTRICTED, "its author is not followed by those who run this relay")
_NOT_ALLOWED: Final = Refusal(Prefix.RESTRICTED, "its author is not on the list of those who may write to this relay")
_NOT_SET_UP: Final = Refusal(Prefix.RESTRICTED, "this relay is not set up yet: only those who run it may write")
_READERS_ONLY: Final = Refusal(Prefix.RESTRICTED, "this relay answers only those who may write to it")
_AUTH_TO_READ: Final = Refusal(Prefix.AUTH_REQUIRED, "this relay answers only those who may write to it")


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """What a connection may do by the keys it has proven and by where it comes from.

    Attributes:
        level: The highest of its keys.
        has_keys: Whether it has proven any.
        is_peer: Whether one of them is a peer's: what it brings may be of anybody.
        barred: Why nothing of it is taken and it is told nothing.
    """

    level: Level
    has_keys: bool = False
    is_peer: bool = False
    barred: Refusal | None = None

    @property
    def moderates(self) -> bool:
        """Whether it sees what is hidden, and may publish what others wrote who may not."""
        return self.level >= Level.ADMIN


ANYBODY: Final = Standing(level=Level.READ)
"""A connection that has proven nothing, to a relay that is open to it."""


class Treatment(Enum):
    """How an event is taken that may be stored."""

    FREE = auto()
    THROTTLED = auto()
    """Its author has to wait (`ORLY_FOLLOWS_THROTTLE`)."""
    COUNTED = auto()
    """It counts for the limits of a day (mode `curating`)."""


def level_of(snapshot: Snapshot, pubkey: bytes) -> Level:
    """What a key (32 bytes) may do. A ban does not hold for owners and admins, lest they lock themselves out."""
    rules = snapshot.rules
    if pubkey in rules.owners:
        return Level.OWNER
    if pubkey in rules.admins:
        return Level.ADMIN
    if snapshot.banned_pubkeys.size and pubkey in snapshot.banned_pubkeys:
        return Level.NONE
    return _level_by_mode(snapshot, pubkey)


def _level_by_mode(snapshot: Snapshot, pubkey: bytes) -> Level:
    """The level of a key that is no owner's, no admin's, and not banned."""
    mode = snapshot.rules.mode
    if mode is Mode.NONE:
        return Level.WRITE
    if mode is Mode.CURATING:
        if pubkey in snapshot.blacklisted_pubkeys:
            return Level.NONE
        may_write = snapshot.curating is not None
    else:
        may_write = pubkey in snapshot.allowed_pubkeys
        if not may_write and mode is Mode.FOLLOWS:
            may_write = pubkey in snapshot.followed_pubkeys
    if may_write:
        return Level.WRITE
    return Level.NONE if snapshot.rules.reads_restricted else Level.READ


def _is_banned(snapshot: Snapshot, pubkey: bytes) -> bool:
    """Whether a key that is no owner's and no admin's is barred in this mode."""
    if pubkey in snapshot.banned_pubkeys:
        return True
    return snapshot.rules.mode is Mode.CURATING and pubkey in snapshot.blacklisted_pubkeys


def block_of(snapshot: Snapshot, address: str) -> str:
    """The member of the blocked addresses that an address is barred by, itself or its network; empty if by none."""
    blocked = snapshot.blocked
    if not blocked or address in blocked:
        return address if blocked else ""
    network = network_of(address)
    return network if network in blocked else ""


def standing_of(snapshot: Snapshot, pubkeys: Iterable[bytes], address: str) -> Standing:
    """What a connection may do.

    Args:
        snapshot: The lists.
        pubkeys: The keys (32 bytes) it has proven.
        address: Where it comes from, as `ipaddress` writes it.
    """
    keys = list(pubkeys)
    anonymous = Level.NONE if snapshot.rules.reads_restricted else Level.READ
    level = max((level_of(snapshot, key) for key in keys), default=anonymous)
    barred: Refusal | None = None
    if level < Level.ADMIN:
        if block_of(snapshot, address):
            barred = _ADDRESS_BLOCKED
        elif any(_is_banned(snapshot, key) for key in keys):
            barred = _KEY_BANNED
    is_peer = any(key in snapshot.peer_pubkeys for key in keys)
    return Standing(level=level, has_keys=bool(keys), is_peer=is_peer, barred=barred)


def is_open(snapshot: Snapshot) -> bool:
    """Whether everybody may write everything, for there is nothing on the lists by which events are refused."""
    has_bans = snapshot.banned_events.size or snapshot.banned_pubkeys.size
    return snapshot.rules.mode is Mode.NONE and not has_bans and not snapshot.limits_kinds


def refuse_read(standing: Standing) -> Refusal | None:
    """Why a connection is told nothing; None if it may ask. What single events it sees is decided elsewhere."""
    if standing.barred is not None:
        return standing.barred
    if standing.level >= Level.READ:
        return None
    return _READERS_ONLY if standing.has_keys else _AUTH_TO_READ


def refuse_write(snapshot: Snapshot, event: EncodedEvent, standing: Standing) -> Refusal | None:
    """Why an event may not be stored; None if it may, provided that its signature is valid.

    Limits on how many events somebody may publish are not decided here, see `treatment_of`.

    Args:
        snapshot: The lists.
        event: Well-formed; its signature need not be verified yet.
        standing: Of who brings it.
    """
    if standing.barred is not None:
        return standing.barred
    if snapshot.banned_events.size and event.id in snapshot.banned_events:
        return _EVENT_BANNED
    if snapshot.allowed_events.size and event.id in snapshot.allowed_events:
        return None
    if snapshot.limits_kinds:
        refusal = _refuse_kind(snapshot, event.event.kind)
        if refusal is not None:
            return refusal
    rules, author = snapshot.rules, event.pubkey
    if author in rules.owners or author in rules.admins:
        return refuse_config(event.event) if rules.mode is Mode.CURATING else None
    if snapshot.banned_pubkeys.size and author in snapshot.banned_pubkeys:
        return _AUTHOR_BANNED
    if rules.mode is Mode.NONE:
        return None
    if rules.mode is Mode.CURATING:
        return _refuse_in_curating(snapshot, event, standing)
    if standing.moderates or standing.is_peer or _level_by_mode(snapshot, author) >= Level.WRITE:
        return None
    if rules.mode is Mode.MANAGED:
        return _NOT_ALLOWED
    return None if rules.throttles else _NOT_FOLLOWED


def _refuse_kind(snapshot: Snapshot, kind: int) -> Refusal | None:
    allowed = snapshot.kinds[ListName.ALLOWED_KINDS]
    if (allowed and kind not in allowed) or kind in snapshot.kinds[ListName.DISALLOWED_KINDS]:
        return _kind_refused(kind)
    return None


def _kind_refused(kind: int) -> Refusal:
    return Refusal(Prefix.BLOCKED, f"kind {kind} is not taken on this relay")


def _refuse_in_curating(snapshot: Snapshot, event: EncodedEvent, standing: Standing) -> Refusal | None:
    config = snapshot.curating
    if config is None:
        return None if standing.moderates else _NOT_SET_UP
    if event.pubkey in snapshot.blacklisted_pubkeys:
        return _AUTHOR_BANNED
    if event.id in snapshot.spam_events:
        return _SPAM
    return None if config.takes_kind(event.event.kind) else _kind_refused(event.event.kind)


def treatment_of(snapshot: Snapshot, event: EncodedEvent, standing: Standing) -> Treatment:
    """How an event is taken that `refuse_write` does not refuse."""
    match snapshot.rules.mode:
        case Mode.NONE | Mode.MANAGED:
            return Treatment.FREE
        case Mode.FOLLOWS:
            waits = snapshot.rules.throttles and level_of(snapshot, event.pubkey) < Level.WRITE
            return Treatment.THROTTLED if waits and not _is_lifted(snapshot, event, standing) else Treatment.FREE
        case Mode.CURATING:
            trusted = event.pubkey in snapshot.trusted_pubkeys
            is_free = trusted or level_of(snapshot, event.pubkey) >= Level.ADMIN
            return Treatment.FREE if is_free or _is_lifted(snapshot, event, standing) else Treatment.COUNTED


def _is_lifted(snapshot: Snapshot, event: EncodedEvent, standing: Standing) -> bool:
    """Whether the event itself is allowed, or who brings it answers for it."""
    return standing.moderates or standing.is_peer or event.id in snapshot.allowed_events


def is_hidden(snapshot: Snapshot, event: EncodedEvent) -> bool:
    """Whether only owners and admins see an event: it is banned, or its author is."""
    rules = snapshot.rules
    if event.id in snapshot.banned_events:
        return True
    if rules.mode is Mode.CURATING and event.id in snapshot.spam_events:
        return True
    if not _is_banned(snapshot, event.pubkey):
        return False
    return event.pubkey not in rules.owners and event.pubkey not in rules.admins
