"""The main function of a service's console script."""

import argparse
import os
import signal
import sys
from collections.abc import Callable

from orly import __version__
from orly.process.exit_codes import ExitCode
from orly.process.stop_signals import on_stop
from orly.process.streams import occupy_standard_streams, silence_grpc_core, tell

__all__ = ["run_program"]


def run_program(
    name: str, *, description: str, exit_codes: str, loaded_run: Callable[[], Callable[[], tuple[ExitCode, str]]]
) -> None:
    """Take charge of streams and signals, then load what the program needs and serve; exits with its status.

    Args:
        name: The program's.
        description: What it is for, in its help.
        exit_codes: What its exit statuses mean, likewise.
        loaded_run: Imports the rest, and gives the function that serves until told to stop; that returns the exit
            status, and what to tell the operator if it is not OK.
    """
    occupy_standard_streams()
    silence_grpc_core()
    on_stop(_leave_before_start)
    parser = argparse.ArgumentParser(prog=name, description=description, epilog=exit_codes, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"{name} {__version__}")
    parser.parse_args()
    code, text = loaded_run()()
    for line in text.splitlines():
        tell(f"{name}: {line}")
    sys.exit(code)


def _leave_before_start(number: signal.Signals) -> None:
    """Nothing was done yet that needs an end."""
    del number
    os._exit(ExitCode.OK)
