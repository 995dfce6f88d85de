"""Numbers, bounds and fingerprints as Negentropy Protocol V1 writes them."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orly.negentropy import INFINITY_S, NegentropyError
from orly.negentropy.encoding import BoundWriter, read_varint, varint
from orly.negentropy.fingerprints import EMPTY, LIMBS, fingerprints

NUMBERS = (
    (0, "00"),
    (1, "01"),
    (127, "7f"),
    (128, "8100"),
    (16_383, "ff7f"),
    (16_384, "818000"),
    (2**63, "81808080808080808000"),
    (2**64 - 1, "81ffffffffffffffff7f"),
)


@pytest.mark.parametrize(("number", "expected"), NUMBERS)
def test_numbers(number: int, expected: str) -> None:
    assert varint(number).hex() == expected
    assert read_varint(bytes.fromhex(expected), 0) == (number, len(expected) // 2)


@given(st.integers(0, 2**64 - 1), st.binary(max_size=4), st.binary(max_size=4))
def test_any_number_is_read_as_written(number: int, before: bytes, after: bytes) -> None:
    written = varint(number)
    assert read_varint(before + written + after, len(before)) == (number, len(before) + len(written))


@pytest.mark.parametrize("text", ["82808080808080808000", "ff" * 10 + "7f", "ff" * 100_000])
def test_a_number_of_more_than_64_bits_is_refused(text: str) -> None:
    with pytest.raises(NegentropyError, match="the number at byte 0 has more than 64 bits"):
        read_varint(bytes.fromhex(text), 0)


@pytest.mark.parametrize("text", ["", "80", "8180", "ff" * 8])
def test_a_number_that_ends_early_is_refused(text: str) -> None:
    with pytest.raises(NegentropyError, match=re.escape("the message ends inside the number at byte 0")):
        read_varint(bytes.fromhex(text), 0)


def test_bounds_build_on_each_other() -> None:
    writer = BoundWriter()
    assert writer.bound(0, b"").hex() == "0100"
    assert writer.bound(1000, b"\xab\xcd").hex() == "876902abcd"  # 1001 as a number, two bytes of id
    assert writer.bound(1000, b"\xab\xce").hex() == "0102abce"
    assert writer.bound(1126, b"").hex() == "7f00"
    assert writer.bound(1253, b"").hex() == "810000"
    assert writer.bound(INFINITY_S, b"").hex() == "0000"


def test_the_fingerprint_of_nothing() -> None:
    assert EMPTY.hex() == "7f9c9e31ac8256ca2f258583df262dbc"
    assert fingerprints(np.zeros((1, LIMBS), dtype=np.uint64), [0]) == [EMPTY]


def test_what_a_sum_carries_over_the_top_is_dropped() -> None:
    largest = np.full((1, LIMBS), 2**32 - 1, dtype=np.uint64)
    one = np.array([[1, 0, 0, 0, 0, 0, 0, 0]], dtype=np.uint64)
    zero = np.zeros((1, LIMBS), dtype=np.uint64)
    assert fingerprints(largest + one, [2]) == fingerprints(zero, [2])
    assert fingerprints(largest, [2]) != fingerprints(zero, [2])
