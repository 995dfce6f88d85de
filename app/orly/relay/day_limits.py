"""The limits of a day (mode `curating`) at this door: events are counted before they are stored, and reported after."""

import asyncio
import logging
from typing import Final

from orly.access.control import AccessControl, ControlError, Use
from orly.access.snapshot import Snapshot
from orly.intake.verdict import A_DAY
from orly.nostr.event import EncodedEvent
from orly.nostr.reason import Prefix, Refusal

__all__ = ["DayLimits"]

REPORT_S: Final = 0.02
"""How long counts are gathered before they are reported, so that other processes know them soon."""

RETRY_S: Final = 1.0

log = logging.getLogger(__name__)


class DayLimits:
    """Counts what this process takes beside what is known to be counted; used from one event loop."""

    def __init__(self, access: AccessControl, loop: asyncio.AbstractEventLoop) -> None:
        self._access = access
        self._loop = loop
        self._own: dict[bytes | str, int] = {}
        self._stored: dict[tuple[bytes, str], int] = {}
        self._over: dict[str, bytes] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    def take(self, snapshot: Snapshot, event: EncodedEvent, address: str) -> Refusal | None:
        """Count an event that is to be stored; the refusal if its author, or the address, has had enough today."""
        config = snapshot.curating
        if config is None:
            return None
        if self._count(snapshot, event.pubkey) >= config.daily_limit:
            most, who = config.daily_limit, "an author who is not trusted"
        elif address and self._count(snapshot, address) >= config.ip_daily_limit:
            most, who = config.ip_daily_limit, "one address"
        else:
            self._add(event.pubkey, address, 1)
            return None
        if address:
            self._over[address] = event.pubkey
            self._schedule(REPORT_S)
        return Refusal(Prefix.RATE_LIMITED, f"{most} {A_DAY} of {who}")

    def settle(self, event: EncodedEvent, address: str, *, is_stored: bool) -> None:
        """Say what became of an event that was counted."""
        if not is_stored:
            self._add(event.pubkey, address, -1)
            return
        key = (event.pubkey, address)
        self._stored[key] = self._stored.get(key, 0) + 1
        self._schedule(REPORT_S)

    def _count(self, snapshot: Snapshot, who: bytes | str) -> int:
        return snapshot.used.get(who, 0) + self._own.get(who, 0)

    def _add(self, pubkey: bytes, address: str, n_events: int) -> None:
        for who in (pubkey, address):
            if not who:
                continue
            count = self._own.get(who, 0) + n_events
            if count:
                self._own[who] = count
            else:
                self._own.pop(who, None)

    def _schedule(self, delay_s: float) -> None:
        if self._timer is None and self._task is None:
            self._timer = self._loop.call_later(delay_s, self._report)

    def _report(self) -> None:
        self._timer = None
        self._task = self._loop.create_task(self._tell())
        self._task.add_done_callback(self._told)

    def _told(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if not task.cancelled() and task.exception() is not None:
            log.error("counting for the limits of the day failed", exc_info=task.exception())
        if self._stored or self._over:
            self._schedule(RETRY_S)

    async def _tell(self) -> None:
        stored, self._stored = self._stored, {}
        over, self._over = self._over, {}
        uses = [Use(pubkey, address, count) for (pubkey, address), count in stored.items()]
        uses += [Use(pubkey, address, 0, was_over=True) for address, pubkey in over.items()]
        try:
            await self._access.used(uses)
        except ControlError as error:
            log.warning("events could not be counted for the limits of the day yet: %s", error)
            for key, count in stored.items():
                self._stored[key] = self._stored.get(key, 0) + count
            self._over = over | self._over
            return
        for (pubkey, address), count in stored.items():
            self._add(pubkey, address, -count)

    async def close(self) -> None:
        """Report what is left."""
        if self._task is not None:
            await asyncio.wait((self._task,))
        self._stop_timer()
        if self._stored or self._over:
            await self._tell()
        self._stop_timer()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
