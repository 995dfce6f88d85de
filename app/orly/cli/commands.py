"""The commands of `orly`: arguments, help, and what is printed; each loads its own part of the program."""

from pathlib import Path
from typing import Annotated

import typer

from orly import __version__
from orly.cli.acl_command import add_acl
from orly.cli.progress import tell
from orly.cli.sync_command import add_sync
from orly.cli.sync_options import SyncOptions
from orly.process.exit_codes import ExitCode
from orly.settings import Loaded, SettingsError, load

__all__ = ["app"]

_HELP = """A Nostr relay. Without a command it serves, configured by ORLY_* variables (see `orly config`)."""

_EXIT_CODES = (
    "Exit status: 0 done, or stopped as it was told; 1 failed, or not all was done; 2 wrong usage; "
    "3 a sync came to its end, but something is missing; "
    "69 of what serves: the port or the data directory is in use, or the store's service never came; "
    "70 the store failed while serving; 78 a setting must be changed first."
)

_Server = Annotated[
    str | None,
    typer.Option(
        "--server",
        metavar="HOST:PORT",
        help="The orly-db that has the store; ORLY_GRPC_SERVER if ORLY_DB_TYPE is grpc.",
        show_default=False,
    ),
]

app = typer.Typer(
    name="orly",
    help=_HELP,
    epilog=_EXIT_CODES,
    add_completion=False,
    no_args_is_help=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _finish(code: ExitCode, text: str) -> typer.Exit:
    """The end of a command: its status, after what there is to say on standard error."""
    for line in text.splitlines():
        tell(f"orly: {line}")
    return typer.Exit(code)


def _load() -> Loaded:
    try:
        return load()
    except SettingsError as error:
        raise _finish(ExitCode.SETTINGS, "\n".join(error.problems)) from None


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"orly {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def default(
    context: typer.Context,
    *,
    show_version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Serve the relay when no command is given."""
    del show_version
    if context.invoked_subcommand is None:
        relay()


@app.command(short_help="Serve the relay.", epilog=_EXIT_CODES)
def relay() -> None:
    """Serve the relay until SIGTERM or SIGINT; a second signal does not wait for clients.

    This is what `orly` does without a command.
    """
    from orly.cli.run import run

    raise _finish(*run(_load()))


@app.command(
    "import",
    short_help="Store events from a JSONL file.",
    epilog=(
        "Exit status: 0 if every line was stored, was there before, or is no longer wanted (replaced, deleted, "
        "expired); 1 if a line was refused, the store failed, the file cannot be read, or the import was interrupted; "
        "2 wrong usage; 69 another process is using the data directory, or the server does not answer; "
        "78 a setting must be changed first."
    ),
)
def import_events(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", readable=False, help="Where to read; - is standard input.")
    ] = Path("-"),
    *,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Whether to check signatures; ids are always checked.")
    ] = True,
    server: _Server = None,
) -> None:
    """Store events from JSONL, one event on each line.

    A bad line is reported with its number and the reason, and the rest goes on. Limits on the age of events do not
    apply, all others do. While orly-db serves the data directory, the events are handed to it with --server, and
    clients are told of them; while one relay alone does, it must be stopped first.
    """
    from orly.cli.import_events import run_import

    raise _finish(*run_import(_load(), file, verify=verify, server=server))


@app.command(
    "export",
    short_help="Write events to a JSONL file.",
    epilog=(
        "Exit status: 0 if all was written; 1 if not, and then FILE is as it was before; 2 wrong usage, such as a bad "
        "filter; 69 the server does not answer; 78 a setting must be changed first."
    ),
)
def export_events(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", readable=False, help="Where to write; - is standard output.")
    ] = Path("-"),
    *,
    filter_json: Annotated[
        str, typer.Option("--filter", metavar="JSON", help="Only what this NIP-01 filter matches.", show_default=False)
    ] = "{}",
    server: _Server = None,
) -> None:
    """Write events as JSONL, newest first, exactly as they are stored.

    May run beside a serving relay; what is written is the state of one moment.
    """
    from orly.cli.export_events import run_export

    raise _finish(*run_export(_load(), file, filter_json, server))


def _sync(options: SyncOptions) -> None:
    from orly.cli.sync_run import run_sync

    raise _finish(*run_sync(_load(), options))


add_sync(app, _sync)
add_acl(app, _load, _finish)


@app.command(
    short_help="Print every setting.",
    epilog="Exit status: 0 if the relay would start with these settings; 78 if not, and then what is wrong is listed.",
)
def config(*, as_json: Annotated[bool, typer.Option("--json", help="As one JSON object.")] = False) -> None:
    """Print every setting with its value and where it came from; secrets are masked.

    The output can be used as an environment file.
    """
    from orly.cli.config import show_config

    loaded = _load()
    typer.echo(show_config(loaded, as_json=as_json), nl=False)
    raise _finish(ExitCode.OK, "\n".join(loaded.warnings))


@app.command(
    short_help="Verify that the store is consistent.",
    epilog="Exit status: 0 if it is; 1 if not; 2 wrong usage; 78 if there is no store, or a setting must be changed.",
)
def check(
    *, signatures: Annotated[bool, typer.Option("--signatures", help="Check every signature too; slow.")] = False
) -> None:
    """Verify that the store is consistent: every event is sound and stands in every index it belongs to.

    Nothing is changed. May run beside a serving relay.
    """
    from orly.cli.check import run_check

    code, found, problems = run_check(_load(), signatures=signatures)
    if found:
        typer.echo(found)
    raise _finish(code, problems)


@app.command(
    short_help="Make certificates for the calls between services.",
    epilog="Exit status: 0 if all were made; 1 if not, such as when files are there already; 2 wrong usage.",
)
def certs(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where they are, or shall be.")],
    *,
    host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A name or address of the service, beside localhost; may be repeated.",
            show_default=False,
        ),
    ] = None,
    client: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A caller; may be repeated. Without any: client.", show_default=False),
    ] = None,
    days: Annotated[int, typer.Option(metavar="N", help="How long they are valid.", min=1, max=3650)] = 730,
    force: Annotated[bool, typer.Option("--force", help="Replace certificates; never those of the authority.")] = False,
) -> None:
    """Make an authority (ca), a certificate for a service (server) and one for each caller, and print the settings.

    An authority that is in DIR already signs more: with --client alone it adds callers, with --force it renews.
    """
    from orly import clock
    from orly.cli.certs import run_certs

    code, lines, problems = run_certs(
        directory, hosts=host or (), clients=client or (), days=days, force=force, now_s=clock.now_s()
    )
    typer.echo(lines, nl=False)
    raise _finish(code, problems)


@app.command(
    short_help="Show what runs under orly-launcher.",
    epilog="Exit status: 0 if all of it is well; 1 if not, or if nothing runs; 78 a setting must be changed first.",
)
def status() -> None:
    """Show every process that `orly-launcher` runs, and whether it is well.

    It is found by the same ORLY_DATA_DIR, or ORLY_RUN_DIR where that is set.
    """
    from orly.cli.status import run_status

    code, found, problems = run_status(_load())
    if found:
        typer.echo(found)
    raise _finish(code, problems)


@app.command(short_help="Print the version.")
def version() -> None:
    """Print the version."""
    _print_version(True)
