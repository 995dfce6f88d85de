"""What tests of the answering side of NIP-77 share: servers of sets, here and behind gRPC, and those who ask."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.component.relay_client import NostrClient
from tests.component.relay_server import FakeTime, local_sets
from tests.component.store_proxy import StoreProxy

from orly.negentropy import Initiator, ItemSet
from orly.nostr.event import EncodedEvent
from orly.nostr.filter import Filter
from orly.pb.orlysync.negentropy.v1 import service_pb2_grpc
from orly.reconciling import SetServer
from orly.rpc.channel import open_channel
from orly.rpc.server import RpcServer
from orly.settings import Settings
from orly.store.base import EventStore, Query, ReadScope
from orly.store.lmdb.store import LmdbStore
from orly.sync.negentropy.full_set import row_of
from orly.sync.negentropy.remote import RemoteSets
from orly.sync.negentropy.session_service import ReconcileServicer
from orly.sync.negentropy.sessions import LocalSets

__all__ = [
    "EMPTY",
    "FIRST",
    "SERVICE",
    "Served",
    "SetsWorld",
    "difference",
    "ids_of",
    "items_of",
    "reconcile",
    "remote_sets",
    "serving_sets",
    "sets_world",
]

DEADLINE_S: Final = 20.0
SERVICE: Final = "orlysync.negentropy.v1.NegentropyService"
EMPTY: Final = ItemSet.from_rows(b"")
FIRST: Final = Initiator(EMPTY).initiate()
"""What a client without any event begins with."""

STORE_BYTES: Final = 1 << 28


class Servicer(ReconcileServicer, service_pb2_grpc.NegentropyServiceServicer):
    """The part of the service that these tests are about."""


@dataclass(slots=True)
class Served:
    """A server of sets behind gRPC.

    Attributes:
        address: Where.
        server: May be stopped.
    """

    address: str
    server: RpcServer


@asynccontextmanager
async def serving_sets(sets: LocalSets, listen: str = "127.0.0.1:0") -> AsyncIterator[Served]:
    """Serve sets over gRPC."""
    server = RpcServer(listen, credentials=None)
    server.add(service_pb2_grpc.add_NegentropyServiceServicer_to_server, Servicer(sets), SERVICE)
    await server.start()
    server.set_serving(True)
    try:
        yield Served(server.address, server)
    finally:
        await server.stop(0)


@asynccontextmanager
async def remote_sets(settings: Settings, store: EventStore, clocks: FakeTime) -> AsyncIterator[RemoteSets]:
    """What a relay reconciles with when a service does it; see `SetsOf`."""
    async with local_sets(settings, store, clocks) as sets, serving_sets(sets) as served:
        channel = open_channel(served.address, credentials=None, token=None)
        remote = RemoteSets(channel, timeout_s=DEADLINE_S)
        try:
            yield remote
        finally:
            await remote.aclose()
            await channel.close()


@dataclass(slots=True)
class SetsWorld:
    """A store and the sets made of it.

    Attributes:
        sets: What is tested.
        local: The same, or what stands behind it.
        store: May be held or made to fail.
        time: The clocks of all.
    """

    sets: SetServer
    local: LocalSets
    store: StoreProxy
    time: FakeTime

    async def fill(self, *events: EncodedEvent) -> None:
        await self.store.save(events)

    async def pull(
        self, wanted: Filter | None = None, scope: ReadScope | None = None, *, ids: tuple[str, str] = ("c", "s")
    ) -> list[str]:
        """The sorted ids that a client with nothing learns of."""
        query = Query(filters=(Filter() if wanted is None else wanted,), scope=scope or ReadScope())
        initiator = Initiator(EMPTY)
        answer = await self.sets.open(*ids, query, initiator.initiate())
        need: list[bytes] = []
        while True:
            step = initiator.reconcile(answer)
            need += step.need
            if step.next is None:
                break
            answer = await self.sets.go_on(*ids, step.next)
        self.sets.close(*ids)
        assert len(set(need)) == len(need)
        return sorted(each.hex() for each in need)


@asynccontextmanager
async def sets_world(directory: Path, kind: str, **settings: Any) -> AsyncIterator[SetsWorld]:
    """Sets over an LMDB store; `kind` is `local`, or `remote` for gRPC in between."""
    time = FakeTime()
    configured = Settings(**{"data_dir": directory, **settings})
    inner = await LmdbStore.open(directory / "store", max_bytes=STORE_BYTES, now_s=time.now_s)
    store = StoreProxy(inner)
    try:
        async with local_sets(configured, store, time) as local:
            if kind == "local":
                yield SetsWorld(local, local, store, time)
            else:
                async with serving_sets(local) as served:
                    channel = open_channel(served.address, credentials=None, token=None)
                    remote = RemoteSets(channel, timeout_s=DEADLINE_S)
                    try:
                        yield SetsWorld(remote, local, store, time)
                    finally:
                        await remote.aclose()
                        await channel.close()
            for session in local.sessions():
                local.close(session.connection_id, session.sub_id)
    finally:
        await inner.close()


def items_of(events: Sequence[EncodedEvent]) -> ItemSet:
    """The set of events."""
    return ItemSet.from_rows(b"".join(map(row_of, events)))


def ids_of(*events: EncodedEvent) -> list[str]:
    """Sorted."""
    return sorted(event.event.id for event in events)


async def difference(
    own: ItemSet,
    ask: Callable[[bytes], Awaitable[bytes]],
    *,
    max_frame_bytes: int = 0,
) -> tuple[list[str], list[str]]:
    """Reconcile; the sorted ids only we have, and those only the other side has."""
    initiator = Initiator(own, max_frame_bytes=max_frame_bytes)
    message: bytes | None = initiator.initiate()
    have: list[bytes] = []
    need: list[bytes] = []
    while message is not None:
        step = initiator.reconcile(await ask(message))
        have += step.have
        need += step.need
        message = step.next
    assert len(set(have)) == len(have)
    assert len(set(need)) == len(need)
    return sorted(each.hex() for each in have), sorted(each.hex() for each in need)


async def reconcile(
    client: NostrClient,
    own: Sequence[EncodedEvent] = (),
    wanted: dict[str, Any] | None = None,
    *,
    sub_id: str = "N",
    max_frame_bytes: int = 0,
) -> tuple[list[str], list[str]]:
    """The same with a relay, over the wire; ends with NEG-CLOSE."""
    opened = False

    async def ask(message: bytes) -> bytes:
        nonlocal opened
        if opened:
            await client.send("NEG-MSG", sub_id, message.hex())
        else:
            opened = True
            await client.send("NEG-OPEN", sub_id, wanted or {}, message.hex())
        answer = await client.take(lambda found: found[0] in ("NEG-MSG", "NEG-ERR") and found[1] == sub_id)
        assert answer[0] == "NEG-MSG", answer
        return bytes.fromhex(answer[2])

    found = await difference(items_of(own), ask, max_frame_bytes=max_frame_bytes)
    await client.send("NEG-CLOSE", sub_id)
    return found
