"""A server of the transport alone for tests: sessions that echo or record, a clock that is set by hand."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final

import uvloop
from tests.wsclient import DEADLINE_S, until

from orly.nostr import nip11
from orly.relay.connection import Connection
from orly.relay.gate import GateRules, Network
from orly.relay.hub import ConnectionLimits, Hub
from orly.relay.options import ServerOptions
from orly.relay.server import run

__all__ = [
    "INFO",
    "LIMITS",
    "Echo",
    "FakeClock",
    "Serving",
    "info_document",
    "rules",
    "run_async",
    "serving",
    "serving_throughout",
]

KIB: Final = 1024
LIMITS: Final = ConnectionLimits(
    max_message_bytes=64 * KIB,
    max_send_backlog_bytes=1024 * KIB,
    max_total_send_backlog_bytes=64 * 1024 * KIB,
    send_timeout_s=60,
    ping_interval_s=30,
    pong_timeout_s=20,
    idle_timeout_s=600,
)


def rules(
    *,
    max_connections: int = 100,
    max_connections_per_ip: int = 100,
    whitelist: tuple[Network, ...] = (),
    blacklist: tuple[Network, ...] = (),
    trusted_proxies: tuple[Network, ...] = (),
) -> GateRules:
    """Gate rules that admit everybody unless told otherwise."""
    return GateRules(
        max_connections=max_connections,
        max_connections_per_ip=max_connections_per_ip,
        whitelist=whitelist,
        blacklist=blacklist,
        trusted_proxies=trusted_proxies,
    )


def info_document(**fields: Any) -> bytes:
    """A NIP-11 document with these fields."""
    limitation = nip11.Limitation(
        max_message_length=LIMITS.max_message_bytes,
        max_subscriptions=20,
        max_filters=10,
        max_limit=500,
        default_limit=100,
        max_event_tags=2000,
        max_content_length=65536,
        min_pow_difficulty=0,
        auth_required=False,
        restricted_writes=False,
        created_at_upper_limit=900,
    )
    given: dict[str, Any] = {
        "name": "Test relay",
        "supported_nips": nip11.supported_nips(min_pow_difficulty=0),
        "software": nip11.SOFTWARE_URL,
        "version": "1.2.3",
        "limitation": limitation,
    }
    return nip11.encode(nip11.RelayInfo(**(given | fields)))


INFO: Final = info_document(description="A relay for tests", contact="mailto:ops@example.com")


class FakeClock:
    """Monotonic seconds that move when a test says so."""

    def __init__(self, now_s: float = 1000.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s

    def advance(self, seconds: float) -> None:
        """Lets time pass."""
        self.now_s += seconds


class Echo:
    """A session that sends back what it receives and remembers what happened."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.batches: list[list[bytes]] = []
        self.is_idle = True
        self.writable_calls = 0
        self.closed_calls = 0

    def receive(self, messages: list[bytes]) -> None:
        self.batches.append(messages)
        for message in messages:
            self.connection.send(message)

    def writable(self) -> None:
        self.writable_calls += 1

    def closed(self) -> None:
        self.closed_calls += 1

    @property
    def messages(self) -> list[bytes]:
        """Everything received, in order."""
        return [message for batch in self.batches for message in batch]


@dataclass(slots=True, kw_only=True)
class Serving:
    """A server under test."""

    url: str
    clock: FakeClock
    stop: asyncio.Event
    task: asyncio.Task[None]
    sessions: list[Echo] = field(default_factory=list)

    @property
    def hub(self) -> Hub:
        """The shared state of all connections; there must have been one."""
        return self.sessions[0].connection.hub

    async def session(self, index: int = -1) -> Echo:
        """The session of a connection, once it is there."""
        await until(lambda: self.sessions, "a session")
        return self.sessions[index]

    async def ticked(self) -> None:
        """Waits until the keep-alive has run at the clock's present time, and once more for what it set off."""
        self.clock.advance(1e-6)
        await until(lambda: self.hub.now_s == self.clock.now_s, "a tick")


@asynccontextmanager
async def serving(
    *,
    gate: GateRules | None = None,
    limits: ConnectionLimits = LIMITS,
    make_session: Callable[[Connection], Echo] = Echo,
    info: Callable[[], bytes] = lambda: INFO,
    health: Callable[[], str | None] = lambda: None,
    drain: Callable[[], Awaitable[None]] | None = None,
    listen: str = "127.0.0.1",
    health_port: int = 0,
    relay_url: str = "",
    handshake_timeout_s: float = DEADLINE_S,
    stop_timeout_s: float = DEADLINE_S,
) -> AsyncIterator[Serving]:
    """Runs a server on a free port and stops it afterwards."""

    async def nothing_to_do() -> None:
        return None

    url: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    clock, stop = FakeClock(), asyncio.Event()
    sessions: list[Echo] = []

    def make(connection: Connection) -> Echo:
        session = make_session(connection)
        sessions.append(session)
        return session

    options = ServerOptions(
        listen=listen,
        port=0,
        health_port=health_port,
        relay_url=relay_url,
        gate=gate or rules(),
        limits=replace(limits),
        handshake_timeout_s=handshake_timeout_s,
        stop_timeout_s=stop_timeout_s,
    )
    task = asyncio.create_task(
        run(
            options,
            make,
            info=info,
            health=health,
            drain=drain or nothing_to_do,
            on_listening=url.set_result,
            stop=stop,
            monotonic_s=clock,
            tick_s=0.002,
        )
    )
    started: list[asyncio.Future[Any]] = [task, url]
    await asyncio.wait(started, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        task.result()
    try:
        yield Serving(url=await url, clock=clock, stop=stop, task=task, sessions=sessions)
    finally:
        stop.set()
        await task


def run_async(main: Coroutine[Any, Any, None]) -> None:
    """Runs a test's coroutine on the loop that the relay uses."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main)


@contextmanager
def serving_throughout() -> Iterator[tuple[Serving, asyncio.Runner]]:
    """One server for all examples of a property test; each example is run by the runner beside it."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        server = serving()
        relay = runner.run(_enter(server))
        try:
            yield relay, runner
        finally:
            runner.run(_leave(server))


async def _enter(server: AbstractAsyncContextManager[Serving]) -> Serving:
    return await server.__aenter__()


async def _leave(server: AbstractAsyncContextManager[Serving]) -> None:
    await server.__aexit__(None, None, None)
