"""Pages: the stretches of sorted rows an item set is made of.

A page never changes; a set that differs in a few rows shares all pages but those the rows lie in. Beside the rows it
keeps the sums of the ids up to every 16th row, so that the sum up to any row costs at most fifteen additions.
"""

from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from orly.negentropy.fingerprints import LIMBS, Sums

__all__ = ["BLOCK_ROWS", "ITEM_BYTES", "PAGE_ROWS", "Indices", "Keys", "Page", "Rows", "Words", "keys_of", "paged"]

ITEM_BYTES: Final = 40
"""A row: created_at in 8 bytes, big-endian, and the id in 32."""

PAGE_ROWS: Final = 4096
"""Rows in a page when it is made; it is divided when it has twice as many."""

BLOCK_ROWS: Final = 16
"""Rows between two sums."""

_ID_WORD: Final = 2

Rows = npt.NDArray[np.uint8]
"""Packed rows, `ITEM_BYTES` wide, ascending, each once."""

Keys = npt.NDArray[np.bytes_]
"""The same rows as values that compare as they are sorted."""

Words = npt.NDArray[np.uint32]
"""Rows as numbers of four bytes; the last eight of a row are its id as it is summed."""

Indices = npt.NDArray[np.int64]


def keys_of(rows: Rows) -> Keys:
    """Rows as values; nothing is copied."""
    return rows.view(f"S{ITEM_BYTES}").reshape(len(rows))


def _block_sums(rows: Rows, before: Sums) -> Sums:
    """The sums up to the begin of every block and the end of the last full one; the first is `before`."""
    blocks = len(rows) // BLOCK_ROWS
    sums = np.empty((blocks + 1, LIMBS), dtype=np.uint64)
    sums[0] = before
    limbs = rows[: blocks * BLOCK_ROWS].view("<u4").reshape(blocks, BLOCK_ROWS, ITEM_BYTES // 4)[:, :, _ID_WORD:]
    np.add.reduce(limbs, axis=1, dtype=np.uint64, out=sums[1:])
    np.add.accumulate(sums, axis=0, out=sums)
    return sums


class Page:
    """A stretch of sorted rows.

    Attributes:
        rows: They; at least one.
        keys: The rows as values.
        total: The sum of all ids.
    """

    __slots__ = ("_block_sums", "_words", "keys", "rows", "total")

    def __init__(self, rows: Rows, block_sums: Sums | None = None) -> None:
        """Make a page.

        Args:
            rows: At least one.
            block_sums: The sums up to every block; None computes them.
        """
        self.rows = rows
        self.keys = keys_of(rows)
        self._words = rows.view("<u4")
        self._block_sums = _block_sums(rows, np.zeros(LIMBS, dtype=np.uint64)) if block_sums is None else block_sums
        blocks = len(rows) // BLOCK_ROWS
        rest = self._words[blocks * BLOCK_ROWS :, _ID_WORD:]
        self.total: Sums = self._block_sums[blocks] + rest.sum(axis=0, dtype=np.uint64)

    def __len__(self) -> int:
        return len(self.rows)

    def add_blocks(self, blocks: Indices, sums: Sums) -> None:
        """Add to each sum that of the ids below a block."""
        sums += self._block_sums[blocks]

    def copy_words(self, indices: Indices, words: Words) -> None:
        """Copy rows, as numbers of four bytes; an index behind the last row stands for the last."""
        np.take(self._words, indices, axis=0, mode="clip", out=words)

    def changed(self, added: Keys, removed: Keys) -> list["Page"]:
        """The pages in the place of this one without and with some rows, both sorted; itself if nothing changes."""
        rows = self.rows
        first = len(rows)
        if len(removed):
            places = np.searchsorted(self.keys, removed)
            places = places[self.keys[np.minimum(places, len(rows) - 1)] == removed]
            if len(places):
                first = int(places[0])
                rows = np.delete(rows, places, axis=0)
        if len(added):
            keys = keys_of(rows)
            places = np.searchsorted(keys, added)
            if len(rows):
                is_new = keys[np.minimum(places, len(rows) - 1)] != added
                added, places = added[is_new], places[is_new]
            if len(added):
                first = min(first, int(places[0]))
                rows = _inserted(rows, places, added)
        if rows is self.rows:
            return [self]
        kept = first // BLOCK_ROWS
        sums = np.concatenate((self._block_sums[:kept], _block_sums(rows[kept * BLOCK_ROWS :], self._block_sums[kept])))
        if len(rows) < 2 * PAGE_ROWS:
            return [Page(rows, sums)] if len(rows) else []
        return list(_cut(rows, sums))


def _inserted(rows: Rows, places: Indices, added: Keys) -> Rows:
    """Rows with others before the given places, ascending."""
    new = added.view(np.uint8).reshape(len(added), ITEM_BYTES)
    if int(places[0]) == len(rows):
        return np.concatenate((rows, new))
    found = np.empty((len(rows) + len(new), ITEM_BYTES), dtype=np.uint8)
    taken = places + np.arange(len(new))
    is_old = np.ones(len(found), dtype=np.bool_)
    is_old[taken] = False
    found[taken] = new
    found[is_old] = rows
    return found


def _cut(rows: Rows, sums: Sums) -> Iterator[Page]:
    """Pages of many rows and the sums up to their blocks."""
    for start in range(0, len(rows), PAGE_ROWS):
        part = rows[start : start + PAGE_ROWS]
        block = start // BLOCK_ROWS
        yield Page(part, sums[block : block + len(part) // BLOCK_ROWS + 1] - sums[block])


def paged(rows: Rows) -> list[Page]:
    """Sorted rows as pages; nothing is copied."""
    if not len(rows):
        return []
    return list(_cut(rows, _block_sums(rows, np.zeros(LIMBS, dtype=np.uint64))))
