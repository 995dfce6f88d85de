"""`orly acl show`: what a key may do, and why."""

from typing import Final

import msgspec

from orly.access.addresses import place_of
from orly.access.commands import Entry, applies_in
from orly.access.curating import CuratingConfig, refuse_over
from orly.access.decide import Treatment, block_of, level_of, refuse_read, refuse_write, standing_of, treatment_of
from orly.access.levels import Level, Mode
from orly.access.snapshot import PUBKEY_LISTS, ListName, Snapshot
from orly.cli.acl_places import Reading, lists_of
from orly.nostr.event import EncodedEvent, Event, compute_id, decode_event, encode_event
from orly.nostr.reason import Refusal

__all__ = ["Counted", "Finding", "Found", "find"]

_NOTE: Final = 1
"""The kind by which it is told what becomes of what a key writes."""


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """A list that a key is on, and what is known of that.

    Attributes:
        list: The list.
        entry: What is known.
        applies: Whether the list means something in the mode.
    """

    list: ListName
    entry: Entry
    applies: bool


class Counted(msgspec.Struct, frozen=True, kw_only=True):
    """Events that count for the limit of a day (mode `curating`).

    Attributes:
        used: How many there were today.
        limit: How many there may be.
    """

    used: int
    limit: int


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What there is to say of a key.

    Attributes:
        pubkey: In hex.
        mode: How it is decided who may write.
        level: What the key may do at most.
        is_owner: Whether it is one of ORLY_OWNERS.
        is_admin: Whether it is one of ORLY_ADMINS.
        lists: Those it is on.
        address: Where it comes from; empty if that was not said.
        block: What is known of the block of that; None if it is not blocked.
        refused_note: Why a note of it is not stored; None if it is.
        treatment: How a note is taken.
        refused_read: Why it is told nothing; None if it may read.
        key_use: Of the day, if notes of the key count.
        address_use: Of the day and the address, or its network, likewise.
    """

    pubkey: str
    mode: Mode
    level: Level
    is_owner: bool
    is_admin: bool
    lists: tuple[Found, ...]
    address: str
    block: Entry | None
    refused_note: Refusal | None
    treatment: Treatment
    refused_read: Refusal | None
    key_use: Counted | None
    address_use: Counted | None


async def find(access: Reading, pubkey: bytes, address: str) -> Finding:
    """What there is to say of a key.

    Args:
        access: The lists.
        pubkey: 32 bytes.
        address: Where it comes from, as `ipaddress` writes it; empty if that is not known.

    Raises:
        ControlError: What is known of a member cannot be read.
    """
    lists = [await _found(access, name, pubkey) for name in PUBKEY_LISTS if pubkey in lists_of(access).keys[name]]
    barred_by = block_of(lists_of(access), address)
    block = (await access.entry_of(ListName.BLOCKED_IPS, barred_by) or Entry()) if barred_by else None
    snapshot = lists_of(access)
    standing = standing_of(snapshot, [pubkey], address)
    note = _note(pubkey)
    treatment = treatment_of(snapshot, note, standing)
    counts = treatment is Treatment.COUNTED
    key_use = _counted(snapshot, pubkey) if counts else None
    place = place_of(address)
    address_use = _counted(snapshot, place) if counts and place else None
    return Finding(
        pubkey=pubkey.hex(),
        mode=snapshot.rules.mode,
        level=level_of(snapshot, pubkey),
        is_owner=pubkey in snapshot.rules.owners,
        is_admin=pubkey in snapshot.rules.admins,
        lists=tuple(lists),
        address=address,
        block=block,
        refused_note=refuse_write(snapshot, note, standing) or _over(snapshot, key_use, address_use),
        treatment=treatment,
        refused_read=refuse_read(standing),
        key_use=key_use,
        address_use=address_use,
    )


async def _found(access: Reading, name: ListName, pubkey: bytes) -> Found:
    entry = await access.entry_of(name, pubkey)
    applies = applies_in(lists_of(access).rules.mode, name)
    return Found(list=name, entry=entry or Entry(), applies=applies)


def _note(pubkey: bytes) -> EncodedEvent:
    """A note of a key; nobody signed it."""
    author = pubkey.hex()
    note = Event(compute_id(author, 0, _NOTE, [], ""), author, 0, _NOTE, [], "", "00" * 64)
    return decode_event(encode_event(note))


def _counted(snapshot: Snapshot, who: bytes | str) -> Counted | None:
    config: CuratingConfig | None = snapshot.curating
    if config is None:
        return None
    limit = config.daily_limit if isinstance(who, bytes) else config.ip_daily_limit
    return Counted(used=snapshot.used.get(who, 0), limit=limit)


def _over(snapshot: Snapshot, key: Counted | None, address: Counted | None) -> Refusal | None:
    """The refusal that a relay process has for who has reached a limit."""
    if snapshot.curating is None or key is None:
        return None
    return refuse_over(snapshot.curating, key.used, None if address is None else address.used)
