"""rust-nostr's client library (PyPI `nostr-sdk`) against the relay as a user runs it."""

import asyncio
import time
import urllib.request
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, Final

import pytest
from nostr_sdk import (
    ClientBuilder,
    ClientNotification,
    Event,
    EventBuilder,
    Filter,
    Keys,
    Kind,
    NostrSdkError,
    RelayInformationDocument,
    RelayUrl,
    ReqTarget,
    SignerAuthenticator,
    Tag,
    Timestamp,
    UnwrappedGift,
    nip17_make_private_msg,
    uniffi_set_event_loop,
)
from tests.process import RelayProcess, running_relay

WAIT: Final = timedelta(seconds=15)
WAIT_S: Final = WAIT.total_seconds()
AWKWARD: Final = 'tab\t quote" backslash\\ null\x00 bell\x07 del\x7f line\u2028 Grüße 漢字 \U0001f980 \U0010fffd'


def run(main: Coroutine[Any, Any, None]) -> None:
    """Runs a test; the library calls back into Python on the loop that it is told."""

    async def started() -> None:
        uniffi_set_event_loop(asyncio.get_running_loop())
        await main

    asyncio.run(started())


class Sdk:
    """One client of the library, connected to one relay."""

    def __init__(self, client: Any, url: Any) -> None:
        self.client = client
        self.url = url

    async def publish(self, event: Event) -> str:
        """Sends an event; empty when the relay took it, else the relay's reason."""
        try:
            output = await self.client.send_event(event, ok_timeout=WAIT, authentication_timeout=WAIT)
        except NostrSdkError as error:
            return str(error)
        assert output.id == event.id()
        return "" if output.success else str(next(iter(output.failed.values())))

    async def fetch(self, *filters: Filter) -> list[Event]:
        """The stored events for the filters."""
        return list(await self.client.fetch_events(ReqTarget.auto(list(filters)), timeout=WAIT))

    async def fetch_ids(self, *filters: Filter) -> list[str]:
        """The ids of the stored events for the filters, sorted."""
        return hexes(await self.fetch(*filters))

    async def count(self, wanted: Filter) -> int:
        """What the relay counts (NIP-45)."""
        relay = await self.client.relay(self.url)
        return int(await relay.count_events(wanted, WAIT))


def hexes(events: Sequence[Event]) -> list[str]:
    """Ids, sorted."""
    return sorted(event.id().to_hex() for event in events)


@asynccontextmanager
async def connected(relay: RelayProcess, *, proves: Keys | None = None) -> AsyncIterator[Sdk]:
    """A client of the relay; with keys to prove, it authenticates by itself whenever it is asked to."""
    builder = ClientBuilder()
    if proves is not None:
        builder = builder.authenticator(SignerAuthenticator(proves))
    client, url = builder.build(), RelayUrl.parse(relay.url)
    try:
        await client.add_relay(url)
        output = await client.try_connect(WAIT)
        assert output.success == [url], output.failed
        yield Sdk(client, url)
    finally:
        await client.shutdown()


def event(keys: Keys, content: str = "", *, kind: int = 1, at_s: int | None = None, tags: Sequence[Tag] = ()) -> Event:
    """An event signed by the library."""
    builder = EventBuilder(Kind(kind), content).tags(list(tags))
    return builder.custom_created_at(Timestamp.from_secs(int(time.time()) if at_s is None else at_s)).finalize(keys)


def test_what_is_published_is_fetched_and_counted() -> None:
    async def main(relay: RelayProcess) -> None:
        keys, now_s = Keys.generate(), int(time.time())
        notes = [event(keys, f"{AWKWARD} {n}", at_s=now_s - n, tags=[Tag.hashtag(f"t{n % 3}")]) for n in range(60)]
        async with connected(relay) as writer, connected(relay) as reader:
            for note in notes:
                assert await writer.publish(note) == ""
            own = Filter().author(keys.public_key())
            fetched = await reader.fetch(own)
            assert hexes(fetched) == hexes(notes)
            assert {each.as_json() for each in fetched} == {each.as_json() for each in notes}
            assert await reader.fetch_ids(own.limit(25)) == hexes(notes[:25])
            assert await reader.fetch_ids(Filter().hashtag("t1")) == hexes(notes[1::3])
            since = own.since(Timestamp.from_secs(now_s - 9)).until(Timestamp.from_secs(now_s - 5))
            assert await reader.fetch_ids(since) == hexes(notes[5:10])
            assert await reader.fetch_ids(Filter().ids([note.id() for note in notes])) == hexes(notes)
            two = (Filter().id(notes[3].id()), Filter().hashtag("t0").limit(2))
            assert await reader.fetch_ids(*two) == hexes([notes[3], notes[0]]), "t0 of 0 and 3 are the newest two"
            assert await reader.count(own) == 60
            assert await reader.count(Filter().hashtag("t1")) == 20
            assert await reader.count(Filter().author(Keys.generate().public_key())) == 0

    with running_relay() as relay:
        run(main(relay))


def test_subscribers_hear_of_new_events_and_of_ephemeral_ones() -> None:
    async def main(relay: RelayProcess) -> None:
        keys = Keys.generate()
        stored = event(keys, "before")
        async with connected(relay) as writer, connected(relay) as reader:
            assert await writer.publish(stored) == ""
            heard = reader.client.notifications()
            output = await reader.client.subscribe(ReqTarget.auto([Filter().author(keys.public_key())]))
            assert output.success == [reader.url]
            live = [event(keys, f"live {n}") for n in range(20)]
            live.append(event(keys, "passing by", kind=20_001))
            for note in live:
                assert await writer.publish(note) == ""
            received: list[Event] = []
            async with asyncio.timeout(WAIT_S):
                while len(received) < 1 + len(live):
                    notification = await heard.next()
                    if isinstance(notification, ClientNotification.NEW_EVENT):
                        assert notification.subscription_id == output.id
                        received.append(notification.event)
            assert hexes(received) == hexes([stored, *live])
            assert await reader.fetch_ids(Filter().author(keys.public_key())) == hexes([stored, *live[:-1]])

    with running_relay() as relay:
        run(main(relay))


def test_the_newest_version_of_a_replaceable_event_remains() -> None:
    async def main(relay: RelayProcess) -> None:
        keys, now_s = Keys.generate(), int(time.time())
        older, newer = (event(keys, f'{{"name":"{n}"}}', kind=0, at_s=now_s + n) for n in (0, 1))
        article, edited, other = (
            event(keys, text, kind=30_023, at_s=now_s + n, tags=[Tag.identifier(name)])
            for n, (name, text) in enumerate([("a", "draft"), ("a", "final"), ("b", "another")])
        )
        async with connected(relay) as client:
            for each in (older, newer, article, edited, other):
                assert await client.publish(each) == ""
            assert await client.fetch_ids(Filter().author(keys.public_key())) == hexes([newer, edited, other])
            assert "a newer version of this event is stored" in await client.publish(older)
            assert await client.fetch_ids(Filter().kind(Kind(0))) == hexes([newer])
            assert await client.fetch_ids(Filter().identifier("a")) == hexes([edited])

    with running_relay() as relay:
        run(main(relay))


def test_a_deleted_event_is_gone_and_stays_away() -> None:
    async def main(relay: RelayProcess) -> None:
        author, stranger = Keys.generate(), Keys.generate()
        note = event(author, "regretted")
        kept = event(author, "kept")
        async with connected(relay) as client:
            assert [await client.publish(each) for each in (note, kept)] == ["", ""]
            assert await client.publish(event(stranger, kind=5, tags=[Tag.event(kept.id())])) == ""
            request = event(author, kind=5, tags=[Tag.event(note.id())])
            assert await client.publish(request) == ""
            assert await client.fetch_ids(Filter().author(author.public_key())) == hexes([kept, request])
            assert "blocked: this event was deleted" in await client.publish(note)
            assert await client.fetch_ids(Filter().id(note.id())) == []

    with running_relay() as relay:
        run(main(relay))


def test_an_expired_event_is_refused() -> None:
    async def main(relay: RelayProcess) -> None:
        keys, now_s = Keys.generate(), int(time.time())
        gone, lasting = (
            event(keys, tags=[Tag.expiration(Timestamp.from_secs(now_s + from_now_s))]) for from_now_s in (-10, 1000)
        )
        async with connected(relay) as client:
            assert "invalid: event has expired" in await client.publish(gone)
            assert await client.publish(lasting) == ""
            assert await client.fetch_ids(Filter().author(keys.public_key())) == hexes([lasting])

    with running_relay() as relay:
        run(main(relay))


def test_a_gift_wrap_reaches_its_recipient_and_nobody_else() -> None:
    async def main(relay: RelayProcess) -> None:
        alice, bob, eve = (Keys.generate() for _ in range(3))
        wrap = nip17_make_private_msg(alice, bob.public_key(), AWKWARD)
        wanted = Filter().kind(Kind(1059))
        everything = Filter().kinds([Kind(1), Kind(1059)])
        public = event(alice, "for everybody")
        async with connected(relay) as sender:
            assert await sender.publish(wrap) == ""
            assert await sender.publish(public) == ""
            assert await sender.fetch_ids(everything) == hexes([public])
        async with connected(relay, proves=bob) as recipient:
            (received,) = await recipient.fetch(wanted)
            assert received.as_json() == wrap.as_json()
            gift = UnwrappedGift.from_gift_wrap(bob, received)
            assert gift.rumor().content() == AWKWARD
            assert gift.sender() == alice.public_key()
            assert await recipient.fetch_ids(everything) == hexes([public, wrap])
        for stranger in (eve, alice):
            async with connected(relay, proves=stranger) as other:
                assert await other.fetch(wanted) == []
                assert await other.fetch_ids(everything) == hexes([public])
                assert await other.fetch(Filter().id(wrap.id())) == []
                assert await other.count(everything) == 1

    with running_relay() as relay:
        run(main(relay))


@pytest.mark.parametrize("variable", ["ORLY_AUTH_TO_WRITE", "ORLY_AUTH_REQUIRED"])
@pytest.mark.parametrize("on_connect", ["false", "true"])
def test_the_library_authenticates_by_itself(variable: str, on_connect: str) -> None:
    async def main(relay: RelayProcess) -> None:
        keys = Keys.generate()
        note = event(keys, "authenticated")
        async with connected(relay) as nobody:
            assert "auth-required:" in await nobody.publish(note)
        async with connected(relay, proves=keys) as client:
            assert await client.publish(note) == ""
            assert await client.fetch_ids(Filter().author(keys.public_key())) == hexes([note])
        async with connected(relay, proves=Keys.generate()) as other:
            assert await other.fetch_ids(Filter().id(note.id())) == hexes([note])
            assert await other.count(Filter()) == 1

    with running_relay(**{variable: "true", "ORLY_AUTH_ON_CONNECT": on_connect}) as relay:
        run(main(relay))


def test_a_protected_event_is_taken_from_its_author_only() -> None:
    async def main(relay: RelayProcess) -> None:
        author = Keys.generate()
        note = event(author, "not to be forwarded", tags=[Tag.protected()])
        async with connected(relay) as nobody:
            assert "auth-required:" in await nobody.publish(note)
        async with connected(relay, proves=Keys.generate()) as stranger:
            assert "restricted:" in await stranger.publish(note)
        async with connected(relay, proves=author) as client:
            assert await client.publish(note) == ""
            assert await client.fetch_ids(Filter().author(author.public_key())) == hexes([note])

    with running_relay() as relay:
        run(main(relay))


def test_the_library_reads_the_information_document() -> None:
    variables = {"ORLY_APP_NAME": "Interop relay", "ORLY_RELAY_CONTACT": "mailto:ops@example.com"}
    variables |= {"ORLY_MAX_EVENT_TAGS": "777", "ORLY_QUERY_RESULT_LIMIT": "1234", "ORLY_AUTH_REQUIRED": "true"}
    with running_relay(**variables) as relay:
        request = urllib.request.Request(relay.http_url, headers={"Accept": "application/nostr+json"})
        with urllib.request.urlopen(request, timeout=WAIT_S) as response:
            document = RelayInformationDocument.from_json(response.read().decode())
    assert document.name() == "Interop relay"
    assert document.contact() == "mailto:ops@example.com"
    nips = document.supported_nips()
    assert nips is not None
    assert {1, 9, 11, 40, 42, 45, 62, 70} <= set(nips)
    limitation = document.limitation()
    assert limitation is not None
    assert limitation.max_event_tags == 777
    assert limitation.max_limit == 1234
    assert limitation.auth_required is True
    assert limitation.payment_required is False


def test_a_stop_waits_for_no_connected_client() -> None:
    async def main(relay: RelayProcess) -> None:
        keys = Keys.generate()
        async with connected(relay) as first, connected(relay) as second:
            for client in (first, second):
                await client.client.subscribe(ReqTarget.auto([Filter()]))
                assert await client.publish(event(keys, "still here")) == ""
            took_s = await asyncio.to_thread(relay.stop)
        assert took_s < 8

    with running_relay() as relay:
        run(main(relay))
