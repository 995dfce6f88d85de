"""The commands of `orly acl` that change a list: page by page, each of which is done whole or not at all."""

import asyncio
from collections.abc import Collection, Sequence
from itertools import islice
from typing import Final, Protocol

import msgspec

from orly import clock
from orly.access.commands import Command, CommandError, Edit, Member, edits_of
from orly.access.control import AccessControl, ControlError
from orly.access.snapshot import Snapshot
from orly.acl.lists import MAX_COMMANDS
from orly.cli.acl_actions import Action, command_of
from orly.cli.acl_input import Items
from orly.cli.acl_options import AclError
from orly.cli.acl_places import lists_of
from orly.cli.acl_progress import count_progress
from orly.cli.acl_rows import text_of
from orly.cli.acl_url import RelayCaller
from orly.process.exit_codes import ExitCode
from orly.process.stop_signals import on_stop
from orly.process.streams import tell

__all__ = ["Changer", "ListChanger", "RelayChanger", "change_all", "taken_kinds"]

_SHOWN_KINDS: Final = 50
"""Of those on a list; the rest is only counted."""

_Given = tuple[Member, str]
"""A member, and why it is changed."""


class Changed(msgspec.Struct, frozen=True):
    """How many members were dealt with, and how many of them are in another state than before; None = not known."""

    done: int = 0
    new: int | None = None


class Changer(Protocol):
    """Changes lists somewhere.

    Attributes:
        most: Members at once.
    """

    most: int

    async def check(self, items: Items) -> None:
        """Find what cannot be done, as far as it can be known before.

        Raises:
            AclError: Something cannot.
        """

    async def apply(self, given: Sequence[_Given]) -> int | None:
        """Change some members, all or none; returns for how many that is new, None if that is not known.

        Raises:
            AclError: It cannot be done.
        """


class ListChanger:
    """See `Changer`: works on lists that are known here.

    Args:
        access: Has them.
        action: What is done.
        until_s: When it ends, Unix time; 0 = never.
    """

    most: int = MAX_COMMANDS

    def __init__(self, access: AccessControl, action: Action, until_s: int) -> None:
        self._access = access
        self._action = action
        self._until_s = until_s

    def _command(self, given: _Given) -> Command:
        member, reason = given
        return command_of(self._action, member, reason, self._until_s)

    async def check(self, items: Items) -> None:
        """See `Changer`."""
        snapshot, now_s = lists_of(self._access), clock.now_s()
        for member, item in items.items():
            try:
                edits_of(snapshot, self._command((member, item.reason)), by="", now_s=now_s)
            except CommandError as error:
                place = f"line {item.line}" if item.line else str(text_of(member))
                raise AclError(ExitCode.FAILED, f"{place}: {error}; nothing was changed") from None

    async def apply(self, given: Sequence[_Given]) -> int:
        """See `Changer`."""
        commands = [self._command(each) for each in given]
        snapshot, now_s = lists_of(self._access), clock.now_s()
        new = sum(
            any(_is_new(snapshot, edit) for edit in edits_of(snapshot, command, by="", now_s=now_s))
            for command in commands
        )
        try:
            await self._access.change(commands, by="")
        except (CommandError, ControlError) as error:
            raise AclError(ExitCode.FAILED, str(error)) from None
        return new


def _is_new(snapshot: Snapshot, edit: Edit) -> bool:
    """Whether an edit puts a member on a list, or takes it off."""
    match edit.member:
        case bytes() as key:
            was_listed = key in snapshot.keys[edit.list]
        case int() as kind:
            was_listed = kind in snapshot.kinds[edit.list]
        case str() as address:
            was_listed = address in snapshot.blocked
    return was_listed is not (edit.entry is not None)


class RelayChanger:
    """See `Changer`: has a relay do it, one member at a time."""

    most: int = 1

    def __init__(self, caller: RelayCaller, action: Action) -> None:
        self._caller = caller
        self._action = action

    async def check(self, items: Items) -> None:
        """See `Changer`; only the relay knows."""

    async def apply(self, given: Sequence[_Given]) -> None:
        """See `Changer`."""
        for member, reason in given:
            params: list[object] = [text_of(member)]
            if reason:
                params += ["", reason] if self._action.method == "markspam" else [reason]  # the author stands between
            await asyncio.to_thread(self._caller.call, self._action.method, params)


async def change_all(changer: Changer, action: Action, items: Items) -> tuple[ExitCode, str]:
    """Change all members, or as many as there is time for until we are told to stop; says how many.

    Returns:
        The exit status, and what else there is to say.

    Raises:
        AclError: One cannot be changed, so none was.
    """
    await changer.check(items)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    on_stop(lambda _: loop.call_soon_threadsafe(stop.set))
    changed, problem = Changed(), None
    given = ((member, item.reason) for member, item in items.items())
    with count_progress(action.verb, len(items)) as advance:
        while not stop.is_set() and (page := list(islice(given, changer.most))):
            try:
                new = await changer.apply(page)
            except AclError as error:
                problem = error
                break
            changed = Changed(changed.done + len(page), None if new is None else (changed.new or 0) + new)
            advance(len(page))
    if changed.done or problem is None:
        tell(_summary(action, changed))
    if changed.done == len(items):
        return ExitCode.OK, ""
    code, why = (ExitCode.FAILED, "interrupted") if problem is None else (problem.code, str(problem))
    so_far = f"{changed.done or 'none'} of {len(items)} {'was' if changed.done < 2 else 'were'} done before that"
    return code, why if len(items) == 1 and problem is not None else f"{why}; {so_far}"


def _summary(action: Action, changed: Changed) -> str:
    if changed.new is None and changed.done:
        return f"{changed.done} {action.done}"
    new = changed.new or 0
    before = changed.done - new
    was = "was" if before == 1 else "were"
    return f"{new} {action.done}" + (f", {before} {was} so before" if before else "")


def taken_kinds(allowed: Collection[int], disallowed: Collection[int]) -> str:
    """What the two lists of kinds come to."""
    if taken := set(allowed) - set(disallowed):
        return (
            f"only {'kind' if len(taken) == 1 else 'kinds'} {_some(taken)} {'is' if len(taken) == 1 else 'are'} taken"
        )
    return f"all kinds are taken but {_some(disallowed)}" if disallowed else "all kinds are taken"


def _some(kinds: Collection[int]) -> str:
    shown = ", ".join(map(str, sorted(kinds)[:_SHOWN_KINDS]))
    return f"{shown} and {len(kinds) - _SHOWN_KINDS} more" if len(kinds) > _SHOWN_KINDS else shown
