"""Whatever the writer does, and however it is restarted, a follower that stays answers as an obvious filter would."""

import asyncio
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Final
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.component.follower_backend import for_reading, unclosed
from tests.component.lmdb_backend import MAX_BYTES, assert_sound
from tests.component.store_model import Model, expires, make_pool
from tests.component.store_world import DEADLINE_S, FakeClock, Sink, packed
from tests.factory import KEYS

from orly.nostr.event import EncodedEvent
from orly.nostr.filter import Filter, matches
from orly.store.base import ItemRows, Query, StoredEvent
from orly.store.lmdb import followed_tail, removals
from orly.store.lmdb.environment import open_environment
from orly.store.lmdb.follower import LmdbFollower
from orly.store.lmdb.store import LmdbStore

KINDS: Final = frozenset({0, 1, 3, 5, 62, 1059, 10_002, 30_023, 30_024})
FILTERS: Final = (
    Filter(),
    Filter(authors=frozenset(KEYS[:2])),
    Filter(kinds=KINDS - {1}),
    Filter(authors=frozenset(KEYS), kinds=KINDS),
    Filter(tags={"p": frozenset(KEYS), "d": frozenset({"x"})}),
    Filter(tags={"d": frozenset({"", "x"})}),
)
ACTIONS: Final = (
    "save",
    "save",
    "save",
    "delete",
    "sweep",
    "clock",
    "restart",
    "crash",
    "tell",
    "refresh",
    "hurry",
    "ask",
)

Answer = list[tuple[int, ...]]
"""For each of `FILTERS`, the serials of an answer."""


class Play:
    """A writer on an environment that outlives it, a follower, and the model.

    Attributes:
        states: What the model would answer, after each step.
    """

    def __init__(self, directory: Path, random: Random, *, keep_versions: bool, generation_events: int) -> None:
        self.random = random
        self.clock = FakeClock()
        self.model = Model(keep_versions=keep_versions)
        self.generation_events = generation_events
        self.tables = open_environment(directory, max_bytes=MAX_BYTES)
        self.writer = self.new_writer()
        self.follower = LmdbFollower(
            for_reading(self.tables), now_s=self.clock.now_s, monotonic_s=self.clock.monotonic_s
        )
        self.states: list[Answer] = []
        self.asked: list[tuple[int, int, asyncio.Future[list[int]]]] = []
        self.checked = 0

    def new_writer(self) -> LmdbStore:
        assert self.tables.lock_fd is not None
        return LmdbStore(
            replace(unclosed(self.tables), lock_fd=os.dup(self.tables.lock_fd)),
            keep_versions=self.model.keep_versions,
            now_s=self.clock.now_s,
            generation_events=self.generation_events,
        )

    async def act(self, action: str, events: Sequence[EncodedEvent]) -> None:
        now = self.clock.now
        match action:
            case "save":
                results = await self.writer.save(events)
                assert [result.status for result in results] == [self.model.save(event, now) for event in events]
            case "tell":
                results = await self.writer.save(events)
                assert [result.status for result in results] == [self.model.save(event, now) for event in events]
                both = zip(results, events, strict=True)
                self.follower.told(StoredEvent(result.serial, event) for result, event in both if result.serial)
            case "delete":
                self.model.pass_time(now)
                await self.writer.delete([event.id for event in events])
                for event in events:
                    self.model.remove(event)
            case "sweep":
                await self.writer.sweep()
            case "clock":
                self.clock.now += self.random.randrange(3)
            case "restart":
                await self.writer.close()
                self.writer = self.new_writer()
            case "crash":  # what was committed is all that is left
                assert self.writer._committer is not None
                await self.writer._committer.close()
                self.writer._tables.close()
                self.writer = self.new_writer()
            case "refresh":
                self.follower.refresh()
            case "hurry":
                self.clock.tick_s = self.random.choice([0.0, 1.0])
            case "ask":
                for n, wanted in enumerate(FILTERS):
                    call = asyncio.ensure_future(self.follower.serials(Query(filters=(wanted,))))
                    self.asked.append((len(self.states) - 1, n, call))
                await asyncio.sleep(0)
        self.states.append(self.answer())

    def answer(self) -> Answer:
        self.model.pass_time(self.clock.now)
        ordered = sorted(self.model.visible.items(), key=lambda item: (-item[1].event.created_at, item[1].event.id))
        return [tuple(serial for serial, event in ordered if matches(wanted, event.event)) for wanted in FILTERS]

    def check_asked(self) -> None:
        """Each answer that has come was right at one moment between its question and now."""
        left = []
        for since, n, call in self.asked:
            if call.done():
                self.checked += 1
                assert tuple(call.result()) in {state[n] for state in self.states[max(since, 0) :]}, FILTERS[n]
            else:
                left.append((since, n, call))
        self.asked = left

    async def check_now(self) -> None:
        """Asked now, the follower says what the model says now."""
        for wanted, serials in zip(FILTERS, self.answer(), strict=True):
            sink = Sink()
            self.follower.query(Query(filters=(wanted,)), sink)
            await sink.over()
            assert sink.events == [self.model.visible[serial].raw for serial in serials], wanted
            assert sink.through_serial == self.model.serial
            rows = packed(self.model.visible[serial] for serial in serials)
            assert await self.follower.items(Query(filters=(wanted,))) == ItemRows(rows, self.model.serial), wanted
        due = sorted((expires(event), event.event.created_at, event.id) for event in self.model.visible.values())
        rows = b"".join(at.to_bytes(8, "big") + since.to_bytes(8, "big") + id_ for at, since, id_ in due if at < 2**63)
        assert await self.follower.expirations(0) == rows
        visible = list(self.model.visible.values())
        assert self.follower.known([event.id for event in visible]) == [True] * len(visible)
        by_id = Filter(ids=frozenset(event.event.id for event in visible))
        assert await self.follower.count(Query(filters=(by_id,))) == len(visible)

    async def close(self) -> None:
        await self.follower.close()
        await self.writer.close()
        self.tables.close()


async def play(
    directory: Path, random: Random, *, keep_versions: bool, generation_events: int, steps: int, pool_size: int
) -> Play:
    run = Play(directory, random, keep_versions=keep_versions, generation_events=generation_events)
    pool = make_pool(random, pool_size)
    try:
        for n in range(steps):
            start = n * pool_size // steps
            events = random.choices(pool[max(0, start - 15) : start + 15], k=random.randrange(1, 12))
            await run.act(random.choice(ACTIONS), events)
            run.check_asked()
            if random.random() < 0.2:
                await run.check_now()
        await run.check_now()
        await asyncio.wait_for(asyncio.gather(*(call for _, _, call in run.asked)), DEADLINE_S)
        run.check_asked()
        assert not run.asked
    finally:
        await run.close()
    assert_sound(directory)
    return run


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    random=st.randoms(use_true_random=False),
    keep_versions=st.booleans(),
    steps=st.integers(1, 25),
    generation_events=st.integers(1, 8),
    max_rows=st.integers(1, 6),
)
def test_short_histories(
    random: Random, keep_versions: bool, steps: int, generation_events: int, max_rows: int
) -> None:
    with (
        TemporaryDirectory() as directory,
        patch.object(removals, "MAX_ROWS", max_rows),
        patch.object(followed_tail, "EVENTS_AT_ONCE", 2),
    ):
        options = {"generation_events": generation_events, "steps": steps, "pool_size": 30}
        asyncio.run(play(Path(directory), random, keep_versions=keep_versions, **options))


@pytest.mark.parametrize("keep_versions", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_long_histories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, keep_versions: bool) -> None:
    monkeypatch.setattr(removals, "MAX_ROWS", (3, 1_024)[seed % 2])
    monkeypatch.setattr(followed_tail, "EVENTS_AT_ONCE", (1, 4, 32)[seed % 3])
    options = {"generation_events": (1, 4, 30, 10_000)[seed % 4], "steps": 250, "pool_size": 300}
    run = asyncio.run(play(tmp_path, Random(seed), keep_versions=keep_versions, **options))
    assert run.model.serial > 100
    assert run.checked > 50
