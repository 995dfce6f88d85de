import asyncio
from typing import Any

import grpc
import pytest
from grpc.aio import AioRpcError, Metadata

from orly.nostr.event import EventError
from orly.nostr.filter import FilterError
from orly.nostr.reason import Prefix, Refusal
from orly.rpc.status import PREFIX_CODES, RefusedError, answering, refusal_status, store_error, store_status
from orly.store.base import (
    CountTooLargeError,
    QueryTimeoutError,
    StoreError,
    StoreFullError,
    StoreLockedError,
    StoreUnavailableError,
)

Code = grpc.StatusCode


@pytest.mark.parametrize("prefix", Prefix)
def test_every_prefix_has_a_status_and_stands_in_its_text(prefix: Prefix) -> None:
    code, text = refusal_status(Refusal(prefix, "because"))
    assert code is PREFIX_CODES[prefix]
    assert code is not Code.OK
    assert text == f"{prefix.value}: because"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (StoreUnavailableError("away"), Code.UNAVAILABLE),
        (StoreLockedError("away"), Code.UNAVAILABLE),
        (StoreFullError("away"), Code.RESOURCE_EXHAUSTED),
        (CountTooLargeError("away"), Code.RESOURCE_EXHAUSTED),
        (QueryTimeoutError("away"), Code.DEADLINE_EXCEEDED),
        (StoreError("away"), Code.INTERNAL),
    ],
)
def test_store_errors_have_a_status(error: StoreError, code: Code) -> None:
    assert store_status(error) == (code, "error: away")


def failed(code: Code, details: str) -> AioRpcError:
    return AioRpcError(code, Metadata(), Metadata(), details)


@pytest.mark.parametrize(
    "error", [StoreUnavailableError("x"), StoreFullError("x"), QueryTimeoutError("x"), StoreError("x")]
)
def test_a_store_error_comes_back_as_it_was(error: StoreError) -> None:
    read = store_error(failed(*store_status(error)))
    assert (type(read), str(read)) == (type(error), "x")


@pytest.mark.parametrize(
    ("code", "details", "kind", "text"),
    [
        (Code.RESOURCE_EXHAUSTED, "rate-limited: slow down", StoreError, "rate-limited: slow down"),
        (Code.UNAUTHENTICATED, "no token", StoreError, "no token"),
        (Code.UNAVAILABLE, "", StoreUnavailableError, "UNAVAILABLE"),
        (Code.CANCELLED, "", StoreError, "CANCELLED"),
    ],
)
def test_other_failures_are_store_errors_with_their_text(code: Code, details: str, kind: type, text: str) -> None:
    read = store_error(failed(code, details))
    assert (type(read), str(read)) == (kind, text)


class AbortedError(Exception):
    """What the real context raises."""


class Context:
    """Remembers how the call ended."""

    async def abort(self, code: Code, details: str) -> None:
        raise AbortedError(code, details)


def ended(error: Exception) -> tuple[Any, ...]:
    async def call() -> None:
        async with answering(Context()):  # type: ignore[arg-type]
            raise error

    with pytest.raises(AbortedError) as caught:
        asyncio.run(call())
    return caught.value.args


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (RefusedError(Refusal(Prefix.BLOCKED, "no")), Code.PERMISSION_DENIED, "blocked: no"),
        (RefusedError(Refusal(Prefix.ERROR, "much"), Code.OUT_OF_RANGE), Code.OUT_OF_RANGE, "error: much"),
        (EventError("odd"), Code.INVALID_ARGUMENT, "invalid: odd"),
        (FilterError("odd"), Code.INVALID_ARGUMENT, "invalid: odd"),
        (FilterError("odd", unsupported=True), Code.UNIMPLEMENTED, "unsupported: odd"),
        (StoreFullError("full"), Code.RESOURCE_EXHAUSTED, "error: full"),
    ],
)
def test_a_call_ends_with_the_status_of_what_went_wrong(error: Exception, code: Code, text: str) -> None:
    assert ended(error) == (code, text)


def test_a_defect_is_not_hidden() -> None:
    async def call() -> None:
        async with answering(Context()):  # type: ignore[arg-type]
            raise RuntimeError("a defect")

    with pytest.raises(RuntimeError, match="a defect"):
        asyncio.run(call())
