"""SaveEvents: batches of events up, their outcomes down, several batches under way, answers in order."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final

import grpc

from orly.intake.policy import WritePolicy
from orly.intake.verdict import BAD_SIGNATURE
from orly.intake.verify import Verifier
from orly.nostr.event import EncodedEvent, EventError, decode_event, decode_verified
from orly.nostr.reason import Prefix, Refusal
from orly.pb.orlydb.v1 import streams_pb2
from orly.rpc.convert import STREAM_OPEN, outcomes_of
from orly.store.base import EventStore, SaveResult, SaveStatus, StoreError

__all__ = ["MAX_UNDER_WAY", "STOPPING", "Saving"]

MAX_UNDER_WAY: Final = 8
"""Batches of one stream on their way to the disk; then no further one is read."""

STOPPING: Final = "the store is stopping"

_VERIFIED_SLICE: Final = 512
"""Events decoded at a stretch, about 1 ms of the loop."""

_CHECKED_SLICE: Final = 128
"""Events decoded and checked with their signatures at a stretch, about 4 ms of the loop."""

_DUPLICATE: Final = SaveResult(SaveStatus.DUPLICATE)

Context = grpc.aio.ServicerContext[Any, Any]
Outcome = SaveResult | str
"""What became of an event; a text is why it was refused before the store was asked."""


class Saving:
    """Serves SaveEvents.

    Events that the caller has not verified pass the checks of any other door. Who may call this may administer the
    store: the author of an event counts as authenticated.
    """

    def __init__(self, store: EventStore, policy: WritePolicy, verifier: Verifier, now_s: Callable[[], int]) -> None:
        self._store = store
        self._policy = policy
        self._verifier = verifier
        self._now_s = now_s
        self._readers: set[asyncio.Task[None]] = set()
        self._is_stopping = False

    def stop(self) -> None:
        """Read no further batch; every stream ends once what it had read is answered."""
        self._is_stopping = True
        for reader in self._readers:
            reader.cancel()

    def _stops(self) -> bool:
        return self._is_stopping

    async def SaveEvents(self, request_iterator: AsyncIterator[streams_pb2.SaveBatch], context: Context) -> None:
        """Answer every batch, in the order they come."""
        if self._stops():
            await context.abort(grpc.StatusCode.UNAVAILABLE, STOPPING)
        await context.send_initial_metadata(STREAM_OPEN)
        under_way = _UnderWay()
        reader = asyncio.get_running_loop().create_task(self._read(request_iterator, under_way))
        self._readers.add(reader)
        try:
            while (batch := await under_way.next()) is not None:
                await context.write(await batch.answer())
                under_way.answered()
            await asyncio.wait((reader,))
            if not reader.cancelled():
                reader.result()
        finally:
            self._readers.discard(reader)
            reader.cancel()
            under_way.abandon()
        if self._stops():
            await context.abort(grpc.StatusCode.UNAVAILABLE, STOPPING)

    async def _read(self, requests: AsyncIterator[streams_pb2.SaveBatch], under_way: "_UnderWay") -> None:
        """Hand batches to the store in their order, and no more than it may have under way."""
        loop = asyncio.get_running_loop()
        try:
            async for request in requests:
                batch = _Batch(request.batch_id)
                events = list(request.events)
                if request.verified:
                    await self._decode(events, batch)
                else:
                    await self._check(events, batch)
                batch.save = loop.create_task(_save(self._store, batch.events))
                await under_way.add(batch)
        finally:
            under_way.end()

    async def _decode(self, raws: Sequence[bytes], batch: "_Batch") -> None:
        for start in range(0, len(raws), _VERIFIED_SLICE):
            if start:
                await asyncio.sleep(0)
            for raw in raws[start : start + _VERIFIED_SLICE]:
                try:
                    batch.accept(decode_verified(raw))
                except EventError as error:
                    batch.settle(str(Refusal(Prefix.INVALID, str(error))))

    async def _check(self, raws: Sequence[bytes], batch: "_Batch") -> None:
        for start in range(0, len(raws), _CHECKED_SLICE):
            if start:
                await asyncio.sleep(0)
            self._check_slice(raws[start : start + _CHECKED_SLICE], batch)

    def _check_slice(self, raws: Sequence[bytes], batch: "_Batch") -> None:
        """What a client's event must pass: form, id, policy; then, unless it is known, the signature."""
        now_s = self._now_s()
        decoded: list[EncodedEvent | str] = []
        for raw in raws:
            try:
                event = decode_event(raw)
            except EventError as error:
                decoded.append(str(Refusal(Prefix.INVALID, str(error))))
                continue
            refusal = self._policy.check(event, now_s=now_s, authenticated=(event.event.pubkey,))
            decoded.append(event if refusal is None else str(refusal))
        sound = [event for event in decoded if isinstance(event, EncodedEvent)]
        known = self._known([event.id for event in sound])
        fresh = [event for event, is_known in zip(sound, known, strict=True) if not is_known]
        is_known, is_signed = iter(known), iter(self._verifier.verify(fresh))
        for item in decoded:
            if isinstance(item, str):
                batch.settle(item)
            elif next(is_known):
                batch.settle(_DUPLICATE)
            elif next(is_signed):
                batch.accept(item)
            else:
                batch.settle(str(BAD_SIGNATURE))

    def _known(self, ids: Sequence[bytes]) -> list[bool]:
        try:
            return self._store.known(ids)
        except StoreError:
            return [False] * len(ids)  # only a hint: the save says what is wrong


class _Batch:
    """One batch: the events that go to the store, and the outcomes that are known without it."""

    __slots__ = ("_batch_id", "_outcomes", "events", "save")

    def __init__(self, batch_id: int) -> None:
        self._batch_id = batch_id
        self._outcomes: list[Outcome | None] = []
        self.events: list[EncodedEvent] = []
        self.save: asyncio.Task[list[SaveResult]] | None = None

    def accept(self, event: EncodedEvent) -> None:
        """The next event goes to the store."""
        self.events.append(event)
        self._outcomes.append(None)

    def settle(self, outcome: Outcome) -> None:
        """The outcome of the next event is known."""
        self._outcomes.append(outcome)

    async def answer(self) -> streams_pb2.SaveBatchResult:
        """The outcomes of all, once the store has answered."""
        assert self.save is not None
        saved = await self.save
        results: Sequence[Outcome] = saved
        if len(saved) != len(self._outcomes):
            told = iter(saved)
            results = [next(told) if outcome is None else outcome for outcome in self._outcomes]
        outcomes, serials, reasons = outcomes_of(results)
        return streams_pb2.SaveBatchResult(batch_id=self._batch_id, outcomes=outcomes, serials=serials, reasons=reasons)


class _UnderWay:
    """The batches of one stream between its reader and its writer."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[_Batch | None] = asyncio.Queue()
        self._slots = asyncio.Semaphore(MAX_UNDER_WAY - 1)  # the newest waits in `add`
        self._current: _Batch | None = None

    async def add(self, batch: _Batch) -> None:
        """Queue a batch, and wait until the next may be read."""
        self._queue.put_nowait(batch)
        await self._slots.acquire()

    def end(self) -> None:
        """No further one comes."""
        self._queue.put_nowait(None)

    async def next(self) -> _Batch | None:
        """The next batch to be answered; None after the last."""
        self._current = await self._queue.get()
        return self._current

    def answered(self) -> None:
        """One is done with."""
        self._current = None
        self._slots.release()

    def abandon(self) -> None:
        """The caller is gone. What the store has taken it stores; nobody hears of it."""
        left = [] if self._current is None else [self._current]
        while not self._queue.empty():
            batch = self._queue.get_nowait()
            if batch is not None:
                left.append(batch)
        for batch in left:
            if batch.save is not None:
                batch.save.cancel()


async def _save(store: EventStore, events: Sequence[EncodedEvent]) -> list[SaveResult]:
    if not events:
        return []
    try:
        return await store.save(events)
    except StoreError as error:
        return [SaveResult(SaveStatus.FAILED, detail=str(error))] * len(events)
