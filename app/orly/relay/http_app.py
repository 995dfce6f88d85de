"""The relay's HTTP pages: the NIP-11 document and the landing page on `/`, and the health check."""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from http import HTTPStatus
from typing import Final

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from orly.nostr.nip11 import RelayInfo
from orly.relay import landing
from orly.relay.gate import Gate, parse_address

__all__ = ["create_app", "create_health_app", "wants_info"]

_INFO_TYPE: Final = "application/nostr+json"
_CORS: Final = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Headers": "*, Authorization",
    "Access-Control-Allow-Methods": "GET, HEAD, POST, OPTIONS",
}
_PAGE_HEADERS: Final = {
    "Content-Security-Policy": landing.CONTENT_SECURITY_POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_VARY_BY_URL: Final = "Accept"
_VARY_BY_HOST: Final = "Accept, Host, X-Forwarded-Host, X-Forwarded-Proto"
_PREFLIGHT_MAX_AGE_S: Final = 86_400
_METHODS: Final = ["GET", "HEAD", "OPTIONS"]
_is_host = re.compile(r"[A-Za-z0-9._:\[\]-]{1,255}").fullmatch
_decode_info = msgspec.json.Decoder(RelayInfo).decode


def wants_info(accept: Sequence[str]) -> bool:
    """Whether `Accept` header values ask for the NIP-11 document: it is in the list and not refused by `q=0`."""
    for item in ",".join(accept).split(","):
        media_type, *parameters = item.split(";")
        if media_type.strip().lower() == _INFO_TYPE and _quality(parameters) > 0:
            return True
    return False


def _quality(parameters: Sequence[str]) -> float:
    """The `q` of a media range; 1 when there is none, or none that is a number."""
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "q":
            try:
                return float(value.strip())
            except ValueError:
                return 1.0
    return 1.0


@lru_cache(maxsize=16)
def _page(info: bytes, url: str) -> bytes:
    return landing.render(_decode_info(info), url)


def _health_response(reason: str | None) -> Response:
    if reason is None:
        content, status = {"status": "ok"}, HTTPStatus.OK
    else:
        content, status = {"status": "unavailable", "reason": reason}, HTTPStatus.SERVICE_UNAVAILABLE
    return Response(
        msgspec.json.encode(content),
        status_code=status,
        media_type="application/json",
        headers={"Cache-Control": "no-store"},
    )


class _Pages:
    def __init__(self, info: Callable[[], bytes], health: Callable[[], str | None], gate: Gate, relay_url: str) -> None:
        self._info = info
        self._health = health
        self._gate = gate
        self._relay_url = re.sub(r"^http", "ws", relay_url, flags=re.IGNORECASE)

    async def home(self, request: Request) -> Response:
        if request.method == "OPTIONS":
            headers = {**_CORS, "Access-Control-Max-Age": str(_PREFLIGHT_MAX_AGE_S), "Allow": ", ".join(_METHODS)}
            return Response(status_code=HTTPStatus.NO_CONTENT, headers=headers)
        headers = {**_CORS, "Vary": _VARY_BY_URL if self._relay_url else _VARY_BY_HOST}
        info = self._info()
        if wants_info(request.headers.getlist("Accept")):
            return Response(info, media_type=_INFO_TYPE, headers=headers)
        page = _page(info, self._relay_url or self._url_asked_for(request))
        return Response(page, media_type="text/html", headers=headers | _PAGE_HEADERS)

    async def health(self, request: Request) -> Response:
        return _health_response(self._health())

    def _url_asked_for(self, request: Request) -> str:
        """The address this client reached the page under, or nothing when its Host header is odd."""
        peer = parse_address(request.client.host) if request.client else None
        if peer is None:
            return ""
        caller = self._gate.identify(peer, request.headers.getlist)
        return f"{'wss' if caller.secure else 'ws'}://{caller.host}" if _is_host(caller.host) else ""


def _app(routes: Sequence[Route]) -> Starlette:
    app = Starlette(routes=list(routes))
    app.router.redirect_slashes = False
    return app


def create_app(
    *,
    info: Callable[[], bytes],
    health: Callable[[], str | None],
    gate: Gate,
    relay_url: str = "",
    others: Sequence[Route] = (),
) -> Starlette:
    """The pages served on the relay's own port.

    Args:
        info: The NIP-11 document (`nip11.encode`); called for every request, so it should return bytes it keeps.
        health: None when the relay serves, else why it does not.
        gate: Knows which proxies may speak for a client.
        relay_url: Public address to show; empty to show the one the browser used.
        others: Further pages.
    """
    pages = _Pages(info, health, gate, relay_url)
    return _app(
        [
            Route("/", pages.home, methods=_METHODS),
            Route("/health", pages.health),
            Route("/healthz", pages.health),
            *others,
        ]
    )


def create_health_app(health: Callable[[], str | None]) -> Starlette:
    """The one page served on the separate health port."""

    async def answer(request: Request) -> Response:
        return _health_response(health())

    return _app([Route("/health", answer), Route("/healthz", answer)])
