"""The feed of commits: one publisher, any number of consumers that read at their own pace."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

from msgspec import structs

from orly.store.base import FeedBatch, StoredEvent, StoreError

__all__ = ["MAX_QUEUED_EVENTS", "Feed", "FeedHub"]

MAX_QUEUED_EVENTS: Final = 10_000
"""What one consumer may leave unread before it is served from the tables again."""

CATCH_UP_EVENTS: Final = 500

ReadAfter = Callable[[int, int], list[StoredEvent]]
"""(serial, limit) -> the stored events after it, in order."""

HiddenAmong = Callable[[Sequence[StoredEvent]], tuple[bytes, ...]]
"""The ids of those that are hidden."""


def _none_hidden(stored: Sequence[StoredEvent]) -> tuple[bytes, ...]:
    return ()


class FeedHub:
    """Tells every consumer what was committed."""

    def __init__(self, read_after: ReadAfter, hidden_among: HiddenAmong = _none_hidden) -> None:
        self.read_after = read_after
        self.hidden_among = hidden_among
        self._feeds: set[Feed] = set()
        self._closed = False

    def publish(self, batch: FeedBatch) -> None:
        """Hand a committed batch to all."""
        for feed in self._feeds:
            feed.offer(batch)

    def open(self, after_serial: int, last_serial: int) -> "Feed":
        """A new consumer that has seen everything up to `after_serial`."""
        feed = Feed(self, after_serial, behind=after_serial < last_serial)
        if self._closed:
            feed.end()
        else:
            self._feeds.add(feed)
        return feed

    def forget(self, feed: "Feed") -> None:
        """The consumer is gone."""
        self._feeds.discard(feed)

    def close(self) -> None:
        """End every consumer's iteration after what it already has."""
        self._closed = True
        for feed in self._feeds:
            feed.end()
        self._feeds.clear()


class Feed(AsyncIterator[FeedBatch]):
    """One consumer's view: from the tables while it is behind, then from a bounded queue."""

    def __init__(self, hub: FeedHub, after_serial: int, *, behind: bool) -> None:
        self._hub = hub
        self._seen = after_serial
        self._behind = behind
        self._queue: deque[FeedBatch] = deque()
        self._queued_events = 0
        self._waiter: asyncio.Future[None] | None = None
        self._lacks_removals = False
        self._ended = False

    def offer(self, batch: FeedBatch) -> None:
        """Queue a batch; when the queue is full, forget it all and read the tables later."""
        if self._behind:
            self._lacks_removals = self._lacks_removals or _takes_away(batch)
            return
        size = _size(batch)
        if self._queued_events + size > MAX_QUEUED_EVENTS and self._queue:
            self._lacks_removals = any(map(_takes_away, (*self._queue, batch)))
            self._queue.clear()
            self._queued_events = 0
            self._behind = True
        else:
            self._queue.append(batch)
            self._queued_events += size
        self._wake()

    def end(self) -> None:
        """Stop once the queue is empty."""
        self._ended = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def __anext__(self) -> FeedBatch:
        while True:
            if self._behind:
                batch = self._catch_up()
                if batch is not None:
                    return self._marked(batch)
            if self._lacks_removals:  # with nothing stored since: there is no batch to say so
                return self._marked(FeedBatch(through_serial=self._seen))
            if self._queue:
                batch = self._queue.popleft()
                self._queued_events -= _size(batch)
                batch = self._unseen(batch)
                self._seen = max(self._seen, batch.through_serial)
                return batch
            if self._ended:
                self._hub.forget(self)
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter

    def _marked(self, batch: FeedBatch) -> FeedBatch:
        """The batch; the first after removals were lost says so."""
        if not self._lacks_removals:
            return batch
        self._lacks_removals = False
        return structs.replace(batch, may_lack_removals=True)

    def _unseen(self, batch: FeedBatch) -> FeedBatch:
        """The batch without what was read from the tables before it was published."""
        if not batch.stored or batch.stored[0].serial > self._seen:
            return batch
        stored = tuple(item for item in batch.stored if item.serial > self._seen)
        return structs.replace(batch, stored=stored)

    def _catch_up(self) -> FeedBatch | None:
        """The next stretch from the tables; None when there is no more, and the queue takes over.

        Nothing can be committed unseen in between: publishing happens on this same loop, and what was committed
        but not published yet is offered next and cut to what is new.
        """
        try:
            stored = self._hub.read_after(self._seen, CATCH_UP_EVENTS)
            hidden = self._hub.hidden_among(stored)
        except StoreError:
            if self._ended:
                return None
            raise
        if not stored:
            self._behind = False
            return None
        self._seen = stored[-1].serial
        return FeedBatch(through_serial=self._seen, stored=tuple(stored), hidden=hidden)

    async def aclose(self) -> None:
        """Leave the feed."""
        self._hub.forget(self)
        self.end()


def _size(batch: FeedBatch) -> int:
    return len(batch.stored) + len(batch.ephemeral) + len(batch.removed) + len(batch.hidden)


def _takes_away(batch: FeedBatch) -> bool:
    """Whether who does not hear of it keeps what is gone, or lacks what is shown again."""
    return bool(batch.removed or batch.hidden or batch.may_lack_removals)
