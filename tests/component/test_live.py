"""The live feed: every subscription that matches, once, in order; and what happens when the feed ends."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.component.relay_server import FakePeer, TestedRelay, on_relay, running_relay
from tests.component.store_proxy import StoreProxy
from tests.factory import KEYS, NOW_S, fake_event, make_event
from tests.transport import run_async
from tests.wsclient import http, until

from orly.nostr.event import EncodedEvent
from orly.nostr.filter import Filter
from orly.relay.live import DELIVERIES_PER_TURN, LiveFeed
from orly.relay.session import RelaySession
from orly.store.base import EventStore, FeedBatch, HiddenKey, StoredEvent, StoreError


def sent_events(peer: FakePeer) -> list[tuple[str, str]]:
    return [(message[1], message[2]["id"]) for message in peer.sent if message[0] == "EVENT"]


@on_relay()
async def test_one_connection_with_many_matching_subscriptions(relay: TestedRelay) -> None:
    filters: dict[str, dict[str, Any]] = {
        "all": {},
        "kind": {"kinds": [1]},
        "author": {"authors": [KEYS[0]]},
        "tag": {"#t": ["x"]},
        "time": {"since": NOW_S},
        "miss": {"#t": ["y"]},
    }
    event = make_event(tags=[["t", "x"]])
    async with relay.client() as client, relay.client() as publisher:
        for sub_id, wanted in filters.items():
            await client.request(sub_id, wanted)
        await publisher.accept(event)
        for sub_id in filters.keys() - {"miss"}:
            assert await client.next_event(sub_id) == event.event.id
        await client.fence()
        assert client.inbox == []


@on_relay()
async def test_order_is_that_of_storing(relay: TestedRelay) -> None:
    events = [make_event(created_at=NOW_S - n, content=str(n)) for n in range(300)]
    async with relay.client() as client, relay.client() as publisher:
        await client.request("s", {})
        await publisher.accept(*events)
        assert [await client.next_event("s") for _ in events] == [event.event.id for event in events]


@on_relay()
async def test_what_is_hidden_is_not_delivered(relay: TestedRelay) -> None:
    hidden, seen = make_event(0), make_event(1)
    await relay.store.hide([HiddenKey(hidden.pubkey, True)])
    async with relay.client() as client, relay.client() as publisher:
        await client.request("s", {})
        await publisher.accept(hidden, seen)
        assert await client.next_event("s") == seen.event.id
        await client.fence()
        assert client.inbox == []
        assert await client.request("t", {}) == [seen.event.id]


@on_relay()
async def test_refused_events_are_not_delivered(relay: TestedRelay) -> None:
    old, new = (make_event(kind=10_002, created_at=NOW_S + n) for n in range(2))
    marker = make_event(content="marker")
    async with relay.client() as client, relay.client() as publisher:
        await client.request("s", {})
        await publisher.accept(new)
        await publisher.publish(old, new, fake_event())
        await publisher.accept(marker)
        assert [await client.next_event("s") for _ in range(2)] == [new.event.id, marker.event.id]


@on_relay()
async def test_events_from_another_door_are_delivered(relay: TestedRelay) -> None:
    event = fake_event()
    async with relay.client() as client:
        await client.request("s", {})
        await relay.fill([event])
        assert await client.next_event("s") == event.event.id


@on_relay()
async def test_subscription_that_ends_while_it_is_delivered_to(relay: TestedRelay) -> None:
    """The bound on what is held back is reached in the middle of a batch of the feed: the others still get it all."""
    peer, other = FakePeer(), FakePeer()
    await relay.fill([fake_event(created_at=NOW_S - n, content="x" * 1000 + str(n)) for n in range(200)])
    peer.can_write = False
    held, free = RelaySession(peer, relay.context), RelaySession(other, relay.context)
    held.receive([b'["REQ","a",{}]', b'["REQ","b",{}]'])
    free.receive([b'["REQ","s",{"limit":0}]'])
    live = [fake_event(kind=7, content=str(n) + "x" * 200_000) for n in range(15)]
    await relay.fill(live)
    await until(lambda: len(sent_events(other)) == len(live), "the live events")
    closed = [message for message in peer.sent if message[0] == "CLOSED"]
    assert len(closed) == 1
    held.closed()
    free.closed()


class _ToldFeed(StoreProxy):
    """A store whose feed says what it is told to."""

    def __init__(self, batches: list[FeedBatch]) -> None:
        self._batches = batches

    async def _run(self) -> AsyncIterator[FeedBatch]:
        for batch in self._batches:
            yield batch

    def feed(self, after_serial: int | None) -> AsyncIterator[FeedBatch]:
        assert after_serial is None, "what was stored before is not told"
        return self._run()


class _Subscriber:
    def __init__(self, sub_id: str) -> None:
        self.filters: tuple[Filter, ...] = (Filter(),)
        self.stamp = 0
        self.prefix = f'["EVENT","{sub_id}",'.encode()
        self.got: list[tuple[int, str, bytes]] = []

    def deliver(self, serial: int, event: EncodedEvent, frame: bytes, *, is_hidden: bool) -> None:
        assert not is_hidden
        self.got.append((serial, event.event.id, frame))


def test_large_batch_lets_others_have_their_turns() -> None:
    events = [StoredEvent(n + 1, fake_event(content=str(n))) for n in range(1000)]
    passing = fake_event(kind=20_001)
    batches = [FeedBatch(through_serial=1000, stored=tuple(events), ephemeral=(passing,))] * 2

    async def main() -> None:
        feed = LiveFeed(_ToldFeed(batches), lambda events: None)
        subscribers = [_Subscriber(f"s{n % 3}") for n in range(20)]
        for subscriber in subscribers:
            feed.index.add(subscriber)
        turns = 0
        task = asyncio.create_task(feed.run())
        while not task.done():
            before = sum(len(each.got) for each in subscribers)
            await asyncio.sleep(0)
            turns += 1
            done = sum(len(each.got) for each in subscribers) - before
            assert done <= DELIVERIES_PER_TURN + len(subscribers)
        assert turns > 2 * 1001 * 20 // DELIVERIES_PER_TURN
        for subscriber in subscribers:
            serials = [serial for serial, _, _ in subscriber.got]
            assert serials == [*range(1, 1001), 0] * 2
        by_prefix = {subscriber.prefix: subscriber.got[0][2] for subscriber in subscribers}
        assert all(each.got[0][2] is by_prefix[each.prefix] for each in subscribers[-3:]), "frames are shared"

    run_async(main())


class _BrokenFeed(StoreProxy, AsyncIterator[FeedBatch]):
    """Its feed fails once it is told to."""

    def __init__(self, inner: EventStore) -> None:
        super().__init__(inner)
        self.broken = asyncio.Event()

    def feed(self, after_serial: int | None) -> AsyncIterator[FeedBatch]:
        return self

    async def __anext__(self) -> FeedBatch:
        await self.broken.wait()
        raise StoreError("the feed broke")


def test_relay_ends_with_the_reason_when_its_feed_breaks(tmp_path: Path) -> None:
    async def main() -> None:
        async with running_relay(tmp_path, wrap=_BrokenFeed) as relay, relay.client() as client:
            assert (await http(relay.url, path="/health")).status == 200
            await client.request("s", {})
            assert isinstance(relay.store, _BrokenFeed)
            relay.store.broken.set()
            assert await client.socket.closed() == (1001, "relay is stopping")

    with pytest.raises(StoreError, match="the feed broke"):
        run_async(main())
