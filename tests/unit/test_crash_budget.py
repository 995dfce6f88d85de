import pytest
from hypothesis import given
from hypothesis import strategies as st

from orly.appliance.crashes import CrashBudget


def test_the_limit_is_the_last_that_is_made_up_for() -> None:
    budget = CrashBudget(limit=3, window_s=60)
    assert [budget.record("orly", now_s).is_over for now_s in (0, 1, 2, 3)] == [False, False, False, True]


def test_crashes_leave_the_window() -> None:
    budget = CrashBudget(limit=1, window_s=60)
    assert budget.record("orly", 0).count == 1
    assert budget.record("orly", 60).count == 1  # a window is over at its end
    assert budget.record("orly", 119.9).count == 2


def test_programs_count_for_themselves() -> None:
    budget = CrashBudget(limit=1, window_s=60)
    budget.record("orly", 0)
    assert budget.record("orly-db", 0).is_over is False
    assert budget.record("orly", 0).is_over is True


def test_pauses_grow_up_to_a_bound() -> None:
    budget = CrashBudget(limit=10, window_s=300)
    pauses_s = [budget.record("orly", now_s).pause_s for now_s in range(8)]
    assert pauses_s == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5, 5])


def test_who_allows_many_crashes_waits_little() -> None:
    budget = CrashBudget(limit=1000, window_s=300)
    assert max(budget.record("orly", now_s / 10).pause_s for now_s in range(900)) == pytest.approx(0.3)
    budget = CrashBudget(limit=100_000, window_s=1)
    assert max(budget.record("orly", 0).pause_s for _ in range(100)) == pytest.approx(0.1)


@given(
    limit=st.integers(1, 20),
    window_s=st.floats(1, 1000),
    times_s=st.lists(st.floats(0, 5000), min_size=1, max_size=60).map(sorted),
)
def test_it_counts_what_lies_in_the_window(limit: int, window_s: float, times_s: list[float]) -> None:
    budget = CrashBudget(limit=limit, window_s=window_s)
    for number, now_s in enumerate(times_s, start=1):
        crash = budget.record("orly", now_s)
        expected = sum(now_s - window_s < time_s for time_s in times_s[:number])
        assert crash.count == expected
        assert crash.is_over is (expected > limit)
        assert 0.1 <= crash.pause_s <= 5
