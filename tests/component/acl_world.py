"""Access control for tests: an engine on a real store with a clock set by hand, and its service over gRPC."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import grpc
from tests.component.lmdb_backend import MAX_BYTES
from tests.component.store_proxy import StoreProxy
from tests.component.store_world import FakeClock, ids_of
from tests.factory import KEYS, fake_event
from tests.wsclient import DEADLINE_S, until

from orly.access.commands import Command, Entry, Member
from orly.access.curating import CONFIG_D, CONFIG_KIND
from orly.access.levels import Mode
from orly.access.snapshot import ListName, Rules, Snapshot
from orly.acl.engine import AclEngine
from orly.acl.kept import marker_prefix, member_text
from orly.acl.remote import RemoteAccess
from orly.acl.service import SERVICE_NAME, AclService
from orly.nostr.event import EncodedEvent
from orly.nostr.filter import Filter
from orly.pb.orlyacl.v1 import service_pb2_grpc
from orly.rpc.channel import open_channel
from orly.rpc.server import RpcServer
from orly.store.base import MAX_MARKERS, EventStore, FeedBatch, HiddenKey, Query, ReadScope, SaveStatus, StoreError
from orly.store.lmdb.store import LmdbStore

__all__ = [
    "ADMIN",
    "ANYBODY",
    "BY",
    "OTHER",
    "OWNER",
    "AclWorld",
    "FaultyStore",
    "Served",
    "acl_world",
    "config_event",
    "follow_list",
    "following",
    "key",
    "put_markers",
    "rules",
    "serving_acl",
    "stub_of",
]

OWNER, ADMIN, ANYBODY, OTHER = range(4)
"""Numbers of test keys; the rules know the first two."""

BY: Final = KEYS[OWNER]

MOST: Final = ReadScope(private_kinds=frozenset())
"""Somebody who sees all but what is hidden."""

_Feed: TypeAlias = AsyncIterator[FeedBatch]


def key(number: int) -> bytes:
    """A test key as 32 bytes."""
    return bytes.fromhex(KEYS[number])


def rules(mode: Mode = Mode.NONE, **others: Any) -> Rules:
    """Rules with one owner and one admin."""
    given: dict[str, Any] = {"mode": mode, "owners": frozenset({key(OWNER)}), "admins": frozenset({key(ADMIN)})}
    return Rules(**(given | others))


def follow_list(author: int, *followed: str, **options: Any) -> EncodedEvent:
    """A follow list (NIP-02) of keys (hex)."""
    return fake_event(author, kind=3, tags=[("p", each) for each in followed], **options)


def config_event(author: int, *tags: tuple[str, ...], d: str = CONFIG_D, **options: Any) -> EncodedEvent:
    """A configuration of the mode `curating`; its signature is wrong."""
    return fake_event(author, kind=CONFIG_KIND, tags=[("d", d), *tags], **options)


class _WatchedFeed:
    """A feed of which it is known whether it was left."""

    def __init__(self, inner: _Feed, left: Callable[[], None]) -> None:
        self._inner = inner
        self._left = left

    def __aiter__(self) -> _Feed:
        return self._inner

    async def aclose(self) -> None:
        self._left()
        await self._inner.aclose()  # type: ignore[attr-defined]


class FaultyStore(StoreProxy):
    """A store that a test makes fail, or wait.

    Attributes:
        read_error: What reading markers and events raises.
        change_error: What changing markers raises.
        hide_error: What hiding and showing raise.
        n_refused: Calls that failed so.
        n_waiting: Changes of markers that are held back.
        n_feeds: Feeds that are open.
        after_fetch: What a read waits for, once it has its answer; each is used once.
        on_change: Called with what is changed before it is.
    """

    def __init__(self, inner: EventStore) -> None:
        super().__init__(inner)
        self.read_error: StoreError | None = None
        self.change_error: StoreError | None = None
        self.hide_error: StoreError | None = None
        self.n_refused = 0
        self.n_waiting = 0
        self.n_feeds = 0
        self.after_fetch: list[asyncio.Event] = []
        self.on_change: Callable[[Mapping[str, bytes | None]], Awaitable[None]] | None = None
        self._changing = asyncio.Event()
        self._changing.set()

    def hold_changes(self) -> None:
        """Have every change of markers wait for `let_changes`."""
        self._changing.clear()

    def let_changes(self) -> None:
        """Let them go on."""
        self._changing.set()

    def _raise(self, error: StoreError | None) -> None:
        if error is not None:
            self.n_refused += 1
            raise error

    async def markers(self, prefix: str, **options: Any) -> Any:
        self._raise(self.read_error)
        return await super().markers(prefix, **options)

    async def change_markers(self, changes: Mapping[str, bytes | None]) -> None:
        if self.on_change is not None:
            await self.on_change(changes)
        self.n_waiting += 1
        await self._changing.wait()
        self.n_waiting -= 1
        self._raise(self.change_error)
        await super().change_markers(changes)

    async def hide(self, wanted: Sequence[HiddenKey]) -> None:
        self._raise(self.hide_error)
        await super().hide(wanted)

    async def show(self, wanted: Sequence[HiddenKey]) -> None:
        self._raise(self.hide_error)
        await super().show(wanted)

    async def fetch(self, query: Query) -> list[bytes]:
        self._raise(self.read_error)
        found = await super().fetch(query)
        if self.after_fetch:
            await self.after_fetch.pop(0).wait()
        return found

    def feed(self, after_serial: int | None) -> _Feed:
        self.n_feeds += 1
        left: list[None] = []

        def leave() -> None:
            if not left:
                left.append(None)
                self.n_feeds -= 1

        return _WatchedFeed(super().feed(after_serial), leave)  # type: ignore[return-value]


@dataclass(slots=True, kw_only=True)
class AclWorld:
    """One test's store, clock and engine."""

    directory: Path
    clock: FakeClock
    rules: Rules
    store: FaultyStore
    engine: AclEngine

    @property
    def lists(self) -> Snapshot:
        """The engine's snapshot; it must have one."""
        assert self.engine.snapshot is not None
        return self.engine.snapshot

    async def restart(self, new_rules: Rules | None = None) -> None:
        """End the engine and the store, and begin again, perhaps with other rules."""
        await self.engine.aclose()
        await self.store.close()
        self.rules = new_rules or self.rules
        self.store, self.engine = await _opened(self.directory, self.clock, self.rules)
        await self.engine.start()

    async def change(self, *commands: Command, by: str = BY) -> None:
        await self.engine.change(commands, by=by)

    async def put(self, *events: EncodedEvent) -> None:
        """Save what must be stored."""
        results = await self.store.save(events)
        assert {result.status for result in results} <= {SaveStatus.STORED}, results

    async def seen(self) -> list[str]:
        """The sorted ids that most readers see."""
        return sorted(ids_of(await self.store.inner.fetch(Query(filters=(Filter(),), scope=MOST))))

    async def members(self, name: ListName) -> dict[Member, Entry]:
        return {row.member: row.entry for row in await self.engine.listed(name)}

    async def kept(self, prefix: str) -> list[str]:
        """The keys of the markers that begin so."""
        return [marker.key for marker in await self.store.inner.markers(prefix)]

    async def until_kept(self, prefix: str, *wanted: str) -> None:
        """Wait until these markers, and no others, begin so."""
        async with asyncio.timeout(DEADLINE_S):
            while await self.kept(prefix) != [prefix + each for each in wanted]:  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0.005)


async def _opened(directory: Path, clock: FakeClock, chosen: Rules) -> tuple[FaultyStore, AclEngine]:
    inner = await LmdbStore.open(
        directory / "store", max_bytes=MAX_BYTES, now_s=clock.now_s, monotonic_s=clock.monotonic_s
    )
    store = FaultyStore(inner)
    return store, AclEngine(store, chosen, now_s=clock.now_s)


@asynccontextmanager
async def acl_world(
    directory: Path, chosen: Rules | None = None, *, is_started: bool = True
) -> AsyncIterator[AclWorld]:
    """An engine on a fresh store; afterwards nothing of either is left."""
    before = asyncio.all_tasks()
    clock = FakeClock()
    chosen = chosen or rules()
    store, engine = await _opened(directory, clock, chosen)
    world = AclWorld(directory=directory, clock=clock, rules=chosen, store=store, engine=engine)
    try:
        if is_started:
            await engine.start()
        yield world
    finally:
        world.store.let_changes()
        async with asyncio.timeout(DEADLINE_S):
            await world.engine.aclose()
            await world.store.close()
    assert world.store.n_feeds == 0
    await until(lambda: asyncio.all_tasks() <= before, "the end of all tasks")


async def put_markers(store: EventStore, name: ListName, members: Sequence[Member], entry: bytes = b"{}") -> None:
    """Put members on a list without an engine."""
    prefix = marker_prefix(name)
    for start in range(0, len(members), MAX_MARKERS):
        page = members[start : start + MAX_MARKERS]
        await store.change_markers({prefix + member_text(member): entry for member in page})


@dataclass(slots=True)
class Served:
    """A service at an address.

    Attributes:
        address: Where.
        stub: Calls it.
    """

    address: str
    stub: Any
    _service: AclService
    _server: RpcServer

    async def stop(self) -> None:
        """End it; who follows is cut off."""
        self._service.stop()
        await self._server.stop(0)


@asynccontextmanager
async def serving_acl(world: AclWorld, listen: str = "127.0.0.1:0") -> AsyncIterator[Served]:
    """Serve the engine that the world has now."""
    service = AclService(world.engine, world.store, now_s=world.clock.now_s)
    server = RpcServer(listen, credentials=None)
    server.add(service_pb2_grpc.add_ACLServiceServicer_to_server, service, SERVICE_NAME)
    await server.start()
    async with stub_of(server.address) as stub:
        served = Served(server.address, stub, service, server)
        try:
            yield served
        finally:
            await served.stop()


@asynccontextmanager
async def stub_of(address: str) -> AsyncIterator[Any]:
    """Calls of an ACLService; each waits until it is there."""
    channel: grpc.aio.Channel = open_channel(address, credentials=None, token=None)
    try:
        yield service_pb2_grpc.ACLServiceStub(channel)  # type: ignore[no-untyped-call]
    finally:
        await channel.close()


@asynccontextmanager
async def following(address: str, *, timeout_s: float = DEADLINE_S, waits: bool = True) -> AsyncIterator[RemoteAccess]:
    """Who follows a service; with its first snapshot, unless told not to wait."""
    remote = RemoteAccess(open_channel(address, credentials=None, token=None), timeout_s=timeout_s)
    try:
        if waits:
            await asyncio.wait_for(remote.came(), DEADLINE_S)
        yield remote
    finally:
        async with asyncio.timeout(DEADLINE_S):
            await remote.aclose()
