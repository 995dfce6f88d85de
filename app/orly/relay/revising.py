"""Has all sessions look again at what they may do, soon after the lists have changed."""

import asyncio
from typing import Final

from orly.relay.context import SessionContext

__all__ = ["Revising"]

GATHER_S: Final = 0.02
"""Changes that follow each other this closely are one: each look costs a few microseconds a session."""


class Revising:
    """Made, and used, on the event loop of the sessions."""

    def __init__(self, context: SessionContext) -> None:
        self._context = context
        self._timer: asyncio.TimerHandle | None = None
        self._leave = None if context.access is None else context.access.listen(self._changed)

    def _changed(self) -> None:
        if self._timer is None:
            self._timer = self._context.loop.call_later(GATHER_S, self._revise)

    def _revise(self) -> None:
        self._timer = None
        for session in tuple(self._context.sessions):
            session.revise()

    def close(self) -> None:
        """Hear of nothing more."""
        if self._leave is not None:
            self._leave()
        if self._timer is not None:
            self._timer.cancel()
