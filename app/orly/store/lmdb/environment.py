"""Opening the data directory: its lock, its format, and a clear refusal for everything that is not ours."""

import errno
import fcntl
import logging
import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import lmdb
import msgspec

from orly.nostr.event import EventError
from orly.store.base import StoreError, StoreFullError, StoreLockedError, StoreMissingError, StoreUnavailableError
from orly.store.lmdb.file_length import pad_short_file, read_through

__all__ = ["FORMAT", "Environment", "open_environment", "translate_error"]

FORMAT: Final = b"orly-lmdb-1"
"""What `meta` holds under `format`; raised when a key layout changes."""

MAX_READERS: Final = 256
"""Read transactions open at once, in all processes together."""

_LOCK_FILE_BYTES: Final = 32 * 1024
"""More than `lock.mdb` takes with that many readers."""

_TABLES: Final = (
    "meta",
    "events",
    "ids",
    "times",
    "authors",
    "author_kinds",
    "kinds",
    "tags",
    "addresses",
    "versions",
    "version_ids",
    "deleted_ids",
    "deleted_addresses",
    "vanished",
    "expirations",
)
_ADDED_TABLES: Final = {
    "removals": "until the next start, reading beside this process is slow",
    "markers": "until the next start, no markers can be kept",
    "hidden": "until the next start, nothing can be hidden",
    "hidden_keys": "until the next start, nothing can be hidden",
}
"""Made by a later version when it first writes to a database, and what it means if that fails; one that only reads does
without."""

_MAGIC: Final = 0xBEEFC0DE.to_bytes(4, sys.byteorder)
_FILE_FORMAT: Final = 1
_BADGER_FILES: Final = ("KEYREGISTRY", "MANIFEST", "DISCARD")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """An open LMDB environment and its tables.

    Attributes:
        env: The environment.
        directory: Where it lies.
        lock_fd: The descriptor that holds the writer's lock; None when opened for reading only.
        meta: `format`, `last_serial`, and how far the index rows are written (see `transaction`).
        events: serial -> canonical JSON.
        ids: id -> serial.
        times: created_at, inverted id -> kind, serial.
        authors, author_kinds, kinds, tags: prefix + position -> nothing.
        addresses: address key -> created_at, id, serial of the current version.
        versions: address key + position -> nothing, for superseded versions that are kept.
        version_ids: id -> address key + position of such a version.
        deleted_ids: id + deleter's key -> id of the deletion.
        deleted_addresses: address key -> created_at of the newest deletion, its id.
        vanished: key -> created_at of the newest request to vanish.
        expirations: second, serial -> nothing.
        removals: number -> serials that were taken out (see `removals`); None in a database of an earlier version
            to which nothing was written since.
        markers: name -> value; None as for `removals`, and so the next two.
        hidden: number -> serials that are hidden, or shown again (see `hiding`).
        hidden_keys: author, or id, whose events are hidden -> how far that has got.
    """

    env: Any
    directory: Path
    lock_fd: int | None
    meta: Any
    events: Any
    ids: Any
    times: Any
    authors: Any
    author_kinds: Any
    kinds: Any
    tags: Any
    addresses: Any
    versions: Any
    version_ids: Any
    deleted_ids: Any
    deleted_addresses: Any
    vanished: Any
    expirations: Any
    removals: Any
    markers: Any
    hidden: Any
    hidden_keys: Any

    def close(self) -> None:
        """Close the environment, then give the lock back."""
        self.env.close()
        if self.lock_fd is not None:
            os.close(self.lock_fd)


def translate_error(error: Exception, directory: Path) -> StoreError:
    """An error of LMDB, or of decoding what it holds, as one an operator can act on."""
    match error:
        case lmdb.MapFullError():
            return StoreFullError(f"the database in {directory} is full: raise ORLY_DB_MAX_SIZE")
        case lmdb.MapResizedError():
            return StoreError(f"the database in {directory} outgrew this process: raise its ORLY_DB_MAX_SIZE")
        case lmdb.ReadersFullError():
            return StoreError(f"the database in {directory} is being read {MAX_READERS} times at once: try again")
        case lmdb.PanicError():
            return StoreError(f"the database in {directory} stopped after a failed write: restart the relay")
        case lmdb.CorruptedError() | lmdb.PageNotFoundError() | msgspec.MsgspecError() | EventError():
            return StoreError(f"the database in {directory} is damaged ({error}): run orly check, restore a backup")
    text = str(error)
    if os.strerror(errno.ENOSPC) in text or os.strerror(errno.EDQUOT) in text:
        return StoreFullError(f"no space left on the disk of {directory}")
    if os.strerror(errno.EFBIG) in text:
        return StoreFullError(f"the database in {directory} has reached the largest size this system allows a file")
    if os.strerror(errno.EIO) in text:  # LMDB's answer to a short write as well
        return StoreError(
            f"a write to {directory} failed: its disk is full or faulty, or a size limit is reached ({text})"
        )
    return StoreError(f"the database in {directory} failed: {text}")


def open_environment(directory: Path, *, max_bytes: int, read_only: bool = False) -> Environment:
    """Open or make the database of a data directory.

    Args:
        directory: Made with its parents unless `read_only`.
        max_bytes: How large the file may grow; address space only, nothing is allocated.
        read_only: For tools that read beside a running relay.

    Raises:
        StoreMissingError: There is nothing to be read yet.
        StoreUnavailableError: The directory is locked, foreign, unreadable, or of another format.
    """
    try:
        _refuse_foreign_files(directory)
        is_there = (directory / "data.mdb").is_file()
    except PermissionError as error:
        raise StoreUnavailableError(f"the data directory {directory} cannot be read: {error.strerror}") from None
    if read_only:
        if not is_there:
            raise StoreMissingError(f"there is no database in {directory}")
        return _open(directory, max_bytes, read_only=True, lock_fd=None)
    lock_fd = _lock(directory)
    try:
        return _open(directory, max_bytes, read_only=False, lock_fd=lock_fd)
    except BaseException:
        os.close(lock_fd)
        raise


def _refuse_foreign_files(directory: Path) -> None:
    if any((directory / name).exists() for name in _BADGER_FILES):
        raise StoreUnavailableError(
            f"{directory} holds a Badger database, as the Go ORLY writes it: export it there as JSONL, "
            "then run `orly import` with another ORLY_DATA_DIR"
        )
    file_format = _file_format(directory / "data.mdb")
    if file_format not in (None, _FILE_FORMAT):
        raise StoreUnavailableError(
            f"{directory} has LMDB's file format {file_format}, this version reads format {_FILE_FORMAT} (LMDB 0.9)"
        )


def _file_format(path: Path) -> int | None:
    """The format number behind LMDB's magic number; None if there is no such file or it is something else."""
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError:
        return None
    found = head.find(_MAGIC)
    return None if found < 0 else int.from_bytes(head[found + 4 : found + 8], sys.byteorder)


def _lock(directory: Path) -> int:
    """Take the writer's lock; it is the kernel's, so a crash releases it."""
    path = directory / "orly.lock"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise StoreUnavailableError(f"the data directory {directory} cannot be written: {error.strerror}") from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.read(fd, 32).decode("ascii", "replace").strip() or "unknown"
        os.close(fd)
        raise StoreLockedError(
            f"the data directory {directory} is in use by another process (pid {owner}); only one may write to it"
        ) from None
    except OSError as error:
        os.close(fd)
        raise StoreUnavailableError(f"the data directory {directory} cannot be locked: {error.strerror}") from None
    with suppress(OSError):  # only a note for people; a full disk must not keep the relay from reading
        os.ftruncate(fd, 0)
        os.write(fd, b"%d\n" % os.getpid())
    return fd


def _allocate_lock_file(directory: Path) -> None:
    """Give `lock.mdb` its disk blocks now: LMDB maps it, and a full disk would end the process at the first touch."""
    fd = os.open(directory / "lock.mdb", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.posix_fallocate(fd, 0, _LOCK_FILE_BYTES)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreUnavailableError(f"no space left on the disk of {directory}") from None
        log.debug("the blocks of %s/lock.mdb cannot be reserved: %s", directory, error.strerror)
    finally:
        os.close(fd)


def _open(directory: Path, max_bytes: int, *, read_only: bool, lock_fd: int | None) -> Environment:
    try:
        if not read_only:
            _allocate_lock_file(directory)
        env = lmdb.open(
            str(directory),
            map_size=max_bytes,
            max_dbs=len(_TABLES) + len(_ADDED_TABLES),
            max_readers=MAX_READERS,
            readonly=read_only,
            create=not read_only,
            readahead=False,
            lib_version=0,
        )
    except (lmdb.Error, OSError) as error:
        raise StoreUnavailableError(f"{directory} cannot be opened as an ORLY database: {error}") from None
    try:
        was_short = pad_short_file(env, directory, lock_fd=lock_fd)
        if _is_empty(env):
            if read_only:
                raise StoreMissingError(f"the database in {directory} is empty")
            _make_tables(env)
        _check_format(env, directory)
        tables = {name: env.open_db(name.encode(), create=False) for name in _TABLES}
        tables |= {name: _added_table(env, name, directory, read_only=read_only) for name in _ADDED_TABLES}
        if was_short:
            read_through(env, {name: table for name, table in tables.items() if table is not None}, directory)
        env.reader_check()
    except lmdb.Error as error:
        env.close()
        raise StoreUnavailableError(f"{directory} cannot be used: {translate_error(error, directory)}") from None
    except BaseException:
        env.close()
        raise
    return Environment(env=env, directory=directory, lock_fd=lock_fd, **tables)


def _is_empty(env: Any) -> bool:
    """Whether nothing was ever written: a first start may have ended between making the file and using it."""
    with env.begin() as txn:
        return int(txn.stat()["entries"]) == 0


def _added_table(env: Any, name: str, directory: Path, *, read_only: bool) -> Any:
    """A table that an earlier version did not have; None if it is not there and cannot be made."""
    with suppress(lmdb.NotFoundError):
        return env.open_db(name.encode(), create=False)
    if read_only:
        return None
    try:
        return env.open_db(name.encode())
    except lmdb.Error as error:  # no room: what is there can still be served
        log.warning("%s; %s", translate_error(error, directory), _ADDED_TABLES[name])
        return None


def _make_tables(env: Any) -> None:
    """All in one transaction, so that a first start that is cut short leaves nothing half made."""
    with env.begin(write=True) as txn:
        for name in (*_TABLES, *_ADDED_TABLES):
            table = env.open_db(name.encode(), txn=txn)
            if name == "meta":
                txn.put(b"format", FORMAT, db=table)


def _check_format(env: Any, directory: Path) -> None:
    try:
        meta = env.open_db(b"meta", create=False)
    except (lmdb.NotFoundError, lmdb.IncompatibleError):
        found = None
    else:
        with env.begin() as txn:
            found = txn.get(b"format", db=meta)
    if found is None or not found.startswith(b"orly-lmdb-"):
        raise StoreUnavailableError(f"{directory} holds an LMDB database of another program")
    if found != FORMAT:
        raise StoreUnavailableError(
            f"{directory} has the format {found.decode('ascii', 'replace')}, this version reads {FORMAT.decode()}: "
            "export it with the version that wrote it, then import it here"
        )
