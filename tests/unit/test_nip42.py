"""Authentication events: relay URLs that must and must not agree, the time window, missing parts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.factory import NOW_S, auth_event, make_event
from tests.strategies import QUICK, texts

from orly.nostr.nip42 import check_auth, same_relay, targets_relay

_OWN = "wss://relay.example.com"


@pytest.mark.parametrize(
    ("url", "own_url"),
    [
        ("wss://relay.example.com", _OWN),
        ("wss://relay.example.com/", _OWN),
        ("wss://relay.example.com", _OWN + "/"),
        ("WSS://Relay.EXAMPLE.com/", _OWN),
        ("wss://relay.example.com.", _OWN),
        ("wss://relay.example.com:443", _OWN),
        ("wss://relay.example.com:0443", _OWN),
        ("wss://relay.example.com:", _OWN),
        (" wss://relay.example.com\n", _OWN),
        ("ws://relay.example.com", _OWN),
        ("ws://relay.example.com:80/", _OWN),
        ("https://relay.example.com", _OWN),
        ("wss://relay.example.com", "ws://relay.example.com"),
        ("wss://relay.example.com:443", "ws://relay.example.com"),
        ("wss://relay.example.com", "ws://relay.example.com:443"),
        ("wss://relay.example.com:8443/", "ws://relay.example.com:8443"),
        ("wss://relay.example.com/inbox/", "wss://relay.example.com/inbox"),
        ("wss://relay.example.com/@me", "wss://relay.example.com/@me"),
        ("ws://127.0.0.1:3334", "ws://127.0.0.1:3334/"),
        ("ws://[::1]:3334", "ws://[::1]:3334/"),
        ("ws://[2001:DB8::1]", "ws://[2001:db8::1]:80"),
        ("ws://localhost:3334", "ws://LOCALHOST:3334"),
        ("wss://bücher.example", "wss://xn--bcher-kva.example"),
        ("wss://BÜCHER.example", "wss://xn--bcher-kva.example"),
        ("wss://bu\u0308cher.example", "wss://bücher.example"),
        ("wss://faß.example", "wss://xn--fa-hia.example"),
        ("wss://例え.jp", "wss://xn--r8jz45g.jp"),
    ],
)
def test_urls_of_one_relay_agree(url: str, own_url: str) -> None:
    assert same_relay(url, own_url)
    assert same_relay(own_url, url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/",
        "relay.example.com",
        "//relay.example.com",
        "wss:relay.example.com",
        "wss:///relay.example.com",
        "wss://",
        "wss://.",
        "wss://:443",
        "ftp://relay.example.com",
        "javascript://relay.example.com",
        "wss://example.com",
        "wss://a.relay.example.com",
        "wss://relay.example.com.evil.com",
        "wss://relay.example.comevil.com",
        "wss://evilrelay.example.com",
        "wss://relay-example.com",
        "wss://relay.example.co",
        "wss://relay.example.com..",
        "wss://relay.example.com@evil.com",
        "wss://relay.example.com:443@evil.com",
        "wss://evil.com@relay.example.com",
        "wss://user:secret@relay.example.com",
        "wss://@relay.example.com",
        "wss://evil.com\\@relay.example.com",
        "wss://relay.example.com\\@evil.com",
        "wss://relay.example.com\\.evil.com",
        "wss://evil.com#@relay.example.com",
        "wss://evil.com?@relay.example.com",
        "wss://evil.com/relay.example.com",
        "wss://evil.com/@relay.example.com",
        "wss://relay.exa\nmple.com",
        "wss://relay.exa\tmple.com",
        "wss://relay.example.com\x00.evil.com",
        "wss://relay.example.com .evil.com",
        "wss://relay%2eexample.com",
        "wss://relay.example.com%2eevil.com",
        "wss://relay.example.com:444",
        "wss://relay.example.com:0",
        "wss://relay.example.com:65536",
        "wss://relay.example.com:-443",
        "wss://relay.example.com:x",
        "wss://relay.example.com:443:443",
        "wss://relay.example.com/other",
        "wss://relay.example.com/%2f",
        "wss://[relay.example.com]",
        "wss://[::1",
        "wss://rel\u0430y.example.com",
        "wss://relay\u3002example.com",
        "wss://relay.example.com\u2044evil",
        "wss://relay.example.com\u2100",
        "wss://relay.\uff45xample.com",
        "wss://" + "a" * 100_000,
        "wss://" + "é" * 100_000 + ".example",
    ],
    ids=lambda url: ascii(url[:48]),
)
def test_urls_of_other_relays_do_not(url: str) -> None:
    assert not same_relay(url, _OWN)
    assert not same_relay(url, "ws://relay.example.com/")
    assert not same_relay(_OWN, url)


@pytest.mark.parametrize(
    ("url", "own_url"),
    [
        ("wss://faß.example", "wss://fass.example"),
        ("wss://bucher.example", "wss://bücher.example"),
        ("ws://h:3334", "ws://h"),
        ("ws://h:443", "ws://h"),
        ("wss://h:80", "wss://h"),
        ("ws://h/a", "ws://h/b"),
        ("ws://h/a", "ws://h/A"),
        ("ws://h/a/b", "ws://h/a"),
        ("ws://[::1]", "ws://[::2]"),
        ("ws://127.0.0.1:3334", "ws://localhost:3334"),
    ],
)
def test_host_port_and_path_each_count(url: str, own_url: str) -> None:
    assert not same_relay(url, own_url)
    assert not same_relay(own_url, url)


def test_the_longest_host_name_still_has_an_address() -> None:
    longest = "a." * 126 + "a"
    assert len(longest) == 253
    assert same_relay(f"wss://{longest}/", f"wss://{longest}")
    assert not same_relay(f"wss://a{longest}/", f"wss://a{longest}")


def test_a_url_that_cannot_be_read_does_not_even_name_itself() -> None:
    assert not same_relay("nonsense", "nonsense")


def test_any_of_the_urls_may_name_any_of_ours() -> None:
    own = iter(["ws://other", _OWN])
    assert targets_relay(["wss://evil.com", "x", _OWN + "/"], own)
    assert not targets_relay(["wss://evil.com"], [_OWN])
    assert not targets_relay([], [_OWN])
    assert not targets_relay([_OWN], [])


@QUICK
@given(
    st.one_of(texts(40), texts(20).map(lambda text: "wss://" + text), texts(8).map(lambda text: f"wss://{text}:{text}"))
)
def test_no_url_raises(url: str) -> None:
    same_relay(url, url)
    assert not same_relay(url, "wss://relay.example.com/only/this/path")


def _problem(event_json_tags: list[list[str]], *, kind: int = 22_242, created_at: int = NOW_S) -> str | None:
    event = make_event(kind=kind, created_at=created_at, tags=event_json_tags)
    return check_auth(event.event, challenge="c", own_urls=[_OWN], now_s=NOW_S, window_s=60.0)


_GOOD = [["relay", _OWN + "/"], ["challenge", "c"]]


def test_an_event_with_everything_right_proves_its_key() -> None:
    assert _problem(_GOOD) is None
    event = auth_event("c", _OWN)
    assert check_auth(event.event, challenge="c", own_urls=iter([_OWN]), now_s=NOW_S, window_s=60) is None


@pytest.mark.parametrize("offset_s", [-60, -59, 0, 59, 60])
def test_both_edges_of_the_window_are_inside(offset_s: int) -> None:
    assert _problem(_GOOD, created_at=NOW_S + offset_s) is None


@pytest.mark.parametrize("offset_s", [-NOW_S, -61, 61, 2**62])
def test_a_second_beyond_the_window_is_outside(offset_s: int) -> None:
    assert _problem(_GOOD, created_at=NOW_S + offset_s) == "created_at is more than 60 s away from the relay's clock"


@pytest.mark.parametrize("kind", [22_241, 22_243, 27_235, 1])
def test_another_kind_proves_nothing(kind: int) -> None:
    assert _problem(_GOOD, kind=kind) == "kind must be 22242"


@pytest.mark.parametrize(
    ("tags", "word"),
    [
        ([["relay", _OWN]], "challenge"),
        ([["relay", _OWN], ["challenge"]], "challenge"),
        ([["relay", _OWN], ["challenge", ""]], "challenge"),
        ([["relay", _OWN], ["challenge", "C"]], "challenge"),
        ([["relay", _OWN], ["challenge", "c "]], "challenge"),
        ([["relay", _OWN], ["challenge", "x", "c"]], "challenge"),
        ([["relay", _OWN], ["challenge", "x"], ["challenge", "c"]], "challenge"),
        ([["challenge", "c"]], "relay tag is missing"),
        ([["relay"], ["challenge", "c"]], "relay tag is missing"),
        ([["relay"], ["relay", _OWN], ["challenge", "c"]], "relay tag is missing"),
        ([["relay", ""], ["challenge", "c"]], "another relay"),
        ([["relay", "wss://evil.com"], ["challenge", "c"]], "another relay"),
        ([["relay", "wss://evil.com"], ["relay", _OWN], ["challenge", "c"]], "another relay"),
        ([["relay", _OWN + ".evil.com"], ["challenge", "c"]], "another relay"),
        ([], "challenge"),
    ],
)
def test_a_missing_or_other_tag_proves_nothing(tags: list[list[str]], word: str) -> None:
    problem = _problem(tags)
    assert problem is not None
    assert word in problem
