"""Every limit on what a client may ask and send, exactly at its edge, as a client sees it."""

import json
from typing import Any, Final

from tests.component.relay_client import NostrClient
from tests.component.relay_server import TestedRelay, on_relay, read_messages, send_at_once
from tests.factory import NOW_S, fake_event, make_event
from tests.wsclient import until

from orly.relay.reading import MAX_LOADING
from orly.relay.subscription import MAX_HELD_BYTES

KINDS: Final = [[kind] for kind in range(1, 10)]


@on_relay(max_filters=3)
async def test_filters_of_a_request(relay: TestedRelay) -> None:
    async with relay.client() as client:
        assert await client.request("s", {}, {}, {}) == []
        assert await client.count("c", {}, {}, {}) == 0
        for verb in ("REQ", "COUNT"):
            await client.send(verb, "s", {}, {}, {}, {})
            assert await client.closed_reason("s") == "invalid: 4 filters, the maximum is 3"


@on_relay(max_filter_values=3)
async def test_values_of_a_filter(relay: TestedRelay) -> None:
    hexes = [f"{n:064x}" for n in range(4)]
    lists: dict[str, list[Any]] = {"ids": hexes, "authors": hexes, "kinds": [1, 2, 3, 5], "#t": hexes}
    async with relay.client() as client:
        for name, values in lists.items():
            assert await client.request("s", {name: values[:3]}) == []
            for verb in ("REQ", "COUNT"):
                await client.send(verb, "s", {name: values})
                assert await client.closed_reason("s") == f"invalid: filter {name} has 4 values, the maximum is 3"
        assert await client.request("s", {name: values[:3] for name, values in lists.items()}) == []


@on_relay(max_filter_values=5)
async def test_values_of_all_open_subscriptions(relay: TestedRelay) -> None:
    """Twenty of the largest filters may be open, however they are spread."""
    full: dict[str, Any] = {"kinds": [1, 2, 3, 4, 5]}
    async with relay.client() as client, relay.client() as other:
        await client.request("half", *[full] * 10)
        await client.request("rest", *[full] * 10)
        await client.send("REQ", "more", {"kinds": [1]})
        assert await client.closed_reason("more") == (
            "blocked: the open subscriptions of this connection would name 101 ids, authors, kinds and tag values, "
            "the maximum is 100"
        )
        assert await client.request("more", {}) == [], "no values are none too many"
        assert await other.request("s", {"kinds": [1]}) == [], "others are not concerned"
        assert await client.request("rest", *[full] * 9, {"kinds": [1, 2, 3, 4]}) == [], "what is replaced is free"
        assert await client.request("more", {"kinds": [1]}) == []
        await client.send("CLOSE", "half")
        assert await client.request("again", *[full] * 10) == []


@on_relay(max_subscriptions_per_connection=3)
async def test_subscriptions_of_a_connection(relay: TestedRelay) -> None:
    async with relay.client() as client, relay.client() as other:
        for sub_id in ("a", "b", "c"):
            await client.request(sub_id, {})
        await client.send("REQ", "d", {})
        reason = "blocked: this connection has 3 subscriptions, the maximum"
        assert await client.closed_reason("d") == reason
        assert await client.request("b", {}) == [], "to replace one is always possible"
        assert await other.request("d", {}) == []
        await client.send("CLOSE", "a")
        assert await client.request("d", {}) == []
        event = make_event()
        await client.accept(event)
        for sub_id in ("b", "c", "d"):
            assert await client.next_event(sub_id) == event.event.id


@on_relay(max_subscriptions=3)
async def test_subscriptions_in_all(relay: TestedRelay) -> None:
    async with relay.client() as client:
        async with relay.client() as other:
            await client.request("a", {})
            await client.request("b", {})
            await other.request("a", {})
            await client.send("REQ", "c", {})
            reason = "blocked: the relay has as many subscriptions as it takes, try again later"
            assert await client.closed_reason("c") == reason
            assert await client.request("a", {}) == []
        await until(lambda: relay.n_subscriptions == 2, "the end of the other connection")
        assert await client.request("c", {}) == []


@on_relay(default_limit=3, max_limit=5)
async def test_stored_events_of_a_filter(relay: TestedRelay) -> None:
    events = [fake_event(created_at=NOW_S - n) for n in range(8)]
    ids = [event.event.id for event in events]
    await relay.fill(events)
    async with relay.client() as client:
        for limit, expected in ((None, 3), (0, 0), (1, 1), (4, 4), (5, 5), (6, 5), (2**70, 5)):
            wanted = {} if limit is None else {"limit": limit}
            assert await client.request("s", wanted) == ids[:expected]
        assert await client.request("s", {"ids": ids}) == ids[:3]
        assert await client.request("s", {"limit": 5}, {"until": NOW_S - 6}) == [*ids[:5], *ids[6:]]


@on_relay(max_event_bytes=2000)
async def test_size_of_an_event(relay: TestedRelay) -> None:
    empty = len(make_event().raw)
    fits, too_big = (make_event(content="x" * (size - empty)) for size in (2000, 2001))
    async with relay.client() as client:
        await client.accept(fits)
        assert await client.refusal(too_big) == "invalid: event has 2001 bytes, the maximum is 2000"


@on_relay(max_message_bytes=8192)
async def test_size_of_a_message(relay: TestedRelay) -> None:
    async with relay.client() as client:
        await client.send_text('["CLOSE","s"]' + " " * (8192 - 13))
        await client.fence()
        assert client.inbox == []
        await client.send_text('["CLOSE","s"]' + " " * (8193 - 13))
        code, _ = await client.socket.closed()
        assert code == 1009


@on_relay(max_event_tags=3)
async def test_tags_of_an_event(relay: TestedRelay) -> None:
    async with relay.client() as client:
        await client.accept(make_event(tags=[["t", "x"]] * 3))
        reason = await client.refusal(make_event(tags=[["t", "x"]] * 4))
        assert reason == "invalid: event has 4 tags, the maximum is 3"


@on_relay(max_created_at_past_s=60, max_created_at_future_s=10)
async def test_age_of_an_event(relay: TestedRelay) -> None:
    async with relay.client() as client:
        await client.accept(make_event(created_at=NOW_S - 60), make_event(created_at=NOW_S + 10))
        reason = await client.refusal(make_event(created_at=NOW_S - 61))
        assert reason == "invalid: created_at is more than 60 s in the past"
        reason = await client.refusal(make_event(created_at=NOW_S + 11))
        assert reason == "invalid: created_at is more than 10 s in the future"


def outcomes(answers: list[list[Any]]) -> list[bool]:
    for answer in answers:
        expected = "" if answer[2] else "rate-limited: too many events on this connection, slow down"
        assert answer[3] == expected
    return [answer[2] for answer in answers]


@on_relay(max_events_per_second=2, max_events_burst=3)
async def test_events_per_second(relay: TestedRelay) -> None:
    events = [make_event(content=str(n)) for n in range(20)]

    async def publish(client: NostrClient, count: int) -> list[bool]:
        answers = await client.publish(*(events.pop() for _ in range(count)))
        return outcomes(answers)

    async with relay.client() as client, relay.client() as other:
        assert await publish(client, 4) == [True, True, True, False]
        assert await publish(other, 1) == [True], "each connection has its own"
        relay.time.steady += 0.49
        assert await publish(client, 1) == [False]
        relay.time.steady += 0.01
        assert await publish(client, 2) == [True, False]
        relay.time.steady += 1000
        assert await publish(client, 4) == [True, True, True, False]
        assert await client.request("s", {"limit": 0}) == [], "only events are counted"


@on_relay(max_events_per_second=0, max_events_burst=1)
async def test_no_limit_on_events_per_second(relay: TestedRelay) -> None:
    async with relay.client() as client:
        await client.accept(*(make_event(content=str(n)) for n in range(50)))


@on_relay()
async def test_what_is_held_back_for_a_slow_reader(relay: TestedRelay) -> None:
    """Events that come while a stored answer is read slowly are kept up to a bound; then the subscription ends."""
    stored = [fake_event(content=str(n) + "x" * 60_000) for n in range(200)]
    live = [fake_event(kind=7, content=str(n) + "x" * 100_000) for n in range(2 * MAX_HELD_BYTES // 100_000)]
    await relay.fill(stored)
    async with relay.slow_client() as client:
        # Two of them share the bound.
        send_at_once(client, ["REQ", "a", {}], ["REQ", "b", {}], ["REQ", "c", {"kinds": [1]}])
        await until(lambda: len(relay.store.queries) == 3, "the queries")
        await relay.fill(live[:5])
        await until(lambda: relay.held_bytes > 2 * 5 * 100_000, "what is held back")
        await relay.fill(live[5:])
        await until(lambda: relay.n_subscriptions < 3, "the end of one subscription")
        assert relay.held_bytes <= MAX_HELD_BYTES
        seen: dict[str, list[str]] = {"a": [], "b": [], "c": []}
        open_subs = set(seen)
        while open_subs:
            (message,) = await read_messages(client, 1)
            seen[message[1]].append(message[0] if len(message) == 2 else message[2])
            if message[0] != "EVENT":
                open_subs.discard(message[1])
    expected = "error: too much happened before the stored events were read"
    assert expected in (seen["a"][-1], seen["b"][-1])
    assert seen["c"][-1] == "EOSE"
    assert len(seen["c"]) == len(stored) + 1


@on_relay()
async def test_subscriptions_that_wait_for_their_turn_hold_nothing_that_is_stored(relay: TestedRelay) -> None:
    stored = [fake_event(content=str(n) + "x" * 60_000) for n in range(200)]
    await relay.fill(stored)
    event, passing = make_event(kind=7), make_event(kind=20_001)
    async with relay.slow_client() as client, relay.client() as publisher:
        send_at_once(client, *(["REQ", str(n), {"kinds": [1]}] for n in range(MAX_LOADING)))
        send_at_once(client, ["REQ", "waits", {"kinds": [7, 20_001]}])
        await until(lambda: relay.n_subscriptions == MAX_LOADING + 1, "the subscriptions")
        await publisher.accept(event)
        await publisher.accept(passing)
        await until(lambda: relay.held_bytes, "the ephemeral event")
        assert len(relay.store.queries) == MAX_LOADING
        assert relay.held_bytes < 2 * len(passing.raw)
        answer: list[Any] = []
        while len(answer) < 3:
            (message,) = await read_messages(client, 1)
            if message[1] == "waits":
                answer.append(message)
    assert answer == [
        ["EVENT", "waits", json.loads(event.raw)],
        ["EOSE", "waits"],
        ["EVENT", "waits", json.loads(passing.raw)],
    ]
