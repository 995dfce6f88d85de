"""The token bucket at its edges, and against a slow account of what it may give."""

from hypothesis import given
from hypothesis import strategies as st
from tests.strategies import QUICK

from orly.token_bucket import KeyedBuckets, TokenBucket


def test_burst_then_nothing() -> None:
    bucket = TokenBucket(1, 3, now_s=10.0)
    assert [bucket.take(10.0) for _ in range(4)] == [True, True, True, False]


def test_tokens_come_back_at_the_rate() -> None:
    bucket = TokenBucket(4, 1, now_s=0.0)
    assert bucket.take(0.0)
    assert not bucket.take(0.125)
    assert bucket.take(0.25), "refusals cost nothing"
    assert not bucket.take(0.25)


def test_no_more_than_the_burst_is_saved_up() -> None:
    bucket = TokenBucket(100, 2, now_s=0.0)
    assert [bucket.take(1e6) for _ in range(3)] == [True, True, False]


def test_no_limit() -> None:
    bucket = TokenBucket(0, 1, now_s=0.0)
    assert all(bucket.take(0.0) for _ in range(1000))


def test_clock_that_stands_or_runs_backwards_gives_nothing() -> None:
    bucket = TokenBucket(1, 1, now_s=5.0)
    assert bucket.take(5.0)
    assert not bucket.take(4.0)
    assert not bucket.take(4.5)


@given(
    st.integers(1, 50),
    st.integers(1, 20),
    st.lists(st.sampled_from([0.0, 0.0, 0.015625, 0.25, 1.0, 30.0]), max_size=60),
)
@QUICK
def test_never_more_than_burst_and_rate_over_any_stretch(per_second: int, burst: int, gaps_s: list[float]) -> None:
    bucket = TokenBucket(per_second, burst, now_s=0.0)
    now_s = 0.0
    taken_at_s: list[float] = []
    for gap_s in gaps_s:
        now_s += gap_s
        if bucket.take(now_s):
            taken_at_s.append(now_s)
    for first, start_s in enumerate(taken_at_s):
        for last in range(first, len(taken_at_s)):
            assert last - first + 1 <= burst + (taken_at_s[last] - start_s) * per_second + 1e-6


@given(st.integers(1, 50), st.lists(st.floats(0, 3), max_size=30))
@QUICK
def test_who_keeps_to_the_rate_is_never_refused(per_second: int, extra_s: list[float]) -> None:
    bucket = TokenBucket(per_second, 1, now_s=0.0)
    now_s = 0.0
    for extra in extra_s:
        now_s += 1 / per_second + extra + 1e-9
        assert bucket.take(now_s)


def test_what_is_given_back_can_be_taken_again() -> None:
    bucket = TokenBucket(1, 2, now_s=0.0)
    assert [bucket.take(0.0) for _ in range(3)] == [True, True, False]
    bucket.give_back()
    assert [bucket.take(0.0), bucket.take(0.0)] == [True, False]
    for _ in range(5):
        bucket.give_back()
    assert [bucket.take(0.0) for _ in range(3)] == [True, True, False], "no more than the burst"


def test_what_is_given_back_is_somebodys() -> None:
    buckets = KeyedBuckets(1)
    assert [buckets.take("a", 0.0), buckets.take("a", 0.0)] == [True, False]
    buckets.give_back("b")
    assert len(buckets) == 1
    assert not buckets.take("a", 0.0)
    buckets.give_back("a")
    assert buckets.take("a", 0.0)
