"""A set of 32-byte keys that is small in memory and quick to ask: a list of a million banned keys takes 40 MB."""

import sys
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import compress, count, islice
from operator import ge
from typing import Final

__all__ = ["KEY_BYTES", "MAX_ANSWERS", "KeySet"]

KEY_BYTES: Final = 32
"""A public key, or an event id."""

MAX_ANSWERS: Final = 10_000
"""Answers that a set keeps which is told to keep them, less than 2 MB."""

_PREFIX_BYTES: Final = 8
_BUCKET_SHIFT: Final = 52
"""Where to look is narrowed down by the first 12 bits before the rest is searched."""

_BUCKETS: Final = 1 << (64 - _BUCKET_SHIFT)
_NO_STARTS: Final = [0] * (_BUCKETS + 1)
_first_word: Final = int.from_bytes  # big-endian, unless it is told otherwise


class KeySet:
    """Most members stand in one sorted block of bytes; what was changed since it was made stands beside it.

    Args:
        rows: Members, ascending and none twice, in one piece.

    Attributes:
        size: How many there are.

    Raises:
        ValueError: The rows are not that.
    """

    __slots__ = ("_added", "_answers", "_keeps_answers", "_prefixes", "_removed", "_rows", "_starts", "size")

    def __init__(self, rows: bytes = b"") -> None:
        if len(rows) % KEY_BYTES:
            raise ValueError(f"{len(rows)} bytes are no whole number of keys of {KEY_BYTES} bytes")
        words = array("Q", rows)
        if sys.byteorder == "little":
            words.byteswap()
        self._rows = rows
        self._prefixes = words[:: KEY_BYTES // _PREFIX_BYTES]
        _refuse_disorder(rows, self._prefixes)
        self._starts = _starts(self._prefixes)
        self._added: set[bytes] = set()
        self._removed: set[bytes] = set()
        self._answers: dict[bytes, bool] = {}
        self._keeps_answers = False
        self.size = len(self._prefixes)

    @classmethod
    def of(cls, keys: Iterable[bytes]) -> "KeySet":
        """A set of keys that come in any order."""
        return cls(b"".join(sorted(set(keys))))

    def keep_answers(self) -> None:
        """Have the same question answered at once the next time.

        Worth it for a list of authors, who come again and again, and not for one of event ids.
        """
        self._keeps_answers = True

    def __contains__(self, key: bytes) -> bool:
        answer = self._answers.get(key)
        if answer is None:
            answer = key in self._added or (bool(self._prefixes) and self._is_in_rows(key) and key not in self._removed)
            if self._keeps_answers:
                self._keep(key, answer)
        return answer

    def _keep(self, key: bytes, answer: bool) -> None:
        if len(self._answers) >= MAX_ANSWERS:
            self._answers.clear()
        self._answers[key] = answer

    def _is_in_rows(self, key: bytes) -> bool:
        prefixes, starts = self._prefixes, self._starts
        prefix = _first_word(key[:_PREFIX_BYTES])
        bucket = prefix >> _BUCKET_SHIFT
        at = bisect_left(prefixes, prefix, starts[bucket], starts[bucket + 1])
        while at < len(prefixes) and prefixes[at] == prefix:
            if self._rows[at * KEY_BYTES : (at + 1) * KEY_BYTES] == key:
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
        self._has_changed()

    def discard(self, key: bytes) -> None:
        """Take a key out; one that is not there is no error."""
        self._added.discard(key)
        if self._is_in_rows(key):
            self._removed.add(key)
        self._has_changed()

    def _has_changed(self) -> None:
        self._answers.clear()
        self.size = len(self._prefixes) + len(self._added) - len(self._removed)

    def __len__(self) -> int:
        return self.size

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

    def rows(self) -> bytes:
        """All keys in one piece, ascending."""
        if not self._added and not self._removed:
            return self._rows
        return b"".join(self)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, KeySet):
            return NotImplemented
        return len(self) == len(other) and all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]


def _starts(prefixes: "array[int]") -> list[int]:
    """Where each bucket begins, and where the last ends."""
    if not prefixes:
        return _NO_STARTS
    starts, at = [0], 0
    for bucket in range(1, _BUCKETS):
        at = bisect_left(prefixes, bucket << _BUCKET_SHIFT, at)
        starts.append(at)
    return [*starts, len(prefixes)]


def _refuse_disorder(rows: bytes, prefixes: "array[int]") -> None:
    suspects = compress(count(), map(ge, prefixes, islice(prefixes, 1, None)))
    for start in (at * KEY_BYTES for at in suspects):
        if rows[start : start + KEY_BYTES] >= rows[start + KEY_BYTES : start + 2 * KEY_BYTES]:
            raise ValueError("the keys are not in ascending order, or one is there twice")
