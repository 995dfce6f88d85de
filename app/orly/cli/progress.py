"""A progress bar on a terminal, silence elsewhere."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from stat import S_ISREG
from typing import BinaryIO, Protocol

from orly.process.streams import tell

__all__ = ["ByteProgress", "byte_progress", "size_of", "tell"]


class ByteProgress(Protocol):
    """Where a long command reports."""

    def advance(self, n_bytes: int) -> None:
        """So many more bytes are done."""

    def say(self, text: str) -> None:
        """A line for the operator, on standard error."""


class _Quiet:
    def advance(self, n_bytes: int) -> None:
        del n_bytes

    def say(self, text: str) -> None:
        tell(text)


@contextmanager
def byte_progress(title: str, *, total_bytes: int | None, shown: bool = True) -> Iterator[ByteProgress]:
    """Show on a terminal how many bytes are done.

    Args:
        title: What is being done.
        total_bytes: How many there are; None if nobody knows.
        shown: False where a bar would get in the way of other output.
    """
    if not shown or sys.stderr is None or not sys.stderr.isatty():
        yield _Quiet()
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn(title), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(title, total=total_bytes)

        class Bar:
            def advance(self, n_bytes: int) -> None:
                progress.advance(task, n_bytes)

            def say(self, text: str) -> None:
                progress.console.print(escape(text), highlight=False, soft_wrap=True)

        yield Bar()


def size_of(stream: BinaryIO) -> int | None:
    """The size of a regular file in bytes; None for anything else."""
    try:
        status = os.fstat(stream.fileno())
    except OSError:
        return None
    return status.st_size if S_ISREG(status.st_mode) else None
