"""Killed at any moment, the store holds all that was acknowledged, and exactly what a prefix of the work leaves."""

import asyncio
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Final

from tests.component.crash_writer import KEEP_VERSIONS, MAX_BYTES, event_number
from tests.component.store_model import Model
from tests.factory import KEYS, NOW_S

from orly.nostr.event import decode_event
from orly.nostr.filter import Filter, matches
from orly.store.base import ITEM_BYTES, Query, SaveStatus
from orly.store.lmdb.check import check
from orly.store.lmdb.environment import open_environment
from orly.store.lmdb.meta import last_serial
from orly.store.lmdb.store import LmdbStore

ROOT: Final = Path(__file__).parents[2]
KILLS: Final = 50
KILLS_WHILE_STARTING: Final = 6
DEADLINE_S: Final = 30.0


@contextmanager
def writer(directory: Path, first: int) -> Iterator[subprocess.Popen[bytes]]:
    """The child, killed at the end whatever happens."""
    command = [sys.executable, "-m", "tests.component.crash_writer", str(directory), str(first)]
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
    try:
        yield child
    finally:
        child.kill()
        child.wait()
        assert child.stdout is not None
        child.stdout.close()


def killed(directory: Path, first: int, *, start_s: float, load_s: float) -> dict[int, int]:
    """Let the child write, kill it, and return what it acknowledged: number -> serial.

    Args:
        directory: The data directory.
        first: The number of the first event.
        start_s: The kill comes at the latest so long after the start; `DEADLINE_S` means once it has worked.
        load_s: It comes so long after the first acknowledgement.
    """
    with writer(directory, first) as child:
        assert child.stdout is not None
        pipe = child.stdout.fileno()
        output = b""
        kill_at_s = time.monotonic() + start_s
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            while (left_s := kill_at_s - time.monotonic()) > 0 and selector.select(left_s):
                chunk = os.read(pipe, 1 << 16)
                if not chunk:
                    break
                if not output:
                    kill_at_s = min(kill_at_s, time.monotonic() + load_s)
                output += chunk
        assert child.poll() is None, f"the writer ended by itself with {child.returncode}"
        assert output or start_s < DEADLINE_S, f"waited {DEADLINE_S:g} s for the first acknowledgement"
        child.kill()
        assert child.wait(DEADLINE_S) == -signal.SIGKILL
        output += child.stdout.read()
    lines = [line.split() for line in output[: output.rfind(b"\n") + 1].splitlines()]
    return {int(number): int(serial) for number, serial in lines}


def stored_events(directory: Path) -> tuple[dict[int, bytes], int]:
    """Serial -> id of all that is visible, and the last serial, after the database was found sound."""
    environment = open_environment(directory, max_bytes=MAX_BYTES)
    try:
        report = check(environment)
        assert report.problems == ()
        with environment.env.begin() as txn:
            kept = {bytes(key[-8:]) for _, key in txn.cursor(environment.version_ids)}
            rows = ((serial, decode_event(raw).id) for serial, raw in txn.cursor(environment.events))
            found = {int.from_bytes(serial, "big"): event_id for serial, event_id in rows if serial not in kept}
            return found, last_serial(txn, environment)
    finally:
        environment.close()


async def assert_answers(directory: Path, model: Model) -> None:
    """Every index tells the same as the model."""
    store = await LmdbStore.open(directory, max_bytes=MAX_BYTES, read_only=True, now_s=lambda: NOW_S)
    ordered = sorted(model.visible.values(), key=lambda event: (-event.event.created_at, event.event.id))
    filters = [
        Filter(),
        Filter(authors=frozenset(KEYS)),
        Filter(kinds=frozenset({0, 1, 5, 62, 30_023})),
        Filter(authors=frozenset(KEYS), kinds=frozenset({0, 1, 5, 62, 30_023})),
        Filter(tags={"t": frozenset({"1", "2"})}),
        Filter(ids=frozenset(event.event.id for event in ordered[::7])),
    ]
    try:
        for wanted in filters:
            query = Query(filters=(wanted,))
            expected = [event.raw for event in ordered if matches(wanted, event.event)]
            assert await store.fetch(query) == expected, wanted
            assert await store.count(query) == len(expected), wanted
            assert len((await store.items(query)).rows) == ITEM_BYTES * len(expected), wanted
    finally:
        await store.close()


def follow(model: Model, first: int, through_serial: int, acknowledged: dict[int, int]) -> int:
    """Do to the model what the child did up to a serial; returns the number of the event after it."""
    n = first
    while model.serial < through_serial:
        serial = model.serial if model.save(event_number(n), NOW_S) is SaveStatus.STORED else 0
        assert acknowledged.get(n, serial) == serial, f"event {n} was acknowledged with another serial"
        n += 1
    return n


def test_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    random = Random(3)
    directory, model, first = tmp_path / "data", Model(keep_versions=KEEP_VERSIONS), 0
    acknowledged_in_all = 0
    for n in range(KILLS + KILLS_WHILE_STARTING):
        start_s = random.uniform(0.1, 0.5) if n % 8 == 0 and n // 8 < KILLS_WHILE_STARTING else DEADLINE_S
        acknowledged = killed(directory, first, start_s=start_s, load_s=random.uniform(0, 0.05))
        if not (directory / "orly.lock").exists():
            continue  # killed before it had looked at the directory
        found, newest = stored_events(directory)
        assert newest >= max(acknowledged.values(), default=0), "an acknowledged serial is gone"
        first = follow(model, first, newest, acknowledged)
        assert found == {serial: event.id for serial, event in model.visible.items()}
        asyncio.run(assert_answers(directory, model))
        acknowledged_in_all += len(acknowledged)
    assert acknowledged_in_all > 10 * KILLS
