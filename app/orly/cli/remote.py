"""Reaching the store of a running `orly-db` from a command."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import grpc

from orly.cli.server_option import RemoteError
from orly.pb.orlydb.v1 import service_pb2_grpc, types_pb2
from orly.process.exit_codes import ExitCode
from orly.rpc.channel import channel_from_settings
from orly.rpc.credentials import CredentialsError
from orly.services import DB
from orly.settings import Settings

__all__ = ["connected", "status_error"]

_make_stub: Final[Callable[[grpc.aio.Channel], Any]] = service_pb2_grpc.DatabaseServiceStub


@asynccontextmanager
async def connected(settings: Settings, address: str) -> AsyncIterator[Any]:
    """The calls of the service, once it has said that it can work.

    Raises:
        RemoteError: It is not there, does not let us in, or cannot work.
    """
    try:
        channel = channel_from_settings(settings, address)
    except CredentialsError as error:
        raise RemoteError(ExitCode.SETTINGS, str(error)) from None
    async with channel:
        calls = _make_stub(channel)
        try:
            ready = await calls.Ready(types_pb2.Empty(), timeout=settings.grpc_connect_timeout_s)
        except grpc.aio.AioRpcError as error:
            if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                text = f"{DB.name} at {address} does not answer: {error.details()}"
                raise RemoteError(ExitCode.UNAVAILABLE, text) from None
            raise status_error(error.code(), error.details(), address) from None
        if not ready.ready:
            raise RemoteError(ExitCode.UNAVAILABLE, f"{DB.name} at {address} is there, but cannot read its store")
        yield calls


def status_error(code: grpc.StatusCode, text: str | None, address: str) -> RemoteError:
    """What a call that failed means for a command."""
    return RemoteError(
        ExitCode.SETTINGS if code is grpc.StatusCode.UNAUTHENTICATED else ExitCode.FAILED,
        f"{DB.name} at {address}: {text or code.name}",
    )
