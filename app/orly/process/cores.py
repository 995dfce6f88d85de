"""The processor cores that this process may run on."""

import os

__all__ = ["available_cores", "has_second_core"]


def available_cores() -> int:
    """How many there are; a container or `taskset` may allow fewer than the machine has."""
    return len(os.sched_getaffinity(0))


def has_second_core(processes: int = 1) -> bool:
    """Whether each of so many busy processes can use two cores."""
    return available_cores() >= 2 * processes
