"""`orly` without a command: serve until told to stop."""

import asyncio
import logging
import os
import signal

import uvloop

from orly import __version__
from orly.cli.collector import settle_collector
from orly.cli.exit_codes import ExitCode
from orly.cli.open_store import open_store
from orly.cli.stop_signals import on_stop
from orly.logs import LogFileError, configure
from orly.relay.relay import run_relay
from orly.relay.server import ServeError
from orly.settings import Loaded, Settings
from orly.store.base import StoreError, StoreLockedError, StoreUnavailableError

__all__ = ["run"]

log = logging.getLogger("orly.main")


def run(loaded: Loaded) -> tuple[ExitCode, str]:
    """Serve; returns the exit status and what to tell the operator if it is not OK."""
    settings = loaded.settings
    try:
        configure(
            "orly",
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
                runner.run(_serve(settings))
            finally:
                on_stop(_nothing_left_to_stop)
    except ServeError as error:
        return ExitCode.UNAVAILABLE, str(error)
    except StoreLockedError as error:
        return ExitCode.UNAVAILABLE, str(error)
    except StoreUnavailableError as error:
        return ExitCode.SETTINGS, str(error)
    except StoreError as error:
        return ExitCode.INTERNAL, str(error)
    return ExitCode.OK, ""


async def _serve(settings: Settings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    store = await open_store(settings)
    try:
        on_stop(lambda number: loop.call_soon_threadsafe(_begin_stop, number, stop))
        log.info("orly %s, data in %s, pid %d", __version__, settings.data_dir, os.getpid())
        _warn_of_unknown_url(settings)
        settle_collector()
        await run_relay(settings, store, stop=stop, on_listening=_announce)
    finally:
        await store.close()
    log.info("stopped")


def _begin_stop(number: signal.Signals, stop: asyncio.Event) -> None:
    log.info("%s: stopping; a second signal does not wait for clients", number.name)
    stop.set()


def _nothing_left_to_stop(number: signal.Signals) -> None:
    """The process is about to end as it is."""
    del number


def _announce(url: str) -> None:
    log.info("listening on %s", url)


def _warn_of_unknown_url(settings: Settings) -> None:
    if not settings.relay_url and (settings.auth_required or settings.auth_to_write):
        log.warning(
            "ORLY_RELAY_URL is not set: whatever Host a client names is taken for ours when it authenticates, "
            "so another relay could pass its users' proofs on to this one"
        )
