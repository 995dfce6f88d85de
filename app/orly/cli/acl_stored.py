"""The lists as they are stored, read beside whoever uses them; nothing is made or changed."""

from collections.abc import Callable, Sequence

from orly.access.commands import Entry, Member
from orly.access.control import Listed
from orly.access.keyset import KeySet
from orly.access.levels import Mode
from orly.access.snapshot import ListName, Rules, Snapshot
from orly.acl.board import Board
from orly.acl.limits import Limits
from orly.acl.lists import Lists
from orly.acl.sources import followed_by, newest_config
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
        self._store = store
        self._rules = rules
        self._now_s = now_s
        self._board = Board()
        self._lists = Lists(store, self._board, now_s)
        self._limits = Limits(store, self._board, self._lists, now_s)

    @property
    def snapshot(self) -> Snapshot | None:
        """See `AccessControl`; None before `load`."""
        return self._board.snapshot

    async def load(self) -> None:
        """Read everything.

        Raises:
            StoreError: It cannot be read.
        """
        snapshot = Snapshot(self._rules)
        await self._lists.load(snapshot)
        await self._limits.load(snapshot)
        now_s = self._now_s()  # while nobody runs, nobody lifts blocks
        snapshot.blocked -= {address for address, until_s in self._lists.blocked_until_s.items() if until_s <= now_s}
        moderators = self._rules.owners | self._rules.admins
        match self._rules.mode:
            case Mode.FOLLOWS:
                followed, _ = await followed_by(self._store, moderators)
                snapshot.put(ListName.FOLLOWED_PUBKEYS, KeySet.of(followed))
            case Mode.CURATING:
                found = await newest_config(self._store, moderators)
                snapshot.curating = None if found is None else found[1]
            case Mode.NONE | Mode.MANAGED:
                pass
        self._board.snapshot = snapshot

    async def listed(self, name: ListName, *, after: Member | None = None, limit: int = 1000) -> Sequence[Listed]:
        """See `AccessControl`."""
        return await self._lists.listed(name, after=after, limit=limit)

    async def entry_of(self, name: ListName, member: Member) -> Entry | None:
        """See `AccessControl`."""
        return await self._lists.entry_of(name, member)
