"""How many cores a process may use, and who may use two."""

import os

import pytest

from orly.process.cores import available_cores, has_second_core


@pytest.mark.parametrize(
    ("cores", "processes", "expected"),
    [(1, 1, False), (2, 1, True), (2, 2, False), (3, 2, False), (4, 2, True), (4, 4, False), (8, 4, True)],
)
def test_each_process_needs_two(monkeypatch: pytest.MonkeyPatch, cores: int, processes: int, expected: bool) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    assert available_cores() == cores
    assert has_second_core(processes) is expected
