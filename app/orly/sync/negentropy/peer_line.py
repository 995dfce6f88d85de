"""What the syncs with one relay have in common, by the clock and by hand."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from orly.sync.negentropy.peer_memory import PeerMemory

__all__ = ["PeerLine"]


class PeerLine:
    """What all syncs with one URL share: there is one at a time, and rounds by the clock learn from those before.

    Attributes:
        memory: What those rounds need not carry again.
        kept_version: Of the memory, which is on the disk.
        n_users: Syncs that are under way or wait, and who else relies on there being no other line.
    """

    __slots__ = ("_lock", "kept_version", "memory", "n_users")

    def __init__(self, memory: PeerMemory) -> None:
        self._lock = asyncio.Lock()
        self.memory = memory
        self.kept_version = 0
        self.n_users = 0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Around one sync: it waits for the one under way."""
        with self.in_use():
            async with self._lock:
                yield

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Around what needs it to be the line of its URL."""
        self.n_users += 1
        try:
            yield
        finally:
            self.n_users -= 1

    @property
    def is_busy(self) -> bool:
        """Whether a sync is under way or waits."""
        return self.n_users > 0

    async def free(self) -> None:
        """Return after the one under way, and those that wait by now."""
        async with self._lock:
            pass

    @contextmanager
    def fresh_memory(self) -> Iterator[PeerMemory]:
        """For who asks for a sync and wants everything tried again; what that finds out is remembered."""
        fresh = PeerMemory()
        try:
            yield fresh
        finally:
            self.memory.take_in(fresh)
