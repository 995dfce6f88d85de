"""Scans of one index, newest first, over the tables and the rows that still wait in memory."""

from bisect import bisect_left
from collections.abc import Iterator
from itertools import islice
from typing import Any, Final

from orly.nostr.event import MAX_CREATED_AT
from orly.store.lmdb import keys
from orly.store.lmdb.environment import Environment
from orly.store.lmdb.followed_tail import FollowedTail
from orly.store.lmdb.tail import Generation, Tail

__all__ = ["Scan"]

MAX_CHUNK: Final = 512
_SERIAL: Final = keys.SERIAL_SLICE


class Scan:
    """One read transaction's view of the indexes: what waits in memory is taken as it is at this moment.

    Attributes:
        through: The newest serial in that view (8 bytes); rows in memory above it are not committed yet.
    """

    __slots__ = ("_active", "_border", "_generations", "_removals", "_tables", "_txn", "through")

    def __init__(self, txn: Any, tables: Environment, tail: Tail | FollowedTail, through: bytes) -> None:
        self.through = through
        self._removals = tail.removals
        self._txn = txn
        self._tables = tables
        self._active = tail.active
        self._generations = tail.generations()
        self._border = tail.newest_before
        leaving = tail.leaving_before(txn.id())
        if leaving is not None:
            self._generations += (leaving,)
            self._border = MAX_CREATED_AT  # it may be newer than all that is active

    def serial_of(self, event_id: bytes) -> bytes | None:
        """The serial (8 bytes) of a stored event that is not superseded."""
        for generation in self._generations:
            serial = generation.serial_of(event_id, self.through, self._removals)
            if serial is not None:
                return serial
        found: bytes | None = self._txn.get(event_id, None, self._tables.ids)
        return found

    def waiting(self) -> list[list[tuple[bytes, bytes]]]:
        """The (id, position) of all that waits in memory, by generation; some of it may be in the tables as well."""
        return [generation.items_at(self.through, self._removals) for generation in self._generations]

    def chunks(self, index: str, prefix: bytes, since: int, until: int, first_chunk: int) -> Iterator[list[bytes]]:
        """The positions under a prefix of an index from `until` back to `since`, in chunks that grow.

        Args:
            index: One of `tail.INDEXES`; `times` has the empty prefix.
            prefix: What the keys start with.
            since: Lowest created_at.
            until: Highest created_at.
            first_chunk: How many rows to read at first.
        """
        rows = self._active.tables[index].get(prefix)
        if rows is None or until <= self._border:
            return self._older(index, prefix, since, until, first_chunk)
        # What is newer than all that is not in the active generation needs no look at the rest.
        return self._fresh_then_older(rows, index, prefix, since, until, first_chunk)

    def _fresh_then_older(
        self, rows: list[bytes], index: str, prefix: bytes, since: int, until: int, first_chunk: int
    ) -> Iterator[list[bytes]]:
        border = self._border
        yield from self._waiting_chunks(self._active, rows, max(since, border + 1), until, first_chunk)
        yield from self._older(index, prefix, since, border, first_chunk)

    def _older(self, index: str, prefix: bytes, since: int, until: int, first_chunk: int) -> Iterator[list[bytes]]:
        if until < since:
            return iter(())
        if index == "times":
            stored = _stored_time_chunks(self._txn, self._tables.times, since, until, first_chunk)
        else:
            stored = _stored_chunks(self._txn, getattr(self._tables, index), prefix, since, until, first_chunk)
        waiting = [
            self._waiting_chunks(generation, rows, since, until, first_chunk)
            for generation in self._generations
            if (rows := generation.tables[index].get(prefix)) is not None
        ]
        return _woven([*waiting, stored]) if waiting else stored

    def _waiting_chunks(
        self, generation: Generation, rows: list[bytes], since: int, until: int, first_chunk: int
    ) -> Iterator[list[bytes]]:
        """The same for rows in memory, which may come and go between two chunks; none that is not in this view."""
        if until < since:
            return
        lowest = keys.time_bytes(since) if since else b""
        upper = keys.time_bytes(until + 1)
        through, removals, gone = self.through, self._removals, generation.gone
        last_serial = int.from_bytes(through, "big")
        size = first_chunk
        while True:
            end = bisect_left(rows, upper)
            start = max(bisect_left(rows, lowest) if lowest else 0, end - size)
            chunk = rows[start:end]
            if bisect_left(rows, upper) != end:
                continue  # the writer, for whose long work the loop does not wait, has just changed the list
            if not chunk:
                return
            upper = chunk[0]
            chunk.reverse()
            if generation.last_serial > last_serial:  # looked at anew for each chunk, since it may have grown
                chunk = [position for position in chunk if position[_SERIAL] <= through]
            if gone:
                chunk = [row for row in chunk if (number := gone.get(row[_SERIAL])) is None or number > removals]
            if chunk:
                yield chunk
            size = min(size * 4, MAX_CHUNK)


def _stored_chunks(
    txn: Any, table: Any, prefix: bytes, since: int, until: int, first_chunk: int
) -> Iterator[list[bytes]]:
    """The positions under a prefix from `until` back to `since`, in chunks that grow."""
    lowest = prefix + keys.time_bytes(since)
    end = len(prefix)
    cursor = txn.cursor(table)
    try:
        if not _seek_before(cursor, prefix, until):
            return
        rows = cursor.iterprev(keys=True, values=False)
        size = first_chunk
        while chunk := list(islice(rows, size)):
            if chunk[-1] < lowest:
                kept = [key[end:] for key in chunk if key >= lowest]
                if kept:
                    yield kept
                return
            yield [key[end:] for key in chunk] if end else chunk
            size = min(size * 4, MAX_CHUNK)
    finally:
        cursor.close()


def _stored_time_chunks(txn: Any, table: Any, since: int, until: int, first_chunk: int) -> Iterator[list[bytes]]:
    """The positions of all events from `until` back to `since`, from the time index."""
    lowest = keys.time_bytes(since)
    cursor = txn.cursor(table)
    try:
        if not _seek_before(cursor, b"", until):
            return
        rows = cursor.iterprev(keys=True, values=True)
        size = first_chunk
        while chunk := list(islice(rows, size)):
            if chunk[-1][0] < lowest:
                kept = [key[:16] + value for key, value in chunk if key >= lowest]
                if kept:
                    yield kept
                return
            yield [key[:16] + value for key, value in chunk]
            size = min(size * 4, MAX_CHUNK)
    finally:
        cursor.close()


def _seek_before(cursor: Any, prefix: bytes, until: int) -> bool:
    """Put the cursor on the last key that is not later than `until`; False if there is none."""
    past = prefix + keys.time_bytes(until + 1)
    if until < 0:
        return False
    if until > MAX_CREATED_AT:
        past = prefix + b"\xff" * 8
    if cursor.set_range(past):
        return bool(cursor.prev())
    return bool(cursor.last())


def _woven(scans: list[Iterator[list[bytes]]]) -> Iterator[list[bytes]]:
    """Several scans as one, in order; a row that stands in more than one comes once."""
    heads = [(chunk, scan) for scan in scans if (chunk := next(scan, None))]
    while len(heads) > 1:
        border = max([chunk[-1] for chunk, _ in heads])
        ready: set[bytes] = set()
        left = []
        for chunk, scan in heads:
            end = _count_from(chunk, border)
            ready.update(chunk[:end])
            rest = chunk[end:] or next(scan, [])
            if rest:
                left.append((rest, scan))
        heads = left
        yield sorted(ready, reverse=True)
    for chunk, scan in heads:
        yield chunk
        yield from scan


def _count_from(rows: list[bytes], border: bytes) -> int:
    """How many rows of a descending list are not below the border."""
    if rows[-1] >= border:
        return len(rows)
    low, high = 0, len(rows)
    while low < high:
        middle = (low + high) // 2
        if rows[middle] >= border:
            low = middle + 1
        else:
            high = middle
    return low
