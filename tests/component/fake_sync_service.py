"""An `orly-sync-negentropy` for tests, whose SyncWithPeer says what a script makes it say."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Final

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckResponse

from orly.pb.orlysync.negentropy.v1 import service_pb2_grpc, types_pb2

__all__ = ["SERVICE", "Script", "scripted_service"]

SERVICE: Final = "orlysync.negentropy.v1.NegentropyService"

_register: Final[Callable[[object, grpc.Server], None]] = service_pb2_grpc.add_NegentropyServiceServicer_to_server

Script = Callable[[types_pb2.SyncPeerRequest, Any], Iterator[types_pb2.SyncProgress]]


class _Scripted(service_pb2_grpc.NegentropyServiceServicer):
    def __init__(self, script: Script) -> None:
        self._script = script

    def SyncWithPeer(self, request: types_pb2.SyncPeerRequest, context: Any) -> Iterator[types_pb2.SyncProgress]:
        return self._script(request, context)


@contextmanager
def scripted_service(script: Script, *, is_ready: bool = True) -> Iterator[str]:
    """Serves on a free port of the loopback address; gives the address.

    Args:
        script: What a call of SyncWithPeer is answered with, run on a thread.
        is_ready: What its health says.
    """
    server = grpc.server(ThreadPoolExecutor(8))
    _register(_Scripted(script), server)
    status = health.HealthServicer()
    states = HealthCheckResponse.ServingStatus
    status.set(SERVICE, states.SERVING if is_ready else states.NOT_SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(status, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()
