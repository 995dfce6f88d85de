"""Where a request's stored answer ends and its live tail begins: no gap and no repeat, whatever is written meanwhile.

Writers publish without a pause while readers subscribe at random moments. Each reader must get every event that its
filter matches exactly once, before or after the one EOSE. The same check must find the faults of relays that are
broken on purpose.
"""

import asyncio
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.component.join_hammer import (
    FENCE,
    LIMITS,
    PAUSE_S,
    Reader,
    Tail,
    UnhurriedStore,
    hammer,
    note,
    some_events,
)
from tests.component.relay_client import NostrClient
from tests.component.relay_server import TestedRelay, on_relay, running_relay, send_at_once
from tests.component.store_proxy import StoreProxy
from tests.factory import KEYS, NOW_S, fake_event, make_event
from tests.transport import run_async
from tests.wsclient import TEXT, until

from orly.nostr.event import EncodedEvent
from orly.nostr.filter import Filter, parse_filter
from orly.relay.subscription import Subscription
from orly.store.base import EventStore
from orly.store.lmdb import running_query, scan
from orly.store.lmdb.running_query import RunningQuery
from orly.store.lmdb.scan import Scan


@pytest.mark.parametrize(
    ("n_stored", "wrap"), [(1200, StoreProxy), (0, StoreProxy), (1200, UnhurriedStore)], ids=["full", "empty", "slow"]
)
def test_every_event_exactly_once(n_stored: int, wrap: Callable[[EventStore], StoreProxy], tmp_path: Path) -> None:
    async def main() -> None:
        async with running_relay(tmp_path, wrap=wrap, default_limit=5000) as relay:
            faults = await hammer(relay, seed=1, n_events=500, n_stored=n_stored)
        assert faults == []

    run_async(main())


@pytest.mark.parametrize("n_stored", [300, 1200])
def test_searches_of_many_turns(n_stored: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Searches rest after a few rows, answers after a few events: much is stored while one is under way."""
    run, chunks = RunningQuery.run, Scan.chunks

    def run_later(search: RunningQuery) -> None:
        search._loop.call_later(PAUSE_S / 4, run, search)

    def small_chunks(
        view: Scan, index: str, prefix: bytes, since: int, until: int, _first_chunk: int
    ) -> Iterator[list[bytes]]:
        return chunks(view, index, prefix, since, until, 4)

    monkeypatch.setattr(running_query, "SLICE_S", 0.0)
    monkeypatch.setattr(RunningQuery, "run", run_later)
    monkeypatch.setattr(scan, "MAX_CHUNK", 16)
    monkeypatch.setattr(Scan, "chunks", small_chunks)

    async def main() -> None:
        async with running_relay(tmp_path, wrap=UnhurriedStore, default_limit=5000) as relay:
            faults = await hammer(relay, seed=3, n_events=500, n_stored=n_stored, pause_turns=60)
        assert faults == []

    run_async(main())


def _subscribe_after_the_query(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drops what a relay would never hear of that asks the store first and subscribes then."""
    monkeypatch.setattr(Subscription, "_hold", lambda self, serial, event: None)


def _forget_the_serial(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sends what is live whether or not the stored answer had it already."""
    correct = Subscription.done
    monkeypatch.setattr(Subscription, "done", lambda self, through_serial: correct(self, 0))


def _end_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    correct = Subscription.done

    def done(self: Subscription, through_serial: int) -> None:
        self._reader.peer.send(json.dumps(["EOSE", self.sub_id]).encode())
        correct(self, through_serial)

    monkeypatch.setattr(Subscription, "done", done)


def _drop_the_first_live_event(monkeypatch: pytest.MonkeyPatch) -> None:
    correct = Subscription.done
    monkeypatch.setattr(Subscription, "done", lambda self, through_serial: correct(self, through_serial + 1))


@pytest.mark.parametrize(
    ("break_it", "symptom"),
    [
        (_subscribe_after_the_query, "missing"),
        (_forget_the_serial, "twice"),
        (_end_twice, "2 EOSE"),
        (_drop_the_first_live_event, "missing"),
    ],
)
def test_broken_relays_are_found_out(
    break_it: Callable[[pytest.MonkeyPatch], None],
    symptom: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        for attempt in range(5):
            async with running_relay(tmp_path / str(attempt), wrap=UnhurriedStore, default_limit=5000) as relay:
                faults = await hammer(relay, seed=attempt, n_events=100, n_stored=1200)
            if faults:
                break
        assert any(symptom in fault for fault in faults), faults

    break_it(monkeypatch)
    run_async(main())


# Replaceable events


@on_relay(default_limit=5000)
async def test_versions_follow_each_other_without_a_gap(relay: TestedRelay) -> None:
    """Of each address a reader gets one stored version, or none yet, and then every later one, in order."""
    n_versions, n_addresses = 40, 5
    await relay.fill([fake_event(3, 1, NOW_S - n, content=f"{n}" + "x" * 500) for n in range(1000)])
    versions = [
        [make_event(key, 30_023, NOW_S + n, [["d", str(d)]]) for n in range(n_versions)]
        for key in range(2)
        for d in range(n_addresses)
    ]
    order = {event.event.id: (address, n) for address, each in enumerate(versions) for n, event in enumerate(each)}
    chance = random.Random(5)
    async with relay.client() as w0, relay.client() as w1, relay.client() as r0, relay.client() as r1:
        readers = [Reader(r0, []), Reader(r1, [])]
        subscribing = True

        async def update(client: NostrClient, mine: list[list[EncodedEvent]]) -> None:
            for step in zip(*mine, strict=True):
                await client.accept(*step)

        async with asyncio.TaskGroup() as group:
            for reader in readers:
                group.create_task(reader.listen(lambda: subscribing))
            async with asyncio.TaskGroup() as writers:
                writers.create_task(update(w0, versions[:n_addresses]))
                writers.create_task(update(w1, versions[n_addresses:]))
                for n in range(24):
                    await readers[n % 2].subscribe(({"kinds": [30_023, 7777]}, {"kinds": [1]})[: 1 + n % 2])
                    for _ in range(chance.randrange(30)):
                        await asyncio.sleep(0)
            subscribing = False
            await w0.accept(FENCE)
        for reader in readers:
            await reader.collect_rest()
    for reader in readers:
        for tail in reader.tails.values():
            assert tail.ends == 1
            seen: dict[int, list[int]] = {address: [] for address in range(len(versions))}
            for event_id in tail.ids:
                if event_id in order:
                    address, n = order[event_id]
                    seen[address].append(n)
            for steps in seen.values():
                assert steps == list(range(n_versions - len(steps), n_versions)), steps
                assert steps


# Slow readers


@pytest.mark.parametrize("request_", [({},), ({"kinds": [1, 7777]}, {"authors": [KEYS[0]]})], ids=["all", "union"])
def test_answer_that_is_held_back_while_live_events_come(request_: tuple[dict[str, Any], ...], tmp_path: Path) -> None:
    stored = [fake_event(3, 1, NOW_S - n, content=f"{n}" + "x" * 40_000) for n in range(300)]
    live = some_events(200, 0, 9)

    async def main() -> None:
        async with (
            running_relay(tmp_path, default_limit=5000) as relay,
            relay.slow_client() as reader,
            relay.client() as writer,
        ):
            await relay.fill(stored)
            tails = {str(n): Tail(tuple(parse_filter(wanted, LIMITS) for wanted in request_)) for n in range(2)}
            send_at_once(reader, *(["REQ", sub_id, *request_] for sub_id in tails))
            await until(lambda: len(relay.store.queries) == 2, "the queries")
            await writer.accept(*live[:100])
            await until(lambda: relay.held_bytes, "live events that are held back")
            read = 0

            async def read_some(enough: Callable[[], bool]) -> None:
                nonlocal read
                while not enough():
                    opcode, payload = await reader.receive_frame()
                    assert opcode == TEXT
                    note(json.loads(payload), tails)
                    read += 1

            await read_some(lambda: read > len(stored) // 2)
            assert relay.held_bytes, "the answer is still being sent"
            await writer.accept(*live[100:])
            await writer.accept(FENCE)
            await read_some(lambda: all(tail.is_complete for tail in tails.values()))
            send_at_once(reader, ["REQ", "end", {"limit": 0}])
            tails["end"] = Tail(())
            await read_some(lambda: bool(tails["end"].ends))
            for sub_id in ("0", "1"):
                assert tails[sub_id].faults([*stored, *live, FENCE]) == []
            assert relay.held_bytes == 0

    run_async(main())


@on_relay(default_limit=5000)
async def test_event_that_is_deleted_while_the_answer_is_held_back(relay: TestedRelay) -> None:
    """It may come before the deletion or not at all, and everything else comes once."""
    stored = [fake_event(0, 1, NOW_S - n, content=f"{n}" + "x" * 40_000) for n in range(300)]
    await relay.fill(stored)
    victim = stored[-1]
    deletion = make_event(0, 5, NOW_S + 1, [["e", victim.event.id]])
    tails = {"s": Tail((Filter(),))}
    async with relay.slow_client() as reader, relay.client() as writer:
        send_at_once(reader, ["REQ", "s", {}])
        await until(lambda: relay.store.queries, "the query")
        await writer.accept(deletion, FENCE)
        while not tails["s"].is_complete:
            _, payload = await reader.receive_frame()
            note(json.loads(payload), tails)
    assert tails["s"].faults([*stored[:-1], deletion, FENCE]) == []
