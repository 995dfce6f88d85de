"""Commands of `orly` as children that a test talks to while they run: through pipes, signals, and a terminal."""

import os
import pty
import select
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.process import ORLY, clean_environment, run_orly

__all__ = ["DEADLINE_S", "await_output", "await_read_of_pipe", "child", "on_terminal", "run", "write_lines"]

DEADLINE_S: Final = 30.0
"""How long a test waits for what must happen; far beyond what it takes on a loaded machine."""

_POLL_S: Final = 0.01


def write_lines(path: Path, lines: Sequence[bytes]) -> Path:
    """A file of these lines, each with its line feed; returns its path."""
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


def run(
    *arguments: str | Path,
    data_dir: Path,
    stdin: bytes = b"",
    unprivileged: bool = False,
    variables: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Runs a command to its end; none of them ever shows a traceback."""
    done = run_orly(
        *arguments,
        data_dir=data_dir,
        stdin=stdin,
        timeout_s=2 * DEADLINE_S,
        unprivileged=unprivileged,
        variables=variables,
    )
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    return done


@contextmanager
def child(*arguments: str | Path, data_dir: Path, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    """Starts a command with pipes on its three standard streams; kills it if it is still there at the end."""
    with tempfile.TemporaryDirectory(prefix="orly-test-") as home:
        process = subprocess.Popen(
            [ORLY, *arguments],
            env=clean_environment(Path(home), {"ORLY_DATA_DIR": str(data_dir), **variables}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None and not stream.closed:
                    stream.close()
            process.wait()


def await_read_of_pipe(pid: int) -> None:
    """Return once a process waits inside the read of a pipe, where a signal interrupts it (Linux)."""
    wait_channel = Path(f"/proc/{pid}/wchan")
    end_s = time.monotonic() + DEADLINE_S
    while not wait_channel.read_text().endswith("pipe_read"):
        assert time.monotonic() < end_s, f"waited {DEADLINE_S:g} s for a read of a pipe: {wait_channel.read_text()}"
        time.sleep(0.001)


def await_output(process: subprocess.Popen[bytes], wanted: bytes) -> bytes:
    """What the child has written to standard error, once that holds `wanted`."""
    assert process.stderr is not None
    return _read_until(process.stderr.fileno(), lambda seen: wanted in seen, repr(wanted))


def on_terminal(
    *arguments: str | Path, data_dir: Path, stdin: Path = Path(os.devnull), stdout: Path | None = None
) -> tuple[int, str]:
    """Runs a command whose standard error, and output unless that goes to a file, is a terminal.

    Returns:
        Its exit status, and what the terminal got.
    """
    primary, secondary = pty.openpty()
    try:
        with (
            tempfile.TemporaryDirectory(prefix="orly-test-") as home,
            stdin.open("rb") as source,
            (Path(os.devnull) if stdout is None else stdout).open("wb") as sink,
        ):
            variables = {"ORLY_DATA_DIR": str(data_dir), "TERM": "xterm-256color", "COLUMNS": "100"}
            process = subprocess.Popen(
                [ORLY, *arguments],
                env=clean_environment(Path(home), variables),
                stdin=source,
                stdout=secondary if stdout is None else sink,
                stderr=secondary,
            )
            os.close(secondary)
            try:
                shown = _read_until(primary, lambda _: False, "its end")
                code = process.wait(DEADLINE_S)
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
            return code, shown.decode()
    finally:
        os.close(primary)


def _read_until(fd: int, is_enough: Callable[[bytes], bool], awaited: str) -> bytes:
    """Reads until that is enough or the other side is closed."""
    seen = b""
    end_s = time.monotonic() + DEADLINE_S
    while not is_enough(seen):
        assert time.monotonic() < end_s, f"waited {DEADLINE_S:g} s for {awaited}, got {seen!r}"
        if not select.select([fd], [], [], _POLL_S)[0]:
            continue
        try:
            data = os.read(fd, 65536)
        except OSError:  # how Linux says that a terminal was closed
            data = b""
        if not data:
            break
        seen += data
    return seen
