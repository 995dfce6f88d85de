"""How many events may be on their way to a peer without an answer, and when none. Pure: time is an argument."""

from typing import Final

__all__ = [
    "ENOUGH_TAKEN",
    "FIRST_PAUSE_S",
    "LATE_S",
    "MAX_PAUSE_S",
    "MAX_TRIES",
    "MAX_WINDOW",
    "MIN_PER_SECOND",
    "MIN_WINDOW",
    "QUICK_S",
    "START_WINDOW",
    "Pace",
]

START_WINDOW: Final = 500
MAX_WINDOW: Final = 4000
"""Enough for a link of 100 ms round-trip time at 40,000 events/s; it is bounded by its bytes, too."""

MIN_WINDOW: Final = 100
"""However late the answers are: a relay may let every event of a stranger wait, and many at once."""

QUICK_S: Final = 1.0
"""A whole window of answers within this time lets the window double."""

LATE_S: Final = 2.0
"""An answer that takes longer lets it halve: whatever else is asked of the peer may have to wait behind so much."""

FIRST_PAUSE_S: Final = 0.25
MAX_PAUSE_S: Final = 16.0
"""Nothing is sent for so long after a `rate-limited:`, at least and at most."""

ENOUGH_TAKEN: Final = 4
"""If so many events are taken after a pause, the next one is half as long, otherwise twice."""

MIN_PER_SECOND: Final = 5
"""Who takes fewer events for each second of the pauses uses up our patience."""

MAX_TRIES: Final = 10
"""An event that got a `rate-limited:` so often is not sent again."""


class Pace:
    """Finds a window that keeps the peer busy without piling up in front of it, and keeps to its limit on rates.

    How long an answer takes is counted from what the quickest so far took: a peer that is far away is not slow. Events
    sent before the last change of the window tell nothing about it as it is now. After a `rate-limited:` and a pause
    it begins with a single event, doubles up to half of what it was, and grows by one from there.

    Args:
        patience_s: How long the pauses may be in all; what is taken in between makes up for some of it.

    Attributes:
        window: Events that may be without an answer.
        is_hopeless: Our patience is at its end: the peer takes too few.
    """

    __slots__ = (
        "_changed_s",
        "_max_patience_s",
        "_n_quick",
        "_n_taken",
        "_patience_s",
        "_pause_s",
        "_quickest_s",
        "_resume_s",
        "_soft_max",
        "is_hopeless",
        "window",
    )

    def __init__(self, patience_s: float) -> None:
        self.window = START_WINDOW
        self.is_hopeless = False
        self._soft_max = MAX_WINDOW
        self._n_quick = 0
        self._changed_s = self._resume_s = float("-inf")
        self._quickest_s = float("inf")
        self._patience_s = self._max_patience_s = patience_s
        self._pause_s = FIRST_PAUSE_S
        self._n_taken = ENOUGH_TAKEN

    def answered(self, sent_s: float, now_s: float) -> None:
        """Take in that an event was answered, by anything but `rate-limited:`.

        Args:
            sent_s: When it was sent.
            now_s: The current time of the same steady clock.
        """
        took_s = now_s - sent_s
        self._quickest_s = min(self._quickest_s, took_s)
        self._patience_s = min(self._patience_s + 1 / MIN_PER_SECOND, self._max_patience_s)
        if sent_s < self._changed_s:
            return
        self._n_taken += 1
        late_s = took_s - self._quickest_s
        if late_s > LATE_S:
            self._change(min(self.window, max(self.window // 2, MIN_WINDOW)), now_s)
        elif late_s >= QUICK_S:
            self._n_quick = 0
        else:
            self._n_quick += 1
            if self._n_quick >= self.window:
                self._change(self._grown(), now_s)

    def _grown(self) -> int:
        if self.window < self._soft_max:
            return min(self.window * 2, self._soft_max)
        return min(self.window + 1, MAX_WINDOW)

    def limited(self, sent_s: float, now_s: float) -> None:
        """Take in that an event was answered by `rate-limited:`; see `answered`."""
        if sent_s < self._changed_s:
            return
        has_helped = self._n_taken >= ENOUGH_TAKEN
        self._pause_s = min(max(self._pause_s * (0.5 if has_helped else 2.0), FIRST_PAUSE_S), MAX_PAUSE_S)
        self._n_taken = 0
        self._patience_s -= self._pause_s
        self.is_hopeless |= self._patience_s < 0
        self._resume_s = now_s + self._pause_s
        self._soft_max = max(self.window // 2, 1)
        self._change(1, now_s)

    def wait_s(self, now_s: float) -> float:
        """How long nothing is sent from now on; 0 if something may be."""
        return max(self._resume_s - now_s, 0.0)

    def _change(self, window: int, now_s: float) -> None:
        self._n_quick = 0
        if window != self.window:
            self.window = window
            self._changed_s = now_s
