"""`orly-launcher` as a user starts it, with the real services or with programs that do what a test tells them."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from tests.process import clean_environment, free_port

__all__ = [
    "DEADLINE_S",
    "LAUNCHER",
    "RECORD",
    "Launcher",
    "Steps",
    "await_gone",
    "fake_variables",
    "free_port",
    "is_alive",
    "launcher_variables",
    "launching",
    "run",
]

LAUNCHER: Final = Path(sys.executable).with_name("orly-launcher")
"""The console script of the environment that the tests run in."""

DEADLINE_S: Final = 30.0
"""How long a test waits for what must happen; far beyond what it takes on a loaded machine."""

RECORD: Final = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (?P<service>[a-z0-9-]+) (?P<level>[A-Z]{4,5}) +(?P<logger>\S+) \| "
    r"(?P<message>.*)"
)
"""A line of the log."""

_POLL_S: Final = 0.01
_FAKE: Final = Path(__file__).with_name("fake_program.py")

T = TypeVar("T")

Steps = Sequence[Sequence[str]]


def fake_variables(directory: Path, scripts: Mapping[str, Steps]) -> dict[str, str]:
    """The variables that make a launcher run fake programs with these scripts."""
    path = directory / "fake-program"
    path.write_text(f"#!{sys.executable} -IS\n{_FAKE.read_text()}")
    path.chmod(0o755)
    return {
        "ORLY_LAUNCHER_DB_BINARY": str(path),
        "ORLY_LAUNCHER_RELAY_BINARY": str(path),
        "FAKE": json.dumps(scripts),
    }


@dataclass(slots=True, kw_only=True)
class Launcher:
    """A launcher that was started.

    Attributes:
        child: Its process.
        log_file: What it and its programs write.
        run_dir: Its run directory.
        variables: The ORLY_* variables it was given.
    """

    child: subprocess.Popen[bytes]
    log_file: Path
    run_dir: Path
    variables: Mapping[str, str]

    def logs(self) -> str:
        """All that was written so far."""
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    def lines(self) -> list[str]:
        """Whole lines so far."""
        return self.logs().split("\n")[:-1]

    def messages(self, service: str = "launcher") -> list[str]:
        """What a service has logged."""
        found = [RECORD.fullmatch(line) for line in self.lines()]
        return [match["message"] for match in found if match is not None and match["service"] == service]

    def await_line(self, wanted: str, *, count: int = 1) -> str:
        """The line that holds this text, once there is one, or the n-th of them."""
        return self.await_until(
            lambda: next(iter([line for line in self.lines() if wanted in line][count - 1 :]), None), repr(wanted)
        )

    def await_until(self, look: Callable[[], T | None], awaited: str) -> T:
        """What `look` returns, once that is something."""
        end_s = time.monotonic() + DEADLINE_S
        while True:
            has_ended = self.child.poll() is not None
            if found := look():
                return found
            assert not has_ended, f"the launcher left with {self.child.returncode} before {awaited}\n{self.logs()}"
            assert time.monotonic() < end_s, f"waited {DEADLINE_S:g} s for {awaited}\n{self.logs()}"
            time.sleep(_POLL_S)

    def await_exit(self, *, within_s: float = DEADLINE_S) -> int:
        """Its exit status, once it has ended."""
        try:
            return self.child.wait(within_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the launcher was still there after {within_s:g} s\n{self.logs()}") from None

    def stop(self, *, within_s: float = DEADLINE_S) -> int:
        """Stops it with SIGTERM; returns its exit status."""
        self.child.send_signal(signal.SIGTERM)
        return self.await_exit(within_s=within_s)

    def pid_of(self, process: str, *, count: int = 1) -> int:
        """The id that a process was started with for the n-th time."""
        line = self.await_line(f"| {process} started, pid ", count=count)
        return int(line.rpartition(" ")[2])


@contextmanager
def launching(
    directory: Path, scripts: Mapping[str, Steps] | None = None, *, prefix: Sequence[str] = (), **variables: str
) -> Iterator[Launcher]:
    """Starts a launcher on free ports, and kills what is left of it afterwards.

    Args:
        directory: For its data and its log.
        scripts: What fake programs do; None runs the real ones.
        prefix: A command that runs the launcher.
        variables: On top of ports, directories and one relay worker.
    """
    given = launcher_variables(directory, scripts, variables)
    log_file = directory / "log"
    with log_file.open("wb") as log:
        child = subprocess.Popen(
            [*prefix, LAUNCHER],
            env=clean_environment(directory, given),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    launcher = Launcher(child=child, log_file=log_file, run_dir=Path(given["ORLY_RUN_DIR"]), variables=given)
    try:
        yield launcher
        if child.poll() is None:
            launcher.stop()
    except BaseException:
        sys.stderr.write(f"--- log of the launcher, pid {child.pid}\n{launcher.logs()[-20_000:]}---\n")
        raise
    finally:
        if child.poll() is None:
            child.kill()  # its programs are told to stop when it is gone
        child.wait()


def launcher_variables(
    directory: Path, scripts: Mapping[str, Steps] | None, variables: Mapping[str, str]
) -> dict[str, str]:
    """The variables of a launcher for a test."""
    return {
        "ORLY_DATA_DIR": str(directory / "data"),
        "ORLY_RUN_DIR": str(directory / "run"),
        "ORLY_LISTEN": "127.0.0.1",
        "ORLY_PORT": "0",
        "ORLY_DB_LISTEN": f"127.0.0.1:{free_port()}",
        "ORLY_RELAY_WORKERS": "1",
        **({} if scripts is None else fake_variables(directory, scripts)),
        **variables,
    }


def run(directory: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs a launcher to its end, with nothing but these variables."""
    return subprocess.run(
        [LAUNCHER, *arguments],
        env=clean_environment(directory, variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody has reaped does not. Read from /proc (Linux)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def await_gone(pid: int) -> None:
    """Waits until a process has ended."""
    end_s = time.monotonic() + DEADLINE_S
    while is_alive(pid):
        assert time.monotonic() < end_s, f"process {pid} was still there after {DEADLINE_S:g} s"
        time.sleep(_POLL_S)
