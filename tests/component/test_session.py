"""What a client may say and what it is answered, and in which order, over real sockets."""

import json
from typing import Any

from tests.component.relay_client import NostrClient
from tests.component.relay_server import FakePeer, TestedRelay, on_relay, read_messages, send_at_once
from tests.factory import NOW_S, event_json, fake_event, make_event
from tests.wsclient import until

from orly.nostr.event import EncodedEvent
from orly.relay import session
from orly.relay.session import RelaySession


def ids_of(*events: EncodedEvent) -> list[str]:
    return [event.event.id for event in events]


def newest_first(count: int, **changes: Any) -> list[EncodedEvent]:
    return [fake_event(created_at=NOW_S - n, content=str(n), **changes) for n in range(count)]


# Order


@on_relay()
async def test_request_in_the_same_segment_sees_the_event(relay: TestedRelay) -> None:
    event = make_event()
    async with relay.raw_client() as client:
        send_at_once(client, b'["EVENT",' + event.raw + b"]", ["REQ", "s", {"ids": ids_of(event)}])
        ok, found, eose = await read_messages(client, 3)
    assert ok == ["OK", event.event.id, True, ""]
    assert (found[0], found[2]["id"], eose) == ("EVENT", event.event.id, ["EOSE", "s"])


@on_relay()
async def test_bursts_keep_their_order(relay: TestedRelay) -> None:
    """One good event in ten, so that most answers need no disk; now and then comes a request."""
    burst = 2500
    events = [make_event(content=str(n)) for n in range(0, burst, 10)]
    messages: list[Any] = []
    expected: list[tuple[str, str]] = []
    for n in range(burst):
        event = events[n // 10]
        raw = event.raw if n % 10 == 0 else event_json(event, sig=f"{n:0128x}")
        messages.append(b'["EVENT",' + raw + b"]")
        expected.append(("OK", event.event.id))
        if n % 500 == 99:
            messages += [["REQ", str(n), {"ids": [event.event.id]}], ["CLOSE", str(n)]]
            expected += [("EVENT", str(n)), ("EOSE", str(n))]
    async with relay.raw_client() as client:
        send_at_once(client, *messages)
        answers = await read_messages(client, len(expected))
    assert [(answer[0], answer[1]) for answer in answers] == expected
    assert all(len(answer) == 4 for answer in answers if answer[0] == "OK")
    assert [answer[2] for answer in answers if answer[0] == "OK"][::10] == [True] * len(events)


@on_relay()
async def test_refusals_do_not_overtake_what_is_being_stored(relay: TestedRelay) -> None:
    good, bad = make_event(content="good"), make_event(content="bad", created_at=NOW_S + 10_000)
    async with relay.client() as client:
        relay.store.hold_saves()
        await client.send("EVENT", json.loads(good.raw))
        await until(lambda: relay.store.saved, "the first batch")
        await client.send("EVENT", json.loads(bad.raw))
        await client.send("EVENT", {"id": "x"})
        await until(lambda: not relay.context.ingest._queue, "the second batch")
        relay.store.release()
        answers = [await client.next("OK") for _ in range(3)]
    assert [answer[1] for answer in answers] == [*ids_of(good, bad), "x"]
    assert [answer[2] for answer in answers] == [True, False, False]


@on_relay()
async def test_costly_requests_take_turns(relay: TestedRelay) -> None:
    """With a clock that makes everything look slow, each request of a segment is handled in a turn of its own."""
    relay.time.step_s = session.TURN_S
    await relay.fill(newest_first(3))
    peer = FakePeer()
    own = RelaySession(peer, relay.context)
    own.receive([f'["REQ","{n}",{{"limit":1}}]'.encode() for n in range(50)])
    assert len(relay.store.queries) == 1
    assert not peer.reads(), "what is not handled yet holds back more"
    await until(lambda: len(peer.sent) == 100, "the answers")
    assert [answer[1] for answer in peer.sent] == [str(n) for n in range(50) for _ in range(2)]
    assert peer.reads()
    own.closed()


@on_relay()
async def test_cheap_messages_take_turns(relay: TestedRelay) -> None:
    peer = FakePeer()
    own = RelaySession(peer, relay.context)
    own.receive([b'["NEG-CLOSE","s"]'] * (session.MESSAGES_PER_TURN + 1))
    assert len(peer.sent) == session.MESSAGES_PER_TURN
    await until(lambda: len(peer.sent) == session.MESSAGES_PER_TURN + 1, "the last answer")
    own.closed()


# Everything else


@on_relay()
async def test_negentropy_is_refused_in_its_own_words(relay: TestedRelay) -> None:
    async with relay.client() as client:
        await client.send("NEG-OPEN", "N", {}, "6100000200")
        message = await client.next("NEG-ERR", of="N")
        assert message[2].startswith("blocked: ")
        assert client.inbox == []


JUNK = (
    "",
    "no JSON",
    "{}",
    "[]",
    '["REQ"]',
    '["REQ",5,{}]',
    '["REQ","",{}]',
    '["EVENT"]',
    '["EVENT",{},{}]',
    '["SUBSCRIBE","s"]',
    '["NEG-OPEN"]',
    '["CLOSE",null]',
    "[" * 50_000,
    '"\\ud800"',
    '["REQ","\\ud800",{}]',
)


@on_relay()
async def test_junk_is_answered_with_a_notice(relay: TestedRelay) -> None:
    async with relay.client() as client:
        for junk in JUNK:
            await client.send_text(junk)
            notice = await client.next("NOTICE")
            assert len(notice) == 2, junk
            assert notice[1].startswith("invalid: "), junk
            assert client.inbox == [], junk
        assert await client.request("s", {}) == [], "the connection goes on"


@on_relay()
async def test_unreadable_filters_are_closed_by_name(relay: TestedRelay) -> None:
    unreadable: list[list[Any]] = [[], [5], [{"ids": ["x"]}], [{"limit": -1}], [{"kinds": [1.5]}]]
    async with relay.client() as client:
        for number, filters in enumerate(unreadable):
            sub_id = f"s{number}"
            await client.send("REQ", sub_id, *filters)
            assert (await client.closed_reason(sub_id)).startswith("invalid: ")
            await client.send("COUNT", sub_id, *filters)
            assert (await client.closed_reason(sub_id)).startswith("invalid: ")
        assert client.inbox == []


async def _junk(client: NostrClient, count: int) -> None:
    for _ in range(count):
        await client.send_text("junk")


@on_relay()
async def test_too_much_junk_in_a_row_ends_the_connection(relay: TestedRelay) -> None:
    async with relay.client() as client:
        await client.request("s", {"kinds": [1]})
        await _junk(client, session.MAX_UNREADABLE)
        await client.fence()
        await _junk(client, session.MAX_UNREADABLE)
        await client.fence()
        assert len([message for message in client.inbox if message[0] == "NOTICE"]) == 2 * session.MAX_UNREADABLE
        await _junk(client, session.MAX_UNREADABLE + 1)
        assert await client.socket.closed() == (1008, "too many unreadable messages")
        await until(lambda: relay.n_subscriptions == 0, "the end of its subscription")


@on_relay()
async def test_unreadable_events_get_an_ok_when_they_have_an_id(relay: TestedRelay) -> None:
    event = make_event()
    async with relay.client() as client:
        await client.send_text(f'["EVENT",{event_json(event, kind="1").decode()}]')
        assert (await client.next("OK"))[:3] == ["OK", event.event.id, False]
        for text in ('["EVENT",{}]', '["EVENT",null]', '["EVENT",[]]', '["EVENT",{"id":5}]'):
            await client.send_text(text)
            assert (await client.next("NOTICE"))[1].startswith("invalid: ")
        await client.send_text('["EVENT",{"id":"' + "x" * 65 + '"}]')
        assert (await client.next("NOTICE"))[1].startswith("invalid: "), "an id that long is not echoed"
        assert client.inbox == []


@on_relay()
async def test_white_space_does_not_change_a_message(relay: TestedRelay) -> None:
    event = make_event()
    async with relay.client() as client:
        await client.send_text(f' [ "EVENT" ,\n{json.dumps(json.loads(event.raw), indent=2)} ] ')
        assert (await client.next("OK"))[1:] == [event.event.id, True, ""]
        assert await client.request("s", {}) == ids_of(event)


def is_idle(own: RelaySession) -> bool:
    return own.is_idle


@on_relay()
async def test_idle_means_that_nothing_is_open_or_under_way(relay: TestedRelay) -> None:
    peer = FakePeer()
    own = RelaySession(peer, relay.context)
    assert is_idle(own)
    own.receive([b'["REQ","s",{}]'])
    assert not is_idle(own)
    own.receive([b'["CLOSE","s"]'])
    assert is_idle(own)
    relay.store.hold_saves()
    own.receive([b'["EVENT",' + make_event().raw + b"]"])
    assert not is_idle(own)
    relay.store.release()
    await until(lambda: peer.sent[-1][0] == "OK", "the answer")
    assert is_idle(own)
    relay.store.hold_counts()
    own.receive([b'["COUNT","c",{}]'])
    assert not is_idle(own)
    own.closed()
    await until(lambda: is_idle(own), "the end of the count")


@on_relay()
async def test_what_comes_after_the_end_is_ignored(relay: TestedRelay) -> None:
    peer = FakePeer()
    own = RelaySession(peer, relay.context)
    relay.store.hold_saves()
    event = b'["EVENT",' + make_event().raw + b"]"
    own.receive([event, b'["REQ","s",{}]', event])
    assert not peer.reads()
    own.closed()
    own.closed()
    own.receive([b'["REQ","t",{}]'])
    relay.store.release()
    await until(lambda: not relay.context.ingest._saves, "the save")
    own.writable()
    assert not peer.sent
    assert relay.n_subscriptions == 0
