"""Cutting a stream of bytes into numbered lines, in bounded memory."""

from collections.abc import Callable, Iterator
from typing import Final

from orly.intake.jsonl import LineCutter

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
    cutter = LineCutter(max_line_bytes)
    while data := read(CHUNK_BYTES):
        yield len(data), cutter.add(data)
    if rest := cutter.end():
        yield 0, rest
