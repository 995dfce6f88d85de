"""`orly acl`: see and change who may do what."""

import asyncio
import math
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final, assert_never

import uvloop

from orly import clock, units
from orly.access.commands import applies_in, read_address
from orly.access.control import ControlError
from orly.access.snapshot import KIND_LISTS, ListName
from orly.cli.acl_actions import Action, Sort, action_of, read_member
from orly.cli.acl_change import ListChanger, RelayChanger, change_all, taken_kinds
from orly.cli.acl_input import Items, read_items, reason_problem
from orly.cli.acl_list import rows_of, write_overview, write_overview_there, write_rows
from orly.cli.acl_options import AclError, AclOptions, ChangeOptions, ListOptions, ShowOptions
from orly.cli.acl_places import lists_of, opened_to_change, opened_to_read
from orly.cli.acl_rows import Row, read_name
from orly.cli.acl_show import find
from orly.cli.acl_show_there import Stats, find_there, json_there, read_mode, sentences_there
from orly.cli.acl_show_words import as_json, sentences
from orly.cli.acl_stored import NoLists, StoredLists
from orly.cli.acl_url import RelayCaller, caller_from, list_method, read_rows
from orly.cli.files import FileError, ReaderGoneError, opened_output
from orly.logs import configure
from orly.process.exit_codes import ExitCode
from orly.process.streams import tell
from orly.settings import Loaded, Settings

__all__ = ["run_acl"]

_STDOUT: Final = Path("-")
_LONGEST_BLOCK_S: Final = 100 * 365 * 24 * 60 * 60


def run_acl(loaded: Loaded, options: AclOptions) -> tuple[ExitCode, str]:
    """Do what the options say; returns the exit status, and what to tell the operator beyond what was shown.

    Args:
        loaded: The settings.
        options: Those of the command line.
    """
    configure("orly", level="warn")
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
            return loop.run(_run(loaded.settings, options))
    except AclError as error:
        return error.code, str(error)
    except ReaderGoneError:
        return ExitCode.FAILED, ""
    except (ControlError, FileError) as error:
        return ExitCode.FAILED, str(error)


async def _run(settings: Settings, options: AclOptions) -> tuple[ExitCode, str]:
    where = options.where
    if where.url is None and where.auth_key_file is not None:
        raise AclError(ExitCode.USAGE, "--auth-key-file has no effect without --url")
    match options:
        case ListOptions():
            await (_list(settings, options) if where.url is None else _list_there(options))
            return ExitCode.OK, ""
        case ShowOptions():
            await _show(settings, options)
            return ExitCode.OK, ""
        case ChangeOptions():
            return await _change(settings, options)
        case _:
            assert_never(options)


# Listing


def _list_name(text: str) -> ListName:
    try:
        return read_name(text)
    except ValueError as error:
        raise AclError(ExitCode.USAGE, str(error)) from None


async def _list(settings: Settings, options: ListOptions) -> None:
    name = None if options.name is None else _list_name(options.name)
    async with opened_to_read(settings, options.where) as access:
        knows_peers = not isinstance(access, NoLists | StoredLists)
        if name is None:
            write_overview(access, in_json=options.as_json, knows_peers=knows_peers)
            return
        if name is ListName.PEER_PUBKEYS and not knows_peers:
            raise AclError(ExitCode.UNAVAILABLE, "which keys are peers' only a process knows that runs: see --server")
        await write_rows(name, rows_of(access, name), in_json=options.as_json)


async def _list_there(options: ListOptions) -> None:
    name = None if options.name is None else _list_name(options.name)
    method = "" if name is None else list_method(name)
    caller = caller_from(options.where)
    try:
        if name is None:
            stats = await asyncio.to_thread(caller.told_at, "/api/stats", Stats)
            write_overview_there(read_mode(caller, stats.mode), stats.sizes(), in_json=options.as_json)
            return
        rows = read_rows(name, await asyncio.to_thread(caller.call, method, ()))
    finally:
        caller.close()
    await write_rows(name, _one_page(rows), in_json=options.as_json)


async def _one_page(rows: Iterable[Row]) -> AsyncIterator[Iterable[Row]]:
    yield rows


# Showing


async def _show(settings: Settings, options: ShowOptions) -> None:
    try:
        pubkey = read_member(Sort.PUBKEY, options.key)
    except ValueError as error:
        raise AclError(ExitCode.USAGE, f"KEY: {error}") from None
    try:
        address = "" if options.address is None else read_address(options.address)
    except ValueError as error:
        raise AclError(ExitCode.USAGE, f"--ip: {error}") from None
    assert isinstance(pubkey, bytes)
    if options.where.url is not None:
        await _show_there(options, pubkey, address)
        return
    async with opened_to_read(settings, options.where) as access:
        found = await find(access, pubkey, address)
    with opened_output(_STDOUT) as stream:
        if options.as_json:
            stream.write(as_json(found))
        else:
            stream.writelines(f"{sentence}\n".encode() for sentence in sentences(found))


async def _show_there(options: ShowOptions, pubkey: bytes, address: str) -> None:
    caller = caller_from(options.where)
    try:
        found = await asyncio.to_thread(find_there, caller, pubkey.hex(), address)
    finally:
        caller.close()
    with opened_output(_STDOUT) as stream:
        if options.as_json:
            stream.write(json_there(found))
        else:
            stream.writelines(f"{sentence}\n".encode() for sentence in sentences_there(found))


# Changing


async def _change(settings: Settings, options: ChangeOptions) -> tuple[ExitCode, str]:
    action = action_of(options.verb, is_event=options.is_event)
    if options.reason is not None and (problem := reason_problem(options.reason)):
        raise AclError(ExitCode.USAGE, f"--reason: {problem}")
    block_s = 0 if options.duration is None else _block_s(options.duration)
    if options.where.url is not None:
        return await _change_there(action, options)
    items = read_items(action, options)
    async with opened_to_change(settings, options.where) as access:
        until_s = clock.now_s() + block_s if block_s else 0
        done = await change_all(ListChanger(access, action, until_s), action, items)
        mode, kinds = lists_of(access).rules.mode, lists_of(access).kinds
    if action.sort is Sort.KIND:
        tell(taken_kinds(kinds[ListName.ALLOWED_KINDS], kinds[ListName.DISALLOWED_KINDS]))
    if not applies_in(mode, action.list):
        tell(f"orly: in the mode {mode.value} the list {action.list.value} has no effect")
    return done


async def _change_there(action: Action, options: ChangeOptions) -> tuple[ExitCode, str]:
    if options.duration is not None:
        raise AclError(ExitCode.USAGE, "--for cannot be used with --url: NIP-86 knows only blocks for good")
    caller = caller_from(options.where)
    items: Items = read_items(action, options)
    try:
        done = await change_all(RelayChanger(caller, action), action, items)
        if action.sort is Sort.KIND:
            with suppress(AclError):  # other relays need not tell
                tell(taken_kinds(*[await _kinds_there(caller, name) for name in KIND_LISTS]))
        return done
    finally:
        caller.close()


async def _kinds_there(caller: RelayCaller, name: ListName) -> list[int]:
    """A list of kinds that a relay has."""
    rows = read_rows(name, await asyncio.to_thread(caller.call, list_method(name), ()))
    return [row.member for row in rows if isinstance(row.member, int)]


def _block_s(text: str) -> int:
    """For how long an address is to be blocked, in whole seconds."""
    try:
        seconds = math.ceil(units.parse_duration(text))
    except ValueError as error:
        raise AclError(ExitCode.USAGE, f"--for {text}: {error}") from None
    if not 1 <= seconds <= _LONGEST_BLOCK_S:
        raise AclError(ExitCode.USAGE, f"--for {text}: write 1s to {units.format_duration(_LONGEST_BLOCK_S)}")
    return seconds
