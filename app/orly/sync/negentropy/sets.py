"""Sets of events for reconciliation: the set of everything is kept in memory, others are built when they are asked for.

A snapshot holds everything that the store had acknowledged when it was asked for, and never changes.
"""

import asyncio
from collections.abc import Callable, Hashable
from typing import Final

from msgspec.structs import replace

from orly import clock
from orly.negentropy import ITEM_BYTES, ItemSet
from orly.negentropy.pages import PAGE_ROWS
from orly.nostr.filter import Filter
from orly.store.base import READ_ALL, CountTooLargeError, EventStore, Query, ReadScope, StoreError
from orly.sync.negentropy.full_set import FullSet, set_of

__all__ = ["BUILDS_AT_ONCE", "CLIENT_SHARE", "Lease", "SetKeeper", "SetsFullError"]

BUILDS_AT_ONCE: Final = 4
"""Sets that are read from the store at the same time; more wait their turn. One client has one of them read."""

CLIENT_SHARE: Final = 4
"""One client's sets take at most one in so many parts of what all may, so that it cannot lock out the others."""

_KEPT: Final = (
    ReadScope(),
    ReadScope(sees_hidden=True),
    ReadScope(private_kinds=frozenset()),
    READ_ALL,
)
"""Whose sets of everything are kept in memory, once somebody asks for them."""


class SetsFullError(StoreError):
    """The sets of a client, or of all clients together, take as much memory as they may."""


class Lease:
    """A set that is counted as memory in use until it is released.

    Attributes:
        items: The set.
    """

    def __init__(self, items: ItemSet, n_bytes: int, release: Callable[[int], None]) -> None:
        self.items = items
        self._n_bytes = n_bytes
        self._release: Callable[[int], None] | None = release

    def release(self) -> None:
        """The set is not needed any more; twice is once."""
        release, self._release = self._release, None
        if release is not None:
            release(self._n_bytes)


class _Build:
    """One read of a set from the store, and how many wait for it."""

    task: asyncio.Task[ItemSet]

    def __init__(self) -> None:
        self.n_waiting = 0


class _Client:
    """What one client has of the sets."""

    __slots__ = ("held_bytes", "n_waiting", "turn")

    def __init__(self) -> None:
        self.turn = asyncio.Lock()
        self.n_waiting = 0
        self.held_bytes = 0


class SetKeeper:
    """Makes sets of events; used from one event loop.

    Args:
        store: Whose events.
        max_items: Events of a set that is built for a client; fewer if more would not fit into its share.
        max_sets_bytes: What all such sets may take together.
        now_s: The clock that decides expiry; the store's.
    """

    def __init__(
        self,
        store: EventStore,
        *,
        max_items: int,
        max_sets_bytes: int,
        now_s: Callable[[], int] = clock.now_s,
    ) -> None:
        self.max_client_bytes = max_sets_bytes // CLIENT_SHARE
        self.max_items = min(max_items, self.max_client_bytes // ITEM_BYTES)
        self.max_sets_bytes = max_sets_bytes
        self.held_bytes = 0
        """What built sets take that were leased and not released."""
        self._store = store
        self._full = {scope: FullSet(store, scope, now_s=now_s) for scope in _KEPT}
        self._clients: dict[str, _Client] = {}
        self._builds: dict[Hashable, _Build] = {}
        self._reading: set[asyncio.Task[ItemSet]] = set()
        self._turns = asyncio.Semaphore(BUILDS_AT_ONCE)

    async def snapshot(self, query: Query, *, max_items: int | None = None) -> ItemSet:
        """The set of what a query finds, for our own use: it is not counted.

        Args:
            query: What is wanted; its limits apply.
            max_items: How large a set may be built; None = any size. What is kept in memory may be larger.

        Raises:
            CountTooLargeError: There are more than `max_items`.
            StoreError: The store failed, or its feed does not tell what it acknowledged.
        """
        kept = await self._from_memory(query, None)
        return await self._built(query, max_items) if kept is None else kept[0]

    async def lease(self, query: Query, name: str) -> Lease:
        """The same for a client, within the bounds for it and for all of them; it gets one at a time.

        Args:
            query: What is wanted; its limits apply.
            name: Whose it is: the same for all that one client asks for.

        Raises:
            CountTooLargeError: There are more than `max_items`.
            SetsFullError: There is no room for it now.
            StoreError: As for `snapshot`.
        """
        client = self._clients.setdefault(name, _Client())
        client.n_waiting += 1
        try:
            async with client.turn:
                return await self._lease(query, name, client)
        finally:
            client.n_waiting -= 1
            self._forget_client(name, client)

    async def _lease(self, query: Query, name: str, client: _Client) -> Lease:
        room = self._room_bytes(client) // ITEM_BYTES
        most = max(0, min(self.max_items, room))
        try:
            kept = await self._from_memory(query, most)
            if kept is None:
                items = await self._built(query, most)
                kept = items, len(items) * ITEM_BYTES
        except CountTooLargeError:
            if room < self.max_items:
                raise self._no_room(client) from None
            raise
        items, n_bytes = kept
        if n_bytes > self._room_bytes(client):
            raise self._no_room(client)
        self._hold(name, client, n_bytes)
        return Lease(items, n_bytes, lambda released: self._hold(name, client, -released))

    def _room_bytes(self, client: _Client) -> int:
        return min(self.max_client_bytes - client.held_bytes, self.max_sets_bytes - self.held_bytes)

    def _no_room(self, client: _Client) -> SetsFullError:
        if self.max_client_bytes - client.held_bytes <= self.max_sets_bytes - self.held_bytes:
            whose, held_bytes, max_bytes = "this connection", client.held_bytes, self.max_client_bytes
        else:
            whose, held_bytes, max_bytes = "all clients", self.held_bytes, self.max_sets_bytes
        return SetsFullError(
            f"the sets of {whose} take {held_bytes} bytes, and {max_bytes} is the maximum; try again later"
        )

    def _hold(self, name: str, client: _Client, n_bytes: int) -> None:
        """Count memory in use; negative for what is not any more."""
        self.held_bytes += n_bytes
        client.held_bytes += n_bytes
        self._forget_client(name, client)

    def _forget_client(self, name: str, client: _Client) -> None:
        if not (client.n_waiting or client.held_bytes) and self._clients.get(name) is client:
            del self._clients[name]

    async def close(self) -> None:
        """Leave the store's feed; the store stays open."""
        for task in self._reading:
            task.cancel()
        for kept in self._full.values():
            await kept.close()

    # From memory

    async def _from_memory(self, query: Query, max_own: int | None) -> tuple[ItemSet, int] | None:
        """A part of the set of everything, and what it takes besides; None if the query is about less than a time.

        The readers' own private events, `max_own` at most, are read from the store.
        """
        if len(query.filters) != 1 or not (query.default_limit is None and query.max_limit is None):
            return None
        wanted, scope = query.filters[0], query.scope
        if wanted.matches_nothing():
            return ItemSet.from_rows(b""), 0
        if wanted != Filter(since=wanted.since, until=wanted.until):
            return None
        kept = self._full.get(replace(scope, readers=frozenset()))
        if kept is None:
            return None
        items = (await kept.current()).between(wanted.since, wanted.until)
        if not scope.private_kinds:
            return items, 0
        own = await self._built(_own_query(query), max_own) if scope.readers else ()
        if not own:
            return items, 0
        items = items.changed(added=own.rows())
        return items, min(len(items), len(own) * PAGE_ROWS) * ITEM_BYTES

    # From the store

    async def _built(self, query: Query, max_items: int | None) -> ItemSet:
        """Read a set. Who asks for the same before the read has begun gets the same; later it could lack something."""
        key = _key_of(query, max_items)
        build = self._builds.get(key)
        if build is None:
            build = self._builds[key] = _Build()
            build.task = asyncio.get_running_loop().create_task(self._read(key, build, query, max_items))
            self._reading.add(build.task)
            build.task.add_done_callback(self._has_read)
        build.n_waiting += 1
        try:
            return await asyncio.shield(build.task)
        finally:
            build.n_waiting -= 1
            if not build.n_waiting and not build.task.done():
                self._forget(key, build)
                build.task.cancel()

    async def _read(self, key: Hashable, build: _Build, query: Query, max_items: int | None) -> ItemSet:
        async with self._turns:
            self._forget(key, build)
            found = await self._store.items(query, max_items=max_items)
            return await set_of(found.rows)

    def _forget(self, key: Hashable, build: _Build) -> None:
        if self._builds.get(key) is build:
            del self._builds[key]

    def _has_read(self, task: asyncio.Task[ItemSet]) -> None:
        self._reading.discard(task)
        if not task.cancelled():
            task.exception()  # it has reached whoever still waited


def _own_query(query: Query) -> Query:
    """What the readers may see of the private kinds in the time of a query."""
    wanted, scope = query.filters[0], query.scope
    private = Filter(kinds=scope.private_kinds, since=wanted.since, until=wanted.until)
    return Query(
        filters=(replace(private, authors=scope.readers), replace(private, tags={"p": scope.readers})),
        scope=scope,
        timeout_s=query.timeout_s,
    )


def _key_of(query: Query, max_items: int | None) -> Hashable:
    """Equal for queries with the same answer."""
    filters = tuple(
        (each.ids, each.authors, each.kinds, frozenset(each.tags.items()), each.since, each.until, each.limit)
        for each in query.filters
    )
    return filters, query.scope, query.default_limit, query.max_limit, query.timeout_s, max_items
