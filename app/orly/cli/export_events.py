"""`orly export`: the store as JSONL."""

import asyncio
import sys
from contextlib import closing
from pathlib import Path

import msgspec

from orly.cli.files import FileError, ReaderGoneError, opened_output
from orly.cli.open_store import open_bulk_store
from orly.cli.progress import byte_progress, tell
from orly.cli.server_option import RemoteError, server_address
from orly.nostr.filter import Filter, FilterError, FilterLimits, parse_filter
from orly.process.exit_codes import ExitCode
from orly.process.stop_signals import StopFlag
from orly.settings import Loaded, Settings
from orly.store.base import StoreError, StoreUnavailableError
from orly.store.lmdb.bulk import BulkLmdbStore

__all__ = ["run_export"]

_LIMITS = FilterLimits(max_values=10_000_000)


def _write(store: BulkLmdbStore, file: Path, wanted: Filter, *, shown: bool) -> tuple[int, int]:
    """Write what matches; returns how many events that were, and how many are missing."""
    count = missing = 0
    with (
        opened_output(file) as stream,
        byte_progress("export", total_bytes=None, shown=shown) as progress,
        closing(store.export(wanted)) as chunks,
    ):
        for chunk in chunks:
            events = [raw for raw in chunk if raw is not None]
            data = b"\n".join((*events, b""))
            stream.write(data)
            count += len(events)
            missing += len(chunk) - len(events)
            progress.advance(len(data))
    return count, missing


def _export(settings: Settings, file: Path, wanted: Filter, stop: StopFlag, *, shown: bool) -> tuple[int, str]:
    """Write what matches from the data directory; returns how many events that were, and what is missing."""
    with asyncio.Runner() as runner:
        store = runner.run(open_bulk_store(settings, read_only=True))
        try:
            with stop.interrupting():
                count, missing = _write(store, file, wanted, shown=shown)
        finally:
            runner.run(store.close())
    return count, f"the database is damaged, {missing} events are missing: run orly check" if missing else ""


def run_export(loaded: Loaded, file: Path, filter_json: str, server: str | None = None) -> tuple[ExitCode, str]:
    """Export to a file; returns the exit status and what to tell the operator if it is not OK.

    Args:
        loaded: The settings.
        file: Where to.
        filter_json: What to export.
        server: Address of the `orly-db` that has the store; None is the one of the settings, if any.
    """
    try:
        wanted = parse_filter(msgspec.json.decode(filter_json), _LIMITS)
    except (msgspec.DecodeError, UnicodeError, RecursionError, FilterError) as error:
        return ExitCode.USAGE, f"--filter: {error}"
    stop = StopFlag()
    to_terminal = str(file) == "-" and sys.stdout is not None and sys.stdout.isatty()
    try:
        address = server_address(loaded.settings, server)
        if address is None:
            count, missing = _export(loaded.settings, file, wanted, stop, shown=not to_terminal)
        else:
            from orly.cli.export_remote import export_remotely

            count, missing = export_remotely(loaded.settings, address, file, wanted, stop, shown=not to_terminal)
    except RemoteError as error:
        return error.code, str(error)
    except ReaderGoneError:
        return ExitCode.FAILED, ""
    except FileError as error:
        return ExitCode.FAILED, str(error)
    except StoreUnavailableError as error:
        return ExitCode.SETTINGS, str(error)
    except StoreError as error:
        return ExitCode.FAILED, str(error)
    except KeyboardInterrupt:
        return ExitCode.FAILED, "interrupted"
    tell(f"{count} {'event' if count == 1 else 'events'} exported")
    return (ExitCode.FAILED, missing) if missing else (ExitCode.OK, "")
