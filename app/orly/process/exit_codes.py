"""What the exit status of a command means; from 64 on the numbers are those of sysexits.h."""

from enum import IntEnum

__all__ = ["ExitCode"]


class ExitCode(IntEnum):
    """Exit status."""

    OK = 0
    """All of it was done."""
    FAILED = 1
    """Some or all of it was not done; what was said on standard error tells which."""
    USAGE = 2
    """The command line cannot be understood."""
    INCOMPLETE = 3
    """It came to its end, but something is missing; what that is was said on standard error."""
    UNAVAILABLE = 69
    """Something this needs is in use or out of reach: the port, the data directory."""
    INTERNAL = 70
    """It failed for good; starting it again may help."""
    SETTINGS = 78
    """A setting, or what it points to, must be changed first."""
