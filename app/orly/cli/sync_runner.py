"""What carries out a sync for `orly sync`: this process itself, or a service."""

import asyncio
from collections.abc import Coroutine
from typing import Any, Protocol, TypeVar

from orly.cli.sync_report import SyncReport
from orly.process.exit_codes import ExitCode
from orly.sync.negentropy.request import SyncRequest, SyncResult

__all__ = ["RunError", "Runner", "StoppedError", "until_stopped"]

_T = TypeVar("_T")


class RunError(Exception):
    """A sync cannot begin.

    Attributes:
        code: The exit status; the text is for the operator.
    """

    def __init__(self, code: ExitCode, text: str) -> None:
        super().__init__(text)
        self.code = code


class StoppedError(Exception):
    """We were told to stop."""


class Runner(Protocol):
    """Carries out one sync."""

    async def __call__(self, request: SyncRequest, report: SyncReport, stop: asyncio.Event) -> SyncResult:
        """Do it.

        Args:
            request: What to do.
            report: Told how it goes.
            stop: Set when the process is told to stop.

        Raises:
            RunError: It cannot begin.
            SyncFailedError: It broke off.
            StoreError: The store failed.
            StoppedError: `stop` was set.
        """


async def until_stopped(work: Coroutine[Any, Any, _T], stop: asyncio.Event) -> _T:
    """The result of some work, which is cancelled, and has ended when this returns, once `stop` is set.

    Raises:
        StoppedError: It was, before the work was done.
    """
    working = asyncio.create_task(work)
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([working, stopping], return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise StoppedError
    finally:
        for task in (working, stopping):
            task.cancel()
        await asyncio.gather(working, stopping, return_exceptions=True)
