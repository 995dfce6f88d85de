"""Access control at the doors of the relay: what clients are told in every mode, and what changes under way."""

import asyncio

from tests.component.access_world import ADMIN, OWNER, authenticated, on_access, settled
from tests.component.relay_server import TestedRelay
from tests.factory import KEYS, NOW_S, gift_wrap, make_event
from tests.wsclient import RawClient, until

from orly.access.commands import AddKey, BlockAddress, DisallowKind, DropKey, UnblockAddress
from orly.access.curating import CONFIG_D, CONFIG_KIND
from orly.access.keyset import KeySet
from orly.access.snapshot import ListName
from orly.nostr.event import EncodedEvent

STRANGER, FRIEND, OTHER = 2, 3, 4
NOTHING = "61"


def key_of(key: int) -> bytes:
    return bytes.fromhex(KEYS[key])


def follow_list(key: int, *followed: int, at: int = NOW_S) -> EncodedEvent:
    return make_event(key, kind=3, created_at=at, tags=[["p", KEYS[each]] for each in followed])


def config(key: int = OWNER, at: int = NOW_S, **tags: str) -> EncodedEvent:
    pairs = [[name, value] for name, value in tags.items()]
    return make_event(key, kind=CONFIG_KIND, created_at=at, tags=[["d", CONFIG_D], *pairs])


# Writing


@on_access()
async def test_everybody_writes_where_no_mode_is_set(relay: TestedRelay) -> None:
    async with relay.client() as client:
        await client.accept(make_event(STRANGER), make_event(OWNER))


@on_access(acl_mode="follows")
async def test_follow_lists_are_live(relay: TestedRelay) -> None:
    reason = "restricted: its author is not followed by those who run this relay"
    async with relay.client() as client:
        assert await client.refusal(make_event(FRIEND)) == reason
        await client.accept(follow_list(ADMIN, FRIEND))
        await settled(relay, lambda lists: key_of(FRIEND) in lists.keys[ListName.FOLLOWED_PUBKEYS])
        await client.accept(make_event(FRIEND))
        assert await client.refusal(make_event(STRANGER)) == reason
        assert await client.refusal(follow_list(STRANGER, OTHER)) == reason
        await client.accept(follow_list(ADMIN, OTHER, at=NOW_S + 1))
        await settled(relay, lambda lists: key_of(OTHER) in lists.keys[ListName.FOLLOWED_PUBKEYS])
        assert await client.refusal(make_event(FRIEND, content="later")) == reason
        last = follow_list(ADMIN, OTHER, at=NOW_S + 1)
        await client.accept(make_event(ADMIN, kind=5, created_at=NOW_S + 2, tags=[["e", last.event.id]]))
        await settled(relay, lambda lists: not len(lists.keys[ListName.FOLLOWED_PUBKEYS]))
        assert await client.refusal(make_event(OTHER)) == reason


@on_access(acl_mode="follows")
async def test_forged_lists_change_nothing(relay: TestedRelay) -> None:
    good = follow_list(ADMIN, FRIEND)
    forged = good.raw.replace(good.event.sig.encode(), make_event(ADMIN).event.sig.encode())
    async with relay.client() as client:
        await client.send_text(f'["EVENT",{forged.decode()}]')
        assert (await client.next("OK"))[2] is False
        assert await client.refusal(make_event(FRIEND)) != ""
        assert relay.access.snapshot is not None
        assert not len(relay.access.snapshot.keys[ListName.FOLLOWED_PUBKEYS])


MEMBERSHIP = (8000, 8001, 13534, 28934, 28935, 28936)
"""What says who belongs to a relay (NIP-43)."""

POLICY = 12345
"""What other versions of ORLY take a policy from."""


def commands_of(key: int) -> list[EncodedEvent]:
    """Events that would change who may do what, if they counted: each names a friend."""
    tags = [["p", KEYS[FRIEND]], ["member", KEYS[FRIEND]], ["claim", "please"]]
    bare = [make_event(key, kind=kind, tags=tags, content='{"default_policy":"deny"}') for kind in MEMBERSHIP]
    return [follow_list(key, FRIEND), config(key, daily_limit="0"), make_event(key, kind=POLICY, tags=tags[:1]), *bare]


def forged(event: EncodedEvent) -> bytes:
    """The event with the signature of another one of its author's."""
    other = make_event(KEYS.index(event.event.pubkey), content="something else")
    return event.raw.replace(event.event.sig.encode(), other.event.sig.encode())


@on_access(acl_mode="follows")
async def test_forged_events_of_moderators_change_nothing(relay: TestedRelay) -> None:
    async with relay.client() as client:
        for event in [*commands_of(OWNER), *commands_of(ADMIN)]:
            await client.send_text(f'["EVENT",{forged(event).decode()}]')
            answer = await client.next("OK")
            assert answer[2] is False
            assert answer[3].startswith("invalid: "), answer
        assert await client.refusal(make_event(FRIEND)) != ""
        assert nonempty(relay) == {}


def nonempty(relay: TestedRelay) -> dict[ListName, KeySet]:
    lists = relay.access.snapshot
    assert lists is not None
    return {name: keys for name, keys in lists.keys.items() if len(keys)}


@on_access(acl_mode="curating")
async def test_events_of_strangers_are_stored_and_change_nothing(relay: TestedRelay) -> None:
    async with relay.client() as client:
        await client.accept(config(daily_limit="50", ip_daily_limit="100"))
        await settled(relay, lambda lists: lists.curating is not None)
        sent = commands_of(STRANGER)
        answers = [answer[2] for answer in await client.publish(*sent)]
        assert answers[:3] == [True] * 3
        await client.accept(config(at=NOW_S + 1, daily_limit="49", ip_daily_limit="100"))
        await settled(relay, lambda lists: lists.curating is not None and lists.curating.daily_limit == 49)
        assert nonempty(relay) == {}


@on_access(acl_mode="follows", follows_throttle=True, follows_throttle_increment_s=0.03)
async def test_strangers_wait_and_nobody_else_does(relay: TestedRelay) -> None:
    events = [make_event(STRANGER, content=str(n)) for n in range(4)]
    async with relay.client() as stranger, relay.client() as owner:
        loop = asyncio.get_running_loop()
        begin_s = loop.time()
        for event in events:
            await stranger.send_text(f'["EVENT",{event.raw.decode()}]')
        await stranger.send("REQ", "s", {"authors": [KEYS[STRANGER]]})
        await owner.accept(make_event(OWNER))
        oks = [await stranger.next("OK") for _ in events]
        assert all(ok[2] for ok in oks)
        assert {ok[1] for ok in oks} == {event.event.id for event in events}
        assert loop.time() - begin_s >= 0.03 * 4, "the fourth waits for four increments"
        assert len(await stranger.answer("s")) == 4, "a request waits for the events before it"


@on_access(acl_mode="managed")
async def test_lists_change_what_is_taken_at_once(relay: TestedRelay) -> None:
    async with relay.client() as client:
        reason = "restricted: its author is not on the list of those who may write to this relay"
        assert await client.refusal(make_event(FRIEND)) == reason
        await relay.access.change([AddKey(ListName.ALLOWED_PUBKEYS, key_of(FRIEND))], by=KEYS[OWNER])
        await settled(relay, lambda lists: key_of(FRIEND) in lists.keys[ListName.ALLOWED_PUBKEYS])
        await client.accept(make_event(FRIEND))
        await relay.access.change([AddKey(ListName.BANNED_PUBKEYS, key_of(FRIEND))], by=KEYS[OWNER])
        await settled(relay, lambda lists: key_of(FRIEND) in lists.keys[ListName.BANNED_PUBKEYS])
        later = make_event(FRIEND, content="later")
        assert await client.refusal(later) == "blocked: its author is banned on this relay"
        await relay.access.change([AddKey(ListName.ALLOWED_EVENTS, later.id)], by="")
        await settled(relay, lambda lists: later.id in lists.keys[ListName.ALLOWED_EVENTS])
        await client.accept(later)
        await relay.access.change([DisallowKind(7)], by="")
        await settled(relay, lambda lists: 7 in lists.kinds[ListName.DISALLOWED_KINDS])
        assert await client.refusal(make_event(OWNER, kind=7)) == "blocked: kind 7 is not taken on this relay"


@on_access(acl_mode="managed")
async def test_who_brings_an_event_counts_where_it_should(relay: TestedRelay) -> None:
    await relay.access.change([AddKey(ListName.ALLOWED_PUBKEYS, key_of(FRIEND))], by="")
    await settled(relay, lambda lists: key_of(FRIEND) in lists.keys[ListName.ALLOWED_PUBKEYS])
    event = make_event(STRANGER)
    async with relay.client() as client:
        await authenticated(relay, client, FRIEND)
        assert (await client.refusal(event)).startswith("restricted: ")
    async with relay.client() as client:
        await authenticated(relay, client, ADMIN)
        await client.accept(event)
    await relay.access.change([AddKey(ListName.BANNED_PUBKEYS, key_of(OTHER))], by="")
    await settled(relay, lambda lists: key_of(OTHER) in lists.keys[ListName.BANNED_PUBKEYS])
    async with relay.client() as client:
        await authenticated(relay, client, OTHER)
        reason = "blocked: the key you authenticated with is banned on this relay"
        assert await client.refusal(make_event(FRIEND)) == reason
        await client.send("REQ", "s", {})
        assert await client.closed_reason("s") == reason
        await client.send("COUNT", "c", {})
        assert await client.closed_reason("c") == reason


@on_access(acl_mode="curating", negentropy_enabled=True)
async def test_curating_from_nothing_to_limits(relay: TestedRelay) -> None:
    async with relay.client() as client:
        reason = "restricted: this relay is not set up yet: only those who run it may write"
        assert await client.refusal(make_event(STRANGER)) == reason
        assert await client.refusal(config(STRANGER)) == reason
        await client.accept(config(daily_limit="2", ip_daily_limit="100", kind_range="1-9"))
        await settled(relay, lambda lists: lists.curating is not None)
        notes = [make_event(STRANGER, content=str(n)) for n in range(4)]
        assert [ok[2:] for ok in await client.publish(*notes)] == [
            [True, ""],
            [True, ""],
            [False, "rate-limited: 2 events a day are taken of an author who is not trusted"],
            [False, "rate-limited: 2 events a day are taken of an author who is not trusted"],
        ]
        await settled(relay, lambda lists: lists.used.get(key_of(STRANGER)) == 2)
        assert await client.refusal(make_event(OTHER, kind=10)) == "blocked: kind 10 is not taken on this relay"
        await relay.access.change([AddKey(ListName.TRUSTED_PUBKEYS, key_of(STRANGER))], by="")
        await settled(relay, lambda lists: key_of(STRANGER) in lists.keys[ListName.TRUSTED_PUBKEYS])
        await client.accept(*(make_event(STRANGER, content=str(n)) for n in range(10, 15)))


@on_access(acl_mode="curating")
async def test_a_configuration_that_cannot_be_read_does_not_replace_one(relay: TestedRelay) -> None:
    async with relay.client() as client:
        await client.accept(config(daily_limit="20"))
        await settled(relay, lambda lists: lists.curating is not None)
        for key in (OWNER, ADMIN):
            bad = config(key, at=NOW_S + 1, daily_limit="2o")
            assert await client.refusal(bad) == "invalid: daily_limit must be a whole number, not '2o'"
        await client.accept(make_event(STRANGER), config(STRANGER, daily_limit="2o"))
        await client.accept(config(at=NOW_S + 1, daily_limit="30"))
        await settled(relay, lambda lists: lists.curating is not None and lists.curating.daily_limit == 30)


@on_access(acl_mode="curating")
async def test_refused_and_known_events_cost_nothing_of_the_day(relay: TestedRelay) -> None:
    note = make_event(STRANGER)
    forged = note.raw.replace(note.event.sig.encode(), make_event(OWNER).event.sig.encode())
    async with relay.client() as client:
        await client.accept(config(daily_limit="2"))
        await settled(relay, lambda lists: lists.curating is not None)
        for _ in range(5):
            await client.send_text(f'["EVENT",{forged.decode()}]')
            assert (await client.next("OK"))[2] is False
        await client.accept(note)
        oks = await client.publish(note, note, note)
        assert all(ok[2] and ok[3].startswith("duplicate: ") for ok in oks)
        await client.accept(make_event(STRANGER, content="second"))
        assert (await client.refusal(make_event(STRANGER, content="third"))).startswith("rate-limited: ")


@on_access(acl_mode="curating", trusted_proxies=("127.0.0.1",))
async def test_an_address_over_its_limit_is_blocked_and_comes_back(relay: TestedRelay) -> None:
    from_there = {"X-Forwarded-For": "192.0.2.7"}
    async with relay.client() as owner:
        await owner.accept(config(ip_daily_limit="1", first_ban_hours="1"))
        await settled(relay, lambda lists: lists.curating is not None)
    async with relay.client(from_there) as client, relay.client() as elsewhere:
        await client.accept(make_event(STRANGER))
        reason = "rate-limited: 1 events a day are taken of one address"
        assert await client.refusal(make_event(FRIEND)) == reason
        await settled(relay, lambda lists: "192.0.2.7" in lists.blocked)
        assert await client.refusal(make_event(OTHER)) == "blocked: your address is blocked on this relay"
        await elsewhere.accept(make_event(OTHER))
        relay.time.now += 3600
        await settled(relay, lambda lists: not lists.blocked)
        assert await client.refusal(make_event(FRIEND)) == reason


@on_access(acl_mode="curating", trusted_proxies=("127.0.0.1",))
async def test_a_network_is_one_client(relay: TestedRelay) -> None:
    async with relay.client() as owner:
        await owner.accept(config(daily_limit="1", ip_daily_limit="2"))
        await settled(relay, lambda lists: lists.curating is not None)
    places = [{"X-Forwarded-For": f"2001:db8::{n}"} for n in range(1, 5)]
    async with (
        relay.client(places[0]) as first,
        relay.client(places[1]) as second,
        relay.client(places[2]) as third,
        relay.client({"X-Forwarded-For": "2001:db8:0:1::1"}) as neighbour,
    ):
        await first.accept(make_event(STRANGER))
        await second.accept(make_event(OTHER))
        reason = "rate-limited: 2 events a day are taken of one address"
        assert await third.refusal(make_event(FRIEND)) == reason
        await settled(relay, lambda lists: lists.blocked == {"2001:db8::/64"})
        for client in (first, second):
            assert await client.refusal(make_event(FRIEND)) == "blocked: your address is blocked on this relay"
        await neighbour.accept(make_event(FRIEND))


# Reading


@on_access(acl_mode="managed", acl_restrict_reads=True, negentropy_enabled=True)
async def test_reads_can_be_for_writers_only(relay: TestedRelay) -> None:
    await relay.access.change([AddKey(ListName.ALLOWED_PUBKEYS, key_of(FRIEND))], by="")
    await settled(relay, lambda lists: key_of(FRIEND) in lists.keys[ListName.ALLOWED_PUBKEYS])
    event = make_event(OWNER)
    async with relay.client() as client:
        await client.accept(event)
        for verb in ("REQ", "COUNT"):
            await client.send(verb, "q", {})
            reason = await client.closed_reason("q")
            assert reason == "auth-required: this relay answers only those who may write to it"
        await client.send("NEG-OPEN", "n", {}, NOTHING)
        assert (await client.next("NEG-ERR"))[2].startswith("auth-required: ")
        await authenticated(relay, client, STRANGER)
        await client.send("REQ", "q", {})
        assert await client.closed_reason("q") == "restricted: this relay answers only those who may write to it"
        await client.send("NEG-OPEN", "n", {}, NOTHING)
        assert (await client.next("NEG-ERR"))[2].startswith("restricted: ")
    async with relay.client() as client:
        await authenticated(relay, client, FRIEND)
        assert await client.request("q", {}) == [event.event.id]
        assert await client.count("c", {}) == 1


@on_access(acl_mode="managed", negentropy_enabled=True)
async def test_what_is_banned_is_hidden_at_every_door(relay: TestedRelay) -> None:
    bad, good = make_event(FRIEND), make_event(OWNER)
    await relay.access.change([AddKey(ListName.ALLOWED_PUBKEYS, key_of(FRIEND))], by="")
    await settled(relay, lambda lists: key_of(FRIEND) in lists.keys[ListName.ALLOWED_PUBKEYS])
    async with relay.client() as client, relay.client() as admin:
        await authenticated(relay, admin, ADMIN)
        await client.accept(bad, good)
        assert len(await client.request("before", {})) == 2
        await relay.access.change([AddKey(ListName.BANNED_PUBKEYS, key_of(FRIEND))], by="")
        await settled(relay, lambda lists: key_of(FRIEND) in lists.keys[ListName.BANNED_PUBKEYS])
        assert await client.request("q", {}) == [good.event.id]
        assert await client.count("c", {}) == 1
        assert len(await admin.request("q", {})) == 2
        assert await admin.count("c", {}) == 2
        await relay.access.change([DropKey(ListName.BANNED_PUBKEYS, key_of(FRIEND))], by="")
        assert len(await client.request("q", {})) == 2


@on_access(acl_mode="managed", negentropy_enabled=True)
async def test_who_is_banned_or_blocked_loses_what_is_open(relay: TestedRelay) -> None:
    async with relay.client() as client, relay.client() as other:
        await authenticated(relay, client, FRIEND)
        await client.request("s", {})
        await client.send("NEG-OPEN", "n", {}, NOTHING)
        await client.next("NEG-MSG")
        await other.request("s", {})
        await relay.access.change([AddKey(ListName.BANNED_PUBKEYS, key_of(FRIEND))], by="")
        reason = "blocked: the key you authenticated with is banned on this relay"
        assert await client.closed_reason("s") == reason
        assert (await client.next("NEG-ERR"))[2] == reason
        await until(lambda: relay.n_subscriptions == 1, "the subscription to go")
        await relay.access.change([BlockAddress("127.0.0.1")], by="")
        assert await other.closed_reason("s") == "blocked: your address is blocked on this relay"
        await relay.access.change([UnblockAddress("127.0.0.1")], by="")
        await settled(relay, lambda lists: not lists.blocked)
        assert await other.request("s", {}) == []


@on_access(acl_mode="managed")
async def test_a_count_under_way_is_closed_for_who_may_not_read_any_more(relay: TestedRelay) -> None:
    async with relay.client() as client, relay.client() as other:
        await authenticated(relay, client, FRIEND)
        relay.store.hold_counts()
        for query_id in ("first", "second"):
            await client.send("COUNT", query_id, {})
        await other.send("COUNT", "c", {})
        await until(lambda: len(relay.store.queries) == 3, "the counts")
        await relay.access.change([AddKey(ListName.BANNED_PUBKEYS, key_of(FRIEND))], by="")
        reason = "blocked: the key you authenticated with is banned on this relay"
        assert await client.closed_reason("first") == reason
        assert await client.closed_reason("second") == reason
        relay.store.release()
        await other.next("COUNT", of="c")
        await client.send("COUNT", "third", {})
        assert await client.closed_reason("third") == reason
        assert client.inbox == [], "each is answered once"


@on_access(acl_mode="managed")
async def test_private_events_are_for_their_parties_whoever_moderates(relay: TestedRelay) -> None:
    wrap = gift_wrap(KEYS[FRIEND], key=OWNER, signed=True)
    async with relay.client() as client:
        await client.accept(wrap)
        await authenticated(relay, client, ADMIN)
        assert await client.request("q", {}) == []
    async with relay.client() as client:
        await authenticated(relay, client, FRIEND)
        assert await client.request("q", {}) == [wrap.event.id]


# Rates


@on_access(trusted_proxies=("127.0.0.1",), events_per_ip_per_minute=3, reqs_per_ip_per_minute=3)
async def test_rates_of_an_address(relay: TestedRelay) -> None:
    from_there = {"X-Forwarded-For": "2001:db8::1"}
    neighbour = {"X-Forwarded-For": "2001:db8::ffff"}
    async with relay.client(from_there) as client, relay.client(neighbour) as other, relay.client() as elsewhere:
        await client.accept(*(make_event(STRANGER, content=str(n)) for n in range(3)))
        reason = "rate-limited: too many events from your address, slow down"
        assert await other.refusal(make_event(OTHER)) == reason
        await elsewhere.accept(make_event(OTHER))
        for sub_id in ("1", "2", "3"):
            await client.request(sub_id, {"limit": 0})
        await other.send("REQ", "4", {})
        assert await other.closed_reason("4") == "rate-limited: too many requests, slow down"
        await other.send("COUNT", "5", {})
        assert await other.closed_reason("5") == "rate-limited: too many requests, slow down"
        relay.time.steady += 20
        await other.accept(make_event(OTHER, content="later"))
        await other.request("6", {"limit": 0})
        await authenticated(relay, other, ADMIN)
        await other.accept(*(make_event(OTHER, content=f"more {n}") for n in range(5)))


@on_access(trusted_proxies=("127.0.0.1",), reqs_per_ip_per_minute=3)
async def test_requests_to_the_api_and_over_websockets_share_a_rate(relay: TestedRelay) -> None:
    async with (
        relay.client({"X-Forwarded-For": "192.0.2.7"}) as client,
        await RawClient.open(relay.url) as there,
        await RawClient.open(relay.url) as elsewhere,
    ):
        await client.request("1", {"limit": 0})
        asked = [await there.request(["X-Forwarded-For: 192.0.2.7"], path="/api/acl-mode") for _ in range(3)]
        assert [reply.status for reply in asked] == [200, 200, 429]
        await client.send("REQ", "2", {})
        assert await client.closed_reason("2") == "rate-limited: too many requests, slow down"
        assert (await elsewhere.request(["X-Forwarded-For: 192.0.2.8"], path="/api/acl-mode")).status == 200


@on_access(events_per_key_per_minute=2)
async def test_rates_of_an_author_count_valid_events_only(relay: TestedRelay) -> None:
    note = make_event(STRANGER)
    forged = note.raw.replace(note.event.sig.encode(), make_event(OWNER).event.sig.encode())
    async with relay.client() as client:
        for _ in range(4):
            await client.send_text(f'["EVENT",{forged.decode()}]')
            assert (await client.next("OK"))[3].startswith("invalid: ")
        await client.accept(note, make_event(STRANGER, content="2"), make_event(OTHER))
        reason = "rate-limited: too many events of this author, slow down"
        assert await client.refusal(make_event(STRANGER, content="3")) == reason
        relay.time.steady += 30
        await client.accept(make_event(STRANGER, content="3"))


@on_access(events_per_key_per_minute=3)
async def test_old_events_cost_their_author_nothing(relay: TestedRelay) -> None:
    profile = make_event(STRANGER, kind=0, created_at=NOW_S)
    async with relay.client() as client, relay.client() as anybody:
        await client.accept(profile)
        for n in range(1, 6):
            old = make_event(STRANGER, kind=0, created_at=NOW_S - n)
            assert (await anybody.publish(old))[0][3].startswith("duplicate: ")
            assert (await anybody.publish(profile))[0][3].startswith("duplicate: ")
        await client.accept(make_event(STRANGER, content="1"), make_event(STRANGER, content="2"))
        assert (await client.refusal(make_event(STRANGER, content="3"))).startswith("rate-limited: ")


@on_access(trusted_proxies=("127.0.0.1",), auths_per_ip_per_minute=2)
async def test_attempts_to_authenticate_are_limited(relay: TestedRelay) -> None:
    async with relay.client({"X-Forwarded-For": "192.0.2.9"}) as client:
        challenge = (await client.next("AUTH"))[1]
        for _ in range(2):
            ok = await client.authenticate(OWN_WRONG, key=STRANGER, challenge=challenge, at_s=relay.time.now)
            assert ok[3].startswith("invalid: ")
        ok = await client.authenticate(OWN_WRONG, key=STRANGER, challenge=challenge, at_s=relay.time.now)
        assert ok[3].startswith("rate-limited: ")


OWN_WRONG = "wss://elsewhere.example.com"
