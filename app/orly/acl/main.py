"""The `orly-acl` console script."""

from collections.abc import Callable

from orly.process.exit_codes import ExitCode
from orly.process.program import run_program

__all__ = ["main"]

_DESCRIPTION = (
    "Decide who may do what for relay processes, by gRPC at ORLY_ACL_LISTEN, until SIGTERM or SIGINT. Configured by "
    "ORLY_* variables; see `orly config`."
)
_EXIT_CODES = (
    "Exit status: 0 stopped as it was told; 2 wrong usage; 69 the address or the data directory is in use, or the "
    "store's service never came; 70 the store failed while serving; 78 a setting must be changed first."
)


def main() -> None:
    """Serve until told to stop; exits with its status (see `ExitCode`)."""
    run_program("orly-acl", description=_DESCRIPTION, exit_codes=_EXIT_CODES, loaded_run=_loaded_run)


def _loaded_run() -> Callable[[], tuple[ExitCode, str]]:
    from orly.acl.run_service import run

    return run


if __name__ == "__main__":
    main()
