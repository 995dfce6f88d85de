"""The `orly-sync-negentropy` console script: takes charge of streams and signals, then loads what it needs."""

import argparse
import os
import signal
import sys

from orly import __version__
from orly.process.exit_codes import ExitCode
from orly.process.stop_signals import on_stop
from orly.process.streams import occupy_standard_streams, silence_grpc_core, tell

__all__ = ["main"]

_NAME = "orly-sync-negentropy"
_DESCRIPTION = (
    "Reconcile sets of events (NIP-77) for relay processes, and sync with other relays, by gRPC at "
    "ORLY_SYNC_NEGENTROPY_LISTEN, until SIGTERM or SIGINT. Configured by ORLY_* variables; see `orly config`."
)
_EXIT_CODES = (
    "Exit status: 0 stopped as it was told; 2 wrong usage; 69 the address or the data directory is in use, or the "
    "store's service never came; 70 the store failed while serving; 78 a setting must be changed first."
)


def main() -> None:
    """Serve until told to stop; exits with its status (see `ExitCode`)."""
    occupy_standard_streams()
    silence_grpc_core()
    on_stop(_leave_before_start)
    parser = argparse.ArgumentParser(prog=_NAME, description=_DESCRIPTION, epilog=_EXIT_CODES, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"{_NAME} {__version__}")
    parser.parse_args()
    from orly.sync.negentropy.run_service import run

    code, text = run()
    for line in text.splitlines():
        tell(f"{_NAME}: {line}")
    sys.exit(code)


def _leave_before_start(number: signal.Signals) -> None:
    """Nothing was done yet that needs an end."""
    del number
    os._exit(ExitCode.OK)


if __name__ == "__main__":
    main()
