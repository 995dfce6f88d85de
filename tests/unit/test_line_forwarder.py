import json
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orly.appliance.forward import MAX_LINE_BYTES, LineForwarder

OWN = b"2026-01-15T15:23:13.271Z orly-1 INFO  store.writer | committed 120 events in 8 ms"
OWN_JSON = b'{"time": "2026-01-15T15:23:13.271Z", "service": "orly-1", "level": "info", "logger": "x", "message": "y"}'


class Taken:
    """A forwarder and what it handed on."""

    def __init__(self, format: Literal["text", "json"] = "text", *, is_silent: bool = False) -> None:
        self.writes: list[bytes] = []
        self.forwarder = LineForwarder(
            process="orly-1", program="orly", format=format, write=self.writes.append, is_silent=is_silent
        )

    @property
    def lines(self) -> list[bytes]:
        """What was handed on so far, without line breaks."""
        data = b"".join(self.writes)
        assert data == b"" or data.endswith(b"\n")
        return data.split(b"\n")[:-1]

    def messages(self) -> list[str]:
        """What became records, without their heads."""
        return [line.decode().partition(" orly-1 WARN  output | ")[2] for line in self.lines]


@pytest.mark.parametrize(
    "line",
    [
        OWN,
        OWN.replace(b"orly-1", b"orly"),
        OWN.replace(b"INFO ", b"ERROR"),
        OWN.replace(b"120 events", "120 événements".encode()),
    ],
)
def test_own_records_pass_untouched(line: bytes) -> None:
    taken = Taken()
    taken.forwarder.feed(line + b"\n")
    assert taken.lines == [line]


@pytest.mark.parametrize(
    "line",
    [
        OWN.replace(b"orly-1", b"orly-2"),
        OWN.replace(b"INFO ", b"LOUD "),
        OWN.replace(b"2026", b"today"),
        OWN.replace(b" | ", b" "),
        b" " + OWN,
        OWN_JSON,
    ],
)
def test_whatever_only_looks_like_one_becomes_one(line: bytes) -> None:
    taken = Taken()
    taken.forwarder.feed(line + b"\n")
    assert taken.messages() == [line.decode()]


def test_control_characters_are_written_as_escapes() -> None:
    taken = Taken()
    taken.forwarder.feed(OWN + b"\x1b[2J\nbell\x07 \xff\n")
    assert taken.messages() == [OWN.decode() + "\\x1b[2J", "bell\\x07 \\xff"]


def test_json_records_pass_and_others_become_json() -> None:
    taken = Taken("json")
    taken.forwarder.feed(OWN_JSON + b"\n" + OWN + b"\n")
    assert taken.lines[0] == OWN_JSON
    assert json.loads(taken.lines[1])["message"] == OWN.decode()
    assert json.loads(taken.lines[1])["service"] == "orly-1"


def test_empty_lines_are_left_out() -> None:
    taken = Taken()
    taken.forwarder.feed(b"\n\r\n  \na\r\n\n")
    assert taken.messages() == ["a"]


def test_a_last_line_without_a_break_is_handed_on_at_the_end() -> None:
    taken = Taken()
    taken.forwarder.feed(b"last wo")
    taken.forwarder.feed(b"rds")
    assert taken.lines == []
    taken.forwarder.finish()
    taken.forwarder.finish()
    assert taken.messages() == ["last words"]


def test_a_line_is_cut_at_the_bound() -> None:
    taken = Taken()
    taken.forwarder.feed(b"x" * MAX_LINE_BYTES + b"\n")
    taken.forwarder.feed(b"x" * MAX_LINE_BYTES + b"y\nnext\n")
    assert taken.messages() == [
        "x" * MAX_LINE_BYTES,
        "x" * MAX_LINE_BYTES + " [1 more bytes were cut]",
        "next",
    ]


def test_a_line_without_end_takes_no_memory() -> None:
    taken = Taken()
    for _ in range(100):
        taken.forwarder.feed(b"z" * MAX_LINE_BYTES)
    taken.forwarder.feed(b"\nnext\n")
    assert taken.messages() == ["z" * MAX_LINE_BYTES + f" [{99 * MAX_LINE_BYTES} more bytes were cut]", "next"]


def test_an_own_record_that_is_too_long_is_cut_as_well() -> None:
    taken = Taken("json")
    taken.forwarder.feed(OWN_JSON[:-2] + b"x" * MAX_LINE_BYTES + b'"}\n')
    assert json.loads(taken.lines[0])["message"].endswith("more bytes were cut]")


def test_silence_keeps_records_only() -> None:
    taken = Taken(is_silent=True)
    taken.forwarder.feed(b"stray\n" + OWN + b"\n" + b"x" * (MAX_LINE_BYTES + 1) + b"\nlast")
    taken.forwarder.finish()
    assert taken.lines == [OWN]


@given(
    lines=st.lists(
        st.one_of(st.just(OWN), st.binary(max_size=40).map(lambda raw: raw.replace(b"\n", b""))), max_size=8
    ),
    cuts=st.lists(st.integers(0, 400), max_size=8),
)
def test_it_does_not_matter_how_the_output_arrives(lines: list[bytes], cuts: list[int]) -> None:
    data = b"".join(line + b"\n" for line in lines)
    whole, pieces = Taken(), Taken()
    whole.forwarder.feed(data)
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(data)], strict=True):
        pieces.forwarder.feed(data[start:end])
    assert pieces.messages() == whole.messages()
    assert len(whole.lines) == sum(bool(line.decode("utf-8", "backslashreplace").strip()) for line in lines)
