"""Private kinds go to their parties only: stored, counted, looked up by id, and live."""

import json
from typing import Any, Final

from tests.component.relay_client import NostrClient
from tests.component.relay_server import TestedRelay, on_relay, read_messages, send_at_once
from tests.factory import KEYS, NOW_S, auth_event, fake_event, make_event
from tests.wsclient import until

from orly.nostr.event import EncodedEvent
from orly.nostr.kinds import PRIVATE_KINDS

AUTHOR, RECIPIENT, STRANGER = 0, 1, 2
SECRET: Final = make_event(AUTHOR, 4, NOW_S, [["p", KEYS[RECIPIENT]]], "secret")
PUBLIC: Final = make_event(AUTHOR, 1, NOW_S - 1, [["p", KEYS[RECIPIENT]]], "public")
KINDS: Final = {"kinds": sorted(PRIVATE_KINDS)}


def ids_of(*events: EncodedEvent) -> list[str]:
    return [event.event.id for event in events]


async def prove(relay: TestedRelay, client: NostrClient, key: int) -> None:
    if not any(message[0] == "AUTH" for message in client.inbox):
        await client.send("REQ", "challenge", {"kinds": [4]})
        await client.closed_reason("challenge")
    ok = await client.authenticate(relay.url, key=key, at_s=NOW_S)
    assert ok[2] is True


@on_relay()
async def test_requests_for_private_kinds_alone_need_a_key(relay: TestedRelay) -> None:
    await relay.fill([SECRET])
    async with relay.client() as client:
        for filters in ([{"kinds": [4]}], [{"kinds": [4, 1059]}, {"kinds": [4], "ids": ids_of(SECRET)}], [KINDS]):
            await client.send("REQ", "s", *filters)
            reason = await client.closed_reason("s")
            assert reason == "auth-required: these kinds are read by their parties only"
            await client.send("COUNT", "c", *filters)
            assert await client.closed_reason("c") == reason
        assert relay.n_subscriptions == 0


@on_relay()
async def test_who_sees_what_is_stored(relay: TestedRelay) -> None:
    await relay.fill([SECRET, PUBLIC])
    requests: tuple[list[dict[str, Any]], ...] = (
        [{}],
        [{"ids": ids_of(SECRET, PUBLIC)}],
        [{"authors": [KEYS[AUTHOR]]}],
        [{"#p": [KEYS[RECIPIENT]]}],
        [{"kinds": [4, 1]}],
        [{"kinds": [4]}, {"kinds": [1]}],
        [{"kinds": [4], "ids": ids_of(SECRET)}, {"since": NOW_S - 1}],
    )
    for key, visible in (
        (None, [PUBLIC]),
        (STRANGER, [PUBLIC]),
        (AUTHOR, [SECRET, PUBLIC]),
        (RECIPIENT, [SECRET, PUBLIC]),
    ):
        async with relay.client() as client:
            if key is not None:
                await prove(relay, client, key)
                assert await client.request("own", KINDS) == ids_of(*visible[:-1])
                assert await client.count("own", KINDS) == len(visible) - 1
            for filters in requests:
                assert await client.request("s", *filters) == ids_of(*visible), (key, filters)
                assert await client.count("c", *filters) == len(visible), (key, filters)


@on_relay()
async def test_recipient_is_any_p_tag_with_the_key_as_its_value(relay: TestedRelay) -> None:
    seen = fake_event(AUTHOR, 1059, tags=[["p", KEYS[STRANGER]], ["p", KEYS[RECIPIENT], "wss://x"]])
    unseen = [
        fake_event(AUTHOR, 1059, tags=[["P", KEYS[RECIPIENT]]]),
        fake_event(AUTHOR, 1059, tags=[["p", "x", KEYS[RECIPIENT]]]),
        fake_event(AUTHOR, 1059, tags=[["e", KEYS[RECIPIENT]], ["p"]]),
    ]
    await relay.fill([seen, *unseen])
    async with relay.client() as client:
        await prove(relay, client, RECIPIENT)
        assert await client.request("s", {"kinds": [1059]}) == ids_of(seen)


@on_relay()
async def test_every_private_kind(relay: TestedRelay) -> None:
    events = [fake_event(AUTHOR, kind, tags=[["d", "x"]]) for kind in sorted(PRIVATE_KINDS)]
    await relay.fill(events)
    async with relay.client() as client:
        assert await client.request("s", {}) == []
        assert await client.count("c", {}) == 0
        await prove(relay, client, AUTHOR)
        assert sorted(await client.request("s", {})) == sorted(ids_of(*events))


@on_relay()
async def test_limit_counts_what_may_be_seen_only(relay: TestedRelay) -> None:
    hidden = [fake_event(STRANGER, 4, NOW_S - n) for n in range(400)]
    shown = [fake_event(STRANGER, 1, NOW_S - 1000 - n) for n in range(4)]
    await relay.fill([*hidden, *shown])
    async with relay.client() as client:
        assert await client.request("s", {"limit": 3}) == ids_of(*shown[:3])
        assert await client.request("s", {"kinds": [1, 4], "limit": 3}) == ids_of(*shown[:3])
        assert await client.request("s", {"authors": [KEYS[STRANGER]], "limit": 3}) == ids_of(*shown[:3])
        assert await client.count("c", {"limit": 3}) == 3


@on_relay()
async def test_live_feed(relay: TestedRelay) -> None:
    clients: dict[int | None, NostrClient] = {}
    async with relay.client() as nobody, relay.client() as stranger, relay.client() as author, relay.client() as friend:
        clients = {None: nobody, STRANGER: stranger, AUTHOR: author, RECIPIENT: friend}
        for key, client in clients.items():
            if key is not None:
                await prove(relay, client, key)
            await client.request("all", {"limit": 0})
            await client.request("p", {"#p": [KEYS[RECIPIENT]], "limit": 0})
            await client.request("id", {"ids": ids_of(SECRET, PUBLIC), "limit": 0})
        async with relay.client() as publisher:
            await publisher.accept(SECRET, PUBLIC)
        for key, client in clients.items():
            for sub_id in ("all", "p", "id"):
                if key in (AUTHOR, RECIPIENT):
                    assert await client.next_event(sub_id) == SECRET.event.id
                assert await client.next_event(sub_id) == PUBLIC.event.id


@on_relay()
async def test_live_events_that_wait_for_the_end_of_the_stored_ones(relay: TestedRelay) -> None:
    """What was held back while a big answer was read slowly is as private as the rest."""
    await relay.fill([fake_event(STRANGER, 1, NOW_S - 10, content=f"{n}" + "x" * 60_000) for n in range(200)])
    async with relay.slow_client() as reader, relay.client() as publisher:
        send_at_once(reader, ["REQ", "s", {}])
        opcode, _ = await reader.receive_frame()
        assert opcode == 1
        await publisher.accept(SECRET, PUBLIC)
        await until(lambda: relay.held_bytes, "what is held back")
        messages = await read_messages(reader, 201)
    assert messages[-2] == ["EOSE", "s"]
    assert messages[-1] == ["EVENT", "s", json.loads(PUBLIC.raw)]


@on_relay()
async def test_proof_after_the_request_widens_what_is_live(relay: TestedRelay) -> None:
    other = make_event(AUTHOR, 4, NOW_S, [["p", KEYS[RECIPIENT]]], "other")
    async with relay.client() as client, relay.client() as publisher:
        await client.request("s", {})
        await publisher.accept(SECRET, PUBLIC)
        assert await client.next_event("s") == PUBLIC.event.id
        await prove(relay, client, RECIPIENT)
        await publisher.accept(other)
        assert await client.next_event("s") == other.event.id
        assert await client.request("s", {"kinds": [4]}) == sorted(ids_of(SECRET, other))


@on_relay()
async def test_count_and_proof_in_one_segment(relay: TestedRelay) -> None:
    await relay.fill([SECRET])
    async with relay.raw_client() as client:
        send_at_once(client, ["REQ", "s", {"kinds": [4]}])
        challenge, _ = await read_messages(client, 2)
        proof = auth_event(challenge[1], relay.url, key=AUTHOR)
        send_at_once(client, ["COUNT", "before", {}], b'["AUTH",' + proof.raw + b"]", ["COUNT", "after", {}])
        answers = await read_messages(client, 3)
    counts = {answer[1]: answer[2]["count"] for answer in answers if answer[0] == "COUNT"}
    assert counts == {"before": 0, "after": 1}


@on_relay(privileged_open=True)
async def test_open_to_everybody_when_told(relay: TestedRelay) -> None:
    async with relay.client() as client, relay.client() as publisher:
        assert await client.request("s", {"kinds": [4]}) == []
        await publisher.accept(SECRET)
        assert await client.next_event("s") == SECRET.event.id
        assert await client.request("t", KINDS) == ids_of(SECRET)
        assert await client.count("c", KINDS) == 1
