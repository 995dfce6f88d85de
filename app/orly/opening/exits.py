"""The exit status of a program whose store fails."""

from collections.abc import Iterator
from contextlib import contextmanager

from orly.process.exit_codes import ExitCode
from orly.process.serve import ServiceError
from orly.store.base import StoreError, StoreLockedError, StoreUnavailableError

__all__ = ["store_exits"]


@contextmanager
def store_exits() -> Iterator[None]:
    """Within it, a store that cannot be used or fails ends the program.

    Raises:
        ServiceError: With the status that says whether a restart or another setting helps.
    """
    try:
        yield
    except StoreLockedError as error:
        raise ServiceError(ExitCode.UNAVAILABLE, str(error)) from error
    except StoreUnavailableError as error:
        raise ServiceError(ExitCode.SETTINGS, str(error)) from error
    except StoreError as error:
        raise ServiceError(ExitCode.INTERNAL, str(error)) from error
