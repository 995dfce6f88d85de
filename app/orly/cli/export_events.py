"""`orly export`: the store as JSONL."""

import asyncio
import sys
from contextlib import closing
from pathlib import Path

import msgspec

from orly.cli.exit_codes import ExitCode
from orly.cli.files import FileError, ReaderGoneError, opened_output
from orly.cli.open_store import open_bulk_store
from orly.cli.progress import byte_progress, tell
from orly.cli.stop_signals import StopFlag
from orly.nostr.filter import Filter, FilterError, FilterLimits, parse_filter
from orly.settings import Loaded
from orly.store.base import StoreError, StoreUnavailableError
from orly.store.lmdb.bulk import BulkLmdbStore

__all__ = ["run_export"]

_LIMITS = FilterLimits(max_values=10_000_000)


def _write(store: BulkLmdbStore, file: Path, wanted: Filter) -> tuple[int, int]:
    """Write what matches; returns how many events that were, and how many are missing."""
    count = missing = 0
    to_terminal = str(file) == "-" and sys.stdout is not None and sys.stdout.isatty()
    with (
        opened_output(file) as stream,
        byte_progress("export", total_bytes=None, shown=not to_terminal) as progress,
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


def run_export(loaded: Loaded, file: Path, filter_json: str) -> tuple[ExitCode, str]:
    """Export to a file; returns the exit status and what to tell the operator if it is not OK."""
    try:
        wanted = parse_filter(msgspec.json.decode(filter_json), _LIMITS)
    except (msgspec.DecodeError, UnicodeError, RecursionError, FilterError) as error:
        return ExitCode.USAGE, f"--filter: {error}"
    stop = StopFlag()
    try:
        with asyncio.Runner() as runner:
            store = runner.run(open_bulk_store(loaded.settings, read_only=True))
            try:
                with stop.interrupting():
                    count, missing = _write(store, file, wanted)
            finally:
                runner.run(store.close())
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
    if missing:
        return ExitCode.FAILED, f"the database is damaged, {missing} events are missing: run orly check"
    return ExitCode.OK, ""
