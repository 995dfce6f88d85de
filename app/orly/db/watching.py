"""WatchEvents: what was committed, from a serial on, as fast as the caller reads it."""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any, Final, TypeVar

import grpc

from orly.db.saving import STOPPING
from orly.nostr.event import EncodedEvent
from orly.pb.orlydb.v1 import streams_pb2
from orly.rpc.convert import MAX_EVENT_BYTES, STREAM_OPEN
from orly.store.base import EventStore, FeedBatch, StoreError

__all__ = ["MESSAGE_BYTES", "Watching", "joined", "pieces"]

MESSAGE_BYTES: Final = 1024 * 1024
"""Events joined in one message, unless a single one is larger."""

UNSENT_BYTES: Final = 4 * 1024 * 1024
"""What may wait for a slow caller here; then the store's feed waits, and later reads its tables again."""

_OVERHEAD_BYTES: Final = 100
_ID_BYTES: Final = 32

T = TypeVar("T")
Context = grpc.aio.ServicerContext[Any, Any]

log = logging.getLogger(__name__)


class Watching:
    """Serves WatchEvents."""

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self._pumps: set[asyncio.Task[None]] = set()
        self._is_stopping = False

    def stop(self) -> None:
        """End every stream once what is already on its way was told."""
        self._is_stopping = True
        for pump in self._pumps:
            pump.cancel()

    def _stops(self) -> bool:
        return self._is_stopping

    async def WatchEvents(self, request: streams_pb2.WatchRequest, context: Context) -> None:
        """Say where the feed begins, then tell what is committed."""
        if self._stops():
            await context.abort(grpc.StatusCode.UNAVAILABLE, STOPPING)
        try:
            newest = await self._store.last_serial()
            after = min(request.after_serial, newest) if request.HasField("after_serial") else newest
            feed = self._store.feed(after)
        except StoreError as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, f"error: {error}")
        unsent = _Unsent()
        pump = asyncio.get_running_loop().create_task(_pump(feed, unsent))
        self._pumps.add(pump)
        try:
            await context.send_initial_metadata(STREAM_OPEN)
            await context.write(streams_pb2.WatchBatch(through_serial=after))
            while (message := await unsent.next()) is not None:
                await context.write(message)
            await asyncio.wait((pump,))
            if not pump.cancelled():
                pump.result()
        except StoreError as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, f"error: {error}")
        finally:
            self._pumps.discard(pump)
            pump.cancel()
            await _leave(feed)
        await context.abort(grpc.StatusCode.UNAVAILABLE, STOPPING)


async def _pump(feed: AsyncIterator[FeedBatch], unsent: "_Unsent") -> None:
    try:
        async for batch in feed:
            await unsent.add(batch)
    finally:
        unsent.end()


async def _leave(feed: AsyncIterator[FeedBatch]) -> None:
    close = getattr(feed, "aclose", None)
    if close is not None:
        await close()


class _Unsent:
    """What one caller was not sent yet."""

    def __init__(self) -> None:
        self._batches: deque[FeedBatch] = deque()
        self._messages: Iterator[streams_pb2.WatchBatch] = iter(())
        self._bytes = 0
        self._has_ended = False
        self._added = asyncio.Event()
        self._taken = asyncio.Event()

    async def add(self, batch: FeedBatch) -> None:
        """Queue a batch, and wait while there is too much."""
        self._batches.append(batch)
        self._bytes += _size(batch)
        self._added.set()
        while self._bytes > UNSENT_BYTES:
            self._taken.clear()
            await self._taken.wait()

    def end(self) -> None:
        """Nothing more comes."""
        self._has_ended = True
        self._added.set()

    async def next(self) -> streams_pb2.WatchBatch | None:
        """The next message, of everything that is there if it fits; None after the last."""
        while True:
            message = next(self._messages, None)
            if message is not None:
                return message
            if self._batches:
                batch = joined(self._batches, MESSAGE_BYTES)
                self._bytes = sum(map(_size, self._batches))
                self._taken.set()
                self._messages = pieces(batch, MESSAGE_BYTES)
            elif self._has_ended:
                return None
            else:
                self._added.clear()
                await self._added.wait()


def _size(batch: FeedBatch) -> int:
    stored = sum(len(item.event.raw) for item in batch.stored)
    told = sum(len(event.raw) for event in batch.ephemeral)
    count = len(batch.stored) + len(batch.ephemeral)
    return stored + told + count * _OVERHEAD_BYTES + (len(batch.removed) + len(batch.hidden)) * _ID_BYTES


def joined(batches: deque[FeedBatch], max_bytes: int) -> FeedBatch:
    """Take batches off the queue as one: at least one, and no more than fit.

    A batch that stores again what one before it removed is left for the next message: a reader takes the removals of a
    message to come after its events.
    """
    first = batches.popleft()
    if not batches:
        return first
    size = _size(first)
    through = first.through_serial
    stored, ephemeral, removed = list(first.stored), list(first.ephemeral), list(first.removed)
    hidden = list(first.hidden)
    may_lack_removals = first.may_lack_removals
    while batches:
        batch = batches[0]
        size += _size(batch)
        if size > max_bytes or (removed and not {item.event.id for item in batch.stored}.isdisjoint(removed)):
            break
        batches.popleft()
        through = max(through, batch.through_serial)
        stored += batch.stored
        ephemeral += batch.ephemeral
        removed += batch.removed
        hidden += batch.hidden
        may_lack_removals = may_lack_removals or batch.may_lack_removals
    return FeedBatch(
        through_serial=through,
        stored=tuple(stored),
        ephemeral=tuple(ephemeral),
        removed=tuple(removed),
        hidden=tuple(hidden),
        may_lack_removals=may_lack_removals,
    )


def pieces(batch: FeedBatch, max_bytes: int) -> Iterator[streams_pb2.WatchBatch]:
    """The messages for a batch, each of about `max_bytes` or of a single larger event.

    All but the last say only what is told so far.
    """
    for message in _pieces(batch, max_bytes):
        message.may_lack_removals = batch.may_lack_removals
        yield message


def _pieces(batch: FeedBatch, max_bytes: int) -> Iterator[streams_pb2.WatchBatch]:
    if _size(batch) <= max_bytes:
        yield streams_pb2.WatchBatch(
            through_serial=batch.through_serial,
            serials=[item.serial for item in batch.stored],
            events=[item.event.raw for item in batch.stored],
            ephemeral=[event.raw for event in batch.ephemeral],
            removed=b"".join(batch.removed),
            hidden=b"".join(batch.hidden),
        )
        return
    for stored in _cut([item for item in batch.stored if _fits(item.event)], lambda item: item.event, max_bytes):
        yield streams_pb2.WatchBatch(
            through_serial=stored[-1].serial,
            serials=[item.serial for item in stored],
            events=[item.event.raw for item in stored],
        )
    told = batch.stored[-1].serial if batch.stored else batch.through_serial
    for ephemeral in _cut([event for event in batch.ephemeral if _fits(event)], lambda event: event, max_bytes):
        yield streams_pb2.WatchBatch(through_serial=told, ephemeral=[event.raw for event in ephemeral])
    n_ids = max(1, max_bytes // _ID_BYTES)
    for start in range(0, len(batch.hidden), n_ids):
        yield streams_pb2.WatchBatch(through_serial=told, hidden=b"".join(batch.hidden[start : start + n_ids]))
    for start in range(0, len(batch.removed) - n_ids, n_ids):
        yield streams_pb2.WatchBatch(through_serial=told, removed=b"".join(batch.removed[start : start + n_ids]))
    n_told = (len(batch.removed) - 1) // n_ids * n_ids if batch.removed else 0
    yield streams_pb2.WatchBatch(through_serial=batch.through_serial, removed=b"".join(batch.removed[n_told:]))


def _cut(items: Sequence[T], event_of: Callable[[T], EncodedEvent], max_bytes: int) -> Iterator[Sequence[T]]:
    """Stretches of at most `max_bytes`, or of one larger event."""
    start = size = 0
    for index, item in enumerate(items):
        n_bytes = len(event_of(item).raw) + _OVERHEAD_BYTES
        if size and size + n_bytes > max_bytes:
            yield items[start:index]
            start, size = index, 0
        size += n_bytes
    if start < len(items):
        yield items[start:]


def _fits(event: EncodedEvent) -> bool:
    if len(event.raw) <= MAX_EVENT_BYTES:
        return True
    log.warning("event %s is too large for the feed: %d bytes", event.event.id, len(event.raw))
    return False
