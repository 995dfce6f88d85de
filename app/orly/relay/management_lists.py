"""Management methods (NIP-86) that change or show the lists: each kind of them is made once, for any list."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from orly.access.commands import AddKey, Command, CommandError, DropKey, SetInfo
from orly.access.control import AccessControl, Listed
from orly.access.snapshot import KEY_LISTS, KIND_LISTS, ListName, Snapshot
from orly.relay.management_params import KEY, TEXT, Param
from orly.store.base import EventStore

__all__ = [
    "MAX_LISTED",
    "Asked",
    "Method",
    "adding",
    "changing",
    "describe_address",
    "dropping",
    "kinds_of",
    "listing",
    "naming",
    "setting",
    "size_of",
]

MAX_LISTED: Final = 100_000
"""Members that are told of a list at once: some 15 MB of JSON."""

_PAGE: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a method works with.

    Attributes:
        access: Changes the lists.
        store: Has the events.
        snapshot: The lists as they are.
        by: Who asks: a key in hex.
        now_s: The current time.
    """

    access: AccessControl
    store: EventStore
    snapshot: Snapshot
    by: str
    now_s: int


@dataclass(frozen=True, slots=True)
class Method:
    """A management method.

    Attributes:
        act: Gets what was asked and the parameters, and gives the result.
        params: What it takes.
        needs: The list it is about: it is offered where that list means something. None = everywhere.
    """

    act: Callable[..., Awaitable[object]]
    params: tuple[Param, ...] = ()
    needs: ListName | None = None


def changing(command: Callable[..., Command], *params: Param, needs: ListName | None = None) -> Method:
    """A method that carries out the command which `command` makes of the parameters."""

    async def act(asked: Asked, *values: Any) -> bool:
        await asked.access.change([command(*values)], by=asked.by)
        return True

    return Method(act, params, needs)


def adding(name: ListName) -> Method:
    """Puts a key or an event on a list."""
    return changing(lambda key, reason: AddKey(name, key, reason), KEY, TEXT.or_else(""), needs=name)


def dropping(name: ListName) -> Method:
    """Takes a key or an event off a list; a reason is taken, and kept nowhere but in the log."""
    return changing(lambda key, reason: DropKey(name, key), KEY, TEXT.or_else(""), needs=name)


def setting(field: Literal["name", "description", "icon"]) -> Method:
    """Changes what the relay says of itself."""
    return changing(lambda text: SetInfo(field, text), TEXT)


def listing(name: ListName, describe: Callable[[Listed], Mapping[str, object]]) -> Method:
    """Shows a list."""

    async def act(asked: Asked) -> list[Mapping[str, object]]:
        return [describe(each) for each in await _all(asked, name)]

    return Method(act, (), name)


def kinds_of(name: ListName) -> Method:
    """Shows a list of kinds."""

    async def act(asked: Asked) -> list[int]:
        return sorted(asked.snapshot.kinds[name])

    return Method(act, (), name)


async def _all(asked: Asked, name: ListName) -> list[Listed]:
    size = size_of(asked.snapshot, name)
    if size > MAX_LISTED:
        raise CommandError(f"there are {size} {name.value}, too many to be told here: use `orly acl list {name.value}`")
    found: list[Listed] = []
    page: Sequence[Listed] = await asked.access.listed(name, limit=_PAGE)
    while page:
        found += page
        page = await asked.access.listed(name, after=page[-1].member, limit=_PAGE)
    return found


def size_of(snapshot: Snapshot, name: ListName) -> int:
    """How many members a list has."""
    if name in KEY_LISTS:
        return len(snapshot.keys[name])
    return len(snapshot.kinds[name] if name in KIND_LISTS else snapshot.blocked)


def naming(*, member: str, author: bool = False, note: bool = False) -> Callable[[Listed], Mapping[str, object]]:
    """How the members of a list of keys or events are told.

    Args:
        member: The name of the field that holds the member, in hex.
        author: Whether the author of an event is told.
        note: Whether the reason is told as `note` too.
    """

    def describe(listed: Listed) -> Mapping[str, object]:
        assert isinstance(listed.member, bytes)
        entry = listed.entry
        told: dict[str, object] = {member: listed.member.hex()}
        if author:
            told["pubkey"] = entry.pubkey
        told |= {"reason": entry.reason, "added": entry.added_s}
        return told | {"note": entry.reason} if note else told

    return describe


def describe_address(listed: Listed) -> Mapping[str, object]:
    """How a blocked address is told; an `expires_at` of 0 is never."""
    entry = listed.entry
    return {"ip": listed.member, "reason": entry.reason, "expires_at": entry.until_s, "added": entry.added_s}
