"""Import over HTTP: the body goes to a temporary file, and once its hash is found right, its lines into the store."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from hashlib import sha256
from http import HTTPStatus
from itertools import compress
from typing import IO, Final

from msgspec import structs
from starlette.requests import Request

from orly.access.control import AccessControl, ControlError
from orly.access.decide import NO_SNAPSHOT, Standing, refuse_write
from orly.access.levels import Level
from orly.intake.jsonl import CompressedError, LineCutter, longest_line_bytes, refuse_compressed
from orly.intake.policy import WritePolicy
from orly.intake.verdict import BAD_SIGNATURE, verdict_of
from orly.nostr.event import EncodedEvent, EventError, decode_event
from orly.nostr.kinds import is_ephemeral
from orly.nostr.reason import Prefix
from orly.nostr.signing import verify_events
from orly.relay.http_endpoint import PATIENCE_S, ApiError, refuse_large, too_large
from orly.store.base import EventStore, SaveResult, SaveStatus, StoreError

__all__ = ["MAX_SHOWN_PROBLEMS", "ImportReport", "Importing", "spool"]

MAX_SHOWN_PROBLEMS: Final = 10

SLICE_LINES: Final = 64
"""Lines decoded and verified at a stretch, about 3 ms; then others on the event loop have their turn."""

BATCH_EVENTS: Final = 256
BATCH_BYTES: Final = 1024 * 1024
"""A batch ends at either bound. What clients publish meanwhile waits for the transaction it goes into."""

PIECE_BYTES: Final = 64 * 1024
"""Read from the file at once."""

SPOOL_BYTES: Final = 256 * 1024
"""Gathered before they are written to it: each time a thread does that, lest a slow disk hold up the event loop."""

_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_MODERATOR: Final = Standing(level=Level.ADMIN, has_keys=True)


async def spool(request: Request, file: IO[bytes], max_bytes: int, *, patience_s: float = PATIENCE_S) -> str:
    """Write a body to a file, and go back to its beginning; returns the SHA-256 in hex.

    Raises:
        ApiError: It is too large, nothing comes for `patience_s`, or the file cannot be written.
        ClientDisconnect: The client has gone.
    """
    refuse_large(request, max_bytes)
    digest, n_bytes, waiting = sha256(), 0, bytearray()

    def put(data: bytes) -> None:
        digest.update(data)
        file.write(data)

    try:
        async with aclosing(request.stream()) as pieces:
            while True:
                async with asyncio.timeout(patience_s):
                    piece = await anext(pieces, b"")
                n_bytes += len(piece)
                if n_bytes > max_bytes:
                    raise too_large(max_bytes)
                waiting += piece
                if len(waiting) >= SPOOL_BYTES or not piece:
                    await asyncio.to_thread(put, bytes(waiting))
                    waiting.clear()
                if not piece:
                    break
        await asyncio.to_thread(file.seek, 0)
    except TimeoutError:
        text = f"nothing of the body came for {patience_s:g} s"
        raise ApiError(HTTPStatus.REQUEST_TIMEOUT, text, {"Connection": "close"}) from None
    except OSError as error:
        text = f"the temporary file for the body cannot be written: {error.strerror}"
        raise ApiError(HTTPStatus.INSUFFICIENT_STORAGE, text, {"Connection": "close"}) from error
    return digest.hexdigest()


@dataclass(slots=True)
class ImportReport:
    """What became of the lines that are not empty.

    Attributes:
        stored: New here.
        known: Here already, or in a newer version.
        refused: Events against the rules of this relay, forged ones, and those that were deleted or have expired.
        unreadable: Lines that are no event.
        first_problems: Why, of the first that were refused or unreadable.
        failed: Why the store stopped taking events; empty if it did not.
    """

    stored: int = 0
    known: int = 0
    refused: int = 0
    unreadable: int = 0
    first_problems: list[str] = field(default_factory=list)
    failed: str = ""

    def counts(self) -> dict[str, object]:
        """All but the failure, by name."""
        return {
            "stored": self.stored,
            "known": self.known,
            "refused": self.refused,
            "unreadable": self.unreadable,
            "first_problems": self.first_problems,
        }

    def refuse(self, number: int, reason: str) -> None:
        """Count an event that is not taken."""
        self.refused += 1
        self._note(number, reason)

    def skip(self, number: int, reason: str) -> None:
        """Count a line that is no event."""
        self.unreadable += 1
        self._note(number, reason)

    def _note(self, number: int, reason: str) -> None:
        if len(self.first_problems) < MAX_SHOWN_PROBLEMS:
            self.first_problems.append(f"line {number}: {reason}")


class Importing:
    """Takes events from owners and admins, who may bring what others wrote; bans hold for those too.

    The limits on an event's age do not apply, nor does the demand to authenticate: what is restored is old. Nothing
    ephemeral is stored. What is stored reaches live subscribers by the feed of the store.

    Args:
        store: Where events go.
        policy: The limits.
        access: Knows what is banned.
        now_s: Unix time.
    """

    def __init__(self, store: EventStore, policy: WritePolicy, access: AccessControl, now_s: Callable[[], int]) -> None:
        self._store = store
        self._policy = structs.replace(
            policy, max_created_at_past_s=0.0, max_created_at_future_s=float("inf"), auth_to_write=False
        )
        self._access = access
        self._now_s = now_s
        self._max_line_bytes = longest_line_bytes(policy.max_event_bytes)

    async def run(self, file: IO[bytes]) -> ImportReport:
        """Take every line, until the store fails.

        Raises:
            ApiError: The data are compressed.
            ControlError: It is not known any more what is banned.
            OSError: The file cannot be read.
        """
        report = ImportReport()
        batch = _Batch(self._store, report)
        cutter = LineCutter(self._max_line_bytes)
        while True:
            data = await asyncio.to_thread(file.read, PIECE_BYTES)
            lines = cutter.add(data) if data else cutter.end()
            for start in range(0, len(lines), SLICE_LINES):
                self._check(lines[start : start + SLICE_LINES], batch, report)
                await asyncio.sleep(0)
                if batch.is_full:
                    await batch.save()
                if batch.has_failed:
                    return report
            if not data:
                await batch.save()
                return report

    def _check(self, lines: Sequence[tuple[int, bytes | None]], batch: "_Batch", report: ImportReport) -> None:
        found = [(number, event) for number, text in lines if (event := self._read(number, text, report)) is not None]
        if not found:
            return
        found = self._without_known(found, report)
        for (number, event), is_valid in zip(found, verify_events([event for _, event in found]), strict=True):
            if is_valid:
                batch.add(number, event)
            else:
                report.refuse(number, BAD_SIGNATURE.detail)

    def _without_known(
        self, found: list[tuple[int, EncodedEvent]], report: ImportReport
    ) -> list[tuple[int, EncodedEvent]]:
        try:
            known = self._store.known([event.id for _, event in found])
        except StoreError:
            return found  # only a hint: the save decides, and says what is wrong
        report.known += sum(known)
        return list(compress(found, [not each for each in known]))

    def _read(self, number: int, text: bytes | None, report: ImportReport) -> EncodedEvent | None:
        if text is None:
            report.skip(number, f"the line is longer than {self._max_line_bytes} bytes")
            return None
        if number == 1:
            text = _first_line(text)
        text = text.strip()
        if not text:
            return None
        try:
            event = decode_event(text)
        except EventError as error:
            report.skip(number, str(error))
            return None
        reason = self._refusal(event)
        if reason is not None:
            report.refuse(number, reason)
        return event if reason is None else None

    def _refusal(self, event: EncodedEvent) -> str | None:
        snapshot = self._access.snapshot
        if snapshot is None:
            raise ControlError(NO_SNAPSHOT.detail)
        refusal = self._policy.check(event, now_s=self._now_s(), authenticated=(event.event.pubkey,))
        refusal = refusal or refuse_write(snapshot, event, _MODERATOR)
        if refusal is None and is_ephemeral(event.event.kind):
            return f"kind {event.event.kind} is ephemeral and is not stored"
        return None if refusal is None else refusal.detail


def _first_line(text: bytes) -> bytes:
    try:
        refuse_compressed(text)
    except CompressedError as error:
        detail = f"the body is compressed with {error.format}: send what `{error.reader}` makes of it"
        raise ApiError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, detail) from None
    return text.removeprefix(_BYTE_ORDER_MARK)


class _Batch:
    """Events that are to be saved next."""

    def __init__(self, store: EventStore, report: ImportReport) -> None:
        self._store = store
        self._report = report
        self._numbers: list[int] = []
        self._events: list[EncodedEvent] = []
        self._n_bytes = 0

    @property
    def is_full(self) -> bool:
        return len(self._events) >= BATCH_EVENTS or self._n_bytes >= BATCH_BYTES

    @property
    def has_failed(self) -> bool:
        return bool(self._report.failed)

    def add(self, number: int, event: EncodedEvent) -> None:
        self._numbers.append(number)
        self._events.append(event)
        self._n_bytes += len(event.raw)

    async def save(self) -> None:
        numbers, events = self._numbers, self._events
        if not events:
            return
        self._numbers, self._events, self._n_bytes = [], [], 0
        try:
            results = await self._store.save(events)
        except StoreError as error:
            self._report.failed = str(error)
            return
        for number, result in zip(numbers, results, strict=True):
            self._count(number, result)

    def _count(self, number: int, result: SaveResult) -> None:
        verdict, report = verdict_of(result), self._report
        if result.status is SaveStatus.STORED:
            report.stored += 1
        elif result.status is SaveStatus.FAILED:
            report.failed = result.detail
        elif verdict.refusal is not None and verdict.refusal.prefix is not Prefix.DUPLICATE:
            report.refuse(number, verdict.refusal.detail)
        else:
            report.known += 1
