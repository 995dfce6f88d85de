"""Means to make an LMDB store fail: small disks, full databases, writes that break."""

import asyncio
import os
import subprocess
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import lmdb
import pytest
from tests.component.lmdb_backend import MAX_BYTES
from tests.component.store_world import DEADLINE_S
from tests.factory import NOW_S, fake_event

from orly.nostr.event import EncodedEvent
from orly.nostr.filter import Filter
from orly.store.base import Query, SaveResult, SaveStatus
from orly.store.lmdb.environment import Environment, open_environment
from orly.store.lmdb.store import LmdbStore

__all__ = [
    "ALL",
    "BrokenEnvironment",
    "assert_holds",
    "fill",
    "fill_up",
    "large",
    "open_reads",
    "play",
    "small_disk",
]

ALL: Final = Query(filters=(Filter(),))


def play(
    directory: Path,
    body: Callable[[LmdbStore], Awaitable[None]],
    *,
    max_bytes: int = MAX_BYTES,
    wrap: Callable[[Environment], Environment] = lambda environment: environment,
    **options: Any,
) -> None:
    """Run a test on a store; nothing in it may take for ever."""

    async def main() -> None:
        store = LmdbStore(wrap(open_environment(directory, max_bytes=max_bytes)), **options)
        try:
            await asyncio.wait_for(body(store), DEADLINE_S)
        finally:
            await asyncio.wait_for(store.close(), DEADLINE_S)

    asyncio.run(main())


def large(n: int, count: int = 20) -> list[EncodedEvent]:
    return [fake_event(created_at=NOW_S + n * count + i, content="x" * 4_000) for i in range(count)]


async def fill(store: LmdbStore) -> tuple[list[EncodedEvent], list[SaveResult]]:
    """Save until it fails; what was stored, and the failure."""
    stored: list[EncodedEvent] = []
    for n in range(1_000):
        events = large(n)
        results = await store.save(events)
        if results[0].status is SaveStatus.FAILED:
            return stored, results
        stored += events
    raise AssertionError("the store never became full")


async def assert_holds(store: LmdbStore, events: Sequence[EncodedEvent]) -> None:
    assert await store.fetch(ALL) == [event.raw for event in reversed(events)]
    assert await store.count(ALL) == len(events)
    assert await store.last_serial() == len(events)


def open_reads(store: LmdbStore) -> int:
    """How many read transactions are open."""
    lines = store._tables.env.readers().splitlines()
    return sum(line.split()[-1].isdigit() for line in lines if line.split()[:1] and line.split()[0].isdigit())


@contextmanager
def small_disk(path: Path, size: str, read_only_with: Callable[[Path], None] | None = None) -> Iterator[Path]:
    """A tmpfs of its own, where this system lets us mount one.

    It has no place in the tree, only a descriptor, so that it goes with this process even if that crashes.

    Args:
        path: Where it is mounted for a moment.
        size: As `mount` reads it.
        read_only_with: Puts something on it; then it becomes read-only.
    """
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"mounting is not permitted: {mounted.stderr.decode().strip()}")
    try:
        if read_only_with is not None:
            read_only_with(path)
            subprocess.run(["mount", "-o", "remount,ro", path], check=True)
        fd = os.open(path, os.O_PATH | os.O_DIRECTORY)
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)
    try:
        yield Path(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


def fill_up(path: Path) -> None:
    """Write a file until its disk has no room for another byte."""
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass


class BrokenTransaction:
    """A write transaction whose commit fails, as on a bad disk."""

    def __init__(self, txn: Any, failed: Callable[[], object]) -> None:
        self._txn = txn
        self._failed = failed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._txn, name)

    def commit(self) -> None:
        self._txn.abort()
        self._failed()
        raise lmdb.DiskError("mdb_txn_commit: Input/output error")


class BrokenEnvironment:
    """An LMDB environment of which the next write fails at a chosen point."""

    def __init__(self, env: Any) -> None:
        self._env = env
        self.fails_at = ""
        self.failed: Callable[[], object] = bool

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)

    def begin(self, write: bool = False) -> Any:
        if not write:
            return self._env.begin()
        fails_at, self.fails_at = self.fails_at, ""
        match fails_at:
            case "begin":
                raise lmdb.PanicError("mdb_txn_begin: MDB_PANIC")
            case "commit":
                return BrokenTransaction(self._env.begin(write=True), self.failed)
            case _:
                return self._env.begin(write=True)
