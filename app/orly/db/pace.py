"""Long work on the event loop in short turns."""

import asyncio
from collections.abc import Callable
from typing import Final

__all__ = ["SLICE_S", "Pace"]

SLICE_S: Final = 0.003
"""Loop time that a long piece of work takes at a stretch, as a query does."""


class Pace:
    """Lets the loop do other things whenever the work has had its slice.

    Args:
        monotonic_s: A steady clock.
    """

    __slots__ = ("_end_s", "_monotonic_s")

    def __init__(self, monotonic_s: Callable[[], float]) -> None:
        self._monotonic_s = monotonic_s
        self._end_s = monotonic_s() + SLICE_S

    async def rest(self) -> None:
        """Between two steps of the work: go on at once, or let everything else that is ready have its turn."""
        if self._monotonic_s() >= self._end_s:
            await asyncio.sleep(0)
            self.restart()

    def restart(self) -> None:
        """The loop has just had its turn."""
        self._end_s = self._monotonic_s() + SLICE_S
