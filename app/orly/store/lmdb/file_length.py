"""A database file that is shorter than its own header says: harmless, or cut off?

Pages that a commit allocated and freed again are never written, so a sound file may lack some at its end. After a
broken copy or a damaged disk the missing pages are in use, and touching one in the memory map ends the process
with SIGBUS. So the file is padded before anything in it is touched, and then read once from end to end.
"""

import errno
import fcntl
import os
from pathlib import Path
from typing import Any

import lmdb

from orly.store.base import StoreUnavailableError

__all__ = ["pad_short_file", "read_through"]


def pad_short_file(env: Any, directory: Path, *, lock_fd: int | None) -> bool:
    """Give a short file its full length; returns whether it was short.

    Args:
        env: Just opened; nothing but its header was read.
        directory: Where it lies.
        lock_fd: The writer's lock, if this process holds it.

    Raises:
        StoreUnavailableError: It is short and cannot be written to.
    """
    path = directory / "data.mdb"
    if not _missing_bytes(env, path):
        return False
    try:
        if lock_fd is not None:
            os.truncate(path, path.stat().st_size + _missing_bytes(env, path))
        else:
            return _pad_unless_written(env, directory, path)
    except OSError as error:
        raise StoreUnavailableError(
            f"{path} is shorter than its header says, and cannot be checked: {error.strerror}"
        ) from None
    return True


def read_through(env: Any, tables: dict[str, Any], directory: Path) -> None:
    """Read every row once, after the file had to be padded.

    Raises:
        StoreUnavailableError: Part of the data is missing.
    """
    try:
        with env.begin() as txn:
            whole = all(_is_whole(txn, table, holds_json=name == "events") for name, table in tables.items())
    except lmdb.Error:
        whole = False
    if not whole:
        raise StoreUnavailableError(f"{directory / 'data.mdb'} was cut off and part of it is lost: restore a backup")


def _missing_bytes(env: Any, path: Path) -> int:
    return max(0, (int(env.info()["last_pgno"]) + 1) * int(env.stat()["psize"]) - path.stat().st_size)


def _pad_unless_written(env: Any, directory: Path, path: Path) -> bool:
    """Pad for a reader. Beside a live writer nothing is done: that one has checked, and may be growing the file."""
    fd = os.open(directory / "orly.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.truncate(path, path.stat().st_size + _missing_bytes(env, path))
    except OSError as error:
        if error.errno != errno.EWOULDBLOCK:
            raise
        return False
    finally:
        os.close(fd)
    return True


def _is_whole(txn: Any, table: Any, *, holds_json: bool) -> bool:
    """Whether all rows are there; a page of padding reads as an error, as fewer rows, or as zeros in a value."""
    count = 0
    with txn.cursor(table) as cursor:
        for value in cursor.iternext(keys=False, values=True):
            count += 1
            if holds_json and not (value.startswith(b"{") and value.endswith(b"}") and b"\0" not in value):
                return False
    return count == int(txn.stat(table)["entries"])
