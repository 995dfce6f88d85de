"""Cutting a stream of bytes into numbered lines, in bounded memory."""

from collections.abc import Callable, Iterator
from typing import Final

__all__ = ["CHUNK_BYTES", "numbered_lines"]

CHUNK_BYTES: Final = 1024 * 1024
"""Bytes asked for at once."""


def numbered_lines(
    read: Callable[[int], bytes], *, max_line_bytes: int
) -> Iterator[tuple[int, list[tuple[int, bytes | None]]]]:
    """Read to the end, in pieces as they come.

    Args:
        read: Gives at most so many bytes; none at the end.
        max_line_bytes: How long a line may be, without its line feed.

    Yields:
        How many bytes were read, and the lines that they complete: number from 1, text without its line feed, or
        None instead of a text that is too long. A last line without line feed is a line too.
    """
    current = _Line(max_line_bytes)
    number = 0
    while data := read(CHUNK_BYTES):
        first, *ended = data.split(b"\n")
        current.add(first)
        texts: list[bytes | None] = []
        if ended:
            texts.append(current.take())
            current.add(ended.pop())
            texts += [text if len(text) <= max_line_bytes else None for text in ended]
        lines = list(enumerate(texts, number + 1))
        number += len(lines)
        yield len(data), lines
    if not current.is_empty:
        yield 0, [(number + 1, current.take())]


class _Line:
    """A line as it grows; the text of one that is too long is dropped at once."""

    __slots__ = ("_max_bytes", "_n_bytes", "_pieces")

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._pieces: list[bytes] = []
        self._n_bytes = 0

    @property
    def is_empty(self) -> bool:
        return self._n_bytes == 0

    def add(self, piece: bytes) -> None:
        self._n_bytes += len(piece)
        if self._n_bytes > self._max_bytes:
            self._pieces.clear()
        elif piece:
            self._pieces.append(piece)

    def take(self) -> bytes | None:
        """The text, or None if it was too long; then the next line begins."""
        text = b"".join(self._pieces) if self._n_bytes <= self._max_bytes else None
        self._pieces.clear()
        self._n_bytes = 0
        return text
