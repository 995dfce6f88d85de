"""Waiting for a service that this program needs, at its start."""

import asyncio
import logging

from orly.process.exit_codes import ExitCode
from orly.process.serve import ServiceError
from orly.rpc.channel import AccessRefusedError, NotReadyError, ServiceChannel, wait_ready

__all__ = ["came"]

log = logging.getLogger("orly.main")


async def came(channel: ServiceChannel, *, service: str, program: str, timeout_s: float, stop: asyncio.Event) -> bool:
    """Whether a service can work; False if we were told to stop before that.

    Args:
        channel: To it.
        service: Its full name in gRPC.
        program: What runs it, for messages.
        timeout_s: How long to wait.
        stop: Set when this program is to end.

    Raises:
        ServiceError: It never could, or does not let us in.
    """
    log.info("waiting for %s at %s", program, channel.target)
    coming = asyncio.create_task(wait_ready(channel, service=service, timeout_s=timeout_s, program=program))
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([coming, stopped], return_when=asyncio.FIRST_COMPLETED)
        if not coming.done():
            return False
        coming.result()
    except AccessRefusedError as error:
        raise ServiceError(ExitCode.SETTINGS, str(error)) from error
    except NotReadyError as error:
        text = f"waited {timeout_s:g} s for {program} at {channel.target}: {error.last}"
        raise ServiceError(ExitCode.UNAVAILABLE, text) from error
    finally:
        for task in (coming, stopped):
            task.cancel()
        await asyncio.gather(coming, stopped, return_exceptions=True)
    return True
