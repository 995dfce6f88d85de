"""From positions to whole ids by the time index, which is denser in the file than the events are."""

from itertools import islice
from typing import Any, Final

from orly.nostr.event import ID_IN_JSON
from orly.store.lmdb import keys
from orly.store.lmdb.environment import Environment

__all__ = ["TimeKeys"]

WALK_FACTOR: Final = 4
"""Neighbours are read at a stretch as long as this many of them cost no more than looking a row up."""

_MIN_WALK: Final = 32
_SKIPPED_WALKS: Final = 15
"""After a walk that found few, so many chunks are looked up row by row before the next is tried."""

_LAST_ID: Final = b"\xff" * 24
_SERIAL: Final = keys.SERIAL_SLICE


class TimeKeys:
    """Looks up what positions that come newest first stand for."""

    __slots__ = ("_cursor", "_get", "_skip", "_tables")

    def __init__(self, txn: Any, tables: Environment) -> None:
        self._cursor = txn.cursor(tables.times)
        self._get = txn.get
        self._tables = tables
        self._skip = 0

    def close(self) -> None:
        """Let go of the cursor; before the transaction ends."""
        self._cursor.close()

    def of(self, positions: list[bytes]) -> list[bytes]:
        """The keys in the time index of events at these positions, ascending.

        An event that is not there waits in memory for its rows to be written; then its id is read from itself. One
        that is nowhere is left out: the database is damaged.
        """
        walked = self._walk(positions) if len(positions) >= _MIN_WALK else {}
        found = []
        for position in positions:
            key = walked.get(position) or self._sought(position) or self._fetched(position)
            if key is not None:
                found.append(key)
        found.sort()
        return found

    def _walk(self, positions: list[bytes]) -> dict[bytes, bytes]:
        """What the next rows of the index say, if that has lately been worth it: position -> key."""
        if self._skip:
            self._skip -= 1
            return {}
        cursor = self._cursor
        if not (cursor.prev() if cursor.set_range(positions[0][:16] + _LAST_ID) else cursor.last()):
            return {}
        rows = islice(cursor.iterprev(keys=True, values=True), len(positions) * WALK_FACTOR)
        walked = {key[:16] + value: key for key, value in rows}
        if sum(map(walked.__contains__, positions)) * 2 < len(positions):
            self._skip = _SKIPPED_WALKS
        return walked

    def _sought(self, position: bytes) -> bytes | None:
        cursor = self._cursor
        start, value = position[:16], position[16:]
        is_there = cursor.set_range(start)
        while is_there:
            key: bytes = cursor.key()
            if not key.startswith(start):
                return None
            if cursor.value() == value:
                return key
            is_there = cursor.next()
        return None

    def _fetched(self, position: bytes) -> bytes | None:
        raw = self._get(position[_SERIAL], None, self._tables.events)
        return None if raw is None else position[:8] + keys.invert(bytes.fromhex(raw[ID_IN_JSON].decode()))
