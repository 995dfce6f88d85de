"""The store's process is killed, or stands still, while clients of several relays write and listen.

No client may notice more than a pause: no WebSocket ends, what was acknowledged is stored once, and every live
subscriber gets exactly what was stored.
"""

import asyncio
import json
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Final

import pytest
from tests.component.relay_client import NostrClient
from tests.factory import NOW_S, make_event
from tests.load.writers import fetch
from tests.process import DbProcess, RelayProcess, free_port, run_orly, running_db, running_worker
from tests.wsclient import DEADLINE_S, Client, connect, http, until

KILLS: Final = 30
WORKERS: Final = 2
MOST_OKS: Final = 300
"""The store is killed after a random number of answers up to this."""

WINDOW: Final = 64
BOUND_S: Final = 1.0
"""ORLY_GRPC_CONNECT_TIMEOUT where a test waits for it to pass."""

LEAST_REFUSALS: Final = 200
MOST_GROWTH_BYTES: Final = 48 * 1024 * 1024
FLOOD_EVENTS: Final = 3000
FLOOD_CONTENT_BYTES: Final = 8000
MODES: Final = pytest.mark.parametrize("reads_directly", [True, False], ids=["split", "remote"])


@dataclass(slots=True)
class Promises:
    """What the relays have said about the events they were given."""

    accepted: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    reasons: Counter[str] = field(default_factory=Counter)
    accepted_at: Counter[str] = field(default_factory=Counter)
    """By the URL of the relay, how many."""
    is_over: bool = False
    _number: int = 0

    def next_number(self) -> int:
        self._number += 1
        return self._number

    def note(self, event_id: str, accepted: bool, reason: str) -> None:
        (self.accepted if accepted else self.refused).add(event_id)
        if reason:
            self.reasons[reason.partition(":")[0]] += 1


@dataclass(slots=True)
class Subscriber:
    """A client that only listens, and knows how often each event came."""

    client: Client
    seen: Counter[str] = field(default_factory=Counter)

    async def listen(self) -> None:
        while True:
            message = json.loads(await self.client.connection.recv())
            assert message[0] in ("EVENT", "EOSE"), message
            if message[0] == "EVENT":
                self.seen[message[2]["id"]] += 1


async def write(url: str, key: int, promises: Promises) -> None:
    """Publishes notes, a few at a time, until it is told to stop and every note is answered."""
    async with connect(url) as client:
        window = asyncio.Semaphore(WINDOW)
        pending: set[str] = set()

        async def send() -> None:
            while not promises.is_over:
                await window.acquire()
                event = make_event(key, 1, NOW_S, (), f"{key} {promises.next_number()}")
                pending.add(event.event.id)
                await client.connection.send(b'["EVENT",%s]' % event.raw, text=True)

        sender = asyncio.create_task(send())
        try:
            while pending or not sender.done():
                kind, event_id, accepted, reason = await client.receive()
                assert kind == "OK"
                pending.remove(event_id)
                promises.note(event_id, accepted, reason)
                promises.accepted_at[url] += accepted
                window.release()
        finally:
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)


@asynccontextmanager
async def listening(*relays: RelayProcess) -> AsyncIterator[list[Subscriber]]:
    """A subscriber on each relay; leaving fails if one of them was disconnected."""
    async with AsyncExitStack() as stack:
        subscribers = []
        for relay in relays:
            client = await stack.enter_async_context(connect(relay.url))
            await client.send("REQ", "live", {"kinds": [1], "limit": 0})
            assert await client.receive() == ["EOSE", "live"]
            subscribers.append(Subscriber(client))
        tasks = [asyncio.create_task(subscriber.listen()) for subscriber in subscribers]
        try:
            yield subscribers
            assert not any(task.done() for task in tasks), tasks
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def accepted_at_last(relay: RelayProcess, content: str) -> str:
    """Publishes one note until it is taken; its id."""
    event = make_event(7, 1, NOW_S, (), content)
    async with connect(relay.url) as client:
        while True:
            await client.connection.send(b'["EVENT",%s]' % event.raw, text=True)
            if (await client.receive())[2]:
                return event.event.id


async def settled(subscribers: list[Subscriber], relay: RelayProcess, promises: Promises) -> None:
    """Waits until everything before now has come everywhere."""
    last = await accepted_at_last(relay, f"last {promises.next_number()}")
    promises.accepted.add(last)
    await until(lambda: all(last in subscriber.seen for subscriber in subscribers), "the last event everywhere")


async def stored_ids(relay: RelayProcess, ids: list[str]) -> list[str]:
    """Which of the events a relay has, as often as it has them."""
    found: list[str] = []
    async with connect(relay.url) as client:
        for start in range(0, len(ids), 1000):
            asked = ids[start : start + 1000]
            found += [event["id"] for event in await fetch(client, {"ids": asked, "limit": 1000})]
    return found


async def kept(subscribers: list[Subscriber], relays: list[RelayProcess], promises: Promises) -> None:
    """Every promise holds: what is stored, what was told, and what was answered agree."""
    everything = sorted(promises.accepted | promises.refused)
    stored = [await stored_ids(relay, everything) for relay in relays]
    for found in stored:
        assert max(Counter(found).values()) == 1, "an event is stored twice"
        assert promises.accepted <= set(found), f"{len(promises.accepted - set(found))} acknowledged events are lost"
        assert set(found) == set(stored[0])
    for subscriber in subscribers:
        twice = [event_id for event_id, count in subscriber.seen.items() if count > 1]
        assert not twice, f"{len(twice)} events were told twice"
        told = set(subscriber.seen)
        assert told == set(stored[0]), f"{len(told - set(stored[0]))} too many, {len(set(stored[0]) - told)} missing"


async def under_load(relays: list[RelayProcess], promises: Promises, disturb: Callable[[], Awaitable[None]]) -> None:
    """Clients write to every relay and listen to every relay while something happens; then every promise is checked."""
    async with listening(*relays, *relays) as subscribers:
        async with asyncio.TaskGroup() as group:
            for key in range(2 * WORKERS):
                group.create_task(write(relays[key % WORKERS].url, key, promises))
            await disturb()
            await more_accepted(promises, MOST_OKS)
            promises.is_over = True
        await settled(subscribers, relays[0], promises)
        await kept(subscribers, relays, promises)


async def more_accepted(promises: Promises, count: int) -> None:
    """Waits until that many more events were acknowledged."""
    wanted = len(promises.accepted) + count
    await until(lambda: len(promises.accepted) >= wanted, f"{count} more acknowledged events")


async def more_refused(promises: Promises, count: int) -> None:
    """Waits until that many more events were refused."""
    wanted = len(promises.refused) + count
    await until(lambda: len(promises.refused) >= wanted, f"{count} more refused events")


@contextmanager
def workers_on_tcp(*, reads_directly: bool, **variables: str) -> Iterator[tuple[DbProcess, list[RelayProcess]]]:
    """An `orly-db` at a TCP port, which is refused while it is away, and two relays on it."""
    with ExitStack() as stack:
        db = stack.enter_context(running_db(address=f"127.0.0.1:{free_port()}"))
        yield (
            db,
            [
                stack.enter_context(running_worker(db, reads_directly=reads_directly, **variables))
                for _ in range(WORKERS)
            ],
        )


@MODES
def test_the_store_is_killed_many_times_under_load(reads_directly: bool) -> None:
    dice = random.Random()
    promises = Promises()
    with workers_on_tcp(reads_directly=reads_directly) as (db, relays):

        async def kill() -> None:
            for n in range(KILLS):
                before = promises.accepted_at.copy()
                await more_accepted(promises, dice.randrange(1, MOST_OKS) if n else 1)
                await accepted_everywhere(relays, promises, before)  # a worker may look for the store once a second
                db.kill()
                db.start_again()

        asyncio.run(under_load(relays, promises, kill))
        assert not promises.refused, promises.reasons
        for relay in relays:
            relay.stop()
        db.stop()
        checked = run_orly("check", data_dir=db.data_dir)
        assert checked.returncode == 0, checked.stdout + checked.stderr


@MODES
def test_the_store_stands_still_under_load(reads_directly: bool) -> None:
    promises = Promises()
    with workers_on_tcp(reads_directly=reads_directly, ORLY_GRPC_CONNECT_TIMEOUT=f"{BOUND_S:g}s") as (db, relays):

        async def stand_still() -> None:
            for _ in range(3):
                await more_accepted(promises, MOST_OKS)
                db.signal(signal.SIGSTOP)
                await more_refused(promises, LEAST_REFUSALS)
                db.signal(signal.SIGCONT)

        asyncio.run(under_load(relays, promises, stand_still))
        assert promises.reasons.keys() <= {"error", "duplicate"}


@MODES
def test_a_store_that_stands_still_is_waited_for_as_long_as_the_bound(reads_directly: bool) -> None:

    async def main(db: DbProcess, relay: RelayProcess) -> None:
        before, late = make_event(content="before"), make_event(content="late")
        async with connect(relay.url) as writer, connect(relay.url) as reader, connect(relay.url) as counter:
            client = NostrClient(writer)
            await client.accept(before)
            db.signal(signal.SIGSTOP)
            begin_s = time.monotonic()
            reason = await client.refusal(late)
            assert reason.startswith("error: "), reason
            assert time.monotonic() - begin_s > 0.9 * BOUND_S
            await until_health(relay, 503)
            asking, counting = NostrClient(reader), NostrClient(counter)
            if reads_directly:
                assert await asking.request("q", {}) == [before.event.id]
                assert await counting.count("q", {}) == 1
            else:
                for each, verb in ((asking, "REQ"), (counting, "COUNT")):
                    await each.send(verb, "q", {})
                    assert (await each.closed_reason("q")).startswith("error: ")
            await memory_is_bounded(relay)
            db.signal(signal.SIGCONT)
            await until_health(relay, 200)
            await accepted_at_last(relay, "after")
            assert len(await asking.request("q", {"kinds": [1], "limit": 5000})) >= 2

    with workers_on_tcp(reads_directly=reads_directly, ORLY_GRPC_CONNECT_TIMEOUT=f"{BOUND_S:g}s") as (db, relays):
        asyncio.run(main(db, relays[0]))


async def memory_is_bounded(relay: RelayProcess) -> None:
    """Clients that send as much as they are let, while nothing can be stored, cost the relay little."""
    before = relay.anonymous_bytes()
    text = "x" * FLOOD_CONTENT_BYTES
    peak = before

    async def flood(key: int) -> None:
        nonlocal peak
        async with connect(relay.url) as client:

            async def send() -> None:
                for n in range(FLOOD_EVENTS):
                    event = make_event(key, 1, NOW_S, (), f"{n}{text}")
                    await client.connection.send(b'["EVENT",%s]' % event.raw, text=True)

            sender = asyncio.create_task(send())
            for _ in range(FLOOD_EVENTS):
                answer = await client.receive()
                assert answer[2] is False
                peak = max(peak, relay.anonymous_bytes())
            await sender

    await asyncio.gather(*(flood(key) for key in range(2)))
    assert peak - before < MOST_GROWTH_BYTES, f"it grew by {(peak - before) / 2**20:.0f} MiB"


async def until_health(relay: RelayProcess, wanted: int) -> None:
    """Waits until `/health` answers with that status."""
    end_s = time.monotonic() + DEADLINE_S
    while (await http(relay.url, path="/health")).status != wanted:
        assert time.monotonic() < end_s, f"waited {DEADLINE_S:g} s for /health to answer {wanted}"
        await asyncio.sleep(0.02)


async def accepted_everywhere(relays: list[RelayProcess], promises: Promises, before: Counter[str]) -> None:
    """Waits until every relay has acknowledged more events than before."""
    await until(
        lambda: all(promises.accepted_at[relay.url] > before[relay.url] for relay in relays), "an answer of every relay"
    )
