"""`orly sync`: have the same events as another relay."""

import asyncio
import signal
import sys
from typing import Final

import uvloop

from orly import clock
from orly.cli.json_lines import JsonLines
from orly.cli.sync_options import OptionError, SyncOptions
from orly.cli.sync_outcome import Outcome, tell_outcome
from orly.cli.sync_report import SyncReport, sync_report
from orly.cli.sync_request import read_request
from orly.cli.sync_runner import RunError, Runner, StoppedError
from orly.logs import configure
from orly.process.exit_codes import ExitCode
from orly.process.stop_signals import on_stop
from orly.settings import Loaded, Settings
from orly.store.base import StoreError
from orly.sync.negentropy.request import SyncFailedError, SyncProgress, SyncRequest

__all__ = ["run_sync"]

_TICK_S: Final = 1.0
"""How often numbers are shown where there is no bar."""


def run_sync(loaded: Loaded, options: SyncOptions) -> tuple[ExitCode, str]:
    """Sync once; returns the exit status, and what to tell the operator beyond what was shown.

    Args:
        loaded: The settings.
        options: Those of the command line.
    """
    settings = loaded.settings
    try:
        request = read_request(options, settings, clock.now_s())
        runner = _runner(options, settings)
    except OptionError as error:
        return ExitCode.USAGE, str(error)
    except RunError as error:
        return error.code, str(error)
    if sys.stdout is None and (options.as_json or options.print_missing):
        return ExitCode.FAILED, "standard output is closed"
    lines = JsonLines() if options.as_json else None
    started_s = clock.monotonic_s()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
        outcome = loop.run(_sync(runner, request, lines, is_verbose=options.verbose))
    return tell_outcome(outcome, request, lines, elapsed_s=clock.monotonic_s() - started_s)


def _runner(options: SyncOptions, settings: Settings) -> Runner:
    """Who does it.

    Raises:
        OptionError: The options contradict each other.
        RunError: The service may not be called in this way.
    """
    if options.server is not None:
        from orly.cli.sync_remote import remote_runner

        return remote_runner(options, settings)
    from orly.cli.sync_direct import direct_runner

    return direct_runner(options, settings)


async def _sync(runner: Runner, request: SyncRequest, lines: JsonLines | None, *, is_verbose: bool) -> Outcome:
    """Have it done, and tell how it goes."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    on_stop(lambda number: loop.call_soon_threadsafe(stop.set))
    with sync_report(request.direction, lines) as report:
        configure("orly", level="debug" if is_verbose else "warn", raw=_LogStream(report))
        newest = _Newest(report)
        ticking = asyncio.create_task(_tick(report))
        try:
            return await _outcome(runner, request, newest, stop)
        finally:
            ticking.cancel()
            on_stop(_nothing_left_to_stop)


async def _outcome(runner: Runner, request: SyncRequest, newest: "_Newest", stop: asyncio.Event) -> Outcome:
    """What becomes of it."""
    try:
        result = await runner(request, newest, stop)
    except SyncFailedError as error:
        return Outcome(code=ExitCode.FAILED, status="failed", progress=error.progress, problems=(str(error),))
    except StoppedError:
        text = "interrupted; what was done so far stays, and another run goes on there"
        return Outcome(code=ExitCode.FAILED, status="interrupted", progress=newest.value, problems=(text,))
    except RunError as error:
        problems = tuple(str(error).splitlines())
        return Outcome(code=error.code, status="failed", progress=newest.value, problems=problems, began=False)
    except StoreError as error:
        return Outcome(code=ExitCode.FAILED, status="failed", progress=newest.value, problems=(str(error),))
    return Outcome(
        code=ExitCode.OK if result.is_complete else ExitCode.INCOMPLETE,
        status="complete" if result.is_complete else "incomplete",
        progress=result.progress,
        problems=result.problems,
        result=result,
    )


async def _tick(report: SyncReport) -> None:
    while True:
        await asyncio.sleep(_TICK_S)
        report.tick()


class _Newest:
    """A report that remembers the last numbers."""

    def __init__(self, report: SyncReport) -> None:
        self.value = SyncProgress()
        self._report = report

    def progress(self, progress: SyncProgress) -> None:
        self.value = progress
        self._report.progress(progress)

    def tick(self) -> None:
        self._report.tick()

    def say(self, text: str) -> None:
        self._report.say(text)


class _LogStream:
    """Lets log lines pass above the bar instead of through it."""

    def __init__(self, report: SyncReport) -> None:
        self._report = report

    def write(self, data: bytes, /) -> int:
        self._report.say(data.decode().removesuffix("\n"))
        return len(data)


def _nothing_left_to_stop(number: signal.Signals) -> None:
    """The process is about to end as it is."""
    del number
