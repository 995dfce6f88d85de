from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orly.units import (
    KIB,
    MAX_DURATION_S,
    MAX_SIZE_BYTES,
    MIB,
    TIB,
    format_bool,
    format_duration,
    format_size,
    parse_bool,
    parse_duration,
    parse_int,
    parse_size,
)


@pytest.mark.parametrize("text", ["1", "t", "T", "TRUE", "true", "True", "yes", "on", "Yes", "ON"])
def test_true_words(text: str) -> None:
    assert parse_bool(text) is True


@pytest.mark.parametrize("text", ["0", "f", "F", "FALSE", "false", "False", "no", "off", "No", "OFF"])
def test_false_words(text: str) -> None:
    assert parse_bool(text) is False


@pytest.mark.parametrize("text", ["", "2", "tru", "enabled", "nope", " true"])
def test_other_words_are_no_switch(text: str) -> None:
    with pytest.raises(ValueError, match="not true or false"):
        parse_bool(text)


@given(st.booleans())
def test_switch_round_trip(value: bool) -> None:
    assert parse_bool(format_bool(value)) is value


@pytest.mark.parametrize(("text", "value"), [("0", 0), ("-5", -5), ("+5", 5), ("007", 7), ("65535", 65535)])
def test_whole_numbers(text: str, value: int) -> None:
    assert parse_int(text) == value


@pytest.mark.parametrize("text", ["", "1.0", "1e3", "1_000", "٣", "0x10", "9" * 21, " 1", "--1"])
def test_other_texts_are_no_number(text: str) -> None:
    with pytest.raises(ValueError, match="not a whole number"):
        parse_int(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("0s", 0),
        ("45", 45),
        ("30s", 30),
        ("25ms", 0.025),
        ("5m", 300),
        ("1h30m", 5400),
        ("1.5h", 5400),
        (".5s", 0.5),
        ("1.s", 1),
        ("250us", 0.00025),
        ("250µs", 0.00025),
        ("250μs", 0.00025),
        ("1ns", 1e-9),
        ("30s1h", 3630),
        ("1m1m", 120),
        ("2562047h", 2562047 * 3600),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "5x", "1d", "s", "1h 30m", "1.5", "5S", "inf", "nan", "1h30", ".s", "1e3s"])
def test_other_texts_are_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="not a duration: write 25ms, 30s, 5m, 1h30m or whole seconds"):
        parse_duration(text)


def test_a_negative_duration_is_named_as_such() -> None:
    with pytest.raises(ValueError, match="cannot be negative"):
        parse_duration("-5s")


def test_the_longest_duration() -> None:
    assert parse_duration(str(MAX_DURATION_S)) == MAX_DURATION_S
    with pytest.raises(ValueError, match="292 years"):
        parse_duration(str(MAX_DURATION_S + 1))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (30, "30s"),
        (60, "1m"),
        (5400, "1h30m"),
        (3600, "1h"),
        (3601, "1h1s"),
        (2.5, "2.5s"),
        (0.025, "25ms"),
        (0.0015, "1500us"),
        (1e-9, "1ns"),
        (86400, "24h"),
    ],
)
def test_how_durations_are_written(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.integers(min_value=0, max_value=MAX_DURATION_S * 10**9))
def test_duration_round_trip(nanoseconds: int) -> None:
    seconds = nanoseconds / 10**9
    assert parse_duration(format_duration(min(seconds, float(MAX_DURATION_S - 1)))) == min(
        seconds, float(MAX_DURATION_S - 1)
    )


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1048576", MIB),
        ("512MiB", 512 * MIB),
        ("64KiB", 64 * KIB),
        ("1TiB", TIB),
        ("10MB", 10**7),
        ("10mb", 10**7),
        ("1.5KiB", 1536),
        ("512 MiB", 512 * MIB),
        ("100B", 100),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "5x", "MiB", "10M", "5  MiB", "-1", "1e6", "1.5", "0x10"])
def test_other_texts_are_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="not a size: write 64KiB"):
        parse_size(text)


def test_a_unit_that_does_not_exist_is_named() -> None:
    with pytest.raises(ValueError, match="no such unit as iB"):
        parse_size("5iB")


def test_a_part_of_a_byte_is_no_size() -> None:
    with pytest.raises(ValueError, match="whole number of bytes"):
        parse_size("1.0001KiB")


def test_the_largest_size() -> None:
    assert parse_size(str(MAX_SIZE_BYTES)) == MAX_SIZE_BYTES
    with pytest.raises(ValueError, match="more than 2"):
        parse_size(str(MAX_SIZE_BYTES + 1))


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0B"), (1, "1B"), (1500, "1500B"), (KIB, "1KiB"), (1536, "1536B"), (10**7, "10MB"), (1024 * TIB, "1024TiB")],
)
def test_how_sizes_are_written(size: int, text: str) -> None:
    assert format_size(size) == text


@given(st.integers(min_value=0, max_value=MAX_SIZE_BYTES) | st.integers(0, 2**20).map(lambda n: n * MIB))
def test_size_round_trip(size: int) -> None:
    assert parse_size(format_size(size)) == size


@given(st.text(alphabet="0123456789.-+ hmsnuµkKMGTiBb", max_size=30) | st.text(max_size=30))
def test_parsers_raise_nothing_but_value_errors(text: str) -> None:
    for parse in (parse_bool, parse_int, parse_duration, parse_size):
        with suppress(ValueError):
            parse(text)
