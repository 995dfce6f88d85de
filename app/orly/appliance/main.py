"""The `orly-launcher` console script: settings, checks, rendering; then it becomes the process that supervises."""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from orly import __version__
from orly.process.cores import available_cores
from orly.process.exit_codes import ExitCode
from orly.process.stop_signals import STOP_SIGNALS, on_stop
from orly.process.streams import occupy_standard_streams

if TYPE_CHECKING:
    from orly.appliance.plan import Plan
    from orly.settings import Loaded

__all__ = ["main"]

_NAME: Final = "orly-launcher"
_ABOUT: Final = """Run the relay as several processes: the event store, and relay workers that share the port.
What crashes is started again; SIGTERM stops everything in order; all of it logs to standard output.
Configured by ORLY_* variables (see `orly config`)."""
_EXIT_CODES: Final = (
    "Exit status: 0 stopped as it was told; 1 stopped by a second signal; 2 wrong usage; 69 a port, an address or a "
    "directory is in use, or a program never got what it needs; 70 a program crashed too often; 78 a setting must be "
    "changed first."
)


class _Refusal(Exception):
    """The programs cannot be started.

    Attributes:
        code: The exit status.
        lines: What there is to say.
    """

    def __init__(self, code: ExitCode, lines: Sequence[str]) -> None:
        super().__init__("\n".join(lines))
        self.code = code
        self.lines = lines


def main() -> None:
    """Run everything until told to stop; exits with its status (see `ExitCode`)."""
    occupy_standard_streams()
    on_stop(_leave_before_start)
    try:
        _run(_parse(sys.argv[1:]))
    except _Refusal as refusal:
        for line in refusal.lines:
            sys.stderr.write(f"{_NAME}: {line}\n")
        sys.exit(refusal.code)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=_NAME, description=_ABOUT, epilog=_EXIT_CODES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"{_NAME} {__version__}")
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--check", action="store_true", help="look whether all of it could start, and exit")
    group.add_argument("--render-only", action="store_true", help="print supervisord.conf and exit")
    return parser.parse_args(arguments)


def _run(wanted: argparse.Namespace) -> None:
    loaded = _load()
    if wanted.render_only:
        sys.stdout.write(_rendered(loaded))
        return
    _check(loaded)
    if not wanted.check:
        _become_supervisor(loaded)


def _load() -> "Loaded":
    from orly.settings import SettingsError, load

    try:
        return load()
    except SettingsError as error:
        raise _Refusal(ExitCode.SETTINGS, error.problems) from None


def _rendered(loaded: "Loaded") -> str:
    """The configuration for another supervisor; it tells the programs what we would tell them."""
    from orly.appliance.planning import children_environment, make_plan
    from orly.appliance.render import render, unusable_value

    plan = make_plan(loaded, cores=available_cores(), port=loaded.settings.port)
    told = children_environment(loaded, plan, port=loaded.settings.port)
    problems = [f"{name}={value}: {why}" for name, value in told.items() if (why := unusable_value(value))]
    if problems:
        raise _Refusal(ExitCode.SETTINGS, problems)
    return render(plan, told)


def _check(loaded: "Loaded") -> None:
    from orly.appliance.checks import find_problems, worst

    if problems := find_problems(loaded.settings):
        raise _Refusal(worst(problems), [problem.text for problem in problems])


def _become_supervisor(loaded: "Loaded") -> NoReturn:
    """Write what the supervising process reads, and become it: same process id, a third of the modules.

    Signals that come in between wait until it listens to them.
    """
    from orly.appliance.checks import reserve_port
    from orly.appliance.planning import children_environment, make_plan
    from orly.appliance.run_dir import default_run_dir

    settings = loaded.settings
    kept = []
    port = settings.port
    if port == 0:
        holder = reserve_port(settings)
        port = int(holder.getsockname()[1])
        kept.append(holder.detach())
    plan = make_plan(loaded, cores=available_cores(), port=port)
    is_named = settings.run_dir is not None
    run_dir = settings.run_dir or default_run_dir(settings.data_dir)
    kept.append(_occupy(run_dir, plan, is_named=is_named))
    told = children_environment(loaded, plan, port=port) | {"ORLY_RUN_DIR": str(run_dir)}
    for fd in kept:
        os.set_inheritable(fd, True)
    arguments = [str(run_dir), "keep" if is_named else "remove", *map(str, kept)]
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    os.execve(  # noqa: S606  (this interpreter, without a shell)
        sys.executable,
        [sys.executable, "-P", "-m", "orly.appliance.supervise", *arguments],
        {**os.environ, **told},  # noqa: TID251  (handed on, not read)
    )


def _occupy(run_dir: Path, plan: "Plan", *, is_named: bool) -> int:
    """Take the run directory and fill it; returns the descriptor of its lock."""
    from orly.appliance.plan import CONFIG_FILE, write_plan
    from orly.appliance.render import render
    from orly.appliance.run_dir import RunDirError, RunDirInUse, lock, prepare
    from orly.appliance.state_file import write_states

    try:
        prepare(run_dir, is_named=is_named)
        lock_fd = lock(run_dir)
    except RunDirInUse as error:
        raise _Refusal(ExitCode.UNAVAILABLE, [str(error)]) from None
    except RunDirError as error:
        raise _Refusal(ExitCode.SETTINGS, [str(error)]) from None
    try:
        write_plan(run_dir, plan)
        write_states(run_dir, ())
        (run_dir / CONFIG_FILE).write_text(render(plan), encoding="utf-8")
    except OSError as error:
        text = f"the run directory {run_dir} cannot be written to: {error.strerror or error}"
        raise _Refusal(ExitCode.SETTINGS, [text]) from None
    return lock_fd


def _leave_before_start(number: signal.Signals) -> None:
    """Nothing was started yet."""
    del number
    os._exit(ExitCode.OK)
