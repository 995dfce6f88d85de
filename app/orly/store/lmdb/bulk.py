"""The embedded store for long work while no client is served: large transactions."""

from collections.abc import Sequence

from orly.nostr.event import EncodedEvent
from orly.store.base import SaveResult, SaveStatus, StoreError
from orly.store.lmdb.store import LmdbStore

__all__ = ["BulkLmdbStore"]


class BulkLmdbStore(LmdbStore):
    """Like `LmdbStore`, but it keeps the loop for as long as its work takes."""

    async def save(self, events: Sequence[EncodedEvent]) -> list[SaveResult]:
        """Store all events in one transaction.

        The rows of thousands of events share pages that those of a few hundred would each write again: at 4,000
        that is a third of the cost.
        """
        if not events:
            return []
        try:
            return await self._writer().submit(
                lambda transaction: [transaction.save(event) for event in events], len(events)
            )
        except StoreError as error:
            return [SaveResult(SaveStatus.FAILED, detail=str(error))] * len(events)
