"""Access control by `orly-acl`: its lists are followed, and decided by here."""

import asyncio
import logging
from contextlib import AsyncExitStack, suppress
from typing import Final

from orly.acl.remote import RemoteAccess
from orly.opening.waiting import came
from orly.process.exit_codes import ExitCode
from orly.process.serve import ServiceError
from orly.rpc.channel import channel_from_settings
from orly.rpc.credentials import CredentialsError
from orly.services import ACL
from orly.settings import Settings

__all__ = ["remote_access"]

SERVICE: Final = "orlyacl.v1.ACLService"

FIRST_LISTS_S: Final = 10.0
"""How long a start waits for the lists of a service that says it can work."""

log = logging.getLogger(__name__)


async def remote_access(
    settings: Settings, server: str, stack: AsyncExitStack, *, stop: asyncio.Event, mode: str = ""
) -> RemoteAccess | None:
    """What follows the service, once that can work; None if `stop` was set before. The lists come a moment later.

    Args:
        settings: How it is called.
        server: Where it is.
        stack: Leaves it at its end.
        stop: Ends the wait.
        mode: The one that was asked for here; the log says whenever the service has another. Empty is any.

    Raises:
        ServiceError: It never came, or does not let us in, or the certificates cannot be used.
    """
    try:
        channel = channel_from_settings(settings, server)
    except CredentialsError as error:
        raise ServiceError(ExitCode.SETTINGS, str(error)) from error
    timeout_s = settings.launcher_acl_ready_timeout_s
    try:
        is_there = await came(channel, service=SERVICE, program=ACL.name, timeout_s=timeout_s, stop=stop)
    except BaseException:
        await channel.close()
        raise
    if not is_there:
        await channel.close()
        return None
    access = RemoteAccess(channel, timeout_s=settings.grpc_acl_timeout_s)
    stack.push_async_callback(access.aclose)
    if mode:
        _watch_mode(access, mode, server)
    with suppress(TimeoutError):  # without lists nothing is taken and nothing is told, so there is no harm in going on
        async with asyncio.timeout(FIRST_LISTS_S):
            await access.came()
    return access


def _watch_mode(access: RemoteAccess, mode: str, server: str) -> None:
    last = mode

    def look() -> None:
        nonlocal last
        snapshot = access.snapshot
        if snapshot is None or snapshot.rules.mode.value == last:
            return
        last = snapshot.rules.mode.value
        if last != mode:
            log.warning("ORLY_ACL_MODE=%s has no effect here: %s at %s has the mode %s", mode, ACL.name, server, last)

    access.listen(look)
