"""Writers that publish without a pause, readers that subscribe at random moments, and what each reader must get.

Each reader must get every event that its filter matches exactly once, before or after the one EOSE.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from tests.component.relay_client import NostrClient
from tests.component.store_proxy import StoreProxy
from tests.factory import KEYS, NOW_S, fake_event, make_event

from orly.nostr.event import EncodedEvent, Event
from orly.nostr.filter import Filter, FilterLimits, matches, parse_filter
from orly.store.base import Query, QueryHandle, QuerySink

__all__ = [
    "FENCE",
    "LIMITS",
    "PAUSE_S",
    "Hammered",
    "Reader",
    "Tail",
    "UnhurriedStore",
    "hammer",
    "note",
    "some_events",
]

PAUSE_S: Final = 0.002
"""How long an unhurried store rests."""


FENCE: Final = make_event(0, 7777, NOW_S + 500, [["t", "fence"]], "the last event")
"""Matches every filter here and is published last: whoever has it and EOSE will get nothing more."""
LAST_BUT_ONE: Final = make_event(0, 7777, NOW_S + 500, [["t", "fence"]], "the last event but one")

LIMITS: Final = FilterLimits(max_values=5000)
REQUESTS: Final[tuple[tuple[dict[str, Any], ...], ...]] = (
    ({},),
    ({"kinds": [1, 7777]},),
    ({"authors": [KEYS[0]]},),
    ({"#t": ["a", "fence"]},),
    ({"kinds": [7], "#t": ["b"]}, {"kinds": [7777]}),
    ({"authors": [KEYS[1]], "kinds": [1]}, {"authors": [KEYS[1], KEYS[0]], "#t": ["a", "fence"]}, {"kinds": [7]}, {}),
    ({"since": NOW_S - 100, "until": NOW_S + 500},),
    ({"limit": 0},),
)


@dataclass(slots=True)
class Tail:
    """What came for one subscription.

    Attributes:
        wants_stored: False if only what is published after its EOSE must come.
        missable: What had been published before that.
    """

    filters: tuple[Filter, ...]
    wants_stored: bool = True
    ids: list[str] = field(default_factory=list)
    ends: int = 0
    missable: frozenset[str] = frozenset()

    @property
    def is_complete(self) -> bool:
        return bool(self.ends) and FENCE.event.id in self.ids

    def wants(self, event: Event) -> bool:
        return any(matches(wanted, event) for wanted in self.filters)

    def faults(self, published: Sequence[EncodedEvent]) -> list[str]:
        """What is wrong with it, given everything that was stored."""
        found = []
        if self.ends != 1:
            found.append(f"{self.ends} EOSE")
        wanted = {event.event.id for event in published if self.wants(event.event)}
        counts = Counter(self.ids)
        if twice := [event_id for event_id, count in counts.items() if count > 1]:
            found.append(f"{len(twice)} events twice")
        if strange := counts.keys() - wanted:
            found.append(f"{len(strange)} events that do not match")
        if missing := wanted - counts.keys() - self.missable:
            found.append(f"{len(missing)} events missing")
        return found


class Reader:
    """A client that subscribes now and then and listens until the fence has come everywhere."""

    def __init__(self, client: NostrClient, published: Sequence[str]) -> None:
        self.client = client
        self.tails: dict[str, Tail] = {}
        self._published = published

    async def subscribe(self, request: tuple[dict[str, Any], ...]) -> None:
        sub_id = f"s{len(self.tails)}"
        filters = tuple(parse_filter(wanted, LIMITS) for wanted in request)
        self.tails[sub_id] = Tail(filters, wants_stored=filters[0].limit != 0)
        await self.client.send("REQ", sub_id, *request)

    async def listen(self, is_subscribing: Callable[[], bool]) -> None:
        while is_subscribing() or not all(tail.is_complete for tail in self.tails.values()):
            try:
                message = await self.client.socket.receive()
            except TimeoutError:
                return  # what is awaited does not come: it is among the faults
            self._note(message)

    async def collect_rest(self) -> None:
        await self.client.fence()
        for message in self.client.inbox:
            self._note(message)

    def _note(self, message: list[Any]) -> None:
        note(message, self.tails)
        tail = self.tails[message[1]]
        if message[0] == "EOSE" and not tail.wants_stored:
            tail.missable = frozenset(self._published)


def note(message: list[Any], tails: dict[str, Tail]) -> None:
    kind, sub_id = message[0], message[1]
    if kind == "EOSE":
        tails[sub_id].ends += 1
    else:
        assert kind == "EVENT", message
        tails[sub_id].ids.append(message[2]["id"])


def some_events(count: int, key: int, seed: int) -> list[EncodedEvent]:
    chance = random.Random(seed)
    return [
        make_event(
            key,
            chance.choice([1, 1, 7]),
            NOW_S - chance.randrange(200),
            [["t", chance.choice("ab")]] if chance.random() < 0.8 else [],
            f"{key} {n}",
        )
        for n in range(count)
    ]


async def write(
    client: NostrClient, events: list[EncodedEvent], published: list[str], chance: random.Random, pause_turns: int
) -> None:
    left = list(events)
    while left:
        burst = [left.pop() for _ in range(min(len(left), chance.choice([1, 10, 30])))]
        published += [event.event.id for event in burst]
        await client.accept(*burst)
        for _ in range(chance.randrange(pause_turns + 1)):
            await asyncio.sleep(0)


class Hammered(Protocol):
    """A relay, or several that are one to their clients."""

    def client(self) -> AbstractAsyncContextManager[NostrClient]:
        """A connection; which of the relays it is to does not matter."""

    async def fill(self, events: Sequence[EncodedEvent]) -> None:
        """Store events past the relays."""


async def hammer(relay: Hammered, *, seed: int, n_events: int, n_stored: int, pause_turns: int = 0) -> list[str]:
    """Three writers against four readers; the faults found. With pauses the store is idle now and then."""
    chance = random.Random(seed)
    stored = [fake_event(3, 1, NOW_S - n, [["t", "ab"[n % 2]]], f"{n}" + "x" * 500) for n in range(n_stored)]
    await relay.fill(stored)
    batches = [some_events(n_events, key, seed + key) for key in range(3)]
    published = [event.event.id for event in stored]
    async with (
        relay.client() as w0,
        relay.client() as w1,
        relay.client() as w2,
        relay.client() as r0,
        relay.client() as r1,
        relay.client() as r2,
        relay.client() as r3,
    ):
        readers = [Reader(client, published) for client in (r0, r1, r2, r3)]
        subscribing = True
        async with asyncio.TaskGroup() as group:
            for reader in readers:
                group.create_task(reader.listen(lambda: subscribing))
            async with asyncio.TaskGroup() as writers:
                for client, batch in zip((w0, w1, w2), batches, strict=True):
                    writers.create_task(write(client, batch, published, chance, pause_turns))
                for n in range(32):
                    reader = readers[n % 4]
                    await reader.subscribe(REQUESTS[(n + n // 8) % len(REQUESTS)])
                    for _ in range(chance.randrange(12)):
                        await asyncio.sleep(0)
            subscribing = False
            await w0.accept(LAST_BUT_ONE)
            await w0.accept(FENCE)
        for reader in readers:
            await reader.collect_rest()
    everything = [*stored, *batches[0], *batches[1], *batches[2], LAST_BUT_ONE, FENCE]
    return [
        f"{number} {sub_id}: {fault}"
        for number, reader in enumerate(readers)
        for sub_id, tail in reader.tails.items()
        for fault in tail.faults(everything)
    ]


class UnhurriedStore(StoreProxy):
    """Its answers take their time, so that much is written while one is sent."""

    def query(self, query: Query, sink: QuerySink) -> QueryHandle:
        pausing = _PausingSink(sink)
        pausing.handle = handle = self.inner.query(query, pausing)
        return handle


class _PausingSink:
    def __init__(self, sink: QuerySink) -> None:
        self.done = sink.done
        self.failed = sink.failed
        self.handle: QueryHandle | None = None
        self._sink = sink

    def rows(self, events: Sequence[bytes]) -> bool:
        self._sink.rows(events)
        asyncio.get_running_loop().call_later(PAUSE_S, self._go_on)
        return False

    def _go_on(self) -> None:
        assert self.handle is not None
        self.handle.resume()
