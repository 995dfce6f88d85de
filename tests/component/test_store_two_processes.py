"""A follower beside a writer in another process, which writes at full speed and is killed again and again."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest
from tests.component.crash_writer import KEEP_VERSIONS, MAX_BYTES, event_number
from tests.component.lmdb_backend import assert_sound
from tests.component.store_model import Model
from tests.component.store_world import DEADLINE_S, FakeClock, Sink
from tests.factory import KEYS, NOW_S

from orly.nostr.event import EncodedEvent
from orly.nostr.filter import Filter, matches
from orly.store.base import Query, StoreMissingError
from orly.store.lmdb.follower import LmdbFollower
from orly.store.lmdb.meta import last_serial
from orly.store.lmdb.running_query import SLICE_S
from orly.store.lmdb.store import LmdbStore

ROOT: Final = Path(__file__).parents[2]
LIVES: Final = 12
SERIALS_PER_LIFE: Final = 200
ANSWERS_PER_LIFE: Final = 12
FILTERS: Final = (
    Filter(),
    Filter(authors=frozenset(KEYS[:2])),
    Filter(kinds=frozenset({0, 30_023})),
    Filter(authors=frozenset(KEYS), kinds=frozenset({0, 1, 5, 62, 30_023})),
    Filter(tags={"t": frozenset({"1", "2"})}),
    Filter(tags={"d": frozenset({"0"}), "a": frozenset({f"30023:{KEYS[0]}:0"})}),
)


@contextmanager
def writer(directory: Path, first: int) -> Iterator[subprocess.Popen[bytes]]:
    """The child of the crash test; it is killed at the end."""
    command = [sys.executable, "-m", "tests.component.crash_writer", str(directory), str(first)]
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        yield child
        assert child.poll() is None, f"the writer ended by itself with {child.returncode}"
    finally:
        child.kill()
        child.wait()


class Oracle:
    """What the child's events leave behind, serial by serial."""

    def __init__(self) -> None:
        self.model = Model(keep_versions=KEEP_VERSIONS)
        self.next = 0

    def follow(self, through_serial: int) -> list[EncodedEvent]:
        """All that is visible when a serial was given, newest first; serials must not go down."""
        while self.model.serial < through_serial:
            self.model.save(event_number(self.next), NOW_S)
            self.next += 1
        assert self.model.serial == through_serial
        return sorted(self.model.visible.values(), key=lambda event: (-event.event.created_at, event.event.id))

    def follow_to_the_end(self, through_serial: int) -> int:
        """The number of the event that the writer is to go on with."""
        self.follow(through_serial)
        return self.next

    def expected(self, wanted: Filter, through_serial: int) -> list[bytes]:
        return [event.raw for event in self.follow(through_serial) if matches(wanted, event.event)]


async def opened(directory: Path, clock: FakeClock, max_bytes: int = MAX_BYTES) -> LmdbFollower:
    """As soon as the writer has made the database."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                return await LmdbFollower.open(
                    directory, max_bytes=max_bytes, now_s=clock.now_s, monotonic_s=clock.monotonic_s
                )
            except StoreMissingError:
                await asyncio.sleep(0.01)


def serial(follower: LmdbFollower) -> int:
    """The newest that is in the file; what the follower keeps in memory stays as it is."""
    with follower._read() as txn:
        return last_serial(txn, follower._tables)


async def until(condition: Callable[[], bool], what: str) -> None:
    end_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end_s, f"waited {DEADLINE_S:g} s for {what}"
        await asyncio.sleep(0.001)


async def answers(follower: LmdbFollower) -> list[Sink]:
    """To each of `FILTERS`, one after the other."""
    sinks = [Sink() for _ in FILTERS]
    for wanted, sink in zip(FILTERS, sinks, strict=True):
        follower.query(Query(filters=(wanted,)), sink)
        await sink.over()
    return sinks


def assert_exact(sinks: Sequence[Sink], oracle: Oracle) -> None:
    """Each is what was visible at its serial."""
    for wanted, sink in zip(FILTERS, sinks, strict=True):
        assert sink.through_serial is not None
        assert sink.events == oracle.expected(wanted, sink.through_serial), wanted


def assert_exact_but_for_removals(sinks: Sequence[Sink], oracle: Oracle, last: int) -> None:
    """An answer that is sent in slices leaves out what is removed meanwhile, and nothing else."""
    expected = []
    for wanted, sink in zip(FILTERS, sinks, strict=True):
        assert sink.through_serial is not None
        expected.append(oracle.expected(wanted, sink.through_serial))
    left = {event.raw for event in oracle.follow(last)}
    for sink, events in zip(sinks, expected, strict=True):
        sent = set(sink.events)
        assert sink.events == [raw for raw in events if raw in sent or raw in left]


def test_every_answer_is_exact_at_its_serial_whatever_becomes_of_the_writer(tmp_path: Path) -> None:
    """In every other life of the writer the follower may not work long at a stretch, and is not kept up to date."""

    async def live(follower: LmdbFollower, oracle: Oracle, *, in_slices: bool) -> None:
        start = oracle.model.serial
        for n in range(ANSWERS_PER_LIFE):
            goal = start + SERIALS_PER_LIFE * (n + 1) // ANSWERS_PER_LIFE
            await until(lambda goal=goal: serial(follower) >= goal, "the writer")  # type: ignore[misc]
            sinks = await answers(follower)
            if in_slices:
                assert_exact_but_for_removals(sinks, oracle, serial(follower))
            else:
                assert_exact(sinks, oracle)
                follower.refresh()

    async def main() -> None:
        oracle, clock = Oracle(), FakeClock()
        with writer(tmp_path, 0):
            follower = await opened(tmp_path, clock)
            await live(follower, oracle, in_slices=False)
        for life in range(1, LIVES):
            clock.tick_s = SLICE_S if life % 2 else 0.0
            with writer(tmp_path, oracle.follow_to_the_end(serial(follower))):
                await live(follower, oracle, in_slices=bool(life % 2))
        clock.tick_s = 0.0
        assert_exact(await answers(follower), oracle)
        visible = oracle.follow(serial(follower))
        assert len(visible) > 50
        assert follower.known([event.id for event in visible]) == [True] * len(visible)
        assert await follower.count(Query(filters=(Filter(),))) == len(visible)
        await follower.close()

    asyncio.run(main())
    assert_sound(tmp_path)


def test_a_follower_goes_on_when_the_file_outgrows_its_limit(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        store = await LmdbStore.open(tmp_path, max_bytes=MAX_BYTES)
        await store.close()
        follower = await opened(tmp_path, FakeClock(), max_bytes=256 * 1024)
        size = follower._tables.env.info()["map_size"]
        assert size < 1 << 20
        with writer(tmp_path, 0):
            await until(lambda: (tmp_path / "data.mdb").stat().st_size > 4 * size, "the file to grow")
        assert_exact(await answers(follower), Oracle())
        assert follower._tables.env.info()["map_size"] == MAX_BYTES
        assert caplog.text.count("larger than ORLY_DB_MAX_SIZE") == 1
        await follower.close()

    asyncio.run(main())
