"""The stage of the store suite: a store on a fresh directory, a fake clock, and short words for what tests do.

A backend under test is a `Backend`. A test is an async function on a `World`, made a pytest test by `on_store`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from struct import Struct
from typing import Any, Final, Protocol

import msgspec
from tests.factory import NOW_S

from orly.nostr.event import EncodedEvent
from orly.nostr.filter import Filter
from orly.store.base import (
    EXPIRATION_BYTES,
    READ_ALL,
    EventStore,
    FeedBatch,
    Query,
    ReadScope,
    SaveResult,
    SaveStatus,
    StoreError,
)

__all__ = [
    "DEADLINE_S",
    "OWN_URL",
    "Backend",
    "FakeClock",
    "Sink",
    "StoreOptions",
    "World",
    "ids_of",
    "on_store",
    "packed",
]

DEADLINE_S: Final = 20.0
"""How long a test waits for anything before it fails."""

OWN_URL: Final = "wss://relay.example.com"

_EXPIRATION: Final = Struct(">QQ32s")


@dataclass(slots=True)
class FakeClock:
    """Time that moves when a test says so; `tick_s` makes the monotonic clock run on at every look."""

    now: int = NOW_S
    monotonic: float = 0.0
    tick_s: float = 0.0

    def now_s(self) -> int:
        return self.now

    def monotonic_s(self) -> float:
        self.monotonic += self.tick_s
        return self.monotonic


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreOptions:
    """What a test needs of the store."""

    keep_versions: bool = False
    own_urls: tuple[str, ...] = (OWN_URL,)


class Backend(Protocol):
    """How one kind of store is opened, swept and checked."""

    async def open(self, directory: Path, clock: FakeClock, options: StoreOptions) -> EventStore:
        """A store with what the directory holds; opened again after `close` it holds the same."""

    async def sweep(self, store: EventStore) -> int:
        """Purge what has expired, as the store does by itself from time to time."""

    async def verify(self, directory: Path) -> None:
        """After `close`: assert that what lies in the directory is sound."""


@dataclass(slots=True)
class World:
    """One test's store and clock."""

    backend: Backend
    directory: Path
    options: StoreOptions
    clock: FakeClock
    store: EventStore

    async def reopen(self) -> None:
        """Close the store and open it again."""
        await self.store.close()
        self.store = await self.backend.open(self.directory, self.clock, self.options)

    async def sweep(self) -> int:
        return await self.backend.sweep(self.store)

    async def save(self, *events: EncodedEvent) -> list[SaveStatus]:
        """Save in one call."""
        return [result.status for result in await self.store.save(events)]

    async def save_each(self, *events: EncodedEvent) -> list[SaveStatus]:
        """Save in one call each."""
        return [(await self.store.save([event]))[0].status for event in events]

    async def put(self, *events: EncodedEvent) -> list[SaveResult]:
        """Save what must be stored."""
        results = await self.store.save(events)
        assert {result.status for result in results} <= {SaveStatus.STORED}, results
        return results

    async def raw(self, *filters: Filter, scope: ReadScope = READ_ALL, **options: Any) -> list[bytes]:
        query = Query(filters=filters or (Filter(),), scope=scope, **options)
        return await asyncio.wait_for(self.store.fetch(query), DEADLINE_S)

    async def ids(self, *filters: Filter, scope: ReadScope = READ_ALL, **options: Any) -> list[str]:
        """Ids in the order of the answer."""
        return ids_of(await self.raw(*filters, scope=scope, **options))

    async def has(self, *events: EncodedEvent) -> list[bool]:
        """Which of the events can be read."""
        found = await self.ids(Filter(ids=frozenset(event.event.id for event in events)))
        return [event.event.id in found for event in events]

    async def count(self, *filters: Filter, scope: ReadScope = READ_ALL, **options: Any) -> int:
        return await self.store.count(Query(filters=filters or (Filter(),), scope=scope, **options))

    async def versions(self, *filters: Filter, scope: ReadScope = READ_ALL, **options: Any) -> list[str]:
        query = Query(filters=filters or (Filter(),), scope=scope, **options)
        return ids_of(await self.store.versions(query))

    async def items(self, *filters: Filter, max_items: int | None = None, scope: ReadScope = READ_ALL) -> bytes:
        return (await self.store.items(Query(filters=filters or (Filter(),), scope=scope), max_items=max_items)).rows

    async def expirations(self, after_s: int = 0) -> list[tuple[int, int, str]]:
        """(second, created_at, id) of what expires later, in the order of the answer."""
        rows = await self.store.expirations(after_s)
        assert len(rows) % EXPIRATION_BYTES == 0
        return [
            (expires_s, created_at, event_id.hex()) for expires_s, created_at, event_id in _EXPIRATION.iter_unpack(rows)
        ]

    async def serials(self, *filters: Filter, scope: ReadScope = READ_ALL, **options: Any) -> list[int]:
        return await self.store.serials(Query(filters=filters or (Filter(),), scope=scope, **options))

    async def next_batch(self, feed: Any) -> FeedBatch:
        """The next batch of a feed; fails when none comes."""
        batch: FeedBatch = await asyncio.wait_for(anext(feed), DEADLINE_S)
        return batch


def packed(events: Iterable[EncodedEvent]) -> bytes:
    """Events as rows of items, obviously."""
    rows = sorted({(event.event.created_at, event.id) for event in events})
    return b"".join(created_at.to_bytes(8, "big") + event_id for created_at, event_id in rows)


def ids_of(answer: Sequence[bytes]) -> list[str]:
    return [msgspec.json.decode(raw)["id"] for raw in answer]


@dataclass(slots=True)
class Sink:
    """A query's reader that takes `credit` calls of `rows`, then holds back."""

    credit: int = 1_000_000
    events: list[bytes] = field(default_factory=list)
    calls: int = 0
    through_serial: int | None = None
    error: StoreError | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def rows(self, events: Sequence[bytes]) -> bool:
        assert events, "rows were given without any event"
        assert not self.is_over
        self.events.extend(events)
        self.calls += 1
        self.credit -= 1
        self.changed.set()
        return self.credit > 0

    def done(self, through_serial: int) -> None:
        assert not self.is_over
        self.through_serial = through_serial
        self.changed.set()

    def failed(self, error: StoreError) -> None:
        assert not self.is_over
        self.error = error
        self.changed.set()

    @property
    def is_over(self) -> bool:
        return self.through_serial is not None or self.error is not None

    async def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until the condition holds; fails by name when it never does."""
        try:
            async with asyncio.timeout(DEADLINE_S):
                while not condition():
                    self.changed.clear()
                    await self.changed.wait()
        except TimeoutError:
            raise AssertionError(f"waited {DEADLINE_S:g} s for {what}") from None

    async def over(self) -> None:
        await self.wait(lambda: self.is_over, "the end of the answer")


def on_store(
    **options: Any,
) -> Callable[[Callable[[Any, World], Awaitable[None]]], Callable[[Any, Path], None]]:
    """Run an async test of a suite class, whose `backend` opens the store; afterwards the data must be sound."""

    def decorate(body: Callable[[Any, World], Awaitable[None]]) -> Callable[[Any, Path], None]:
        def test(self: Any, tmp_path: Path) -> None:
            asyncio.run(_play(body, self, tmp_path / "data", StoreOptions(**options)))

        test.__name__ = test.__qualname__ = body.__name__
        test.__doc__ = body.__doc__
        return test

    return decorate


async def _play(
    body: Callable[[Any, World], Awaitable[None]], suite: Any, directory: Path, options: StoreOptions
) -> None:
    clock = FakeClock()
    store = await suite.backend.open(directory, clock, options)
    world = World(suite.backend, directory, options, clock, store)
    try:
        await body(suite, world)
    finally:
        await world.store.close()
    await suite.backend.verify(directory)
