"""Checking the signatures of many events on two cores."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from orly.nostr.event import EncodedEvent
from orly.nostr.signing import verify_events

__all__ = ["MIN_SHARED_EVENTS", "Verifier"]

MIN_SHARED_EVENTS: Final = 16
"""From this many signatures on, a second thread checks half of them."""


class Verifier:
    """Checks signatures in batches; used from one thread."""

    def __init__(self, *, share: bool) -> None:
        """With `share`, half of a large batch goes to a second thread; for processes that can use a second core."""
        self._pool = ThreadPoolExecutor(1, "orly-verify") if share else None

    def verify(self, events: Sequence[EncodedEvent]) -> list[bool]:
        """Whether each event's author signed it.

        The caller waits for both halves. Were it to go on, it would hold the interpreter lock whenever the other
        thread comes back for it, once per signature, and a batch would take seconds.
        """
        if self._pool is None or len(events) < MIN_SHARED_EVENTS:
            return verify_events(events)
        middle = len(events) // 2
        theirs = self._pool.submit(verify_events, events[middle:])
        return verify_events(events[:middle]) + theirs.result()

    def close(self) -> None:
        """End the second thread."""
        if self._pool is not None:
            self._pool.shutdown(wait=False)
