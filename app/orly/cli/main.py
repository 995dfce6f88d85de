"""The `orly` console script: takes charge of streams and signals, then loads what the command needs."""

import os
import signal
import sys

from orly.cli.exit_codes import ExitCode
from orly.cli.stop_signals import on_stop

__all__ = ["main"]


def main() -> None:
    """Run the command that the arguments name; exits with its status (see `ExitCode`)."""
    _occupy_standard_streams()
    on_stop(_leave_before_start)
    from orly.cli.commands import app

    app(prog_name="orly")


def _occupy_standard_streams() -> None:
    """Open the null device for standard streams that are closed.

    Otherwise the next file that is opened would take their place, be it the database: whatever writes to standard
    error would then write into it, and libuv aborts when it closes such a descriptor.
    """
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one


def _leave_before_start(number: signal.Signals) -> None:
    """Nothing was done yet that needs an end; a relay that is told to stop has then stopped as it was told."""
    del number
    os._exit(ExitCode.OK if sys.argv[1:] in ([], ["relay"]) else ExitCode.FAILED)
