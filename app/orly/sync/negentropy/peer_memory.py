"""What is remembered of a peer's events between syncs, so that the next one does not carry them in vain."""

from array import array
from bisect import bisect_left
from collections.abc import Collection
from enum import Enum
from typing import Any, Final

import numpy as np

__all__ = ["MAX_REMEMBERED_IDS", "REMEMBERED_S", "PeerMemory", "Why"]

MAX_REMEMBERED_IDS: Final = 1_000_000
"""Ids per peer; 16 bytes each, in memory and in the file. Beyond it no more are taken in until some are out of date:
what is refused is looked at in the same order each time, so forgetting the oldest would be forgetting all."""

REMEMBERED_S: Final = 86_400
"""For a day: settings and rules change on both sides."""

_MAX_FRESH: Final = 16_384
"""Ids that were noted one by one wait for so many more before they are sorted in, which takes milliseconds."""

_ID_BYTES: Final = 32
_PREFIX_BYTES: Final = 8
"""As much of an id is kept: that two of a million and a million are alike is a chance of one to ten million."""

_MAGIC: Final = b"negids02"
_OLD_ROW: Final = np.dtype([("until", ">u8"), ("why", "u1"), ("key", ">u8"), ("rest", "V24")])
"""A file of an earlier version has such rows and nothing else. None begins like a newer one: its first byte is 0."""

_WHY_BITS: Final = 3

Numbers = np.ndarray[Any, np.dtype[np.uint64]]


class Why(Enum):
    """Why an event is not carried again. The first three concern pulling, the others pushing."""

    UNAVAILABLE = 1
    """The peer announced it and never sent it."""
    REFUSED = 2
    """It is against the rules of this relay."""
    UNWANTED = 3
    """It is replaced, deleted, expired here, or ephemeral."""
    REJECTED = 4
    """The peer refused it."""
    UNNEEDED = 5
    """The peer has it, or a newer version or a deletion of it, though it does not say so in its set."""


_PUSHED: Final = frozenset({Why.REJECTED, Why.UNNEEDED})
_WHYS: Final = {why.value: why for why in Why}


class PeerMemory:
    """What is known of one peer's events; bounded in number and in time.

    An id is a key, its first bytes as a number, with an entry: until when it is remembered, and why.

    Args:
        max_ids: How many ids are kept.
        remembered_s: For how long.

    Attributes:
        version: Grows with each change.
    """

    __slots__ = ("_entries", "_fresh", "_keys", "_max_ids", "_n_updates", "_remembered_s", "_soonest_s", "version")

    def __init__(self, *, max_ids: int = MAX_REMEMBERED_IDS, remembered_s: int = REMEMBERED_S) -> None:
        self._keys = array("Q")
        self._entries = array("Q")
        self._fresh: dict[int, int] = {}
        self._n_updates = 0
        self._soonest_s = 0
        self._max_ids = max_ids
        self._remembered_s = remembered_s
        self.version = 0

    def __len__(self) -> int:
        return len(self._keys) + len(self._fresh) - self._n_updates

    def note(self, event_id: bytes, why: Why, *, now_s: int, until_s: int | None = None) -> None:
        """Remember one id (32 bytes) from now on, and not beyond `until_s` where that is sooner."""
        key = _key(event_id)
        if key not in self._fresh:
            if self._place(key) is not None:
                self._n_updates += 1
            elif not self._has_room(now_s):
                return
        last_s = now_s + self._remembered_s
        self._fresh[key] = _entry(last_s if until_s is None else max(min(until_s, last_s), 0), why)
        self.version += 1
        if len(self._fresh) >= _MAX_FRESH:
            self._sort_in()

    def note_all(self, event_ids: Collection[bytes], why: Why, *, now_s: int) -> None:
        """Remember many ids (32 bytes) from now on."""
        if not event_ids:
            return
        self._sort_in()
        self._drop_old(now_s)
        parts = np.frombuffer(b"".join(event_ids), ">u8")
        keys = np.sort(parts[:: _ID_BYTES // _PREFIX_BYTES].astype(np.uint64))
        keys = keys[np.concatenate(([True], keys[1:] != keys[:-1]))]
        self._merge(keys, np.full(len(keys), _entry(now_s + self._remembered_s, why), np.uint64))

    def take_in(self, other: "PeerMemory") -> None:
        """Remember what another one does; for the same ids, instead of what was remembered so far."""
        if not len(other):
            return
        other._sort_in()
        self._merge(_numbers(other._keys), _numbers(other._entries))

    def why_not_pull(self, event_id: bytes, *, now_s: int) -> Why | None:
        """Why the event should not be fetched; None if it should."""
        why = self._why(event_id, now_s)
        return None if why in _PUSHED else why

    def why_not_push(self, event_id: bytes, *, now_s: int) -> Why | None:
        """Why the event should not be sent; None if it should."""
        why = self._why(event_id, now_s)
        return why if why in _PUSHED else None

    def to_bytes(self, *, now_s: int) -> bytes:
        """All that is not out of date, to be kept on a disk; empty if there is nothing."""
        self._sort_in()
        self._drop_old(now_s)
        if not self._keys:
            return b""
        return b"".join((_MAGIC, *(_numbers(each).astype("<u8").tobytes() for each in (self._keys, self._entries))))

    def restore(self, data: bytes, *, now_s: int) -> None:
        """Take in what `to_bytes` gave, here or in an earlier version, all but what is out of date by now.

        Raises:
            ValueError: It is something else.
        """
        keys, entries = _read(data) if data.startswith(_MAGIC) else _read_old(data)
        until_s = entries >> _WHY_BITS
        chosen = (until_s > max(now_s, 0)) & (until_s <= max(now_s + self._remembered_s, 0))
        self._merge(keys[chosen], entries[chosen])
        self.version = 0

    def _why(self, event_id: bytes, now_s: int) -> Why | None:
        key = _key(event_id)
        entry = self._fresh.get(key)
        if entry is None:
            place = self._place(key)
            if place is None:
                return None
            entry = self._entries[place]
        return None if entry >> _WHY_BITS <= now_s else _WHYS[entry & (1 << _WHY_BITS) - 1]

    def _place(self, key: int) -> int | None:
        """Where a key is among those that are sorted in."""
        place = bisect_left(self._keys, key)
        return place if place < len(self._keys) and self._keys[place] == key else None

    def _has_room(self, now_s: int) -> bool:
        """Whether one more may be noted, now that what is out of date makes room."""
        if len(self) >= self._max_ids:
            self._sort_in()
            self._drop_old(now_s)
        return len(self) < self._max_ids

    def _drop_old(self, now_s: int) -> None:
        if not self._keys or now_s < self._soonest_s:
            return
        until_s = _numbers(self._entries) >> _WHY_BITS
        chosen = until_s > max(now_s, 0)
        self._set(_numbers(self._keys)[chosen], _numbers(self._entries)[chosen])

    def _sort_in(self) -> None:
        if self._fresh:
            fresh, self._fresh = self._fresh, {}
            self._n_updates = 0
            keys, entries = (np.fromiter(each, np.uint64, len(fresh)) for each in (fresh.keys(), fresh.values()))
            order = np.argsort(keys)
            self._merge(keys[order], entries[order])

    def _merge(self, new_keys: Numbers, new_entries: Numbers) -> None:
        """Put in ascending keys, those that are there already in any case, and others while there is room."""
        self._sort_in()
        keys, entries = _numbers(self._keys), _numbers(self._entries).copy()
        places = np.searchsorted(keys, new_keys)
        is_known = np.zeros(len(new_keys), bool)
        inside = places < len(keys)
        is_known[inside] = keys[places[inside]] == new_keys[inside]
        entries[places[is_known]] = new_entries[is_known]
        added = np.flatnonzero(~is_known)[: max(self._max_ids - len(keys), 0)]
        self._set(
            np.insert(keys, places[added], new_keys[added]), np.insert(entries, places[added], new_entries[added])
        )

    def _set(self, keys: Numbers, entries: Numbers) -> None:
        self._keys, self._entries = array("Q", keys.tobytes()), array("Q", entries.tobytes())
        self._soonest_s = int(entries.min()) >> _WHY_BITS if len(entries) else 0
        self.version += 1


def _key(event_id: bytes) -> int:
    return int.from_bytes(event_id[:_PREFIX_BYTES])


def _entry(until_s: int, why: Why) -> int:
    return until_s << _WHY_BITS | why.value


def _numbers(column: "array[int]") -> Numbers:
    """A view; the column must not change in length while it is in use."""
    return np.frombuffer(column, np.uint64) if column else np.empty(0, np.uint64)


def _read(data: bytes) -> tuple[Numbers, Numbers]:
    """Keys and entries of a file."""
    numbers = data[len(_MAGIC) :]
    if len(numbers) % (2 * _PREFIX_BYTES):
        raise ValueError(f"what is remembered of a peer has {len(data)} bytes, which is no whole number of ids")
    keys, entries = np.frombuffer(numbers, "<u8").astype(np.uint64).reshape(2, -1)
    if not (keys[1:] > keys[:-1]).all() or not np.isin(entries & (1 << _WHY_BITS) - 1, list(_WHYS)).all():
        raise ValueError("what is remembered of a peer is something else")
    return keys, entries


def _read_old(data: bytes) -> tuple[Numbers, Numbers]:
    """The same for a file of an earlier version."""
    if len(data) % _OLD_ROW.itemsize:
        raise ValueError(f"what is remembered of a peer has {len(data)} bytes, not a multiple of {_OLD_ROW.itemsize}")
    rows = np.frombuffer(data, _OLD_ROW)
    if not np.isin(rows["why"], list(_WHYS)).all() or (rows["until"] >> 60).any():
        raise ValueError("what is remembered of a peer is something else")
    keys, firsts = np.unique(rows["key"].astype(np.uint64), return_index=True)
    entries = rows["until"].astype(np.uint64) << _WHY_BITS | rows["why"]
    return keys, entries[firsts]
