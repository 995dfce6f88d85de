"""`orly import`: JSONL into the store, through the same checks as any other door."""

import asyncio
import math
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, assert_never

from msgspec import structs

from orly import clock
from orly.cli.collector import settle_collector
from orly.cli.exit_codes import ExitCode
from orly.cli.files import FileError, input_name, opened_input, read_from
from orly.cli.lines import numbered_lines
from orly.cli.open_store import open_bulk_store
from orly.cli.progress import ByteProgress, byte_progress, size_of, tell
from orly.cli.stop_signals import StopFlag
from orly.nostr.event import EncodedEvent, EventError, decode_event
from orly.nostr.kinds import is_ephemeral
from orly.relay.policy import WritePolicy
from orly.relay.relay import policy_from_settings
from orly.relay.verify import Verifier
from orly.settings import Loaded, Settings
from orly.store.base import SaveResult, SaveStatus, StoreError, StoreLockedError, StoreUnavailableError

__all__ = ["ImportReport", "Importer", "run_import"]

BATCH_EVENTS: Final = 4096
BATCH_BYTES: Final = 4 * 1024 * 1024
"""A batch ends at either bound and becomes one transaction."""

MIN_MAX_LINE_BYTES: Final = 16 * 1024 * 1024
LONGEST_ESCAPE_BYTES: Final = 6
"""A character that takes one byte in an event can be written as `\\u0041`."""

MAX_SHOWN_PROBLEMS: Final = 1000
"""Bad lines named one by one; the rest are only counted."""

YOUNG_OBJECTS: Final = 1_000_000
"""No client waits while they are looked through, so that is done rarely: it cost 4 % of an import."""

_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_COMPRESSED: Final = {b"\x1f\x8b": ("gzip", "zcat"), b"\x28\xb5\x2f\xfd": ("zstd", "zstdcat")}
"""How compressed files begin, and what reads them."""


class CompressedError(Exception):
    """The input is no text; the message says what to do about it."""


@dataclass(slots=True, kw_only=True)
class ImportReport:
    """What became of the lines; the last five add up to `lines`.

    Attributes:
        lines: Lines that were not empty.
        stored: New events.
        duplicates: Stored before.
        unwanted: Superseded, deleted, vanished or expired: valid, and no longer to be kept.
        refused: Bad lines, and events against this relay's limits.
        unsaved: Good ones that the store failed to take.
        failed: Why the store stopped taking events; empty if it did not.
    """

    lines: int = 0
    stored: int = 0
    duplicates: int = 0
    unwanted: int = 0
    refused: int = 0
    unsaved: int = 0
    failed: str = ""

    def __str__(self) -> str:
        unsaved = f", {self.unsaved} not saved" if self.unsaved else ""
        return (
            f"{self.lines} {'line' if self.lines == 1 else 'lines'}: {self.stored} stored, "
            f"{self.duplicates} already there, {self.unwanted} replaced, deleted or expired, "
            f"{self.refused} refused{unsaved}"
        )


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
            policy: The limits. Those on an event's age do not apply: what is restored from a backup is old.
            say: Told of bad lines.
        """
        self.report = ImportReport()
        self._save = save
        self._known = known
        self._verify = verify
        self._policy = structs.replace(
            policy, max_created_at_past_s=0.0, max_created_at_future_s=math.inf, auth_to_write=False
        )
        self._say = say
        self._numbers: list[int] = []
        self._events: list[EncodedEvent] = []
        self._n_bytes = 0

    def take(self, number: int, text: bytes, *, now_s: int) -> None:
        """Check one line; empty ones count for nothing. A full batch is saved.

        Raises:
            CompressedError: The first line shows that this is no text.
            StoreError: The store cannot be read.
        """
        if number == 1:
            _refuse_compressed(text)
            text = text.removeprefix(_BYTE_ORDER_MARK)
        text = text.strip()
        if not text:
            return
        self.report.lines += 1
        try:
            event = decode_event(text)
        except EventError as error:
            self._refuse(number, str(error))
            return
        refusal = self._policy.check(event, now_s=now_s, authenticated=(event.event.pubkey,))
        if refusal is not None:
            self._refuse(number, refusal.detail)
        elif is_ephemeral(event.event.kind):
            self._refuse(number, f"kind {event.event.kind} is ephemeral and is not stored")
        else:
            self._numbers.append(number)
            self._events.append(event)
            self._n_bytes += len(event.raw)
            if len(self._events) >= BATCH_EVENTS or self._n_bytes >= BATCH_BYTES:
                self.flush()

    def refuse_line(self, number: int, reason: str) -> None:
        """Count a line that was not even read."""
        self.report.lines += 1
        self._refuse(number, reason)

    def flush(self) -> None:
        """Save what is waiting."""
        events, numbers = self._events, self._numbers
        self._events, self._numbers, self._n_bytes = [], [], 0
        if not events:
            return
        known = self._known([event.id for event in events])
        if any(known):
            self.report.duplicates += sum(known)
            numbers = [number for number, seen in zip(numbers, known, strict=True) if not seen]
            events = [event for event, seen in zip(events, known, strict=True) if not seen]
        if self._verify is not None and events:
            valid = self._verify(events)
            for number, good in zip(numbers, valid, strict=True):
                if not good:
                    self._refuse(number, "the signature does not match")
            events = [event for event, good in zip(events, valid, strict=True) if good]
        self._count(self._save(events))

    def _refuse(self, number: int, reason: str) -> None:
        self.report.refused += 1
        if self.report.refused <= MAX_SHOWN_PROBLEMS:
            self._say(f"line {number}: {reason}")
        elif self.report.refused == MAX_SHOWN_PROBLEMS + 1:
            self._say("further bad lines are counted, not named")

    def _count(self, results: Sequence[SaveResult]) -> None:
        report = self.report
        for status, count in Counter(result.status for result in results).items():
            match status:
                case SaveStatus.STORED:
                    report.stored += count
                case SaveStatus.DUPLICATE:
                    report.duplicates += count
                case SaveStatus.SUPERSEDED | SaveStatus.DELETED | SaveStatus.VANISHED | SaveStatus.EXPIRED:
                    report.unwanted += count
                case SaveStatus.FAILED:
                    report.unsaved += count
                    report.failed = next(result.detail for result in results if result.status is SaveStatus.FAILED)
                case SaveStatus.DELIVERED:
                    raise AssertionError("ephemeral events are refused before")
                case _:
                    assert_never(status)


def _refuse_compressed(text: bytes) -> None:
    for start, (name, reader) in _COMPRESSED.items():
        if text.startswith(start):
            raise CompressedError(f"is compressed with {name}: run `{reader} FILE | orly import -`")


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
                    importer.refuse_line(number, f"the line is longer than {max_line_bytes} bytes")
                else:
                    importer.take(number, text, now_s=now_s)
            progress.advance(n_bytes)
    finally:
        if not importer.report.failed:
            importer.flush()


def _import(settings: Settings, file: Path, stop: StopFlag, *, verify: bool) -> ImportReport:
    verifier = Verifier(share=(os.cpu_count() or 1) > 1) if verify else None
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
                    max_line_bytes=max(MIN_MAX_LINE_BYTES, LONGEST_ESCAPE_BYTES * settings.max_event_bytes),
                )
                return importer.report
        finally:
            runner.run(store.close())
            if verifier is not None:
                verifier.close()


def run_import(loaded: Loaded, file: Path, *, verify: bool) -> tuple[ExitCode, str]:
    """Import a file; returns the exit status and what to tell the operator beyond the summary."""
    stop = StopFlag()
    try:
        report = _import(loaded.settings, file, stop, verify=verify)
    except (FileError, CompressedError) as error:
        text = f"{input_name(file)} {error}" if isinstance(error, CompressedError) else str(error)
        return ExitCode.FAILED, text
    except StoreLockedError as error:
        return ExitCode.UNAVAILABLE, (
            f"{error}\nEvents cannot be imported beside a serving relay, whose clients would not be told of them: "
            "stop it first, or publish them to it as a client."
        )
    except StoreUnavailableError as error:
        return ExitCode.SETTINGS, str(error)
    except StoreError as error:
        return ExitCode.FAILED, str(error)
    tell(str(report))
    if report.failed:
        return ExitCode.FAILED, f"the import stopped: {report.failed}"
    if stop.is_set:
        return ExitCode.FAILED, "interrupted; what was stored so far stays, and the import can be run again"
    return (ExitCode.FAILED if report.refused else ExitCode.OK), ""
