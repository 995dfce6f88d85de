"""The limits of a day (mode `curating`) at this door: events are counted before they are stored, and reported after."""

import asyncio
import logging
import secrets
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Final

import msgspec

from orly.access import snapshot as counted
from orly.access.commands import CommandError
from orly.access.control import REPORTER_BYTES, AccessControl, ControlError, Use, UseMark
from orly.access.curating import refuse_over
from orly.access.snapshot import DAY_S, Snapshot
from orly.intake.verdict import FULL_TODAY
from orly.nostr.event import EncodedEvent
from orly.nostr.reason import Prefix, Refusal

__all__ = ["DayLimits"]

REPORT_S: Final = 0.02
"""How long counts are gathered before they are reported, so that other processes know them soon."""

RETRY_S: Final = 1.0

MAX_REPORTED: Final = 5_000
"""Authors, each with a place, in one report: half a megabyte."""

MAX_UNREPORTED: Final = 100_000
"""Counts kept while access control is away, 20 MB; of more, no events are taken that have to be counted."""

_NOT_COUNTED: Final = Refusal(Prefix.ERROR, "events cannot be counted for the limits of the day, try again later")
_NOTHING: Final[Mapping[bytes | str, int]] = {}

log = logging.getLogger(__name__)


class _Report(msgspec.Struct, frozen=True):
    """Told until it is known to be counted."""

    uses: list[Use]
    mark: UseMark


class DayLimits:
    """Counts what this process takes beside what is known to be counted; used from one event loop.

    Every event counts once: as this process's own until it is reported; from then on the count that is known must
    have got as far as it was then and what was reported, whichever of that and the answer is heard of first.
    """

    def __init__(self, access: AccessControl, loop: asyncio.AbstractEventLoop, now_s: Callable[[], int]) -> None:
        self._access = access
        self._loop = loop
        self._now_s = now_s
        self._day = now_s() // DAY_S
        self._own: dict[bytes | str, int] = {}
        self._stored: dict[tuple[bytes, str], int] = {}
        self._over: dict[str, bytes] = {}
        self._report: _Report | None = None
        self._least: dict[bytes | str, int] = {}
        self._reporter = secrets.token_bytes(REPORTER_BYTES)
        self._n_reports = 0
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[bool] | None = None

    def take(self, snapshot: Snapshot, event: EncodedEvent, place: str) -> Refusal | None:
        """Count an event that is to be stored; the refusal if its author, or the place, has had enough today."""
        config = snapshot.curating
        if config is None:
            return None
        self._look_at_the_clock()
        used = snapshot.used if snapshot.day >= self._day else _NOTHING
        refusal = self._refuse(used, event.pubkey, place)
        if refusal is not None:
            return refusal
        n_of_author = self._count(used, event.pubkey)
        n_from_place = self._count(used, place) if place else None
        refusal = refuse_over(config, n_of_author, n_from_place)
        if refusal is None:
            self._add(event.pubkey, place, 1)
        elif n_from_place is not None and n_from_place >= min(config.daily_limit, config.ip_daily_limit):
            self._note_offence(event.pubkey, place)
        return refusal

    def settle(self, event: EncodedEvent, place: str, *, is_stored: bool) -> None:
        """Say what became of an event that was counted."""
        self._look_at_the_clock()
        if not is_stored:
            self._add(event.pubkey, place, -1)
            return
        key = (event.pubkey, place)
        self._stored[key] = self._stored.get(key, 0) + 1
        self._schedule(REPORT_S)

    # Counting

    def _look_at_the_clock(self) -> None:
        day = self._now_s() // DAY_S
        if day == self._day:
            return
        self._day = day
        for (pubkey, place), count in self._stored.items():
            self._add(pubkey, place, -count)
        self._stored, self._over, self._least = {}, {}, {}
        self._report = None

    def _count(self, used: Mapping[bytes | str, int], who: bytes | str) -> int:
        return max(used.get(who, 0), self._least.get(who, 0)) + self._own.get(who, 0)

    def _refuse(self, used: Mapping[bytes | str, int], pubkey: bytes, place: str) -> Refusal | None:
        if max(len(self._own), len(self._stored)) >= MAX_UNREPORTED:
            return _NOT_COUNTED
        if len(used) >= counted.MAX_COUNTED and (pubkey not in used or (place and place not in used)):
            return FULL_TODAY
        return None

    def _note_offence(self, pubkey: bytes, place: str) -> None:
        if len(self._over) < MAX_REPORTED:
            self._over[place] = pubkey
            self._schedule(REPORT_S)

    def _add(self, pubkey: bytes, place: str, n_events: int) -> None:
        for who in (pubkey, place):
            if not who:
                continue
            count = self._own.get(who, 0) + n_events
            if count:
                self._own[who] = count
            else:
                self._own.pop(who, None)

    # Reporting

    @property
    def _has_more(self) -> bool:
        return bool(self._report or self._stored or self._over)

    def _schedule(self, delay_s: float) -> None:
        if self._timer is None and self._task is None:
            self._timer = self._loop.call_later(delay_s, self._start_to_tell)

    def _start_to_tell(self) -> None:
        self._timer = None
        self._task = self._loop.create_task(self._tell())
        self._task.add_done_callback(self._told)

    def _told(self, task: asyncio.Task[bool]) -> None:
        self._task = None
        if not task.cancelled() and task.exception() is not None:
            log.error("counting for the limits of the day failed", exc_info=task.exception())
        if self._has_more:
            is_told = not task.cancelled() and task.exception() is None and task.result()
            self._schedule(REPORT_S if is_told else RETRY_S)

    async def _tell(self) -> bool:
        """Report what there is, or again what was not answered; False if there was no answer."""
        report = self._report or self._next_report()
        self._report = report
        try:
            await self._access.used(report.uses, mark=report.mark)
        except ControlError as error:
            log.warning("events could not be counted for the limits of the day yet: %s", error)
            return False
        except CommandError as error:
            log.error("%d counts for the limits of the day are lost: %s", len(report.uses), error)
        if self._report is report:
            self._report, self._least = None, {}
        return True

    def _next_report(self) -> _Report:
        snapshot = self._access.snapshot
        used = _NOTHING if snapshot is None or snapshot.day < self._day else snapshot.used
        stored = dict(islice(self._stored.items(), MAX_REPORTED))
        over, self._over = self._over, {}
        for (pubkey, place), count in stored.items():
            del self._stored[pubkey, place]
            self._add(pubkey, place, -count)
            for who in (pubkey, place) if place else (pubkey,):
                self._least[who] = self._least.get(who, used.get(who, 0)) + count
        uses = [Use(pubkey, place, count) for (pubkey, place), count in stored.items()]
        uses += [Use(pubkey, place, 0, was_over=True) for place, pubkey in over.items()]
        self._n_reports += 1
        return _Report(uses, UseMark(self._reporter, self._n_reports, self._day))

    async def close(self) -> None:
        """Report what is left, as far as it is answered."""
        if self._task is not None:
            await asyncio.wait((self._task,))
        self._stop_timer()
        while self._has_more and await self._tell():
            pass
        self._stop_timer()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
