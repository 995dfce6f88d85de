"""The programs as a user starts them: installed scripts as child processes, configured by variables alone."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from typing import Final

__all__ = [
    "ORLY",
    "ORLY_ACL",
    "ORLY_DB",
    "ORLY_SYNC",
    "START_S",
    "STOP_S",
    "AclProcess",
    "DbProcess",
    "Program",
    "RelayProcess",
    "SyncProcess",
    "clean_environment",
    "free_port",
    "run_orly",
    "running_acl",
    "running_db",
    "running_relay",
    "running_sync",
    "running_worker",
    "shared_port",
]

ORLY: Final = Path(sys.executable).with_name("orly")
"""The console script of the environment that the tests run in."""

ORLY_DB: Final = ORLY.with_name("orly-db")
ORLY_ACL: Final = ORLY.with_name("orly-acl")
ORLY_SYNC: Final = ORLY.with_name("orly-sync-negentropy")

START_S: Final = 30.0
"""How long a start may take, recovery of a large store on a busy machine included."""

STOP_S: Final = 20.0
"""How long a stop may take; above the relay's own bound (ORLY_STOP_TIMEOUT)."""

_LISTENING: Final = "listening on "
_POLL_S: Final = 0.01

_FIRST_PORT: Final = 20_000
_END_PORT: Final = 32_000
_PORT_SHARES: Final = 8


def clean_environment(home: Path, variables: Mapping[str, str]) -> dict[str, str]:
    """The variables on top of what any process needs; nothing that concerns the relay is inherited."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "TMPDIR") if name in os.environ}
    return {**kept, "HOME": str(home), **variables}


def _ports() -> Iterator[int]:
    """Ports that no connection is given (on Linux: below 32768), other ones for each pytest worker, over and over."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _PORT_SHARES
    share = range(_FIRST_PORT + worker, _END_PORT, _PORT_SHARES)
    return islice(cycle(share), os.getpid() % len(share), None)


_PORTS: Final = _ports()


def free_port() -> int:
    """A TCP port that nobody listens on now, for a program that is told where to listen.

    A connection made meanwhile, by whatever runs beside it, does not take it away.
    """
    for port in islice(_PORTS, (_END_PORT - _FIRST_PORT) // _PORT_SHARES):
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
        return port
    raise AssertionError(f"no port from {_FIRST_PORT} to {_END_PORT} is free")


@contextmanager
def shared_port() -> Iterator[int]:
    """A TCP port of the loopback address that is kept for programs which share it (SO_REUSEPORT)."""
    with socket.socket() as keeper:
        keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        keeper.bind(("127.0.0.1", 0))
        yield int(keeper.getsockname()[1])


@dataclass(slots=True, kw_only=True)
class Program:
    """A program that serves.

    Attributes:
        data_dir: The store, as its settings have it.
        killed: It was ended by `kill`, so a clean exit is not to be expected.
    """

    child: subprocess.Popen[bytes]
    data_dir: Path
    log_file: Path
    killed: bool = field(default=False)

    @property
    def pid(self) -> int:
        """The process id."""
        return self.child.pid

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
            raise AssertionError(f"it was still there {within_s:g} s after SIGTERM\n{self.logs()}") from None
        assert code == 0, f"it left with status {code} after SIGTERM\n{self.logs()}"
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


@dataclass(slots=True, kw_only=True)
class RelayProcess(Program):
    """A relay that listens.

    Attributes:
        url: Where clients connect.
    """

    url: str

    @property
    def http_url(self) -> str:
        """The same address for plain HTTP."""
        return self.url.replace("ws://", "http://", 1)


@dataclass(slots=True, kw_only=True)
class DbProcess(Program):
    """An `orly-db` that listens.

    Attributes:
        address: What its callers name in ORLY_GRPC_SERVER.
    """

    address: str
    respawn: Callable[[], subprocess.Popen[bytes]]

    def start_again(self) -> None:
        """Starts it anew after `kill`, and does not wait until it listens."""
        assert self.child.returncode is not None, "it is still there"
        self.child = self.respawn()
        self.killed = False


@dataclass(slots=True, kw_only=True)
class AclProcess(Program):
    """An `orly-acl` that listens.

    Attributes:
        address: What its callers name in ORLY_GRPC_ACL_SERVER.
    """

    address: str
    respawn: Callable[[], subprocess.Popen[bytes]]

    def start_again(self) -> None:
        """Starts it anew after `kill`, and does not wait until it listens."""
        assert self.child.returncode is not None, "it is still there"
        self.child = self.respawn()
        self.killed = False


@dataclass(slots=True, kw_only=True)
class SyncProcess(Program):
    """An `orly-sync-negentropy` that listens.

    Attributes:
        address: What its callers name in ORLY_GRPC_SYNC_NEGENTROPY.
    """

    address: str


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
        given = {"ORLY_DATA_DIR": str(home / "data"), "ORLY_LISTEN": "127.0.0.1", "ORLY_PORT": "0", **variables}
        child = _spawn(ORLY, home, given)
        relay = RelayProcess(url="", data_dir=Path(given["ORLY_DATA_DIR"]), child=child, log_file=home / "log")
        with _watched(relay):
            relay.url = _await_listening(relay)
            yield relay


@contextmanager
def running_db(*, address: str = "", **variables: str) -> Iterator[DbProcess]:
    """Starts `orly-db`, waits until it listens, and stops it with SIGTERM afterwards; see `running_relay`.

    Args:
        address: Where it listens; empty is a Unix socket of its own.
        variables: ORLY_* variables; ORLY_DATA_DIR defaults to a directory that is removed afterwards.
    """
    with tempfile.TemporaryDirectory(prefix="orly-test-") as scratch:
        home = Path(scratch)
        where = address or f"unix:{home}/db"
        given = {"ORLY_DATA_DIR": str(home / "data"), "ORLY_DB_LISTEN": where, **variables}
        db = DbProcess(
            address=where,
            data_dir=Path(given["ORLY_DATA_DIR"]),
            child=_spawn(ORLY_DB, home, given),
            log_file=home / "log",
            respawn=lambda: _spawn(ORLY_DB, home, given),
        )
        with _watched(db):
            _await_listening(db)
            yield db


@contextmanager
def running_acl(db: DbProcess, *, address: str = "", **variables: str) -> Iterator[AclProcess]:
    """Starts `orly-acl` on an `orly-db`, waits until it listens, and stops it afterwards; see `running_relay`.

    Args:
        db: Keeps its lists.
        address: Where it listens; empty is a Unix socket of its own.
        variables: ORLY_* variables.
    """
    with tempfile.TemporaryDirectory(prefix="orly-test-") as scratch:
        home = Path(scratch)
        where = address or f"unix:{home}/acl"
        given = {"ORLY_DB_TYPE": "grpc", "ORLY_GRPC_SERVER": db.address, "ORLY_ACL_LISTEN": where, **variables}
        program = AclProcess(
            address=where,
            data_dir=db.data_dir,
            child=_spawn(ORLY_ACL, home, given),
            log_file=home / "log",
            respawn=lambda: _spawn(ORLY_ACL, home, given),
        )
        with _watched(program):
            _await_listening(program)
            yield program


@contextmanager
def running_sync(*, address: str = "", **variables: str) -> Iterator[SyncProcess]:
    """Starts `orly-sync-negentropy`, waits until it listens, and stops it with SIGTERM afterwards; see `running_relay`.

    Args:
        address: Where it listens; empty is a Unix socket of its own.
        variables: ORLY_* variables; ORLY_DATA_DIR defaults to a directory that is removed afterwards.
    """
    with tempfile.TemporaryDirectory(prefix="orly-test-") as scratch:
        home = Path(scratch)
        where = address or f"unix:{home}/sync"
        given = {"ORLY_DATA_DIR": str(home / "data"), "ORLY_SYNC_NEGENTROPY_LISTEN": where, **variables}
        child = _spawn(ORLY_SYNC, home, given)
        program = SyncProcess(address=where, data_dir=Path(given["ORLY_DATA_DIR"]), child=child, log_file=home / "log")
        with _watched(program):
            _await_listening(program)
            yield program


@contextmanager
def running_worker(db: DbProcess, *, reads_directly: bool, **variables: str) -> Iterator[RelayProcess]:
    """Starts `orly` as one of several relay processes that work on an `orly-db`; see `running_relay`."""
    given = {
        "ORLY_DB_TYPE": "grpc",
        "ORLY_GRPC_SERVER": db.address,
        "ORLY_DB_DIRECT_READ": str(reads_directly).lower(),
        **({"ORLY_DATA_DIR": str(db.data_dir)} if reads_directly else {}),
        **variables,
    }
    with running_relay(**given) as relay:
        yield relay


def _spawn(program: Path, home: Path, variables: Mapping[str, str]) -> subprocess.Popen[bytes]:
    with (home / "log").open("ab") as log:
        return subprocess.Popen(
            [program], env=clean_environment(home, variables), stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )


@contextmanager
def _watched(program: Program) -> Iterator[None]:
    """Ends the program with the block and holds it to its manners."""
    try:
        yield
        if program.child.returncode is None:
            program.stop()
        assert program.killed or program.child.returncode == 0, f"it left with status {program.child.returncode}"
        assert "Traceback" not in program.logs(), "it logged a traceback"
    except BaseException:
        sys.stderr.write(f"--- log of {program.child.args!r}, pid {program.pid}\n{program.logs()}---\n")
        raise
    finally:
        if program.child.poll() is None:
            program.child.kill()
        program.child.wait()


def _await_listening(program: Program) -> str:
    end_s = time.monotonic() + START_S
    while True:
        has_ended = program.child.poll() is not None
        for line in program.logs().splitlines(keepends=True):
            _, found, url = line.partition(_LISTENING)
            if found and url.endswith("\n"):
                return url.strip()
        assert not has_ended, f"it left with status {program.child.returncode} before it listened"
        assert time.monotonic() < end_s, f"it did not listen within {START_S:g} s"
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
