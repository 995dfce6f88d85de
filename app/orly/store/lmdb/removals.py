"""The removal journal: which events left the visible set while their index rows waited in the writer's memory.

Whoever reads the file beside the writer keeps such rows in memory as well (see `FollowedTail`), and a removed event
leaves no trace in the tables it could find. So the transaction that removes it says so here, one row for all it
removes. Rows are numbered without a gap; the oldest are dropped again, and a reader that is further behind than that
reads the waiting events anew.
"""

from struct import Struct
from typing import Any, Final

from orly.store.lmdb.environment import Environment

__all__ = ["MAX_ROWS", "MAX_TABLE_BYTES", "newest_removal", "removed_between", "write_removals"]

MAX_ROWS: Final = 1024
"""Transactions that a reader may be behind."""

MAX_TABLE_BYTES: Final = 1 << 20
"""What the journal may take; the newest row is kept whatever its length."""

_U64: Final = Struct(">Q")


def newest_removal(txn: Any, tables: Environment) -> int:
    """The number of the newest row, as a transaction sees it; 0 if nothing was ever removed."""
    with txn.cursor(tables.removals) as cursor:
        return _U64.unpack(cursor.key())[0] if cursor.last() else 0


def removed_between(txn: Any, tables: Environment, after: int, through: int) -> list[tuple[int, list[bytes]]] | None:
    """What the rows from `after` (not included) to `through` say: number, serials (8 bytes each).

    None if some of these rows are no longer there.
    """
    found: list[tuple[int, list[bytes]]] = []
    with txn.cursor(tables.removals) as cursor:
        if cursor.set_range(_U64.pack(after + 1)):
            for key, value in cursor.iternext(keys=True, values=True):
                serials = [value[start : start + 8] for start in range(0, len(value), 8)]
                found.append((_U64.unpack(key)[0], serials))
    return found if len(found) == through - after else None


def write_removals(txn: Any, tables: Environment, serials: list[bytes]) -> None:
    """Add a row, and drop the oldest ones beyond the bounds."""
    number = newest_removal(txn, tables) + 1
    txn.put(_U64.pack(number), b"".join(serials), db=tables.removals, append=True)
    with txn.cursor(tables.removals) as cursor:
        while cursor.first() and cursor.key() != _U64.pack(number) and _is_too_large(txn.stat(tables.removals)):
            cursor.delete()


def _is_too_large(stat: dict[str, int]) -> bool:
    pages = stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
    return stat["entries"] > MAX_ROWS or pages * stat["psize"] > MAX_TABLE_BYTES
