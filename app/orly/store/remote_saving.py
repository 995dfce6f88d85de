"""The client side of SaveEvents: whatever queued up while two batches are under way is the next batch."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

import grpc

from orly.nostr.event import EncodedEvent
from orly.pb.orlydb.v1 import streams_pb2
from orly.rpc.convert import MAX_EVENT_BYTES, results_of
from orly.store.base import SaveResult, SaveStatus
from orly.store.remote_connection import CLOSED, EndedError, Gate, LastingCall, StoreConnection

__all__ = ["MAX_BATCH_BYTES", "MAX_BATCH_EVENTS", "MAX_WAITING_BYTES", "MAX_WAITING_EVENTS", "RemoteSaving"]

MAX_BATCHES: Final = 2
"""Under way at once: one on the disk, one on its way there. More would only be smaller."""

MAX_BATCH_EVENTS: Final = 1024
MAX_BATCH_BYTES: Final = 4 * 1024 * 1024
"""Of events in one message, unless a single one is larger."""

MAX_WAITING_EVENTS: Final = 50_000
MAX_WAITING_BYTES: Final = 64 * 1024 * 1024
"""Events without an answer; further saves fail at once. One save may always wait, whatever its size."""

log = logging.getLogger(__name__)


class _Part:
    """Events of one save that are sent together."""

    __slots__ = ("deadline_s", "events", "n_bytes", "results")

    def __init__(
        self, events: Sequence[EncodedEvent], n_bytes: int, deadline_s: float, results: asyncio.Future[list[SaveResult]]
    ) -> None:
        self.events = events
        self.n_bytes = n_bytes
        self.deadline_s = deadline_s
        self.results = results

    def settle(self, results: list[SaveResult]) -> None:
        if not self.results.done():
            self.results.set_result(results)

    def fail(self, detail: str) -> None:
        self.settle([SaveResult(SaveStatus.FAILED, detail=detail)] * len(self.events))


class _Batch:
    """What one message carries."""

    __slots__ = ("batch_id", "parts")

    def __init__(self, batch_id: int, parts: list[_Part]) -> None:
        self.batch_id = batch_id
        self.parts = parts


class RemoteSaving:
    """Sends events, and what is not answered again when the call was made anew: saving twice does no harm.

    Args:
        connection: The service.
        gate: What must be passed before anything is sent.
        sent: Told of the events of every batch that is sent.
    """

    def __init__(self, connection: StoreConnection, gate: Gate, sent: Callable[[Sequence[EncodedEvent]], None]) -> None:
        self._connection = connection
        self._gate = gate
        self._sent = sent
        self._loop = asyncio.get_running_loop()
        self._call = LastingCall(
            connection, "SaveEvents", lambda: connection.stub.SaveEvents(wait_for_ready=True), self._converse
        )
        self._queue: deque[_Part] = deque()
        self._under_way: deque[_Batch] = deque()
        self._n_events = 0
        self._n_bytes = 0
        self._last_id = 0
        self._wake = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self._is_closed = False
        self.highest_serial = 0
        """Of the events saved here."""

    async def save(self, events: Sequence[EncodedEvent]) -> list[SaveResult]:
        """See `EventStore.save`."""
        if not events:
            return []
        refusal = self._refuse(events)
        if refusal is not None:
            return [SaveResult(SaveStatus.FAILED, detail=refusal)] * len(events)
        parts = self._queue_up(events)
        if len(parts) == 1:
            return await parts[0].results
        results: list[SaveResult] = []
        for part in parts:
            results += await part.results
        return results

    async def close(self) -> None:
        """Refuse what comes from now on, and end when all is answered or has failed."""
        self._is_closed = True
        await self._idle.wait()
        if self._timer is not None:
            self._timer.cancel()
        await self._call.close()

    def _refuse(self, events: Sequence[EncodedEvent]) -> str | None:
        if self._is_closed:
            return CLOSED
        if not self._n_events:
            return None
        n_bytes = sum(len(event.raw) for event in events)
        if self._n_events + len(events) > MAX_WAITING_EVENTS or self._n_bytes + n_bytes > MAX_WAITING_BYTES:
            return "too many events wait for the store"
        return None

    def _queue_up(self, events: Sequence[EncodedEvent]) -> list[_Part]:
        """Cut a save into parts that fit in a message each."""
        deadline_s = self._loop.time() + self._connection.timeout_s
        parts: list[_Part] = []
        start = n_bytes = 0
        for index, event in enumerate(events):
            size = len(event.raw)
            if index > start and (n_bytes + size > MAX_BATCH_BYTES or index - start == MAX_BATCH_EVENTS):
                parts.append(_Part(events[start:index], n_bytes, deadline_s, self._loop.create_future()))
                start, n_bytes = index, 0
            n_bytes += size
        rest = events[start:] if start else events
        parts.append(_Part(rest, n_bytes, deadline_s, self._loop.create_future()))
        for part in parts:
            if part.n_bytes > MAX_EVENT_BYTES:
                part.fail("the event is too large for the connection to the store")
                continue
            self._queue.append(part)
            self._n_events += len(part.events)
            self._n_bytes += part.n_bytes
        if self._queue:
            self._idle.clear()
            self._wake.set()
            self._call.start()
            if self._timer is None:
                self._timer = self._loop.call_at(deadline_s, self._on_deadline)
        return parts

    # The conversation

    async def _converse(self, call: Any) -> None:
        writer = self._loop.create_task(self._write(call))
        try:
            while (answer := await call.read()) is not grpc.aio.EOF:
                self._answered(answer)
                self._call.heard()
        finally:
            writer.cancel()
            await asyncio.wait((writer,))
            if not writer.cancelled():
                writer.exception()  # the call is broken, and reading has said why

    async def _write(self, call: Any) -> None:
        await self._gate.passed()
        for batch in tuple(self._under_way):
            await call.write(self._message(batch))
        while True:
            while len(self._under_way) >= MAX_BATCHES or not self._queue:
                self._wake.clear()
                await self._wake.wait()
            await self._gate.passed()
            if self._queue:
                batch = self._next_batch()
                self._under_way.append(batch)
                await call.write(self._message(batch))

    def _next_batch(self) -> _Batch:
        parts: list[_Part] = []
        n_events = n_bytes = 0
        while self._queue:
            part = self._queue[0]
            n_events += len(part.events)
            n_bytes += part.n_bytes
            if parts and (n_events > MAX_BATCH_EVENTS or n_bytes > MAX_BATCH_BYTES):
                break
            parts.append(self._queue.popleft())
        self._last_id += 1
        return _Batch(self._last_id, parts)

    def _message(self, batch: _Batch) -> streams_pb2.SaveBatch:
        message = streams_pb2.SaveBatch(batch_id=batch.batch_id, verified=True)
        for part in batch.parts:
            message.events.extend([event.raw for event in part.events])
            self._sent(part.events)
        return message

    def _answered(self, answer: streams_pb2.SaveBatchResult) -> None:
        if not self._under_way or answer.batch_id != self._under_way[0].batch_id:
            raise EndedError(f"it answered batch {answer.batch_id}, which was not asked")
        batch = self._under_way[0]
        try:
            results = results_of(answer, sum(len(part.events) for part in batch.parts))
        except ValueError as error:
            raise EndedError(f"its answer makes no sense: {error}") from None
        self._under_way.popleft()
        if answer.serials:
            self.highest_serial = max(self.highest_serial, *answer.serials)
        if len(batch.parts) == 1:
            batch.parts[0].settle(results)
        else:
            start = 0
            for part in batch.parts:
                part.settle(results[start : start + len(part.events)])
                start += len(part.events)
        self._done_with(batch.parts)
        self._wake.set()

    def _done_with(self, parts: Sequence[_Part]) -> None:
        for part in parts:
            self._n_events -= len(part.events)
            self._n_bytes -= part.n_bytes
        if not self._queue and not self._under_way:
            self._idle.set()

    # Deadlines

    def _oldest(self) -> _Part | None:
        if self._under_way:
            return self._under_way[0].parts[0]
        return self._queue[0] if self._queue else None

    def _on_deadline(self) -> None:
        """Fail what has waited too long; the call it was sent on is mute, and given up."""
        self._timer = None
        now_s = self._loop.time()
        detail = str(self._connection.no_answer())
        was_sent = False
        while (oldest := self._oldest()) is not None and oldest.deadline_s <= now_s:
            if self._under_way:
                was_sent = True
                batch = self._under_way[0]
                batch.parts.pop(0)
                if not batch.parts:
                    self._under_way.popleft()
            else:
                self._queue.popleft()
            oldest.fail(detail)
            self._done_with((oldest,))
        if was_sent:
            self._call.give_up(detail)
        if oldest is not None:
            self._timer = self._loop.call_at(oldest.deadline_s, self._on_deadline)
