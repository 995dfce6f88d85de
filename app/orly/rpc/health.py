"""The standard health service (grpc.health.v1): whether a service can work, asked once or watched."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any, Final

import grpc
from grpc_health.v1.health_pb2 import (
    HealthCheckRequest,
    HealthCheckResponse,
    HealthListRequest,
    HealthListResponse,
)

__all__ = ["HEALTH_SERVICE", "Health"]

HEALTH_SERVICE: Final = "grpc.health.v1.Health"

_SERVING: Final = HealthCheckResponse.SERVING
_NOT_SERVING: Final = HealthCheckResponse.NOT_SERVING
_SERVICE_UNKNOWN: Final = HealthCheckResponse.SERVICE_UNKNOWN


class Health:
    """Says SERVING or NOT_SERVING for a set of names; the empty name stands for the whole process.

    Args:
        names: The full names of the gRPC services.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(("", *names))
        self._is_serving = False
        self._is_closed = False
        self._changed = asyncio.Event()

    def set_serving(self, is_serving: bool) -> None:
        """Say so of every name, and tell who watches."""
        if not self._is_closed:
            self._is_serving = is_serving
            self._tell()

    def close(self) -> None:
        """NOT_SERVING from now on; who watches is told and let go."""
        self._is_serving = False
        self._is_closed = True
        self._tell()

    async def Check(
        self, request: HealthCheckRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> HealthCheckResponse:
        """The status of one name; NOT_FOUND if there is no such service here."""
        status = self._status_of(request.service)
        if status == _SERVICE_UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"there is no service {request.service!r} here")
        return HealthCheckResponse(status=status)

    async def List(self, request: HealthListRequest, context: grpc.aio.ServicerContext[Any, Any]) -> HealthListResponse:
        """The status of every name."""
        del request, context
        return HealthListResponse(
            statuses={name: HealthCheckResponse(status=self._status_of(name)) for name in self._names}
        )

    async def Watch(
        self, request: HealthCheckRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[HealthCheckResponse]:
        """The status of one name, now and whenever it changes."""
        del context
        last = None
        while True:
            changed = self._changed
            status = self._status_of(request.service)
            if status != last:
                last = status
                yield HealthCheckResponse(status=status)
                continue  # it may have changed while this was written
            if self._is_closed:
                return
            await changed.wait()

    def _status_of(self, name: str) -> HealthCheckResponse.ServingStatus:
        if name not in self._names:
            return _SERVICE_UNKNOWN
        return _SERVING if self._is_serving else _NOT_SERVING

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
