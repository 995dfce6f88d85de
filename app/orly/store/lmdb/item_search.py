"""Finding the items of a query: from the indexes, without a look at the events where that can be done.

A filter that asks for nothing but a time, and perhaps kinds that are common, is one walk along the time index.
Others yield positions as any query does, and the time index has the rest of their ids.
"""

from collections.abc import Iterator
from itertools import chain, islice
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from orly.nostr.event import MAX_CREATED_AT
from orly.nostr.filter import Filter
from orly.store.base import CountTooLargeError, Query
from orly.store.lmdb import keys
from orly.store.lmdb.item_blocks import (
    NO_KEYS,
    TIME_ROW,
    Block,
    TimeRows,
    block_of,
    merged,
    rows_of_positions,
)
from orly.store.lmdb.planner import is_common
from orly.store.lmdb.reader import Reader, View
from orly.store.lmdb.running_query import filter_limit
from orly.store.lmdb.time_keys import TimeKeys

__all__ = ["ItemSearch"]

WALK_ROWS: Final = 2048
"""Rows of the time index between two looks at the clock; about 0.5 ms."""

_ALL_KINDS: Final = 1 << 16
_DROP, _KEEP, _ASK = range(3)


class ItemSearch:
    """One query's search.

    Args:
        view: What is searched; its transaction must outlive the search.
        query: What is asked.
        max_items: More are an error.
    """

    def __init__(self, view: View, query: Query, max_items: int | None) -> None:
        self._view = view
        self._query = query
        self._max_items = max_items
        self._reader: Reader = view.reader(query.scope)

    def blocks(self) -> Iterator[Block]:
        """The keys of all that is found, in ascending blocks; empty ones are where the search can be interrupted.

        Raises:
            CountTooLargeError: There are too many.
        """
        found = merged([self._counted(self._found_by(wanted)) for wanted in self._query.filters])
        return found if len(self._query.filters) == 1 else self._counted(found)

    def _counted(self, blocks: Iterator[Block]) -> Iterator[Block]:
        count = 0
        for block in blocks:
            count += len(block)
            self._check(count)
            yield block

    def _check(self, count: int) -> None:
        if self._max_items is not None and count > self._max_items:
            raise CountTooLargeError(f"more than {self._max_items} events match")

    def _found_by(self, wanted: Filter) -> Iterator[Block]:
        limit = filter_limit(wanted.limit, self._query)
        if limit == 0 or wanted.matches_nothing():
            return iter(())
        if limit is None and self._is_walked(wanted):
            return self._walk(wanted)
        return self._look_up(wanted, limit)

    def _is_walked(self, wanted: Filter) -> bool:
        if wanted.ids is not None or wanted.authors is not None or wanted.tags:
            return False
        if wanted.kinds is None:
            return True
        kinds = frozenset(map(keys.kind_bytes, wanted.kinds))
        return is_common(self._view.scan, kinds, wanted.since, wanted.until)

    # By position

    def _look_up(self, wanted: Filter, limit: int | None) -> Iterator[Block]:
        count = 0
        found: list[Block] = []
        time_keys = TimeKeys(self._view.txn, self._view.tables)
        try:
            for positions in self._reader.chunks(wanted, limit):
                if positions:
                    count += len(positions)
                    self._check(count)
                    found.append(block_of(time_keys.of(positions)))
                yield NO_KEYS
        finally:
            time_keys.close()
        newer = NO_KEYS
        for block in _oldest_first(found):
            # Positions know 8 bytes of the id: where these are the same, keys may be in another order.
            if len(newer) and len(block) and newer[-1] >= block[0]:
                newer = np.unique(np.concatenate((newer, block)))
                continue
            yield newer
            newer = block
        yield newer

    # By time

    def _walk(self, wanted: Filter) -> Iterator[Block]:
        choice = _Choice(self._view, self._reader, self._query, wanted)
        waiting = [rows_of_positions(pairs) for pairs in self._view.scan.waiting() if pairs]
        sources = [self._stored(wanted, choice), *(_in_blocks(rows, choice) for rows in waiting)]
        return merged(sources)

    def _stored(self, wanted: Filter, choice: "_Choice") -> Iterator[Block]:
        with self._view.txn.cursor(self._view.tables.times) as cursor:
            if wanted.since > MAX_CREATED_AT or not cursor.set_range(keys.time_bytes(max(wanted.since, 0))):
                return
            rows = cursor.iternext(keys=True, values=True)
            while packed := b"".join(chain.from_iterable(islice(rows, WALK_ROWS))):
                chunk: TimeRows = np.frombuffer(packed, TIME_ROW)
                yield choice.of(chunk)
                if int(chunk["created_at"][-1]) > wanted.until:
                    return


def _oldest_first(blocks: list[Block]) -> Iterator[Block]:
    """From the end of a list, which gives up what was taken."""
    while blocks:
        yield blocks.pop()


def _in_blocks(rows: TimeRows, choice: "_Choice") -> Iterator[Block]:
    for start in range(0, len(rows), WALK_ROWS):
        yield choice.of(rows[start : start + WALK_ROWS])


class _Choice:
    """Which rows of the time index a filter without ids, authors and tags admits, and the reader may see."""

    def __init__(self, view: View, reader: Reader, query: Query, wanted: Filter) -> None:
        self._reader = reader
        self._since, self._until = max(wanted.since, 0), min(wanted.until, MAX_CREATED_AT)
        unseen = b"".join(chain.from_iterable(view.unseen(query.scope.sees_hidden)))
        self._unseen: npt.NDArray[Any] = np.sort(np.frombuffer(unseen, ">u8").astype(np.uint64))
        private = query.scope.private_kinds
        self._verdicts: npt.NDArray[np.uint8] | None = None
        if wanted.kinds is not None or private:
            verdicts = np.full(_ALL_KINDS, _KEEP if wanted.kinds is None else _DROP, np.uint8)
            verdicts[list(wanted.kinds or ())] = _KEEP
            hidden = list(private if wanted.kinds is None else private & wanted.kinds)
            verdicts[hidden] = _ASK if query.scope.readers else _DROP
            self._verdicts = verdicts

    def of(self, rows: TimeRows) -> Block:
        """The keys of the admitted ones."""
        created_at = rows["created_at"]
        admitted: npt.NDArray[np.bool_] = (created_at >= self._since) & (created_at <= self._until)
        if len(self._unseen):
            serials = rows["serial"].astype(np.uint64)
            nearest = self._unseen.searchsorted(serials).clip(max=len(self._unseen) - 1)
            admitted &= self._unseen[nearest] != serials
        if self._verdicts is not None:
            verdicts = self._verdicts[rows["kind"]]
            admitted &= verdicts != _DROP
            for index in np.flatnonzero(admitted & (verdicts == _ASK)):
                admitted[index] = self._may_read(rows[index])
        found: Block = rows["key"][admitted]
        return found

    def _may_read(self, row: np.void) -> bool:
        raw = row.tobytes()
        return self._reader.may_read(raw[:16] + raw[40:])
