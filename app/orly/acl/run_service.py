"""The life of `orly-acl`: wait for the store, load the lists, serve, stop."""

import asyncio
import dataclasses
import logging
from contextlib import AsyncExitStack, suppress
from typing import Final

from orly import clock
from orly.acl.engine import AclEngine
from orly.acl.fetch import fetcher_from_settings
from orly.acl.rules import rules_from_settings
from orly.acl.service import ADMINISTRATIVE, FOR_RELAYS, SERVICE_NAME, AclService
from orly.intake.verify import Verifier
from orly.opening.exits import store_exits
from orly.opening.store import OpenedStore, open_store
from orly.pb.orlyacl.v1 import service_pb2_grpc
from orly.process.exit_codes import ExitCode
from orly.process.serve import ServiceError, serve_until_stopped
from orly.rpc.credentials import CredentialsError
from orly.rpc.server import ListenError, RpcServer, server_from_settings
from orly.services import ACL
from orly.settings import Loaded, Settings, SettingsError, load

__all__ = ["run"]

PROBE_INTERVAL_S: Final = 2.0
"""How often health follows whether the store can be asked."""

GRACE_S: Final = 2.0
"""What calls under way get at a stop."""

log = logging.getLogger(__name__)


def run() -> tuple[ExitCode, str]:
    """Serve; returns the exit status and what to tell the operator if it is not OK."""
    try:
        loaded = load()
    except SettingsError as error:
        return ExitCode.SETTINGS, "\n".join(error.problems)
    own = _with_own(loaded)
    if own.settings.acl_mode == "follows" and not (own.settings.owners or own.settings.admins):
        return (
            ExitCode.SETTINGS,
            "ORLY_ACL_MODE=follows needs ORLY_OWNERS or ORLY_ADMINS: without them nobody could write",
        )
    return serve_until_stopped(ACL.name, own, _serve)


def _with_own(loaded: Loaded) -> Loaded:
    """This program's own settings in place of those that all share."""
    settings = loaded.settings
    own: dict[str, object] = {"log_level": settings.acl_log_level or settings.log_level}
    if loaded.sources["ORLY_ACL_MODE"].startswith("default"):
        own["acl_mode"] = "follows"
    if settings.acl_db_type:
        own["db_type"] = settings.acl_db_type
    if settings.acl_grpc_db_server:
        own["grpc_server"] = settings.acl_grpc_db_server
    return dataclasses.replace(loaded, settings=settings.model_copy(update=own))


async def _serve(settings: Settings, stop: asyncio.Event) -> None:
    try:
        server = server_from_settings(settings, settings.acl_listen, audited=ADMINISTRATIVE, uncounted=FOR_RELAYS)
        with store_exits():
            opened = await open_store(settings, stop=stop)
            if opened is None:
                return
            try:
                log.info("%s", opened.where)
                await _serve_acl(opened, server, settings, stop)
            finally:
                await opened.close()
    except CredentialsError as error:
        raise ServiceError(ExitCode.SETTINGS, str(error)) from error
    except ListenError as error:
        raise ServiceError(ExitCode.UNAVAILABLE, str(error)) from error


async def _serve_acl(opened: OpenedStore, server: RpcServer, settings: Settings, stop: asyncio.Event) -> None:
    async with AsyncExitStack() as stack:
        engine = AclEngine(opened.store, rules_from_settings(settings), now_s=clock.now_s)
        stack.push_async_callback(engine.aclose)
        await engine.start()
        verifier = Verifier(share=False)
        stack.callback(verifier.close)
        if (fetcher := fetcher_from_settings(settings, opened.store, verifier)) is not None:
            fetcher.start()
            stack.push_async_callback(fetcher.close)
        service = AclService(engine, opened.store, now_s=clock.now_s)
        server.add(service_pb2_grpc.add_ACLServiceServicer_to_server, service, SERVICE_NAME)
        await server.start()
        stack.push_async_callback(_end, server, service)
        server.set_serving(True)
        log.info("listening on %s", server.address)
        while not stop.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(PROBE_INTERVAL_S):
                    await stop.wait()
            if not stop.is_set():
                server.set_serving(opened.health() is None)


async def _end(server: RpcServer, service: AclService) -> None:
    server.set_serving(False)
    stopping = asyncio.create_task(server.stop(GRACE_S))
    await asyncio.sleep(0)
    service.stop()
    await stopping
