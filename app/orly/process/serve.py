"""The life of a program that serves until it is told to stop."""

import asyncio
import logging
import os
import signal
from collections.abc import Awaitable, Callable

import uvloop

from orly import __version__
from orly.logs import LogFileError, configure
from orly.process.collector import settle_collector
from orly.process.exit_codes import ExitCode
from orly.process.memory import keep_freed_memory
from orly.process.stop_signals import on_stop
from orly.settings import Loaded, Settings

__all__ = ["ServiceError", "serve_until_stopped"]

log = logging.getLogger("orly.main")


class ServiceError(Exception):
    """A program cannot go on.

    Attributes:
        code: Its exit status; the text is for the operator.
    """

    def __init__(self, code: ExitCode, text: str) -> None:
        super().__init__(text)
        self.code = code


def serve_until_stopped(
    name: str, loaded: Loaded, serve: Callable[[Settings, asyncio.Event], Awaitable[None]]
) -> tuple[ExitCode, str]:
    """Send the logs where the settings say, and run `serve` until it returns.

    Args:
        name: The program's name, shown in every line it logs.
        loaded: The settings.
        serve: Gets the settings and the event that SIGTERM and SIGINT set; a second signal ends the process at once.
            Raises `ServiceError` when the program cannot go on.

    Returns:
        The exit status, and what to tell the operator if it is not OK.
    """
    settings = loaded.settings
    try:
        configure(
            name,
            level=settings.log_level,
            db_level=settings.db_log_level,
            format=settings.log_format,
            to_stdout=settings.log_to_stdout,
            file=settings.log_file,
        )
    except LogFileError as error:
        return ExitCode.SETTINGS, str(error)
    for warning in loaded.warnings:
        log.warning("%s", warning)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            try:
                runner.run(_serve(name, settings, serve))
            finally:
                on_stop(_nothing_left_to_stop)
    except ServiceError as error:
        return error.code, str(error)
    return ExitCode.OK, ""


async def _serve(name: str, settings: Settings, serve: Callable[[Settings, asyncio.Event], Awaitable[None]]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    on_stop(lambda number: loop.call_soon_threadsafe(_begin_stop, number, stop))
    log.info("%s %s, pid %d", name, __version__, os.getpid())
    settle_collector()
    keep_freed_memory()
    await serve(settings, stop)
    log.info("stopped")


def _begin_stop(number: signal.Signals, stop: asyncio.Event) -> None:
    log.info("%s: stopping; a second signal does not wait", number.name)
    stop.set()


def _nothing_left_to_stop(number: signal.Signals) -> None:
    """The process is about to end as it is."""
    del number
