"""Any interleaving of saves, replacements, deletions, expiry and requests to vanish ends as the model says."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.component.follower_backend import FollowerBackend
from tests.component.lmdb_backend import LmdbBackend
from tests.component.store_model import make_pool
from tests.component.store_play import play
from tests.component.store_world import Backend, FakeClock, StoreOptions, World

from orly.store.base import SaveStatus
from orly.store.lmdb.tail import GENERATION_EVENTS

BACKENDS: Final[dict[str, Callable[[int], Backend]]] = {"store": LmdbBackend, "follower": FollowerBackend}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    random=st.randoms(use_true_random=False),
    keep_versions=st.booleans(),
    steps=st.integers(1, 12),
    generation_events=st.integers(1, 8),
)
def test_short_histories(random: Random, keep_versions: bool, steps: int, generation_events: int) -> None:
    backend = LmdbBackend(generation_events)
    with TemporaryDirectory() as directory:
        asyncio.run(
            play(
                Path(directory),
                random,
                backend=backend,
                keep_versions=keep_versions,
                steps=steps,
                pool_size=15,
                every=1,
            )
        )


@pytest.mark.parametrize("keep_versions", [False, True])
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("backend_name", BACKENDS)
def test_long_histories(tmp_path: Path, backend_name: str, seed: int, keep_versions: bool) -> None:
    backend = BACKENDS[backend_name]((GENERATION_EVENTS, 1, 4, 30)[seed % 4])
    sizes = {"steps": 200, "pool_size": 300, "every": 3}
    seen = asyncio.run(play(tmp_path / "data", Random(seed), backend=backend, keep_versions=keep_versions, **sizes))
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
