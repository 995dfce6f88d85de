"""Who a request is from (NIP-98): every way in which a header does not fit, addresses behind proxies, use once."""

from base64 import b64encode, urlsafe_b64encode
from pathlib import Path
from typing import Any

import pytest
from tests.component.api_world import (
    ADMIN,
    HOST,
    OWNER,
    PEER,
    STRANGER,
    ApiWorld,
    Reply,
    allowing,
    api_world,
    header_of,
    own_rules,
)
from tests.component.async_test import async_test
from tests.factory import KEYS, NOW_S, event_json, make_event

from orly.access.levels import Level, Mode
from orly.nostr.event import EncodedEvent
from orly.nostr.kinds import HTTP_AUTH
from orly.relay.api import RPC_TYPE
from orly.relay.rates import Rates

BODY = b'{"method":"supportedmethods","params":[]}'
ROOT = f"http://{HOST}/"


def fitting(key: int = OWNER, **changes: Any) -> EncodedEvent:
    """What allows to send `BODY` to the root."""
    given: dict[str, Any] = {"method": "POST", "url": ROOT, "body": BODY, "created_at": NOW_S} | changes
    return allowing(key, **given)


async def send(world: ApiWorld, authorization: str, **others: Any) -> Reply:
    """`BODY` to the root."""
    given = {"Content-Type": RPC_TYPE, "Authorization": authorization} | others.pop("headers", {})
    return await world.ask("POST", "/", pieces=(BODY,), headers=given, **others)


def is_refused(reply: Reply, words: str) -> bool:
    return reply.status == 401 and reply.headers["www-authenticate"] == "Nostr" and words in reply.error


@async_test
async def test_what_fits(tmp_path: Path) -> None:
    async with api_world(tmp_path) as world:
        assert (await send(world, header_of(fitting()))).status == 200
        for spelled in (ROOT, f"HTTP://{HOST.upper()}/", f"ws://{HOST}", f"http://{HOST}:80/"):
            world.clock.now += 1
            assert (await send(world, header_of(fitting(url=spelled, created_at=world.clock.now)))).status == 200


@pytest.mark.parametrize("seconds", [-61, -60, 60, 61])
def test_the_time(tmp_path: Path, seconds: int) -> None:
    @async_test
    async def main() -> None:
        async with api_world(tmp_path) as world:
            world.clock.now += 61
            reply = await send(world, header_of(fitting(created_at=world.clock.now + seconds)))
            assert is_refused(reply, "more than 60 s away") if abs(seconds) > 60 else reply.status == 200

    main()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"url": f"https://{HOST}/"}, f"the u tag must be http://{HOST}/"),
        ({"url": "http://other.example.com/"}, "the u tag must be"),
        ({"url": f"http://{HOST}/api/nip86"}, "the u tag must be"),
        ({"url": f"http://{HOST}/?x=1"}, "the u tag must be"),
        ({"url": "/"}, "the u tag must be"),
        ({"url": f"http://{HOST}:8080/"}, "the u tag must be"),
        ({"method": "GET"}, "the method tag must be POST"),
        ({"body": None}, "the payload tag is missing"),
        ({"body": BODY + b" "}, "the payload tag is not the SHA-256"),
        ({"tags": [["u", ROOT]]}, "one u tag"),
        ({"tags": [["method", "POST"]]}, "one method tag"),
    ],
)
def test_an_event_that_allows_something_else(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    @async_test
    async def main() -> None:
        async with api_world(tmp_path) as world:
            assert is_refused(await send(world, header_of(fitting(**changes))), words)

    main()


@async_test
async def test_headers_that_hold_no_event(tmp_path: Path) -> None:
    async with api_world(tmp_path) as world:
        for header, words in (
            ("", "is needed"),
            ("Nostr", "two words"),
            ("Basic abc", "two words"),
            ("Nostr a b", "two words"),
            ("Nostr ****", "not base64"),
            ("Nostr e30=", "holds no event"),
        ):
            assert is_refused(await send(world, header), words), header
        reply = await world.ask("POST", "/", pieces=(BODY,), headers={"Content-Type": RPC_TYPE})
        assert is_refused(reply, "is needed")


@async_test
async def test_forged_events(tmp_path: Path) -> None:
    async with api_world(tmp_path) as world:
        good = fitting(OWNER)
        forged = event_json(good, sig=fitting(STRANGER).event.sig)
        header = f"Nostr {b64encode(forged).decode()}"
        assert is_refused(await send(world, header), "the signature does not match")
        changed = event_json(good, pubkey=KEYS[ADMIN])
        assert is_refused(await send(world, f"Nostr {b64encode(changed).decode()}"), "id does not match")
        other_kind = make_event(OWNER, 1, NOW_S, good.event.tags)
        assert is_refused(await send(world, header_of(other_kind)), "kind 1, it must be 27235")
        expiring = make_event(OWNER, HTTP_AUTH, NOW_S - 61, [*good.event.tags, ["expiration", str(NOW_S + 60)]])
        assert is_refused(await send(world, header_of(expiring)), "60 s away")
        assert (await send(world, header_of(good))).status == 200  # none of these has used it


@pytest.mark.parametrize("encode", [b64encode, urlsafe_b64encode])
@pytest.mark.parametrize("padding", [True, False])
def test_both_alphabets(tmp_path: Path, encode: Any, padding: bool) -> None:
    @async_test
    async def main() -> None:
        async with api_world(tmp_path) as world:
            tags = [["x", "\u00ff\u00fe~~~???>>>" * 3]]
            token = encode(fitting(tags=tags).raw).decode()
            assert set(token) & set("+/-_")
            assert (await send(world, f"Nostr {token if padding else token.rstrip('=')}")).status == 200

    main()


# Once


@async_test
async def test_an_event_is_used_once(tmp_path: Path) -> None:
    async with api_world(tmp_path) as world:
        header = header_of(fitting())
        assert (await send(world, header)).status == 200
        assert is_refused(await send(world, header), "was used before")
        world.clock.now += 59
        assert is_refused(await send(world, header), "was used before")
        world.clock.now += 2
        assert is_refused(await send(world, header), "60 s away")
        early = header_of(fitting(created_at=world.clock.now + 60))
        assert (await send(world, early)).status == 200
        world.clock.now += 120
        assert is_refused(await send(world, early), "was used before")
        world.clock.now += 1
        assert is_refused(await send(world, early), "60 s away")


@async_test
async def test_an_event_is_used_once_through_a_restart(tmp_path: Path) -> None:
    async with api_world(tmp_path) as world:
        captured, early = header_of(fitting()), header_of(fitting(created_at=NOW_S + 60))
        for header in (captured, early):
            assert (await send(world, header)).status == 200
        reading = header_of(allowing(OWNER, "GET", f"http://{HOST}/api/role", None, NOW_S))
        await world.restart()
        for header in (captured, early):
            assert is_refused(await send(world, header), "was used before")
        assert (await world.ask("GET", "/api/role", headers={"Authorization": reading})).status == 200
        assert (await send(world, header_of(fitting(tags=[["x", "unused"]])))).status == 200
        world.clock.now += 120
        await world.restart()
        assert is_refused(await send(world, early), "was used before")


@async_test
async def test_reading_may_be_repeated(tmp_path: Path) -> None:
    async with api_world(tmp_path) as world:
        event = allowing(OWNER, "GET", f"http://{HOST}/api/role", None, NOW_S)
        for _ in range(3):
            assert (await world.ask("GET", "/api/role", headers={"Authorization": header_of(event)})).status == 200


@async_test
async def test_only_who_may_do_it_is_given_time_while_that_is_asked(tmp_path: Path) -> None:
    async with api_world(tmp_path) as world:
        assert (await send(world, header_of(fitting(STRANGER)))).status == 403
        assert world.patience == [False]
        used = header_of(fitting())
        for _ in range(2):
            await send(world, used)
        assert world.patience == [False, True, True, False, True, False]


@async_test
async def test_those_who_may_not_do_it_fill_no_memory(tmp_path: Path) -> None:
    async with api_world(tmp_path) as world:
        header = header_of(fitting(STRANGER))
        for _ in range(2):
            assert (await send(world, header)).status == 403


# Addresses


@async_test
async def test_the_query_counts_as_it_is_written(tmp_path: Path) -> None:
    async with api_world(tmp_path) as world:
        target = f"/api/export?pubkey={KEYS[OWNER]}&x=%2f+%41"
        assert (await world.signed(OWNER, "GET", target)).status == 200
        decoded = f"http://{HOST}/api/export?pubkey={KEYS[OWNER]}&x=/+A"
        assert is_refused(await world.signed(OWNER, "GET", target, url=decoded), "the u tag must be")
        without = f"http://{HOST}/api/export"
        assert is_refused(await world.signed(OWNER, "GET", target, url=without), "the u tag must be")


@async_test
async def test_head_is_another_method(tmp_path: Path) -> None:
    async with api_world(tmp_path) as world:
        assert (await world.signed(OWNER, "HEAD", "/api/role")).status == 200
        header = header_of(allowing(OWNER, "GET", f"http://{HOST}/api/role", None, NOW_S))
        assert (await world.ask("HEAD", "/api/role", headers={"Authorization": header})).status == 401


@pytest.mark.parametrize("is_trusted", [True, False])
def test_forwarded_headers(tmp_path: Path, is_trusted: bool) -> None:
    @async_test
    async def main() -> None:
        proxies = ["192.0.2.0/24"] if is_trusted else ["203.0.113.0/24"]
        async with api_world(tmp_path, trusted_proxies=proxies) as world:
            public = header_of(fitting(url="https://public.example.com/"))
            forwarded = {"X-Forwarded-Host": "public.example.com", "X-Forwarded-Proto": "https"}
            reply = await send(world, public, headers=forwarded)
            assert reply.status == 200 if is_trusted else is_refused(reply, f"the u tag must be {ROOT}")
            own = header_of(fitting(created_at=NOW_S + 1))
            reply = await send(world, own, headers=forwarded)
            assert is_refused(reply, "must be https://public") if is_trusted else reply.status == 200

    main()


@pytest.mark.parametrize("is_trusted", [True, False])
def test_a_blocked_address_behind_a_proxy(tmp_path: Path, is_trusted: bool) -> None:
    @async_test
    async def main() -> None:
        async with api_world(tmp_path, trusted_proxies=["192.0.2.0/24"] if is_trusted else []) as world:
            await world.call("blockip", "198.51.100.9")
            headers = {"X-Forwarded-For": "198.51.100.9"}
            reply = await world.signed(STRANGER, "GET", "/api/role", headers=headers)
            assert reply.status == (403 if is_trusted else 200)
            await world.call("blockip", PEER)
            reply = await world.signed(STRANGER, "GET", "/api/role", headers={"X-Forwarded-For": "198.51.100.1"})
            assert reply.status == (200 if is_trusted else 403)

    main()


@pytest.mark.parametrize(
    ("relay_url", "url", "fits"),
    [
        ("wss://public.example.com", "https://public.example.com/", True),
        ("wss://public.example.com/", "wss://public.example.com", True),
        ("wss://public.example.com", "http://public.example.com/", False),
        ("ws://public.example.com:8080", "http://public.example.com:8080/", True),
        ("wss://public.example.com/relay", "https://public.example.com/relay", True),
        ("wss://public.example.com/relay", "https://public.example.com/relay/", True),
        ("wss://public.example.com/relay", "https://public.example.com/", False),
        ("wss://public.example.com", ROOT, False),
    ],
)
def test_the_public_url(tmp_path: Path, relay_url: str, url: str, fits: bool) -> None:
    @async_test
    async def main() -> None:
        async with api_world(tmp_path, relay_url=relay_url) as world:
            assert (await send(world, header_of(fitting(url=url)))).status == (200 if fits else 401)
            base = "https" + relay_url.rstrip("/").removeprefix("wss").removeprefix("ws")
            if relay_url.startswith("wss"):
                reply = await world.signed(OWNER, "GET", "/api/role", url=f"{base}/api/role")
                assert reply.json == {"role": "owner"}

    main()


@async_test
async def test_an_odd_host_is_no_url(tmp_path: Path) -> None:
    async with api_world(tmp_path, relay_url="wss://public.example.com") as world:
        header = header_of(fitting(url="http://a b/"))
        assert is_refused(await send(world, header, headers={"Host": "a b"}), "must be https://public.example.com/")


# Levels


@pytest.mark.parametrize("mode", Mode)
def test_the_level_of_each(tmp_path: Path, mode: Mode) -> None:
    @async_test
    async def main() -> None:
        async with api_world(tmp_path, own_rules(mode)) as world:
            stranger = Level.WRITE if mode is Mode.NONE else Level.READ
            for key, level in ((OWNER, Level.OWNER), (ADMIN, Level.ADMIN), (STRANGER, stranger)):
                assert (await world.signed(key, "GET", "/api/role")).json == {"role": level.label}

    main()


@async_test
async def test_nobody_is_anybody_until_the_lists_are_known(tmp_path: Path) -> None:
    async with api_world(tmp_path, is_started=False) as world:
        for reply in (
            await send(world, header_of(fitting())),
            await world.signed(OWNER, "GET", "/api/role"),
            await world.ask("GET", "/api/acl-mode"),
        ):
            assert reply.status == 503
            assert "not ready yet" in reply.error
        await world.engine.start()
        assert (await send(world, header_of(fitting()))).status == 200  # it was not used


# Rates


@async_test
async def test_requests_by_address(tmp_path: Path) -> None:
    time_s = 0.0
    rates = Rates(requests_per_ip=3, monotonic_s=lambda: time_s)
    there: dict[str, Any] = {"peer": "2001:db8::1"}
    async with api_world(tmp_path, rates=rates) as world:
        assert (await world.signed(STRANGER, "GET", "/api/role", **there)).status == 200
        assert (await world.ask("GET", "/api/acl-mode", peer="2001:db8::2")).status == 200
        assert is_refused(await send(world, "Nostr bad", **there), "holds no event")
        for reply in (
            await world.signed(3, "GET", "/api/role", **there),
            await world.signed(3, "GET", "/api/export", **there),
            await world.ask("GET", "/api/acl-mode", **there),
            await send(world, "Nostr bad", **there),
            await send(world, header_of(fitting(STRANGER)), **there),
            await world.signed(STRANGER, "POST", "/api/import", b"", **there),
        ):
            assert (reply.status, "slow down" in reply.error) == (429, True), reply
            assert reply.headers["access-control-allow-origin"] == "*"
        assert (await world.ask("OPTIONS", "/api/export", **there)).status == 204
        assert (await world.signed(STRANGER, "GET", "/api/role", peer="2001:db8:0:1::1")).status == 200
        assert (await send(world, header_of(fitting()), **there)).status == 200, "who moderates is not limited"
        time_s += 20
        assert [(await world.ask("GET", "/api/acl-mode", **there)).status for _ in range(2)] == [200, 429]
        for _ in range(5):
            assert (await world.ask("GET", "/api/acl-mode", peer="127.0.0.1")).status == 200


@async_test
async def test_requests_by_key(tmp_path: Path) -> None:
    rates = Rates(requests_per_key=2, monotonic_s=lambda: 0.0)
    async with api_world(tmp_path, rates=rates) as world:
        for number, status in enumerate((200, 200, 429)):
            assert (await world.signed(STRANGER, "GET", "/api/role", peer=f"192.0.2.{number}")).status == status
        assert (await world.signed(3, "GET", "/api/role")).status == 200
        assert [(await world.signed(ADMIN, "GET", "/api/role")).status for _ in range(4)] == [200] * 4


@async_test
async def test_what_only_reads_may_be_asked_for_again_with_the_same_event(tmp_path: Path) -> None:
    async with api_world(tmp_path) as world:
        header = {"Authorization": header_of(allowing(STRANGER, "GET", f"http://{HOST}/api/role", None, NOW_S))}
        for seconds, status in ((0, 200), (0, 200), (60, 200), (1, 401)):
            world.clock.now += seconds
            assert (await world.ask("GET", "/api/role", headers=header)).status == status
