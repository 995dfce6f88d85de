"""The set of items one side has: packed rows that never change, and the sums that make fingerprints cheap.

A million items take about 44 MB. A set with a few other items shares almost all of that, so a snapshot for a session
costs nothing and following a feed costs microseconds for each batch.
"""

from collections.abc import Collection, Iterator
from itertools import pairwise
from typing import Final

import numpy as np

from orly.negentropy.encoding import INFINITY_S
from orly.negentropy.errors import NegentropyError
from orly.negentropy.fingerprints import LIMBS, Sums, fingerprints
from orly.negentropy.pages import BLOCK_ROWS, ITEM_BYTES, PAGE_ROWS, Indices, Keys, Page, Rows, keys_of, paged
from orly.negentropy.ranges import ID_BYTES

__all__ = ["ItemSet"]

_KEY: Final = f"S{ITEM_BYTES}"
_STEPS: Final = np.arange(BLOCK_ROWS - 1)
_ID_AT: Final = ITEM_BYTES - ID_BYTES


class ItemSet:
    """An immutable set of items, sorted by created_at and id.

    A row is an item in `ITEM_BYTES` bytes: created_at in seconds, 8 bytes big-endian, and the id.
    """

    __slots__ = ("_end", "_firsts", "_pages", "_start", "_starts", "_sums")

    def __init__(self, pages: list[Page], like: "ItemSet | None" = None, shared: int = 0) -> None:
        """Make a set of pages in ascending order; use `from_rows`.

        Args:
            pages: They.
            like: Another set, whose first pages are the same.
            shared: How many pages that are.
        """
        own = pages[shared:]
        starts = np.cumsum([0, *map(len, own)], dtype=np.int64)
        sums = np.cumsum([np.zeros(LIMBS, dtype=np.uint64), *(page.total for page in own)], axis=0, dtype=np.uint64)
        firsts = np.array([page.keys[0] for page in own], dtype=_KEY)
        if like is not None:
            starts = np.concatenate((like._starts[:shared], starts + like._starts[shared]))
            sums = np.concatenate((like._sums[:shared], sums + like._sums[shared]))
            firsts = np.concatenate((like._firsts[:shared], firsts))
        self._pages = pages
        self._starts: Indices = starts
        self._sums: Sums = sums
        self._firsts: Keys = firsts
        self._start = 0
        self._end = int(starts[-1])

    @classmethod
    def from_rows(cls, rows: bytes | memoryview, *, is_sorted: bool = False) -> "ItemSet":
        """Make a set of packed rows.

        Args:
            rows: Rows one after the other; doubles count once.
            is_sorted: The rows are ascending and each is there once. That is checked, but not mended.

        Raises:
            NegentropyError: The rows have not a whole number of items, an item has the timestamp that stands for
                infinity, or the rows are not sorted although they should be.
        """
        found = _rows_of(rows)
        if not is_sorted:
            return cls(paged(_sorted(found)))
        keys = keys_of(found)
        is_above = keys[1:] > keys[:-1]
        if not is_above.all():
            number = int(np.argmin(is_above)) + 1
            raise NegentropyError(f"row {number} is not above the row before; the rows are not sorted")
        _refuse_infinity(found)
        return cls(paged(found))

    def __len__(self) -> int:
        return self._end - self._start

    def __contains__(self, row: bytes) -> bool:
        if len(row) != ITEM_BYTES:
            raise NegentropyError(f"a row has {len(row)} bytes instead of {ITEM_BYTES}")
        index = self.lower_bounds(row)[0]
        return index < len(self) and self.rows_between(index, index + 1) == row

    def holds(self, rows: bytes) -> list[bool]:
        """Which of some rows, which are packed and ascending, are in the set."""
        wanted = np.frombuffer(rows, dtype=np.uint8).reshape(-1, ITEM_BYTES)
        indices = np.array(self.lower_bounds(rows), dtype=np.int64)
        inside = indices < len(self)
        inside[inside] = (self.rows_at(indices[inside]) == wanted[inside]).all(axis=1)
        found: list[bool] = inside.tolist()
        return found

    def rows(self) -> bytes:
        """All rows, packed."""
        return self.rows_between(0, len(self))

    def changed(self, *, added: bytes = b"", removed: bytes = b"") -> "ItemSet":
        """Another set, without some rows and with others; a row that is in both is in the set.

        Raises:
            NegentropyError: As for `from_rows`.
        """
        if not added and not removed:
            return self
        new = keys_of(_sorted(_rows_of(added)))
        old = keys_of(_sorted(_rows_of(removed)))
        pages = self._own_pages()
        if not pages:
            return ItemSet(paged(new.view(np.uint8).reshape(len(new), ITEM_BYTES)))
        firsts = self._firsts[1:] if pages is self._pages else np.array([page.keys[0] for page in pages[1:]], _KEY)
        new_in = np.searchsorted(firsts, new, side="right")
        old_in = np.searchsorted(firsts, old, side="right")
        numbers = np.unique(np.concatenate((new_in, old_in))).tolist()
        new_from, new_to = (np.searchsorted(new_in, numbers, side).tolist() for side in ("left", "right"))
        old_from, old_to = (np.searchsorted(old_in, numbers, side).tolist() for side in ("left", "right"))
        found: list[Page] = []
        done = 0
        for at, number in enumerate(numbers):
            found += pages[done:number]
            found += pages[number].changed(new[new_from[at] : new_to[at]], old[old_from[at] : old_to[at]])
            done = number + 1
        found += pages[done:]
        changed = ItemSet(found, self, numbers[0]) if pages is self._pages else ItemSet(found)
        if len(found) > 16 + 4 * len(changed) // PAGE_ROWS:  # removals have left many small pages
            return ItemSet(paged(_rows_of(changed.rows())))
        return changed

    def without_ids(self, ids: Collection[bytes]) -> "ItemSet":
        """Another set, without the items that have these ids; costs a look at every item.

        Raises:
            NegentropyError: An id has not 32 bytes.
        """
        for wanted in ids:
            if len(wanted) != ID_BYTES:
                raise NegentropyError(f"an id has {len(wanted)} bytes instead of {ID_BYTES}")
        known = set(ids)
        heads = np.unique(np.array([int.from_bytes(wanted[:8], "little") for wanted in known], dtype=np.uint64))
        if not len(heads):
            return self
        removed: list[bytes] = []
        for page in self._own_pages():
            own = page.rows.view("<u8")[:, 1]
            near = np.searchsorted(heads, own)
            alike = page.rows[heads[np.minimum(near, len(heads) - 1)] == own]
            removed += [row.tobytes() for row in alike if row[_ID_AT:].tobytes() in known]
        return self.changed(removed=b"".join(removed))

    def between(self, since_s: int, until_s: int) -> "ItemSet":
        """The items of a time range, both ends included; no row is copied."""
        first = self.lower_bounds(_time_row(since_s))[0]
        end = self.lower_bounds(_time_row(until_s + 1))[0]
        found = ItemSet.__new__(ItemSet)
        found._pages, found._firsts, found._starts, found._sums = self._pages, self._firsts, self._starts, self._sums
        found._start = self._start + first
        found._end = self._start + max(first, end)
        return found

    def lower_bounds(self, keys: bytes) -> list[int]:
        """How many items are below each of some rows, which are packed and ascending."""
        wanted = np.frombuffer(keys, dtype=_KEY)
        numbers = np.maximum(np.searchsorted(self._firsts, wanted, side="right") - 1, 0)
        found = np.zeros(len(wanted), dtype=np.int64)
        if self._pages:
            for number, first, end in _runs(numbers):
                found[first:end] = self._starts[number] + np.searchsorted(self._pages[number].keys, wanted[first:end])
        np.clip(found, self._start, self._end, out=found)
        found -= self._start
        result: list[int] = found.tolist()
        return result

    def rows_between(self, lower: int, upper: int) -> bytes:
        """The rows with the indices from `lower` to below `upper`, packed."""
        return b"".join(part.tobytes() for part in self._parts(lower, upper))

    def ids_between(self, lower: int, upper: int) -> bytes:
        """The ids of those rows, packed."""
        return b"".join(part[:, _ID_AT:].tobytes() for part in self._parts(lower, upper))

    def rows_at(self, indices: Indices) -> Rows:
        """The rows with some indices, which are ascending."""
        absolute = indices + self._start
        numbers = np.searchsorted(self._starts, absolute, side="right") - 1
        found = np.empty((len(indices), ITEM_BYTES), dtype=np.uint8)
        for number, first, end in _runs(numbers):
            found[first:end] = self._pages[number].rows[absolute[first:end] - self._starts[number]]
        return found

    def sums_up_to(self, indices: Indices) -> Sums:
        """For some indices, which are ascending: the sum of the ids below each, from the same value on."""
        absolute = indices + self._start
        numbers = np.searchsorted(self._starts, absolute, side="right") - 1
        found = self._sums[numbers]
        blocks, offsets = np.divmod(absolute - self._starts[numbers], BLOCK_ROWS)
        places = blocks[:, None] * BLOCK_ROWS + _STEPS
        words = np.zeros((*places.shape, ITEM_BYTES // 4), dtype=np.uint32)
        for number, first, end in _runs(numbers):
            if number < len(self._pages):
                self._pages[number].add_blocks(blocks[first:end], found[first:end])
                self._pages[number].copy_words(places[first:end], words[first:end])
        limbs = words[:, :, -LIMBS:]
        limbs *= (offsets[:, None] > _STEPS)[:, :, None]
        found += limbs.sum(axis=1, dtype=np.uint64)
        return found

    def fingerprint(self, lower: int, upper: int) -> bytes:
        """The fingerprint of the rows with the indices from `lower` to below `upper`."""
        sums = self.sums_up_to(np.array([lower, upper], dtype=np.int64))
        return fingerprints(sums[1:] - sums[:1], [upper - lower])[0]

    def _parts(self, lower: int, upper: int) -> Iterator[Rows]:
        """The rows of a range, page by page."""
        if lower >= upper:
            return
        first, end = self._start + lower, self._start + upper
        number = int(np.searchsorted(self._starts, first, side="right")) - 1
        while first < end:
            start = int(self._starts[number])
            part = self._pages[number].rows[first - start : end - start]
            yield part
            first += len(part)
            number += 1

    def _own_pages(self) -> list[Page]:
        """Pages with exactly the items of this set."""
        if self._start == 0 and self._end == self._starts[-1]:
            return self._pages
        pages: list[Page] = []
        for page, start in zip(self._pages, self._starts[:-1].tolist(), strict=True):
            part = page.rows[max(self._start - start, 0) : max(self._end - start, 0)]
            if len(part):
                pages.append(page if len(part) == len(page) else Page(part))
        return pages


def _runs(numbers: Indices) -> Iterator[tuple[int, int, int]]:
    """Stretches of equal numbers: the number, the first index and the index behind the last."""
    if not len(numbers):
        return
    edges = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(numbers)]
    for first, end in pairwise(edges):
        yield int(numbers[first]), first, end


def _time_row(timestamp_s: int) -> bytes:
    """The lowest row of a second."""
    return min(max(timestamp_s, 0), INFINITY_S).to_bytes(8, "big") + bytes(ID_BYTES)


def _rows_of(rows: bytes | memoryview) -> Rows:
    """Packed rows as an array; bytes are not copied."""
    data = rows if isinstance(rows, bytes) else bytes(rows)
    if len(data) % ITEM_BYTES:
        raise NegentropyError(f"{len(data)} bytes are no whole number of items of {ITEM_BYTES} bytes")
    return np.frombuffer(data, dtype=np.uint8).reshape(-1, ITEM_BYTES)


def _sorted(rows: Rows) -> Rows:
    """Rows in ascending order, each once."""
    if len(rows) < 2:
        _refuse_infinity(rows)
        return rows
    keys = keys_of(rows)
    if not (keys[1:] > keys[:-1]).all():
        times = rows[:, :_ID_AT].copy().view(">u8").reshape(-1).astype(np.uint64)
        heads = rows[:, _ID_AT : _ID_AT + 8].copy().view(">u8").reshape(-1).astype(np.uint64)
        rows = rows[np.lexsort((heads, times))]
        keys = keys_of(rows)
        if (keys[1:] < keys[:-1]).any():  # ids of one second that begin alike
            keys = np.sort(keys)
        is_first = np.concatenate(([True], keys[1:] != keys[:-1]))
        rows = keys[is_first].view(np.uint8).reshape(-1, ITEM_BYTES)
    _refuse_infinity(rows)
    return rows


def _refuse_infinity(rows: Rows) -> None:
    if len(rows) and rows[-1, :_ID_AT].tobytes() == b"\xff" * _ID_AT:
        raise NegentropyError(f"an item has the timestamp {INFINITY_S}, which stands for infinity")
