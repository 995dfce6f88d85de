"""The standard streams of a process, which may have been started without them, and lose their reader."""

import os
import sys

__all__ = ["occupy_standard_streams", "silence_grpc_core", "tell"]


def occupy_standard_streams() -> None:
    """Open the null device for standard streams that are closed.

    Otherwise the next file that is opened would take their place, be it the database: whatever writes to standard
    error would then write into it, and libuv aborts when it closes such a descriptor.
    """
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one


def silence_grpc_core() -> None:
    """Keep gRPC's C library off standard error, unless the environment wants it there; before gRPC is imported.

    It writes lines of its own, past any log settings, and one for each failed handshake: anybody who reaches the port
    could fill the log.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # noqa: TID251 - read by the library, not by us


def tell(text: str) -> None:
    """Write a line to standard error; if nobody can read it any more, the work goes on without."""
    if sys.stderr is None:
        return
    try:
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()
    except OSError:
        # What could not be written stays in the stream's buffer; failing on it again would spoil the exit status.
        null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        os.dup2(null, sys.stderr.fileno())
        os.close(null)
