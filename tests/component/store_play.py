"""Random histories, told to a store and to the model at once."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Final

from tests.component.lmdb_backend import assert_sound
from tests.component.store_model import Model, expires, make_pool
from tests.component.store_world import Backend, FakeClock, StoreOptions, World, packed
from tests.factory import KEYS, NOW_S

from orly.nostr.event import EncodedEvent
from orly.nostr.filter import Filter, matches
from orly.store.base import READ_ALL, Query, ReadScope, SaveStatus

__all__ = ["agree", "play", "step"]

UNION: Final = (
    Filter(kinds=frozenset({1, 3})),
    Filter(authors=frozenset(KEYS[:1])),
    Filter(tags={"d": frozenset({"x"})}),
)
ASKED: Final = tuple(
    (wanted, scope)
    for scope in (READ_ALL, ReadScope(), ReadScope(readers=frozenset(KEYS[1:2])))
    for wanted in (
        Filter(),
        Filter(limit=5),
        Filter(since=NOW_S + 6, until=NOW_S + 30),
        Filter(kinds=frozenset({0, 1, 5, 1059, 30_023})),
        Filter(kinds=frozenset({62})),
        Filter(authors=frozenset(KEYS[:2])),
    )
)
"""What items are asked for at every comparison, each by another way through the indexes."""


async def agree(world: World, model: Model) -> None:
    """Store and model hold the same."""
    model.pass_time(world.clock.now)
    visible = sorted(model.visible.values(), key=lambda event: (-event.event.created_at, event.event.id))
    assert await world.raw() == [event.raw for event in visible]
    assert await world.count() == len(visible)
    versions = sorted([*visible, *model.kept], key=lambda event: (-event.event.created_at, event.event.id))
    assert await world.versions() == [event.event.id for event in versions]
    assert await world.store.last_serial() == model.serial
    for wanted, scope in ASKED:
        found = [e for e in visible if scope.may_read(e.event) and matches(wanted, e.event)][: wanted.limit]
        assert await world.items(wanted, scope=scope) == packed(found), (wanted, scope)
    some = [e for e in visible if any(matches(wanted, e.event) for wanted in UNION)]
    assert await world.items(*UNION) == packed(some)
    due = sorted((expires(event), event.event.created_at, event.event.id) for event in visible)
    assert await world.expirations() == [row for row in due if row[0] < 2**63]
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
