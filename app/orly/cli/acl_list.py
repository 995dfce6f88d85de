"""`orly acl list`: how large the lists are, and who is on one."""

import json
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from orly import clock
from orly.access.commands import applies_in
from orly.access.levels import Mode
from orly.access.snapshot import KEY_LISTS, KIND_LISTS, ListName, Rules, Snapshot
from orly.cli.acl_places import Reading, lists_of
from orly.cli.acl_rows import UNKNOWN, Row, as_json, as_text, row_of
from orly.cli.files import opened_output

__all__ = ["rows_of", "write_overview", "write_overview_there", "write_rows"]

_Head = Mapping[str, str | int | None]
"""Mode, owners and admins; None = not known."""

_STDOUT: Final = Path("-")
_PAGE: Final = 10_000


async def rows_of(access: Reading, name: ListName) -> AsyncIterator[Iterable[Row]]:
    """The members of a list, in order, page by page.

    Raises:
        ControlError: They cannot be read.
    """
    page = await access.listed(name, limit=_PAGE)
    while page:
        yield [row_of(name, listed) for listed in page]
        page = await access.listed(name, after=page[-1].member, limit=_PAGE)


async def write_rows(name: ListName, pages: AsyncIterator[Iterable[Row]], *, in_json: bool) -> None:
    """Write members to standard output as they come; blocks that have ended are left out.

    Raises:
        FileError: They cannot be written.
    """
    write = as_json if in_json else as_text
    now_s = clock.now_s()
    with opened_output(_STDOUT) as stream:
        async for page in pages:
            stream.writelines(write(name, row) for row in page if not 0 < row.until_s <= now_s)


def write_overview(access: Reading, *, in_json: bool, knows_peers: bool) -> None:
    """Write the mode and how large what counts in it is.

    Args:
        access: The lists.
        in_json: As JSON lines.
        knows_peers: Whether it is known which keys are peers'.

    Raises:
        FileError: It cannot be written.
    """
    snapshot = lists_of(access)
    sizes = {name: _size(snapshot, name) for name in ListName}
    if not knows_peers:
        del sizes[ListName.PEER_PUBKEYS]
    _write(_head(snapshot.rules), snapshot.rules.mode, sizes, in_json=in_json)


def write_overview_there(mode: Mode, sizes: Mapping[ListName, int], *, in_json: bool) -> None:
    """The same as far as a relay tells it over HTTP.

    Raises:
        FileError: It cannot be written.
    """
    _write({"mode": mode.value, "owners": None, "admins": None}, mode, sizes, in_json=in_json)


def _write(head: _Head, mode: Mode, sizes: Mapping[ListName, int], *, in_json: bool) -> None:
    """Write how many members each list has that counts; those without a size are not known."""
    counting = {name: sizes.get(name) for name in ListName if applies_in(mode, name)}
    with opened_output(_STDOUT) as stream:
        stream.writelines(_json_lines(head, counting) if in_json else _lines(head, counting))


def _size(snapshot: Snapshot, name: ListName) -> int:
    if name in KEY_LISTS:
        return len(snapshot.keys[name])
    return len(snapshot.kinds[name] if name in KIND_LISTS else snapshot.blocked)


def _head(rules: Rules) -> _Head:
    return {"mode": rules.mode.value, "owners": len(rules.owners), "admins": len(rules.admins)}


def _lines(head: _Head, sizes: Mapping[ListName, int | None]) -> Iterator[bytes]:
    told = {**head, **{name.value: size for name, size in sizes.items()}}
    width = max(map(len, told))
    for label, value in told.items():
        yield f"{label:<{width}}  {UNKNOWN if value is None else value}\n".encode()


def _json_lines(head: _Head, sizes: Mapping[ListName, int | None]) -> Iterator[bytes]:
    for line in (head, *({"list": name.value, "size": size} for name, size in sizes.items())):
        yield json.dumps(line).encode() + b"\n"
