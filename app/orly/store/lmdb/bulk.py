"""The embedded store for long work while no client is served: large transactions, and reads of one moment."""

from collections.abc import Generator, Sequence

from orly.nostr.event import EncodedEvent
from orly.nostr.filter import Filter
from orly.store.base import Query, SaveResult, SaveStatus, StoreError
from orly.store.lmdb import keys
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

    def export(self, wanted: Filter) -> Generator[list[bytes | None], None, None]:
        """The visible events that match, as canonical JSON, newest first, as they were at the first step.

        One read transaction lasts until the end: nothing that is replaced meanwhile is missed, and a relay that
        writes meanwhile cannot use the space it frees. A None stands for an event that an index names and that
        is not there: the database is damaged.

        Raises:
            StoreError: The database cannot be read.
        """
        with self._read() as txn:
            get, table = txn.get, self._tables.events
            for chunk in self._reader(txn, Query(filters=(wanted,))).chunks(wanted, wanted.limit):
                if chunk:
                    yield [get(row[keys.SERIAL_SLICE], None, table) for row in chunk]
