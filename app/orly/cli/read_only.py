"""A store that commands only read, beside the process that writes it."""

from collections.abc import AsyncIterator, Mapping, Sequence

from orly.nostr.event import EncodedEvent
from orly.store.base import EventStore, FeedBatch, HiddenKey, SaveResult, StoreError
from orly.store.lmdb.follower import LmdbFollower

__all__ = ["ReadOnlyStore"]


class ReadOnlyStore(LmdbFollower, EventStore):
    """The store in a data directory that another process may write."""

    async def save(self, events: Sequence[EncodedEvent]) -> list[SaveResult]:
        """Never asked for.

        Raises:
            StoreError: Always.
        """
        raise _only_read()

    async def delete(self, ids: Sequence[bytes]) -> int:
        """Likewise."""
        raise _only_read()

    async def hide(self, wanted: Sequence[HiddenKey]) -> None:
        """Likewise."""
        raise _only_read()

    async def show(self, wanted: Sequence[HiddenKey]) -> None:
        """Likewise."""
        raise _only_read()

    async def change_markers(self, changes: Mapping[str, bytes | None]) -> None:
        """Likewise."""
        raise _only_read()

    def feed(self, after_serial: int | None) -> AsyncIterator[FeedBatch]:
        """Likewise."""
        raise _only_read()


def _only_read() -> StoreError:
    return StoreError("the data directory is only read here")
