"""SIGTERM and SIGINT: what the first one does is up to the work under way; the second always leaves at once."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

from orly.process.exit_codes import ExitCode

__all__ = ["STOP_SIGNALS", "StopFlag", "on_stop"]

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


def on_stop(first: Callable[[signal.Signals], object]) -> None:
    """From now on the next of these signals calls `first`, and one after that ends the process with status 1.

    Must be called on the main thread; `first` is called there, between any two steps of the program.
    """
    is_second = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal is_second
        del frame
        if is_second:
            os._exit(ExitCode.FAILED)
        is_second = True
        first(signal.Signals(number))

    for number in STOP_SIGNALS:
        signal.signal(number, handle)


class StopFlag:
    """Remembers that the process was told to stop, so that the work can end between two steps.

    Attributes:
        is_set: Whether it was.
    """

    def __init__(self) -> None:
        self.is_set = False
        self._may_raise = False
        on_stop(self._stop)

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """While this runs (a read that may wait for ever, a loop without steps), a stop is a `KeyboardInterrupt`.

        Raises:
            KeyboardInterrupt: Also when it was told to stop before.
        """
        self._may_raise = True
        try:
            if self.is_set:
                raise KeyboardInterrupt
            yield
        finally:
            self._may_raise = False

    def _stop(self, number: signal.Signals) -> None:
        del number
        self.is_set = True
        if self._may_raise:
            raise KeyboardInterrupt
