"""Stores behind gRPC for tests of what goes wrong: real services, and peers that misbehave on purpose."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from tests.component.lmdb_backend import MAX_BYTES
from tests.component.remote_backend import serve
from tests.factory import fake_event

from orly.db.service import SERVICE_NAME
from orly.nostr.event import EncodedEvent
from orly.pb.orlydb.v1 import service_pb2_grpc
from orly.rpc.channel import open_channel
from orly.rpc.server import RpcServer
from orly.store.base import FeedBatch, SaveResult, SaveStatus
from orly.store.lmdb.store import LmdbStore
from orly.store.remote import RemoteStore

__all__ = [
    "DEADLINE_S",
    "SAVED",
    "Follower",
    "connected",
    "mute_peer",
    "numbered",
    "serving",
    "statuses",
    "stored_behind",
    "until",
]

DEADLINE_S: Final = 30.0
SAVED: Final = frozenset({SaveStatus.STORED, SaveStatus.DUPLICATE})
"""What a save that was sent twice may end with when the event is on disk."""


async def until(condition: Callable[[], bool], what: str) -> None:
    """Wait until something is so; fails by name when it never is."""
    try:
        async with asyncio.timeout(DEADLINE_S):
            while not condition():  # noqa: ASYNC110 - what is waited for tells nobody
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"waited {DEADLINE_S:g} s for {what}") from None


@asynccontextmanager
async def connected(address: str, *, timeout_s: float = DEADLINE_S, **options: Any) -> AsyncIterator[RemoteStore]:
    """A remote store, closed afterwards."""
    store = RemoteStore(open_channel(address, credentials=None, token=None), timeout_s=timeout_s, **options)
    try:
        yield store
    finally:
        async with asyncio.timeout(DEADLINE_S):
            await store.close()


@asynccontextmanager
async def serving(servicer: object) -> AsyncIterator[str]:
    """Any servicer of the DatabaseService in this process; gives the address."""
    server = RpcServer("127.0.0.1:0", credentials=None)
    server.add(service_pb2_grpc.add_DatabaseServiceServicer_to_server, servicer, SERVICE_NAME)
    await server.start()
    try:
        yield server.address
    finally:
        await server.stop(0)


@asynccontextmanager
async def stored_behind(directory: Path, **options: Any) -> AsyncIterator[tuple[LmdbStore, str]]:
    """An LMDB store and the address of its service in this process."""
    local = await LmdbStore.open(directory, max_bytes=MAX_BYTES)
    server, service = await serve(local, **options)
    try:
        yield local, server.address
    finally:
        service.stop()
        await server.stop(1.0)
        await local.close()


@asynccontextmanager
async def mute_peer() -> AsyncIterator[str]:
    """Accepts connections and says nothing; gives the address."""
    writers: list[asyncio.StreamWriter] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del reader
        writers.append(writer)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for writer in writers:
            writer.close()
        await server.wait_closed()


def numbered(count: int, prefix: str = "") -> list[EncodedEvent]:
    """Different events."""
    return [fake_event(n % 4, content=f"{prefix}{n}") for n in range(count)]


class Follower:
    """Reads a feed in the background and keeps what it told."""

    def __init__(self, feed: AsyncIterator[FeedBatch]) -> None:
        self.batches: list[FeedBatch] = []
        self._task = asyncio.create_task(self._follow(feed))

    async def _follow(self, feed: AsyncIterator[FeedBatch]) -> None:
        async for batch in feed:
            self.batches.append(batch)

    @property
    def serials(self) -> list[int]:
        return [item.serial for batch in self.batches for item in batch.stored]

    @property
    def ids(self) -> list[bytes]:
        return [item.event.id for batch in self.batches for item in batch.stored]

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.wait((self._task,))


def statuses(results: Sequence[SaveResult]) -> set[SaveStatus]:
    return {result.status for result in results}
