import pytest
from hypothesis import given
from hypothesis import strategies as st

from orly.sync.negentropy.schedule import (
    BACKOFF_CEILING_S,
    COSTLY_S,
    FULL_EVERY,
    JITTER,
    OVERLAP_S,
    Cursor,
    first_delay_s,
    next_delay_s,
)

CHANCES = st.floats(0, 1, exclude_max=True)
NOW_S = 1_700_000_000


@pytest.mark.parametrize(
    ("interval_s", "failures", "delay_s"),
    [
        (60, 0, 60),
        (60, 1, 120),
        (60, 3, 480),
        (60, 4, BACKOFF_CEILING_S),
        (60, 10_000, BACKOFF_CEILING_S),
        (3600, 0, 3600),
        (3600, 5, 3600),
    ],
)
def test_failures_double_the_pause_up_to_a_ceiling(interval_s: float, failures: int, delay_s: float) -> None:
    assert next_delay_s(interval_s, failures, 0.5) == pytest.approx(delay_s)


@given(st.floats(1, 1e6), st.integers(0, 1000), CHANCES)
def test_the_pause_is_jittered_within_its_bounds(interval_s: float, failures: int, chance: float) -> None:
    middle_s = next_delay_s(interval_s, failures, 0.5)
    assert abs(next_delay_s(interval_s, failures, chance) - middle_s) <= middle_s * JITTER * 1.001
    assert next_delay_s(interval_s, failures, 0) < middle_s
    assert interval_s * 0.999 <= middle_s <= max(interval_s, BACKOFF_CEILING_S) * 1.001


@pytest.mark.parametrize(("interval_s", "chance", "delay_s"), [(60, 0, 0), (60, 0.5, 0.5), (0.1, 0.5, 0.05)])
def test_the_first_round_comes_soon(interval_s: float, chance: float, delay_s: float) -> None:
    assert first_delay_s(interval_s, chance) == pytest.approx(delay_s)


def after_full(*, took_s: float = COSTLY_S, moved: int = 0) -> Cursor:
    """The state after a complete first round, which compared everything."""
    return Cursor().after(began_s=NOW_S, took_s=took_s, moved=moved, was_full=True, is_settled=True)


def test_nothing_compared_means_everything_is_next() -> None:
    assert Cursor().since_s() is None


def test_after_a_costly_round_the_next_looks_at_new_events_only() -> None:
    cursor = after_full()
    assert cursor.since_s() == NOW_S - OVERLAP_S
    later = cursor.after(began_s=NOW_S + 60, took_s=0, moved=0, was_full=False, is_settled=True)
    assert later.since_s() == NOW_S + 60 - OVERLAP_S


@pytest.mark.parametrize(
    ("took_s", "moved", "is_full"),
    [(COSTLY_S, 0, False), (COSTLY_S - 0.01, 0, True), (COSTLY_S + 5, 5100, True), (COSTLY_S + 5, 4900, False)],
)
def test_a_round_is_costly_for_its_comparison_not_for_what_it_carried(took_s: float, moved: int, is_full: bool) -> None:
    assert (after_full(took_s=took_s, moved=moved).since_s() is None) == is_full


def test_one_of_ten_rounds_compares_everything() -> None:
    cursor = Cursor()
    was_full = []
    for number in range(3 * FULL_EVERY):
        was_full.append(cursor.since_s() is None)
        cursor = cursor.after(began_s=NOW_S + number, took_s=COSTLY_S, moved=0, was_full=was_full[-1], is_settled=True)
    assert was_full == ([True] + [False] * (FULL_EVERY - 1)) * 3


def test_a_round_that_left_something_out_is_followed_by_a_full_one() -> None:
    assert after_full().after(began_s=NOW_S, took_s=9, moved=0, was_full=False, is_settled=False).since_s() is None


def test_time_does_not_begin_before_its_begin() -> None:
    assert Cursor(covered_s=5, is_costly=True).since_s() == 0
