"""From the feed to the subscribers: the only way an event reaches an open subscription."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Protocol

from orly.nostr.event import EncodedEvent
from orly.relay.frames import text_frame
from orly.relay.subscriptions import Matchable, SubscriptionIndex
from orly.store.base import EventStore, FeedBatch

__all__ = ["LiveFeed", "Subscriber"]

DELIVERIES_PER_TURN: Final = 2000
"""Deliveries at a stretch, about 4 ms of the loop."""


class Subscriber(Matchable, Protocol):
    """An open subscription as the feed sees it.

    Attributes:
        prefix: What stands before the event's JSON in its EVENT messages.
    """

    prefix: bytes

    def deliver(self, serial: int, event: EncodedEvent, frame: bytes, *, is_hidden: bool) -> None:
        """One new event that matches.

        Args:
            serial: 0 for an ephemeral one.
            event: What it is.
            frame: Its EVENT message, as it goes out.
            is_hidden: Whether only those may see it whose scope sees what is hidden.
        """


class LiveFeed:
    """Follows the store's feed and hands each event to the subscriptions that match it."""

    def __init__(self, store: EventStore, told_ephemeral: Callable[[Sequence[EncodedEvent]], None]) -> None:
        """Take a place on the feed.

        Args:
            store: Whose.
            told_ephemeral: Gets the ephemeral events, whoever took them: no store would know them again.
        """
        self.index: SubscriptionIndex[Subscriber] = SubscriptionIndex()
        self._feed = store.feed(None)
        self._told_ephemeral = told_ephemeral

    async def run(self) -> None:
        """Deliver until the feed ends; raises what ended it."""
        delivered = 0
        async for batch in self._feed:
            if batch.ephemeral:
                self._told_ephemeral(batch.ephemeral)
            hidden = frozenset(batch.hidden)
            for serial, event in _events(batch):
                delivered += self._tell(serial, event, is_hidden=event.id in hidden)
                if delivered >= DELIVERIES_PER_TURN:
                    delivered = 0
                    await asyncio.sleep(0)

    def _tell(self, serial: int, event: EncodedEvent, *, is_hidden: bool) -> int:
        """Hand one event to whom it may concern; returns to how many."""
        if not len(self.index):
            return 1
        frames: dict[bytes, bytes] = {}
        subscribers = self.index.match(event.event)
        for subscriber in subscribers:
            prefix = subscriber.prefix
            frame = frames.get(prefix)
            if frame is None:
                frame = frames[prefix] = text_frame(prefix + event.raw + b"]")
            subscriber.deliver(serial, event, frame, is_hidden=is_hidden)
        return 1 + len(subscribers)


def _events(batch: FeedBatch) -> Iterator[tuple[int, EncodedEvent]]:
    for stored in batch.stored:
        yield stored.serial, stored.event
    for event in batch.ephemeral:
        yield 0, event
