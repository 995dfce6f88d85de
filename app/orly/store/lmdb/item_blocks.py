"""Keys of the time index by the thousand, as arrays: merged, and turned into item rows.

A key is created_at and the inverted id (see `keys.time_key`). A block is an array of keys in ascending order, none
twice; by byte order, events of the same second stand by descending id, which item rows turn round.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from orly.store.base import ITEM_BYTES
from orly.store.lmdb import keys

__all__ = ["NO_KEYS", "TIME_ROW", "Block", "ItemGatherer", "TimeRows", "block_of", "merged", "rows_of_positions"]

Block: TypeAlias = npt.NDArray[np.bytes_]
TimeRows: TypeAlias = npt.NDArray[np.void]

_KEY: Final = np.dtype(f"S{ITEM_BYTES}")
"""Compared byte by byte; trailing zeros, which single values lose, make no difference at a fixed width."""

TIME_ROW: Final = np.dtype(
    {
        "names": ["key", "created_at", "kind", "serial"],
        "formats": [_KEY, ">u8", ">u2", ">u8"],
        "offsets": [0, 0, ITEM_BYTES, ITEM_BYTES + 2],
        "itemsize": ITEM_BYTES + 10,
    }
)
"""One row of the time index: its key, then its value."""

NO_KEYS: Final[Block] = np.empty(0, _KEY)

_FLIP: Final = np.frombuffer(bytes(8) + b"\xff" * 32, np.uint8)
_ID_BYTES: Final = 32
_PAIR_BYTES: Final = _ID_BYTES + keys.POSITION_BYTES


def block_of(time_keys: Iterable[bytes]) -> Block:
    """A block of keys that are in order."""
    return np.frombuffer(b"".join(time_keys), _KEY)


def rows_of_positions(pairs: Iterable[tuple[bytes, bytes]]) -> TimeRows:
    """The rows that events have in the time index, in order, from (id, position)."""
    found = np.frombuffer(b"".join(chain.from_iterable(pairs)), np.uint8).reshape(-1, _PAIR_BYTES)
    rows = np.empty((len(found), TIME_ROW.itemsize), np.uint8)
    rows[:, :8] = found[:, _ID_BYTES : _ID_BYTES + 8]
    rows[:, 8:ITEM_BYTES] = ~found[:, :_ID_BYTES]
    rows[:, ITEM_BYTES:] = found[:, _ID_BYTES + keys.KIND_SLICE.start :]
    packed: TimeRows = rows.view(TIME_ROW).reshape(-1)
    return packed[np.argsort(packed["key"])]


def merged(sources: Iterable[Iterator[Block]]) -> Iterator[Block]:
    """The union of sources of ascending blocks; empty blocks are passed on, as pauses in a long search."""
    left = deque(sources)
    while len(left) > 1:
        left.append(_union(left.popleft(), left.popleft()))
    return left[0] if left else iter(())


def _union(one: Iterator[Block], other: Iterator[Block]) -> Iterator[Block]:
    mine = theirs = NO_KEYS
    while True:
        if not len(mine):
            found = next(one, None)
            if found is None:
                break
            mine = found
        if not len(theirs):
            found = next(other, None)
            if found is None:
                break
            theirs = found
        if not len(mine) or not len(theirs):
            yield NO_KEYS
            continue
        border = min(mine[-1:], theirs[-1:])
        n_mine, n_theirs = (int(block.searchsorted(border, "right")[0]) for block in (mine, theirs))
        if not n_theirs:
            yield mine[:n_mine]
        elif not n_mine:
            yield theirs[:n_theirs]
        else:
            yield np.unique(np.concatenate((mine[:n_mine], theirs[:n_theirs])))
        mine, theirs = mine[n_mine:], theirs[n_theirs:]
    yield mine
    yield theirs
    yield from one
    yield from other


class ItemGatherer:
    """Makes item rows of blocks that follow each other.

    Attributes:
        count: How many rows there are so far.
    """

    __slots__ = ("_pieces", "_run_at", "_second", "count")

    def __init__(self) -> None:
        self.count = 0
        self._pieces: list[bytes] = []
        self._second = -1
        self._run_at = 0

    def add(self, block: Block) -> None:
        """Add the next block."""
        size = len(block)
        if not size:
            return
        self.count += size
        table = np.ascontiguousarray(block).view(np.uint8).reshape(size, ITEM_BYTES)
        seconds: npt.NDArray[Any] = np.ascontiguousarray(table[:, :8]).view(">u8").reshape(-1)
        runs = np.concatenate(([0], np.flatnonzero(seconds[1:] != seconds[:-1]) + 1, [size]))
        items = table ^ _FLIP
        if len(runs) <= size:  # some second has several events: turn each run of them round
            starts, ends = runs[:-1], runs[1:]
            items = items[np.repeat(starts + ends - 1, ends - starts) - np.arange(size)]
        self._append(items.tobytes(), int(seconds[0]), int(seconds[-1]), runs)

    def _append(self, rows: bytes, first_s: int, last_s: int, runs: npt.NDArray[np.int64]) -> None:
        """Add rows; what goes on with the last second so far has lower ids, and goes before it."""
        start = 0
        if first_s == self._second:
            start = int(runs[1]) * ITEM_BYTES
            self._pieces.insert(self._run_at, rows[:start])
            if start == len(rows):
                return
        last = int(runs[-2]) * ITEM_BYTES
        if last > start:
            self._pieces.append(rows[start:last])
        self._second = last_s
        self._run_at = len(self._pieces)
        self._pieces.append(rows[last:])

    def rows(self) -> bytes:
        """All of it."""
        return b"".join(self._pieces)
