"""Access control as one process does it for all: the parts put together behind `AccessControl`."""

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager

from orly.access.commands import Command, Entry, Member
from orly.access.control import Listed, Use, UseMark
from orly.access.snapshot import KEY_LISTS, KIND_LISTS, Change, KeyChange, ListName, Rules, Snapshot
from orly.acl.board import Board, Watcher
from orly.acl.limits import Limits
from orly.acl.lists import Lists
from orly.acl.once import Once
from orly.acl.sourced import Sourced
from orly.nostr.event import Event
from orly.store.base import EventStore

__all__ = ["AclEngine"]

log = logging.getLogger(__name__)


class AclEngine:
    """See `AccessControl`. Made, and used, on one event loop; of all processes on one store, one has it.

    Args:
        store: Keeps the lists, and the events that some rules come from; stays the caller's.
        rules: From the settings.
        now_s: Unix time.
    """

    def __init__(self, store: EventStore, rules: Rules, *, now_s: Callable[[], int]) -> None:
        self._rules = rules
        self._once = Once(store, now_s)
        self._board = Board()
        self._lists = Lists(store, self._board, now_s)
        self._limits = Limits(store, self._board, self._lists, now_s)
        self._sourced = Sourced(store, self._board, rules)

    @property
    def snapshot(self) -> Snapshot | None:
        """See `AccessControl`; None before `start`."""
        return self._board.snapshot

    @property
    def config_event(self) -> Event | None:
        """Where the configuration of the mode `curating` comes from."""
        return self._sourced.config_event

    async def start(self) -> None:
        """Read everything, then follow the store.

        Raises:
            StoreError: It cannot be read.
        """
        snapshot = Snapshot(self._rules)
        await self._lists.load(snapshot)
        await self._limits.load(snapshot)
        await self._once.load()
        self._board.snapshot = snapshot
        await self._sourced.start()
        await self._lists.settle_all()
        self._limits.start()
        log.info("%s", self.describe())

    def describe(self) -> str:
        """The mode and the sizes of the lists, for the log."""
        lists, rules = self._board.lists, self._rules
        sizes = {name: len(lists.keys[name]) for name in KEY_LISTS}
        sizes |= {name: len(lists.kinds[name]) for name in KIND_LISTS}
        sizes[ListName.BLOCKED_IPS] = len(lists.blocked)
        told = ", ".join(f"{count} {name.value}" for name, count in sizes.items() if count) or "empty lists"
        return f"access: mode {rules.mode.value}, {len(rules.owners)} owners, {len(rules.admins)} admins, {told}"

    async def aclose(self) -> None:
        """Put on disk what is not there yet, and end; the store stays open."""
        await self._sourced.close()
        await self._limits.close()
        await self._lists.close()
        self._board.close()

    @contextmanager
    def watching(self) -> Iterator[Watcher]:
        """Someone who hears of every change from now on."""
        with self._board.watching() as watcher:
            yield watcher

    def listen(self, changed: Callable[[], None]) -> Callable[[], None]:
        """See `AccessControl`."""
        return self._board.listen(changed)

    async def change(self, commands: Sequence[Command], *, by: str) -> None:
        """See `AccessControl`."""
        await self._lists.change(commands, by=by)

    async def listed(self, name: ListName, *, after: Member | None = None, limit: int = 1000) -> Sequence[Listed]:
        """See `AccessControl`."""
        return await self._lists.listed(name, after=after, limit=limit)

    async def entry_of(self, name: ListName, member: Member) -> Entry | None:
        """See `AccessControl`."""
        return await self._lists.entry_of(name, member)

    async def use_once(self, event_id: bytes) -> bool:
        """See `AccessControl`."""
        return await self._once.use(event_id)

    async def used(self, uses: Collection[Use], *, mark: UseMark | None = None) -> None:
        """See `AccessControl`."""
        await self._limits.used(uses, mark)

    def set_peers(self, keys: Collection[bytes]) -> None:
        """These keys (32 bytes), and no others, are peers'; until this process ends."""
        before = set(self._board.lists.keys[ListName.PEER_PUBKEYS])
        changes: list[Change] = [KeyChange(ListName.PEER_PUBKEYS, key, True) for key in set(keys) - before]
        changes += [KeyChange(ListName.PEER_PUBKEYS, key, False) for key in before - set(keys)]
        self._board.publish(changes)

    async def refresh(self) -> None:
        """Read again what comes from events.

        Raises:
            StoreError: The store cannot be read.
        """
        await self._sourced.refresh()
