"""What all paths of the HTTP API have in common: answers in JSON, their headers, bounded bodies, time for long work."""

from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Final

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from orly.access.control import ControlError
from orly.store.base import StoreError

__all__ = [
    "HEADERS",
    "JSON_TYPE",
    "PATIENCE",
    "PATIENCE_S",
    "ApiError",
    "Endpoint",
    "Handler",
    "media_type",
    "problem",
    "read_body",
    "refuse_large",
    "reply",
    "take_time",
    "too_large",
]

JSON_TYPE: Final = "application/json"

HEADERS: Final = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Expose-Headers": "Content-Disposition, WWW-Authenticate",
    "Cache-Control": "no-store",
}
"""Of every answer."""

_PREFLIGHT_HEADERS: Final = {
    "Access-Control-Allow-Headers": "*, Authorization",  # browsers do not take the star for that one
    "Access-Control-Max-Age": "86400",
}

PATIENCE: Final = "orly.patience"
"""Name of the ASGI extension, a `Callable[[bool], None]`, that suspends the deadline for an answer, or ends that."""

PATIENCE_S: Final = 60.0
"""How long a client may take to send, or to read, the next piece of something long."""

Handler = Callable[[Request], Awaitable[Response]]


class ApiError(Exception):
    """A request is refused.

    Attributes:
        status: Of the answer.
        text: Says why.
        headers: Beside those of every answer.
    """

    def __init__(self, status: HTTPStatus, text: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.headers = dict(headers or {})


def reply(content: object, status: HTTPStatus = HTTPStatus.OK, headers: Mapping[str, str] | None = None) -> Response:
    """An answer in JSON; bytes are JSON already."""
    body = content if isinstance(content, bytes) else msgspec.json.encode(content)
    return Response(body, status_code=status, media_type=JSON_TYPE, headers={**HEADERS, **(headers or {})})


def problem(status: HTTPStatus, text: str, headers: Mapping[str, str] | None = None) -> Response:
    """An answer that says what went wrong."""
    return reply({"error": text}, status, headers)


class Endpoint:
    """An ASGI application for one path.

    Args:
        handlers: By method. GET brings HEAD along; OPTIONS is answered here.
    """

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self._handlers = dict(handlers)
        if "GET" in handlers:
            self._handlers["HEAD"] = handlers["GET"]
        self._methods = ", ".join([*self._handlers, "OPTIONS"])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request = Request(scope, receive, send)
        try:
            response = await self._answer(request)
            await response(scope, receive, send)
        finally:
            _set_patience(request, False)

    async def _answer(self, request: Request) -> Response:
        if request.method == "OPTIONS":
            headers = {**HEADERS, **_PREFLIGHT_HEADERS, "Access-Control-Allow-Methods": self._methods}
            return Response(status_code=HTTPStatus.NO_CONTENT, headers=headers | {"Allow": self._methods})
        handler = self._handlers.get(request.method)
        if handler is None:
            return problem(HTTPStatus.METHOD_NOT_ALLOWED, f"use one of {self._methods}", {"Allow": self._methods})
        try:
            return await handler(request)
        except ApiError as error:
            return problem(error.status, error.text, error.headers)
        except (StoreError, ControlError) as error:
            return problem(HTTPStatus.SERVICE_UNAVAILABLE, str(error))
        except ClientDisconnect:
            return problem(HTTPStatus.BAD_REQUEST, "the body ended early")  # nobody hears it


def take_time(request: Request) -> None:
    """Let an answer take longer than others may; for a client that is known, and is watched by who answers it."""
    _set_patience(request, True)


def _set_patience(request: Request, is_patient: bool) -> None:
    extension = request.scope.get("extensions", {}).get(PATIENCE)
    if extension is not None:
        extension(is_patient)


def media_type(request: Request) -> str:
    """The type of the body in lower case, without parameters."""
    return request.headers.get("Content-Type", "").partition(";")[0].strip().lower()


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The whole body.

    Raises:
        ApiError: It has more bytes.
        ClientDisconnect: It has no end.
    """
    refuse_large(request, max_bytes)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise too_large(max_bytes)
    return bytes(body)


def refuse_large(request: Request, max_bytes: int) -> None:
    """Refuse a body that says itself that it is too large.

    Raises:
        ApiError: It does.
    """
    said = request.headers.get("Content-Length", "")
    if said.isascii() and said.isdigit() and int(said[:20]) > max_bytes:
        raise too_large(max_bytes)


def too_large(max_bytes: int) -> ApiError:
    """What a body is answered with that is too large; the rest of it is not read."""
    text = f"the body has more than {max_bytes} bytes"
    return ApiError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, text, {"Connection": "close"})
