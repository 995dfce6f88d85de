"""Authorization of HTTP requests (NIP-98): the header, and what a kind 27235 event must say to allow one request."""

import binascii
from base64 import urlsafe_b64decode
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from hashlib import sha256
from re import compile as compile_re
from typing import Final
from urllib.parse import urlsplit

from orly.nostr.event import EncodedEvent, Event, EventError, decode_event
from orly.nostr.kinds import HTTP_AUTH
from orly.nostr.tags import first_value, values

__all__ = ["MAX_HEADER_BYTES", "WINDOW_S", "HttpAuthError", "UsedEvents", "check_http_auth", "parse_authorization"]

WINDOW_S: Final = 60
"""How far created_at may be from our clock, as the NIP suggests."""

MAX_HEADER_BYTES: Final = 16 * 1024
"""Of the whole header; an event that allows a request has a few hundred."""

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_SCHEMES: Final = {"http": "http", "https": "https", "ws": "http", "wss": "https"}
_NOT_BASE64: Final = compile_re(r"[^A-Za-z0-9_-]")


class HttpAuthError(ValueError):
    """A request is not authorized; the text says why."""


def parse_authorization(header: str) -> EncodedEvent:
    """Read the event of an `Authorization: Nostr <base64>` header; its signature is not checked here.

    Both alphabets of base64 are taken, with and without padding.

    Raises:
        HttpAuthError: The header is something else.
    """
    if len(header) > MAX_HEADER_BYTES:
        raise HttpAuthError(f"the Authorization header has more than {MAX_HEADER_BYTES} bytes")
    words = header.split()
    if not words:
        raise HttpAuthError("an Authorization header is needed: Nostr, then a signed event in base64 (NIP-98)")
    if len(words) != 2 or words[0].lower() != "nostr":
        raise HttpAuthError("the Authorization header must have two words: Nostr, then a signed event in base64")
    text = words[1].rstrip("=").replace("+", "-").replace("/", "_")
    if _NOT_BASE64.search(text):
        raise HttpAuthError("the event in the Authorization header is not base64")
    try:
        raw = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        raise HttpAuthError("the event in the Authorization header is not base64") from None
    try:
        return decode_event(raw)
    except EventError as error:
        raise HttpAuthError(f"the Authorization header holds no event: {error}") from None


def _normal_url(url: str) -> str | None:
    """A URL such that two of one resource are equal: `ws` is `http`, the default port is left out, the root has a path.

    Everything behind the host is compared as it is written: NIP-98 asks for exactly the same URL.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    scheme = _SCHEMES.get(parts.scheme)
    if scheme is None or not parts.hostname or "@" in parts.netloc or "#" in url:
        return None
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    shown_port = "" if port in (None, _DEFAULT_PORTS[scheme]) else f":{port}"
    behind_host = url.partition("://")[2][len(parts.netloc) :]
    if not behind_host.startswith("/"):
        behind_host = "/" + behind_host
    return f"{scheme}://{host}{shown_port}{behind_host}"


def check_http_auth(
    event: Event, *, urls: Iterable[str], method: str, body: bytes | None, needs_payload: bool, now_s: int
) -> str | None:
    """What is wrong with the event that is to allow a request; None if it does.

    The signature is checked elsewhere, and so is that it is used once (`UsedEvents`).

    Args:
        event: From `parse_authorization`.
        urls: Every absolute URL, with its query, under which the request may have reached us.
        method: The request's HTTP method.
        body: The request's body; None if it is not known, then nothing can be said of a `payload` tag.
        needs_payload: Whether the event must name the hash of the body (NIP-86); otherwise it may.
        now_s: The current time.
    """
    if event.kind != HTTP_AUTH:
        return f"the event has kind {event.kind}, it must be {HTTP_AUTH}"
    if abs(event.created_at - now_s) > WINDOW_S:
        return f"created_at is more than {WINDOW_S} s away from the relay's clock"
    own = list(urls)
    problem = _check_url(event, own) or _check_method(event, method)
    return problem or _check_payload(event, body, needs_payload=needs_payload)


def _check_url(event: Event, own_urls: list[str]) -> str | None:
    signed = list(values(event, "u"))
    if len(signed) != 1:
        return "the event must have one u tag"
    wanted = _normal_url(signed[0])
    if wanted is None or wanted not in [_normal_url(url) for url in own_urls]:
        return f"the u tag must be {' or '.join(own_urls)}"
    return None


def _check_method(event: Event, method: str) -> str | None:
    signed = list(values(event, "method"))
    if len(signed) != 1:
        return "the event must have one method tag"
    return None if signed[0].upper() == method.upper() else f"the method tag must be {method.upper()}"


def _check_payload(event: Event, body: bytes | None, *, needs_payload: bool) -> str | None:
    signed = first_value(event, "payload")
    if signed is None:
        return "the payload tag is missing: the SHA-256 of the body, in hex" if needs_payload else None
    if body is not None and signed.lower() != sha256(body).hexdigest():
        return "the payload tag is not the SHA-256 of the body"
    return None


class UsedEvents:
    """Remembers which events have allowed a request, for as long as they could allow another.

    Args:
        most: Remembered at once. An event that cannot be remembered allows nothing.
    """

    def __init__(self, most: int = 100_000) -> None:
        self._most = most
        self._until_s: OrderedDict[bytes, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._until_s)

    def restore(self, until_s: Mapping[bytes, int]) -> None:
        """Remember events beside those of now, each until a time."""
        self._until_s = OrderedDict(sorted({**self._until_s, **until_s}.items(), key=lambda each: each[1]))

    def use(self, event_id: bytes, now_s: int) -> int | None:
        """Note that a valid event is used.

        Returns:
            Until when it is remembered, Unix time; None if it was used before, or if too many are remembered.
        """
        if event_id in self._until_s or len(self._until_s) >= self._most:
            return None
        # Whatever its created_at, it is too old by then. All are kept equally long, so that the oldest leave first.
        until_s = now_s + 2 * WINDOW_S
        self._until_s[event_id] = until_s
        return until_s

    def forget(self, event_id: bytes) -> None:
        """An event was not used after all."""
        self._until_s.pop(event_id, None)

    def expire(self, now_s: int, most: int) -> list[bytes]:
        """Forget events, at most so many, that are too old by now; says which."""
        over: list[bytes] = []
        while len(over) < most and self._until_s and next(iter(self._until_s.values())) < now_s:
            over.append(self._until_s.popitem(last=False)[0])
        return over
