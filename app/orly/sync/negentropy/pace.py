"""How many events may be on their way to a peer without an answer. Pure: time is an argument."""

from typing import Final

__all__ = ["LATE_S", "MAX_WINDOW", "MIN_WINDOW", "QUICK_S", "START_WINDOW", "Pace"]

START_WINDOW: Final = 500
MAX_WINDOW: Final = 4000
"""Enough for a link of 100 ms round-trip time at 40,000 events/s; it is bounded by its bytes, too."""

MIN_WINDOW: Final = 16
"""However slow the peer is; there is a message and an answer for each event anyway."""

QUICK_S: Final = 1.0
"""A whole window of answers within this time lets the window double."""

LATE_S: Final = 2.0
"""An answer that takes longer lets it halve: whatever else is asked of the peer may have to wait behind so much."""


class Pace:
    """Finds a window that keeps the peer busy and does not pile up in front of it.

    How long an answer takes is counted from what the quickest so far took: a peer that is far away is not slow. Events
    sent before the last change of the window tell nothing about it as it is now.

    Attributes:
        window: Events that may be without an answer.
    """

    __slots__ = ("_changed_s", "_n_quick", "_quickest_s", "window")

    def __init__(self) -> None:
        self.window = START_WINDOW
        self._n_quick = 0
        self._changed_s = float("-inf")
        self._quickest_s = float("inf")

    def answered(self, sent_s: float, now_s: float) -> None:
        """Take in that an event was answered.

        Args:
            sent_s: When it was sent.
            now_s: The current time of the same steady clock.
        """
        took_s = now_s - sent_s
        self._quickest_s = min(self._quickest_s, took_s)
        if sent_s < self._changed_s:
            return
        late_s = took_s - self._quickest_s
        if late_s > LATE_S:
            self._change(max(self.window // 2, MIN_WINDOW), now_s)
        elif late_s >= QUICK_S:
            self._n_quick = 0
        else:
            self._n_quick += 1
            if self._n_quick >= self.window:
                self._change(min(self.window * 2, MAX_WINDOW), now_s)

    def _change(self, window: int, now_s: float) -> None:
        self._n_quick = 0
        if window != self.window:
            self.window = window
            self._changed_s = now_s
