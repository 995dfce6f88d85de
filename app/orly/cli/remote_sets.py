"""Reconciling for a relay's clients by `orly-sync-negentropy`; without what only that service needs, such as numpy."""

from contextlib import AsyncExitStack

from orly.process.exit_codes import ExitCode
from orly.process.serve import ServiceError
from orly.rpc.channel import channel_from_settings
from orly.rpc.credentials import CredentialsError
from orly.settings import Settings
from orly.sync.negentropy.remote import RemoteSets

__all__ = ["remote_sets"]


def remote_sets(settings: Settings, server: str, stack: AsyncExitStack) -> RemoteSets:
    """The sets of `orly-sync-negentropy`; it need not be there yet.

    Raises:
        ServiceError: The certificates cannot be used.
    """
    try:
        channel = channel_from_settings(settings, server)
    except CredentialsError as error:
        raise ServiceError(ExitCode.SETTINGS, str(error)) from error
    sets = RemoteSets(channel, timeout_s=settings.grpc_sync_timeout_s, build_timeout_s=settings.query_timeout_s)
    stack.push_async_callback(sets.aclose)
    return sets
