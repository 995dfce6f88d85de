"""All that decisions are made from, at one moment: the mode and the lists, and how a change of them is applied."""

from enum import Enum
from typing import Final, assert_never

import msgspec

from orly.access.curating import CuratingConfig
from orly.access.keyset import KeySet
from orly.access.levels import Mode

__all__ = [
    "EVENT_LISTS",
    "KEY_LISTS",
    "KIND_LISTS",
    "PUBKEY_LISTS",
    "AddressChange",
    "Change",
    "CuratingChange",
    "KeyChange",
    "KindChange",
    "ListName",
    "Rules",
    "Snapshot",
]


class ListName(Enum):
    """The lists; the values are their names on the wire, in the store and on the command line."""

    FOLLOWED_PUBKEYS = "followed-pubkeys"
    """Whom the owners and admins follow; computed, not kept by hand."""
    PEER_PUBKEYS = "peer-pubkeys"
    """Keys of relays that this one syncs with; whose events they bring is not asked."""
    ALLOWED_PUBKEYS = "allowed-pubkeys"
    BANNED_PUBKEYS = "banned-pubkeys"
    TRUSTED_PUBKEYS = "trusted-pubkeys"
    BLACKLISTED_PUBKEYS = "blacklisted-pubkeys"
    ALLOWED_EVENTS = "allowed-events"
    BANNED_EVENTS = "banned-events"
    SPAM_EVENTS = "spam-events"
    ALLOWED_KINDS = "allowed-kinds"
    DISALLOWED_KINDS = "disallowed-kinds"
    BLOCKED_IPS = "blocked-ips"


PUBKEY_LISTS: Final = (
    ListName.FOLLOWED_PUBKEYS,
    ListName.PEER_PUBKEYS,
    ListName.ALLOWED_PUBKEYS,
    ListName.BANNED_PUBKEYS,
    ListName.TRUSTED_PUBKEYS,
    ListName.BLACKLISTED_PUBKEYS,
)
EVENT_LISTS: Final = (ListName.ALLOWED_EVENTS, ListName.BANNED_EVENTS, ListName.SPAM_EVENTS)
KEY_LISTS: Final = PUBKEY_LISTS + EVENT_LISTS
"""Lists with members of 32 bytes."""
KIND_LISTS: Final = (ListName.ALLOWED_KINDS, ListName.DISALLOWED_KINDS)


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """What the settings decide; it stays as it is while a process runs.

    Attributes:
        mode: How it is decided who may write.
        owners: Keys (32 bytes) with full control.
        admins: Keys (32 bytes) that moderate.
        reads_restricted: Whether only those may read who may write.
        throttles: Whether, in the mode `follows`, everybody else may write slowly.
    """

    mode: Mode = Mode.NONE
    owners: frozenset[bytes] = frozenset()
    admins: frozenset[bytes] = frozenset()
    reads_restricted: bool = False
    throttles: bool = False


class KeyChange(msgspec.Struct, frozen=True, tag=True):
    """A key or event id (32 bytes) is on a list now, or no longer."""

    list: ListName
    key: bytes
    is_listed: bool


class KindChange(msgspec.Struct, frozen=True, tag=True):
    """A kind is on a list now, or no longer."""

    list: ListName
    kind: int
    is_listed: bool


class AddressChange(msgspec.Struct, frozen=True, tag=True):
    """An address, as `ipaddress` writes it, is blocked now, or no longer."""

    address: str
    is_listed: bool


class CuratingChange(msgspec.Struct, frozen=True, tag=True):
    """The mode `curating` has another configuration; None = none."""

    config: CuratingConfig | None


Change = KeyChange | KindChange | AddressChange | CuratingChange


class Snapshot:
    """The rules and lists; changes are applied to it in place, on the event loop that asks it.

    Attributes:
        rules: From the settings.
        version: Grows with every change; what was concluded from an earlier version may be wrong.
        keys: The lists of keys and event ids.
        kinds: The lists of kinds.
        blocked: Addresses, as `ipaddress` writes them; times at which a block ends are for who makes the snapshot.
        curating: The configuration of the mode `curating`.
    """

    __slots__ = ("blocked", "curating", "keys", "kinds", "rules", "version")

    def __init__(self, rules: Rules, version: int = 0) -> None:
        self.rules = rules
        self.version = version
        self.keys = {name: KeySet() for name in KEY_LISTS}
        self.kinds: dict[ListName, set[int]] = {name: set() for name in KIND_LISTS}
        self.blocked: set[str] = set()
        self.curating: CuratingConfig | None = None

    def apply(self, change: Change) -> None:
        """Make one change; one that changes nothing is no error.

        Raises:
            KeyError: The list has members of another sort.
            ValueError: A key has not 32 bytes.
        """
        self.version += 1
        match change:
            case KeyChange():
                keys = self.keys[change.list]
                (keys.add if change.is_listed else keys.discard)(change.key)
            case KindChange():
                kinds = self.kinds[change.list]
                (kinds.add if change.is_listed else kinds.discard)(change.kind)
            case AddressChange():
                (self.blocked.add if change.is_listed else self.blocked.discard)(change.address)
            case CuratingChange():
                self.curating = change.config
            case _:
                assert_never(change)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Snapshot):
            return NotImplemented
        return (self.rules, self.keys, self.kinds, self.blocked, self.curating) == (
            other.rules,
            other.keys,
            other.kinds,
            other.blocked,
            other.curating,
        )

    __hash__ = None  # type: ignore[assignment]
