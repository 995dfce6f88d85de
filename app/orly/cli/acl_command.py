"""`orly acl`: its commands, their arguments and help; what they do is loaded when one is called."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final

import typer

from orly.cli.acl_options import AclOptions, ChangeOptions, ListOptions, ShowOptions, Where
from orly.process.exit_codes import ExitCode
from orly.settings import Loaded

__all__ = ["add_acl"]

_EPILOG: Final = (
    "Exit status: 0 done; 1 failed, or not all was done, and what was done stays; 2 wrong usage, such as a text that "
    "is no key, and nothing was changed; 69 the data directory is in use, or who was to be asked does not answer; "
    "78 a setting must be changed first."
)
_WHERE: Final = (
    "Whose lists: those of orly-acl at --server, which is also asked where ORLY_GRPC_ACL_SERVER names it, with "
    "ORLY_ACL_TYPE=grpc, and where orly-launcher runs it; those of the relay at --url (NIP-86); else those in "
    "ORLY_DATA_DIR."
)
_HELP: Final = f"""See and change who may do what: lists of keys, events, kinds and addresses.

{_WHERE} While a relay uses that directory, they can be read there, and changed with --url."""

_FILE_HELP: Final = (
    "Read them from there, one a line, a reason behind it where one is kept; # begins a comment; - is standard input."
)

_Server = Annotated[
    str | None, typer.Option(metavar="HOST:PORT", help="Use the lists of this orly-acl.", show_default=False)
]
_Url = Annotated[
    str | None,
    typer.Option(metavar="URL", help="Manage this relay over HTTP, with --auth-key-file.", show_default=False),
]
_AuthKeyFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="With --url: holds the key of an owner or admin there, nsec or hex.", show_default=False
    ),
]
_File = Annotated[Path | None, typer.Option(metavar="FILE", help=_FILE_HELP, show_default=False)]
_Reason = Annotated[
    str | None, typer.Option(metavar="TEXT", help="Why, where the file does not say.", show_default=False)
]
_Json = Annotated[bool, typer.Option("--json", help="As JSON, an object on each line.")]
_Event = Annotated[bool, typer.Option("--event", help="Do it to events: the arguments are their ids, in hex.")]
_Run = Callable[[AclOptions], None]


def add_acl(app: typer.Typer, load: Callable[[], Loaded], finish: Callable[[ExitCode, str], BaseException]) -> None:
    """Make `acl` a command of `app` with commands of its own.

    Args:
        app: Gets it.
        load: Loads the settings.
        finish: Makes of an exit status, and what there is to say, the exception that ends the process.
    """

    def run(options: AclOptions) -> None:
        from orly.cli.acl_run import run_acl

        raise finish(*run_acl(load(), options))

    group = typer.Typer(
        name="acl",
        help=_HELP,
        short_help="See and change who may do what.",
        epilog=_EPILOG,
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    _add_list(group, run)
    _add_show(group, run)
    _with_reason_and_event(group, run, "ban", "Ban keys, or events. What is banned is not taken, and hidden.")
    _with_event(group, run, "unban", "Undo bans.")
    _with_reason_and_event(group, run, "allow", "Let keys write, in the modes follows and managed.")
    _with_event(group, run, "unallow", "Take keys off the list of those allowed.")
    _with_reason(group, run, "trust", "KEY", "Do not limit what keys write, in the mode curating.")
    _plain(group, run, "untrust", "KEY", "Limit what keys write again.")
    _with_reason(group, run, "blacklist", "KEY", "Ban keys in the mode curating.")
    _plain(group, run, "unblacklist", "KEY", "Undo such bans.")
    _with_reason(group, run, "spam", "EVENT_ID", "Mark events as spam: the mode curating hides them.")
    _plain(group, run, "unspam", "EVENT_ID", "Mark events as spam no longer.")
    _add_block(group, run)
    _plain(group, run, "unblock-ip", "ADDRESS", "Block addresses no longer.")
    _plain(
        group,
        run,
        "allow-kind",
        "KIND",
        "Take kinds; once one is allowed, only such. One that was disallowed is just let in again.",
    )
    _plain(group, run, "disallow-kind", "KIND", "Take kinds no longer.")
    app.add_typer(group)


def _add_list(group: typer.Typer, run: _Run) -> None:
    @group.command("list", short_help="Show the lists, or one of them.", epilog=_EPILOG)
    def show_list(
        name: Annotated[
            str | None, typer.Argument(metavar="LIST", help="Such as banned-pubkeys.", show_default=False)
        ] = None,
        *,
        as_json: _Json = False,
        server: _Server = None,
        url: _Url = None,
        auth_key_file: _AuthKeyFile = None,
    ) -> None:
        """Show the members of a list, each with when it was added, by whom and why, between tabs.

        Without LIST: the mode, and how many owners, admins and members of each list there are that counts in it. With
        --url it is not told how many owners and admins there are, and LIST is one that NIP-86 can list.
        """
        where = Where(server=server, url=url, auth_key_file=auth_key_file)
        run(ListOptions(name=name, as_json=as_json, where=where))


def _add_show(group: typer.Typer, run: _Run) -> None:
    @group.command("show", short_help="Show what a key may do, and why.", epilog=_EPILOG)
    def show(
        key: Annotated[str, typer.Argument(metavar="KEY", help="npub or hex.", show_default=False)],
        *,
        address: Annotated[
            str | None,
            typer.Option("--ip", metavar="ADDRESS", help="When it comes from there.", show_default=False),
        ] = None,
        as_json: Annotated[bool, typer.Option("--json", help="As one JSON object.")] = False,
        server: _Server = None,
        url: _Url = None,
        auth_key_file: _AuthKeyFile = None,
    ) -> None:
        """Show what a key may do, on which lists it is, and what becomes of what it writes and asks.

        By the lists and settings alone: the limits on rates and the write plugin are not asked. With --url: its level,
        and on which lists it is; what becomes of what it writes, a relay does not tell.
        """
        where = Where(server=server, url=url, auth_key_file=auth_key_file)
        run(ShowOptions(key=key, address=address, as_json=as_json, where=where))


def _keys(metavar: str, help: str) -> object:
    return typer.Argument(metavar=metavar, help=help, show_default=False)


_Keys = Annotated[list[str] | None, _keys("KEY", "npub or hex; with --event, ids of events in hex.")]


def _with_reason_and_event(group: typer.Typer, run: _Run, verb: str, help: str) -> None:
    @group.command(verb, help=help, epilog=_EPILOG)
    def change(
        keys: _Keys = None,
        *,
        event: _Event = False,
        reason: _Reason = None,
        file: _File = None,
        server: _Server = None,
        url: _Url = None,
        auth_key_file: _AuthKeyFile = None,
    ) -> None:
        where = Where(server=server, url=url, auth_key_file=auth_key_file)
        given = tuple(keys or ())
        run(ChangeOptions(verb=verb, is_event=event, keys=given, reason=reason, file=file, where=where))


def _with_event(group: typer.Typer, run: _Run, verb: str, help: str) -> None:
    @group.command(verb, help=help, epilog=_EPILOG)
    def change(
        keys: _Keys = None,
        *,
        event: _Event = False,
        file: _File = None,
        server: _Server = None,
        url: _Url = None,
        auth_key_file: _AuthKeyFile = None,
    ) -> None:
        where = Where(server=server, url=url, auth_key_file=auth_key_file)
        run(ChangeOptions(verb=verb, is_event=event, keys=tuple(keys or ()), file=file, where=where))


_MEMBER_HELP: Final = {
    "KEY": "npub or hex.",
    "EVENT_ID": "In hex.",
    "ADDRESS": "IPv4 or IPv6.",
    "KIND": "0 to 65535.",
}


def _with_reason(group: typer.Typer, run: _Run, verb: str, metavar: str, help: str) -> None:
    @group.command(verb, help=help, epilog=_EPILOG)
    def change(
        keys: Annotated[list[str] | None, _keys(metavar, _MEMBER_HELP[metavar])] = None,
        *,
        reason: _Reason = None,
        file: _File = None,
        server: _Server = None,
        url: _Url = None,
        auth_key_file: _AuthKeyFile = None,
    ) -> None:
        where = Where(server=server, url=url, auth_key_file=auth_key_file)
        run(ChangeOptions(verb=verb, keys=tuple(keys or ()), reason=reason, file=file, where=where))


def _plain(group: typer.Typer, run: _Run, verb: str, metavar: str, help: str) -> None:
    @group.command(verb, help=help, epilog=_EPILOG)
    def change(
        keys: Annotated[list[str] | None, _keys(metavar, _MEMBER_HELP[metavar])] = None,
        *,
        file: _File = None,
        server: _Server = None,
        url: _Url = None,
        auth_key_file: _AuthKeyFile = None,
    ) -> None:
        where = Where(server=server, url=url, auth_key_file=auth_key_file)
        run(ChangeOptions(verb=verb, keys=tuple(keys or ()), file=file, where=where))


def _add_block(group: typer.Typer, run: _Run) -> None:
    @group.command("block-ip", help="Refuse addresses everything.", epilog=_EPILOG)
    def change(
        keys: Annotated[list[str] | None, _keys("ADDRESS", _MEMBER_HELP["ADDRESS"])] = None,
        *,
        duration: Annotated[
            str | None,
            typer.Option(
                "--for", metavar="TIME", help="How long: 30m, 1h30m; else for good. Not with --url.", show_default=False
            ),
        ] = None,
        reason: _Reason = None,
        file: _File = None,
        server: _Server = None,
        url: _Url = None,
        auth_key_file: _AuthKeyFile = None,
    ) -> None:
        where = Where(server=server, url=url, auth_key_file=auth_key_file)
        given = tuple(keys or ())
        run(ChangeOptions(verb="block-ip", keys=given, reason=reason, duration=duration, file=file, where=where))
