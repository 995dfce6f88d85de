"""Refusals and store errors as gRPC status codes, and back.

The text of a status is what a client of the relay would be told: it begins with a prefix of NIP-01.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import grpc

from orly.nostr.event import EventError
from orly.nostr.filter import FilterError
from orly.nostr.reason import Prefix, Refusal
from orly.store.base import (
    CountTooLargeError,
    QueryTimeoutError,
    StoreError,
    StoreFullError,
    StoreUnavailableError,
)

__all__ = ["RefusedError", "answering", "refusal_status", "store_error", "store_status"]

PREFIX_CODES: Final = {
    Prefix.DUPLICATE: grpc.StatusCode.ALREADY_EXISTS,
    Prefix.INVALID: grpc.StatusCode.INVALID_ARGUMENT,
    Prefix.BLOCKED: grpc.StatusCode.PERMISSION_DENIED,
    Prefix.RATE_LIMITED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Prefix.POW: grpc.StatusCode.FAILED_PRECONDITION,
    Prefix.RESTRICTED: grpc.StatusCode.PERMISSION_DENIED,
    Prefix.AUTH_REQUIRED: grpc.StatusCode.UNAUTHENTICATED,
    Prefix.UNSUPPORTED: grpc.StatusCode.UNIMPLEMENTED,
    Prefix.ERROR: grpc.StatusCode.INTERNAL,
}

ERROR_CODES: Final[tuple[tuple[type[StoreError], grpc.StatusCode], ...]] = (
    (StoreUnavailableError, grpc.StatusCode.UNAVAILABLE),
    (StoreFullError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (CountTooLargeError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (QueryTimeoutError, grpc.StatusCode.DEADLINE_EXCEEDED),
    (StoreError, grpc.StatusCode.INTERNAL),
)
"""The first that fits counts."""

_ERROR: Final = f"{Prefix.ERROR.value}: "


class RefusedError(Exception):
    """A call is refused for what it asks; the text goes to the caller as it is.

    Attributes:
        code: The status, if not the one that the prefix stands for.
    """

    def __init__(self, refusal: Refusal, code: grpc.StatusCode | None = None) -> None:
        super().__init__(str(refusal))
        self.code = PREFIX_CODES[refusal.prefix] if code is None else code


def refusal_status(refusal: Refusal) -> tuple[grpc.StatusCode, str]:
    """The status of a refusal, and its text with the prefix."""
    return PREFIX_CODES[refusal.prefix], str(refusal)


def store_status(error: StoreError) -> tuple[grpc.StatusCode, str]:
    """The status of a failure of the store, and `error: ` with its text."""
    code = next(code for kind, code in ERROR_CODES if isinstance(error, kind))
    return code, str(Refusal(Prefix.ERROR, str(error)))


def store_error(error: grpc.aio.AioRpcError) -> StoreError:
    """What a call to a remote store that failed means to its caller, with a text fit for an operator."""
    details = error.details() or ""
    text = details.removeprefix(_ERROR) or error.code().name
    match error.code():
        case grpc.StatusCode.RESOURCE_EXHAUSTED if details.startswith(_ERROR):
            return StoreFullError(text)
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return QueryTimeoutError(text)
        case grpc.StatusCode.UNAVAILABLE:
            return StoreUnavailableError(text)
        case _:
            return StoreError(text)


@asynccontextmanager
async def answering(context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[None]:
    """End the call with its status when the body raises `RefusedError`, or an error of an event, filter or store."""
    try:
        yield
    except RefusedError as error:
        await context.abort(error.code, str(error))
    except EventError as error:
        await context.abort(*refusal_status(Refusal(Prefix.INVALID, str(error))))
    except FilterError as error:
        prefix = Prefix.UNSUPPORTED if error.unsupported else Prefix.INVALID
        await context.abort(*refusal_status(Refusal(prefix, str(error))))
    except StoreError as error:
        await context.abort(*store_status(error))
