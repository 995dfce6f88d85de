"""Events as JSONL on their way into a store: cutting bytes into lines, checking each, counting what became of them."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Final, assert_never

from msgspec import structs

from orly.intake.policy import WritePolicy
from orly.intake.verdict import BAD_SIGNATURE
from orly.nostr.event import EncodedEvent, EventError, decode_event
from orly.nostr.kinds import is_ephemeral
from orly.store.base import SaveResult, SaveStatus

__all__ = [
    "MAX_SHOWN_PROBLEMS",
    "CompressedError",
    "ImportReport",
    "LineChecker",
    "LineCutter",
    "Waiting",
    "longest_line_bytes",
    "refuse_compressed",
]

MIN_MAX_LINE_BYTES: Final = 16 * 1024 * 1024
LONGEST_ESCAPE_BYTES: Final = 6
"""A character that takes one byte in an event can be written as `\\u0041`."""

MAX_SHOWN_PROBLEMS: Final = 1000
"""Bad lines named one by one; the rest are only counted."""

_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_COMPRESSED: Final = {b"\x1f\x8b": ("gzip", "zcat"), b"\x28\xb5\x2f\xfd": ("zstd", "zstdcat")}
"""How compressed files begin, and what reads them."""


def longest_line_bytes(max_event_bytes: int) -> int:
    """How long a line may be that holds an event of at most `max_event_bytes`, however it is written."""
    return max(MIN_MAX_LINE_BYTES, LONGEST_ESCAPE_BYTES * max_event_bytes)


class CompressedError(Exception):
    """The input is no text; the message says what to do about it.

    Attributes:
        format: Its name.
        reader: The command that makes text of it.
    """

    def __init__(self, format: str, reader: str) -> None:
        super().__init__(f"is compressed with {format}: run `{reader} FILE | orly import -`")
        self.format = format
        self.reader = reader


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


class LineCutter:
    """Cuts bytes into numbered lines as they come; the text of a line that is too long is dropped at once.

    Args:
        max_line_bytes: How long a line may be, without its line feed.
    """

    __slots__ = ("_max_bytes", "_n_bytes", "_number", "_pieces")

    def __init__(self, max_line_bytes: int) -> None:
        self._max_bytes = max_line_bytes
        self._pieces: list[bytes] = []
        self._n_bytes = 0
        self._number = 0

    def add(self, data: bytes) -> list[tuple[int, bytes | None]]:
        """The lines that these bytes complete: number from 1, text without its line feed or None if too long."""
        first, *ended = data.split(b"\n")
        self._grow(first)
        if not ended:
            return []
        texts = [self._take()]
        self._grow(ended.pop())
        texts += [text if len(text) <= self._max_bytes else None for text in ended]
        return self._numbered(texts)

    def end(self) -> list[tuple[int, bytes | None]]:
        """What is left: a last line without line feed is a line too."""
        return self._numbered([self._take()]) if self._n_bytes else []

    def _numbered(self, texts: Sequence[bytes | None]) -> list[tuple[int, bytes | None]]:
        lines = list(enumerate(texts, self._number + 1))
        self._number += len(lines)
        return lines

    def _grow(self, piece: bytes) -> None:
        self._n_bytes += len(piece)
        if self._n_bytes > self._max_bytes:
            self._pieces.clear()
        elif piece:
            self._pieces.append(piece)

    def _take(self) -> bytes | None:
        text = b"".join(self._pieces) if self._n_bytes <= self._max_bytes else None
        self._pieces.clear()
        self._n_bytes = 0
        return text


class Waiting:
    """Events that passed every check but those of the store and of their signatures, with their lines' numbers."""

    __slots__ = ("events", "n_bytes", "numbers")

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.events: list[EncodedEvent] = []
        self.n_bytes = 0

    def keep(self, chosen: Sequence[bool]) -> None:
        """Drop those that are not chosen."""
        self.numbers = list(compress(self.numbers, chosen))
        self.events = list(compress(self.events, chosen))


class LineChecker:
    """Checks lines, gathers the good ones, and counts.

    The limits on an event's age do not apply, nor does the demand to authenticate: what is restored from a backup is
    old, and who may import may do so in the authors' place. All other limits do.

    Attributes:
        report: What became of the lines so far.
        waiting: What is to be saved next.
    """

    def __init__(self, *, policy: WritePolicy, say: Callable[[str], None]) -> None:
        """`say` is told of bad lines, the first `MAX_SHOWN_PROBLEMS` of them by number and reason."""
        self.report = ImportReport()
        self.waiting = Waiting()
        self._policy = structs.replace(
            policy, max_created_at_past_s=0.0, max_created_at_future_s=math.inf, auth_to_write=False
        )
        self._say = say

    def take(self, number: int, text: bytes, *, now_s: int) -> None:
        """Check one line; empty ones count for nothing.

        Raises:
            CompressedError: The first line shows that this is no text.
        """
        if number == 1:
            refuse_compressed(text)
            text = text.removeprefix(_BYTE_ORDER_MARK)
        text = text.strip()
        if not text:
            return
        self.report.lines += 1
        try:
            event = decode_event(text)
        except EventError as error:
            self.refuse(number, str(error))
            return
        refusal = self._policy.check(event, now_s=now_s, authenticated=(event.event.pubkey,))
        if refusal is not None:
            self.refuse(number, refusal.detail)
        elif is_ephemeral(event.event.kind):
            self.refuse(number, f"kind {event.event.kind} is ephemeral and is not stored")
        else:
            self.waiting.numbers.append(number)
            self.waiting.events.append(event)
            self.waiting.n_bytes += len(event.raw)

    def refuse_long(self, number: int, max_line_bytes: int) -> None:
        """Count a line that was too long to be read."""
        self.report.lines += 1
        self.refuse(number, f"the line is longer than {max_line_bytes} bytes")

    def next_batch(self) -> Waiting:
        """What waits, which is then no longer waiting here."""
        batch, self.waiting = self.waiting, Waiting()
        return batch

    def drop_known(self, batch: Waiting, known: Sequence[bool]) -> None:
        """Count those that are stored already, before their signatures are checked."""
        if any(known):
            self.report.duplicates += sum(known)
            batch.keep([not seen for seen in known])

    def drop_unsigned(self, batch: Waiting, valid: Sequence[bool]) -> None:
        """Refuse those whose signature does not match."""
        if not all(valid):
            for number, good in zip(batch.numbers, valid, strict=True):
                if not good:
                    self.refuse(number, BAD_SIGNATURE.detail)
            batch.keep(valid)

    def refuse(self, number: int, reason: str) -> None:
        """Count a bad line, and name it."""
        self.report.refused += 1
        if self.report.refused <= MAX_SHOWN_PROBLEMS:
            self._say(f"line {number}: {reason}")
        elif self.report.refused == MAX_SHOWN_PROBLEMS + 1:
            self._say("further bad lines are counted, not named")

    def count(self, results: Sequence[SaveResult]) -> None:
        """Count what the store said."""
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


def refuse_compressed(text: bytes) -> None:
    """Look at how the data begin.

    Raises:
        CompressedError: They are no text.
    """
    for start, (name, reader) in _COMPRESSED.items():
        if text.startswith(start):
            raise CompressedError(name, reader)
