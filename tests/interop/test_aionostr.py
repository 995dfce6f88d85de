"""The client library `aionostr` against the relay as a user runs it."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Final

import aionostr
from aionostr.event import Event
from aionostr.key import PrivateKey
from aionostr.relay import Relay
from tests.process import RelayProcess, running_relay

WAIT_S: Final = 15.0
ALICE, BOB, EVE = (PrivateKey(bytes([n]) * 32) for n in (1, 2, 3))
TEXT: Final = 'tab\t quote" backslash\\ newline\n line\u2028 Grüße 漢字 \U0001f980'


def signed(key: PrivateKey, content: str, *, kind: int = 1, tags: Sequence[list[str]] = (), at_s: int = 0) -> Event:
    """An event signed by the library."""
    event = Event(
        pubkey=key.public_key.hex(), content=content, kind=kind, tags=list(tags), created_at=at_s or int(time.time())
    )
    event.sign(key.hex())
    return event


async def publish(client: Relay, event: Event) -> list[Any]:
    """Sends an event; the relay's whole answer."""
    await client.add_event(event)
    async with asyncio.timeout(WAIT_S):
        answer = await client.event_adds.get()
    assert isinstance(answer, list)
    assert answer[:2] == ["OK", event.id]
    return answer[2:]


async def stored(client: Relay, name: str, *filters: dict[str, Any]) -> list[Event]:
    """The stored events for the filters; the subscription stays open."""
    queue = await client.subscribe(name, *filters)
    found: list[Event] = []
    async with asyncio.timeout(WAIT_S):
        while (event := await queue.get()) is not None:
            found.append(event)
    return found


def test_events_published_with_it_are_found_with_it() -> None:
    async def main(relay: RelayProcess) -> None:
        now_s = int(time.time())
        async with Relay(relay.url) as client:
            notes = [signed(ALICE, f"{TEXT} {n}", at_s=now_s - n, tags=[["t", f"t{n % 2}"]]) for n in range(30)]
            for note in notes:
                assert await publish(client, note) == [True, ""]
            assert await publish(client, notes[0]) == [True, "duplicate: already have this event"]
            found = await stored(client, "all", {"authors": [ALICE.public_key.hex()]})
            assert [each.to_json_object() for each in found] == [each.to_json_object() for each in notes]
            assert all(each.verify() for each in found)
            tagged = await stored(client, "tagged", {"#t": ["t1"], "limit": 7})
            assert [each.id for each in tagged] == [each.id for each in notes[1:15:2]]

    with running_relay() as relay:
        asyncio.run(main(relay))


def test_its_shortcuts_for_one_event_and_for_a_query() -> None:
    async def main(relay: RelayProcess) -> None:
        async with asyncio.timeout(WAIT_S):
            event_id = await aionostr.add_event([relay.url], private_key=ALICE.hex(), content=TEXT, tags=[["t", "x"]])
            (by_id,) = await aionostr.get_anything(event_id, relays=[relay.url])
            (by_tag,) = await aionostr.get_anything({"#t": ["x"]}, relays=[relay.url])
        assert by_id.to_json_object() == by_tag.to_json_object()
        assert (by_id.id, by_id.content, by_id.verify()) == (event_id, TEXT, True)

    with running_relay() as relay:
        asyncio.run(main(relay))


def test_a_live_subscription_follows_the_stored_events() -> None:
    async def main(relay: RelayProcess) -> None:
        async with Relay(relay.url) as writer, Relay(relay.url) as reader:
            before = signed(ALICE, "before")
            assert await publish(writer, before) == [True, ""]
            found = await stored(reader, "live", {"authors": [ALICE.public_key.hex()]})
            assert [each.id for each in found] == [before.id]
            live = [signed(ALICE, f"live {n}") for n in range(10)]
            for note in live:
                assert await publish(writer, note) == [True, ""]
            assert await publish(writer, signed(BOB, "somebody else")) == [True, ""]
            queue = reader.subscriptions["live"].queue
            async with asyncio.timeout(WAIT_S):
                assert [(await queue.get()).id for _ in live] == [each.id for each in live]
            assert await stored(reader, "other", {"authors": [BOB.public_key.hex()]})
            assert queue.empty(), "what came later on the connection was not for this subscription"

    with running_relay() as relay:
        asyncio.run(main(relay))


def test_a_direct_message_reaches_its_two_parties_only() -> None:
    async def main(relay: RelayProcess) -> None:
        sealed = ALICE.encrypt_message(TEXT, BOB.public_key.hex())
        message = signed(ALICE, sealed, kind=4, tags=[["p", BOB.public_key.hex()]])
        sent = message.to_json_object()
        async with Relay(relay.url, private_key=ALICE.hex()) as writer:
            await authenticated(writer)
            assert await publish(writer, message) == [True, ""]
        for key, expected in ((ALICE, [sent]), (BOB, [sent]), (EVE, [])):
            async with Relay(relay.url, private_key=key.hex()) as reader:
                await authenticated(reader)
                found = await stored(reader, "messages", {"kinds": [4]})
                assert [each.to_json_object() for each in found] == expected

    with running_relay(ORLY_AUTH_ON_CONNECT="true") as relay:
        asyncio.run(main(relay))


async def authenticated(client: Relay) -> None:
    """Waits for the relay's word on the authentication that the library sends by itself."""
    async with asyncio.timeout(WAIT_S):
        answer = await client.event_adds.get()
    assert answer[2:] == [True, ""], answer
