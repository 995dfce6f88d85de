"""A gRPC server of ours: how it binds, what it tells of its health, how it ends."""

import asyncio
import errno
import os
import socket
import stat
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from orly.rpc.credentials import server_credentials
from orly.rpc.guard import ADMINISTRATIVE, Guard
from orly.rpc.health import HEALTH_SERVICE, Health
from orly.rpc.options import SERVER_OPTIONS
from orly.settings import Settings
from orly.settings_service_types import UNIX_PREFIX

__all__ = ["ListenError", "RpcServer", "server_from_settings"]

_REASONS: Final = {
    errno.EADDRINUSE: "another process already does",
    errno.EADDRNOTAVAIL: "this machine has no such address",
    errno.EACCES: "no permission",
    errno.EPERM: "no permission",
}


class ListenError(Exception):
    """A server cannot listen.

    Attributes:
        address: Where; the text names it too.
        reason: Why not.
    """

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(f"cannot listen on {address}: {reason}")
        self.address = address
        self.reason = reason


class RpcServer:
    """Serves gRPC on one address, with the health service and reflection.

    Args:
        listen: `IP:PORT` (port 0 takes any free one) or `unix:/path`. gRPC takes `0.0.0.0` for every address,
            IPv6 too.
        credentials: TLS; None is plaintext.
        interceptors: What every call passes first.
        max_concurrent: Most calls at once, streams among them; more are refused with RESOURCE_EXHAUSTED.

    Attributes:
        address: Where it listens, with the real port; set by `start`.
    """

    def __init__(
        self,
        listen: str,
        *,
        credentials: grpc.ServerCredentials | None,
        interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
        max_concurrent: int | None = None,
    ) -> None:
        self.address = listen
        self._credentials = credentials
        self._interceptors = interceptors
        self._max_concurrent = max_concurrent
        self._registered: list[tuple[Callable[[Any, Any], None], object, str]] = []
        self._health: Health | None = None
        self._server: grpc.aio.Server | None = None

    def add(self, register: Callable[[Any, Any], None], servicer: object, service_name: str) -> None:
        """Serve one service; only before `start`.

        Args:
            register: The generated `add_XServicer_to_server`.
            servicer: What implements it.
            service_name: Its full name, for health and reflection.
        """
        assert self._server is None, "the server has started"
        self._registered.append((register, servicer, service_name))

    async def start(self) -> None:
        """Bind, and take calls; health says NOT_SERVING until `set_serving`.

        Raises:
            ListenError: The address is in use, not ours or not allowed.
        """
        names = [name for _, _, name in self._registered]
        server = grpc.aio.server(
            interceptors=self._interceptors, options=SERVER_OPTIONS, maximum_concurrent_rpcs=self._max_concurrent
        )
        for register, servicer, _ in self._registered:
            register(servicer, server)
        health = Health(names)
        health_pb2_grpc.add_HealthServicer_to_server(health, server)
        reflection.enable_server_reflection((*names, HEALTH_SERVICE, reflection.SERVICE_NAME), server)
        try:
            self.address = await self._bind(server)
            await server.start()
        except BaseException:
            await server.stop(0)
            raise
        self._server, self._health = server, health

    def set_serving(self, is_serving: bool) -> None:
        """Say through the health service whether every service here can work."""
        assert self._health is not None, "the server has not started"
        self._health.set_serving(is_serving)

    async def stop(self, grace_s: float) -> None:
        """Say NOT_SERVING, refuse new calls, and end those that are left after `grace_s`."""
        if self._server is None or self._health is None:
            return
        self._health.close()
        await self._server.stop(grace_s)

    async def _bind(self, server: grpc.aio.Server) -> str:
        listen = self.address
        try:
            if listen.startswith(UNIX_PREFIX):
                await asyncio.to_thread(_clear_socket_path, Path(listen.removeprefix(UNIX_PREFIX)))
                before = os.umask(0o177)  # nobody may connect between bind and chmod
                try:
                    self._add_port(server, listen)
                finally:
                    os.umask(before)
                return listen
            await _check_free(listen)
            return f"{listen.rpartition(':')[0]}:{self._add_port(server, listen)}"
        except RuntimeError as error:  # taken since we looked, or something only gRPC knows
            raise ListenError(listen, str(error).partition(";")[0]) from error
        except OSError as error:
            reason = _REASONS.get(error.errno or 0) or error.strerror or str(error)
            raise ListenError(listen, reason) from error

    def _add_port(self, server: grpc.aio.Server, listen: str) -> int:
        if self._credentials is None:
            return server.add_insecure_port(listen)
        return server.add_secure_port(listen, self._credentials)


def server_from_settings(
    settings: Settings,
    listen: str,
    *,
    audited: Collection[str] = ADMINISTRATIVE,
    uncounted: Collection[str] = (),
    max_concurrent: int | None = None,
) -> RpcServer:
    """A server with the TLS, the token and the limits of the settings.

    Args:
        settings: Those of this process.
        listen: See `RpcServer`.
        audited: The calls that leave a line in the log, as `package.Service/Method`.
        uncounted: Those that no rate limits; see `Guard`.
        max_concurrent: See `RpcServer`.

    Raises:
        CredentialsError: The certificates cannot be used.
    """
    guard = Guard(
        token=None if settings.grpc_token is None else settings.grpc_token.get_secret_value(),
        max_calls_per_second=settings.grpc_max_calls_per_second,
        audited=audited,
        uncounted=uncounted,
    )
    return RpcServer(
        listen, credentials=server_credentials(settings), interceptors=(guard,), max_concurrent=max_concurrent
    )


async def _check_free(listen: str) -> None:
    """gRPC is content with a part of the addresses that a name stands for, and does not say what was wrong."""
    host, _, port = listen.rpartition(":")
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    for family, kind, protocol, _, address in found:
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind(address)


def _clear_socket_path(path: Path) -> None:
    """Remove the socket that a server left behind when it was killed.

    Raises:
        OSError: It is in use, or something else is there.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        if not path.parent.is_dir():
            raise OSError(errno.ENOENT, f"there is no directory {path.parent}") from None
        return
    if not stat.S_ISSOCK(mode):
        raise OSError(errno.ENOTSOCK, "the file there is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        if probe.connect_ex(str(path)) != errno.ECONNREFUSED:
            raise OSError(errno.EADDRINUSE, "in use")
    path.unlink()
