"""Opening the store of another process: through its service alone, or reading its file directly."""

import asyncio
import logging
from contextlib import AsyncExitStack
from typing import Final

from orly.opening.store import OpenedStore
from orly.opening.waiting import came
from orly.process.exit_codes import ExitCode
from orly.process.serve import ServiceError
from orly.rpc.channel import ServiceChannel, channel_from_settings
from orly.rpc.credentials import CredentialsError
from orly.services import DB
from orly.settings import Settings
from orly.store.base import EventStore, StoreUnavailableError
from orly.store.lmdb.follower import LmdbFollower
from orly.store.remote import RemoteStore
from orly.store.split import SplitStore

__all__ = ["open_service"]

SERVICE: Final = "orlydb.v1.DatabaseService"

CLOSE_S: Final = 1.0
"""How long a stop waits for a store that does not answer, after all that `ORLY_STOP_TIMEOUT` allows."""

log = logging.getLogger("orly.main")


async def open_service(settings: Settings, *, stop: asyncio.Event) -> OpenedStore | None:
    """The store at ORLY_GRPC_SERVER once it can work; None if `stop` was set before.

    Raises:
        ServiceError: It never came, or does not let us in.
        StoreUnavailableError: Its file cannot be read directly.
    """
    try:
        channel = channel_from_settings(settings, settings.grpc_server)
    except CredentialsError as error:
        raise ServiceError(ExitCode.SETTINGS, str(error)) from error
    async with AsyncExitStack() as stack:
        stack.push_async_callback(channel.close)
        timeout_s = settings.launcher_db_ready_timeout_s
        if not await came(channel, service=SERVICE, program=DB.name, timeout_s=timeout_s, stop=stop):
            return None
        opened = await (_open_split if settings.db_direct_read else _open_remote)(channel, settings)
        stack.pop_all()  # the store closes the channel
        return opened


async def _open_remote(channel: ServiceChannel, settings: Settings) -> OpenedStore:
    remote = RemoteStore(channel, timeout_s=settings.grpc_connect_timeout_s)
    where = f"data at {DB.name}, {settings.grpc_server}"
    return _opened(remote, remote, where)


def _opened(store: EventStore, remote: RemoteStore, where: str) -> OpenedStore:
    def health() -> str | None:
        return None if remote.trouble is None else "the store is away"

    async def close() -> None:
        try:
            async with asyncio.timeout(CLOSE_S):
                await store.close()
        except TimeoutError:
            log.warning("%s does not answer: events without an answer may or may not be stored", DB.name)

    return OpenedStore(store=store, where=where, health=health, close=close)


async def _open_split(channel: ServiceChannel, settings: Settings) -> OpenedStore:
    """The store with direct reads.

    Raises:
        StoreUnavailableError: There is no such file, or it is not the service's.
    """
    try:
        follower = await LmdbFollower.open(settings.data_dir, max_bytes=settings.db_max_bytes)
    except StoreUnavailableError as error:
        raise StoreUnavailableError(
            f"{error}; {DB.name} at {settings.grpc_server} may keep its events elsewhere: "
            "check ORLY_DATA_DIR, or turn ORLY_DB_DIRECT_READ off"
        ) from error
    remote = RemoteStore(channel, timeout_s=settings.grpc_connect_timeout_s, event_of=follower.event_of, recent_ids=0)
    try:
        store = await SplitStore.open(remote, follower, settings.data_dir)
    except BaseException:
        await remote.close()
        await follower.close()
        raise
    where = f"data in {settings.data_dir}, written by {DB.name} at {settings.grpc_server}"
    return _opened(store, remote, where)
