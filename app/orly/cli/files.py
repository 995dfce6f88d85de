"""The files that commands read and write; `-` is standard input or output."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

__all__ = ["FileError", "ReaderGoneError", "input_name", "opened_input", "opened_output", "read_from"]

_BUFFER_BYTES: Final = 1024 * 1024
_STDIN: Final = 0
_STDOUT: Final = 1


class FileError(Exception):
    """A file cannot be read or written; the text names it and says why."""


class ReaderGoneError(FileError):
    """Whoever read our standard output has enough."""


def input_name(file: Path) -> str:
    """What to call the file that is read."""
    return "standard input" if str(file) == "-" else str(file)


@contextmanager
def opened_input(file: Path) -> Iterator[BinaryIO]:
    """The stream to read from, unbuffered: a read returns what is there. For reads see `read_from`.

    Raises:
        FileError: It cannot be opened.
    """
    if str(file) == "-":
        if sys.stdin is None:
            raise FileError(f"{input_name(file)} is closed")
        with open(_STDIN, "rb", buffering=0, closefd=False) as stream:
            yield stream
        return
    try:
        opened = file.open("rb", buffering=0)
    except OSError as error:
        raise FileError(f"{file} cannot be read: {error.strerror or error}") from error
    with opened:
        yield opened


def read_from(stream: BinaryIO, file: Path, max_bytes: int) -> bytes:
    """The next bytes of an opened input; none at its end.

    Raises:
        FileError: They cannot be read.
    """
    try:
        return stream.read(max_bytes)
    except OSError as error:
        raise FileError(f"{input_name(file)} cannot be read: {error.strerror or error}") from error


@contextmanager
def opened_output(file: Path) -> Iterator[BinaryIO]:
    """The stream to write to.

    What is written to a regular file goes to another beside it first, which takes its place when all is on disk
    and is removed on any failure. Devices and named pipes are written to directly.

    Raises:
        ReaderGoneError: Nobody reads the pipe any more.
        FileError: It cannot be opened, or a write in the body failed.
    """
    name = "standard output" if str(file) == "-" else str(file)
    if str(file) == "-" and sys.stdout is None:
        raise FileError(f"{name} is closed")
    try:
        if str(file) == "-":
            with open(_STDOUT, "wb", buffering=_BUFFER_BYTES, closefd=False) as stream, _dropping_the_rest(stream):
                yield stream
        elif file.exists() and not file.is_file():
            with file.open("wb", buffering=_BUFFER_BYTES) as stream, _dropping_the_rest(stream):
                yield stream
        else:
            with _replacing(Path(os.path.realpath(file))) as stream:
                yield stream
    except BrokenPipeError as error:
        raise ReaderGoneError(f"{name} was closed by its reader") from error
    except OSError as error:
        raise FileError(f"{name} cannot be written: {error.strerror or error}") from error


@contextmanager
def _dropping_the_rest(stream: BinaryIO) -> Iterator[None]:
    """After a failure, let what is still in the stream's buffer go nowhere: closing would wait for the reader again."""
    try:
        yield
    except BaseException:
        null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        os.dup2(null, stream.fileno())
        os.close(null)
        raise


@contextmanager
def _replacing(file: Path) -> Iterator[BinaryIO]:
    """A new file that takes the place of another when it is complete and on disk."""
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb", buffering=_BUFFER_BYTES) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(file)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
    _sync_directory(file.parent)


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
