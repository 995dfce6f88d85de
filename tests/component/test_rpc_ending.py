"""The status of a call that the service ends while requests are on their way to it."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

import grpc
import pytest
from tests.component.async_test import async_test
from tests.component.rpc_world import ABORT, PROBE, serving_probe

from orly.rpc.channel import channel_from_settings
from orly.rpc.ending import CallEnding
from orly.settings import Settings

N_CALLS: Final = 300
"""Of as many, grpc.aio alone loses the status of some."""

OVERWRITTEN: Final = (grpc.StatusCode.INTERNAL, "Internal error from Core")


async def end_of(call: Any) -> tuple[grpc.StatusCode, str]:
    """Write until the call ends: the status that came."""
    ending = CallEnding(call)
    try:
        while True:
            await call.write(b"abort")
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        pass
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return ending.status(caught.value)


@async_test
async def test_the_status_that_came_is_told() -> None:
    settings = Settings(grpc_max_calls_per_second=0)
    async with serving_probe(settings) as (server, _), channel_from_settings(settings, server.address) as channel:
        gather: Any = channel.stream_unary(f"/{PROBE}/Gather")
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
