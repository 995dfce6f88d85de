"""How access control keeps what it knows: as markers in the store; of the lists, one for each member."""

import asyncio
from collections.abc import AsyncIterator
from typing import Final

import msgspec

from orly.access.commands import Edit, Entry, Member
from orly.access.snapshot import KEY_LISTS, KIND_LISTS, ListName
from orly.store.base import MAX_MARKERS, EventStore, Marker

__all__ = [
    "INFO_PREFIX",
    "marker_of",
    "marker_prefix",
    "member_text",
    "read_entry",
    "read_list",
    "read_member",
    "read_pages",
]

INFO_PREFIX: Final = "acl/info/"
_LIST_PREFIX: Final = "acl/list/"
_KIND_DIGITS: Final = 5


def marker_prefix(name: ListName) -> str:
    """What the keys of a list's markers begin with."""
    return f"{_LIST_PREFIX}{name.value}/"


def member_text(member: Member) -> str:
    """A member as it stands in a marker's key: in the order of the members."""
    match member:
        case bytes():
            return member.hex()
        case int():
            return f"{member:0{_KIND_DIGITS}}"
        case str():
            return member


def marker_of(edit: Edit) -> tuple[str, bytes | None]:
    """The marker that an edit sets, or removes."""
    value = None if edit.entry is None else msgspec.json.encode(edit.entry)
    return marker_prefix(edit.list) + member_text(edit.member), value


def read_member(name: ListName, text: str) -> Member:
    """A member from a marker's key.

    Raises:
        ValueError: It is none.
    """
    if name in KEY_LISTS:
        return bytes.fromhex(text)
    return int(text) if name in KIND_LISTS else text


def read_entry(value: bytes) -> Entry:
    """An entry from a marker's value; of one that cannot be read, nothing is known but that it is there."""
    try:
        return msgspec.json.decode(value, type=Entry)
    except msgspec.MsgspecError:
        return Entry()


async def read_pages(
    store: EventStore, prefix: str, *, after: str = "", most: int | None = None
) -> AsyncIterator[list[Marker]]:
    """Pages of the markers whose keys begin with a prefix, in order, from behind a key on.

    Raises:
        StoreError: They cannot be read.
    """
    left = most
    while left is None or left > 0:
        page = await store.markers(prefix, after=after, limit=MAX_MARKERS if left is None else min(left, MAX_MARKERS))
        if not page:
            return
        after = page[-1].key
        left = None if left is None else left - len(page)
        yield page
        await asyncio.sleep(0)  # a store in this process answers at once: others get their turn


async def read_list(
    store: EventStore, name: ListName, *, after: Member | None = None, most: int | None = None
) -> AsyncIterator[list[tuple[Member, bytes]]]:
    """Pages of a list's members with their entries, still encoded, in order.

    Raises:
        StoreError: They cannot be read.
    """
    prefix = marker_prefix(name)
    last = "" if after is None else prefix + member_text(after)
    async for page in read_pages(store, prefix, after=last, most=most):
        yield [(read_member(name, marker.key.removeprefix(prefix)), marker.value) for marker in page]
