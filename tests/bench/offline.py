"""What only the project's own command line can do: import, and a store filled to a given size."""

import os
import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec
from tests.bench.errors import BenchError
from tests.bench.peers import orly_command, orly_environment
from tests.bench.workload import HEAVY_AUTHORS, HEAVY_EVENTS, generate

__all__ = ["ImportCost", "fill", "measure_import"]

_WEEK_S: Final = 7 * 86_400
_YEAR_S: Final = 365 * 86_400
_TIMEOUT_S: Final = 1800.0


class ImportCost(msgspec.Struct, frozen=True, kw_only=True):
    """CPU time of an import beyond that of importing an empty file, and its wall time."""

    events: int
    cpu_ns: int
    wall_s: float


def measure_import(events: Sequence[bytes], directory: Path, *, verify: bool) -> ImportCost:
    """Run `orly import` on the events in a fresh data directory and count what it stored.

    Raises:
        BenchError: it failed, or another number of events is in the store afterwards.
    """
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "events.jsonl"
    _write(path, events)
    empty = directory / "empty.jsonl"
    empty.touch()
    options = () if verify else ("--no-verify",)
    start_ns, _ = _run(directory, ("import", *options, str(empty)))
    cpu_ns, wall_s = _run(directory, ("import", *options, str(path)))
    stored = _stored(directory)
    if stored != len(events):
        raise BenchError(f"orly import of {len(events)} events left {stored} in the store")
    return ImportCost(events=len(events), cpu_ns=cpu_ns - start_ns, wall_s=wall_s)


def fill(directory: Path, count: int, seed: int) -> ImportCost:
    """Store `count` generated events of the past year (ending a week ago) through `orly import --no-verify`."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "fill.jsonl"
    end = int(time.time()) - _WEEK_S
    library = HEAVY_AUTHORS * HEAVY_EVENTS
    _write(path, generate(seed=seed, count=count, library=library, end=end, span_s=_YEAR_S, signed=False))
    cpu_ns, wall_s = _run(directory, ("import", "--no-verify", str(path)))
    path.unlink()
    return ImportCost(events=count, cpu_ns=cpu_ns, wall_s=wall_s)


def _write(path: Path, events: Iterable[bytes]) -> None:
    with path.open("wb") as file:
        file.writelines(event + b"\n" for event in events)


def _stored(directory: Path) -> int:
    path = directory / "export.jsonl"
    _run(directory, ("export", str(path)))
    with path.open("rb") as file:
        lines = sum(1 for _ in file)
    path.unlink()
    return lines


def _run(directory: Path, arguments: tuple[str, ...]) -> tuple[int, float]:
    """Run the command line; CPU time in ns (all threads and children) and wall time in s."""
    log = directory / "command.log"
    begin = time.perf_counter()
    with log.open("wb") as output:
        process = subprocess.Popen(
            orly_command(*arguments),
            env=orly_environment(directory),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
        cpu_s = _wait_cpu_s(process)
    wall_s = time.perf_counter() - begin
    if process.returncode != 0:
        text = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise BenchError(f"orly {' '.join(arguments)} ended with status {process.returncode}:\n{text}")
    return int(cpu_s * 1e9), wall_s


def _wait_cpu_s(process: subprocess.Popen[bytes]) -> float:
    """Wait for the end and return the CPU time used, which `Popen.wait` does not give."""
    deadline = time.perf_counter() + _TIMEOUT_S
    while time.perf_counter() < deadline:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            return usage.ru_utime + usage.ru_stime
        time.sleep(0.01)
    process.kill()
    raise BenchError(f"{process.args!r} is not done after {_TIMEOUT_S:g} s")
