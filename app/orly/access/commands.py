"""What can be done to the lists, and which entries that changes."""

from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from re import compile as compile_re
from typing import Final, Literal, assert_never

import msgspec

from orly.access.addresses import read_network
from orly.access.levels import Mode
from orly.access.snapshot import (
    EVENT_LISTS,
    KEY_LISTS,
    AddressChange,
    Change,
    KeyChange,
    KindChange,
    ListName,
    Snapshot,
)
from orly.nostr.kinds import MAX_KIND

__all__ = [
    "MAX_REASON_CHARACTERS",
    "OPERATOR",
    "AddKey",
    "AllowKind",
    "BlockAddress",
    "Command",
    "CommandError",
    "DisallowKind",
    "DropKey",
    "Edit",
    "Entry",
    "Member",
    "SetInfo",
    "UnblockAddress",
    "applies_in",
    "change_of",
    "describe",
    "edits_of",
    "edits_of_all",
    "read_address",
]

MAX_REASON_CHARACTERS: Final = 500
MAX_INFO_CHARACTERS: Final = 2_000

OPERATOR: Final = "operator"
"""Who did something, if neither a key nor the limits of a day did: somebody on the relay's machine."""

Member = bytes | int | str
"""Of a list of keys or events (32 bytes), of kinds, or of addresses."""


class CommandError(ValueError):
    """A command cannot be carried out; the text says why."""


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is known of a member of a list.

    Attributes:
        reason: Why it is there, in words of whoever put it there.
        added_s: When, Unix time.
        by: The key (hex) that put it there; `limits` for a block by a daily limit, empty if an operator did.
        pubkey: For an event, its author (hex), if that was said.
        until_s: For an address, when it is no longer blocked, Unix time; 0 = never.
    """

    reason: str = ""
    added_s: int = 0
    by: str = ""
    pubkey: str = ""
    until_s: int = 0


class AddKey(msgspec.Struct, frozen=True, tag=True):
    """Put a key or an event id (32 bytes) on a list, and take it off the list that says the reverse."""

    list: ListName
    key: bytes
    reason: str = ""
    pubkey: str = ""


class DropKey(msgspec.Struct, frozen=True, tag=True):
    """Take a key or an event id off a list."""

    list: ListName
    key: bytes


class AllowKind(msgspec.Struct, frozen=True, tag=True):
    """Take a kind: off the disallowed ones, or else to the allowed ones, which shuts out all that are not there."""

    kind: int


class DisallowKind(msgspec.Struct, frozen=True, tag=True):
    """Take a kind no longer: off the allowed ones, to the disallowed ones."""

    kind: int


class BlockAddress(msgspec.Struct, frozen=True, tag=True):
    """Refuse an address everything; until a Unix time, or for good if that is 0."""

    address: str
    reason: str = ""
    until_s: int = 0


class UnblockAddress(msgspec.Struct, frozen=True, tag=True):
    """Undo that."""

    address: str


class SetInfo(msgspec.Struct, frozen=True, tag=True):
    """Change what the relay says of itself (NIP-11); an empty text brings back what the settings say."""

    field: Literal["name", "description", "icon"]
    text: str


Command = AddKey | DropKey | AllowKind | DisallowKind | BlockAddress | UnblockAddress | SetInfo


class Edit(msgspec.Struct, frozen=True):
    """One member of one list gets an entry, or loses it."""

    list: ListName
    member: Member
    entry: Entry | None


_OPPOSITE: Final = {
    ListName.ALLOWED_PUBKEYS: ListName.BANNED_PUBKEYS,
    ListName.BANNED_PUBKEYS: ListName.ALLOWED_PUBKEYS,
    ListName.TRUSTED_PUBKEYS: ListName.BLACKLISTED_PUBKEYS,
    ListName.BLACKLISTED_PUBKEYS: ListName.TRUSTED_PUBKEYS,
    ListName.ALLOWED_EVENTS: ListName.BANNED_EVENTS,
    ListName.BANNED_EVENTS: ListName.ALLOWED_EVENTS,
}
_PUBKEY: Final = compile_re(r"[0-9a-f]{64}")
_COMPUTED: Final = frozenset({ListName.FOLLOWED_PUBKEYS, ListName.PEER_PUBKEYS})
_AGAINST_KEYS: Final = frozenset({ListName.BANNED_PUBKEYS, ListName.BLACKLISTED_PUBKEYS})


def read_address(text: str) -> str:
    """An address, or an IPv6 network of 64 bits, as `ipaddress` writes it; IPv4 within IPv6 is IPv4.

    Raises:
        CommandError: It is none, or has a zone (`fe80::1%eth0`): a connection's address has none.
    """
    if "/" in text:
        try:
            return read_network(text.strip())
        except ValueError:
            raise CommandError(f"{text[:80]!r} is no IP address, and no IPv6 network of 64 bits") from None
    try:
        address = ip_address(text.strip())
    except ValueError:
        raise CommandError(f"{text[:80]!r} is no IP address") from None
    if "%" in text:
        raise CommandError(f"write the address without its zone: {text.strip().partition('%')[0]}")
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


def change_of(edit: Edit) -> Change:
    """What an edit does to a snapshot."""
    is_listed = edit.entry is not None
    match edit.member:
        case bytes() as key:
            return KeyChange(edit.list, key, is_listed)
        case int() as kind:
            return KindChange(edit.list, kind, is_listed)
        case str() as address:
            return AddressChange(address, is_listed)
        case _:
            assert_never(edit.member)


def edits_of_all(snapshot: Snapshot, commands: Sequence[Command], *, by: str, now_s: int) -> list[Edit]:
    """The entries that several commands change one after the other; of the same member only the last counts.

    See `edits_of`.
    """
    touched = _touched(snapshot, commands)
    edits: dict[tuple[ListName, Member], Edit] = {}
    for command in commands:
        for edit in edits_of(touched, command, by=by, now_s=now_s):
            touched.apply(change_of(edit))
            edits[edit.list, edit.member] = edit
    return list(edits.values())


def _touched(snapshot: Snapshot, commands: Sequence[Command]) -> Snapshot:
    """A copy of as much of the lists as commands look at."""
    copy = Snapshot(snapshot.rules)
    for name, kinds in snapshot.kinds.items():
        copy.put_kinds(name, kinds)
    for command in commands:
        opposite = _OPPOSITE.get(command.list) if isinstance(command, AddKey) else None
        if isinstance(command, AddKey) and opposite is not None and command.key in snapshot.keys[opposite]:
            copy.apply(KeyChange(opposite, command.key, True))
    return copy


def edits_of(snapshot: Snapshot, command: Command, *, by: str, now_s: int) -> list[Edit]:
    """The entries that a command about lists changes.

    Args:
        snapshot: The lists as they are.
        command: What is to be done; `SetInfo` changes no list.
        by: The key (hex) of whoever asks; empty for an operator of this machine.
        now_s: The current time.

    Raises:
        CommandError: It cannot be done.
    """
    return list(_edits(snapshot, command, by, now_s))


def describe(command: Command) -> str:
    """What a command does, in a line of a log."""
    match command:
        case AddKey():
            return f"add {command.key.hex()} to {command.list.value}{_because(command.reason)}"
        case DropKey():
            return f"take {command.key.hex()} off {command.list.value}"
        case AllowKind():
            return f"allow kind {command.kind}"
        case DisallowKind():
            return f"disallow kind {command.kind}"
        case BlockAddress():
            until = f" until {command.until_s}" if command.until_s else ""
            return f"block {command.address}{until}{_because(command.reason)}"
        case UnblockAddress():
            return f"unblock {command.address}"
        case SetInfo():
            return f"set the {command.field} to {command.text!r}"
        case _:
            assert_never(command)


def _because(reason: str) -> str:
    return f": {reason!r}" if reason else ""


def _edits(snapshot: Snapshot, command: Command, by: str, now_s: int) -> Iterator[Edit]:
    match command:
        case AddKey():
            _check_key(command.list, command.key)
            if command.list in _AGAINST_KEYS:
                _check_may_be_banned(snapshot, command.key)
            if command.pubkey and not _PUBKEY.fullmatch(command.pubkey):
                raise CommandError(f"the author must be 64 lower-case hex digits, not {command.pubkey[:80]!r}")
            yield Edit(command.list, command.key, _entry(command.reason, by, now_s, pubkey=command.pubkey))
            opposite = _OPPOSITE.get(command.list)
            if opposite is not None and command.key in snapshot.keys[opposite]:
                yield Edit(opposite, command.key, None)
        case DropKey():
            _check_key(command.list, command.key)
            yield Edit(command.list, command.key, None)
        case AllowKind():
            yield from _allow_kind(snapshot, _checked_kind(command.kind), _entry("", by, now_s))
        case DisallowKind():
            yield from _disallow_kind(snapshot, _checked_kind(command.kind), _entry("", by, now_s))
        case BlockAddress():
            entry = _entry(command.reason, by, now_s, until_s=command.until_s)
            yield Edit(ListName.BLOCKED_IPS, read_address(command.address), entry)
        case UnblockAddress():
            yield Edit(ListName.BLOCKED_IPS, read_address(command.address), None)
        case SetInfo():
            if len(command.text) > MAX_INFO_CHARACTERS:
                raise CommandError(f"the {command.field} has more than {MAX_INFO_CHARACTERS} characters")
        case _:
            assert_never(command)


def _entry(reason: str, by: str, now_s: int, *, pubkey: str = "", until_s: int = 0) -> Entry:
    if len(reason) > MAX_REASON_CHARACTERS:
        raise CommandError(f"the reason has more than {MAX_REASON_CHARACTERS} characters")
    return Entry(reason=reason, added_s=now_s, by=by, pubkey=pubkey, until_s=until_s)


def _check_key(name: ListName, key: bytes) -> None:
    if name not in KEY_LISTS:
        raise CommandError(f"{name.value} is no list of keys or events")
    if name in _COMPUTED:
        raise CommandError(f"{name.value} is made from events, it cannot be changed by hand")
    if len(key) != 32:
        raise CommandError(f"{'an event id' if name in EVENT_LISTS else 'a key'} has 32 bytes, not {len(key)}")


def _check_may_be_banned(snapshot: Snapshot, key: bytes) -> None:
    if key in snapshot.rules.owners:
        raise CommandError("this key is an owner's (ORLY_OWNERS) and cannot be banned")
    if key in snapshot.rules.admins:
        raise CommandError("this key is an admin's (ORLY_ADMINS) and cannot be banned")


def _checked_kind(kind: int) -> int:
    if not 0 <= kind <= MAX_KIND:
        raise CommandError(f"a kind is a number from 0 to {MAX_KIND}, not {kind}")
    return kind


def _allow_kind(snapshot: Snapshot, kind: int, entry: Entry) -> Iterator[Edit]:
    allowed = snapshot.kinds[ListName.ALLOWED_KINDS]
    was_disallowed = kind in snapshot.kinds[ListName.DISALLOWED_KINDS]
    if was_disallowed:
        yield Edit(ListName.DISALLOWED_KINDS, kind, None)
    if allowed or not was_disallowed:
        yield Edit(ListName.ALLOWED_KINDS, kind, entry)


def _disallow_kind(snapshot: Snapshot, kind: int, entry: Entry) -> Iterator[Edit]:
    if kind in snapshot.kinds[ListName.ALLOWED_KINDS]:
        yield Edit(ListName.ALLOWED_KINDS, kind, None)
    yield Edit(ListName.DISALLOWED_KINDS, kind, entry)  # keeps it out when the last allowed kind goes


def applies_in(mode: Mode, name: ListName) -> bool:
    """Whether a list means something in a mode."""
    match name:
        case ListName.TRUSTED_PUBKEYS | ListName.BLACKLISTED_PUBKEYS | ListName.SPAM_EVENTS:
            return mode is Mode.CURATING
        case ListName.FOLLOWED_PUBKEYS:
            return mode is Mode.FOLLOWS
        case ListName.ALLOWED_PUBKEYS:
            return mode in (Mode.FOLLOWS, Mode.MANAGED)
        case (
            ListName.PEER_PUBKEYS
            | ListName.BANNED_PUBKEYS
            | ListName.ALLOWED_EVENTS
            | ListName.BANNED_EVENTS
            | ListName.ALLOWED_KINDS
            | ListName.DISALLOWED_KINDS
            | ListName.BLOCKED_IPS
        ):
            return True
        case _:
            assert_never(name)
