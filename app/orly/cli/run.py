"""`orly` without a command: serve until told to stop."""

import asyncio
import logging
import os
from contextlib import AsyncExitStack
from functools import partial
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
    mode = "" if loaded.sources["ORLY_ACL_MODE"].startswith("default") else loaded.settings.acl_mode
    name = process_name(os.environ.get("SUPERVISOR_PROCESS_NAME", ""))  # noqa: TID251
    return serve_until_stopped(name, loaded, partial(_serve, mode=mode))


def process_name(given: str) -> str:
    """The name in every line of the log: what the supervisor calls this process, such as `orly-1`, or `orly`."""
    return given if given.startswith(RELAY.name) else RELAY.name


async def _serve(settings: Settings, stop: asyncio.Event, *, mode: str) -> None:
    if (problem := plugin_problem(settings)) is not None:
        raise ServiceError(ExitCode.SETTINGS, problem)
    _look_at_lists(settings)
    try:
        with store_exits():
            opened = await open_store(settings, stop=stop)
            if opened is not None:
                await _run_relay(settings, opened, stop, mode)
    except ServeError as error:
        raise ServiceError(ExitCode.UNAVAILABLE, str(error)) from error


async def _run_relay(settings: Settings, opened: OpenedStore, stop: asyncio.Event, mode: str) -> None:
    try:
        log.info("%s", opened.where)
        _warn_of_unknown_url(settings)
        async with AsyncExitStack() as stack:
            access = await _access(settings, opened, stack, stop, mode)
            if access is None:
                return
            _warn_of_unchecked_calls(settings, access)
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
    settings: Settings, opened: OpenedStore, stack: AsyncExitStack, stop: asyncio.Event, mode: str
) -> "AccessControl | None":
    """Who knows what may be done; None if we were told to stop before that was there."""
    if (server := acl_server(settings)) is None:
        from orly.cli.local_access import local_access

        return await local_access(settings, opened.store, stack)
    from orly.opening.access import remote_access  # what gRPC needs is for those who use it

    return await remote_access(settings, server, stack, stop=stop, mode=mode)


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


def _look_at_lists(settings: Settings) -> None:
    """Whether other relays on the same store would decide by other lists.

    Raises:
        ServiceError: They would.
    """
    is_asked_for = settings.acl_mode != "none" or settings.owners or settings.admins
    if settings.db_type != "grpc" or acl_server(settings) is not None or not is_asked_for:
        return
    what = "there are owners, admins or a mode, and no orly-acl is named (ORLY_GRPC_ACL_SERVER)"
    if settings.relay_workers > 1:
        text = f"ORLY_RELAY_WORKERS={settings.relay_workers}, but {what}: each would keep lists of its own"
        raise ServiceError(ExitCode.SETTINGS, text)
    log.warning("%s: this relay keeps its own lists, and other relays on the same orly-db do not decide by them", what)


def _warn_of_unknown_url(settings: Settings) -> None:
    if not settings.relay_url and (settings.auth_required or settings.auth_to_write):
        log.warning(
            "ORLY_RELAY_URL is not set: whatever Host a client names is taken for ours when it authenticates, "
            "so another relay could pass its users' proofs on to this one"
        )


def _warn_of_unchecked_calls(settings: Settings, access: "AccessControl") -> None:
    rules = settings if access.snapshot is None else access.snapshot.rules
    if not settings.relay_url and (rules.owners or rules.admins):
        log.warning(
            "ORLY_RELAY_URL is not set: whatever Host a request names is taken for ours when owners and admins sign "
            "it (NIP-98), so another relay could pass their requests on to this one; set it to the public URL, such as "
            "wss://relay.example.com"
        )
