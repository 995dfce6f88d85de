"""How often programs may crash, and how long to wait before they are started again."""

from collections import defaultdict, deque
from dataclasses import dataclass
from typing import Final

__all__ = ["Crash", "CrashBudget"]

_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Crash:
    """What follows from a crash.

    Attributes:
        count: Crashes of the program within the window, this one included.
        is_over: They are more than allowed.
        pause_s: How long to wait before the program is started again.
    """

    count: int
    is_over: bool
    pause_s: float


class CrashBudget:
    """Counts crashes of each program within a sliding window.

    The pause doubles with each crash in the window, up to five seconds, or to the window's share of one crash if
    that is less: whoever allows many crashes wants programs back soon.

    Args:
        limit: Crashes of one program that are allowed within the window.
        window_s: The time in which they count.
    """

    def __init__(self, *, limit: int, window_s: float) -> None:
        self.limit: Final = limit
        self.window_s: Final = window_s
        self._longest_pause_s = min(_LONGEST_PAUSE_S, max(_FIRST_PAUSE_S, window_s / limit))
        self._times_s: defaultdict[str, deque[float]] = defaultdict(deque)

    def record(self, program: str, now_s: float) -> Crash:
        """Counts a crash.

        Args:
            program: The program's name; all its processes count together.
            now_s: The time, on a clock that never runs backwards.
        """
        times_s = self._times_s[program]
        times_s.append(now_s)
        while times_s[0] <= now_s - self.window_s:
            times_s.popleft()
        count = len(times_s)
        pause_s = _FIRST_PAUSE_S * 2.0 ** min(count - 1, 16)
        return Crash(count=count, is_over=count > self.limit, pause_s=min(pause_s, self._longest_pause_s))
