"""What a relay process needs to reconcile for its clients (NIP-77), and to sync with peers if it is alone."""

from contextlib import AsyncExitStack

from orly.intake.verify import Verifier
from orly.process.cores import has_second_core
from orly.process.exit_codes import ExitCode
from orly.process.serve import ServiceError
from orly.reconciling import SetServer
from orly.settings import Settings
from orly.store.base import EventStore
from orly.sync.negentropy.sessions import LocalSets, keeper_from_settings

__all__ = ["local_sets", "remote_sets"]


async def local_sets(settings: Settings, store: EventStore, stack: AsyncExitStack, *, syncs: bool) -> LocalSets:
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
        manager = make_manager(settings, store, keeper, verifier)
        stack.push_async_callback(manager.close)
        try:
            await manager.open()
        except PeerBookError as error:
            raise ServiceError(ExitCode.SETTINGS, str(error)) from error
        manager.start()
    return sets


def remote_sets(settings: Settings, server: str, stack: AsyncExitStack) -> SetServer:
    """The sets of `orly-sync-negentropy`; it need not be there yet.

    Raises:
        ServiceError: The certificates cannot be used.
    """
    from orly.rpc.channel import channel_from_settings
    from orly.rpc.credentials import CredentialsError
    from orly.sync.negentropy.remote import RemoteSets

    try:
        channel = channel_from_settings(settings, server)
    except CredentialsError as error:
        raise ServiceError(ExitCode.SETTINGS, str(error)) from error
    sets = RemoteSets(channel, timeout_s=settings.grpc_sync_timeout_s, build_timeout_s=settings.query_timeout_s)
    stack.push_async_callback(sets.aclose)
    return sets
