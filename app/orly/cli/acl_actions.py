"""What `orly acl` can do to a list: one row of a table each."""

from dataclasses import dataclass
from enum import Enum
from typing import Final, assert_never

from orly import units
from orly.access.commands import (
    AddKey,
    AllowKind,
    BlockAddress,
    Command,
    DisallowKind,
    DropKey,
    Member,
    UnblockAddress,
    read_address,
)
from orly.access.snapshot import ListName
from orly.nostr import nip19
from orly.nostr.kinds import MAX_KIND

__all__ = ["Action", "Sort", "action_of", "command_of", "read_member"]

_ID_CHARACTERS: Final = 64
_HEX: Final = frozenset("0123456789abcdefABCDEF")


class Sort(Enum):
    """What a list has for members; the values are what arguments are called."""

    PUBKEY = "KEY"
    EVENT = "EVENT_ID"
    ADDRESS = "ADDRESS"
    KIND = "KIND"


@dataclass(frozen=True, slots=True)
class Action:
    """A change of one list.

    Attributes:
        verb: The command.
        sort: What it takes.
        list: The list.
        adds: Whether members are put there, or else taken off.
        done: What they are afterwards.
        method: The same in NIP-86.
    """

    verb: str
    sort: Sort
    list: ListName
    adds: bool
    done: str
    method: str

    @property
    def takes_reason(self) -> bool:
        """Whether a reason is kept."""
        return self.adds and self.sort is not Sort.KIND


def _by_verb(*actions: Action) -> dict[str, Action]:
    return {action.verb: action for action in actions}


_ACTIONS: Final = _by_verb(
    Action("ban", Sort.PUBKEY, ListName.BANNED_PUBKEYS, True, "banned", "banpubkey"),
    Action("unban", Sort.PUBKEY, ListName.BANNED_PUBKEYS, False, "not banned", "unbanpubkey"),
    Action("allow", Sort.PUBKEY, ListName.ALLOWED_PUBKEYS, True, "allowed", "allowpubkey"),
    Action("unallow", Sort.PUBKEY, ListName.ALLOWED_PUBKEYS, False, "not allowed", "unallowpubkey"),
    Action("trust", Sort.PUBKEY, ListName.TRUSTED_PUBKEYS, True, "trusted", "trustpubkey"),
    Action("untrust", Sort.PUBKEY, ListName.TRUSTED_PUBKEYS, False, "not trusted", "untrustpubkey"),
    Action("blacklist", Sort.PUBKEY, ListName.BLACKLISTED_PUBKEYS, True, "blacklisted", "blacklistpubkey"),
    Action("unblacklist", Sort.PUBKEY, ListName.BLACKLISTED_PUBKEYS, False, "not blacklisted", "unblacklistpubkey"),
    Action("spam", Sort.EVENT, ListName.SPAM_EVENTS, True, "marked as spam", "markspam"),
    Action("unspam", Sort.EVENT, ListName.SPAM_EVENTS, False, "not marked as spam", "unmarkspam"),
    Action("block-ip", Sort.ADDRESS, ListName.BLOCKED_IPS, True, "blocked", "blockip"),
    Action("unblock-ip", Sort.ADDRESS, ListName.BLOCKED_IPS, False, "not blocked", "unblockip"),
    Action("allow-kind", Sort.KIND, ListName.ALLOWED_KINDS, True, "allowed", "allowkind"),
    Action("disallow-kind", Sort.KIND, ListName.ALLOWED_KINDS, False, "not allowed", "disallowkind"),
)
_EVENT_ACTIONS: Final = _by_verb(
    Action("ban", Sort.EVENT, ListName.BANNED_EVENTS, True, "banned", "banevent"),
    Action("unban", Sort.EVENT, ListName.BANNED_EVENTS, False, "not banned", "unbanevent"),
    Action("allow", Sort.EVENT, ListName.ALLOWED_EVENTS, True, "allowed", "allowevent"),
    Action("unallow", Sort.EVENT, ListName.ALLOWED_EVENTS, False, "not allowed", "unallowevent"),
)
"""What `--event` makes of some of them."""


def action_of(verb: str, *, is_event: bool) -> Action:
    """What a command does."""
    return (_EVENT_ACTIONS if is_event else _ACTIONS)[verb]


def read_member(sort: Sort, text: str) -> Member:
    """A member as people write it.

    Raises:
        ValueError: It is none; the text, which could be a secret, is not repeated for keys and events.
    """
    match sort:
        case Sort.PUBKEY:
            return bytes.fromhex(nip19.parse_public_key(text))
        case Sort.EVENT:
            if len(text) != _ID_CHARACTERS or not _HEX.issuperset(text):
                raise ValueError("an event id is 64 hex digits")
            return bytes.fromhex(text)
        case Sort.ADDRESS:
            return read_address(text)
        case Sort.KIND:
            kind = units.parse_int(text)
            if not 0 <= kind <= MAX_KIND:
                raise ValueError(f"a kind is a number from 0 to {MAX_KIND}")
            return kind
        case _:
            assert_never(sort)


def command_of(action: Action, member: Member, reason: str, until_s: int) -> Command:
    """What does it to one member.

    Args:
        action: What is done.
        member: Of the action's sort.
        reason: Why, if that is kept.
        until_s: When it ends, Unix time, if it can; 0 = never.
    """
    match member:
        case bytes() as key:
            return AddKey(action.list, key, reason) if action.adds else DropKey(action.list, key)
        case int() as kind:
            return AllowKind(kind) if action.adds else DisallowKind(kind)
        case str() as address:
            return BlockAddress(address, reason, until_s) if action.adds else UnblockAddress(address)
        case _:
            assert_never(member)
