"""The life of `orly-sync-negentropy`: wait for the store, serve, sync with peers, stop."""

import asyncio
import dataclasses
import logging
from contextlib import AsyncExitStack, suppress
from typing import Final

from orly import clock
from orly.access.control import AccessControl
from orly.intake.plugin import WritePlugin
from orly.intake.plugin_settings import plugin_options
from orly.intake.verify import Verifier
from orly.opening.access import remote_access
from orly.opening.exits import store_exits
from orly.opening.store import OpenedStore, open_store
from orly.pb.orlysync.negentropy.v1 import service_pb2_grpc
from orly.process.cores import has_second_core
from orly.process.exit_codes import ExitCode
from orly.process.runnable import plugin_problem
from orly.process.serve import ServiceError, serve_until_stopped
from orly.rpc.credentials import CredentialsError
from orly.rpc.server import ListenError, RpcServer, server_from_settings
from orly.services import SYNC_NEGENTROPY
from orly.settings import Loaded, Settings, SettingsError, load
from orly.settings_access import acl_server
from orly.store.base import EventStore, StoreError
from orly.sync.negentropy.parts import make_manager, options_from_settings
from orly.sync.negentropy.peers import PeerBookError
from orly.sync.negentropy.service import ADMINISTRATIVE, FOR_CLIENTS, SERVICE_NAME, NegentropyService
from orly.sync.negentropy.sessions import LocalSets, keeper_from_settings

__all__ = ["GRACE_S", "PROBE_INTERVAL_S", "run", "serve_sync"]

PROBE_INTERVAL_S: Final = 2.0
"""How often the store is asked for its newest commit; the health service says whether it can be read and written."""

PROBE_TIMEOUT_S: Final = 5.0
"""How long that answer may take."""

GRACE_S: Final = 2.0
"""What calls under way get at a stop; syncs are broken off before, for the next one goes on where they were."""

log = logging.getLogger(__name__)


def run() -> tuple[ExitCode, str]:
    """Serve; returns the exit status and what to tell the operator if it is not OK."""
    try:
        loaded = load()
    except SettingsError as error:
        return ExitCode.SETTINGS, "\n".join(error.problems)
    return serve_until_stopped(SYNC_NEGENTROPY.name, _with_own(loaded), _serve)


def _with_own(loaded: Loaded) -> Loaded:
    """This program's own settings in place of those that all share."""
    settings = loaded.settings
    own: dict[str, object] = {"log_level": settings.sync_negentropy_log_level or settings.log_level}
    if settings.sync_negentropy_db_type:
        own["db_type"] = "grpc" if settings.sync_negentropy_db_type == "grpc" else "lmdb"
    if settings.sync_negentropy_db_server:
        own["grpc_server"] = settings.sync_negentropy_db_server
    return dataclasses.replace(loaded, settings=settings.model_copy(update=own))


async def _serve(settings: Settings, stop: asyncio.Event) -> None:
    if (problem := plugin_problem(settings)) is not None:
        raise ServiceError(ExitCode.SETTINGS, problem)
    try:
        server = server_from_settings(
            settings, settings.sync_negentropy_listen, audited=ADMINISTRATIVE, uncounted=FOR_CLIENTS
        )
        with store_exits():
            opened = await open_store(settings, stop=stop)
            if opened is None:
                return
            try:
                log.info("%s", opened.where)
                async with AsyncExitStack() as stack:
                    access = await _access(settings, stack, stop)
                    if not stop.is_set():
                        await serve_sync(opened, server, settings, stop=stop, access=access)
            finally:
                await opened.close()
    except (CredentialsError, PeerBookError) as error:
        raise ServiceError(ExitCode.SETTINGS, str(error)) from error
    except ListenError as error:
        raise ServiceError(ExitCode.UNAVAILABLE, str(error)) from error


async def _access(settings: Settings, stack: AsyncExitStack, stop: asyncio.Event) -> AccessControl | None:
    """Whose events may be stored, where a service knows that; None = anybody's, or we were told to stop."""
    server = acl_server(settings)
    return None if server is None else await remote_access(settings, server, stack, stop=stop)


async def serve_sync(
    opened: OpenedStore,
    server: RpcServer,
    settings: Settings,
    *,
    stop: asyncio.Event,
    access: AccessControl | None = None,
) -> None:
    """Serve and sync until `stop` is set; the store stays open.

    Raises:
        ListenError: The address cannot be used.
        PeerBookError: The peers that were kept cannot be read.
    """
    store = opened.store
    async with AsyncExitStack() as stack:
        verifier = Verifier(share=has_second_core())
        stack.callback(verifier.close)
        keeper = keeper_from_settings(settings, store)
        stack.push_async_callback(keeper.close)
        sets = LocalSets.from_settings(settings, keeper)
        stack.push_async_callback(sets.aclose)
        options = plugin_options(settings)
        plugin = None if options is None else WritePlugin(options, monotonic_s=clock.monotonic_s)
        if plugin is not None:
            stack.push_async_callback(plugin.aclose)
        manager = make_manager(settings, store, keeper, verifier, access, plugin)
        stack.push_async_callback(manager.close)
        await manager.open()
        service = NegentropyService(manager, options_from_settings(settings), sets, store)
        server.add(service_pb2_grpc.add_NegentropyServiceServicer_to_server, service, SERVICE_NAME)
        await server.start()
        stack.push_async_callback(_end, server, service)
        manager.start()
        server.set_serving(True)
        log.info("listening on %s", server.address)
        await _watch(opened, server, stop)
        manager.stop()


async def _watch(opened: OpenedStore, server: RpcServer, stop: asyncio.Event) -> None:
    """Ask the store from time to time until `stop` is set, and say through health how it is."""
    while not stop.is_set():
        with suppress(TimeoutError):
            async with asyncio.timeout(PROBE_INTERVAL_S):
                await stop.wait()
        if not stop.is_set():
            server.set_serving(opened.health() is None and await _answers(opened.store))


async def _answers(store: EventStore) -> bool:
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            await store.last_serial()
    except (StoreError, TimeoutError):
        return False
    return True


async def _end(server: RpcServer, service: NegentropyService) -> None:
    """Say NOT_SERVING, take no new calls, break off syncs, and let the other calls finish."""
    server.set_serving(False)
    stopping = asyncio.create_task(server.stop(GRACE_S))
    await asyncio.sleep(0)
    service.stop()
    await stopping
