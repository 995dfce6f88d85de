"""supervisord inside this process: it starts, restarts and stops what the rendered file names.

What supervisor leaves open is decided here: an exit status that no restart helps ends everything, and so do too many
crashes; programs of one priority stop together; a signal or the end of a process is noticed at once.
"""

import logging
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, Final, Literal

from supervisor import events
from supervisor.medusa import asyncore_25 as asyncore
from supervisor.options import ServerOptions
from supervisor.poller import PollPoller
from supervisor.states import ProcessStates, SupervisorStates
from supervisor.supervisord import Supervisor

from orly import clock
from orly.appliance.child import Child, ChildConfig, end_with_parent, how_it_ended
from orly.appliance.crashes import CrashBudget
from orly.appliance.forward import LineForwarder
from orly.appliance.output import LogOutput
from orly.appliance.plan import Plan
from orly.appliance.state_file import ProcessState, write_states
from orly.logs import TRACE
from orly.process.exit_codes import ExitCode
from orly.units import format_duration

__all__ = ["Appliance", "Options"]

log = logging.getLogger(__name__)
_library_log = logging.getLogger("orly.appliance.supervisord")

_STATES: Final[Mapping[int, Literal["up", "down", "stopping", "stopped"]]] = {
    ProcessStates.STARTING: "up",
    ProcessStates.RUNNING: "up",
    ProcessStates.BACKOFF: "down",
    ProcessStates.EXITED: "down",
    ProcessStates.STOPPING: "stopping",
    ProcessStates.STOPPED: "stopped",
    ProcessStates.FATAL: "stopped",
    ProcessStates.UNKNOWN: "stopped",
}
_STEP_S: Final = 1.0
"""How long the loop waits when nothing is due; whatever happens wakes it earlier."""

_STOP_STEP_S: Final = 0.1
"""The same during a stop, when processes that overstay are to be killed."""

_HOPELESS: Final[Mapping[int, str]] = {
    ExitCode.UNAVAILABLE: "something it needs is in use or out of reach",
    ExitCode.SETTINGS: "a setting must be changed first",
}
"""Exit statuses of programs that a restart would only repeat."""


class _LibraryLog:
    """What supervisor takes for its logger; what matters to an operator is said by `Appliance` in our own words."""

    def __init__(self) -> None:
        self.handlers: list[logging.Handler] = []

    def log(self, level: int, msg: str, **values: Any) -> None:
        self._say(logging.DEBUG, msg, values)

    def blather(self, msg: str, **values: Any) -> None:
        self._say(TRACE, msg, values)

    def trace(self, msg: str, **values: Any) -> None:
        self._say(TRACE, msg, values)

    def debug(self, msg: str, **values: Any) -> None:
        self._say(logging.DEBUG, msg, values)

    def info(self, msg: str, **values: Any) -> None:
        self._say(logging.DEBUG, msg, values)

    def warn(self, msg: str, **values: Any) -> None:
        self._say(logging.DEBUG, msg, values)

    def error(self, msg: str, **values: Any) -> None:
        self._say(logging.ERROR, msg, values)

    def critical(self, msg: str, **values: Any) -> None:
        self._say(logging.CRITICAL, msg, values)

    def close(self) -> None:
        """Nothing to close."""

    def _say(self, level: int, msg: str, values: Mapping[str, Any]) -> None:
        if _library_log.isEnabledFor(level):
            _library_log.log(level, "%s", msg % values if values else msg)


class _Alarm:
    """Wakes the loop when a signal arrives; a signal alone does not interrupt a poll in Python."""

    def __init__(self) -> None:
        self.fd, self._far_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._far_fd, warn_on_full_buffer=False)

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def handle_read_event(self) -> None:
        os.read(self.fd, 4096)

    def handle_error(self) -> None:
        """Reading what poll announced does not fail."""


class _Poller(PollPoller):  # type: ignore[misc]  # untyped
    """Waits no longer than until the next process is due."""

    def poll(self, timeout: float) -> Any:
        return super().poll(min(timeout, self.options.host.next_due_s()))


class Options(ServerOptions):  # type: ignore[misc]  # untyped
    """supervisor's options, read from the rendered file.

    Attributes:
        host: Who is told of what happens.
    """

    host: "Appliance"

    def __init__(self) -> None:
        super().__init__()
        self.poller = _Poller(self)
        self.logger = _LibraryLog()
        self.first, self.test = True, False
        self.received: list[int] = []
        self._alarm: _Alarm | None = None
        self._arrange_end: Callable[[], None] = end_with_parent()

    def processes_from_section(self, parser: Any, section: str, group_name: str, klass: Any = None) -> Any:
        """The processes of a section, which are ours."""
        del klass
        return super().processes_from_section(parser, section, group_name, ChildConfig)

    def setpgrp(self) -> None:
        """What a new process does first."""
        super().setpgrp()
        self._arrange_end()

    def setsignals(self) -> None:
        """Notes signals, and wakes the loop; those that came since the launcher began are delivered now."""
        self._alarm = _Alarm()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGCHLD):
            signal.signal(number, self._note)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup
            signal.signal(signal.SIGHUP, self._note)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())

    def get_socket_map(self) -> dict[int, _Alarm]:
        """What the loop reads besides the output of processes."""
        return {} if self._alarm is None else {self._alarm.fd: self._alarm}

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        if number != signal.SIGCHLD:
            self.received.append(number)


class Appliance(Supervisor):  # type: ignore[misc]  # untyped
    """Runs the programs until it is told to stop, or one of them fails for good.

    Args:
        options: Read from the rendered file.
        plan: What the file was rendered from.
        run_dir: Where the state of the processes is written.
        output: Where the log goes.

    Attributes:
        exit_code: How this ends.
        is_stopping: No program is started any more.
    """

    def __init__(self, options: Options, plan: Plan, run_dir: Path, output: LogOutput) -> None:
        super().__init__(options)
        options.host = self
        self._plan = plan
        self._run_dir = run_dir
        self._output = output
        self._budget = CrashBudget(limit=plan.crash_limit, window_s=plan.crash_window_s)
        self._stop_signals = 0
        self._announced: set[str] = set()
        self.exit_code = ExitCode.OK

    @property
    def is_stopping(self) -> bool:
        """No program is started any more."""
        return bool(self.options.mood < SupervisorStates.RUNNING)

    def run(self) -> None:
        """Starts everything; returns when all of it has ended."""
        events.clear()
        events.subscribe(events.ProcessStateEvent, self._changed)
        for config in self.options.process_group_configs:
            self.add_process_group(config)
        self.options.setsignals()
        try:
            self.runforever()
        except asyncore.ExitNow:
            log.info("stopped")
        finally:
            events.clear()

    # --- what processes ask

    def forwarder(self, process: str, program: str) -> LineForwarder:
        """Where a process's output goes."""
        return LineForwarder(
            process=process,
            program=program,
            format=self._plan.log_format,
            write=self._output.write,
            is_silent=self._plan.log_level == "off",
        )

    def started(self, child: Child) -> None:
        """A process was started."""
        log.info("%s started, pid %d", child.name, child.pid)
        self._write_states()

    def killing(self, child: Child) -> None:
        """A process is about to be killed."""
        if self._stop_signals > 1:
            log.warning("%s is killed", child.name)
        else:
            log.warning("%s did not stop within %d s and is killed", child.name, child.config.stopwaitsecs)

    def next_due_s(self) -> float:
        """How long the loop may wait: until a process is to be started, or killed."""
        if self.is_stopping:
            return _STOP_STEP_S
        now_s = clock.monotonic_s()
        due_s = [child.not_before_s - now_s for child in self._children() if child.is_waiting or not child.laststart]
        return max(0.0, min(due_s, default=_STEP_S))

    # --- what happens

    def handle_signal(self) -> None:
        """Stops in order on the first signal; the second kills."""
        self._tell_of_dropped_lines()
        while self.options.received:
            number = signal.Signals(self.options.received.pop(0))
            self._stop_signals += 1
            if self._stop_signals == 1:
                log.info("%s: stopping; a second signal does not wait", number.name)
                self.options.mood = SupervisorStates.SHUTDOWN
                continue
            log.warning("%s: not waiting any longer", number.name)
            self.exit_code = self.exit_code or ExitCode.FAILED
            for child in self._children():
                child.end_now()

    def ordered_stop_groups_phase_1(self) -> None:
        """Tells the programs of the highest priority that still run to stop, all at once."""
        last = self.stop_groups[-1].config.priority if self.stop_groups else None
        for group in self.stop_groups:
            name = str(group.config.name)
            if group.config.priority == last and name not in self._announced:
                self._announced.add(name)
                if running := [child.name for child in group.processes.values() if child.pid]:
                    log.info("stopping %s", ", ".join(running))
            if group.config.priority == last:
                group.stop_all()

    def _changed(self, event: events.ProcessStateEvent) -> None:
        child: Child = event.process
        if not self.is_stopping:
            match child.state:
                case ProcessStates.EXITED | ProcessStates.BACKOFF:
                    self._ended_unasked(child)
                case ProcessStates.FATAL | ProcessStates.UNKNOWN:
                    self._give_up(ExitCode.INTERNAL, f"{child.name} failed to start too often")
        elif child.state == ProcessStates.STOPPED:
            log.info("%s stopped: it %s", child.name, how_it_ended(child.wait_status))
        elif child.is_waiting:
            log.warning("%s %s", child.name, how_it_ended(child.wait_status))
        self._write_states()

    def _ended_unasked(self, child: Child) -> None:
        how = how_it_ended(child.wait_status)
        if child.wait_status is None:
            how = f"{how}: {child.spawnerr}" if child.spawnerr else how
        elif os.WIFEXITED(child.wait_status) and (reason := _HOPELESS.get(os.WEXITSTATUS(child.wait_status))):
            self._give_up(ExitCode(os.WEXITSTATUS(child.wait_status)), f"{child.name} {how}: {reason}")
            return
        crash = self._budget.record(child.program, clock.monotonic_s())
        within = f"{crash.count} of {self._budget.limit} within {format_duration(self._budget.window_s)}"
        if crash.is_over:
            self._give_up(ExitCode.INTERNAL, f"{child.name} {how}, once too often ({within})")
            return
        log.warning("%s %s; it is started again in %.1f s (%s)", child.name, how, crash.pause_s, within)
        child.not_before_s = clock.monotonic_s() + crash.pause_s

    def _give_up(self, code: ExitCode, why: str) -> None:
        log.error("%s; everything is stopped", why)
        self.exit_code = code
        self.options.mood = SupervisorStates.SHUTDOWN

    def _children(self) -> list[Child]:
        return [child for group in self.process_groups.values() for child in group.processes.values()]

    def _write_states(self) -> None:
        states = [
            ProcessState(
                name=child.name, program=child.program, state=_STATES[child.state], pid=child.pid, since=child.since
            )
            for child in self._children()
        ]
        try:
            write_states(self._run_dir, states)
        except OSError as error:
            log.warning("the state of the processes cannot be written to %s: %s", self._run_dir, error.strerror)

    def _tell_of_dropped_lines(self) -> None:
        if count := self._output.take_dropped():
            log.warning("%d lines were dropped because nobody read the log", count)
