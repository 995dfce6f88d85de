"""All that decisions are made from, at one moment: the mode and the lists, and how a change of them is applied."""

from collections.abc import Iterable, Mapping, Set
from enum import Enum
from typing import Final, assert_never

import msgspec

from orly.access.curating import CuratingConfig
from orly.access.keyset import KeySet
from orly.access.levels import Mode

__all__ = [
    "DAY_S",
    "EVENT_LISTS",
    "KEY_LISTS",
    "KIND_LISTS",
    "MAX_COUNTED",
    "PUBKEY_LISTS",
    "AddressChange",
    "Change",
    "CuratingChange",
    "DayChange",
    "InfoChange",
    "KeyChange",
    "KindChange",
    "ListName",
    "Rules",
    "Snapshot",
    "UseChange",
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
        throttle_increment_s: By how much each of their events makes them wait longer.
        throttle_max_s: The longest they wait.
    """

    mode: Mode = Mode.NONE
    owners: frozenset[bytes] = frozenset()
    admins: frozenset[bytes] = frozenset()
    reads_restricted: bool = False
    throttles: bool = False
    throttle_increment_s: float = 0.025
    throttle_max_s: float = 60.0


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


class InfoChange(msgspec.Struct, frozen=True, tag=True):
    """What the relay says of itself (NIP-11); an empty text stands for what the settings say."""

    field: str
    text: str


class UseChange(msgspec.Struct, frozen=True, tag=True):
    """So many events of a key (32 bytes), or from a place, count for the limit of the day."""

    who: bytes | str
    n_events: int


class DayChange(msgspec.Struct, frozen=True, tag=True):
    """Another day (of Unix time) has begun: nothing counts any more."""

    day: int


DAY_S: Final = 24 * 60 * 60

MAX_COUNTED: Final = 1_000_000
"""Keys and places counted on one day, about 150 MB; of more, no newcomer is taken until the next."""

Change = KeyChange | KindChange | AddressChange | CuratingChange | InfoChange | UseChange | DayChange


class Snapshot:
    """The rules and lists; changes are applied to it in place, on the event loop that asks it.

    Attributes:
        rules: From the settings.
        version: Grows with every change.
        revision: Grows with every change but of what was used of a day; what was concluded from an earlier one may be
            wrong.
        allowed_events, allowed_pubkeys, banned_events, banned_pubkeys, blacklisted_pubkeys, followed_pubkeys,
        peer_pubkeys, spam_events, trusted_pubkeys: The lists of keys and event ids, each also in `keys`: decisions look
            at several of them, and an attribute is found in a tenth of the time.
        blocked: Addresses, as `ipaddress` writes them; times at which a block ends are for who makes the snapshot.
        curating: The configuration of the mode `curating`.
        info: What the relay says of itself in other words than the settings'.
        day: Days since 1970 (UTC): when `used` began.
        used: Events of a key (32 bytes), or from a place (`orly.access.addresses.place_of`), that count for the limit
            of the day.
    """

    __slots__ = (
        "_keys",
        "_kinds",
        "_limits_kinds",
        "allowed_events",
        "allowed_pubkeys",
        "banned_events",
        "banned_pubkeys",
        "blacklisted_pubkeys",
        "blocked",
        "curating",
        "day",
        "followed_pubkeys",
        "info",
        "peer_pubkeys",
        "revision",
        "rules",
        "spam_events",
        "trusted_pubkeys",
        "used",
        "version",
    )

    def __init__(self, rules: Rules, version: int = 0) -> None:
        self.rules = rules
        self.version = version
        self.revision = 0
        self._keys = {name: KeySet() for name in KEY_LISTS}
        self._bind()
        self._kinds: dict[ListName, set[int]] = {name: set() for name in KIND_LISTS}
        self._limits_kinds = False
        self.blocked: set[str] = set()
        self.curating: CuratingConfig | None = None
        self.info: dict[str, str] = {}
        self.day = 0
        self.used: dict[bytes | str, int] = {}

    @property
    def keys(self) -> Mapping[ListName, KeySet]:
        """The lists of keys and event ids."""
        return self._keys

    @property
    def limits_kinds(self) -> bool:
        """Whether some kinds are not taken."""
        return self._limits_kinds

    @property
    def kinds(self) -> Mapping[ListName, Set[int]]:
        """The lists of kinds."""
        return self._kinds

    def put(self, name: ListName, keys: KeySet) -> None:
        """Have another list of keys in place of one."""
        self._keys[name] = keys
        self._bind()

    def put_kinds(self, name: ListName, kinds: Iterable[int]) -> None:
        """Have another list of kinds in place of one."""
        self._kinds[name] = set(kinds)
        self._limits_kinds = any(self._kinds.values())

    def _bind(self) -> None:
        keys = self._keys
        for name in PUBKEY_LISTS:
            keys[name].keep_answers()
        self.allowed_events = keys[ListName.ALLOWED_EVENTS]
        self.allowed_pubkeys = keys[ListName.ALLOWED_PUBKEYS]
        self.banned_events = keys[ListName.BANNED_EVENTS]
        self.banned_pubkeys = keys[ListName.BANNED_PUBKEYS]
        self.blacklisted_pubkeys = keys[ListName.BLACKLISTED_PUBKEYS]
        self.followed_pubkeys = keys[ListName.FOLLOWED_PUBKEYS]
        self.peer_pubkeys = keys[ListName.PEER_PUBKEYS]
        self.spam_events = keys[ListName.SPAM_EVENTS]
        self.trusted_pubkeys = keys[ListName.TRUSTED_PUBKEYS]

    def apply(self, change: Change) -> None:
        """Make one change; one that changes nothing is no error.

        Raises:
            KeyError: The list has members of another sort.
            ValueError: A key has not 32 bytes.
        """
        self.version += 1
        if not isinstance(change, UseChange | DayChange):
            self.revision += 1
        match change:
            case KeyChange():
                keys = self._keys[change.list]
                (keys.add if change.is_listed else keys.discard)(change.key)
            case KindChange():
                kinds = self._kinds[change.list]
                (kinds.add if change.is_listed else kinds.discard)(change.kind)
                self._limits_kinds = any(self._kinds.values())
            case AddressChange():
                (self.blocked.add if change.is_listed else self.blocked.discard)(change.address)
            case CuratingChange():
                self.curating = change.config
            case InfoChange():
                self.info.pop(change.field, None)
                if change.text:
                    self.info[change.field] = change.text
            case UseChange():
                self.used[change.who] = change.n_events
            case DayChange():
                self.day = change.day
                self.used = {}
            case _:
                assert_never(change)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Snapshot):
            return NotImplemented
        mine = (self.rules, self.keys, self.kinds, self.blocked, self.curating, self.info, self.day, self.used)
        return mine == (
            other.rules,
            other.keys,
            other.kinds,
            other.blocked,
            other.curating,
            other.info,
            other.day,
            other.used,
        )

    __hash__ = None  # type: ignore[assignment]
