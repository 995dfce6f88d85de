"""What time changes: the counts of the day, blocks that end, and blocks for going over a limit."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection
from typing import Final

from orly.access.commands import BlockAddress, CommandError
from orly.access.control import ControlError, Use
from orly.access.curating import CuratingConfig
from orly.access.snapshot import Change, DayChange, Snapshot
from orly.acl.board import Board
from orly.acl.lists import LIMITS, Lists
from orly.acl.usage import DAY_S, DailyUse, Offenders
from orly.store.base import MAX_MARKERS, EventStore, Marker, StoreError

__all__ = ["Limits"]

TICK_S: Final = 1.0
"""How often it is looked whether a block has ended or a day has begun; counts are put on disk as often."""

_USE_PREFIX: Final = "acl/use/"
_OFFENCE_PREFIX: Final = "acl/offence/"

log = logging.getLogger(__name__)


class Limits:
    """Counts and timed blocks; used from one event loop.

    Args:
        store: Keeps the counts.
        board: Shows them.
        lists: Has the blocks.
        now_s: Unix time.
    """

    def __init__(self, store: EventStore, board: Board, lists: Lists, now_s: Callable[[], int]) -> None:
        self._store = store
        self._board = board
        self._lists = lists
        self._now_s = now_s
        self._use = DailyUse(now_s() // DAY_S)
        self._offenders = Offenders()
        self._unsaved: dict[str, bytes | None] = {}
        self._task: asyncio.Task[None] | None = None

    async def load(self, snapshot: Snapshot) -> None:
        """Read the counts of this day, and drop those of another.

        Raises:
            StoreError: The store cannot be read.
        """
        async for marker in self._markers(_USE_PREFIX):
            day, _, count = marker.value.decode().partition(" ")
            if day == str(self._use.day):
                self._use.counts[_who(marker.key)] = int(count)
            else:
                self._unsaved[marker.key] = None
        async for marker in self._markers(_OFFENCE_PREFIX):
            for forgotten in self._offenders.remember(marker.key.removeprefix(_OFFENCE_PREFIX), int(marker.value)):
                self._unsaved[_OFFENCE_PREFIX + forgotten] = None
        snapshot.day = self._use.day
        snapshot.used = dict(self._use.counts)

    async def _markers(self, prefix: str) -> AsyncIterator[Marker]:
        after = ""
        while page := await self._store.markers(prefix, after=after):
            for marker in page:
                yield marker
            after = page[-1].key

    def start(self) -> None:
        """Watch the clock."""
        self._task = asyncio.create_task(self._tick_regularly())

    async def close(self) -> None:
        """Put on disk what is not there yet."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
        await self._save()

    async def used(self, uses: Collection[Use]) -> None:
        """See `AccessControl`.

        Raises:
            ControlError: Nothing was counted. That an address could not be blocked is no error of who reports.
        """
        lists = self._board.lists
        self._begin_day()
        changes: list[Change] = []
        for change in self._use.add(uses):
            changes.append(change)
            self._unsaved[_use_key(change.who)] = f"{self._use.day} {change.n_events}".encode()
        self._board.publish(changes)
        over = {use.address: use for use in uses if use.was_over and use.address}
        for use in over.values():
            if lists.curating is None or use.address in lists.blocked:
                continue  # what it does while it is blocked is no further offence
            try:
                await self._offend(use, lists.curating)
            except (CommandError, ControlError) as error:
                log.warning("address %r is not blocked for going over a limit: %s", use.address, error)

    async def _offend(self, use: Use, config: CuratingConfig) -> None:
        """Block an address that went over a limit; that counts once it is blocked, however many tell of it at once."""
        count, block_s = self._offenders.next_offence(use.address, config)
        if block_s:
            reason = f"over the daily limit (offence {count}), last with key {use.pubkey.hex()}"
            block = BlockAddress(use.address, reason, self._now_s() + block_s)
            await self._lists.change([block], by="", told_as=LIMITS)
            log.info("address %s is blocked for %d h: %s", use.address, block_s // 3600, reason)
        self._unsaved[_OFFENCE_PREFIX + use.address] = str(count).encode()
        for forgotten in self._offenders.remember(use.address, count):
            self._unsaved[_OFFENCE_PREFIX + forgotten] = None

    async def _tick_regularly(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            try:
                await self.tick()
            except ControlError as error:
                log.warning("blocks that have ended could not be lifted: %s", error)

    async def tick(self) -> None:
        """Do what is due.

        Raises:
            ControlError: A block could not be lifted.
        """
        self._begin_day()
        await self._lists.end_blocks()
        await self._save()

    def _begin_day(self) -> None:
        day = self._now_s() // DAY_S
        if day != self._use.day:
            self._unsaved |= dict.fromkeys(map(_use_key, self._use.counts))
            self._use.begin(day)
            self._board.publish([DayChange(day)])

    async def _save(self) -> None:
        """Put counts on disk that have changed until now; those that the store does not take are tried again."""
        waiting = list(self._unsaved)
        for start in range(0, len(waiting), MAX_MARKERS):
            keys = waiting[start : start + MAX_MARKERS]
            some = {key: self._unsaved[key] for key in keys if key in self._unsaved}
            try:
                await self._store.change_markers(some)
            except StoreError as error:
                log.warning("%d counts of the day wait for the store: %s", len(self._unsaved), error)
                return
            for key, value in some.items():
                if self._unsaved.get(key) == value:
                    self._unsaved.pop(key, None)


def _use_key(who: bytes | str) -> str:
    return f"{_USE_PREFIX}k/{who.hex()}" if isinstance(who, bytes) else f"{_USE_PREFIX}a/{who}"


def _who(key: str) -> bytes | str:
    sort, _, text = key.removeprefix(_USE_PREFIX).partition("/")
    return bytes.fromhex(text) if sort == "k" else text
