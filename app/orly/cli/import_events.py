"""`orly import`: JSONL into the store, through the same checks as any other door."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from orly import clock
from orly.cli.files import FileError, input_name, opened_input, read_from
from orly.cli.lines import numbered_lines
from orly.cli.open_store import open_bulk_store
from orly.cli.progress import ByteProgress, byte_progress, size_of, tell
from orly.cli.server_option import RemoteError, server_address
from orly.intake.jsonl import MAX_SHOWN_PROBLEMS, CompressedError, ImportReport, LineChecker, longest_line_bytes
from orly.intake.policy import WritePolicy, policy_from_settings
from orly.intake.verify import Verifier
from orly.nostr.event import EncodedEvent
from orly.process.collector import settle_collector
from orly.process.cores import has_second_core
from orly.process.exit_codes import ExitCode
from orly.process.stop_signals import StopFlag
from orly.settings import Loaded, Settings
from orly.store.base import SaveResult, StoreError, StoreLockedError, StoreUnavailableError

__all__ = ["MAX_SHOWN_PROBLEMS", "Importer", "run_import"]

BATCH_EVENTS: Final = 4096
BATCH_BYTES: Final = 4 * 1024 * 1024
"""A batch ends at either bound and becomes one transaction."""

YOUNG_OBJECTS: Final = 1_000_000
"""No client waits while they are looked through, so that is done rarely: it cost 4 % of an import."""


class Importer:
    """Takes lines, checks them, and saves what is good in batches.

    Attributes:
        report: What became of the lines so far; complete after `flush`.
    """

    def __init__(
        self,
        *,
        save: Callable[[Sequence[EncodedEvent]], list[SaveResult]],
        known: Callable[[Sequence[bytes]], list[bool]],
        verify: Callable[[Sequence[EncodedEvent]], list[bool]] | None,
        policy: WritePolicy,
        say: Callable[[str], None],
    ) -> None:
        """Make an importer.

        Args:
            save: Stores events; see `EventStore.save`.
            known: Which ids are stored already; see `EventStore.known`.
            verify: Checks signatures; None if that is not wanted.
            policy: The limits; see `LineChecker`.
            say: Told of bad lines.
        """
        self._checker = LineChecker(policy=policy, say=say)
        self.report = self._checker.report
        self._save = save
        self._known = known
        self._verify = verify

    def take(self, number: int, text: bytes, *, now_s: int) -> None:
        """Check one line; empty ones count for nothing. A full batch is saved.

        Raises:
            CompressedError: The first line shows that this is no text.
            StoreError: The store cannot be read.
        """
        self._checker.take(number, text, now_s=now_s)
        waiting = self._checker.waiting
        if len(waiting.events) >= BATCH_EVENTS or waiting.n_bytes >= BATCH_BYTES:
            self.flush()

    def refuse_long(self, number: int, max_line_bytes: int) -> None:
        """Count a line that was too long to be read."""
        self._checker.refuse_long(number, max_line_bytes)

    def flush(self) -> None:
        """Save what is waiting."""
        batch = self._checker.next_batch()
        if not batch.events:
            return
        self._checker.drop_known(batch, self._known([event.id for event in batch.events]))
        if self._verify is not None and batch.events:
            self._checker.drop_unsigned(batch, self._verify(batch.events))
        self._checker.count(self._save(batch.events))


def _take_all(
    importer: Importer, read: Callable[[int], bytes], stop: StopFlag, progress: ByteProgress, *, max_line_bytes: int
) -> None:
    """Every line until the end, a stop, or a failure of the store; what is waiting then is saved."""

    def read_or_stop(max_bytes: int) -> bytes:
        try:
            with stop.interrupting():
                return read(max_bytes)
        except KeyboardInterrupt:
            return b""

    try:
        for n_bytes, lines in numbered_lines(read_or_stop, max_line_bytes=max_line_bytes):
            now_s = clock.now_s()
            for number, text in lines:
                if stop.is_set or importer.report.failed:
                    return
                if text is None:
                    importer.refuse_long(number, max_line_bytes)
                else:
                    importer.take(number, text, now_s=now_s)
            progress.advance(n_bytes)
    finally:
        if not importer.report.failed:
            importer.flush()


def _import(settings: Settings, file: Path, stop: StopFlag, *, verify: bool) -> ImportReport:
    verifier = Verifier(share=has_second_core()) if verify else None
    with opened_input(file) as stream, asyncio.Runner() as runner:
        store = runner.run(open_bulk_store(settings))
        try:
            settle_collector(YOUNG_OBJECTS)
            with byte_progress("import", total_bytes=size_of(stream)) as progress:
                importer = Importer(
                    save=lambda events: runner.run(store.save(events)),
                    known=store.known,
                    verify=None if verifier is None else verifier.verify,
                    policy=policy_from_settings(settings),
                    say=progress.say,
                )
                _take_all(
                    importer,
                    lambda max_bytes: read_from(stream, file, max_bytes),
                    stop,
                    progress,
                    max_line_bytes=longest_line_bytes(settings.max_event_bytes),
                )
                return importer.report
        finally:
            runner.run(store.close())
            if verifier is not None:
                verifier.close()


def run_import(loaded: Loaded, file: Path, *, verify: bool, server: str | None = None) -> tuple[ExitCode, str]:
    """Import a file; returns the exit status and what to tell the operator beyond the summary.

    Args:
        loaded: The settings.
        file: JSONL.
        verify: Whether to check signatures.
        server: Address of the `orly-db` that has the store; None is the one of the settings, if any.
    """
    settings = loaded.settings
    try:
        address = server_address(settings, server)
        if address is None:
            stop = StopFlag()
            report, was_stopped = _import(settings, file, stop, verify=verify), stop.is_set
        else:
            from orly.cli.import_remote import import_remotely

            report, was_stopped = import_remotely(settings, address, file, verify=verify)
    except RemoteError as error:
        return error.code, str(error)
    except CompressedError as error:
        return ExitCode.FAILED, f"{input_name(file)} {error}"
    except FileError as error:
        return ExitCode.FAILED, str(error)
    except StoreLockedError as error:
        return ExitCode.UNAVAILABLE, _locked(error, settings)
    except StoreUnavailableError as error:
        return ExitCode.SETTINGS, str(error)
    except StoreError as error:
        return ExitCode.FAILED, str(error)
    return _finish(report, is_interrupted=was_stopped)


def _locked(error: StoreLockedError, settings: Settings) -> str:
    return (
        f"{error}\nEvents cannot be imported beside a serving relay, whose clients would not be told of them: "
        "stop it first, or publish them to it as a client.\nIf that process is orly-db, hand them to it: "
        f"orly import --server {settings.db_listen}"
    )


def _finish(report: ImportReport, *, is_interrupted: bool) -> tuple[ExitCode, str]:
    """Tell the operator what became of the lines; returns the exit status and what else there is to say."""
    tell(str(report))
    if report.failed:
        return ExitCode.FAILED, f"the import stopped: {report.failed}"
    if is_interrupted:
        return ExitCode.FAILED, "interrupted; what was stored so far stays, and the import can be run again"
    return (ExitCode.FAILED if report.refused else ExitCode.OK), ""
