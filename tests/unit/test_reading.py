"""How many subscriptions of a client are answered at once, and when the store is asked."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from tests.component.relay_server import FakePeer

from orly.nostr.filter import Filter
from orly.nostr.reason import Prefix, Refusal
from orly.relay.reading import MAX_LOADING, Reading
from orly.relay.subscriptions import SubscriptionIndex
from orly.store.base import Query, QuerySink

BANNED = Refusal(Prefix.BLOCKED, "you are banned")
FILTERS = (Filter(kinds=frozenset({1})),)


class Handle:
    """A query that is over when the test says so."""

    def resume(self) -> None:
        pass

    def cancel(self) -> None:
        pass


class SilentStore:
    """Remembers who asks, and answers nobody."""

    def __init__(self, *, answers_later: bool) -> None:
        self.ANSWERS_LATER = answers_later
        self.sinks: list[QuerySink] = []
        self.counted: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def query(self, query: Query, sink: QuerySink) -> Handle:
        assert query.filters == FILTERS
        self.sinks.append(sink)
        return Handle()

    async def count(self, query: Query) -> int:
        return await self.counted


def make_reading(store: SilentStore, peer: FakePeer | None = None) -> Reading:
    rules = SimpleNamespace(
        privileged_open=False,
        max_subscriptions=1_000,
        max_total_subscriptions=1_000,
        max_open_values=1_000,
        default_limit=500,
        max_limit=500,
        query_timeout_s=30.0,
        full_sync_pubkeys=frozenset(),
    )
    context: Any = SimpleNamespace(
        rules=rules,
        store=store,
        live=SimpleNamespace(index=SubscriptionIndex()),
        loop=asyncio.get_running_loop(),
    )
    return Reading(peer or FakePeer(), context)


@pytest.mark.parametrize(("answers_later", "asked_at_once"), [(True, MAX_LOADING), (False, 1)])
def test_only_a_store_that_answers_later_is_asked_at_a_stretch(answers_later: bool, asked_at_once: int) -> None:
    async def main() -> None:
        store = SilentStore(answers_later=answers_later)
        reading = make_reading(store)
        reading.open("first", FILTERS)
        assert len(store.sinks) == 1
        for _ in range(3 * MAX_LOADING):  # as many turns of the loop as there could be questions
            await asyncio.sleep(0)
        for number in range(2 * MAX_LOADING):
            reading.open(str(number), FILTERS)
        for _ in range(3 * MAX_LOADING):
            await asyncio.sleep(0)
        assert len(store.sinks) == MAX_LOADING, "the others wait"
        waiting_before = len(store.sinks)
        for sink in store.sinks[:MAX_LOADING]:
            sink.done(0)
        assert len(store.sinks) == waiting_before, "an answer is not the time to ask"
        await asyncio.sleep(0)
        assert len(store.sinks) == waiting_before + asked_at_once
        for _ in range(3 * MAX_LOADING):
            await asyncio.sleep(0)
        assert len(store.sinks) == 2 * MAX_LOADING

    asyncio.run(main())


@pytest.mark.parametrize("n_turns", [0, 1, 2])
def test_a_count_that_is_refused_under_way_is_answered_once(n_turns: int) -> None:
    """Whether it waits for the store, has just been counted, or has just been answered."""

    async def main() -> None:
        store, peer = SilentStore(answers_later=False), FakePeer()
        reading = make_reading(store, peer)
        reading.count("c", FILTERS)
        await asyncio.sleep(0)
        if n_turns:
            store.counted.set_result(7)
        if n_turns > 1:  # behind the answer, before what is done with a count that is over
            asyncio.get_running_loop().call_soon(reading.refuse_all, BANNED)
        else:
            reading.refuse_all(BANNED)
            reading.refuse_all(BANNED)
        for _ in range(4):
            await asyncio.sleep(0)
        assert peer.sent == [["COUNT", "c", {"count": 7}] if n_turns > 1 else ["CLOSED", "c", str(BANNED)]]
        assert reading.is_idle

    asyncio.run(main())
