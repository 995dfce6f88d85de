"""The members of a list as `orly acl list` writes them: fields between tabs, or JSON."""

import json
import time
from typing import Final

import msgspec

from orly.access.commands import OPERATOR, Member
from orly.access.control import Listed
from orly.access.snapshot import ListName
from orly.logs import escape

__all__ = ["UNKNOWN", "Row", "as_json", "as_text", "date", "read_name", "row_of", "text_of"]

UNKNOWN: Final = "-"
"""Stands where something is not known."""

_COMPUTED: Final = (ListName.FOLLOWED_PUBKEYS, ListName.PEER_PUBKEYS)


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A member of a list, and what is known of it.

    Attributes:
        member: In hex, a kind, or an address.
        added_s: When it was added, Unix time; None = not known.
        by: Who added it, a key in hex, `limits` or `OPERATOR`; None = not known.
        reason: Why.
        author: Of an event; empty if not known.
        until_s: When a block ends, Unix time; 0 = never.
    """

    member: str | int
    added_s: int | None = None
    by: str | None = None
    reason: str = ""
    author: str = ""
    until_s: int = 0


def read_name(text: str) -> ListName:
    """The list of that name.

    Raises:
        ValueError: There is none; the text lists those there are.
    """
    try:
        return ListName(text)
    except ValueError:
        names = ", ".join(name.value for name in ListName)
        raise ValueError(f"there is no list {text[:40]!r}; there are: {names}") from None


def text_of(member: Member) -> str | int:
    """A member as people write it."""
    return member.hex() if isinstance(member, bytes) else member


def row_of(name: ListName, listed: Listed) -> Row:
    """What the lists themselves say of a member."""
    entry = listed.entry
    is_kept = name not in _COMPUTED
    return Row(
        member=text_of(listed.member),
        added_s=(entry.added_s or None) if is_kept else None,
        by=(entry.by or OPERATOR) if is_kept else None,
        reason=entry.reason,
        author=entry.pubkey,
        until_s=entry.until_s,
    )


def date(at_s: int | None) -> str:
    """A time as ISO 8601 has it, in UTC."""
    if at_s is None:
        return UNKNOWN
    try:
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at_s))
    except (OverflowError, ValueError, OSError):
        return str(at_s)


def as_text(name: ListName, row: Row) -> bytes:
    """A line of fields between tabs; no field has a tab or a line feed in it. An address has its end as fourth."""
    until = ((date(row.until_s) if row.until_s else UNKNOWN),) if name is ListName.BLOCKED_IPS else ()
    fields = (str(row.member), date(row.added_s), row.by or UNKNOWN, *until, row.reason)
    return ("\t".join(map(escape, fields)).rstrip("\t") + "\n").encode("utf-8", "backslashreplace")


def as_json(name: ListName, row: Row) -> bytes:
    """An object on a line; times are seconds since 1970, and null is not known."""
    told: dict[str, object] = {"member": row.member, "added": row.added_s, "by": row.by, "reason": row.reason}
    if name in (ListName.ALLOWED_EVENTS, ListName.BANNED_EVENTS, ListName.SPAM_EVENTS):
        told["author"] = row.author or None
    if name is ListName.BLOCKED_IPS:
        told["until"] = row.until_s or None
    return json.dumps(told).encode() + b"\n"
