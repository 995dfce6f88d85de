"""The state of all processes in the run directory, for the health check and `orly status`."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Literal

import msgspec

__all__ = ["LOCK_FILE", "STATE_FILE", "ProcessState", "read_states", "write_states"]

STATE_FILE: Final = "state.json"
LOCK_FILE: Final = "lock"


class ProcessState(msgspec.Struct, frozen=True, kw_only=True):
    """A process as its supervisor sees it.

    Attributes:
        name: What it is called.
        program: What its program is called.
        state: `up` from its start on, whether it is ready or not; `down` while it waits to be started again.
        pid: Its process id; 0 if it does not run.
        since: When it was started or ended last, in Unix seconds.
    """

    name: str
    program: str
    state: Literal["up", "down", "stopping", "stopped"]
    pid: int
    since: float


def write_states(run_dir: Path, states: Iterable[ProcessState]) -> None:
    """Replaces the file; a reader sees the old or the new one.

    Raises:
        OSError: It cannot be written.
    """
    new = run_dir / f"{STATE_FILE}.new"
    new.write_bytes(msgspec.json.encode(list(states)))
    os.replace(new, run_dir / STATE_FILE)


def read_states(run_dir: Path) -> dict[str, ProcessState]:
    """The processes by name; empty if there is no file."""
    try:
        found = msgspec.json.decode((run_dir / STATE_FILE).read_bytes(), type=list[ProcessState])
    except (OSError, msgspec.DecodeError):
        return {}
    return {state.name: state for state in found}
