"""A complete relay in this process for tests: real sockets, a real store, clocks that stand still until told.

`running_relay` is the context manager; `on_relay` makes a test of an async function that is given such a relay. When
it stops, nothing may be left behind: no subscription in the index, no task on the loop.
"""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from tests.component.relay_client import NostrClient
from tests.component.store_proxy import StoreProxy
from tests.factory import NOW_S
from tests.subscription_index import index_is_empty
from tests.transport import run_async
from tests.wsclient import TEXT, Client, RawClient, frame
from websockets.asyncio.client import connect as ws_connect

from orly.access.control import AccessControl
from orly.acl.engine import AclEngine
from orly.acl.rules import rules_from_settings
from orly.nostr.event import EncodedEvent
from orly.reconciling import SetServer
from orly.relay.context import SessionContext
from orly.relay.relay import make_context, run_relay
from orly.relay.subscription import Subscription
from orly.settings import Settings
from orly.store.base import EventStore
from orly.store.lmdb.store import LmdbStore
from orly.sync.negentropy.sessions import LocalSets
from orly.sync.negentropy.sets import SetKeeper

__all__ = [
    "AccessOf",
    "FakePeer",
    "FakeTime",
    "SetsOf",
    "TestedRelay",
    "local_access",
    "local_sets",
    "on_relay",
    "read_messages",
    "running_relay",
    "send_at_once",
    "serving",
]

_SLOW_BYTES: Final = 16 * 1024
_STORE_BYTES: Final = 256 * 1024 * 1024


@dataclass(slots=True)
class FakeTime:
    """Both clocks of a relay.

    Attributes:
        now: Unix seconds.
        steady: Monotonic seconds.
        step_s: How far the monotonic clock moves at every look.
    """

    now: int = NOW_S
    steady: float = 1000.0
    step_s: float = 0.0

    def now_s(self) -> int:
        return self.now

    def monotonic_s(self) -> float:
        self.steady += self.step_s
        return self.steady


@dataclass(slots=True, kw_only=True)
class TestedRelay:
    """A relay that serves.

    Attributes:
        url: Where.
        store: What it works on: a proxy in front of an LMDB store, whose calls a test may hold or fail.
        context: What its sessions share.
        time: Its clocks.
        stop: Ends it.
        task: Done when it has ended.
    """

    __test__ = False

    url: str
    store: StoreProxy
    context: SessionContext
    time: FakeTime
    stop: asyncio.Event
    task: asyncio.Task[None] = field(repr=False)

    @asynccontextmanager
    async def client(
        self, headers: Mapping[str, str] | None = None, *, host: str | None = None
    ) -> AsyncIterator[NostrClient]:
        """A well-behaved client.

        Args:
            headers: Sent with the handshake.
            host: The name and port it asks for; None = those of `url`.
        """
        parts = urlsplit(self.url)
        async with ws_connect(
            self.url if host is None else f"ws://{host}/",
            host=parts.hostname,
            port=parts.port,
            additional_headers=dict(headers or {}),
            compression=None,
            max_size=None,
            ping_interval=None,
            proxy=None,
        ) as connection:
            yield NostrClient(Client(connection))

    @asynccontextmanager
    async def raw_client(self) -> AsyncIterator[RawClient]:
        """A socket after the handshake."""
        async with await RawClient.open(self.url) as client:
            assert (await client.upgrade()).status == 101
            yield client

    @asynccontextmanager
    async def slow_client(self) -> AsyncIterator[RawClient]:
        """A socket after the handshake that takes hardly anything while it is not read."""
        parts = urlsplit(self.url)
        own = socket.socket()
        own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SLOW_BYTES)
        own.setblocking(False)
        await asyncio.get_running_loop().sock_connect(own, (parts.hostname, parts.port))
        reader, writer = await asyncio.open_connection(sock=own, limit=_SLOW_BYTES)
        async with RawClient(reader, writer, self.url) as client:
            assert (await client.upgrade()).status == 101
            yield client

    @property
    def access(self) -> AccessControl:
        """What it decides by."""
        assert self.context.access is not None
        return self.context.access

    @property
    def n_subscriptions(self) -> int:
        """Subscriptions on the index of the live feed."""
        return len(self.context.live.index)

    @property
    def held_bytes(self) -> int:
        """What subscriptions hold back until their stored answers end; those with filters that match nothing aside."""
        entries = [each[0] for each in self.context.live.index._entries.values() if each]
        return sum(entry.subscription._held_bytes for entry in entries if isinstance(entry.subscription, Subscription))

    async def fill(self, events: Sequence[EncodedEvent]) -> None:
        """Store events past the relay, so that their signatures do not matter."""
        for start in range(0, len(events), 500):
            await self.store.inner.save(events[start : start + 500])


def send_at_once(client: RawClient, *messages: object) -> None:
    """Messages in one write; `bytes` go as they are."""
    texts = (each if isinstance(each, bytes) else json.dumps(each, separators=(",", ":")).encode() for each in messages)
    client.send(b"".join(frame(TEXT, text) for text in texts))


async def read_messages(client: RawClient, count: int) -> list[list[Any]]:
    """The next messages; nothing else may come."""
    messages = []
    for _ in range(count):
        opcode, payload = await client.receive_frame()
        assert opcode == TEXT, (opcode, payload)
        messages.append(json.loads(payload))
    return messages


class FakePeer:
    """The connection of a session without a socket; remembers what it was told."""

    def __init__(self) -> None:
        self.number = 1
        self.remote_ip = "192.0.2.1"
        self.host = "relay.example.com"
        self.secure = False
        self.opened_at = 0.0
        self.can_write = True
        self._reads = True
        self.sent: list[Any] = []
        self.closes: list[tuple[int, str]] = []

    def send(self, payload: bytes) -> None:
        self.sent.append(json.loads(payload))

    def send_frames(self, frames: Sequence[bytes]) -> None:
        self.sent += map(json.loads, _payloads(b"".join(frames)))

    def pause_reading(self) -> None:
        assert self._reads
        self._reads = False

    def resume_reading(self) -> None:
        assert not self._reads
        self._reads = True

    def reads(self) -> bool:
        """Whether reading is not paused."""
        return self._reads

    def close(self, code: int, reason: str) -> None:
        self.closes.append((code, reason))


def _payloads(data: bytes) -> Iterator[bytes]:
    """The payloads of unmasked text frames that stand one behind the other."""
    start = 0
    while start < len(data):
        assert data[start] == 0x81
        short = data[start + 1]
        n_bytes = {126: 2, 127: 8}.get(short, 0)
        length = int.from_bytes(data[start + 2 : start + 2 + n_bytes], "big") if n_bytes else short
        start += 2 + n_bytes + length
        yield data[start - length : start]


@asynccontextmanager
async def local_sets(settings: Settings, store: EventStore, clocks: FakeTime) -> AsyncIterator[LocalSets]:
    """What the relay reconciles with in its own process."""
    keeper = SetKeeper(
        store,
        max_items=settings.negentropy_max_items,
        max_sets_bytes=settings.negentropy_max_sets_bytes,
        now_s=clocks.now_s,
    )
    sets = LocalSets(
        keeper,
        answer_bytes=settings.negentropy_answer_bytes,
        max_sessions=settings.negentropy_max_sessions,
        max_sessions_per_connection=settings.negentropy_max_sessions_per_connection,
        timeout_s=settings.sync_negentropy_session_timeout_s,
        now_s=clocks.now_s,
        monotonic_s=clocks.monotonic_s,
    )
    try:
        yield sets
        assert sets.sessions() == [], "reconciliations outlived their connections"
        assert keeper.held_bytes == 0
    finally:
        await sets.aclose()
        await keeper.close()


SetsOf = Callable[[Settings, EventStore, FakeTime], AbstractAsyncContextManager[SetServer]]
"""Makes what a relay reconciles with, if its settings say that it does."""


@asynccontextmanager
async def local_access(settings: Settings, store: EventStore, clocks: FakeTime) -> AsyncIterator[AccessControl]:
    """Access control in the relay's own process."""
    engine = AclEngine(store, rules_from_settings(settings), now_s=clocks.now_s)
    await engine.start()
    try:
        yield engine
    finally:
        await engine.aclose()


AccessOf = Callable[[Settings, EventStore, FakeTime], AbstractAsyncContextManager[AccessControl]]
"""Makes what a relay decides by."""


@asynccontextmanager
async def running_relay(
    directory: Path,
    *,
    time: FakeTime | None = None,
    wrap: Callable[[EventStore], StoreProxy] = StoreProxy,
    sets_of: SetsOf = local_sets,
    access_of: AccessOf = local_access,
    **settings: Any,
) -> AsyncIterator[TestedRelay]:
    """Runs a relay on a free port of the loopback address, and stops it afterwards.

    Args:
        directory: Where its data goes.
        time: Its clocks; None = clocks that stand at `NOW_S`.
        wrap: Makes the proxy that stands before the store.
        sets_of: Makes what it reconciles with, if that is turned on.
        access_of: Makes what it decides by.
        settings: Attributes of `Settings` that are not the default.
    """
    clocks = FakeTime() if time is None else time
    configured = Settings(**{"data_dir": directory, "listen": "127.0.0.1", "port": 0, **settings})
    others = asyncio.all_tasks()
    inner = await LmdbStore.open(
        directory / "store", max_bytes=_STORE_BYTES, now_s=clocks.now_s, monotonic_s=clocks.monotonic_s
    )
    store = wrap(inner)
    try:
        async with serving(configured, store, clocks, sets_of=sets_of, access_of=access_of) as relay:
            yield relay
    finally:
        store.release()
        await inner.close()
    await asyncio.sleep(0)
    left = [task for task in asyncio.all_tasks() - others if not task.done()]
    assert not left, f"tasks are left: {left}"


@asynccontextmanager
async def serving(
    settings: Settings,
    store: StoreProxy,
    clocks: FakeTime,
    *,
    sets_of: SetsOf = local_sets,
    access_of: AccessOf = local_access,
) -> AsyncIterator[TestedRelay]:
    """Runs a relay on a store that the caller closes."""
    async with AsyncExitStack() as stack:
        sets = (
            await stack.enter_async_context(sets_of(settings, store, clocks)) if settings.negentropy_enabled else None
        )
        access = await stack.enter_async_context(access_of(settings, store, clocks))
        context = make_context(
            settings, store, sets=sets, access=access, now_s=clocks.now_s, monotonic_s=clocks.monotonic_s
        )
        async with _serving(settings, store, clocks, context) as relay:
            yield relay


@asynccontextmanager
async def _serving(
    settings: Settings, store: StoreProxy, clocks: FakeTime, context: SessionContext
) -> AsyncIterator[TestedRelay]:
    stop = asyncio.Event()
    url: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(
        run_relay(settings, store, stop=stop, on_listening=url.set_result, context=context), name="relay"
    )
    started: list[asyncio.Future[Any]] = [task, url]
    await asyncio.wait(started, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        task.result()
    try:
        yield TestedRelay(url=await url, store=store, context=context, time=clocks, stop=stop, task=task)
    finally:
        store.release()
        stop.set()
        await task
    assert index_is_empty(context.live.index), "subscriptions outlived their connections"


def on_relay(**settings: Any) -> Callable[[Callable[[TestedRelay], Awaitable[None]]], Callable[[Path], None]]:
    """Makes a test of an async function on a relay with these settings; errors on the loop fail it."""

    def decorate(body: Callable[[TestedRelay], Awaitable[None]]) -> Callable[[Path], None]:
        def test(tmp_path: Path) -> None:
            run_async(_play(body, tmp_path, settings))

        test.__name__ = test.__qualname__ = body.__name__
        test.__doc__ = body.__doc__
        return test

    return decorate


async def _play(body: Callable[[TestedRelay], Awaitable[None]], directory: Path, settings: dict[str, Any]) -> None:
    errors: list[str] = []

    def note(loop: asyncio.AbstractEventLoop, problem: dict[str, Any]) -> None:
        del loop
        errors.append(f"{problem.get('message')}: {problem.get('exception')!r}")

    asyncio.get_running_loop().set_exception_handler(note)
    async with running_relay(directory, **settings) as relay:
        await body(relay)
    assert not errors, f"errors on the loop: {errors}"
