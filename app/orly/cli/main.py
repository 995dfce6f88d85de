"""The `orly` console script: takes charge of streams and signals, then loads what the command needs."""

import os
import signal
import sys

from orly.process.exit_codes import ExitCode
from orly.process.stop_signals import on_stop
from orly.process.streams import occupy_standard_streams, silence_grpc_core

__all__ = ["main"]


def main() -> None:
    """Run the command that the arguments name; exits with its status (see `ExitCode`)."""
    occupy_standard_streams()
    silence_grpc_core()
    on_stop(_leave_before_start)
    from orly.cli.commands import app

    app(prog_name="orly")


def _leave_before_start(number: signal.Signals) -> None:
    """Nothing was done yet that needs an end; a relay that is told to stop has then stopped as it was told."""
    del number
    os._exit(ExitCode.OK if sys.argv[1:] in ([], ["relay"]) else ExitCode.FAILED)
