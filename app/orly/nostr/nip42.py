"""Authentication of clients (NIP-42): what a kind 22242 event must say to prove a key on a connection."""

from collections.abc import Iterable
from re import compile as compile_re
from typing import Final
from unicodedata import normalize
from urllib.parse import urlsplit

import msgspec

from orly.nostr.event import Event
from orly.nostr.kinds import AUTH
from orly.nostr.tags import first_value

__all__ = ["check_auth", "same_relay", "targets_relay"]

_DEFAULT_PORTS: Final = {"ws": 80, "wss": 443, "http": 80, "https": 443}
_MAX_HOST_LENGTH: Final = 253
_NEVER_IN_URL: Final = compile_re(r"[\x00-\x20\x7f\\]")
"""Parsers disagree on which host is meant when one of these stands in a URL, so no such URL names a relay; nor does
one with a user name, which is there only to look like a host."""


class _Endpoint(msgspec.Struct, frozen=True):
    """What a relay URL points at; `is_default_port` says that the port is the one its scheme implies."""

    host: str
    port: int
    is_default_port: bool
    path: str


def _endpoint(url: str) -> _Endpoint | None:
    text = url.strip()
    if _NEVER_IN_URL.search(text):
        return None
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return None
    default_port = _DEFAULT_PORTS.get(parts.scheme.lower())
    host = _ascii_host(parts.hostname or "")
    if default_port is None or not host or "@" in parts.netloc:
        return None
    if port is None:
        port = default_port
    return _Endpoint(host, port, port == default_port, parts.path.rstrip("/"))


def _ascii_host(host: str) -> str:
    """A host name in lower case, its international labels in Punycode; empty if it is too long for one.

    Nothing is mapped to look-alikes (such as the sharp s to "ss"): what could name another host stays different.
    """
    if len(host) > _MAX_HOST_LENGTH:
        return ""
    labels = normalize("NFC", host.lower()).removesuffix(".").split(".")
    return ".".join(label if label.isascii() else "xn--" + label.encode("punycode").decode("ascii") for label in labels)


def same_relay(url: str, own_url: str) -> bool:
    """Whether two URLs name one relay: host, port and path agree; scheme and a final slash do not matter.

    A TLS proxy speaks `wss` on 443 in front of a relay that sees `ws` on 80, so the default port of one scheme
    agrees with the default port of another.
    """
    ours, theirs = _endpoint(own_url), _endpoint(url)
    if ours is None or theirs is None or (ours.host, ours.path) != (theirs.host, theirs.path):
        return False
    return ours.port == theirs.port or (ours.is_default_port and theirs.is_default_port)


def targets_relay(urls: Iterable[str], own_urls: Iterable[str]) -> bool:
    """Whether any of `urls` names one of our own."""
    own = list(own_urls)
    return any(same_relay(url, mine) for url in urls for mine in own)


def check_auth(event: Event, *, challenge: str, own_urls: Iterable[str], now_s: int, window_s: float) -> str | None:
    """What is wrong with an authentication event; None if it proves its key.

    The signature is checked elsewhere, before this.

    Args:
        event: The event of the AUTH message.
        challenge: The one this connection was sent.
        own_urls: Every URL under which this connection may have reached the relay.
        now_s: The current time.
        window_s: How far created_at may be away from it, in seconds.
    """
    if event.kind != AUTH:
        return f"kind must be {AUTH}"
    if abs(event.created_at - now_s) > window_s:
        return f"created_at is more than {window_s:g} s away from the relay's clock"
    if first_value(event, "challenge") != challenge:
        return "the challenge is not the one this connection was sent"
    relay = first_value(event, "relay")
    if relay is None:
        return "the relay tag is missing"
    if not targets_relay([relay], own_urls):
        return "the relay tag names another relay"
    return None
