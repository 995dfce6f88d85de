"""The snapshot that a process keeps for all, and those who watch it change."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from orly.access.control import ControlError
from orly.access.snapshot import Change, Snapshot

__all__ = ["Board", "Watcher"]

MAX_UNREAD: Final = 100_000
"""Changes that a watcher may leave unread before it is cut off, and has to begin again."""


class Watcher:
    """Hears of every change since it began to watch.

    Attributes:
        is_cut: Whether it was too slow and has missed some, or there is nothing more to come.
    """

    def __init__(self) -> None:
        self.is_cut = False
        self._unread: list[Change] = []
        self._added = asyncio.Event()

    def offer(self, changes: Sequence[Change]) -> None:
        """Queue changes."""
        if len(self._unread) + len(changes) > MAX_UNREAD:
            self.cut()
        elif not self.is_cut:
            self._unread += changes
        self._added.set()

    def cut(self) -> None:
        """Tell it nothing more."""
        self.is_cut = True
        self._unread = []
        self._added.set()

    async def next(self) -> Sequence[Change]:
        """All changes that were not read yet, at least one; none once it is cut off."""
        while not self._unread and not self.is_cut:
            self._added.clear()
            await self._added.wait()
        unread, self._unread = self._unread, []
        return unread


class Board:
    """Used from one event loop.

    Attributes:
        snapshot: The rules and lists; None until they are loaded.
    """

    def __init__(self) -> None:
        self.snapshot: Snapshot | None = None
        self._watchers: set[Watcher] = set()
        self._listeners: dict[object, Callable[[], None]] = {}

    @property
    def lists(self) -> Snapshot:
        """The snapshot.

        Raises:
            ControlError: It is not loaded yet.
        """
        if self.snapshot is None:
            raise ControlError("access control is not ready yet")
        return self.snapshot

    def publish(self, changes: Sequence[Change]) -> None:
        """Make changes here, and tell all who watch."""
        if not changes:
            return
        lists = self.lists
        before = lists.revision
        for change in changes:
            lists.apply(change)
        for watcher in self._watchers:
            watcher.offer(changes)
        if lists.revision == before:
            return
        for listener in tuple(self._listeners.values()):
            listener()

    def listen(self, changed: Callable[[], None]) -> Callable[[], None]:
        """See `AccessControl`."""
        key = object()
        self._listeners[key] = changed
        return lambda: self._listeners.pop(key, None) and None

    @contextmanager
    def watching(self) -> Iterator[Watcher]:
        """Someone who hears of every change from now on."""
        watcher = Watcher()
        self._watchers.add(watcher)
        try:
            yield watcher
        finally:
            self._watchers.discard(watcher)

    def close(self) -> None:
        """Cut off all who watch."""
        for watcher in self._watchers:
            watcher.cut()
