"""The life of `orly-db`: open the store, serve it, watch it, close it."""

import asyncio
import dataclasses
import logging
from contextlib import suppress
from typing import Final

from orly import clock
from orly.db.service import SERVICE_NAME, DatabaseService, probe
from orly.intake.policy import policy_from_settings
from orly.intake.verify import Verifier
from orly.opening.exits import store_exits
from orly.pb.orlydb.v1 import service_pb2_grpc
from orly.process.cores import has_second_core
from orly.process.exit_codes import ExitCode
from orly.process.serve import ServiceError, serve_until_stopped
from orly.rpc.credentials import CredentialsError
from orly.rpc.server import ListenError, RpcServer, server_from_settings
from orly.services import DB
from orly.settings import Loaded, Settings, SettingsError, load
from orly.store.lmdb.opening import store_from_settings
from orly.store.lmdb.store import LmdbStore

__all__ = ["PROBE_INTERVAL_S", "run", "serve_store"]

PROBE_INTERVAL_S: Final = 5.0
"""How often the store is read to see that calls succeed; the health service says what was found."""

CLOSE_RESERVE_S: Final = 10.0
"""Of the time a stop may take, what is left for the store to write its last index rows to a slow disk."""

MIN_GRACE_S: Final = 0.5
"""What calls under way get at least."""

log = logging.getLogger(__name__)


def run() -> tuple[ExitCode, str]:
    """Serve; returns the exit status and what to tell the operator if it is not OK."""
    try:
        loaded = load()
    except SettingsError as error:
        return ExitCode.SETTINGS, "\n".join(error.problems)
    return serve_until_stopped(DB.name, _with_own_level(loaded), _serve)


def _with_own_level(loaded: Loaded) -> Loaded:
    """All of this process is the store."""
    settings = loaded.settings
    level = settings.db_log_level or settings.log_level
    return dataclasses.replace(loaded, settings=settings.model_copy(update={"log_level": level}))


async def _serve(settings: Settings, stop: asyncio.Event) -> None:
    try:
        server = server_from_settings(settings, settings.db_listen)
        with store_exits():
            store = await store_from_settings(settings)  # ORLY_DB_TYPE=grpc is inherited, and means this process
            try:
                log.info("data in %s", settings.data_dir)
                await serve_store(store, server, settings, stop=stop)
            finally:
                await store.close()
    except CredentialsError as error:
        raise ServiceError(ExitCode.SETTINGS, str(error)) from error
    except ListenError as error:
        raise ServiceError(ExitCode.UNAVAILABLE, str(error)) from error


async def serve_store(store: LmdbStore, server: RpcServer, settings: Settings, *, stop: asyncio.Event) -> None:
    """Serve a store until `stop` is set; it stays open.

    Raises:
        ListenError: The address cannot be used.
        StoreError: The store cannot be read any more; the process should end and be started again.
    """
    verifier = Verifier(share=has_second_core())
    service = DatabaseService(
        store,
        policy_from_settings(settings),
        verifier,
        max_concurrent_queries=settings.db_max_concurrent_queries,
        now_s=clock.now_s,
    )
    server.add(service_pb2_grpc.add_DatabaseServiceServicer_to_server, service, SERVICE_NAME)
    await probe(store)
    await server.start()
    try:
        server.set_serving(True)
        log.info("listening on %s", server.address)
        await _watch(store, stop)
    finally:
        await _end(service, server, grace_s=_grace_s(settings))
        verifier.close()


async def _watch(store: LmdbStore, stop: asyncio.Event) -> None:
    """Look at the store from time to time until `stop` is set.

    Raises:
        StoreError: It cannot be read any more.
    """
    while not stop.is_set():
        with suppress(TimeoutError):
            async with asyncio.timeout(PROBE_INTERVAL_S):
                await stop.wait()
        if not stop.is_set():
            await probe(store)


def _grace_s(settings: Settings) -> float:
    return max(settings.launcher_stop_timeout_s - CLOSE_RESERVE_S, MIN_GRACE_S)


async def _end(service: DatabaseService, server: RpcServer, *, grace_s: float) -> None:
    """Say NOT_SERVING, take no new calls, let those under way finish; streams end once they answered what they have."""
    server.set_serving(False)
    stopping = asyncio.create_task(server.stop(grace_s))
    await asyncio.sleep(0)  # new calls are refused before streams end, or their callers would come back at once
    service.stop()
    await stopping
