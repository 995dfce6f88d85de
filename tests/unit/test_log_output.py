import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from orly.appliance.output import LogOutput

PATIENCE_S = 0.01


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    yield reader, writer
    for fd in (reader, writer):
        with suppress(OSError):
            os.close(fd)


def drain(reader: int) -> bytes:
    """All that a pipe holds."""
    found = b""
    try:
        while data := os.read(reader, 65_536):
            found += data
    except BlockingIOError:
        pass
    return found


def fill(output: LogOutput) -> list[bytes]:
    """Writes numbered lines until one is dropped."""
    lines: list[bytes] = []
    while not output.dropped_lines:
        lines.append(b"%06d %s\n" % (len(lines), b"x" * 5000))
        output.write(lines[-1])
    return lines


def test_lines_arrive_whole(pipe: tuple[int, int]) -> None:
    output = LogOutput(pipe[1])
    assert output.write(b"one\ntwo\n") == 8
    assert output.write(b"") == 0
    assert output.write(b"x" * 40_000 + b"\n") == 40_001
    assert drain(pipe[0]) == b"one\ntwo\n" + b"x" * 40_000 + b"\n"
    assert output.take_dropped() == 0


def test_a_reader_that_stands_still_costs_lines_and_is_told_how_many(pipe: tuple[int, int]) -> None:
    output = LogOutput(pipe[1], patience_s=PATIENCE_S)
    lines = fill(output)
    output.write(b"lost\nlost\n")
    assert output.dropped_lines == 3
    assert output.take_dropped() == 0  # it still stands still
    before = drain(pipe[0])
    assert output.take_dropped() == 3
    output.write(b"again\n")
    whole, last, rest = (before + drain(pipe[0])).partition(lines[-2])
    assert whole + last == b"".join(lines[:-1])
    assert rest.endswith(b"again\n")
    assert lines[-1].startswith(rest.removesuffix(b"again\n").removesuffix(b"\n"))
    assert output.take_dropped() == 0


def test_what_follows_a_torn_line_has_a_line_of_its_own(pipe: tuple[int, int]) -> None:
    output = LogOutput(pipe[1], patience_s=PATIENCE_S)
    output.write(b"x" * 200_000 + b"\n")
    before = drain(pipe[0])
    assert 0 < len(before) < 200_000
    output.write(b"again\n")
    assert drain(pipe[0]) == b"\nagain\n"
    assert output.take_dropped() == 1


def test_a_reader_that_is_gone_stops_nobody(pipe: tuple[int, int]) -> None:
    os.close(pipe[0])
    output = LogOutput(pipe[1], patience_s=PATIENCE_S)
    for _ in range(3):
        assert output.write(b"lost\n") == 5
    assert output.take_dropped() == 0
    assert output.dropped_lines == 3


def test_a_file_takes_a_line_in_one_piece(tmp_path: Path) -> None:
    path = tmp_path / "log"
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        LogOutput(fd).write(b"x" * 100_000 + b"\n")
    finally:
        os.close(fd)
    assert path.read_bytes() == b"x" * 100_000 + b"\n"
