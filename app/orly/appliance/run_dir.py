"""The directory that an appliance keeps while it runs: the rendered file, the plan, the state of the processes."""

import fcntl
import hashlib
import os
import tempfile
from pathlib import Path

from orly.appliance.state_file import LOCK_FILE

__all__ = ["RunDirError", "RunDirInUse", "default_run_dir", "is_locked", "lock", "prepare"]


class RunDirError(Exception):
    """The run directory cannot be used; the message names it and says why."""


class RunDirInUse(RunDirError):
    """Another launcher runs with it."""


def default_run_dir(data_dir: Path) -> Path:
    """Where it is unless it was named: one for each data directory, since that can be served only once.

    It can be found again by whoever knows the data directory and is the same user.
    """
    mark = hashlib.sha256(os.fsencode(os.path.abspath(data_dir))).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"orly-{os.getuid()}-{mark}"


def prepare(path: Path, *, is_named: bool) -> None:
    """Makes the directory unless it is there.

    Args:
        path: The directory.
        is_named: It was chosen by the operator; otherwise it lies where anybody may have put one of that name, and
            it must be ours alone.

    Raises:
        RunDirError: It cannot be used.
    """
    try:
        if is_named:
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.mkdir(mode=0o700, exist_ok=True)
        info = path.lstat()
    except OSError as error:
        raise RunDirError(f"the run directory {path} cannot be made: {error.strerror or error}") from error
    if not is_named and (info.st_uid != os.getuid() or info.st_mode & 0o077 or path.is_symlink()):
        raise RunDirError(f"the run directory {path} belongs to somebody else: name another in ORLY_RUN_DIR")
    if not os.access(path, os.W_OK | os.X_OK):
        raise RunDirError(f"the run directory {path} cannot be written to by user {os.getuid()}")


def lock(path: Path) -> int:
    """Takes the run directory for this process, and for what it becomes; returns the descriptor that holds it.

    Raises:
        RunDirInUse: Another process has it.
        RunDirError: The file of the lock cannot be opened.
    """
    try:
        fd = os.open(path / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise RunDirError(f"{path / LOCK_FILE} cannot be opened: {error.strerror or error}") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise RunDirInUse(f"another orly-launcher runs with the run directory {path}") from None
    return fd


def is_locked(path: Path) -> bool:
    """Whether a launcher runs with this run directory."""
    try:
        fd = os.open(path / LOCK_FILE, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
