"""What tests of enforcement share: a relay that decides by its own lists, or by those of a service behind gRPC."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, cast

import pytest
from tests.component.relay_client import NostrClient
from tests.component.relay_server import FakeTime, TestedRelay, local_access, running_relay
from tests.factory import KEYS
from tests.transport import run_async
from tests.wsclient import until

from orly.access.control import AccessControl
from orly.acl.engine import AclEngine
from orly.acl.remote import RemoteAccess
from orly.acl.service import SERVICE_NAME, AclService
from orly.pb.orlyacl.v1 import service_pb2_grpc
from orly.rpc.channel import open_channel
from orly.rpc.server import RpcServer
from orly.settings import Settings
from orly.store.base import EventStore

__all__ = ["ADMIN", "OWNER", "OWN_URL", "authenticated", "on_access", "remote_access", "serving_acl", "settled"]

OWNER: Final = 0
ADMIN: Final = 1
"""Which of the test keys they are."""

OWN_URL: Final = "wss://relay.example.com"
_DEADLINE_S: Final = 20.0


@asynccontextmanager
async def serving_acl(engine: AclEngine, store: EventStore, clocks: FakeTime, listen: str) -> AsyncIterator[RpcServer]:
    """Serve an engine over gRPC."""
    server = RpcServer(listen, credentials=None)
    service = AclService(engine, store, now_s=clocks.now_s)
    server.add(service_pb2_grpc.add_ACLServiceServicer_to_server, service, SERVICE_NAME)
    await server.start()
    server.set_serving(True)
    try:
        yield server
    finally:
        service.stop()
        await server.stop(0)


@asynccontextmanager
async def remote_access(settings: Settings, store: EventStore, clocks: FakeTime) -> AsyncIterator[AccessControl]:
    """What a relay decides by when a service keeps the lists; see `AccessOf`."""
    async with (
        local_access(settings, store, clocks) as engine,
        serving_acl(_engine(engine), store, clocks, "127.0.0.1:0") as server,
    ):
        remote = RemoteAccess(open_channel(server.address, credentials=None, token=None), timeout_s=_DEADLINE_S)
        try:
            await remote.came()
            yield remote
        finally:
            await remote.aclose()


def _engine(access: AccessControl) -> AclEngine:
    assert isinstance(access, AclEngine)
    return access


async def settled(relay: TestedRelay, condition: Callable[[Any], bool]) -> None:
    """Wait until the relay's own snapshot is as it should be."""

    def is_so() -> bool:
        snapshot = relay.access.snapshot
        return snapshot is not None and condition(snapshot)

    await until(is_so, "the lists to change here")


async def authenticated(relay: TestedRelay, client: NostrClient, key: int) -> None:
    """Prove a key on a connection that was sent a challenge at once."""
    ok = await client.authenticate(OWN_URL, key=key, at_s=relay.time.now)
    assert ok[2] is True, ok


def on_access(**settings: Any) -> Callable[[Callable[[TestedRelay], Awaitable[None]]], Callable[..., None]]:
    """Makes two tests of an async function: on a relay with lists of its own, and on one that follows a service's."""
    given = {
        "owners": (KEYS[OWNER],),
        "admins": (KEYS[ADMIN],),
        "relay_url": OWN_URL,
        "auth_on_connect": True,
        **settings,
    }

    def decorate(body: Callable[[TestedRelay], Awaitable[None]]) -> Callable[..., None]:
        @pytest.mark.parametrize("access_of", [local_access, remote_access], ids=["local", "remote"])
        def test(tmp_path: Path, access_of: Any) -> None:
            async def play() -> None:
                async with running_relay(tmp_path, access_of=access_of, **given) as relay:
                    await body(relay)

            run_async(play())

        test.__name__ = test.__qualname__ = body.__name__
        test.__doc__ = body.__doc__
        return cast(Callable[..., None], test)

    return decorate
