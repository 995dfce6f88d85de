"""How long strangers wait: what each event adds, what time takes off, and how much is remembered."""

import pytest

from orly.access import throttle as module
from orly.access.throttle import MAX_REMEMBERED, Throttle

KEY, OTHER = b"\x01" * 32, b"\x02" * 32
ADDRESS, ELSEWHERE = "192.0.2.1", "2001:db8::1"


def delays(throttle: Throttle, *events: tuple[bytes, str, float]) -> list[float]:
    return [throttle.delay_s(*event) for event in events]


def test_each_event_waits_longer_than_the_one_before() -> None:
    assert delays(Throttle(0.25, 60), *[(KEY, ADDRESS, 5.0)] * 4) == [0.25, 0.5, 0.75, 1.0]


def test_time_takes_off_what_was_added() -> None:
    throttle = Throttle(0.25, 60)
    assert delays(throttle, (KEY, "", 0.0), (KEY, "", 0.125), (KEY, "", 0.25)) == [0.25, 0.375, 0.5]
    assert throttle.delay_s(KEY, "", 0.75) == 0.25
    assert throttle.delay_s(KEY, "", 1_000_000.0) == 0.25


def test_a_clock_that_goes_back_takes_nothing_off() -> None:
    throttle = Throttle(0.25, 60)
    assert delays(throttle, (KEY, "", 10.0), (KEY, "", 1.0)) == [0.25, 0.5]


def test_keys_and_addresses_count_for_themselves_and_the_larger_counts() -> None:
    throttle = Throttle(1, 60)
    assert delays(throttle, (KEY, ADDRESS, 0), (OTHER, ADDRESS, 0), (KEY, ELSEWHERE, 0)) == [1, 2, 2]
    assert delays(throttle, (OTHER, "", 0), (b"\x03" * 32, "", 0)) == [2, 1]
    assert throttle.delay_s(b"\x04" * 32, ADDRESS, 0) == 3


def test_an_unknown_address_is_not_shared() -> None:
    throttle = Throttle(1, 60)
    assert delays(throttle, (KEY, "", 0), (OTHER, "", 0)) == [1, 1]
    assert len(throttle) == 2


def test_nobody_waits_longer_than_the_maximum() -> None:
    throttle = Throttle(1, 2.5)
    assert delays(throttle, *[(KEY, "", 0)] * 4) == [1, 2, 2.5, 2.5]
    assert throttle.delay_s(KEY, "", 1) == 2.5
    assert throttle.delay_s(KEY, "", 3) == 1.5
    assert Throttle(5, 2.5).delay_s(KEY, "", 0) == 2.5


def test_who_was_quiet_the_longest_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_REMEMBERED", 3)
    throttle = Throttle(1, 60)
    delays(throttle, *((bytes([n]) * 32, "", 0) for n in range(3)))
    assert len(throttle) == 3
    assert throttle.delay_s(bytes(32), "", 0) == 2
    assert throttle.delay_s(b"\x03" * 32, "", 0) == 1
    assert len(throttle) == 3
    assert throttle.delay_s(bytes(32), "", 0) == 3, "it had just been heard of"
    assert throttle.delay_s(b"\x01" * 32, "", 0) == 1, "it was forgotten"


def test_no_more_than_so_many_are_remembered() -> None:
    throttle = Throttle(1, 60)
    for n in range(MAX_REMEMBERED // 2 + 10):
        throttle.delay_s(n.to_bytes(32, "big"), f"2001:db8::{n:x}", 0)
    assert len(throttle) == MAX_REMEMBERED == 100_000


def test_what_is_taken_back_is_not_waited_for() -> None:
    throttle = Throttle(1, 60)
    throttle.take_back(KEY)
    assert delays(throttle, (KEY, "", 0), (KEY, "", 0)) == [1, 2]
    throttle.take_back(KEY)
    assert throttle.delay_s(KEY, "", 0) == 2
    for _ in range(5):
        throttle.take_back(KEY)
    assert throttle.delay_s(KEY, "", 0) == 1
    assert len(throttle) == 1
