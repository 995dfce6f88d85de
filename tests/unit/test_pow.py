"""Proof of work (NIP-13): counting bits, and committed targets at their edges."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.factory import fake_event, mined_event
from tests.strategies import QUICK, texts

from orly.nostr.pow import check_work, leading_zero_bits


@pytest.mark.parametrize(
    ("start", "bits"),
    [
        ("ffff", 0),
        ("80", 0),
        ("7f", 1),
        ("40", 1),
        ("3f", 2),
        ("01", 7),
        ("00ff", 8),
        ("007f", 9),
        ("002f", 10),
        ("0001", 15),
        ("00000000000e9d97a1ab09fc381030b346cdd7a142ad57e6df0b46dc9bef6c7e", 44),
        ("00" * 31 + "01", 255),
        ("00" * 32, 256),
    ],
)
def test_leading_zero_bits_are_counted(start: str, bits: int) -> None:
    assert leading_zero_bits(bytes.fromhex(start.ljust(64, "f"))) == bits


@QUICK
@given(st.binary(min_size=32, max_size=32), st.integers(0, 32))
def test_counting_agrees_with_counting_digits(event_id: bytes, zeros: int) -> None:
    event_id = bytes(zeros) + event_id[zeros:]
    digits = "".join(f"{byte:08b}" for byte in event_id)
    assert leading_zero_bits(event_id) == len(digits) - len(digits.lstrip("0"))


def test_exactly_the_required_work_is_enough() -> None:
    event = mined_event(6)
    assert check_work(event, 6) is None
    assert check_work(event, 5) is None
    assert check_work(event, 7) == "difficulty 6 is less than 7"


def test_no_work_needs_no_nonce() -> None:
    assert check_work(fake_event(), 0) is None
    assert check_work(mined_event(1, target=0), 0) is None
    for target in ("nonsense", "257"):
        assert check_work(fake_event(tags=[["nonce", "1", target]]), 0) is None


def test_a_target_below_the_required_work_is_refused_although_the_id_is_good() -> None:
    event = mined_event(6, target=5)
    assert check_work(event, 5) is None
    problem = check_work(event, 6)
    assert problem is not None
    assert "committed target '5'" in problem


@pytest.mark.parametrize("bare", [["nonce"], ["nonce", "1"], ["nonces", "1", "0"]])
def test_a_target_need_not_be_committed_to(bare: list[str]) -> None:
    event = next(event for n in range(4096) if (event := fake_event(tags=[bare, ["n", str(n)]])).id[0] == 0)
    assert check_work(event, 8) is None


@pytest.mark.parametrize(
    ("target", "fits"),
    [("4", True), ("04", True), ("256", True), ("3", False), ("257", False), ("9" * 5000, False), ("", False),
     ("-4", False), ("4.0", False), ("+4", False), (" 4", False), ("1_0", False), ("\u0664", False), ("\u00b2", False)],
)  # fmt: skip
def test_a_target_is_a_plain_number_of_bits(target: str, fits: bool) -> None:
    tag = ["nonce", "1", target]
    event = next(event for n in range(4096) if (event := fake_event(tags=[tag, ["n", str(n)]])).id[0] < 0x10)
    problem = check_work(event, 4)
    assert (problem is None) == fits
    assert problem is None or len(problem) < 100


def test_every_nonce_tag_counts() -> None:
    tags = [["nonce", "1", "20"], ["nonce", "2", "1"]]
    event = next(event for n in range(4096) if (event := fake_event(tags=[*tags, ["n", str(n)]])).id[0] < 0x10)
    assert check_work(event, 4) is not None


@QUICK
@given(texts(), st.integers(0, 256))
def test_no_target_raises(target: str, required_bits: int) -> None:
    problem = check_work(fake_event(tags=[["nonce", "", target]]), required_bits)
    assert problem is None or str(required_bits) in problem
