"""The numbers in `meta`: how far serials were given, and how far their index rows have got."""

from struct import Struct
from typing import Any, Final

from orly.store.lmdb.environment import Environment

__all__ = ["flush_through", "indexed_through", "last_serial", "set_flush_through"]

_U64: Final = Struct(">Q")


def last_serial(txn: Any, tables: Environment) -> int:
    """The newest serial ever given, as a transaction sees it."""
    return _number(txn, tables, b"last_serial")


def indexed_through(txn: Any, tables: Environment) -> int:
    """The serial up to which every index row is in the tables."""
    return _number(txn, tables, b"indexed_through")


def flush_through(txn: Any, tables: Environment) -> int:
    """The serial up to which the tables have index rows at all, or will soon.

    A transaction that gives a higher serial than those of a full generation says here where that ended; so whoever
    follows can end one at the same place, which `indexed_through` reaches later.
    """
    return max(_number(txn, tables, b"flush_through"), indexed_through(txn, tables))


def set_flush_through(txn: Any, tables: Environment, serial: int) -> None:
    """Say where the generation ends that is on its way to the tables."""
    if _number(txn, tables, b"flush_through") != serial:
        txn.put(b"flush_through", _U64.pack(serial), db=tables.meta)


def _number(txn: Any, tables: Environment, name: bytes) -> int:
    found = txn.get(name, db=tables.meta)
    return 0 if found is None else int(_U64.unpack(found)[0])
