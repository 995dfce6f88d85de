"""What `orly acl show` found, in sentences or as JSON."""

import json
from collections.abc import Iterator
from typing import Final, assert_never

from orly.access.commands import OPERATOR, Entry
from orly.access.decide import Treatment
from orly.access.levels import Level, Mode
from orly.access.snapshot import ListName
from orly.cli.acl_rows import date
from orly.cli.acl_show import Counted, Finding, Found
from orly.logs import escape

__all__ = ["as_json", "sentences"]

_MODES: Final = {
    Mode.NONE: "everybody may write",
    Mode.FOLLOWS: "those may write whom the owners and admins follow",
    Mode.MANAGED: "those may write who are on the list of allowed keys",
    Mode.CURATING: "everybody may write, but who is not trusted a limited number of events a day",
}


def sentences(found: Finding) -> Iterator[str]:
    """What was found, a line for each fact."""
    yield f"{found.pubkey} has the level {found.level.label} in the mode {found.mode.value}: {_MODES[found.mode]}."
    if found.is_owner:
        yield "It is an owner's key, by ORLY_OWNERS."
    if found.is_admin:
        yield "It is an admin's key, by ORLY_ADMINS."
    for each in found.lists:
        yield _of_list(found, each)
    if not found.lists:
        yield "It is on no list."
    if found.address:
        yield _of_address(found)
    yield _of_writing(found)
    yield from _of_use(found)
    yield _of_reading(found)


def _of_list(found: Finding, each: Found) -> str:
    match each.list:
        case ListName.FOLLOWED_PUBKEYS:
            text = "It is on followed-pubkeys: an owner or admin follows it"
        case ListName.PEER_PUBKEYS:
            text = "It is on peer-pubkeys: it is the key of a relay that this one syncs with"
        case _:
            text = f"It is on {each.list.value}{_of_entry(each.entry)}"
    if not each.applies:
        text += f"; that has no effect in the mode {found.mode.value}"
    elif found.level >= Level.ADMIN and each.list in (ListName.BANNED_PUBKEYS, ListName.BLACKLISTED_PUBKEYS):
        text += "; that has no effect on owners and admins"
    return text + "."


def _of_entry(entry: Entry) -> str:
    """Since when, by whom and why."""
    by = f"by {entry.by}" if entry.by else f"by an {OPERATOR}"
    why = f": {escape(entry.reason)}" if entry.reason else ", without a reason"
    since = f" since {date(entry.added_s)}" if entry.added_s else ""
    return f"{since}, {by}{why}"


def _of_address(found: Finding) -> str:
    if found.block is None:
        return f"The address {found.address} is not blocked."
    ends = f" until {date(found.block.until_s)}," if found.block.until_s else ""
    no_effect = "; that has no effect on owners and admins" if found.level >= Level.ADMIN else ""
    return f"The address {found.address} is blocked{ends}{_of_entry(found.block)}{no_effect}."


def _of_writing(found: Finding) -> str:
    if found.refused_note is not None:
        return f"Its notes (kind 1) are not taken: {found.refused_note}."
    match found.treatment:
        case Treatment.FREE:
            return "Its notes (kind 1) are taken."
        case Treatment.THROTTLED:
            return "Its notes (kind 1) are taken, but each makes it wait longer, by ORLY_FOLLOWS_THROTTLE."
        case Treatment.COUNTED:
            return "Its notes (kind 1) are taken, and counted."
        case _:
            assert_never(found.treatment)


def _of_use(found: Finding) -> Iterator[str]:
    if found.key_use is not None:
        yield f"Of its {found.key_use.limit} events of this day (UTC) {_used(found.key_use)}."
    if found.address_use is not None:
        yield f"Of the {found.address_use.limit} events of this day (UTC) from that address {_used(found.address_use)}."


def _used(counted: Counted) -> str:
    return f"{counted.used} {'is' if counted.used == 1 else 'are'} used"


def _of_reading(found: Finding) -> str:
    if found.refused_read is not None:
        return f"It is told nothing: {found.refused_read}."
    return "It may read." if found.level < Level.ADMIN else "It may read, also what is hidden from others."


def as_json(found: Finding) -> bytes:
    """The same as one object; times are seconds since 1970, and null is not known, or does not count."""
    address: object = None
    if found.address:
        block = None if found.block is None else {**_entry(found.block), "until": found.block.until_s or None}
        address = {"ip": found.address, "block": block, "day": _counts(found.address_use)}
    told = {
        "pubkey": found.pubkey,
        "mode": found.mode.value,
        "level": found.level.label,
        "owner": found.is_owner,
        "admin": found.is_admin,
        "lists": [{"list": each.list.value, "applies": each.applies, **_entry_of_list(each)} for each in found.lists],
        "address": address,
        "write": {
            "allowed": found.refused_note is None,
            "reason": str(found.refused_note or ""),
            "treatment": found.treatment.name.lower(),
        },
        "read": {"allowed": found.refused_read is None, "reason": str(found.refused_read or "")},
        "day": _counts(found.key_use),
    }
    return json.dumps(told).encode() + b"\n"


def _entry_of_list(each: Found) -> dict[str, object]:
    if each.list in (ListName.FOLLOWED_PUBKEYS, ListName.PEER_PUBKEYS):
        return {"added": None, "by": None, "reason": ""}
    return _entry(each.entry)


def _entry(entry: Entry) -> dict[str, object]:
    return {"added": entry.added_s or None, "by": entry.by or OPERATOR, "reason": entry.reason}


def _counts(counted: Counted | None) -> dict[str, int] | None:
    return None if counted is None else {"used": counted.used, "limit": counted.limit}
