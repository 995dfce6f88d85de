"""Random histories, told to a store and to the model at once."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Final

from tests.component.lmdb_backend import assert_sound
from tests.component.store_model import Model, make_pool
from tests.component.store_world import Backend, FakeClock, StoreOptions, World

from orly.nostr.event import EncodedEvent
from orly.nostr.filter import Filter
from orly.store.base import Query, SaveStatus

__all__ = ["agree", "play", "step"]


async def agree(world: World, model: Model) -> None:
    """Store and model hold the same."""
    model.pass_time(world.clock.now)
    visible = sorted(model.visible.values(), key=lambda event: (-event.event.created_at, event.event.id))
    assert await world.raw() == [event.raw for event in visible]
    assert await world.count() == len(visible)
    versions = sorted([*visible, *model.kept], key=lambda event: (-event.event.created_at, event.event.id))
    assert await world.versions() == [event.event.id for event in versions]
    assert await world.store.last_serial() == model.serial
    order = {event.id: serial for serial, event in model.visible.items()}
    assert await world.store.serials(Query(filters=(Filter(),))) == [order[event.id] for event in visible]


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
    directory: Path, random: Random, *, backend: Backend, keep_versions: bool, steps: int, pool_size: int, every: int
) -> Counter[SaveStatus]:
    """A random history on a fresh store; returns how often each result occurred."""
    clock, options = FakeClock(), StoreOptions(keep_versions=keep_versions)
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
