"""`orly acl show --url`: what a relay tells of a key over HTTP."""

import json
from collections.abc import Iterator

import msgspec

from orly.access.addresses import network_of
from orly.access.commands import applies_in
from orly.access.levels import Level, Mode
from orly.access.snapshot import PUBKEY_LISTS, ListName
from orly.cli.acl_options import AclError
from orly.cli.acl_rows import Row, date
from orly.cli.acl_url import LISTED, RelayCaller, list_method, read_rows
from orly.logs import escape
from orly.process.exit_codes import ExitCode

__all__ = ["FindingThere", "Stats", "find_there", "json_there", "read_mode", "sentences_there"]


class _Permission(msgspec.Struct, frozen=True):
    """The answer of `/api/permissions`."""

    permission: str


class _AclMode(msgspec.Struct, frozen=True):
    """The answer of `/api/acl-mode`."""

    acl_mode: str


class Stats(msgspec.Struct, frozen=True):
    """Of the answer of `/api/stats`, what concerns the lists."""

    mode: str
    lists: dict[str, int]

    def sizes(self) -> dict[ListName, int]:
        """How many members each list has, of those that are known here."""
        return {name: self.lists[name.value] for name in ListName if name.value in self.lists}


class FindingThere(msgspec.Struct, frozen=True, kw_only=True):
    """What a relay says of a key.

    Attributes:
        pubkey: In hex.
        mode: How it is decided who may write.
        level: What the key may do at most.
        lists: Those it is on, of those that count and are told.
        untold: Lists that the relay did not tell, and why.
        address: Where the key comes from; empty if that was not asked.
        block: The block of that; None if it is not blocked.
    """

    pubkey: str
    mode: Mode
    level: Level
    lists: tuple[tuple[ListName, Row], ...]
    untold: tuple[tuple[ListName, str], ...]
    address: str
    block: Row | None


def read_mode(caller: RelayCaller, text: str) -> Mode:
    """A mode that a relay names.

    Raises:
        AclError: There is none of that name.
    """
    try:
        return Mode(text)
    except ValueError:
        raise AclError(ExitCode.FAILED, f"{caller.url}: its mode {escape(text)[:40]!r} is not known here") from None


def find_there(caller: RelayCaller, pubkey: str, address: str) -> FindingThere:
    """Ask a relay about a key (hex), and about an address unless that is empty; blocks its thread.

    Raises:
        AclError: It cannot be asked, or does not tell.
    """
    mode = read_mode(caller, caller.told_at("/api/acl-mode", _AclMode).acl_mode)
    level = caller.told_at(f"/api/permissions/{pubkey}", _Permission).permission
    if level.upper() not in Level.__members__:
        raise AclError(ExitCode.FAILED, f"{caller.url}: the level {escape(level)[:40]!r} is not known here")
    lists: list[tuple[ListName, Row]] = []
    untold: list[tuple[ListName, str]] = []
    for name in PUBKEY_LISTS:
        if name in LISTED and applies_in(mode, name):
            try:
                lists += [(name, row) for row in _listed(caller, name, pubkey)]
            except AclError as error:
                if error.code is not ExitCode.FAILED:
                    raise
                untold.append((name, str(error)))
    return FindingThere(
        pubkey=pubkey,
        mode=mode,
        level=Level[level.upper()],
        lists=tuple(lists),
        untold=tuple(untold),
        address=address,
        block=next(_listed(caller, ListName.BLOCKED_IPS, address, network_of(address)), None) if address else None,
    )


def _listed(caller: RelayCaller, name: ListName, *members: str) -> Iterator[Row]:
    yield from (row for row in read_rows(name, caller.call(list_method(name), ())) if row.member in members)


def sentences_there(found: FindingThere) -> Iterator[str]:
    """What was found, a line for each fact."""
    yield f"{found.pubkey} has the level {found.level.label} in the mode {found.mode.value}."
    for name, row in found.lists:
        yield f"It is on {name.value}{_of_row(row)}."
    for name, why in found.untold:
        yield f"Whether it is on {name.value} is not told: {why}"
    if not (found.lists or found.untold):
        yield "It is on no list that the relay tells."
    if found.block is not None:
        ends = f" until {date(found.block.until_s)}," if found.block.until_s else ""
        yield f"The address {found.address} is blocked{ends}{_of_row(found.block)}."
    elif found.address:
        yield f"The address {found.address} is not blocked."


def _of_row(row: Row) -> str:
    since = f" since {date(row.added_s)}" if row.added_s else ""
    return since + (f": {escape(row.reason)}" if row.reason else ", without a reason")


def json_there(found: FindingThere) -> bytes:
    """The same as one object, with the names of `orly acl show` without --url; null is not known."""
    address: object = None
    if found.address:
        block = None if found.block is None else {**_entry(found.block), "until": found.block.until_s or None}
        address = {"ip": found.address, "block": block, "day": None}
    told = {
        "pubkey": found.pubkey,
        "mode": found.mode.value,
        "level": found.level.label,
        "owner": found.level is Level.OWNER,
        "admin": None if found.level is Level.OWNER else found.level is Level.ADMIN,
        "lists": [{"list": name.value, "applies": True, **_entry(row)} for name, row in found.lists],
        "address": address,
        "write": None,
        "read": None,
        "day": None,
    }
    return json.dumps(told).encode() + b"\n"


def _entry(row: Row) -> dict[str, object]:
    return {"added": row.added_s or None, "by": None, "reason": row.reason}
