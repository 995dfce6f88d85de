"""The process that stays: `orly-launcher` becomes this one when everything is checked.

Its arguments are the run directory, whether that is to be removed at the end, and the descriptors it inherits and
keeps: the lock on the directory, and a reserved port if any. The tables of settings are not loaded here; without them
the process takes half the memory.
"""

import logging
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from orly import __version__
from orly.appliance.output import LogOutput
from orly.appliance.plan import CONFIG_FILE, Plan, read_plan
from orly.appliance.supervisor import Appliance, Options
from orly.logs import configure
from orly.process.exit_codes import ExitCode

if TYPE_CHECKING:
    from orly.settings_types import LevelName

__all__ = ["KEEP", "REMOVE", "SERVICE", "main"]

SERVICE = "launcher"
"""The name in the launcher's own lines."""

KEEP = "keep"
REMOVE = "remove"
"""What is to become of the run directory."""

log = logging.getLogger("orly.main")


def main(arguments: Sequence[str]) -> ExitCode:
    """Run what the plan names until it has ended; returns the exit status."""
    run_dir, fate, *fds = arguments
    for fd in fds:
        os.set_inheritable(int(fd), False)
    try:
        return _supervise(Path(run_dir))
    except Exception:
        log.critical("the launcher itself failed; the programs are told to stop", exc_info=True)
        return ExitCode.INTERNAL
    finally:
        if fate == REMOVE:
            shutil.rmtree(run_dir, ignore_errors=True)


def _supervise(run_dir: Path) -> ExitCode:
    plan = read_plan(run_dir)
    try:
        output = LogOutput(_log_fd(plan))
    except OSError as error:
        sys.stderr.write(f"orly-launcher: the log {plan.log_file or 'stream'} cannot be opened: {error.strerror}\n")
        return ExitCode.SETTINGS
    configure(SERVICE, level=cast("LevelName", plan.log_level), format=plan.log_format, raw=output)
    log.info("orly-launcher %s, data in %s, pid %d", __version__, plan.data_dir, os.getpid())
    for note in plan.notes:
        log.warning("%s", note)
    options = Options()
    options.realize(["-c", str(run_dir / CONFIG_FILE)])
    appliance = Appliance(options, plan, run_dir, output)
    appliance.run()
    return appliance.exit_code


def _log_fd(plan: Plan) -> int:
    if not plan.log_file:
        return 1
    return os.open(plan.log_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
