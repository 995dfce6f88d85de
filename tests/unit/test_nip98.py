"""Authorization of HTTP requests: headers, exact URLs, methods, bodies, the time window, use once."""

from base64 import b64encode, urlsafe_b64encode
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.factory import NOW_S, make_event
from tests.strategies import QUICK, texts

from orly.nostr.event import EncodedEvent
from orly.nostr.kinds import HTTP_AUTH
from orly.nostr.nip98 import (
    MAX_HEADER_BYTES,
    WINDOW_S,
    HttpAuthError,
    UsedEvents,
    check_http_auth,
    parse_authorization,
)

URL = "https://relay.example.com/api/export?pubkey=ab"
BODY = b'{"method":"supportedmethods","params":[]}'


def allowing(*tags: tuple[str, ...], kind: int = HTTP_AUTH, created_at: int = NOW_S, url: str = URL) -> EncodedEvent:
    return make_event(kind=kind, created_at=created_at, tags=[("u", url), ("method", "POST"), *tags])


def check(event: EncodedEvent, **given: Any) -> str | None:
    fitting: dict[str, Any] = {"urls": [URL], "method": "POST", "body": BODY, "needs_payload": False, "now_s": NOW_S}
    return check_http_auth(event.event, **(fitting | given))


# The header


@pytest.mark.parametrize("encode", [b64encode, urlsafe_b64encode])
@pytest.mark.parametrize("scheme", ["Nostr", "nostr", "NOSTR"])
@pytest.mark.parametrize("padding", [True, False])
def test_both_alphabets_are_read(encode: Any, scheme: str, padding: bool) -> None:
    # The content brings bytes that the two alphabets write differently.
    event = make_event(kind=HTTP_AUTH, content="\u00ff\u00fe~~~???>>>" * 3)
    token = encode(event.raw).decode()
    assert b64encode(event.raw) != urlsafe_b64encode(event.raw)
    assert parse_authorization(f"{scheme} {token if padding else token.rstrip('=')}") == event


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("", "is needed"),
        ("   ", "is needed"),
        ("Nostr", "two words"),
        ("Bearer abc", "two words"),
        ("Nostr a b", "two words"),
        ("Nostr !!!!", "not base64"),
        ("Nostr a", "not base64"),
        ("Nostr \u00e9\u00e9\u00e9\u00e9", "not base64"),
        ("Nostr e30=", "holds no event"),
        ("Nostr " + "A" * MAX_HEADER_BYTES, "more than 16384 bytes"),
    ],
)
def test_what_is_no_header(header: str, words: str) -> None:
    with pytest.raises(HttpAuthError, match=words):
        parse_authorization(header)


def test_a_header_at_the_bound_is_read() -> None:
    event = make_event(kind=HTTP_AUTH)
    header = f"Nostr {b64encode(event.raw).decode()}"
    assert parse_authorization(header.ljust(MAX_HEADER_BYTES)) == event


@QUICK
@given(texts())
def test_any_text_is_read_or_refused_by_name(text: str) -> None:
    for header in (text, f"Nostr {text}", f"Nostr {b64encode(text.encode()).decode()}"):
        with pytest.raises(HttpAuthError):
            parse_authorization(header)


# What it must say


def test_the_right_event_allows_a_request() -> None:
    assert check(allowing()) is None
    assert check(allowing(("payload", sha256(BODY).hexdigest()))) is None
    assert check(allowing(("payload", sha256(BODY).hexdigest().upper())), needs_payload=True) is None
    assert check(allowing(("payload", sha256(b"").hexdigest())), body=b"", needs_payload=True) is None
    assert check(allowing(), urls=["http://127.0.0.1:3334/api/export?pubkey=ab", URL]) is None
    assert check(allowing(), method="post") is None


@pytest.mark.parametrize("seconds", [-WINDOW_S, WINDOW_S])
def test_the_window_of_time(seconds: int) -> None:
    assert check(allowing(created_at=NOW_S + seconds)) is None
    beyond = allowing(created_at=NOW_S + seconds + (1 if seconds > 0 else -1))
    assert check(beyond) == "created_at is more than 60 s away from the relay's clock"


def test_an_expiration_does_not_widen_the_window() -> None:
    old = allowing(("expiration", str(NOW_S + 1000)), created_at=NOW_S - 61)
    assert check(old) is not None


@pytest.mark.parametrize("kind", [1, 22_242])
def test_another_kind(kind: int) -> None:
    assert check(allowing(kind=kind)) == f"the event has kind {kind}, it must be 27235"


@pytest.mark.parametrize(
    ("signed", "asked"),
    [
        ("https://relay.example.com", "https://relay.example.com/"),
        ("https://relay.example.com:443/", "https://relay.example.com/"),
        ("wss://relay.example.com", "https://relay.example.com/"),
        ("ws://127.0.0.1:3334", "http://127.0.0.1:3334/"),
        ("http://[::1]:3334/x", "http://[::1]:3334/x"),
        ("HTTPS://Relay.Example.com/a", "https://relay.example.com/a"),
        ("https://relay.example.com?x=1", "https://relay.example.com/?x=1"),
    ],
)
def test_urls_of_one_resource(signed: str, asked: str) -> None:
    assert check(allowing(url=signed), urls=[asked]) is None


@pytest.mark.parametrize(
    "signed",
    [
        "",
        "relay.example.com/api/export?pubkey=ab",
        "http://relay.example.com/api/export?pubkey=ab",
        "https://relay.example.com/api/export",
        "https://relay.example.com/api/export?",
        "https://relay.example.com/api/export?pubkey=AB",
        "https://relay.example.com/api/export?pubkey=ab&pubkey=cd",
        "https://relay.example.com/api/export/?pubkey=ab",
        "https://relay.example.com/API/export?pubkey=ab",
        "https://relay.example.com/api/%65xport?pubkey=ab",
        "https://relay.example.com/api//export?pubkey=ab",
        "https://relay.example.com/api/export?pubkey=ab#",
        "https://relay.example.com:8443/api/export?pubkey=ab",
        "https://evil.example.com/api/export?pubkey=ab",
        "https://relay.example.com@evil.com/api/export?pubkey=ab",
        "https://u@relay.example.com/api/export?pubkey=ab",
        "https://relay.example.com:x/api/export?pubkey=ab",
        "https://relay.example.com/",
        "ftp://relay.example.com/api/export?pubkey=ab",
        "https:///api/export?pubkey=ab",
        "https://[/api/export",
    ],
)
def test_another_url(signed: str) -> None:
    assert check(allowing(url=signed)) == f"the u tag must be {URL}"


def test_all_urls_that_would_do_are_named() -> None:
    assert check(allowing(url="x"), urls=["http://a/", "http://b/"]) == "the u tag must be http://a/ or http://b/"


@pytest.mark.parametrize(
    ("tags", "problem"),
    [
        ([("method", "POST")], "the event must have one u tag"),
        ([("u",), ("method", "POST")], "the event must have one u tag"),
        ([("u", URL), ("u", URL), ("method", "POST")], "the event must have one u tag"),
        ([("u", URL)], "the event must have one method tag"),
        ([("u", URL), ("method", "POST"), ("method", "GET")], "the event must have one method tag"),
        ([("u", URL), ("method", "GET")], "the method tag must be POST"),
        ([("u", URL), ("method", "")], "the method tag must be POST"),
    ],
)
def test_tags_that_are_missing_or_wrong(tags: list[tuple[str, ...]], problem: str) -> None:
    assert check(make_event(kind=HTTP_AUTH, tags=tags)) == problem


@pytest.mark.parametrize("payload", ["", "ab", sha256(b"x").hexdigest(), sha256(b"").hexdigest()])
def test_another_body(payload: str) -> None:
    for needs_payload in (True, False):
        problem = check(allowing(("payload", payload)), needs_payload=needs_payload)
        assert problem == "the payload tag is not the SHA-256 of the body"


def test_a_payload_that_must_be_there() -> None:
    problem = check(allowing(), needs_payload=True)
    assert problem == "the payload tag is missing: the SHA-256 of the body, in hex"


@QUICK
@given(texts(), st.binary(max_size=20))
def test_any_url_is_taken_or_refused(url: str, body: bytes) -> None:
    assert check(allowing(url=url), body=body) is not None


# Once


def test_an_event_is_used_once() -> None:
    used = UsedEvents()
    first, second = allowing(), allowing(("x", "y"))
    assert used.use(first.id, NOW_S) == NOW_S + 2 * WINDOW_S
    assert used.use(second.id, NOW_S) is not None
    assert used.use(first.id, NOW_S) is None
    assert used.expire(NOW_S + 2 * WINDOW_S, 10) == []
    assert used.use(first.id, NOW_S + 2 * WINDOW_S) is None


def test_an_event_is_remembered_as_long_as_it_would_be_taken() -> None:
    early = allowing(created_at=NOW_S + WINDOW_S)
    used = UsedEvents()
    assert used.use(early.id, NOW_S) == early.event.created_at + WINDOW_S
    last_s = early.event.created_at + WINDOW_S
    assert check(early, now_s=last_s) is None
    assert used.expire(last_s, 10) == []
    assert used.use(early.id, last_s) is None
    assert check(early, now_s=last_s + 1) is not None
    assert used.expire(last_s + 1, 10) == [early.id]
    assert len(used) == 0


def test_no_more_are_remembered_than_the_bound() -> None:
    used = UsedEvents(most=2)
    events = [allowing(("n", str(n))) for n in range(3)]
    assert [used.use(event.id, NOW_S) is None for event in events] == [False, False, True]
    assert len(used) == 2
    assert used.expire(NOW_S + 2 * WINDOW_S + 1, 1) == [events[0].id]
    assert used.use(events[2].id, NOW_S) is not None


def test_what_was_not_used_after_all_is_forgotten() -> None:
    used = UsedEvents()
    event = allowing()
    used.use(event.id, NOW_S)
    used.forget(event.id)
    used.forget(event.id)
    assert used.use(event.id, NOW_S) is not None


def test_what_is_restored_leaves_in_the_order_of_its_time() -> None:
    used = UsedEvents()
    ids = [allowing(("n", str(n))).id for n in range(3)]
    used.use(ids[0], NOW_S)
    used.restore({ids[1]: NOW_S - 1, ids[2]: NOW_S - 2})
    assert [used.use(each, NOW_S) for each in ids] == [None] * 3
    assert used.expire(NOW_S, 10) == [ids[2], ids[1]]
    assert len(used) == 1
