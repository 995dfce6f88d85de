"""Authentication (NIP-42): when it is asked for, what proves a key, and what a proven key opens."""

from typing import Any, Final

import pytest
from tests.component.relay_client import NostrClient
from tests.component.relay_server import TestedRelay, on_relay
from tests.factory import KEYS, NOW_S, auth_event, event_json, make_event

from orly.nostr.event import EncodedEvent
from orly.nostr.signing import sign_event
from orly.relay.session import MAX_KEYS

OWN_URL: Final = "wss://relay.example.com"
WINDOW_S: Final = 600


async def challenge_of(client: NostrClient) -> str:
    """The challenge, asked for by a request that needs a key."""
    await client.send("REQ", "private", {"kinds": [4]})
    assert (await client.closed_reason("private")).startswith("auth-required: ")
    challenge = (await client.next("AUTH"))[1]
    assert isinstance(challenge, str)
    return challenge


async def answer(client: NostrClient, event: EncodedEvent) -> list[Any]:
    await client.send_text(f'["AUTH",{event.raw.decode()}]')
    ok = await client.next("OK", of=event.event.id)
    return ok[2:]


def refused(reason: str) -> list[Any]:
    return [False, f"invalid: {reason}"]


# When it is asked for


@on_relay()
async def test_nobody_is_challenged_unasked(relay: TestedRelay) -> None:
    async with relay.client() as client:
        await client.request("s", {})
        await client.accept(make_event())
        assert await client.count("c", {}) == 1
        assert not [message for message in client.inbox if message[0] == "AUTH"]


@on_relay()
async def test_challenge_comes_before_the_refusal_and_once(relay: TestedRelay) -> None:
    async with relay.client() as client:
        await client.send("REQ", "s", {"kinds": [4]})
        assert (await client.socket.receive())[0] == "AUTH"
        assert (await client.socket.receive())[:2] == ["CLOSED", "s"]
        await client.send("REQ", "s", {"kinds": [1059]})
        await client.send("COUNT", "c", {"kinds": [4, 1059]})
        await client.refusal(make_event(tags=[["-"]]))
        await client.fence()
        assert [message[0] for message in client.inbox] == ["CLOSED", "CLOSED"]


@on_relay()
async def test_challenges_differ(relay: TestedRelay) -> None:
    async with relay.client() as first, relay.client() as second:
        challenges = {await challenge_of(first), await challenge_of(second)}
        assert len(challenges) == 2
        assert min(map(len, challenges)) >= 32


@on_relay(auth_on_connect=True)
async def test_challenge_on_connect(relay: TestedRelay) -> None:
    async with relay.client() as client:
        assert (await client.socket.receive())[0] == "AUTH"
        await client.accept(make_event())
        assert await client.request("s", {}) == [make_event().event.id]


@on_relay(auth_required=True)
async def test_everything_is_refused_where_authentication_is_demanded(relay: TestedRelay) -> None:
    async with relay.client() as client:
        reason = "auth-required: this relay answers authenticated clients only"
        challenge = (await client.socket.receive())[1]
        await client.send("REQ", "s", {})
        assert await client.closed_reason("s") == reason
        await client.send("COUNT", "c", {})
        assert await client.closed_reason("c") == reason
        assert (await client.refusal(make_event())).startswith("auth-required: ")
        assert client.inbox == [], "one challenge is enough"
        ok = await client.authenticate(relay.url, key=3, challenge=challenge, at_s=NOW_S)
        assert ok[2:] == [True, ""]
        await client.accept(make_event())
        assert await client.request("s", {}) == [make_event().event.id]
        assert await client.count("c", {}) == 1


@on_relay(auth_to_write=True)
async def test_authentication_to_write_leaves_reading_open(relay: TestedRelay) -> None:
    async with relay.client() as client:
        assert await client.request("s", {}) == []
        reason = await client.refusal(make_event())
        assert reason == "auth-required: this relay takes events from authenticated clients only"
        await client.authenticate(relay.url, key=3, at_s=NOW_S)
        await client.accept(make_event())


@on_relay(auth_required=True, nip46_bypass_auth=True)
async def test_remote_signing_needs_no_key_when_told(relay: TestedRelay) -> None:
    event = make_event(kind=24_133, tags=[["p", KEYS[1]]])
    async with relay.client() as client, relay.client() as signer:
        assert await signer.request("s", {"kinds": [24_133], "#p": [KEYS[1]]}) == []
        for kinds in ([24_133, 1], [1], []):
            await signer.send("REQ", "more", {"kinds": kinds})
            assert (await signer.closed_reason("more")).startswith("auth-required: ")
        await signer.send("REQ", "more", {"kinds": [24_133]}, {})
        assert (await signer.closed_reason("more")).startswith("auth-required: ")
        await client.accept(event)
        assert await signer.next_event("s") == event.event.id
        assert (await client.refusal(make_event())).startswith("auth-required: ")


@on_relay(auth_required=True)
async def test_remote_signing_needs_a_key_otherwise(relay: TestedRelay) -> None:
    async with relay.client() as client:
        await client.send("REQ", "s", {"kinds": [24_133]})
        assert (await client.closed_reason("s")).startswith("auth-required: ")
        assert (await client.refusal(make_event(kind=24_133))).startswith("auth-required: ")


# What proves a key


@on_relay(relay_url=OWN_URL)
async def test_proof_and_what_is_none(relay: TestedRelay) -> None:
    async with relay.client() as client:
        challenge = await challenge_of(client)
        other_relay = refused("the relay tag names another relay")
        other_challenge = refused("the challenge is not the one this connection was sent")
        too_far = refused(f"created_at is more than {WINDOW_S} s away from the relay's clock")
        cases: list[tuple[EncodedEvent, list[Any]]] = [
            (auth_event(challenge[:-1], OWN_URL), other_challenge),
            (auth_event("", OWN_URL), other_challenge),
            (make_event(kind=22_242, tags=[["relay", OWN_URL]]), other_challenge),
            (make_event(kind=22_242, tags=[["challenge", challenge]]), refused("the relay tag is missing")),
            (auth_event(challenge, relay.url), other_relay),
            (auth_event(challenge, "wss://example.com"), other_relay),
            (auth_event(challenge, "wss://relay.example.com.evil.example"), other_relay),
            (auth_event(challenge, OWN_URL + "/other"), other_relay),
            (auth_event(challenge, OWN_URL, created_at=NOW_S - WINDOW_S - 1), too_far),
            (auth_event(challenge, OWN_URL, created_at=NOW_S + WINDOW_S + 1), too_far),
            (
                make_event(kind=1, tags=[["relay", OWN_URL], ["challenge", challenge]]),
                refused("kind must be 22242"),
            ),
        ]
        for event, expected in cases:
            assert await answer(client, event) == expected
        forged = event_json(auth_event(challenge, OWN_URL), sig=make_event().event.sig)
        await client.send_text(f'["AUTH",{forged.decode()}]')
        assert (await client.next("OK"))[2:] == refused("the signature does not match")
        await client.send("REQ", "s", {"kinds": [4]})
        assert (await client.closed_reason("s")).startswith("auth-required: "), "nothing was proven"
        assert await answer(client, auth_event(challenge, OWN_URL)) == [True, ""]
        assert await client.request("s", {"kinds": [4]}) == []


@pytest.mark.parametrize(
    "url", [OWN_URL, OWN_URL + "/", "WSS://Relay.Example.COM", "ws://relay.example.com", OWN_URL + ":443"]
)
def test_spellings_of_the_relays_url(url: str, tmp_path: Any) -> None:
    @on_relay(relay_url=OWN_URL)
    async def scene(relay: TestedRelay) -> None:
        async with relay.client() as client:
            assert await answer(client, auth_event(await challenge_of(client), url)) == [True, ""]

    scene(tmp_path)


@on_relay()
async def test_edges_of_the_time_window(relay: TestedRelay) -> None:
    for created_at in (NOW_S - WINDOW_S, NOW_S + WINDOW_S):
        async with relay.client() as client:
            event = auth_event(await challenge_of(client), relay.url, created_at=created_at)
            assert await answer(client, event) == [True, ""]


@on_relay()
async def test_challenge_of_another_connection(relay: TestedRelay) -> None:
    async with relay.client() as client, relay.client() as other:
        await challenge_of(client)
        stolen = auth_event(await challenge_of(other), relay.url)
        assert (await answer(client, stolen))[0] is False
        assert (await answer(other, stolen))[0] is True


@on_relay()
async def test_no_challenge_was_sent(relay: TestedRelay) -> None:
    async with relay.client() as client:
        assert await answer(client, auth_event("", relay.url)) == refused("no challenge was sent on this connection")
        assert (await answer(client, auth_event("guess", relay.url)))[0] is False


@on_relay()
async def test_unreadable_proof(relay: TestedRelay) -> None:
    async with relay.client() as client:
        await client.send("AUTH", {"id": "x"})
        assert (await client.next("OK"))[:3] == ["OK", "x", False]
        await client.send("AUTH", "challenge")
        assert (await client.next("NOTICE"))[1].startswith("invalid: ")
        await client.send("AUTH")
        assert (await client.next("NOTICE"))[1].startswith("invalid: ")


@on_relay()
async def test_proof_is_not_stored(relay: TestedRelay) -> None:
    async with relay.client() as client:
        await client.request("s", {})
        assert (await client.authenticate(relay.url, key=0, challenge=await challenge_of(client), at_s=NOW_S))[
            2
        ] is True
        await client.fence()
        assert await client.count("c", {}) == 0
        assert not [message for message in client.inbox if message[0] == "EVENT"]


@on_relay()
async def test_several_keys(relay: TestedRelay) -> None:
    async with relay.client() as client:
        challenge = await challenge_of(client)
        for key in (0, 1, 1):
            assert (await client.authenticate(relay.url, key=key, challenge=challenge, at_s=NOW_S))[2] is True
        for key in (0, 1):
            await client.accept(make_event(key, tags=[["-"]]))
        assert (await client.refusal(make_event(2, tags=[["-"]]))).startswith("restricted: ")


@on_relay()
async def test_keys_of_a_connection_are_bounded(relay: TestedRelay) -> None:
    async with relay.client() as client:
        challenge = await challenge_of(client)
        tags = [["relay", relay.url], ["challenge", challenge]]
        proofs = [
            sign_event((n + 1).to_bytes(32, "big"), created_at=NOW_S, kind=22_242, tags=tags)
            for n in range(MAX_KEYS + 1)
        ]
        for proof in proofs[:-1]:
            assert await answer(client, proof) == [True, ""]
        assert await answer(client, proofs[-1]) == refused(f"this connection has proven {MAX_KEYS} keys, the maximum")
        assert await answer(client, proofs[0]) == [True, ""], "one that is proven already"


# Which relay is meant when no URL is configured


@on_relay()
async def test_host_header_is_believed_without_a_url(relay: TestedRelay) -> None:
    async with relay.client(host="Relay.Example.com") as client:
        challenge = await challenge_of(client)
        assert (await answer(client, auth_event(challenge, relay.url)))[0] is False
        assert await answer(client, auth_event(challenge, "ws://relay.example.com")) == [True, ""]


@on_relay(relay_url=OWN_URL)
async def test_host_header_is_not_believed_with_a_url(relay: TestedRelay) -> None:
    async with relay.client(host="evil.example") as client:
        challenge = await challenge_of(client)
        assert (await answer(client, auth_event(challenge, "wss://evil.example")))[0] is False
        assert await answer(client, auth_event(challenge, OWN_URL)) == [True, ""]


PRIVATE_HOST: Final = "10.0.0.1:3334"
FORWARDED: Final = {"X-Forwarded-Host": "relay.example.com", "X-Forwarded-Proto": "https"}


@on_relay(trusted_proxies="127.0.0.1")
async def test_trusted_proxy_says_which_host_was_asked_for(relay: TestedRelay) -> None:
    async with relay.client(FORWARDED, host=PRIVATE_HOST) as client:
        challenge = await challenge_of(client)
        assert (await answer(client, auth_event(challenge, "ws://10.0.0.1:3334")))[0] is False
        assert await answer(client, auth_event(challenge, OWN_URL)) == [True, ""]


@on_relay()
async def test_anybody_else_does_not(relay: TestedRelay) -> None:
    async with relay.client(FORWARDED, host=PRIVATE_HOST) as client:
        challenge = await challenge_of(client)
        assert (await answer(client, auth_event(challenge, OWN_URL)))[0] is False
        assert await answer(client, auth_event(challenge, "ws://10.0.0.1:3334")) == [True, ""]


@on_relay(auth_required=True)
async def test_order_of_events_and_proof_in_one_segment(relay: TestedRelay) -> None:
    """An event before the proof is refused, one after it is taken, however fast they come."""
    before, after = make_event(content="before"), make_event(content="after")
    async with relay.client() as client:
        challenge = (await client.next("AUTH"))[1]
        proof = auth_event(challenge, relay.url, key=0)
        for kind, event in (("EVENT", before), ("AUTH", proof), ("EVENT", after)):
            await client.send_text(f'["{kind}",{event.raw.decode()}]')
        answers = [await client.next("OK") for _ in range(3)]
    assert [(ok[1], ok[2]) for ok in answers] == [
        (before.event.id, False),
        (proof.event.id, True),
        (after.event.id, True),
    ]
