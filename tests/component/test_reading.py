"""What a client reads, over real sockets: subscriptions, their stored answers and live tails, and counts."""

from typing import Any

from tests.component.relay_server import TestedRelay, on_relay, read_messages, send_at_once
from tests.factory import KEYS, NOW_S, fake_event, make_event
from tests.wsclient import until

from orly.nostr.event import EncodedEvent
from orly.nostr.tags import TAG_LETTERS
from orly.relay.reading import MAX_COUNTS, MAX_LOADING
from orly.store.base import StoreError


def ids_of(*events: EncodedEvent) -> list[str]:
    return [event.event.id for event in events]


def newest_first(count: int, **changes: Any) -> list[EncodedEvent]:
    return [fake_event(created_at=NOW_S - n, content=str(n), **changes) for n in range(count)]


# REQ


@on_relay()
async def test_stored_answer_is_newest_first_and_stays_open(relay: TestedRelay) -> None:
    events = newest_first(5)
    await relay.fill(events[::-1])
    async with relay.client() as client, relay.client() as other:
        assert await client.request("s", {"kinds": [1]}) == ids_of(*events)
        for n in range(3):
            event = make_event(1, content=f"live {n}")
            await other.accept(event)
            assert await client.next_event("s") == event.event.id
        assert client.inbox == [], "no CLOSED after EOSE, and nothing twice"


@on_relay()
async def test_several_filters_are_a_union_with_own_limits(relay: TestedRelay) -> None:
    mine, yours, liked = newest_first(5, key=0), newest_first(5, key=1), newest_first(3, key=2, kind=7)
    await relay.fill([*mine, *yours, *liked])
    async with relay.client() as client:
        answer = await client.request(
            "s", {"authors": [KEYS[0]], "limit": 2}, {"authors": [KEYS[0], KEYS[1]], "limit": 3}, {"kinds": [7]}
        )
        assert len(answer) == len(set(answer)), "what two filters match comes once"
        assert set(answer) >= set(ids_of(*mine[:2], *liked))
        assert set(answer) <= set(ids_of(*mine[:3], *yours[:3], *liked))


@on_relay()
async def test_limit_zero_is_eose_at_once_then_live(relay: TestedRelay) -> None:
    await relay.fill(newest_first(3))
    async with relay.client() as client:
        assert await client.request("s", {"kinds": [1], "limit": 0}) == []
        event = make_event(content="live")
        await client.accept(event)
        assert await client.next_event("s") == event.event.id


@on_relay()
async def test_limit_zero_does_not_wait_for_answers_that_are_held_back(relay: TestedRelay) -> None:
    big = [fake_event(content=str(n) + "x" * 60_000) for n in range(200)]
    await relay.fill(big)
    async with relay.slow_client() as client:
        send_at_once(client, *(["REQ", str(n), {"kinds": [1]}] for n in range(MAX_LOADING)))
        await until(lambda: len(relay.store.queries) == MAX_LOADING, "the queries")
        send_at_once(client, ["REQ", "waits", {"kinds": [2]}], ["REQ", "live", {"kinds": [2], "limit": 0}])
        await until(lambda: len(relay.store.queries) == MAX_LOADING + 1, "the query without an answer")
        assert relay.store.queries[-1].filters[0].limit == 0
        ends: list[str] = []
        n_events = 0
        while len(ends) < MAX_LOADING + 2:
            (message,) = await read_messages(client, 1)
            if message[0] == "EOSE":
                ends.append(message[1])
            else:
                n_events += 1
        assert n_events == MAX_LOADING * len(big)
        assert ends[0] == "live"
        assert ends.index("waits") > 1, "it began when another had ended"


@on_relay()
async def test_every_tag_letter(relay: TestedRelay) -> None:
    letters = sorted(TAG_LETTERS)
    assert len(letters) == 52
    events = {letter: make_event(tags=[[letter, "v", "not indexed"]], content=letter) for letter in letters}
    async with relay.client() as client, relay.client() as live:
        for letter in letters:
            await live.send("REQ", letter, {f"#{letter}": ["v"], "limit": 0})
        await live.fence()
        await client.accept(*events.values())
        for letter, event in events.items():
            assert await client.request("s", {f"#{letter}": ["v"]}) == ids_of(event)
            assert await client.request("s", {f"#{letter}": ["not indexed"]}) == []
            assert await live.next_event(letter) == event.event.id
        assert not [message for message in live.inbox if message[0] == "EVENT"]


@on_relay()
async def test_unknown_filter_keys_are_unsupported(relay: TestedRelay) -> None:
    async with relay.client() as client:
        for key in ("#ab", "search", "#é", "#1", "&t"):
            await client.send("REQ", "s", {key: ["x"]})
            assert (await client.closed_reason("s")).startswith("unsupported: ")


@on_relay()
async def test_ids_at_any_number_up_to_the_limit(relay: TestedRelay) -> None:
    stored = newest_first(3)
    await relay.fill(stored)
    unknown = [f"{n:064x}" for n in range(5001)]
    async with relay.client() as client:
        for count in (1, 50, 5000):
            asked = [*unknown[: count - 1], stored[1].event.id]
            assert await client.request("s", {"ids": asked}) == ids_of(stored[1])
        await client.send("REQ", "s", {"ids": unknown})
        reason = await client.closed_reason("s")
        assert reason == "invalid: filter ids has 5001 values, the maximum is 5000"


@on_relay()
async def test_fifty_unknown_ids_end_with_eose(relay: TestedRelay) -> None:
    async with relay.client() as client:
        assert await client.request("R", {"ids": [f"{n:064x}" for n in range(50)]}) == []
        assert client.inbox == []


@on_relay()
async def test_request_that_reuses_an_id_replaces(relay: TestedRelay) -> None:
    async with relay.client() as client:
        await client.request("R", {"kinds": [1]})
        await client.request("R", {"kinds": [7]})
        assert relay.n_subscriptions == 1
        note, like = make_event(content="note"), make_event(kind=7, content="like")
        await client.accept(note, like)
        assert await client.next_event("R") == like.event.id
        assert client.inbox == []


@on_relay()
async def test_refused_request_ends_the_subscription_it_would_replace(relay: TestedRelay) -> None:
    async with relay.client() as client:
        await client.request("R", {"kinds": [1]})
        await client.send("REQ", "R", {"kinds": "1"})
        assert (await client.closed_reason("R")).startswith("invalid: ")
        assert relay.n_subscriptions == 0


@on_relay()
async def test_close_stops_and_is_forgiving(relay: TestedRelay) -> None:
    async with relay.client() as client:
        await client.request("a", {"kinds": [1]})
        await client.request("b", {"kinds": [1]})
        await client.send("CLOSE", "a")
        await client.send("CLOSE", "a")
        await client.send("CLOSE", "never was")
        event = make_event()
        await client.accept(event)
        assert await client.next_event("b") == event.event.id
        assert client.inbox == []


@on_relay()
async def test_odd_subscription_ids_come_back_as_they_were(relay: TestedRelay) -> None:
    await relay.fill([fake_event()])
    async with relay.client() as client:
        for sub_id in ('quote"back\\slash', "\u2028é😀\x7f", "x" * 64, "]", "\x00\n"):
            assert await client.request(sub_id, {}) == ids_of(fake_event())
        await client.send("REQ", "x" * 65, {})
        assert (await client.next("NOTICE"))[1].startswith("invalid: ")


@on_relay()
async def test_subscriptions_end_with_their_connection(relay: TestedRelay) -> None:
    await relay.fill([fake_event(content=str(n) + "x" * 30_000) for n in range(300)])
    async with relay.client() as client:
        for n in range(20):
            await client.send("REQ", str(n), {"kinds": [1]})
        await until(lambda: relay.n_subscriptions == 20, "the subscriptions")
        client.socket.connection.transport.abort()
    await until(lambda: relay.n_subscriptions == 0, "the end of the subscriptions")


@on_relay()
async def test_store_that_fails_ends_the_subscription(relay: TestedRelay) -> None:
    async with relay.client() as client:
        relay.store.query_error = StoreError("the disk is gone")
        await client.send("REQ", "s", {})
        assert await client.closed_reason("s") == "error: the disk is gone"
        await client.send("COUNT", "c", {})
        assert await client.closed_reason("c") == "error: the disk is gone"
        assert relay.n_subscriptions == 0
        relay.store.query_error = None
        assert await client.request("s", {}) == []


@on_relay(query_timeout_s=5)
async def test_query_that_takes_too_long_is_closed(relay: TestedRelay) -> None:
    await relay.fill(newest_first(20))
    filters = [{"kinds": [1], "until": NOW_S - n, "limit": 1} for n in range(20)]
    async with relay.client() as client:
        relay.time.step_s = 1.0
        await client.send("REQ", "s", *filters)
        assert await client.closed_reason("s") == "error: the query took longer than 5 s"
        relay.time.step_s = 0.0
        assert relay.n_subscriptions == 0


# COUNT


@on_relay()
async def test_count(relay: TestedRelay) -> None:
    await relay.fill([*newest_first(5), *newest_first(3, kind=7)])
    async with relay.client() as client:
        assert await client.count("c", {"kinds": [1]}) == 5
        assert await client.count("c", {"kinds": [1]}, {"authors": [KEYS[0]]}) == 8, "distinct events"
        assert await client.count("c", {"kinds": [1], "limit": 2}) == 2
        assert await client.count("c", {"kinds": [9]}) == 0
        await client.send("COUNT", "c")
        assert (await client.closed_reason("c")).startswith("invalid: ")


@on_relay(default_limit=2, max_limit=3)
async def test_count_is_not_bounded_by_the_limits_on_answers(relay: TestedRelay) -> None:
    await relay.fill(newest_first(5))
    async with relay.client() as client:
        assert await client.count("c", {}) == 5


@on_relay()
async def test_counts_under_way_are_bounded(relay: TestedRelay) -> None:
    async with relay.client() as client:
        relay.store.hold_counts()
        for n in range(MAX_COUNTS + 1):
            await client.send("COUNT", str(n), {})
        assert (await client.closed_reason(str(MAX_COUNTS))).startswith("rate-limited: ")
        relay.store.release()
        for n in range(MAX_COUNTS):
            await client.next("COUNT", of=str(n))
        assert await client.count("again", {}) == 0


@on_relay()
async def test_counts_end_with_their_connection(relay: TestedRelay) -> None:
    async with relay.client() as client:
        relay.store.hold_counts()
        await client.send("COUNT", "c", {})
        await until(lambda: relay.store.queries, "the count")
