"""Who waits for the write policy's judgement, about which events it was asked, and whose time is up."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from orly.intake.plugin_lines import Asked, Judgement, question

__all__ = ["Call", "Ledger"]


@dataclass(slots=True, eq=False)
class Call:
    """Events that are judged together.

    Attributes:
        asked: The events.
        judgements: One for each; until it is known, what an event gets that could not be asked about.
        came_s: When they came, on the steady clock.
        done: Ends when every judgement is known or the time is up; then nothing here changes any more.
        n_written: How many the plugin was asked about; these are the first ones.
        n_open: How many judgements are not known.
    """

    asked: Sequence[Asked]
    judgements: list[Judgement]
    came_s: float
    done: "asyncio.Future[None]"
    n_written: int = 0
    n_open: int = field(init=False)

    def __post_init__(self) -> None:
        self.n_open = len(self.asked)


@dataclass(slots=True, eq=False)
class _Question:
    """An event in flight; it stays until it is answered, even if nobody waits for it any more."""

    call: Call
    index: int
    event_id: str
    written_s: float


class Ledger:
    """Calls that wait and questions in flight. It starts nothing; times are seconds of a steady clock.

    Two clocks run. A call has failed when `timeout_s` have passed since it came in which nothing at all was answered.
    The plugin is overdue when it has had `timeout_s` for one question: since it was written or, if that was later,
    since the last question before it was answered, for a plugin may well take one after the other.

    Args:
        timeout_s: See above.
        max_in_flight: Questions that the plugin has at once.
    """

    def __init__(self, *, timeout_s: float, max_in_flight: int) -> None:
        self._timeout_s = timeout_s
        self._max_in_flight = max_in_flight
        self._calls: OrderedDict[Call, None] = OrderedDict()
        self._unwritten: deque[Call] = deque()
        self._in_flight: OrderedDict[_Question, None] = OrderedDict()
        self._by_id: dict[str, deque[_Question]] = {}
        self._answered_s = float("-inf")
        self._turn_s = float("-inf")

    @property
    def n_in_flight(self) -> int:
        """Questions without an answer."""
        return len(self._in_flight)

    def is_in_flight(self, event_id: str) -> bool:
        """Whether an answer about this event is awaited."""
        return event_id in self._by_id

    def add(self, call: Call) -> None:
        """A call comes; it has at least one event."""
        self._calls[call] = None
        self._unwritten.append(call)

    def drop(self, call: Call) -> None:
        """Nobody waits for this call any more, if it is still here. What was asked stays in flight."""
        if call in self._calls:
            del self._calls[call]
            if call.n_written < len(call.asked):
                self._unwritten.remove(call)

    def next_line(self, now_s: float) -> bytes | None:
        """The next question to write, which is in flight from now on; None if there is none or too many are.

        Calls take turns, so that one event does not wait for the thousand that came in one call before it.
        """
        if not self._unwritten or len(self._in_flight) >= self._max_in_flight:
            return None
        call = self._unwritten.popleft()
        asked = call.asked[call.n_written]
        written = _Question(call, call.n_written, asked.event.event.id, now_s)
        call.n_written += 1
        if call.n_written < len(call.asked):
            self._unwritten.append(call)
        self._in_flight[written] = None
        same = self._by_id.get(written.event_id)
        if same is None:
            self._by_id[written.event_id] = deque((written,))
        else:
            same.append(written)
        return question(asked)

    def answer(self, event_id: str, judgement: Judgement, now_s: float) -> bool:
        """Settle the oldest question about this event; False if there is none."""
        same = self._by_id.get(event_id)
        if same is None:
            return False
        answered = same.popleft()
        if not same:
            del self._by_id[event_id]
        if answered is next(iter(self._in_flight)):
            self._turn_s = now_s
        del self._in_flight[answered]
        self._answered_s = now_s
        self._settle(answered, judgement)
        return True

    def lose_in_flight(self) -> int:
        """The plugin is gone: what it was asked has failed. Returns how many questions that were."""
        lost = list(self._in_flight)
        self._in_flight.clear()
        self._by_id.clear()
        for each in lost:
            self._settle(each, None)
        return len(lost)

    def give_up(self) -> None:
        """Every call has failed."""
        self.lose_in_flight()
        for call in list(self._calls):
            self._finish(call)

    def expire(self, now_s: float) -> bool:
        """Fail the calls whose time is up; returns whether the plugin is overdue."""
        latest_s = now_s - self._timeout_s
        if self._answered_s <= latest_s:
            for call in list(self._calls):
                if call.came_s > latest_s:
                    break
                self._finish(call)
        return bool(self._in_flight) and self._oldest_s() <= latest_s

    def deadline_s(self) -> float | None:
        """When `expire` has something to do next at the earliest; None if nothing is awaited."""
        starts = []
        if self._calls:
            starts.append(max(next(iter(self._calls)).came_s, self._answered_s))
        if self._in_flight:
            starts.append(self._oldest_s())
        return min(starts) + self._timeout_s if starts else None

    def _oldest_s(self) -> float:
        """Since when the plugin has had the time for the oldest question in flight."""
        return max(next(iter(self._in_flight)).written_s, self._turn_s)

    def _settle(self, answered: _Question, judgement: Judgement | None) -> None:
        call = answered.call
        if call not in self._calls:
            return
        if judgement is not None:
            call.judgements[answered.index] = judgement
        call.n_open -= 1
        if call.n_open == 0:
            self._finish(call)

    def _finish(self, call: Call) -> None:
        self.drop(call)
        if not call.done.done():
            call.done.set_result(None)
