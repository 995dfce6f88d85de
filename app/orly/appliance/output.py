"""Where all processes' log lines go: one stream, whole lines, and never a stop that waits for a reader."""

import os
import select
import stat
from typing import Final

__all__ = ["LogOutput"]

_PATIENCE_S: Final = 2.0
"""How long a reader may stand still before lines are dropped; less than a service may need to answer."""

_CHUNK_BYTES: Final = 4096
"""What a pipe that is ready takes without blocking."""


class LogOutput:
    """Writes whole lines to a descriptor; drops them, and counts them, when its reader stands still.

    A process that cannot write its log waits, and every process of the appliance logs through here: a log that nobody
    reads must not stop the relay, nor the stop itself. A reader that is gone drops lines as well.

    Args:
        fd: Where to; it may block.
        patience_s: How long to wait for the reader.

    Attributes:
        dropped_lines: Those lost since the last `take_dropped`.
    """

    def __init__(self, fd: int, *, patience_s: float = _PATIENCE_S) -> None:
        self._fd = fd
        self._patience_s = patience_s
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)
        self._may_block = not stat.S_ISREG(os.fstat(fd).st_mode)
        self._is_torn = False
        self.dropped_lines = 0

    def write(self, data: bytes) -> int:
        """Writes lines that end with a line break; returns their length, whatever became of them."""
        if data:
            mend = b"\n" if self._is_torn else b""
            rest = memoryview(mend + data)
            patience_s = 0.0 if self.dropped_lines else self._patience_s
            written = self._write(rest, patience_s)
            if written < len(rest):
                self.dropped_lines += bytes(rest[max(written, len(mend)) :]).count(b"\n")
                self._is_torn = rest[written - 1] != ord("\n") if written else self._is_torn
            else:
                self._is_torn = False
        return len(data)

    def take_dropped(self) -> int:
        """How many lines were lost, once the reader is back; 0 as long as it is not."""
        if not self.dropped_lines or any(events & select.POLLERR for _, events in self._poll.poll(0)):
            return 0
        if not self._is_ready(0):
            return 0
        count, self.dropped_lines = self.dropped_lines, 0
        return count

    def _write(self, rest: memoryview, patience_s: float) -> int:
        """How many bytes could be written."""
        done = 0
        chunk = _CHUNK_BYTES if self._may_block else len(rest)
        try:
            while done < len(rest) and self._is_ready(patience_s):
                done += os.write(self._fd, rest[done : done + chunk])
        except OSError:
            return done
        return done

    def _is_ready(self, patience_s: float) -> bool:
        return not self._may_block or bool(self._poll.poll(patience_s * 1000))
