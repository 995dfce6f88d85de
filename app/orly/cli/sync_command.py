"""`orly sync`: its arguments and help; what it does is loaded when it is called."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final

import typer

from orly.cli.sync_options import SyncOptions

__all__ = ["add_sync"]

_EPILOG: Final = (
    "Exit status: 0 both sides have the same now, in the directions asked for; 1 the sync or a connection failed, or "
    "it was interrupted; 2 wrong usage, such as a bad filter; 3 it came to its end, but something is missing, and "
    "what that is was said; 78 a setting must be changed first. Whatever was done stays, and another run goes on there."
)

_Url = Annotated[
    str | None, typer.Argument(metavar="URL", help="The other relay, ws:// or wss://.", show_default=False)
]
_Filter = Annotated[
    str, typer.Option("--filter", metavar="JSON", help="Only what this NIP-01 filter matches.", show_default=False)
]
_Direction = Annotated[
    str | None,
    typer.Option(
        "--dir",
        metavar="DIR",
        help="down: fetch what is missing here, which is the default; up: send what is missing there; both; "
        "none: only compare.",
        show_default=False,
    ),
]
_Since = Annotated[
    str | None,
    typer.Option(
        metavar="TIME", help="Only from then on: seconds since 1970, or an age such as 12h or 2w.", show_default=False
    ),
]
_Until = Annotated[str | None, typer.Option(metavar="TIME", help="Only up to then, likewise.", show_default=False)]
_Range = Annotated[
    str | None,
    typer.Option(
        "--range", metavar="START-END", help="Both as ages: 2M- is the last two months; 1Y-3w.", show_default=False
    ),
]
_DataDir = Annotated[
    str | None, typer.Option(metavar="DIR", help="The store, instead of ORLY_DATA_DIR.", show_default=False)
]
_Server = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        help="Let this orly-sync-negentropy do it, on its store; with the TLS and the token of ORLY_GRPC_*.",
        show_default=False,
    ),
]
_TokenFile = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="With --server: holds the token, for ORLY_GRPC_TOKEN.", show_default=False),
]
_TlsCa = Annotated[
    Path | None,
    typer.Option(
        "--tls-ca",
        metavar="FILE",
        help="With --server: use TLS, and trust this authority, for ORLY_GRPC_TLS_CA.",
        show_default=False,
    ),
]
_PrintMissing = Annotated[
    bool,
    typer.Option(
        "--print-missing", help="Only compare, and print have,ID for what is missing there and need,ID for here."
    ),
]
_Timeout = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        help="Give up after so much silence: 30, 90s, 5m. Otherwise ORLY_SYNC_NEGENTROPY_PEER_TIMEOUT.",
        show_default=False,
    ),
]
_Batch = Annotated[int, typer.Option(metavar="N", help="Events in one request.", min=1, max=500)]
_FrameSize = Annotated[
    int,
    typer.Option(
        "--frame-size-limit", metavar="BYTES", help="Longest message of a comparison that is sent; 0 is no limit."
    ),
]
_AuthKeyFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Holds the key to authenticate with (NIP-42), nsec or hex. Otherwise ORLY_SYNC_NEGENTROPY_SECRET_KEY.",
        show_default=False,
    ),
]


def add_sync(app: typer.Typer, run: Callable[[SyncOptions], None]) -> None:
    """Make `sync` a command of `app`; `run` does what its options say, and ends the process."""

    @app.command("sync", short_help="Have the same events as another relay.", epilog=_EPILOG)
    def sync(
        url: _Url = None,
        *,
        filter_json: _Filter = "{}",
        direction: _Direction = None,
        since: _Since = None,
        until: _Until = None,
        span: _Range = None,
        data_dir: _DataDir = None,
        server: _Server = None,
        token_file: _TokenFile = None,
        tls_ca: _TlsCa = None,
        dry_run: Annotated[bool, typer.Option("--dry-run", help="Only compare, and say how many differ.")] = False,
        print_missing: _PrintMissing = False,
        private_kinds: Annotated[
            bool, typer.Option("--private-kinds", help="Send direct messages and gift wraps too.")
        ] = False,
        timeout: _Timeout = None,
        batch: _Batch = 500,
        frame_bytes: _FrameSize = 60_000,
        auth_key_file: _AuthKeyFile = None,
        as_json: Annotated[
            bool, typer.Option("--json", help="Report on standard output in JSON lines; the last one is the result.")
        ] = False,
        verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what is going on.")] = False,
        driver: Annotated[
            str,
            typer.Option(metavar="NAME", help="Serve instead: negentropy is orly-sync-negentropy.", show_default=False),
        ] = "",
    ) -> None:
        """Compare with another relay (NIP-77), fetch what is missing here, and send what is missing there.

        Opens the data directory itself, or works through the running services with --server or ORLY_DB_TYPE=grpc. To
        fetch, the data directory must not be in use. What is fetched passes the same checks as what clients send.
        """
        if driver:
            if url is not None:
                raise typer.BadParameter("a service takes no URL; it has ORLY_SYNC_NEGENTROPY_PEERS", param_hint="URL")
            _serve(driver)
            return
        if url is None:
            raise typer.BadParameter("name the other relay, such as wss://relay.example.com", param_hint="URL")
        options = SyncOptions(
            url=url,
            filter_json=filter_json,
            direction=direction,
            since=since,
            until=until,
            span=span,
            data_dir=data_dir,
            server=server,
            token_file=token_file,
            tls_ca=tls_ca,
            dry_run=dry_run,
            print_missing=print_missing,
            private_kinds=private_kinds,
            timeout=timeout,
            batch=batch,
            frame_bytes=frame_bytes,
            auth_key_file=auth_key_file,
            as_json=as_json,
            verbose=verbose,
        )
        run(options)


def _serve(driver: str) -> None:
    """Be the service that syncs in the way that the name says."""
    if driver != "negentropy":
        raise typer.BadParameter(f"{driver} is not one of: negentropy", param_hint="--driver")
    import sys

    from orly.sync.negentropy.main import main

    del sys.argv[1:]  # the service reads its own command line, which has nothing on it
    main()
