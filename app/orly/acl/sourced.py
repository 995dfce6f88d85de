"""Rules that come from stored events, kept up to date: whom the moderators follow, and the settings of `curating`."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Final

from orly.access.curating import is_config
from orly.access.levels import Mode
from orly.access.snapshot import Change, CuratingChange, KeyChange, ListName, Rules
from orly.acl.board import Board
from orly.acl.sources import FOLLOW_LIST, followed_by, newest_config
from orly.nostr.event import Event
from orly.store.base import EventStore, FeedBatch, StoreError

__all__ = ["Sourced"]

PAUSE_S: Final = 1.0
"""Before the store is asked again after it failed."""

log = logging.getLogger(__name__)


class Sourced:
    """Follows the store's feed; used from one event loop.

    Args:
        store: Where the events are.
        board: Shows what follows from them.
        rules: Whose events count, and for which mode.

    Attributes:
        config_event: Where the configuration of the mode `curating` comes from.
    """

    def __init__(self, store: EventStore, board: Board, rules: Rules) -> None:
        self.config_event: Event | None = None
        self._store = store
        self._board = board
        self._mode = rules.mode
        self._moderators = rules.owners | rules.admins
        self._ids: set[bytes] = set()
        self._reading = asyncio.Lock()
        self._feed: AsyncIterator[FeedBatch] | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read what is stored, then follow what changes; nothing in modes that need no events.

        Raises:
            StoreError: The store cannot be read.
        """
        if self._mode not in (Mode.FOLLOWS, Mode.CURATING):
            return
        self._task = asyncio.create_task(self._follow(await self._begin()))

    async def _begin(self) -> AsyncIterator[FeedBatch]:
        """A feed, and everything read that was stored before it."""
        self._feed = feed = self._store.feed(None)
        try:
            await self._store.feeds_have_begun()
            await self.refresh()
        except BaseException:
            await self._leave()
            raise
        return feed

    async def _leave(self) -> None:
        feed, self._feed = self._feed, None
        close = getattr(feed, "aclose", None)
        if close is not None:
            await close()

    async def close(self) -> None:
        """Leave the feed."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
        await self._leave()

    async def refresh(self) -> None:
        """Read the events again.

        Raises:
            StoreError: The store cannot be read.
        """
        async with self._reading:  # what is read first is published first
            await self._refresh()

    async def _refresh(self) -> None:
        match self._mode:
            case Mode.FOLLOWS:
                followed, self._ids = await followed_by(self._store, self._moderators)
                self._board.publish(list(self._differences(followed)))
            case Mode.CURATING:
                found = await newest_config(self._store, self._moderators)
                self.config_event = None if found is None else found[0]
                self._ids = set() if found is None else {bytes.fromhex(found[0].id)}
                config = None if found is None else found[1]
                if config != self._board.lists.curating:
                    self._board.publish([CuratingChange(config)])
            case Mode.NONE | Mode.MANAGED:
                pass

    def _differences(self, followed: set[bytes]) -> Iterator[Change]:
        before = set(self._board.lists.keys[ListName.FOLLOWED_PUBKEYS])
        for key in followed - before:
            yield KeyChange(ListName.FOLLOWED_PUBKEYS, key, True)
        for key in before - followed:
            yield KeyChange(ListName.FOLLOWED_PUBKEYS, key, False)

    async def _follow(self, feed: AsyncIterator[FeedBatch]) -> None:
        while True:
            try:
                async for batch in feed:
                    if self._concerns(batch):
                        await self.refresh()
                return
            except StoreError as error:
                log.warning("the rules from events may be out of date, the store failed: %s", error)
            await self._leave()
            feed = await self._begin_again()

    async def _begin_again(self) -> AsyncIterator[FeedBatch]:
        while True:
            await asyncio.sleep(PAUSE_S)
            try:
                return await self._begin()
            except StoreError as error:
                log.warning("the rules from events may still be out of date: %s", error)

    def _concerns(self, batch: FeedBatch) -> bool:
        if batch.may_lack_removals or not self._ids.isdisjoint(batch.removed):
            return True
        return any(item.event.pubkey in self._moderators and self._is_source(item.event.event) for item in batch.stored)

    def _is_source(self, event: Event) -> bool:
        return event.kind == FOLLOW_LIST if self._mode is Mode.FOLLOWS else is_config(event)
