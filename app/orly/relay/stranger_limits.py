"""What is done about those who may publish only so much: by the clock (mode `follows`), or by the day (`curating`)."""

import asyncio
from collections.abc import Callable

from orly.access.control import AccessControl
from orly.access.levels import Mode
from orly.access.throttle import Throttle
from orly.nostr.event import EncodedEvent
from orly.nostr.reason import Refusal
from orly.relay.day_limits import DayLimits

__all__ = ["StrangerLimits"]


class StrangerLimits:
    """Made, and used, on one event loop.

    Args:
        access: Knows the mode.
        loop: The event loop.
        now_s: Unix time, which days go by.
        monotonic_s: Steady seconds.
    """

    def __init__(
        self,
        access: AccessControl,
        loop: asyncio.AbstractEventLoop,
        *,
        now_s: Callable[[], int],
        monotonic_s: Callable[[], float],
    ) -> None:
        self._access = access
        self._monotonic_s = monotonic_s
        self._day = DayLimits(access, loop, now_s)
        self._throttle: Throttle | None = None

    @property
    def are_on(self) -> bool:
        """Whether anybody is limited in this mode."""
        snapshot = self._access.snapshot
        if snapshot is None:
            return False
        mode = snapshot.rules.mode
        return mode is Mode.CURATING or (mode is Mode.FOLLOWS and snapshot.rules.throttles)

    def take(self, event: EncodedEvent, place: str) -> Refusal | None:
        """Count an event for the limits of the day; the refusal if there is no more."""
        snapshot = self._access.snapshot
        return None if snapshot is None else self._day.take(snapshot, event, place)

    def settle(self, event: EncodedEvent, place: str, *, is_stored: bool) -> None:
        """Say what became of an event that was counted."""
        self._day.settle(event, place, is_stored=is_stored)

    def delay_s(self, event: EncodedEvent, place: str) -> float:
        """How long an event waits; counts it."""
        snapshot = self._access.snapshot
        if snapshot is None:
            return 0.0
        if self._throttle is None:
            self._throttle = Throttle(snapshot.rules.throttle_increment_s, snapshot.rules.throttle_max_s)
        return self._throttle.delay_s(event.pubkey, place, self._monotonic_s())

    def take_back(self, event: EncodedEvent) -> None:
        """An event that has waited is not stored: its author, who may not have sent it, is not to wait for that."""
        if self._throttle is not None:
            self._throttle.take_back(event.pubkey)

    async def close(self) -> None:
        """Report what is left."""
        await self._day.close()
