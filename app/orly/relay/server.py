"""Binds the sockets, runs uvicorn on them, and stops in order: listeners, the work under way, then the clients."""

import asyncio
import errno
import ipaddress
import logging
import resource
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Final

import uvicorn
from starlette.applications import Starlette
from starlette.routing import Route

from orly import clock
from orly.relay.connection import Connection, Session, connection_class
from orly.relay.gate import Gate, GateRules
from orly.relay.http_app import create_app, create_health_app
from orly.relay.http_protocol import http_class
from orly.relay.hub import Hub
from orly.relay.options import ServerOptions, options_from_settings
from orly.settings import Settings

__all__ = ["AddressNotAvailable", "PortInUse", "ServeError", "allow_open_files", "bind", "run", "serve"]

_log = logging.getLogger(__name__)

_BACKLOG: Final = 2048
_SPARE_SOCKETS: Final = 64
_SPARE_FILES: Final = 128
_HTTP_STOP_S: Final = 1
_FAREWELL_S: Final = 2.0
_LEAST_FAREWELL_S: Final = 0.1


class ServeError(Exception):
    """The relay cannot listen; the message names the address and the reason."""


class PortInUse(ServeError):
    """Another process listens on that address and port."""


class AddressNotAvailable(ServeError):
    """The address to listen on is not one of this machine's."""


def bind(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A listening socket; `::` takes IPv4 clients as well.

    Args:
        host: IP address or name of this machine.
        port: 0 takes any free one.
        shared: Other processes of this user that say so too may listen there as well; the system spreads the
            connections over them.

    Raises:
        PortInUse: Somebody else listens there.
        AddressNotAvailable: The address is not this machine's, or no address at all.
        ServeError: Any other refusal, such as a port below 1024 without the right to it.
    """
    where = _host_port(host, port)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise AddressNotAvailable(f"cannot listen on {where}: {error.strerror}") from error
    # A name such as localhost may stand for both families: clients that know it as 127.0.0.1 must find us.
    family, kind, protocol, _, address = min(found, key=lambda each: each[0] != socket.AF_INET)
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            any_address = ipaddress.ip_address(address[0]).is_unspecified
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not any_address)
        listener.bind(address)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise _explained(error, where) from error
    return listener


def _explained(error: OSError, where: str) -> ServeError:
    if error.errno == errno.EADDRINUSE:
        return PortInUse(f"cannot listen on {where}: another process already does")
    if error.errno == errno.EADDRNOTAVAIL:
        return AddressNotAvailable(f"cannot listen on {where}: this machine has no such address")
    if error.errno == errno.EACCES:
        return ServeError(f"cannot listen on {where}: ports below 1024 need special rights")
    return ServeError(f"cannot listen on {where}: {error.strerror}")


def _host_port(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def allow_open_files(max_connections: int) -> None:
    """Raises the soft limit on open files as far as needed, or as far as the system lets us and says so.

    Every connection, once more for sockets on their way to be one, and the relay's own files count. Without a cap on
    connections the limit is raised as far as it goes.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * max_connections + _SPARE_SOCKETS + _SPARE_FILES if max_connections else hard
    if soft in (resource.RLIM_INFINITY, hard) or (wanted != resource.RLIM_INFINITY and soft >= wanted):
        possible = soft
    else:
        possible = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (possible, hard))
    if resource.RLIM_INFINITY not in (wanted, possible) and possible < wanted:
        _log.warning("this process may open %d files; %d are needed to serve all connections", possible, wanted)


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers, told when it listens."""

    def __init__(self, config: uvicorn.Config, on_started: Callable[[], None]) -> None:
        super().__init__(config)
        self.servers = []
        self._on_started = on_started

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]
        return nullcontext()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self._on_started()

    def stop_listening(self) -> None:
        for server in self.servers:
            server.close()


def _nothing() -> None:
    """For the health port, whose address nobody has to be told."""


def _config(app: Starlette, http: type[asyncio.Protocol], ws: type[asyncio.Protocol] | None) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=http,
        ws="none" if ws is None else ws,
        loop="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        log_level=logging.ERROR,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=_BACKLOG,
        workers=1,
        timeout_graceful_shutdown=_HTTP_STOP_S,
    )


def _no_routes(gate: Gate) -> Sequence[Route]:
    del gate
    return ()


async def serve(
    settings: Settings,
    make_session: Callable[[Connection], Session],
    *,
    info: Callable[[], bytes],
    health: Callable[[], str | None],
    drain: Callable[[], Awaitable[None]],
    on_listening: Callable[[str], None],
    stop: asyncio.Event,
    routes: Callable[[Gate], Sequence[Route]] = _no_routes,
) -> None:
    """Serves until `stop` is set, then stops in order and returns; see `run`."""
    await run(
        options_from_settings(settings),
        make_session,
        info=info,
        health=health,
        drain=drain,
        on_listening=on_listening,
        stop=stop,
        routes=routes,
    )


async def run(
    options: ServerOptions,
    make_session: Callable[[Connection], Session],
    *,
    info: Callable[[], bytes],
    health: Callable[[], str | None],
    drain: Callable[[], Awaitable[None]],
    on_listening: Callable[[str], None],
    stop: asyncio.Event,
    routes: Callable[[Gate], Sequence[Route]] = _no_routes,
    monotonic_s: Callable[[], float] = clock.monotonic_s,
    tick_s: float = 1.0,
) -> None:
    """Serves until `stop` is set.

    A stop closes the listeners, awaits `drain`, closes every client with 1001 and waits for them, all within
    `stop_timeout_s`; clients that are left then are cut.

    Args:
        options: What to listen on, and every bound.
        make_session: Gives each opened connection its session.
        info: The NIP-11 document.
        health: None while the relay can work, else why not.
        drain: Finishes the writes under way and has their answers sent.
        on_listening: Gets the WebSocket URL once clients can connect.
        stop: Set by the caller's signal handlers.
        routes: HTTP pages beside the relay's own, made with what knows which proxies may speak for a client.
        monotonic_s: Clock of the keep-alive.
        tick_s: Seconds between keep-alive checks.

    Raises:
        ServeError: The port or the health port cannot be bound.
    """
    gate = Gate(options.gate)
    hub = Hub(limits=options.limits, gate=gate, make_session=make_session, clock=monotonic_s, tick_s=tick_s)
    shared = options.shares_ports
    listener = bind(options.listen, options.port, shared=shared)
    try:
        health_listener = bind(options.listen, options.health_port, shared=shared) if options.health_port else None
    except ServeError:
        listener.close()
        raise
    most = options.gate.max_connections
    allow_open_files(most)

    def current_health() -> str | None:
        return "the relay is stopping" if hub.stopping else health()

    plain_sockets = Gate(
        GateRules(
            max_connections=most + _SPARE_SOCKETS if most else 0,
            max_connections_per_ip=options.gate.max_connections_per_ip,
            trusted_proxies=options.gate.trusted_proxies,
        )
    )
    http = http_class(plain_sockets, options.handshake_timeout_s)
    url = f"ws://{_host_port(options.listen, listener.getsockname()[1])}"
    app = create_app(info=info, health=current_health, gate=gate, relay_url=options.relay_url, others=routes(gate))
    server = _Server(_config(app, http, connection_class(hub)), lambda: on_listening(url))
    running = {server: listener}
    if health_listener is not None:
        running[_Server(_config(create_health_app(current_health), http, None), _nothing)] = health_listener
    tasks = [asyncio.create_task(each.serve(sockets=[socket_])) for each, socket_ in running.items()]
    stopped = asyncio.create_task(stop.wait())
    hub.start()
    try:
        await asyncio.wait([stopped, *tasks], return_when=asyncio.FIRST_COMPLETED)
        await _stop(server, hub, drain, options.stop_timeout_s)
    finally:
        stopped.cancel()
        hub.stop()
        for each in running:
            each.should_exit = True
        try:
            await asyncio.gather(*tasks)
        finally:
            for socket_ in running.values():
                socket_.close()


async def _stop(server: _Server, hub: Hub, drain: Callable[[], Awaitable[None]], timeout_s: float) -> None:
    """Everything of a stop up to the last WebSocket connection; uvicorn ends the plain HTTP ones."""
    hub.stopping = True
    server.stop_listening()
    for connection in hub.connections:
        connection.stop_reading()
    farewell_s = min(_FAREWELL_S, timeout_s / 2)
    loop = asyncio.get_running_loop()
    end_s = loop.time() + timeout_s - _HTTP_STOP_S
    try:
        async with asyncio.timeout(timeout_s - farewell_s):
            await drain()
    except TimeoutError:
        _log.error("the work under way did not finish within %g s", timeout_s - farewell_s)
    for connection in list(hub.connections):
        connection.shutdown()
    try:
        async with asyncio.timeout_at(max(end_s, loop.time() + _LEAST_FAREWELL_S)):
            await hub.wait_empty()
    except TimeoutError:
        _log.info("%d clients did not answer the close and are cut off", len(hub.connections))
        for connection in list(hub.connections):
            connection.abort()
        await hub.wait_empty()
