"""The window of a push, against peers that are played: each takes so many events a second, in order, from so far."""

from collections import deque
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orly.sync.negentropy.pace import MAX_WINDOW, MIN_WINDOW, QUICK_S, START_WINDOW, Pace


def answer(pace: Pace, count: int, *, sent_s: float, took_s: float) -> None:
    """So many events are answered at once."""
    for _ in range(count):
        pace.answered(sent_s, sent_s + took_s)


def test_it_doubles_when_a_whole_window_was_quick() -> None:
    pace = Pace()
    answer(pace, START_WINDOW - 1, sent_s=0.0, took_s=0.1)
    assert pace.window == START_WINDOW
    answer(pace, 1, sent_s=0.0, took_s=0.1)
    assert pace.window == 2 * START_WINDOW


@pytest.mark.parametrize(("took_s", "window"), [(0.9, 2 * START_WINDOW), (1.1, START_WINDOW)])
def test_one_slow_answer_within_a_window_keeps_it_as_it_is(took_s: float, window: int) -> None:
    pace = Pace()
    answer(pace, START_WINDOW // 2, sent_s=0.0, took_s=0.0)
    answer(pace, 1, sent_s=0.0, took_s=took_s)
    answer(pace, START_WINDOW // 2, sent_s=0.0, took_s=0.0)
    assert pace.window == window


@pytest.mark.parametrize(("took_s", "window"), [(1.9, START_WINDOW), (2.1, START_WINDOW // 2)])
def test_a_late_answer_halves_it(took_s: float, window: int) -> None:
    pace = Pace()
    answer(pace, 1, sent_s=0.0, took_s=0.0)
    answer(pace, 1, sent_s=0.0, took_s=took_s)
    assert pace.window == window


def test_what_was_sent_before_a_change_does_not_change_it_again() -> None:
    pace = Pace()
    answer(pace, 1, sent_s=0.0, took_s=0.0)
    answer(pace, 400, sent_s=0.0, took_s=5.0)
    answer(pace, 400, sent_s=1.0, took_s=0.5)
    assert pace.window == START_WINDOW // 2
    answer(pace, 1, sent_s=5.0, took_s=3.0)
    assert pace.window == START_WINDOW // 4


def test_far_away_is_not_slow() -> None:
    pace = Pace()
    for number in range(10):
        answer(pace, MAX_WINDOW, sent_s=number * 100.0, took_s=30.0)
    assert pace.window == MAX_WINDOW


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100), st.integers(1, 5000)), max_size=20))
def test_it_stays_within_its_bounds(answers: list[tuple[float, float, int]]) -> None:
    pace = Pace()
    for sent_s, took_s, count in answers:
        answer(pace, count, sent_s=sent_s, took_s=took_s)
        assert MIN_WINDOW <= pace.window <= MAX_WINDOW


@dataclass(slots=True, kw_only=True)
class PlayedPush:
    """A push of more events than ever fit, to a peer that is played.

    Attributes:
        per_second: What the peer takes.
        round_trip_s: How far away it is.
        now_s: The time of the last answer.
        waits_s: How long each event waited for its answer.
        windows: After each answer.
    """

    per_second: float
    round_trip_s: float
    now_s: float = 0.0
    waits_s: list[float] = field(default_factory=list)
    windows: list[int] = field(default_factory=list)

    def run(self, n_events: int) -> None:
        pace, on_the_way = Pace(), deque[tuple[float, float]]()
        busy_until_s = 0.0
        while len(self.windows) < n_events:
            while len(on_the_way) < pace.window:
                busy_until_s = max(busy_until_s, self.now_s + self.round_trip_s / 2) + 1 / self.per_second
                on_the_way.append((self.now_s, busy_until_s + self.round_trip_s / 2))
            sent_s, self.now_s = on_the_way.popleft()
            pace.answered(sent_s, self.now_s)
            self.waits_s.append(self.now_s - sent_s)
            self.windows.append(pace.window)


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
    assert max(push.waits_s[3_000:]) < 2 * (round_trip_s + QUICK_S) + 0.1
    assert push.now_s < 5_000 / per_second + 10 * round_trip_s + 1


@given(st.floats(1, 50_000), st.floats(0, 5))
def test_the_window_comes_to_rest(per_second: float, round_trip_s: float) -> None:
    push = PlayedPush(per_second=per_second, round_trip_s=round_trip_s)
    push.run(10_000)
    assert len(set(push.windows[6_000:])) <= 2
