"""Reconciling in a relay's own process (NIP-77), and syncing with peers if it is alone."""

from contextlib import AsyncExitStack

from orly.access.control import AccessControl
from orly.intake.plugin import WritePlugin
from orly.intake.verify import Verifier
from orly.process.cores import has_second_core
from orly.process.exit_codes import ExitCode
from orly.process.serve import ServiceError
from orly.settings import Settings
from orly.store.base import EventStore
from orly.sync.negentropy.sessions import LocalSets, keeper_from_settings

__all__ = ["local_sets"]


async def local_sets(
    settings: Settings,
    store: EventStore,
    stack: AsyncExitStack,
    *,
    syncs: bool,
    access: AccessControl | None = None,
    plugin: WritePlugin | None = None,
) -> LocalSets:
    """The sets of this process's own store; with `syncs`, peers are synced with from now on.

    Raises:
        ServiceError: The peers that were kept cannot be read.
    """
    keeper = keeper_from_settings(settings, store)
    stack.push_async_callback(keeper.close)
    sets = LocalSets.from_settings(settings, keeper)
    stack.push_async_callback(sets.aclose)
    if syncs:
        from orly.sync.negentropy.parts import make_manager
        from orly.sync.negentropy.peers import PeerBookError

        verifier = Verifier(share=has_second_core())
        stack.callback(verifier.close)
        manager = make_manager(settings, store, keeper, verifier, access, plugin)
        stack.push_async_callback(manager.close)
        try:
            await manager.open()
        except PeerBookError as error:
            raise ServiceError(ExitCode.SETTINGS, str(error)) from error
        manager.start()
    return sets
