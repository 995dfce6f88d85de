"""What time changes: the counts of the day, blocks that end, and blocks for going over a limit."""

import asyncio
import logging
from collections.abc import Callable, Collection, Iterator
from typing import Final, TypeVar

from orly.access.commands import BlockAddress, CommandError
from orly.access.control import ControlError, Use, UseMark
from orly.access.curating import CuratingConfig
from orly.access.snapshot import DAY_S, DayChange, Snapshot, UseChange
from orly.acl.board import Board
from orly.acl.kept import read_pages
from orly.acl.lists import LIMITS, MAX_COMMANDS, Lists
from orly.acl.usage import MAX_OFFENDERS, Offenders, Reporters, count_uses
from orly.store.base import MAX_MARKERS, EventStore, StoreError

__all__ = ["Limits"]

TICK_S: Final = 1.0
"""How often it is looked whether a block has ended or a day has begun; counts are put on disk as often."""

_USE_PREFIX: Final = "acl/use/"
_OFFENCE_PREFIX: Final = "acl/offence/"
_BEHIND_ALL: Final = "~"
"""Sorts behind whatever can follow the prefix of a day."""

T = TypeVar("T")

log = logging.getLogger(__name__)


class Limits:
    """Counts and timed blocks; used from one event loop.

    The counts stand in the snapshot. On disk they stand by day, so that nothing needs to be done to them when a day
    ends; those of days that are over are removed little by little.

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
        self._day = now_s() // DAY_S
        self._has_old = True
        self._reporters = Reporters()
        self._offenders = Offenders()
        self._over: dict[str, bytes] = {}
        self._punishing: asyncio.Task[None] | None = None
        self._unsaved_uses: set[bytes | str] = set()
        self._unsaved_offences: dict[str, bytes | None] = {}
        self._task: asyncio.Task[None] | None = None

    async def load(self, snapshot: Snapshot) -> None:
        """Read the counts of this day.

        Raises:
            StoreError: The store cannot be read.
        """
        prefix = _day_prefix(self._day)
        async for page in read_pages(self._store, prefix):
            snapshot.used |= {_who(marker.key.removeprefix(prefix)): int(marker.value) for marker in page}
        async for page in read_pages(self._store, _OFFENCE_PREFIX):
            for marker in page:
                self._remember(marker.key.removeprefix(_OFFENCE_PREFIX), int(marker.value))
        snapshot.day = self._day

    def start(self) -> None:
        """Watch the clock."""
        self._task = asyncio.create_task(self._tick_regularly())

    async def close(self) -> None:
        """Put on disk what is not there yet."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
        if self._punishing is not None:
            await asyncio.wait((self._punishing,))
        await self._save()

    async def used(self, uses: Collection[Use], mark: UseMark | None) -> None:
        """See `AccessControl`; addresses that went over a limit are blocked soon after.

        Raises:
            ControlError: Nothing was counted.
        """
        lists = self._board.lists
        self._begin_day()
        if mark is not None and (mark.day < self._day or not self._reporters.is_new(mark)):
            return
        counts = count_uses(lists.used, uses)
        self._unsaved_uses.update(counts)
        self._board.publish([UseChange(who, count) for who, count in counts.items()])
        for use in uses:
            if use.was_over and use.address and len(self._over) < MAX_OFFENDERS:
                self._over[use.address] = use.pubkey
        if self._over and self._punishing is None:
            self._punishing = asyncio.create_task(self._punish())
            self._punishing.add_done_callback(self._has_punished)

    # Blocks

    async def _punish(self) -> None:
        while self._over:
            some = {address: self._over.pop(address) for address in list(self._over)[:MAX_COMMANDS]}
            lists = self._board.lists
            if lists.curating is None:
                continue
            # What an address does while it is blocked is no further offence.
            fresh = {address: pubkey for address, pubkey in some.items() if address not in lists.blocked}
            try:
                await self._offend(fresh, lists.curating)
            except (CommandError, ControlError) as error:
                log.warning("%d addresses are not blocked for going over a limit: %s", len(fresh), error)

    def _has_punished(self, task: asyncio.Task[None]) -> None:
        self._punishing = None
        if not task.cancelled() and task.exception() is not None:
            log.error("blocking addresses for going over a limit failed", exc_info=task.exception())

    async def _offend(self, over: dict[str, bytes], config: CuratingConfig) -> None:
        """Block addresses, and the key of the last event of each is named; an offence counts once it is punished."""
        offences = {address: self._offenders.next_offence(address, config) for address in over}
        blocks = [
            BlockAddress(
                address,
                f"over the daily limit (offence {count}), last with key {over[address].hex()}",
                self._now_s() + block_s,
            )
            for address, (count, block_s) in offences.items()
            if block_s
        ]
        if blocks:
            await self._lists.change(blocks, by=LIMITS)
        for address, (count, _) in offences.items():
            self._unsaved_offences[address] = str(count).encode()
            self._remember(address, count)

    def _remember(self, address: str, count: int) -> None:
        for forgotten in self._offenders.remember(address, count):
            self._unsaved_offences[forgotten] = None

    # Time

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
        await self._remove_old()

    def _begin_day(self) -> None:
        day = self._now_s() // DAY_S
        if day != self._day:
            self._day = day
            self._has_old = True
            self._unsaved_uses = set()
            self._board.publish([DayChange(day)])

    # On disk

    async def _save(self) -> None:
        """Put counts on disk that have changed until now; those that the store does not take are tried again."""
        try:
            for whos in _slices(self._unsaved_uses):
                await self._save_uses(whos)
            for addresses in _slices(self._unsaved_offences):
                await self._save_offences(addresses)
        except StoreError as error:
            n_waiting = len(self._unsaved_uses) + len(self._unsaved_offences)
            log.warning("%d counts of the day wait for the store: %s", n_waiting, error)

    async def _save_uses(self, whos: Collection[bytes | str]) -> None:
        day, prefix, used = self._day, _day_prefix(self._day), self._board.lists.used
        self._unsaved_uses.difference_update(whos)
        counts = {f"{prefix}{_text(who)}": b"%d" % used[who] for who in whos if who in used}
        is_saved = False
        try:
            await self._store.change_markers(counts)
            is_saved = True
        finally:
            if not is_saved and day == self._day:
                self._unsaved_uses.update(whos)

    async def _save_offences(self, addresses: Collection[str]) -> None:
        saved = {address: self._unsaved_offences[address] for address in addresses}
        await self._store.change_markers({_OFFENCE_PREFIX + address: count for address, count in saved.items()})
        for address, count in saved.items():
            if self._unsaved_offences.get(address, count) == count:
                self._unsaved_offences.pop(address, None)

    async def _remove_old(self) -> None:
        """Remove some counts of days that are not today."""
        if not self._has_old:
            return
        today = _day_prefix(self._day)
        try:
            page = await self._store.markers(_USE_PREFIX)
            old = [marker.key for marker in page if not marker.key.startswith(today)]
            if not old:
                page = await self._store.markers(_USE_PREFIX, after=today + _BEHIND_ALL)
                old = [marker.key for marker in page]
            if old:
                await self._store.change_markers(dict.fromkeys(old))
        except StoreError as error:
            log.warning("counts of days that are over are still there: %s", error)
            return
        self._has_old = bool(old)


def _slices(waiting: Collection[T]) -> Iterator[list[T]]:
    whole = list(waiting)
    for start in range(0, len(whole), MAX_MARKERS):
        yield whole[start : start + MAX_MARKERS]


def _day_prefix(day: int) -> str:
    return f"{_USE_PREFIX}{day}/"


def _text(who: bytes | str) -> str:
    return f"k/{who.hex()}" if isinstance(who, bytes) else f"a/{who}"


def _who(text: str) -> bytes | str:
    sort, _, name = text.partition("/")
    return bytes.fromhex(name) if sort == "k" else name
