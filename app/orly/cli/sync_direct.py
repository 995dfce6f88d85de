"""`orly sync` on a data directory, or on the store that the settings name."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from pydantic import TypeAdapter, ValidationError

from orly import clock
from orly.acl.rules import rules_from_settings
from orly.cli.acl_options import AclError, Where
from orly.cli.acl_places import followed, service_of
from orly.cli.acl_stored import StoredLists
from orly.cli.read_only import ReadOnlyStore
from orly.cli.sync_options import OptionError, SyncOptions
from orly.cli.sync_report import SyncReport
from orly.cli.sync_runner import RunError, Runner, StoppedError, until_stopped
from orly.intake.plugin import WritePlugin
from orly.intake.plugin_settings import plugin_options
from orly.intake.policy import policy_from_settings
from orly.intake.verify import Verifier
from orly.negentropy import ItemSet
from orly.opening.store import open_store
from orly.process.collector import settle_collector
from orly.process.cores import has_second_core
from orly.process.exit_codes import ExitCode
from orly.process.serve import ServiceError
from orly.settings import Settings
from orly.settings_access import acl_server
from orly.settings_types import DirectoryPath
from orly.store.base import (
    EventStore,
    Query,
    StoreLockedError,
    StoreUnavailableError,
)
from orly.sync.ingest import Door, HasSnapshot
from orly.sync.negentropy.peer_memory import PeerMemory
from orly.sync.negentropy.request import SyncRequest, SyncResult
from orly.sync.negentropy.run import sync_with_peer

__all__ = ["direct_runner"]

YOUNG_OBJECTS: Final = 1_000_000
"""No client waits while they are looked through, so that is done rarely."""

log = logging.getLogger(__name__)


def direct_runner(options: SyncOptions, settings: Settings) -> Runner:
    """What syncs on the store of the settings, or on the data directory that the options name.

    Raises:
        OptionError: The options contradict each other or the settings.
    """
    for option, value in (("--token-file", options.token_file), ("--tls-ca", options.tls_ca)):
        if value is not None:
            raise OptionError(f"{option} has no effect without --server")
    if options.data_dir is None:
        return _DirectRunner(settings)
    if not options.data_dir:
        raise OptionError("--data-dir is empty: name the directory")
    if settings.db_type == "grpc" and not settings.db_direct_read:
        raise OptionError(
            f"--data-dir has no effect with ORLY_DB_TYPE=grpc, the store is at {settings.grpc_server}: "
            "leave it out, or set ORLY_DB_TYPE=lmdb"
        )
    try:
        directory = TypeAdapter[object](DirectoryPath).validate_python(options.data_dir)
    except ValidationError as error:
        why = error.errors()[0].get("ctx", {}).get("error", "no directory")
        raise OptionError(f"--data-dir {options.data_dir}: {why}") from None
    return _DirectRunner(settings.model_copy(update={"data_dir": directory}))


class _DirectRunner:
    """Does it in this process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def __call__(self, request: SyncRequest, report: SyncReport, stop: asyncio.Event) -> SyncResult:
        """See `Runner`."""
        async with self._store(request, stop) as store, AsyncExitStack() as stack:
            log.debug("%s with %s", request.direction, request.url)
            verifier = Verifier(share=has_second_core())
            stack.callback(verifier.close)
            access = plugin = None
            if request.direction.pulls:
                access = await until_stopped(self._lists(store, stack), stop)
                plugin = self._plugin(stack)
            settle_collector(YOUNG_OBJECTS)
            work = sync_with_peer(
                request,
                store=store,
                sets=_StoredSets(store),
                door=Door(store, policy_from_settings(self._settings), verifier, clock.now_s, access, plugin),
                memory=PeerMemory(),
                on_progress=report.progress,
                now_s=clock.now_s,
            )
            return await until_stopped(work, stop)

    async def _lists(self, store: EventStore, stack: AsyncExitStack) -> HasSnapshot:
        """What says whose events may be stored: a service that has the lists, or else what is stored of them.

        Raises:
            RunError: The service cannot be asked.
        """
        settings = self._settings
        try:
            # A data directory that is ours has no other lists than its own, unless the settings name some.
            server = await service_of(settings, Where()) if settings.db_type == "grpc" else acl_server(settings)
            if server is not None:
                return await followed(settings, server, stack)
        except AclError as error:
            code = ExitCode.SETTINGS if error.code is ExitCode.SETTINGS else ExitCode.FAILED
            raise RunError(code, str(error)) from None
        lists = StoredLists(store, rules_from_settings(settings), now_s=clock.now_s)
        stack.push_async_callback(lists.close)
        await lists.load(follows=True)
        return lists

    def _plugin(self, stack: AsyncExitStack) -> WritePlugin | None:
        """The operator's program that judges events; None if there is none."""
        options = plugin_options(self._settings)
        if options is None:
            return None
        plugin = WritePlugin(options, monotonic_s=clock.monotonic_s)
        stack.push_async_callback(plugin.aclose)
        return plugin

    @asynccontextmanager
    async def _store(self, request: SyncRequest, stop: asyncio.Event) -> AsyncIterator[EventStore]:
        """The store, opened for what the request does.

        Raises:
            RunError: It cannot be opened.
            StoppedError: We were told to stop before it was there.
        """
        if self._settings.db_type != "grpc" and not request.direction.pulls:
            async with _only_read(self._settings) as reader:
                yield reader
            return
        try:
            opened = await open_store(self._settings, stop=stop)
        except StoreLockedError as error:
            raise RunError(ExitCode.FAILED, _locked(error, self._settings, request)) from None
        except StoreUnavailableError as error:
            raise RunError(ExitCode.SETTINGS, str(error)) from None
        except ServiceError as error:
            code = ExitCode.SETTINGS if error.code is ExitCode.SETTINGS else ExitCode.FAILED
            raise RunError(code, str(error)) from None
        if opened is None:
            raise StoppedError
        log.debug("%s", opened.where)
        try:
            yield opened.store
        finally:
            await opened.close()


@asynccontextmanager
async def _only_read(settings: Settings) -> AsyncIterator[EventStore]:
    """The data directory, where nothing is made or changed; another process may write there."""
    try:
        follower = await ReadOnlyStore.open(settings.data_dir, max_bytes=settings.db_max_bytes)
    except StoreUnavailableError as error:
        raise RunError(ExitCode.SETTINGS, str(error)) from None
    assert isinstance(follower, ReadOnlyStore)
    log.debug("data in %s, which is only read", settings.data_dir)
    try:
        yield follower
    finally:
        await follower.close()


def _locked(error: StoreLockedError, settings: Settings, request: SyncRequest) -> str:
    """What can be done when another process has the data directory."""
    return (
        f"{error}\n"
        f"If that is orly-db, work through it: with --server {settings.grpc_sync_negentropy or '127.0.0.1:50064'} "
        f"where orly-sync-negentropy runs, or with ORLY_DB_TYPE=grpc ORLY_GRPC_SERVER={settings.db_listen}.\n"
        "If it is a relay alone, let it sync by itself, with ORLY_SYNC_NEGENTROPY_PEERS="
        f"{request.url}, or stop it first. Sending with --dir up, and comparing with --dry-run, work beside it."
    )


class _StoredSets:
    """The sets of a store, each read when it is asked for: a single sync asks once."""

    def __init__(self, store: EventStore) -> None:
        self._store = store

    async def snapshot(self, query: Query, *, max_items: int | None = None) -> ItemSet:
        """See `SetSource`."""
        found = await self._store.items(query, max_items=max_items)
        return ItemSet.from_rows(found.rows, is_sorted=True)
