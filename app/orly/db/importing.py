"""Import: JSONL from a stream into the store, beside the work for everybody else."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Final

from orly import clock
from orly.db.pace import Pace
from orly.db.requests import Requests
from orly.db.saving import STOPPING
from orly.intake.jsonl import CompressedError, LineChecker, LineCutter
from orly.intake.policy import WritePolicy
from orly.intake.verify import Verifier
from orly.nostr.reason import Prefix, Refusal
from orly.pb.orlydb.v1 import service_pb2
from orly.rpc.status import RefusedError
from orly.store.base import EventStore, SaveResult, SaveStatus, StoreError

__all__ = ["BATCH_BYTES", "BATCH_EVENTS", "Importing"]

BATCH_EVENTS: Final = 256
BATCH_BYTES: Final = 1024 * 1024
"""A batch ends at either bound. What others save meanwhile waits for the transaction it goes into: they stay short."""

VERIFY_EVENTS: Final = 64
"""Signatures checked at a stretch: about 2 ms of the loop on one core."""

PIECE_BYTES: Final = 64 * 1024
"""A message may hold a hundred thousand lines; so much of it is cut into lines at once."""

log = logging.getLogger(__name__)


class Importing:
    """The Import call.

    Args:
        store: Where events go; whoever follows its feed is told of them.
        policy: The limits; see `LineChecker` for those that do not apply.
        verifier: Checks signatures.
        max_line_bytes: How long a line may be.
        now_s: The time by which limits are judged.
        monotonic_s: A steady clock.
    """

    def __init__(
        self,
        store: EventStore,
        policy: WritePolicy,
        verifier: Verifier,
        *,
        max_line_bytes: int,
        now_s: Callable[[], int] = clock.now_s,
        monotonic_s: Callable[[], float] = clock.monotonic_s,
    ) -> None:
        self._store = store
        self._policy = policy
        self._verifier = verifier
        self._max_line_bytes = max_line_bytes
        self._now_s = now_s
        self._monotonic_s = monotonic_s
        self._under_way: set[Requests[service_pb2.ImportRequest]] = set()
        self._is_stopping = False

    def stop(self) -> None:
        """Read no further message; what was read is saved, and the answers say how much that is."""
        self._is_stopping = True
        for requests in self._under_way:
            requests.cut()

    async def run(self, messages: AsyncIterator[service_pb2.ImportRequest]) -> service_pb2.ImportResponse:
        """Take every line until the caller has no more, the store fails, or the service stops.

        A caller that goes away has stored what was committed until then; the log says how much that is.

        Raises:
            RefusedError: The data are compressed.
            StoreError: The store cannot be read.
        """
        requests = Requests(messages)
        if self._is_stopping:
            requests.cut()
        self._under_way.add(requests)
        problems: list[str] = []
        checker = LineChecker(policy=self._policy, say=problems.append)
        work = _Import(self._store, checker, self._verifier, Pace(self._monotonic_s))
        try:
            await self._take_all(requests, work)
        except CompressedError as error:
            detail = f"the data are compressed with {error.format}: send what `{error.reader}` makes of them"
            raise RefusedError(Refusal(Prefix.INVALID, detail)) from None
        except asyncio.CancelledError:
            await work.settle()
            report = checker.report
            report.unsaved += report.lines - report.stored - report.duplicates - report.unwanted - report.refused
            log.info("an import was broken off by its caller, %s; what was stored stays", report)
            raise
        finally:
            self._under_way.discard(requests)
            await work.settle()
        if requests.is_cut and not checker.report.failed:
            checker.report.failed = STOPPING
        return _response(checker, problems)

    async def _take_all(self, requests: Requests[service_pb2.ImportRequest], work: "_Import") -> None:
        cutter = LineCutter(self._max_line_bytes)
        is_first = True
        async for request in requests:
            if is_first and request.skip_signatures:
                work.skip_signatures()
            is_first = False
            work.pace.restart()
            for start in range(0, len(request.data), PIECE_BYTES):
                await self._take(cutter.add(request.data[start : start + PIECE_BYTES]), work)
                if work.has_failed:
                    return
        if not requests.is_cut:  # else it may be half a line
            await self._take(cutter.end(), work)
        await work.flush()

    async def _take(self, lines: Iterable[tuple[int, bytes | None]], work: "_Import") -> None:
        now_s = self._now_s()
        for number, text in lines:
            if text is None:
                work.checker.refuse_long(number, self._max_line_bytes)
            else:
                work.checker.take(number, text, now_s=now_s)
            waiting = work.checker.waiting
            if len(waiting.events) >= BATCH_EVENTS or waiting.n_bytes >= BATCH_BYTES:
                await work.flush()
                if work.has_failed:
                    return
            await work.pace.rest()


class _Import:
    """One import: while a batch is being saved, the next is read and checked; never more than these two."""

    def __init__(self, store: EventStore, checker: LineChecker, verifier: Verifier, pace: Pace) -> None:
        self.checker = checker
        self.pace = pace
        self._store = store
        self._verifier: Verifier | None = verifier
        self._save: asyncio.Task[list[SaveResult]] | None = None
        self._n_saving = 0

    @property
    def has_failed(self) -> bool:
        return bool(self.checker.report.failed)

    def skip_signatures(self) -> None:
        self._verifier = None

    async def flush(self) -> None:
        """Check the signatures of what waits, and begin to save it."""
        batch = self.checker.next_batch()
        if not batch.events:
            return
        self.checker.drop_known(batch, self._store.known([event.id for event in batch.events]))
        if self._verifier is not None:
            valid: list[bool] = []
            for start in range(0, len(batch.events), VERIFY_EVENTS):
                await self.pace.rest()
                valid += self._verifier.verify(batch.events[start : start + VERIFY_EVENTS])
            self.checker.drop_unsigned(batch, valid)
        await self.settle()
        if self.has_failed:
            self.checker.report.unsaved += len(batch.events)
        elif batch.events:
            self._save = asyncio.create_task(self._store.save(batch.events))
            self._n_saving = len(batch.events)

    async def settle(self) -> None:
        """Wait for what is being saved, and count it."""
        if self._save is None:
            return
        save = self._save
        await asyncio.wait({save})  # a caller that goes away meanwhile does not cancel it
        self._save = None
        try:
            results = save.result()
        except StoreError as error:
            results = [SaveResult(SaveStatus.FAILED, detail=str(error))] * self._n_saving
        self.checker.count(results)
        self.pace.restart()


def _response(checker: LineChecker, problems: list[str]) -> service_pb2.ImportResponse:
    report = checker.report
    return service_pb2.ImportResponse(
        events_imported=report.stored,
        events_skipped=report.lines - report.stored,
        duplicates=report.duplicates,
        unwanted=report.unwanted,
        refused=report.refused,
        unsaved=report.unsaved,
        problems=problems,
        failure=report.failed,
    )
