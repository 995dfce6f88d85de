"""Small named values beside the events: the table `markers`."""

from collections.abc import Mapping
from typing import Any

from orly.store.base import MAX_MARKERS, MAX_MARKERS_BYTES, Marker, check_marker_range
from orly.store.lmdb.environment import Environment

__all__ = ["read_markers", "write_markers"]


def read_markers(txn: Any, tables: Environment, prefix: str, *, after: str, limit: int) -> list[Marker]:
    """See `EventStore.markers`."""
    check_marker_range(prefix, after)
    start, first = prefix.encode(), after.encode()
    found: list[Marker] = []
    n_bytes = 0
    if tables.markers is None:
        return found
    with txn.cursor(tables.markers) as cursor:
        if not (cursor.set_range(max(start, first)) if start or first else cursor.first()):
            return []
        for key, value in cursor.iternext(keys=True, values=True):
            if not key.startswith(start) or len(found) >= min(limit, MAX_MARKERS):
                break
            n_bytes += len(key) + len(value)
            if found and n_bytes > MAX_MARKERS_BYTES:
                break
            if key > first:
                found.append(Marker(key.decode(), value))
    return found


def write_markers(txn: Any, tables: Environment, changes: Mapping[str, bytes | None]) -> None:
    """See `EventStore.change_markers`; the changes were checked, and the table is there."""
    for key, value in changes.items():
        if value is None:
            txn.delete(key.encode(), db=tables.markers)
        else:
            txn.put(key.encode(), value, db=tables.markers)
