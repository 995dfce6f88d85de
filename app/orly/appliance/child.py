"""supervisor's processes, made ours: whole log lines, real exit statuses, and an end with the launcher's.

supervisor carries no types; what is overridden here is part of its documented structure since version 3.
"""

import ctypes
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, Protocol

from supervisor.dispatchers import PDispatcher, PInputDispatcher
from supervisor.options import ProcessConfig
from supervisor.process import Subprocess
from supervisor.states import ProcessStates

from orly import clock
from orly.appliance.forward import LineForwarder

__all__ = ["Child", "ChildConfig", "Host", "end_with_parent", "how_it_ended"]

_PR_SET_PDEATHSIG: Final = 1
_MOST_READS: Final = 64
"""Of the output that a dead process left: a pipe holds less, unless something still fills it."""


class Host(Protocol):
    """What processes need of the supervising process."""

    is_stopping: bool

    def forwarder(self, process: str, program: str) -> LineForwarder:
        """Where a process's output goes."""

    def started(self, child: "Child") -> None:
        """A process was started."""

    def killing(self, child: "Child") -> None:
        """A process is about to be killed: its time to stop is up, or there is none."""


class _LineDispatcher(PDispatcher):  # type: ignore[misc]  # untyped
    """Hands the output of one process on in whole lines."""

    def __init__(self, process: "Child", fd: int, forwarder: LineForwarder) -> None:
        super().__init__(process, "stdout", fd)
        self._forwarder = forwarder

    def readable(self) -> bool:
        return not self.closed

    def writable(self) -> bool:
        return False

    def handle_read_event(self) -> None:
        data = self.process.config.options.readfd(self.fd)
        if data:
            self._forwarder.feed(data)
        else:
            self.close()

    def read_rest(self) -> None:
        """Reads what a dead process left."""
        for _ in range(_MOST_READS):
            if self.closed:
                break
            self.handle_read_event()
        self._forwarder.finish()


class Child(Subprocess):  # type: ignore[misc]  # untyped
    """A process.

    Attributes:
        wait_status: How its last life ended, as `os.waitpid` tells it; None if it could not be started.
        not_before_s: It is not started again before this time (`clock.monotonic_s`).
        since: When it was started or ended last, in Unix seconds.
    """

    def __init__(self, config: "ChildConfig") -> None:
        super().__init__(config)
        self.wait_status: int | None = None
        self.not_before_s = 0.0
        self.since = clock.now()

    @property
    def name(self) -> str:
        """What it is called."""
        return str(self.config.name)

    @property
    def program(self) -> str:
        """What its program is called."""
        return str(self.group.config.name)

    @property
    def is_waiting(self) -> bool:
        """Whether it ended and is to be started again."""
        return self.state in (ProcessStates.EXITED, ProcessStates.BACKOFF)

    @property
    def host(self) -> Host:
        """The supervising process."""
        host: Host = self.config.options.host
        return host

    def spawn(self) -> int | None:
        """Starts it; returns its process id, or None when that failed."""
        self.wait_status = None
        pid: int | None = super().spawn()
        if pid:
            self.since = clock.now()
            self.host.started(self)
        return pid

    def transition(self) -> None:
        """Takes the next step that is due; a pause after a crash is ours to decide, not that of supervisor."""
        if self.is_waiting and not self.host.is_stopping:
            if clock.monotonic_s() < self.not_before_s:
                return
            self.delay = 0
        super().transition()

    def drain(self) -> None:
        """Hands on what it wrote before it ended."""
        for dispatcher in self.dispatchers.values():
            if isinstance(dispatcher, _LineDispatcher):
                dispatcher.read_rest()

    def finish(self, pid: int, status: int) -> None:
        """It has ended: what it left behind in its process group ends too, or it would hold ports and files."""
        self.wait_status = status
        self.since = clock.now()
        with suppress(ProcessLookupError, PermissionError):  # as a rule there is nothing left
            os.killpg(pid, signal.SIGKILL)
        super().finish(pid, status)

    def end_now(self) -> None:
        """Kills it, if it runs."""
        if not self.pid:
            return
        if self.state != ProcessStates.STOPPING:
            self.stop()
        self.kill(signal.SIGKILL)

    def kill(self, sig: int) -> str | None:
        """Sends a signal that is to end it."""
        if sig == signal.SIGKILL and self.pid:
            self.host.killing(self)
        message: str | None = super().kill(sig)
        return message


class ChildConfig(ProcessConfig):  # type: ignore[misc]  # untyped
    """The configuration of a process, which makes it one of ours."""

    def make_process(self, group: Any = None) -> Child:
        """The process."""
        process = Child(self)
        process.group = group
        return process

    def make_dispatchers(self, proc: Child) -> tuple[dict[int, PDispatcher], dict[str, int | None]]:
        """The pipes to a process about to start, and what serves them; no log file of supervisor's is opened."""
        pipes = self.options.make_pipes(stderr=not self.redirect_stderr)
        dispatchers: dict[int, PDispatcher] = {
            pipes[channel]: _LineDispatcher(proc, pipes[channel], proc.host.forwarder(proc.name, proc.program))
            for channel in ("stdout", "stderr")
            if pipes[channel] is not None
        }
        if pipes["stdin"] is not None:
            dispatchers[pipes["stdin"]] = PInputDispatcher(proc, "stdin", pipes["stdin"])
        return dispatchers, pipes


def end_with_parent() -> Callable[[], None]:
    """What a new process calls to be told to stop when the supervising process dies without a word (Linux)."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    parent = os.getpid()

    def arrange() -> None:
        if prctl is None:
            return
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)

    return arrange


def how_it_ended(status: int | None) -> str:
    """A wait status in words; None is a process that could not be started."""
    if status is None:
        return "could not be started"
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        try:
            return f"was ended by {signal.Signals(number).name}"
        except ValueError:
            return f"was ended by signal {number}"
    return f"left with exit status {os.waitstatus_to_exitcode(status)}"
