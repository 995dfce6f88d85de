"""The status of a call that the service ends while requests are on their way to it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import grpc
import pytest
from tests.component.async_test import async_test

from orly.rpc.ending import CallEnding

N_CALLS: Final = 300
"""Of as many, grpc.aio alone loses the status of some."""

ABORT: Final = (grpc.StatusCode.RESOURCE_EXHAUSTED, "the store is full")
OVERWRITTEN: Final = (grpc.StatusCode.INTERNAL, "Internal error from Core")


@asynccontextmanager
async def refusing_service() -> AsyncIterator[grpc.aio.Channel]:
    """Reads one message of every call, and refuses."""

    async def refuse(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        async for _ in requests:
            await context.abort(*ABORT)
        return b""

    server = grpc.aio.server()
    methods: dict[str, Any] = {"Gather": grpc.stream_unary_rpc_method_handler(refuse)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Refusal", methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel
    finally:
        await server.stop(None)


async def end_of(call: Any) -> tuple[grpc.StatusCode, str]:
    """Write until the call ends: the status that came."""
    ending = CallEnding(call)
    try:
        while True:
            await call.write(b"message")
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        pass
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return ending.status(caught.value)


@async_test
async def test_the_status_that_came_is_told() -> None:
    async with refusing_service() as channel:
        gather: Any = channel.stream_unary("/test.Refusal/Gather")
        assert {await end_of(gather()) for _ in range(N_CALLS)} == {ABORT}


class Call:
    """Over at once, with a status that may be overwritten."""

    def __init__(self, *statuses: tuple[grpc.StatusCode, str]) -> None:
        self._statuses = statuses
        self._now = statuses[0]

    def add_done_callback(self, callback: Callable[["Call"], None]) -> None:
        callback(self)
        self._now = self._statuses[-1]

    async def code(self) -> grpc.StatusCode:
        return self._now[0]

    async def details(self) -> str:
        return self._now[1]

    def error(self) -> grpc.aio.AioRpcError:
        return grpc.aio.AioRpcError(self._now[0], grpc.aio.Metadata(), grpc.aio.Metadata(), self._now[1])


@pytest.mark.parametrize(
    ("statuses", "told"),
    [
        ((ABORT, OVERWRITTEN), ABORT),
        ((OVERWRITTEN, ABORT), ABORT),
        ((OVERWRITTEN,), (grpc.StatusCode.UNAVAILABLE, "it ended the call")),
        (((grpc.StatusCode.INTERNAL, "error: disk"), OVERWRITTEN), (grpc.StatusCode.INTERNAL, "error: disk")),
        (((grpc.StatusCode.ABORTED, ""),), (grpc.StatusCode.ABORTED, "ABORTED")),
    ],
)
def test_whichever_comes_first(
    statuses: tuple[tuple[grpc.StatusCode, str], ...], told: tuple[grpc.StatusCode, str]
) -> None:
    call = Call(*statuses)
    ending = CallEnding(call)
    assert ending.status(call.error()) == told
