"""The lists as they are stored, read beside whoever uses them; nothing is made or changed."""

from collections.abc import Callable, Sequence

from orly.access.commands import Entry, Member
from orly.access.control import Listed
from orly.access.snapshot import ListName, Rules, Snapshot
from orly.acl.board import Board
from orly.acl.limits import Limits
from orly.acl.lists import Lists
from orly.acl.sourced import Sourced
from orly.store.base import EventStore

__all__ = ["NoLists", "StoredLists"]


class NoLists:
    """What there is before there is a database: the settings, and empty lists.

    Args:
        rules: From the settings.

    Attributes:
        snapshot: See `AccessControl`.
    """

    def __init__(self, rules: Rules) -> None:
        self.snapshot: Snapshot | None = Snapshot(rules)

    async def listed(self, name: ListName, *, after: Member | None = None, limit: int = 1000) -> Sequence[Listed]:
        """See `AccessControl`."""
        del name, after, limit
        return ()

    async def entry_of(self, name: ListName, member: Member) -> Entry | None:
        """See `AccessControl`."""
        del name, member
        return None


class StoredLists:
    """What an engine with these rules would decide by; which keys are peers' only a running process knows.

    Args:
        store: Has the lists, and the events that some rules come from.
        rules: From the settings.
        now_s: Unix time.
    """

    def __init__(self, store: EventStore, rules: Rules, *, now_s: Callable[[], int]) -> None:
        self._rules = rules
        self._now_s = now_s
        self._board = Board()
        self._lists = Lists(store, self._board, now_s)
        self._limits = Limits(store, self._board, self._lists, now_s)
        self._sourced = Sourced(store, self._board, rules)

    @property
    def snapshot(self) -> Snapshot | None:
        """See `AccessControl`; None before `load`."""
        return self._board.snapshot

    async def load(self, *, follows: bool = False) -> None:
        """Read everything.

        Args:
            follows: Keep up with what comes from events until `close`; changes of the lists are not heard of.

        Raises:
            StoreError: It cannot be read.
        """
        snapshot = Snapshot(self._rules)
        await self._lists.load(snapshot)
        await self._limits.load(snapshot)
        now_s = self._now_s()  # while nobody runs, nobody lifts blocks
        snapshot.blocked -= {address for address, until_s in self._lists.blocked_until_s.items() if until_s <= now_s}
        self._board.snapshot = snapshot
        await (self._sourced.start() if follows else self._sourced.refresh())

    async def close(self) -> None:
        """Keep up no longer; the store stays open."""
        await self._sourced.close()

    async def listed(self, name: ListName, *, after: Member | None = None, limit: int = 1000) -> Sequence[Listed]:
        """See `AccessControl`."""
        return await self._lists.listed(name, after=after, limit=limit)

    async def entry_of(self, name: ListName, member: Member) -> Entry | None:
        """See `AccessControl`."""
        return await self._lists.entry_of(name, member)
