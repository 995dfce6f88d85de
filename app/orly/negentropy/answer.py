"""Going through a message range by range and writing the answer: what both roles have in common.

The bytes are those of the reference implementations: a range that differs is divided in sixteen, one with less than 32
items is sent as its ids, ranges that are done are joined, and once a frame has fewer than 200 bytes left, everything
above what was written is left to the next message in a single fingerprint.

That fingerprint is of the items above the range that did not fit, while its range begins where the last range written
ends. As a rule the other side has shown that it has items in between, so the two differ as they should. If it has shown
none, a match would hide our items that were left out; then the fingerprint is of all items in its range. This is the
only place where the bytes depart from the reference's.
"""

from collections.abc import Callable
from typing import Final

import numpy as np

from orly.negentropy.encoding import INFINITY_S, BoundWriter, varint
from orly.negentropy.fingerprints import EMPTY, fingerprints
from orly.negentropy.itemset import ItemSet
from orly.negentropy.pages import Indices
from orly.negentropy.ranges import (
    FINGERPRINT,
    FINGERPRINT_BYTES,
    ID_BYTES,
    ID_LIST,
    PROTOCOL_VERSION,
    SKIP,
    Ranges,
    read_ranges,
)

__all__ = ["MIN_FRAME_BYTES", "AnswerWriter"]

MIN_FRAME_BYTES: Final = 512
"""The smallest limit for a frame with which every message gets on."""

_RESERVE_BYTES: Final = 200
"""What is kept free in a frame for the last id, the bounds around and the fingerprint of the rest."""

_BUCKETS: Final = 16
_RANGES_AT_A_TIME: Final = 256
_RANGES_AT_A_TIME_LIMITED: Final = 64
"""Fewer where a frame may be full after the first of them."""

_SKIP_BYTE: Final = bytes((SKIP,))
_FINGERPRINT_BYTE: Final = bytes((FINGERPRINT,))
_ID_LIST_BYTE: Final = bytes((ID_LIST,))
_ID_AT: Final = 8

Bound = tuple[int, bytes]
"""A timestamp in seconds and the begin of an id."""

Split = tuple[list[tuple[int, bytes]], bytes]
"""A range in buckets: of all but the last what `BoundWriter.bounds` takes, then the fingerprint of the last."""

OnIds = Callable[[int, int, int, int], None]
"""Takes the ids the other side has in a range: lower and upper index of ours, where theirs are, and how many."""


def _buckets(max_frame_bytes: int) -> int:
    """Into how many parts a range is divided, so that what becomes of one range always fits into a frame.

    Raises:
        ValueError: The limit is too small.
    """
    if max_frame_bytes == 0:
        return _BUCKETS
    if max_frame_bytes < MIN_FRAME_BYTES:
        raise ValueError(f"a frame limit of {max_frame_bytes} bytes is too small; the least is {MIN_FRAME_BYTES}")
    return min(_BUCKETS, (max_frame_bytes - _RESERVE_BYTES - 96) // 64)


class AnswerWriter:
    """Writes one message.

    `_written` is the index of the first item above the last range written, `_has_shown` whether the other side has
    shown since that it has items there.
    """

    __slots__ = ("_bounds", "_buckets", "_has_shown", "_items", "_max_bytes", "_out", "_skipped", "_written")

    def __init__(self, items: ItemSet, max_frame_bytes: int) -> None:
        self._items = items
        self._buckets = _buckets(max_frame_bytes)
        self._max_bytes = max_frame_bytes - _RESERVE_BYTES if max_frame_bytes else 0
        self._bounds = BoundWriter()
        self._out = bytearray((PROTOCOL_VERSION,))
        self._skipped: Bound | None = None
        self._written = 0
        self._has_shown = False

    def first(self) -> bytes:
        """The message that begins a reconciliation."""
        total = len(self._items)
        if total < 2 * self._buckets:
            return bytes(self._out) + self._id_list((INFINITY_S, b""), 0, total)
        splits = self._splits([0], [total])
        return bytes(self._out) + self._split((INFINITY_S, b""), splits[0])

    def answer(self, message: bytes, on_ids: OnIds | None) -> bytes:
        """The answer to a message of this version; with `on_ids`, lists of ids are taken and not answered.

        Raises:
            NegentropyError: The message is malformed.
        """
        lower = 0
        at_a_time = _RANGES_AT_A_TIME_LIMITED if self._max_bytes else _RANGES_AT_A_TIME
        for ranges in read_ranges(message, at_a_time=at_a_time):
            edges = [lower, *self._items.lower_bounds(ranges.keys)]
            edges[1:] = [max(edge, lower) for edge in edges[1:]]
            if self._answer_some(message, ranges, edges, on_ids):
                break
            lower = edges[-1]
        return bytes(self._out)

    def _answer_some(self, message: bytes, ranges: Ranges, edges: list[int], on_ids: OnIds | None) -> bool:
        """Answer some ranges, which lie between the edges; returns whether the frame is full."""
        differing, splits = self._compared(message, ranges, edges)
        for number, mode in enumerate(ranges.modes):
            lower, upper = edges[number], edges[number + 1]
            bound = ranges.timestamps_s[number], ranges.id_prefixes[number]
            start, count = ranges.starts[number], ranges.counts[number]
            if mode == ID_LIST and on_ids is None:
                if self._answer_ids(bound, lower, upper):
                    return True
                continue
            if mode == ID_LIST and on_ids is not None:
                on_ids(lower, upper, start, count)
                self._has_shown |= count > 0
            elif mode == FINGERPRINT:
                self._has_shown |= message[start : start + FINGERPRINT_BYTES] != EMPTY
                if number in differing:
                    if self._answer_fingerprint(bound, lower, upper, splits.get(number)):
                        return True
                    continue
            self._skipped = bound
        return False

    def _compared(self, message: bytes, ranges: Ranges, edges: list[int]) -> tuple[set[int], dict[int, Split]]:
        """Which ranges have another fingerprint here, and into what the larger of them are divided."""
        numbers = [number for number, mode in enumerate(ranges.modes) if mode == FINGERPRINT]
        if not numbers:
            return set(), {}
        sums = self._items.sums_up_to(np.array(edges, dtype=np.int64))
        chosen = np.array(numbers)
        ours = fingerprints(sums[chosen + 1] - sums[chosen], [edges[number + 1] - edges[number] for number in numbers])
        starts = ranges.starts
        differing = [
            number
            for number, own in zip(numbers, ours, strict=True)
            if message[starts[number] : starts[number] + FINGERPRINT_BYTES] != own
        ]
        large = [number for number in differing if edges[number + 1] - edges[number] >= 2 * self._buckets]
        splits = self._splits([edges[number] for number in large], [edges[number + 1] for number in large])
        return set(differing), dict(zip(large, splits, strict=True))

    def _splits(self, lowers: list[int], uppers: list[int]) -> list[Split]:
        """Ranges divided into buckets."""
        if not lowers:
            return []
        buckets = self._buckets
        lower = np.array(lowers, dtype=np.int64)
        each, extra = np.divmod(np.array(uppers, dtype=np.int64) - lower, buckets)
        steps = np.arange(buckets + 1, dtype=np.int64)
        begins = lower[:, None] + each[:, None] * steps
        edges: Indices = np.add(begins, np.minimum(steps, extra[:, None]), dtype=np.int64)
        sums = self._items.sums_up_to(edges.reshape(-1)).reshape(len(lowers), buckets + 1, -1)
        counts = np.diff(edges, axis=1).reshape(-1).tolist()
        own = fingerprints(np.diff(sums, axis=1).reshape(len(counts), -1), counts)
        bounds = self._bounds_at(edges[:, 1:-1].reshape(-1))
        result: list[Split] = []
        for first in range(0, len(own), buckets):
            at = first - first // buckets
            inner = zip(bounds[at : at + buckets - 1], own[first : first + buckets - 1], strict=True)
            split = [(time_s, prefix + _FINGERPRINT_BYTE + fingerprint) for (time_s, prefix), fingerprint in inner]
            result.append((split, own[first + buckets - 1]))
        return result

    def _bounds_at(self, indices: Indices) -> list[Bound]:
        """The shortest bounds between the items at some indices and those before them; ids with their lengths."""
        rows = self._items.rows_at(indices)
        times_s = rows[:, :_ID_AT].copy().view(">u8").reshape(-1).tolist()
        places = np.argmax(rows != self._items.rows_at(indices - 1), axis=1).tolist()
        ids = rows[:, _ID_AT:].tobytes()
        return [
            (time_s, b"\0" if place < _ID_AT else bytes((place - _ID_AT + 1,)) + ids[at : at + place - _ID_AT + 1])
            for time_s, place, at in zip(times_s, places, range(0, len(ids), ID_BYTES), strict=True)
        ]

    def _split(self, bound: Bound, split: Split) -> bytes:
        """A range as the fingerprints of its buckets."""
        buckets, last = split
        return self._bounds.bounds(buckets) + self._bounds.bound(*bound) + _FINGERPRINT_BYTE + last

    def _id_list(self, bound: Bound, lower: int, upper: int) -> bytes:
        """A range as the ids in it."""
        ids = self._items.ids_between(lower, upper)
        return self._bounds.bound(*bound) + _ID_LIST_BYTE + varint(upper - lower) + ids

    def _answer_fingerprint(self, bound: Bound, lower: int, upper: int, split: Split | None) -> bool:
        """Answer a fingerprint that is not ours; returns whether the frame is full."""
        part = self._skip()
        part += self._id_list(bound, lower, upper) if split is None else self._split(bound, split)
        if self._is_full(len(self._out) + len(part)):
            self._leave_rest(upper if self._has_shown else self._written)
            return True
        self._write(part, upper)
        return False

    def _answer_ids(self, bound: Bound, lower: int, upper: int) -> bool:
        """Answer a list of ids with ours, as many as fit; returns whether the frame is full."""
        end = upper
        if self._max_bytes:
            room = self._max_bytes - len(self._out)
            end = min(upper, lower + room // ID_BYTES + 1)
        part = self._skip()
        if end < upper:
            row = self._items.rows_between(end, end + 1)
            bound = int.from_bytes(row[:_ID_AT], "big"), row[_ID_AT:]
        self._write(part + self._id_list(bound, lower, end), end)
        if self._is_full(len(self._out)):
            self._leave_rest(end)
            return True
        return False

    def _write(self, part: bytes, upper: int) -> None:
        self._out += part
        self._written = upper
        self._has_shown = False

    def _skip(self) -> bytes:
        """The range that joins what is done, if something is."""
        if self._skipped is None:
            return b""
        bound, self._skipped = self._skipped, None
        return self._bounds.bound(*bound) + _SKIP_BYTE

    def _is_full(self, size: int) -> bool:
        return bool(self._max_bytes) and size > self._max_bytes

    def _leave_rest(self, lower: int) -> None:
        """End the message with one fingerprint for all that is above."""
        self._out += b"\0\0" + _FINGERPRINT_BYTE + self._items.fingerprint(lower, len(self._items))
