"""Who a request is from: the key that signed its `Authorization` header (NIP-98), and what that key may do."""

from collections.abc import Callable, Iterator
from http import HTTPStatus
from re import IGNORECASE
from re import compile as compile_re
from typing import Final

import msgspec
from starlette.requests import Request

from orly.access.control import AccessControl, ControlError
from orly.access.decide import NO_SNAPSHOT, standing_of
from orly.access.levels import Level
from orly.intake.verdict import BAD_SIGNATURE
from orly.nostr.event import EncodedEvent
from orly.nostr.nip98 import HttpAuthError, check_http_auth, parse_authorization
from orly.nostr.signing import verify_event
from orly.nostr.tags import first_value
from orly.relay.gate import Caller, Gate, parse_address
from orly.relay.http_endpoint import ApiError, take_time
from orly.relay.rates import Rates, rate_key

__all__ = ["HttpAuth", "HttpAuthRefusedError", "Signer"]

_is_host: Final = compile_re(r"[A-Za-z0-9._:\[\]-]{1,255}").fullmatch
_SOCKET_SCHEME: Final = compile_re(r"^ws(?=s?://)", IGNORECASE)
_TOO_MANY_REQUESTS: Final = "too many requests from your address or by your key, slow down"


class Signer(msgspec.Struct, frozen=True, kw_only=True):
    """Who a request is from.

    Attributes:
        pubkey: The key, in hex.
        level: What it may do.
        address: Where the request comes from, as `ipaddress` writes it; empty if that is not known.
        payload: The SHA-256 of the body that the key signed, in lower-case hex; empty if it signed none.
    """

    pubkey: str
    level: Level
    address: str = ""
    payload: str = ""


class HttpAuthRefusedError(ApiError):
    """A request is not from somebody who may make it.

    Attributes:
        signer: Who it is from, if that is proven.
    """

    def __init__(self, status: HTTPStatus, text: str, signer: Signer | None = None) -> None:
        super().__init__(status, text, {"WWW-Authenticate": "Nostr"} if status is HTTPStatus.UNAUTHORIZED else None)
        self.signer = signer


class HttpAuth:
    """Asked by every handler that wants to know who it answers; used from one event loop.

    Args:
        access: Knows what keys may do.
        gate: Knows which proxies may speak for a client.
        relay_url: Our public URL; empty if it is not known.
        now_s: Unix time.
        rates: How much anybody may ask; None = there are no limits.
    """

    def __init__(
        self,
        access: AccessControl,
        gate: Gate,
        relay_url: str,
        now_s: Callable[[], int],
        rates: Rates | None = None,
    ) -> None:
        self._access = access
        self._gate = gate
        self._rates = rates
        self._base = _SOCKET_SCHEME.sub("http", relay_url).rstrip("/")
        self._now_s = now_s

    async def caller(
        self, request: Request, body: bytes | None, *, needs_payload: bool, once: bool, least: Level = Level.NONE
    ) -> Signer:
        """Who a request is from; counts it against the rates, unless that is somebody who moderates.

        Args:
            request: As it came.
            body: Its body; None if it is not read yet, then the caller compares its hash with `Signer.payload`.
            needs_payload: Whether the hash of the body must be signed.
            once: Whether the signed event may be used for one request only: for what changes something.
            least: Who may less is refused; of that, `once` remembers nothing.

        Raises:
            ApiError: See `count`.
            HttpAuthRefusedError: 401 for a header that is missing or does not fit, 403 for a key that is banned, comes
                from a blocked address or may not do this, 503 while it is not known who may do what.
        """
        snapshot = self._access.snapshot
        if snapshot is None:
            raise HttpAuthRefusedError(HTTPStatus.SERVICE_UNAVAILABLE, NO_SNAPSHOT.detail)
        try:
            event = self._proven(request, body, needs_payload)
        except HttpAuthRefusedError:
            self.count(request)
            raise
        address = self.address_of(request)
        standing = standing_of(snapshot, [event.pubkey], address)
        if not standing.moderates:
            self.count(request, frozenset({event.event.pubkey}))
        payload = (first_value(event.event, "payload") or "").lower()
        signer = Signer(pubkey=event.event.pubkey, level=standing.level, address=address, payload=payload)
        if standing.barred is not None:
            raise HttpAuthRefusedError(HTTPStatus.FORBIDDEN, standing.barred.detail, signer)
        if standing.level < least:
            text = f"this needs the level {least.label}, and this key has {standing.level.label}"
            raise HttpAuthRefusedError(HTTPStatus.FORBIDDEN, text, signer)
        if once:
            await self._use(request, event, signer)
        return signer

    async def _use(self, request: Request, event: EncodedEvent, signer: Signer) -> None:
        take_time(request)  # that access control is away is worth an answer too
        try:
            is_first = await self._access.use_once(event.id)
        except ControlError as error:
            raise HttpAuthRefusedError(HTTPStatus.SERVICE_UNAVAILABLE, str(error)) from None
        if not is_first:
            text = "the event in the Authorization header was used before: sign another one"
            raise HttpAuthRefusedError(HTTPStatus.UNAUTHORIZED, text, signer)

    def count(self, request: Request, keys: frozenset[str] = frozenset()) -> None:
        """Count a request against the rates of its address, and of the keys (hex) that have signed it.

        Raises:
            ApiError: 429: there were too many.
        """
        if self._rates is not None and not self._rates.take_request(rate_key(self.address_of(request)), keys):
            raise ApiError(HTTPStatus.TOO_MANY_REQUESTS, _TOO_MANY_REQUESTS)

    def address_of(self, request: Request) -> str:
        """Where a request comes from, as `ipaddress` writes it; empty if that is not known."""
        caller = self._caller(request)
        return str(caller.address) if caller else ""

    def _caller(self, request: Request) -> Caller | None:
        peer = parse_address(request.client.host) if request.client else None
        return None if peer is None else self._gate.identify(peer, request.headers.getlist)

    def _proven(self, request: Request, body: bytes | None, needs_payload: bool) -> EncodedEvent:
        """The event that allows the request; that it is used once is not checked here."""
        try:
            event = parse_authorization(" ".join(request.headers.getlist("Authorization")))
        except HttpAuthError as error:
            raise HttpAuthRefusedError(HTTPStatus.UNAUTHORIZED, str(error)) from None
        text = check_http_auth(
            event.event,
            urls=self._urls(request),
            method=request.method,
            body=body,
            needs_payload=needs_payload,
            now_s=self._now_s(),
        )
        if text is None and not verify_event(event):
            text = BAD_SIGNATURE.detail
        if text is not None:
            raise HttpAuthRefusedError(HTTPStatus.UNAUTHORIZED, text)
        return event

    def _urls(self, request: Request) -> Iterator[str]:
        """Every URL under which the client may have asked for this.

        With a URL of our own, only that: what a client names as Host is a claim, and another relay that an admin signed
        a request for could pass that on to us.
        """
        path = request.scope.get("raw_path") or request.scope["path"].encode()
        query = request.scope.get("query_string", b"")
        target = (path + b"?" + query if query else path).decode("latin-1")
        if self._base:
            yield self._base + target
            if target == "/" and "/" in self._base.partition("://")[2]:
                yield self._base  # as it is written, without the slash
            return
        caller = self._caller(request)
        if caller is not None and _is_host(caller.host):
            yield f"{'https' if caller.secure else 'http'}://{caller.host}{target}"
