"""A set of 32-byte keys that is small in memory and quick to ask: a list of a million banned keys takes 40 MB."""

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["KEY_BYTES", "KeySet"]

KEY_BYTES: Final = 32
"""A public key, or an event id."""

_PREFIX_BYTES: Final = 8


class KeySet:
    """Most members stand in one sorted block of bytes; what was changed since it was made stands beside it.

    Args:
        rows: Members, ascending and none twice, in one piece.

    Raises:
        ValueError: The rows are not that.
    """

    __slots__ = ("_added", "_prefixes", "_removed", "_rows")

    def __init__(self, rows: bytes = b"") -> None:
        if len(rows) % KEY_BYTES:
            raise ValueError(f"{len(rows)} bytes are no whole number of keys of {KEY_BYTES} bytes")
        first_words = np.frombuffer(rows, dtype=">u8")[:: KEY_BYTES // _PREFIX_BYTES].astype(np.uint64)
        _refuse_disorder(rows, first_words)
        self._rows = rows
        self._prefixes = array("Q", first_words.tobytes())
        self._added: set[bytes] = set()
        self._removed: set[bytes] = set()

    @classmethod
    def of(cls, keys: Iterable[bytes]) -> "KeySet":
        """A set of keys that come in any order."""
        return cls(b"".join(sorted(set(keys))))

    def __contains__(self, key: bytes) -> bool:
        if self._added and key in self._added:
            return True
        return bool(self._rows) and self._is_in_rows(key) and key not in self._removed

    def _is_in_rows(self, key: bytes) -> bool:
        prefixes, rows = self._prefixes, self._rows
        prefix = int.from_bytes(key[:_PREFIX_BYTES], "big")
        at = bisect_left(prefixes, prefix)
        while at < len(prefixes) and prefixes[at] == prefix:
            if rows[at * KEY_BYTES : (at + 1) * KEY_BYTES] == key:
                return True
            at += 1
        return False

    def add(self, key: bytes) -> None:
        """Take a key in; one that is there already is no error.

        Raises:
            ValueError: It has another length.
        """
        if len(key) != KEY_BYTES:
            raise ValueError(f"a key has {KEY_BYTES} bytes, not {len(key)}")
        if self._is_in_rows(key):
            self._removed.discard(key)
        else:
            self._added.add(key)

    def discard(self, key: bytes) -> None:
        """Take a key out; one that is not there is no error."""
        self._added.discard(key)
        if self._is_in_rows(key):
            self._removed.add(key)

    def __len__(self) -> int:
        return len(self._prefixes) + len(self._added) - len(self._removed)

    def __iter__(self) -> Iterator[bytes]:
        """The keys in ascending order."""
        rows, removed = self._rows, self._removed
        added = sorted(self._added, reverse=True)
        for at in range(0, len(rows), KEY_BYTES):
            key = rows[at : at + KEY_BYTES]
            while added and added[-1] < key:
                yield added.pop()
            if key not in removed:
                yield key
        yield from reversed(added)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, KeySet):
            return NotImplemented
        return len(self) == len(other) and all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]


def _refuse_disorder(rows: bytes, first_words: NDArray[np.uint64]) -> None:
    for at in np.flatnonzero(first_words[:-1] >= first_words[1:]).tolist():
        start = at * KEY_BYTES
        if rows[start : start + KEY_BYTES] >= rows[start + KEY_BYTES : start + 2 * KEY_BYTES]:
            raise ValueError("the keys are not in ascending order, or one is there twice")
