"""What becomes of events that a client publishes: the exact answers, and who sees them afterwards."""

from typing import Final

from tests.component.relay_server import TestedRelay, on_relay
from tests.factory import (
    KEYS,
    NOW_S,
    address_of,
    delete_event,
    event_json,
    expiring_event,
    gift_wrap,
    make_event,
    mined_event,
    vanish_event,
)
from tests.wsclient import until

from orly.nostr.event import EncodedEvent, compute_id
from orly.store.base import StoreError

OTHER_SIG: Final = make_event(content="another").event.sig


def text(event: EncodedEvent, **changes: object) -> str:
    return f'["EVENT",{event_json(event, **changes).decode()}]'


@on_relay()
async def test_stored_and_duplicate(relay: TestedRelay) -> None:
    event = make_event()
    async with relay.client() as client:
        assert await client.publish(event) == [["OK", event.event.id, True, ""]]
        duplicate = [["OK", event.event.id, True, "duplicate: already have this event"]]
        assert await client.publish(event) == duplicate
        await client.send_text(text(event, sig=OTHER_SIG))
        assert [await client.next("OK")] == duplicate, "known before the signature is looked at"
        assert await client.request("s", {}) == [event.event.id]


@on_relay()
async def test_duplicates_in_one_batch(relay: TestedRelay) -> None:
    event = make_event()
    async with relay.client() as client:
        relay.store.known_error = StoreError("no hint")
        answers = await client.publish(event, event, event)
        assert [answer[2:] for answer in answers] == [
            [True, ""],
            [True, "duplicate: already have this event"],
            [True, "duplicate: already have this event"],
        ]


@on_relay()
async def test_wrong_id_or_signature(relay: TestedRelay) -> None:
    event = make_event()
    async with relay.client() as client:
        for changes, reason in (
            ({"content": "changed"}, "invalid: id does not match the event"),
            ({"sig": OTHER_SIG}, "invalid: the signature does not match"),
            ({"sig": "00" * 64}, "invalid: the signature does not match"),
            ({"sig": event.event.sig.upper()}, "invalid: sig is not 128 lower-case hex digits"),
            ({"kind": 65_536}, "invalid: kind is outside 0..65535"),
        ):
            await client.send_text(text(event, **changes))
            assert await client.next("OK") == ["OK", event.event.id, False, reason]
        upper = event.event.id.upper()
        await client.send_text(text(event, id=upper))
        ok = await client.next("OK")
        assert ok[1:3] == [upper, False], "the id comes back as it was given"
        assert await client.count("c", {}) == 0
        await client.accept(event)


@on_relay()
async def test_key_that_is_not_on_the_curve(relay: TestedRelay) -> None:
    pubkey = "f" * 64
    event_id = compute_id(pubkey, NOW_S, 1, [], "")
    async with relay.client() as client:
        await client.send_text(text(make_event(), id=event_id, pubkey=pubkey, content=""))
        assert await client.next("OK") == ["OK", event_id, False, "invalid: the signature does not match"]


@on_relay()
async def test_time_limits(relay: TestedRelay) -> None:
    async with relay.client() as client:
        await client.accept(make_event(created_at=NOW_S + 900))
        reason = await client.refusal(make_event(created_at=NOW_S + 901))
        assert reason == "invalid: created_at is more than 900 s in the future"
        await client.accept(make_event(created_at=0))
        relay.time.now += 1
        await client.accept(make_event(created_at=NOW_S + 901))


@on_relay()
async def test_replaceable(relay: TestedRelay) -> None:
    old, new = (make_event(kind=10_002, created_at=NOW_S + n) for n in range(2))
    async with relay.client() as client:
        await client.accept(old, new)
        assert await client.refusal(old) == "duplicate: a newer version of this event is stored"
        assert await client.request("s", {"kinds": [10_002]}) == [new.event.id]
        assert await client.count("c", {"ids": [old.event.id]}) == 0


@on_relay()
async def test_addressable_tie_goes_to_the_lowest_id(relay: TestedRelay) -> None:
    low, high = sorted(
        (make_event(kind=30_023, tags=[["d", "x"]], content=str(n)) for n in range(2)), key=lambda each: each.id
    )
    async with relay.client() as client:
        await client.accept(high, low)
        assert (await client.refusal(high)).startswith("duplicate: ")
        assert await client.request("s", {}) == [low.event.id]


@on_relay()
async def test_deletion(relay: TestedRelay) -> None:
    note, article = make_event(), make_event(kind=30_023, tags=[["d", "x"]])
    deletion = delete_event(note, addresses=[address_of(article)], signed=True)
    async with relay.client() as client:
        await client.accept(note, article, deletion)
        assert await client.request("s", {}) == [deletion.event.id]
        for event in (note, article):
            assert await client.refusal(event) == "blocked: this event was deleted"
        newer = make_event(kind=30_023, tags=[["d", "x"]], created_at=NOW_S + 1)
        await client.accept(newer)
        assert await client.next_event("s") == newer.event.id


@on_relay()
async def test_deletion_by_a_stranger_has_no_effect(relay: TestedRelay) -> None:
    note = make_event()
    async with relay.client() as client:
        await client.accept(note, delete_event(note, key=1, signed=True))
        assert await client.request("s", {"kinds": [1]}) == [note.event.id]


@on_relay(relay_url="wss://relay.example.com")
async def test_vanish(relay: TestedRelay) -> None:
    note = make_event()
    async with relay.client() as client:
        await client.accept(note, vanish_event(signed=True))
        assert await client.refusal(note) == "blocked: its author, or recipient, asked to vanish"
        wrap = gift_wrap(KEYS[0], key=5, signed=True)
        assert await client.refusal(wrap) == "blocked: its author, or recipient, asked to vanish"
        await client.accept(make_event(created_at=NOW_S + 1))
        reason = await client.refusal(make_event(kind=62))
        assert reason == "invalid: a request to vanish must name a relay"


@on_relay()
async def test_expiration_to_the_second(relay: TestedRelay) -> None:
    async with relay.client() as client:
        assert await client.refusal(expiring_event(NOW_S, signed=True)) == "invalid: event has expired"
        event = expiring_event(NOW_S + 1, signed=True)
        await client.accept(event)
        assert await client.request("s", {}) == [event.event.id]
        relay.time.now += 1
        assert await client.request("s", {}) == []
        assert await client.count("c", {}) == 0


@on_relay(min_pow_difficulty=8)
async def test_work(relay: TestedRelay) -> None:
    async with relay.client() as client:
        await client.accept(mined_event(8, signed=True))
        assert await client.refusal(mined_event(7, signed=True)) == "pow: difficulty 7 is less than 8"


@on_relay()
async def test_protected_event(relay: TestedRelay) -> None:
    event = make_event(tags=[["-"]])
    async with relay.client() as client:
        reason = await client.refusal(event)
        assert reason == "auth-required: a protected event is taken from its author only"
        await client.authenticate(relay.url, key=1, at_s=NOW_S)
        reason = await client.refusal(event)
        assert reason == "restricted: a protected event is taken from its author only"
    async with relay.client() as client:
        assert (await client.refusal(event)).startswith("auth-required: ")
        await client.authenticate(relay.url, key=0, at_s=NOW_S)
        await client.accept(event)
        repost = make_event(1, kind=6, content=event.raw.decode())
        assert await client.refusal(repost) == "blocked: a repost must not embed a protected event"


@on_relay()
async def test_credentials_are_not_stored(relay: TestedRelay) -> None:
    async with relay.client() as client:
        for kind in (22_242, 27_235):
            reason = await client.refusal(make_event(kind=kind))
            assert reason == f"invalid: kind {kind} is a credential and is not published"


@on_relay()
async def test_store_that_fails(relay: TestedRelay) -> None:
    events = [make_event(content=str(n)) for n in range(3)]
    async with relay.client() as client:
        relay.store.save_error = StoreError("no room is left")
        answers = await client.publish(*events)
        assert [answer[1:] for answer in answers] == [
            [event.event.id, False, "error: no room is left"] for event in events
        ]
        relay.store.save_error = None
        await client.accept(*events)


@on_relay()
async def test_what_comes_back_is_what_was_stored(relay: TestedRelay) -> None:
    """Byte for byte the canonical JSON, stored or live, whatever spelling it came in."""
    event = make_event(tags=[["t", "é\u2028"], ["e"]], content='\x00\x7f\\"\n/😀')
    async with relay.client() as client, relay.client() as live:
        await live.request("s", {"limit": 0})
        await client.send_text(f'["EVENT", {event_json(event, unknown=[1]).decode()} ]')
        assert (await client.next("OK"))[2] is True
        expected = f'["EVENT","s",{event.raw.decode()}]'
        assert await live.socket.receive_text() == expected
        await client.send("REQ", "s", {})
        assert await client.socket.receive_text() == expected


# Ephemeral events


@on_relay()
async def test_ephemeral_is_delivered_and_not_stored(relay: TestedRelay) -> None:
    event = make_event(kind=20_001)
    async with relay.client() as client, relay.client() as live:
        assert await live.request("s", {"kinds": [20_001]}) == []
        assert await client.publish(event) == [["OK", event.event.id, True, ""]]
        assert await live.next_event("s") == event.event.id
        assert await client.request("s", {"kinds": [20_001]}) == []
        assert await client.count("c", {"ids": [event.event.id]}) == 0


@on_relay()
async def test_ephemeral_echo_is_not_delivered_twice(relay: TestedRelay) -> None:
    event, marker = make_event(kind=20_001), make_event(kind=20_001, content="marker")
    duplicate = [True, "duplicate: already have this event"]
    async with relay.client() as client, relay.client() as other, relay.client() as live:
        await live.request("s", {"kinds": [20_001]})
        answers = await client.publish(event, event, event)
        assert [answer[2:] for answer in answers] == [[True, ""], duplicate, duplicate]
        assert [answer[2:] for answer in await other.publish(event)] == [duplicate]
        await client.accept(marker)
        assert await live.next_event("s") == event.event.id
        assert await live.next_event("s") == marker.event.id


@on_relay()
async def test_ephemeral_echo_of_one_on_its_way(relay: TestedRelay) -> None:
    event = make_event(kind=20_001)
    async with relay.client() as client, relay.client() as other:
        relay.store.hold_saves()
        await client.send_text(text(event))
        await until(lambda: len(relay.store.saved) == 1, "the first save")
        await other.send_text(text(event))
        await other.send_text(text(make_event()))
        await until(lambda: len(relay.store.saved) == 2, "the second save")
        relay.store.release()
        assert (await client.next("OK"))[2:] == [True, ""]
        assert (await other.next("OK"))[2:] == [True, "duplicate: already have this event"]
    assert sum(batch.count(event) for batch in relay.store.saved) == 1


@on_relay()
async def test_forged_copy_does_not_keep_out_an_ephemeral_event(relay: TestedRelay) -> None:
    event = make_event(kind=20_001)
    async with relay.client() as client:
        await client.send_text(text(event, sig=OTHER_SIG))
        assert (await client.next("OK"))[2:] == [False, "invalid: the signature does not match"]
        assert await client.publish(event) == [["OK", event.event.id, True, ""]]


@on_relay()
async def test_ephemeral_that_failed_may_be_sent_again(relay: TestedRelay) -> None:
    event = make_event(kind=20_001)
    async with relay.client() as client:
        relay.store.save_error = StoreError("away")
        assert await client.refusal(event) == "error: away"
        relay.store.save_error = None
        assert await client.publish(event) == [["OK", event.event.id, True, ""]]
