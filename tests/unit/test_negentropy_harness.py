"""The line-oriented adapter for conformance tests."""

import os
import subprocess
import sys

import pytest
from tests.negentropy_items import FIRST_S, ids_of, rows_of

from orly.negentropy import NegentropyError
from orly.negentropy.harness import Harness

ID = "ab" * 32


def loaded(rows: list[bytes], max_frame_bytes: int = 0) -> Harness:
    """An adapter that was given some items."""
    harness = Harness(max_frame_bytes=max_frame_bytes)
    for one in rows:
        assert not list(harness.lines(f"item,{int.from_bytes(one[:8], 'big')},{one[8:].hex()}"))
    assert not list(harness.lines("seal"))
    return harness


def test_two_adapters_find_the_difference() -> None:
    ours, theirs = rows_of(range(3000)), rows_of(range(100, 3100))
    asking, answering = loaded(ours, 4096), loaded(theirs, 4096)
    (line,) = asking.lines("initiate")
    said: list[str] = []
    while line != "done":
        (answer,) = answering.lines(line)
        *found, line = asking.lines(answer)
        said += found
        assert line == "done" or line.startswith("msg,61")
    lacking, extra = ids_of(ours) - ids_of(theirs), ids_of(theirs) - ids_of(ours)
    assert sorted(said) == sorted([f"have,{one.hex()}" for one in lacking] + [f"need,{one.hex()}" for one in extra])


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (["what"], "not a line of this protocol: 'what'"),
        (["item,1"], "not a line of this protocol"),
        (["initiate"], "the items are not sealed"),
        (["msg,61"], "the items are not sealed"),
        (["item,1,abcd"], "an id of 32 bytes"),
        ([f"item,-1,{ID}"], "an item is a time and an id"),
        ([f"item,{2**64},{ID}"], f"the time {2**64} has more than 64 bits"),
        ([f"item,{2**64 - 1},{ID}", "seal"], "stands for infinity"),
        (["seal", f"item,1,{ID}"], "comes before the seal"),
        (["seal", "msg,6x"], "not hexadecimal"),
        (["seal", "msg,6100"], "the message ends inside"),
    ],
)
def test_a_wrong_line_is_an_error(lines: list[str], reason: str) -> None:
    harness = Harness()
    *before, last = lines
    for line in before:
        list(harness.lines(line))
    with pytest.raises(NegentropyError, match=reason):
        list(harness.lines(last))


def test_as_a_program() -> None:
    items = "".join(f"item,{FIRST_S + number},{number:064x}\n" for number in range(40))
    run = subprocess.run(
        [sys.executable, "-m", "orly.negentropy.harness"],
        input=f"{items}\nseal\nmsg,6100000200\nwhat\n",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "FRAMESIZELIMIT": "600"},
    )
    (line,) = run.stdout.splitlines()
    assert len(bytes.fromhex(line.removeprefix("msg,"))) <= 600
    assert run.stderr == "negentropy: not a line of this protocol: 'what'\n"
    assert run.returncode == 1
