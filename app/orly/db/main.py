"""The `orly-db` console script."""

from collections.abc import Callable

from orly.process.exit_codes import ExitCode
from orly.process.program import run_program

__all__ = ["main"]

_DESCRIPTION = (
    "Serve the event store in ORLY_DATA_DIR to other processes by gRPC at ORLY_DB_LISTEN, until SIGTERM or SIGINT. "
    "Configured by ORLY_* variables; see `orly config`."
)
_EXIT_CODES = (
    "Exit status: 0 stopped as it was told; 2 wrong usage; 69 the address or the data directory is in use; "
    "70 the store failed while serving; 78 a setting must be changed first."
)


def main() -> None:
    """Serve until told to stop; exits with its status (see `ExitCode`)."""
    run_program("orly-db", description=_DESCRIPTION, exit_codes=_EXIT_CODES, loaded_run=_loaded_run)


def _loaded_run() -> Callable[[], tuple[ExitCode, str]]:
    from orly.db.run import run

    return run


if __name__ == "__main__":
    main()
