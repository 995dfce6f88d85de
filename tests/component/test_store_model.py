"""Any interleaving of saves, replacements, deletions, expiry and requests to vanish ends as the model says."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.component.lmdb_backend import LmdbBackend, assert_sound
from tests.component.store_model import Model, make_pool
from tests.component.store_world import FakeClock, StoreOptions, World

from orly.nostr.event import EncodedEvent
from orly.store.base import SaveStatus
from orly.store.lmdb.tail import GENERATION_EVENTS


async def agree(world: World, model: Model) -> None:
    """Store and model hold the same."""
    model.pass_time(world.clock.now)
    visible = sorted(model.visible.values(), key=lambda event: (-event.event.created_at, event.event.id))
    assert await world.raw() == [event.raw for event in visible]
    assert await world.count() == len(visible)
    versions = sorted([*visible, *model.kept], key=lambda event: (-event.event.created_at, event.event.id))
    assert await world.versions() == [event.event.id for event in versions]
    assert await world.store.last_serial() == model.serial


async def step(
    world: World, model: Model, action: str, events: Sequence[EncodedEvent], seconds: int
) -> list[SaveStatus]:
    """Do one thing to both, and compare what they answered."""
    now = world.clock.now
    statuses: list[SaveStatus] = []
    match action:
        case "batch":
            statuses = await world.save(*events)
            assert statuses == [model.save(event, now) for event in events]
        case "separately":
            statuses = await world.save_each(*events)
            assert statuses == [model.save(event, now) for event in events]
        case "together":
            calls = [asyncio.ensure_future(world.save(event)) for event in events]
            statuses = [(await call)[0] for call in calls]
            assert statuses == [model.save(event, now) for event in events]
        case "delete":
            model.pass_time(now)
            removable = [event for event in events if not is_expired(event, now)]
            expected = sum(model.remove(event) for event in removable)
            assert await world.store.delete([event.id for event in removable]) == expected
        case "sweep":
            await world.sweep()
        case "clock":
            world.clock.now += seconds
        case "reopen":
            await world.reopen()
    return statuses


def is_expired(event: EncodedEvent, now_s: int) -> bool:
    return any(tag[0] == "expiration" and int(tag[1]) <= now_s for tag in event.event.tags)


ACTIONS: Final = ("batch", "batch", "separately", "together", "together", "delete", "sweep", "clock", "reopen")


async def play(
    directory: Path,
    random: Random,
    *,
    keep_versions: bool,
    steps: int,
    pool_size: int,
    every: int,
    generation_events: int = GENERATION_EVENTS,
) -> Counter[SaveStatus]:
    """A random history on a fresh store; returns how often each result occurred."""
    clock, backend, options = FakeClock(), LmdbBackend(generation_events), StoreOptions(keep_versions=keep_versions)
    world = World(backend, directory, options, clock, await backend.open(directory, clock, options))
    model = Model(keep_versions=keep_versions)
    pool = make_pool(random, pool_size)
    seen: Counter[SaveStatus] = Counter()
    try:
        for n in range(steps):
            start = n * pool_size // steps
            events = random.choices(pool[max(0, start - 15) : start + 15], k=random.randrange(1, 12))
            seen.update(await step(world, model, random.choice(ACTIONS), events, random.randrange(3)))
            if n % every == 0:
                await agree(world, model)
        await agree(world, model)
    finally:
        await world.store.close()
    assert_sound(directory)
    return seen


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    random=st.randoms(use_true_random=False),
    keep_versions=st.booleans(),
    steps=st.integers(1, 12),
    generation_events=st.integers(1, 8),
)
def test_short_histories(random: Random, keep_versions: bool, steps: int, generation_events: int) -> None:
    options = {"steps": steps, "generation_events": generation_events, "pool_size": 15, "every": 1}
    with TemporaryDirectory() as directory:
        asyncio.run(play(Path(directory), random, keep_versions=keep_versions, **options))


@pytest.mark.parametrize("keep_versions", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_long_histories(tmp_path: Path, seed: int, keep_versions: bool) -> None:
    sizes = {"steps": 200, "pool_size": 300, "every": 3, "generation_events": (GENERATION_EVENTS, 1, 4, 30)[seed % 4]}
    seen = asyncio.run(play(tmp_path / "data", Random(seed), keep_versions=keep_versions, **sizes))
    assert set(seen) >= set(SaveStatus) - {SaveStatus.FAILED, SaveStatus.VANISHED}, seen
    assert seen[SaveStatus.STORED] > 100


def test_the_order_of_arrival_does_not_matter_without_requests(tmp_path: Path) -> None:
    """Without deletions, every order of the same events ends in the same set."""
    random = Random(7)
    pool = [event for event in make_pool(random, 80) if event.event.kind not in (5, 62)]

    async def end_of(directory: Path, *, in_batches: bool) -> list[bytes]:
        clock, backend, options = FakeClock(), LmdbBackend(), StoreOptions()
        world = World(backend, directory, options, clock, await backend.open(directory, clock, options))
        order = random.sample(pool, len(pool))
        try:
            await (world.save(*order) if in_batches else world.save_each(*order))
            return await world.raw()
        finally:
            await world.store.close()

    ends = [asyncio.run(end_of(tmp_path / f"{n}", in_batches=n % 2 == 0)) for n in range(6)]
    assert len(ends[0]) > 10
    assert all(end == ends[0] for end in ends)
