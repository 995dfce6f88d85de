"""The lists that are kept by hand: loaded from the store, changed by command, with what they hide kept in step."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Sequence
from itertools import islice
from typing import Any, Final

from orly.access.commands import (
    OPERATOR,
    Command,
    CommandError,
    Edit,
    Entry,
    Member,
    SetInfo,
    UnblockAddress,
    applies_in,
    change_of,
    describe,
    edits_of_all,
)
from orly.access.control import ControlError, Listed
from orly.access.keyset import KeySet
from orly.access.snapshot import EVENT_LISTS, KEY_LISTS, Change, InfoChange, KindChange, ListName, Snapshot
from orly.acl.board import Board
from orly.acl.hider import Hider
from orly.acl.kept import INFO_PREFIX, marker_of, marker_prefix, member_text, read_entry, read_list
from orly.store.base import EventStore, HiddenKey, StoreError
from orly.units import MIB

__all__ = ["HIDING_LISTS", "KEPT_LISTS", "LIMITS", "MAX_COMMANDS", "Lists"]

MAX_COMMANDS: Final = 400
"""Carried out at once; each changes two markers at most."""

MAX_LISTED_BYTES: Final = 16 * MIB
"""What is known of the members in one page; a page ends with the one, of a few MiB, that goes beyond."""

LIMITS: Final = "limits"
"""By whom a block is that nobody asked for, and the end of one that had a time."""

MAX_TOLD: Final = 20
"""Commands of one call that have a line of their own in the log."""

HIDE_WAIT_S: Final = 2.0
"""How long a ban waits for its events to be hidden; hiding goes on after that."""

KEPT_LISTS: Final = tuple(name for name in ListName if name not in (ListName.FOLLOWED_PUBKEYS, ListName.PEER_PUBKEYS))
HIDING_LISTS: Final = (
    ListName.BANNED_PUBKEYS,
    ListName.BLACKLISTED_PUBKEYS,
    ListName.BANNED_EVENTS,
    ListName.SPAM_EVENTS,
)
"""Lists of what most readers do not see."""

log = logging.getLogger(__name__)


class Lists:
    """Loads and changes lists; used from one event loop.

    Args:
        store: Keeps them.
        board: Shows them.
        now_s: Unix time.

    Attributes:
        blocked_until_s: Addresses whose blocks end, and when.
    """

    def __init__(self, store: EventStore, board: Board, now_s: Callable[[], int]) -> None:
        self.blocked_until_s: dict[str, int] = {}
        self._store = store
        self._board = board
        self._now_s = now_s
        self._changing = asyncio.Lock()
        self._changes: set[asyncio.Task[bool]] = set()
        self._hider = Hider(store, self._is_hidden)

    async def load(self, snapshot: Snapshot) -> None:
        """Fill a snapshot.

        Raises:
            StoreError: The store cannot be read.
        """
        for name in KEPT_LISTS:
            rows = bytearray()
            async for page in read_list(self._store, name):
                for member, value in page:
                    match member:
                        case bytes():
                            rows += member
                        case int():
                            snapshot.apply(KindChange(name, member, True))
                        case str():
                            self._note_block(member, read_entry(value))
                            snapshot.blocked.add(member)
            if name in KEY_LISTS:
                snapshot.put(name, KeySet(bytes(rows)))
        for marker in await self._store.markers(INFO_PREFIX):
            snapshot.info[marker.key.removeprefix(INFO_PREFIX)] = marker.value.decode()

    # Changing

    async def change(self, commands: Sequence[Command], *, by: str) -> None:
        """See `AccessControl`; `by` may be `LIMITS` as well."""
        if len(commands) > MAX_COMMANDS:
            raise CommandError(f"{len(commands)} commands are more than the {MAX_COMMANDS} that are taken at once")
        hides = await self._whole(self._change(lambda: commands, by))
        if hides and not await self._hider.settled(HIDE_WAIT_S):
            log.info("hiding or showing what was banned or unbanned goes on")

    async def end_blocks(self) -> None:
        """Lift the blocks whose time is over.

        Raises:
            ControlError: They cannot be lifted now.
        """
        for _ in range(0, len(self.blocked_until_s), MAX_COMMANDS):
            if not self._ended():
                return
            await self._whole(self._change(self._ended, LIMITS))

    def _ended(self) -> Sequence[Command]:
        now_s = self._now_s()
        over = (UnblockAddress(address) for address, until_s in self.blocked_until_s.items() if until_s <= now_s)
        return list(islice(over, MAX_COMMANDS))

    async def _whole(self, change: Coroutine[Any, Any, bool]) -> bool:
        """Make a change to its end, even if who asked for it is cancelled: the store and the snapshot agree."""
        task = asyncio.create_task(change)
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        return await asyncio.shield(task)

    async def _change(self, commands: Callable[[], Sequence[Command]], by: str) -> bool:
        """Whether something is to be hidden, or shown again."""
        async with self._changing:
            planned = commands()
            edits = edits_of_all(self._board.lists, planned, by=by, now_s=self._now_s())
            infos = [InfoChange(each.field, each.text) for each in planned if isinstance(each, SetInfo)]
            markers: dict[str, bytes | None] = dict(map(marker_of, edits))
            markers |= {INFO_PREFIX + info.field: info.text.encode() or None for info in infos}
            try:
                await self._store.change_markers(markers)
            except StoreError as error:
                raise ControlError(f"the store did not take the change: {error}") from error
            except ValueError as error:
                raise CommandError(str(error)) from error
            changes: list[Change] = [change_of(edit) for edit in edits]
            self._board.publish([*changes, *infos])
            for edit in edits:
                if isinstance(edit.member, str):
                    self._note_block(edit.member, edit.entry)
        for command in planned[:MAX_TOLD]:
            log.info("audit: by=%s %s", by or OPERATOR, describe(command))
        if len(planned) > MAX_TOLD:
            log.info("audit: by=%s and %d more of the kind", by or OPERATOR, len(planned) - MAX_TOLD)
        return self._hide(edits)

    def _note_block(self, address: str, entry: Entry | None) -> None:
        self.blocked_until_s.pop(address, None)
        if entry is not None and entry.until_s:
            self.blocked_until_s[address] = entry.until_s

    # Hiding

    def _hide(self, edits: Iterable[Edit]) -> bool:
        mode = self._board.lists.rules.mode
        keys = [
            HiddenKey(edit.member, edit.list not in EVENT_LISTS)
            for edit in edits
            if edit.list in HIDING_LISTS and applies_in(mode, edit.list) and isinstance(edit.member, bytes)
        ]
        self._hider.settle(keys)
        return bool(keys)

    def _is_hidden(self, key: HiddenKey) -> bool:
        lists = self._board.lists
        if key.is_author and (key.key in lists.rules.owners or key.key in lists.rules.admins):
            return False
        return any(
            key.key in lists.keys[name]
            for name in HIDING_LISTS
            if (name not in EVENT_LISTS) is key.is_author and applies_in(lists.rules.mode, name)
        )

    async def settle_all(self) -> None:
        """Compare what the store hides with the lists, and mend it: the mode, or who is an owner, may have changed.

        Raises:
            StoreError: The store cannot be read.
        """
        lists = self._board.lists
        missing: dict[bool, set[bytes]] = {True: set(), False: set()}
        for name in HIDING_LISTS:
            if applies_in(lists.rules.mode, name):
                missing[name not in EVENT_LISTS].update(lists.keys[name])
        missing[True] -= lists.rules.owners | lists.rules.admins
        page = await self._store.hidden()
        while page:
            for key, is_done in page:
                if is_done and key.key in missing[key.is_author]:
                    missing[key.is_author].remove(key.key)
                else:
                    self._hider.settle([key])
            await asyncio.sleep(0)  # of a million keys, others get their turn
            page = await self._store.hidden(page[-1][0])
        for is_author, keys in missing.items():
            self._hider.settle(HiddenKey(key, is_author) for key in keys)

    async def close(self) -> None:
        """Finish changes, end hiding; the store stays open."""
        if self._changes:
            await asyncio.wait(self._changes)
        await self._hider.close()

    # Reading

    async def listed(self, name: ListName, *, after: Member | None = None, limit: int) -> list[Listed]:
        """See `AccessControl`."""
        if name not in KEPT_LISTS:
            return self._computed(name, after, limit)
        found: list[Listed] = []
        n_bytes = 0
        try:
            async for page in read_list(self._store, name, after=after, most=limit):
                found += [Listed(member, read_entry(value)) for member, value in page]
                n_bytes += sum(len(value) for _, value in page)
                if n_bytes > MAX_LISTED_BYTES:
                    break
        except StoreError as error:
            raise ControlError(f"the list cannot be read: {error}") from error
        return found

    def _computed(self, name: ListName, after: Member | None, limit: int) -> list[Listed]:
        keys = (key for key in self._board.lists.keys[name] if not isinstance(after, bytes) or key > after)
        return [Listed(key, Entry()) for key, _ in zip(keys, range(limit), strict=False)]

    async def entry_of(self, name: ListName, member: Member) -> Entry | None:
        """See `AccessControl`."""
        if name not in KEPT_LISTS:
            is_there = isinstance(member, bytes) and member in self._board.lists.keys[name]
            return Entry() if is_there else None
        try:
            value = await self._store.marker(marker_prefix(name) + member_text(member))
        except StoreError as error:
            raise ControlError(f"the list cannot be read: {error}") from error
        return None if value is None else read_entry(value)
