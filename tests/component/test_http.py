"""The relay's port spoken to in plain HTTP."""

import asyncio
import json
from collections.abc import Sequence
from ipaddress import ip_network

import pytest
from tests.transport import INFO, info_document, rules, run_async, serving
from tests.wsclient import HttpReply, RawClient, http, until

from orly.nostr import nip11
from orly.relay.http_app import wants_info
from orly.relay.http_protocol import MAX_HEAD_BYTES

NOSTR = "application/nostr+json"


def ask(
    headers: Sequence[str] = (),
    *,
    method: str = "GET",
    path: str = "/",
    info: bytes = INFO,
    relay_url: str = "",
    health: str | None = None,
) -> HttpReply:
    """One request to a fresh server."""
    replies = []

    async def main() -> None:
        async with serving(info=lambda: info, relay_url=relay_url, health=lambda: health) as relay:
            replies.append(await http(relay.url, headers, method=method, path=path))

    run_async(main())
    return replies[0]


@pytest.mark.parametrize(
    "accept",
    [
        "application/nostr+json",
        "Application/Nostr+JSON",
        " application/nostr+json ",
        "application/json, application/nostr+json",
        "text/html,application/nostr+json;q=0.1",
        "application/nostr+json; charset=utf-8",
        "application/nostr+json ; Q=0.001",
        "application/nostr+json;q=nonsense",
    ],
)
def test_who_gets_the_information_document(accept: str) -> None:
    assert wants_info([accept])


@pytest.mark.parametrize(
    "accept",
    [
        "",
        "*/*",
        "text/html",
        "application/json",
        "application/*",
        "application/nostr+json;q=0",
        "application/nostr+json; q=0.000",
        "application/nostr+json-ish",
        "text/html;x=application/nostr+json",
    ],
)
def test_who_does_not(accept: str) -> None:
    assert not wants_info([accept])


def test_several_accept_lines_are_one_list() -> None:
    assert wants_info(["text/html", "application/nostr+json"])
    assert not wants_info([])


@pytest.mark.parametrize("name", ["Accept", "accept", "ACCEPT"])
def test_the_information_document_with_its_type_and_cors(name: str) -> None:
    reply = ask([f"{name}: {NOSTR}"])
    assert (reply.status, reply.body) == (200, INFO)
    assert reply.headers["content-type"] == NOSTR
    assert reply.headers["access-control-allow-origin"] == "*"
    assert reply.headers["access-control-allow-headers"] == "*, Authorization"
    assert reply.headers["access-control-allow-methods"] == "GET, HEAD, POST, OPTIONS"
    assert "Accept" in reply.headers["vary"]
    assert json.loads(reply.body)["limitation"]["max_subid_length"] == nip11.MAX_SUBID_LENGTH


def test_a_query_string_does_not_matter() -> None:
    assert ask([f"Accept: {NOSTR}"], path="/?x=1").body == INFO


def test_a_head_request_has_the_headers_alone() -> None:
    reply = ask([f"Accept: {NOSTR}"], method="HEAD")
    assert (reply.status, reply.headers["content-length"]) == (200, str(len(INFO)))
    assert reply.headers["content-type"] == NOSTR


def test_a_preflight_is_answered() -> None:
    reply = ask(["Origin: https://client.example", "Access-Control-Request-Method: GET"], method="OPTIONS")
    assert (reply.status, reply.body) == (204, b"")
    assert reply.headers["access-control-allow-origin"] == "*"
    assert reply.headers["access-control-allow-headers"] == "*, Authorization"
    assert "GET" in reply.headers["access-control-allow-methods"]


def test_browsers_get_a_page_that_names_the_relay_and_its_nips() -> None:
    reply = ask(["Accept: text/html,application/xhtml+xml,*/*;q=0.8"], relay_url="https://relay.example")
    page = reply.body.decode()
    assert reply.status == 200
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    assert reply.headers["access-control-allow-origin"] == "*"
    for expected in ("Test relay", "A relay for tests", "wss://relay.example", "mailto:ops@example.com"):
        assert expected in page
    for nip in nip11.supported_nips(min_pow_difficulty=0):
        assert f'"{nip}"' in page


def test_the_page_needs_nothing_from_elsewhere_and_may_run_nothing() -> None:
    reply = ask(relay_url="wss://relay.example")
    policy = reply.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    assert "<script" not in reply.body.decode()
    assert "src=" not in reply.body.decode()
    assert reply.headers["x-content-type-options"] == "nosniff"


def test_everything_on_the_page_is_escaped() -> None:
    attack = '<script>alert("x")</script>'
    info = info_document(name=attack, description=attack, contact=attack, pubkey=attack, version=attack)
    page = ask(info=info, relay_url="wss://relay.example/<script>").body.decode()
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 5


def test_without_a_public_url_the_page_shows_the_one_the_browser_used() -> None:
    async def main() -> None:
        async with serving() as relay:
            assert relay.url in (await http(relay.url)).body.decode()
            odd = await http(relay.url, ["Host: <b>odd</b>"], host=False)
            assert (odd.status, "odd" in odd.body.decode()) == (200, False)
            assert (await http(relay.url, ["X-Forwarded-Host: evil.example"])).body.decode().count("evil") == 0

    run_async(main())


def test_a_trusted_proxy_names_the_url_on_the_page() -> None:
    async def main() -> None:
        async with serving(gate=rules(trusted_proxies=(ip_network("127.0.0.0/8"),))) as relay:
            said = ["X-Forwarded-Host: relay.example", "X-Forwarded-Proto: https"]
            assert "wss://relay.example" in (await http(relay.url, said)).body.decode()

    run_async(main())


@pytest.mark.parametrize("path", ["/health", "/healthz"])
def test_health_is_ok_while_the_relay_serves(path: str) -> None:
    reply = ask(path=path)
    assert (reply.status, json.loads(reply.body)) == (200, {"status": "ok"})
    assert reply.headers["cache-control"] == "no-store"
    assert ask(path=path, method="HEAD").status == 200


def test_health_says_why_the_relay_does_not_serve() -> None:
    reply = ask(path="/health", health="the disk is full")
    assert reply.status == 503
    assert json.loads(reply.body) == {"status": "unavailable", "reason": "the disk is full"}


@pytest.mark.parametrize("path", ["/nothing", "/health/", "/index.html", "/..%2f", "//"])
def test_other_paths_are_not_found(path: str) -> None:
    assert ask(path=path).status == 404


@pytest.mark.parametrize(("method", "path"), [("POST", "/"), ("DELETE", "/"), ("PUT", "/health")])
def test_other_methods_are_not_allowed(method: str, path: str) -> None:
    reply = ask(["Content-Length: 0"], method=method, path=path)
    assert reply.status == 405
    assert "GET" in reply.headers["allow"]


def test_one_socket_serves_several_requests() -> None:
    async def main() -> None:
        async with serving() as relay, await RawClient.open(relay.url) as client:
            for _ in range(5):
                assert (await client.request(path="/health")).status == 200
            assert (await client.upgrade()).status == 101

    run_async(main())


@pytest.mark.parametrize(
    ("path", "headers", "method", "host", "status", "why"),
    [
        ("/other", (), "GET", True, 404, "on / only"),
        ("/", (), "GET", False, 400, "Host header"),
        ("/", ("Host: other.example",), "GET", True, 400, "Host header"),
        ("/", (), "POST", True, 405, "unsupported HTTP method"),
        ("/", ("Sec-WebSocket-Version: 8",), "GET", True, 400, "Sec-WebSocket-Version"),
        ("/", ("Content-Length: 5",), "GET", True, 400, "no WebSocket handshake"),
        ("/", (f"X-Long: {'x' * 9000}",), "GET", True, 431, "8192 bytes"),
    ],
)
def test_handshakes_that_fail_say_why(
    path: str, headers: Sequence[str], method: str, host: bool, status: int, why: str
) -> None:
    async def main() -> None:
        async with serving() as relay, await RawClient.open(relay.url) as client:
            reply = await client.upgrade(headers, path=path, method=method, host=host)
            assert reply.status == status
            assert why.lower() in reply.body.decode().lower()
            assert await client.ended() == b""
            assert relay.sessions == []

    run_async(main())


def test_a_query_string_does_not_keep_a_client_out() -> None:
    async def main() -> None:
        async with serving() as relay, await RawClient.open(relay.url) as client:
            assert (await client.upgrade(path="/?token=1")).status == 101

    run_async(main())


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET / HT",
        b"GET / HTTP/1.1\r\nHost: x\r\n",
        b"\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nab",
    ],
    ids=["nothing", "half a line", "half a head", "empty lines", "half a body"],
)
def test_a_socket_that_dawdles_is_cut(sent: bytes) -> None:
    async def main() -> None:
        async with serving(handshake_timeout_s=0.05) as relay, await RawClient.open(relay.url) as client:
            client.send(sent)
            received = await client.ended()
            assert received == b"" or received.startswith(b"HTTP/1.1 405")

    run_async(main())


def test_a_head_that_drips_does_not_put_the_deadline_off() -> None:
    async def main() -> None:
        async with serving(handshake_timeout_s=0.5) as relay, await RawClient.open(relay.url) as client:
            assert (await client.request(path="/health")).status == 200
            client.send(b"GET /health HTTP/1.1\r\n")
            ended = asyncio.create_task(client.ended())

            def drip() -> bool:
                if not client.writer.is_closing():
                    client.send(b"X: y\r\n")
                return ended.done()

            await until(drip, "the socket to be cut")
            assert await ended == b""

    run_async(main())


def test_a_connection_outlives_the_deadline_of_its_handshake() -> None:
    async def main() -> None:
        async with serving(handshake_timeout_s=1.0) as relay, await RawClient.open(relay.url) as client:
            assert (await client.upgrade()).status == 101
            async with await RawClient.open(relay.url) as dawdler:
                assert await dawdler.ended() == b""
            session = await relay.session()
            session.connection.send(b"still here")
            assert await client.receive_frame() == (1, b"still here")

    run_async(main())


def test_a_head_at_the_bound_is_read() -> None:
    async def main() -> None:
        async with serving() as relay, await RawClient.open(relay.url) as client:
            head = b"GET /health HTTP/1.1\r\nHost: x\r\nX-Filler: "
            client.send(head + b"y" * (MAX_HEAD_BYTES - len(head)))
            client.send(b"\r\n\r\n")
            assert (await client.reply()).status == 200

    run_async(main())


def test_an_upgrade_may_not_overtake_an_answer() -> None:
    async def main() -> None:
        async with serving() as relay, await RawClient.open(relay.url) as client:
            client.send(
                b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
                b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
            )
            assert b"101 Switching" not in await client.ended()
            assert relay.sessions == []

    run_async(main())


@pytest.mark.parametrize(
    "junk", [b"\x00\x01\x02\r\n\r\n", b"HELO relay\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"]
)
def test_what_is_not_http_is_refused(junk: bytes) -> None:
    async def main() -> None:
        async with serving() as relay, await RawClient.open(relay.url) as client:
            client.send(junk)
            assert (await client.ended()).startswith(b"HTTP/1.1 400")
            assert (await http(relay.url, path="/health")).status == 200

    run_async(main())
