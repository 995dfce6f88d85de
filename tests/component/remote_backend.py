"""A store behind gRPC as a backend of the store suite, and a service that tests can stop, start and break."""

from pathlib import Path
from typing import Any

from tests.component.lmdb_backend import MAX_BYTES, assert_sound
from tests.component.store_world import FakeClock, StoreOptions

from orly.db.service import SERVICE_NAME, DatabaseService
from orly.intake.policy import WritePolicy
from orly.intake.verify import Verifier
from orly.pb.orlydb.v1 import service_pb2_grpc
from orly.rpc.channel import open_channel
from orly.rpc.server import RpcServer
from orly.store.base import EventStore
from orly.store.lmdb.store import LmdbStore
from orly.store.remote import RemoteStore

__all__ = ["POLICY", "RemoteBackend", "ServedStore", "serve"]

POLICY = WritePolicy(
    max_event_bytes=2_000_000, max_event_tags=10_000, max_created_at_past_s=0, max_created_at_future_s=2**62
)
TIMEOUT_S = 10.0


async def serve(
    store: LmdbStore, *, listen: str = "127.0.0.1:0", max_concurrent_queries: int = 1_000
) -> tuple[RpcServer, DatabaseService]:
    """Serve a store, by default on a free port; stop the service, then the server."""
    service = DatabaseService(
        store, POLICY, Verifier(share=False), max_concurrent_queries=max_concurrent_queries, now_s=lambda: 1_700_000_000
    )
    server = RpcServer(listen, credentials=None)
    server.add(service_pb2_grpc.add_DatabaseServiceServicer_to_server, service, SERVICE_NAME)
    await server.start()
    server.set_serving(True)
    return server, service


class ServedStore(RemoteStore):
    """A remote store together with the service and the store behind it; all end with `close`."""

    def __init__(self, local: LmdbStore, server: RpcServer, service: DatabaseService, **options: Any) -> None:
        super().__init__(open_channel(server.address, credentials=None, token=None), timeout_s=TIMEOUT_S, **options)
        self.local = local
        self.server = server
        self.service = service

    async def _close(self) -> None:
        await super()._close()
        self.service.stop()
        await self.server.stop(1.0)
        await self.local.close()


class RemoteBackend:
    """See `Backend`: the client and the service are two ends of a real connection in one process."""

    async def open(self, directory: Path, clock: FakeClock, options: StoreOptions) -> EventStore:
        local = await LmdbStore.open(
            directory,
            max_bytes=MAX_BYTES,
            own_urls=options.own_urls,
            keep_versions=options.keep_versions,
            now_s=clock.now_s,
            monotonic_s=clock.monotonic_s,
        )
        server, service = await serve(local)
        return ServedStore(local, server, service)

    async def sweep(self, store: EventStore) -> int:
        assert isinstance(store, ServedStore)
        return await store.local.sweep()

    async def verify(self, directory: Path) -> None:
        assert_sound(directory)
