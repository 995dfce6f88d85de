"""`orly` without a command: serve until told to stop."""

import asyncio
import logging
import os
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from orly import clock
from orly.cli.open_store import OpenedStore, open_store
from orly.opening.exits import store_exits
from orly.process.exit_codes import ExitCode
from orly.process.runnable import plugin_problem
from orly.process.serve import ServiceError, serve_until_stopped
from orly.relay.relay import run_relay
from orly.relay.server import ServeError
from orly.services import RELAY
from orly.settings import Loaded, Settings
from orly.settings_access import acl_server
from orly.settings_sync import negentropy_server

if TYPE_CHECKING:
    from orly.access.control import AccessControl
    from orly.intake.plugin import WritePlugin
    from orly.reconciling import SetServer

__all__ = ["process_name", "run"]

log = logging.getLogger("orly.main")


def run(loaded: Loaded) -> tuple[ExitCode, str]:
    """Serve; returns the exit status and what to tell the operator if it is not OK."""
    return serve_until_stopped(process_name(os.environ.get("SUPERVISOR_PROCESS_NAME", "")), loaded, _serve)  # noqa: TID251


def process_name(given: str) -> str:
    """The name in every line of the log: what the supervisor calls this process, such as `orly-1`, or `orly`."""
    return given if given.startswith(RELAY.name) else RELAY.name


async def _serve(settings: Settings, stop: asyncio.Event) -> None:
    if (problem := plugin_problem(settings)) is not None:
        raise ServiceError(ExitCode.SETTINGS, problem)
    try:
        with store_exits():
            opened = await open_store(settings, stop=stop)
            if opened is not None:
                await _run_relay(settings, opened, stop)
    except ServeError as error:
        raise ServiceError(ExitCode.UNAVAILABLE, str(error)) from error


async def _run_relay(settings: Settings, opened: OpenedStore, stop: asyncio.Event) -> None:
    try:
        log.info("%s", opened.where)
        _warn_of_unknown_url(settings)
        async with AsyncExitStack() as stack:
            access = await _access(settings, opened, stack, stop)
            if access is None:
                return
            plugin = _plugin(settings, stack)
            await run_relay(
                settings,
                opened.store,
                stop=stop,
                on_listening=_announce,
                store_health=opened.health,
                sets=await _reconciling(settings, opened, stack, access, plugin),
                access=access,
                plugin=plugin,
            )
    finally:
        await opened.close()


async def _access(
    settings: Settings, opened: OpenedStore, stack: AsyncExitStack, stop: asyncio.Event
) -> "AccessControl | None":
    """Who knows what may be done; None if we were told to stop before that was there."""
    if (server := acl_server(settings)) is None:
        from orly.cli.local_access import local_access

        return await local_access(settings, opened.store, stack)
    from orly.opening.access import remote_access  # what gRPC needs is for those who use it

    return await remote_access(settings, server, stack, stop=stop)


def _plugin(settings: Settings, stack: AsyncExitStack) -> "WritePlugin | None":
    """The operator's program that judges events, started; None if there is none."""
    from orly.intake.plugin import WritePlugin
    from orly.intake.plugin_settings import plugin_options

    options = plugin_options(settings)
    if options is None:
        return None
    plugin = WritePlugin(options, monotonic_s=clock.monotonic_s)
    stack.push_async_callback(plugin.aclose)
    plugin.start()
    return plugin


async def _reconciling(
    settings: Settings,
    opened: OpenedStore,
    stack: AsyncExitStack,
    access: "AccessControl",
    plugin: "WritePlugin | None",
) -> "SetServer | None":
    """Who reconciles for clients, if anybody does; and the syncing with peers, where that is this process's."""
    is_alone = settings.db_type != "grpc"
    if (server := negentropy_server(settings)) is not None:
        if not settings.negentropy_enabled:
            return None
        from orly.cli.remote_sets import remote_sets  # what gRPC needs is for those who use it

        return remote_sets(settings, server, stack)
    syncs = is_alone and bool(settings.sync_negentropy_peers)
    if settings.sync_negentropy_peers and not is_alone:
        log.warning(
            "ORLY_SYNC_NEGENTROPY_PEERS has no effect here: of several relay processes none syncs, that is for "
            "orly-sync-negentropy; set ORLY_LAUNCHER_SYNC_NEGENTROPY_ENABLED=true"
        )
    if not (settings.negentropy_enabled or syncs):
        return None
    from orly.cli.local_sets import local_sets  # the sets need numpy, which takes 15 MB

    sets = await local_sets(settings, opened.store, stack, syncs=syncs, access=access, plugin=plugin)
    return sets if settings.negentropy_enabled else None


def _announce(url: str) -> None:
    log.info("listening on %s", url)


def _warn_of_unknown_url(settings: Settings) -> None:
    if not settings.relay_url and (settings.auth_required or settings.auth_to_write):
        log.warning(
            "ORLY_RELAY_URL is not set: whatever Host a client names is taken for ours when it authenticates, "
            "so another relay could pass its users' proofs on to this one"
        )
