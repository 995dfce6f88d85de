"""The pace of a push, against peers that are played: each takes so many events a second, in order, from so far."""

from collections import deque
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orly.sync.negentropy.pace import (
    ENOUGH_TAKEN,
    FIRST_PAUSE_S,
    MAX_PAUSE_S,
    MAX_TRIES,
    MAX_WINDOW,
    MIN_PER_SECOND,
    MIN_WINDOW,
    QUICK_S,
    START_WINDOW,
    Pace,
)
from orly.token_bucket import TokenBucket

PATIENCE_S = 60.0


def answer(pace: Pace, count: int, *, sent_s: float, took_s: float) -> None:
    """So many events are answered at once."""
    for _ in range(count):
        pace.answered(sent_s, sent_s + took_s)


def test_it_doubles_when_a_whole_window_was_quick() -> None:
    pace = Pace(PATIENCE_S)
    answer(pace, START_WINDOW - 1, sent_s=0.0, took_s=0.1)
    assert pace.window == START_WINDOW
    answer(pace, 1, sent_s=0.0, took_s=0.1)
    assert pace.window == 2 * START_WINDOW


@pytest.mark.parametrize(("took_s", "window"), [(0.9, 2 * START_WINDOW), (1.1, START_WINDOW)])
def test_one_slow_answer_within_a_window_keeps_it_as_it_is(took_s: float, window: int) -> None:
    pace = Pace(PATIENCE_S)
    answer(pace, START_WINDOW // 2, sent_s=0.0, took_s=0.0)
    answer(pace, 1, sent_s=0.0, took_s=took_s)
    answer(pace, START_WINDOW // 2, sent_s=0.0, took_s=0.0)
    assert pace.window == window


@pytest.mark.parametrize(("took_s", "window"), [(1.9, START_WINDOW), (2.1, START_WINDOW // 2)])
def test_a_late_answer_halves_it(took_s: float, window: int) -> None:
    pace = Pace(PATIENCE_S)
    answer(pace, 1, sent_s=0.0, took_s=0.0)
    answer(pace, 1, sent_s=0.0, took_s=took_s)
    assert pace.window == window


def test_what_was_sent_before_a_change_does_not_change_it_again() -> None:
    pace = Pace(PATIENCE_S)
    answer(pace, 1, sent_s=0.0, took_s=0.0)
    answer(pace, 400, sent_s=0.0, took_s=5.0)
    answer(pace, 400, sent_s=1.0, took_s=0.5)
    assert pace.window == START_WINDOW // 2
    answer(pace, 1, sent_s=5.0, took_s=3.0)
    assert pace.window == START_WINDOW // 4


def test_far_away_is_not_slow() -> None:
    pace = Pace(PATIENCE_S)
    for number in range(10):
        answer(pace, MAX_WINDOW, sent_s=number * 100.0, took_s=30.0)
    assert pace.window == MAX_WINDOW


def pauses(pace: Pace, n_taken: int, count: int) -> list[float]:
    """The pauses, if each time so many events are taken before the next is not."""
    now_s, found = 0.0, []
    for _ in range(count):
        answer(pace, n_taken, sent_s=now_s, took_s=0.0)
        pace.limited(now_s, now_s)
        found.append(pace.wait_s(now_s))
        now_s += found[-1]
        assert pace.wait_s(now_s) == 0
    return found


def test_pauses_grow_while_they_are_of_no_use() -> None:
    pace = Pace(PATIENCE_S)
    assert pauses(pace, 0, 8) == [0.25, 0.5, 1, 2, 4, 8, MAX_PAUSE_S, MAX_PAUSE_S]
    assert not pace.is_hopeless
    assert pauses(pace, ENOUGH_TAKEN - 1, 1) == [MAX_PAUSE_S]
    assert pace.is_hopeless


def test_pauses_shrink_while_they_are() -> None:
    pace = Pace(PATIENCE_S)
    pauses(pace, 0, 5)
    assert pauses(pace, ENOUGH_TAKEN, 6) == [2, 1, 0.5, FIRST_PAUSE_S, FIRST_PAUSE_S, FIRST_PAUSE_S]


@pytest.mark.parametrize(("patience_s", "count"), [(1.0, 3), (1.8, 4), (60.0, 9), (0.1, 1)])
def test_a_peer_that_never_takes_any_is_given_up(patience_s: float, count: int) -> None:
    pace = Pace(patience_s)
    hopeless = []
    for _ in range(count):
        pauses(pace, 0, 1)
        hopeless.append(pace.is_hopeless)
    assert hopeless == [False] * (count - 1) + [True]
    answer(pace, 1000, sent_s=1e9, took_s=0.0)
    pace.limited(1e9, 1e9)
    assert pace.is_hopeless, "there is no way back"


def test_what_was_sent_before_it_was_known_is_one_refusal() -> None:
    pace = Pace(PATIENCE_S)
    for _ in range(START_WINDOW):
        pace.limited(1.0, 2.0)
    assert pace.window == 1
    assert pace.wait_s(2.0) == FIRST_PAUSE_S
    answer(pace, 1000, sent_s=1.5, took_s=0.6)
    assert pace.window == 1


def test_it_doubles_up_to_half_of_what_was_too_much_and_grows_by_one_from_there() -> None:
    pace, windows = Pace(PATIENCE_S), []
    pace.limited(0.0, 0.0)
    for now_s in range(1, 13):
        windows.append(pace.window)
        answer(pace, pace.window, sent_s=now_s, took_s=0.0)
    assert windows == [1, 2, 4, 8, 16, 32, 64, 128, 250, 251, 252, 253]


def test_a_late_answer_does_not_widen_a_narrow_window() -> None:
    pace = Pace(PATIENCE_S)
    pace.limited(0.0, 0.0)
    answer(pace, 1, sent_s=1.0, took_s=0.0)
    assert pace.window == 2
    answer(pace, 1, sent_s=2.0, took_s=5.0)
    assert pace.window == 2


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100), st.integers(1, 5000), st.booleans()), max_size=20))
def test_it_stays_within_its_bounds(answers: list[tuple[float, float, int, bool]]) -> None:
    pace = Pace(PATIENCE_S)
    for sent_s, took_s, count, is_limited in answers:
        if is_limited:
            pace.limited(sent_s, sent_s + took_s)
        else:
            answer(pace, count, sent_s=sent_s, took_s=took_s)
        assert 1 <= pace.window <= MAX_WINDOW
        assert 0 <= pace.wait_s(sent_s + took_s) <= MAX_PAUSE_S + 200


@dataclass(slots=True, kw_only=True)
class PlayedPush:
    """A push to a peer that is played; events that are refused are sent once more, after all others.

    Attributes:
        per_second: What the peer takes.
        round_trip_s: How far away it is.
        bucket: Its limit on rates.
        now_s: The time of the last answer.
        waits_s: How long each event waited for its answer.
        windows: After each answer.
        tries: How often each event that was taken had been refused.
    """

    per_second: float
    round_trip_s: float
    bucket: TokenBucket = field(default_factory=lambda: TokenBucket(0, 0, 0.0))
    pace: Pace = field(default_factory=lambda: Pace(PATIENCE_S))
    now_s: float = 0.0
    waits_s: list[float] = field(default_factory=list)
    windows: list[int] = field(default_factory=list)
    tries: list[int] = field(default_factory=list)

    def run(self, n_events: int) -> None:
        queue, on_the_way = deque([0] * n_events), deque[tuple[float, float, int, bool]]()
        busy_until_s = 0.0
        while (queue or on_the_way) and not self.pace.is_hopeless:
            pause_s = self.pace.wait_s(self.now_s)
            while queue and not pause_s and len(on_the_way) < self.pace.window:
                begun_s = max(busy_until_s, self.now_s + self.round_trip_s / 2)
                is_taken = self.bucket.take(begun_s)
                busy_until_s = begun_s + (1 if is_taken else 0.1) / self.per_second
                on_the_way.append((self.now_s, busy_until_s + self.round_trip_s / 2, queue.popleft(), is_taken))
            if not on_the_way:
                self.now_s += pause_s
                continue
            sent_s, self.now_s, n_tries, is_taken = on_the_way.popleft()
            if is_taken:
                self.pace.answered(sent_s, self.now_s)
                self.tries.append(n_tries)
            else:
                self.pace.limited(sent_s, self.now_s)
                queue.append(n_tries + 1)
            self.waits_s.append(self.now_s - sent_s)
            self.windows.append(self.pace.window)


@pytest.mark.parametrize("per_second", [2_000, 10_000, 40_000])
@pytest.mark.parametrize("round_trip_s", [0.0, 0.001, 0.1])
def test_a_peer_that_can_is_kept_busy(per_second: float, round_trip_s: float) -> None:
    push = PlayedPush(per_second=per_second, round_trip_s=round_trip_s)
    push.run(60_000)
    assert push.now_s < 60_000 / min(per_second, MAX_WINDOW / max(round_trip_s, 0.001)) + 10 * round_trip_s + 1


@pytest.mark.parametrize("per_second", [10, 40, 200, 500])
@pytest.mark.parametrize("round_trip_s", [0.0, 0.1, 3.0])
def test_little_piles_up_in_front_of_a_slow_peer(per_second: float, round_trip_s: float) -> None:
    push = PlayedPush(per_second=per_second, round_trip_s=round_trip_s)
    push.run(5_000)
    assert max(push.waits_s[3_000:]) < max(2 * (round_trip_s + QUICK_S), MIN_WINDOW / per_second) + 0.1
    assert push.now_s < 5_000 / per_second + 10 * round_trip_s + 1


@given(st.floats(1, 50_000), st.floats(0, 5))
def test_the_window_comes_to_rest(per_second: float, round_trip_s: float) -> None:
    push = PlayedPush(per_second=per_second, round_trip_s=round_trip_s)
    push.run(10_000)
    assert len(set(push.windows[6_000:])) <= 2


@pytest.mark.parametrize("round_trip_s", [0.001, 0.1])
@pytest.mark.parametrize(
    ("rate", "burst", "n_events"), [(2_000, 10_000, 50_000), (500, 1_000, 20_000), (10, 10, 1_000), (10, 600, 1_500)]
)
def test_the_rate_of_a_peer_is_found(rate: float, burst: float, n_events: int, round_trip_s: float) -> None:
    push = PlayedPush(per_second=6_000, round_trip_s=round_trip_s, bucket=TokenBucket(rate, burst, 0.0))
    push.run(n_events)
    assert len(push.tries) == n_events
    assert push.now_s < 1.1 * (n_events - burst) / rate + 2
    assert sum(each >= MAX_TRIES for each in push.tries) <= n_events / 1000
    assert len(push.windows) < (2 if rate < 100 else 1.25) * n_events + 4 * START_WINDOW


def test_a_peer_that_takes_too_few_is_given_up() -> None:
    push = PlayedPush(per_second=6_000, round_trip_s=0.1, bucket=TokenBucket(MIN_PER_SECOND / 5, 10, 0.0))
    push.run(1_000)
    assert push.pace.is_hopeless
    assert 10 < len(push.tries) < 200
    assert push.now_s < 2 * PATIENCE_S
