"""The relay as a user starts it: the installed `orly` script as a child process, configured by variables alone."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

__all__ = ["ORLY", "START_S", "STOP_S", "RelayProcess", "clean_environment", "run_orly", "running_relay"]

ORLY: Final = Path(sys.executable).with_name("orly")
"""The console script of the environment that the tests run in."""

START_S: Final = 30.0
"""How long a start may take, recovery of a large store on a busy machine included."""

STOP_S: Final = 20.0
"""How long a stop may take; above the relay's own bound (ORLY_STOP_TIMEOUT)."""

_LISTENING: Final = "listening on "
_POLL_S: Final = 0.01


def clean_environment(home: Path, variables: Mapping[str, str]) -> dict[str, str]:
    """The variables on top of what any process needs; nothing that concerns the relay is inherited."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "TMPDIR") if name in os.environ}
    return {**kept, "HOME": str(home), **variables}


@dataclass(slots=True, kw_only=True)
class RelayProcess:
    """A relay that listens.

    Attributes:
        url: Where clients connect.
        data_dir: Its store.
        killed: It was ended by `kill`, so a clean exit is not to be expected.
    """

    url: str
    data_dir: Path
    child: subprocess.Popen[bytes]
    log_file: Path
    killed: bool = field(default=False)

    @property
    def pid(self) -> int:
        """The process id."""
        return self.child.pid

    @property
    def http_url(self) -> str:
        """The same address for plain HTTP."""
        return self.url.replace("ws://", "http://", 1)

    def logs(self) -> str:
        """What it has logged so far."""
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal and does not wait."""
        self.child.send_signal(number)

    def kill(self) -> None:
        """Ends it without warning (SIGKILL) and waits until it is gone."""
        self.killed = True
        self.child.kill()
        self.child.wait(STOP_S)

    def stop(self, *, within_s: float = STOP_S) -> float:
        """Stops it with SIGTERM, checks that it leaves cleanly within the bound; returns the seconds it took."""
        started = time.monotonic()
        self.signal(signal.SIGTERM)
        try:
            code = self.child.wait(within_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the relay was still there {within_s:g} s after SIGTERM\n{self.logs()}") from None
        assert code == 0, f"the relay left with status {code} after SIGTERM\n{self.logs()}"
        return time.monotonic() - started

    def anonymous_bytes(self) -> int:
        """Memory of its own, without mapped files: what a leak would grow. Read from /proc (Linux)."""
        return self._status_kib("RssAnon") * 1024

    def resident_bytes(self) -> int:
        """All resident memory, pages of the mapped store included. Read from /proc (Linux)."""
        return self._status_kib("VmRSS") * 1024

    def open_sockets(self) -> int:
        """Its open sockets, listeners and internal pairs included. Read from /proc (Linux)."""
        found = 0
        for entry in Path(f"/proc/{self.pid}/fd").iterdir():
            try:
                found += os.readlink(entry).startswith("socket:")
            except FileNotFoundError:
                continue  # closed between the listing and the look
        return found

    def _status_kib(self, name: str) -> int:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1])
        raise AssertionError(f"/proc/{self.pid}/status has no {name}")


@contextmanager
def running_relay(**variables: str) -> Iterator[RelayProcess]:
    """Starts `orly` on a free loopback port, waits until it listens, and stops it with SIGTERM afterwards.

    Args:
        variables: ORLY_* variables; ORLY_DATA_DIR defaults to a directory that is removed afterwards.

    Raises:
        AssertionError: It did not start, did not stop within the bound, left with another status than 0, or logged a
            traceback. On any failure its log is written to standard error.
    """
    with tempfile.TemporaryDirectory(prefix="orly-test-") as scratch:
        home = Path(scratch)
        given = {
            "ORLY_DATA_DIR": str(home / "data"),
            "ORLY_LISTEN": "127.0.0.1",
            "ORLY_PORT": "0",
            **variables,
        }
        log_file = home / "log"
        with log_file.open("wb") as log:
            child = subprocess.Popen(
                [ORLY], env=clean_environment(home, given), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        try:
            url = _await_listening(child, log_file)
            relay = RelayProcess(url=url, data_dir=Path(given["ORLY_DATA_DIR"]), child=child, log_file=log_file)
            yield relay
            if child.returncode is None:
                relay.stop()
            assert relay.killed or child.returncode == 0, f"the relay left with status {child.returncode}"
            assert "Traceback" not in relay.logs(), "the relay logged a traceback"
        except BaseException:
            sys.stderr.write(f"--- log of the relay, pid {child.pid}\n{log_file.read_text(errors='replace')}---\n")
            raise
        finally:
            if child.poll() is None:
                child.kill()
            child.wait()


def _await_listening(child: subprocess.Popen[bytes], log_file: Path) -> str:
    end_s = time.monotonic() + START_S
    while True:
        has_ended = child.poll() is not None
        for line in log_file.read_text(errors="replace").splitlines(keepends=True):
            _, found, url = line.partition(_LISTENING)
            if found and url.endswith("\n"):
                return url.strip()
        assert not has_ended, f"the relay left with status {child.returncode} before it listened"
        assert time.monotonic() < end_s, f"the relay did not listen within {START_S:g} s"
        time.sleep(_POLL_S)


def run_orly(
    *arguments: str | Path,
    data_dir: Path,
    stdin: bytes = b"",
    timeout_s: float = 60.0,
    unprivileged: bool = False,
    variables: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Runs another command of `orly` to its end; the caller looks at `returncode`, `stdout` and `stderr`.

    With `unprivileged` the permissions of files bind it even if the tests run as root.
    """
    bound = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")
    prefix = bound if unprivileged and os.geteuid() == 0 else ()
    with tempfile.TemporaryDirectory(prefix="orly-test-") as scratch:
        return subprocess.run(
            [*prefix, ORLY, *arguments],
            env=clean_environment(Path(scratch), {"ORLY_DATA_DIR": str(data_dir), **(variables or {})}),
            input=stdin,
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )
