"""The limits of a day at one door: every event counts once, whatever becomes of the reports."""

import asyncio
from collections.abc import Collection
from typing import Final

import pytest
from tests.component.async_test import async_test
from tests.factory import NOW_S, fake_event
from tests.wsclient import DEADLINE_S, until

from orly.access import snapshot as counted
from orly.access.commands import CommandError
from orly.access.control import ControlError, Use, UseMark
from orly.access.curating import CuratingConfig
from orly.access.levels import Mode
from orly.access.snapshot import DAY_S, CuratingChange, DayChange, Rules, Snapshot, UseChange
from orly.acl.usage import Reporters, count_uses
from orly.nostr.event import EncodedEvent
from orly.relay import day_limits
from orly.relay.day_limits import DayLimits

PLACE: Final = "192.0.2.1"
ELSEWHERE: Final = "2001:db8::/64"
TOO_MANY: Final = "rate-limited: 5 events a day are taken of an author who is not trusted"


class Service:
    """Counts as the service does; a test decides when it is heard of, and when it answers.

    Attributes:
        snapshot: What is known at the door.
        reports: What came, as it came.
        errors: What the next reports are answered with.
    """

    def __init__(self, config: CuratingConfig) -> None:
        self.snapshot = Snapshot(Rules(mode=Mode.CURATING))
        self.snapshot.apply(CuratingChange(config))
        self.snapshot.apply(DayChange(NOW_S // DAY_S))
        self.reports: list[tuple[list[Use], UseMark]] = []
        self.errors: list[ControlError | CommandError | None] = []
        self.answers = asyncio.Event()
        self.answers.set()
        self.is_heard = True
        self._reporters = Reporters()
        self._used: dict[bytes | str, int] = {}

    async def used(self, uses: Collection[Use], *, mark: UseMark | None = None) -> None:
        assert mark is not None
        self.reports.append((list(uses), mark))
        if self._reporters.is_new(mark):
            self._used |= count_uses(self._used, uses)
        if self.is_heard:
            self.hear()
        await self.answers.wait()
        self.hear()
        error = self.errors.pop(0) if self.errors else None
        if error is not None:
            raise error

    def hear(self) -> None:
        for who, count in self._used.items():
            self.snapshot.apply(UseChange(who, count))


class Door:
    """One process's limits.

    Attributes:
        now: The time.
    """

    def __init__(self, service: Service) -> None:
        self.now = NOW_S
        self.service = service
        self.limits = DayLimits(service, asyncio.get_running_loop(), lambda: self.now)  # type: ignore[arg-type]

    def take(self, number: int = 0, place: str = PLACE) -> str:
        """Why an event is refused; empty if it is taken, and then it is stored."""
        refusal = self.limits.take(self.service.snapshot, event_of(number), place)
        if refusal is not None:
            return str(refusal)
        self.limits.settle(event_of(number), place, is_stored=True)
        return ""


def event_of(number: int) -> EncodedEvent:
    return fake_event(number % 8)


def door(*, daily: int = 5, by_place: int = 100) -> Door:
    return Door(Service(CuratingConfig(daily_limit=daily, ip_daily_limit=by_place)))


async def reported(at: Door, count: int) -> None:
    await until(lambda: len(at.service.reports) >= count, "the reports")


@pytest.mark.parametrize("is_heard", [True, False], ids=["heard before the answer", "heard after"])
@async_test
async def test_an_event_on_its_way_counts_once(is_heard: bool) -> None:
    at = door()
    at.service.is_heard = is_heard
    at.service.answers.clear()
    assert [at.take() for _ in range(3)] == [""] * 3
    await reported(at, 1)
    assert at.take() == "", "three are counted, whether that was heard or not"
    at.service.answers.set()
    await reported(at, 2)
    await until(lambda: at.service.snapshot.used == {event_of(0).pubkey: 4, PLACE: 4}, "the counts")
    assert at.take() == ""
    assert at.take() == TOO_MANY
    await at.limits.close()


@async_test
async def test_what_others_count_is_added() -> None:
    at = door()
    at.service.answers.clear()
    at.service.is_heard = False
    assert [at.take() for _ in range(2)] == [""] * 2
    await reported(at, 1)
    at.service.snapshot.apply(UseChange(event_of(0).pubkey, 4))
    assert at.take() == ""
    assert at.take() == TOO_MANY
    at.service.answers.set()
    await at.limits.close()


@async_test
async def test_a_report_without_an_answer_is_told_again_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(day_limits, "RETRY_S", 0.01)
    at = door()
    at.service.errors = [ControlError("too slow"), ControlError("too slow"), None]
    assert at.take() == ""
    await reported(at, 1)
    assert at.take() == ""
    await reported(at, 4)
    uses = [Use(event_of(0).pubkey, PLACE, 1)]
    assert [told for told, _ in at.service.reports] == [uses] * 4
    marks = [mark.number for _, mark in at.service.reports]
    assert marks == [1, 1, 1, 2]
    assert at.service.snapshot.used == {event_of(0).pubkey: 2, PLACE: 2}
    await at.limits.close()


@async_test
async def test_a_report_that_makes_no_sense_is_dropped() -> None:
    at = door()
    at.service.errors = [CommandError("nonsense")]
    assert at.take() == ""
    await reported(at, 1)
    await at.limits.close()
    assert len(at.service.reports) == 1


@async_test
async def test_an_event_that_is_not_stored_costs_nothing() -> None:
    at = door(daily=1)
    for _ in range(3):
        assert at.limits.take(at.service.snapshot, event_of(0), PLACE) is None
        at.limits.settle(event_of(0), PLACE, is_stored=False)
    assert at.take() == ""
    await at.limits.close()
    assert at.service.snapshot.used == {event_of(0).pubkey: 1, PLACE: 1}


@async_test
async def test_another_day_begins_with_nothing() -> None:
    at = door(daily=2)
    at.service.answers.clear()
    assert [at.take(), at.take()[:13]] == ["", ""]
    assert at.take().startswith("rate-limited: ")
    await reported(at, 1)
    at.now = (NOW_S // DAY_S + 1) * DAY_S
    assert at.service.snapshot.day < at.now // DAY_S, "that is not heard of here yet"
    assert [at.take(), at.take()] == ["", ""]
    assert at.take().startswith("rate-limited: ")
    at.service.answers.set()
    await at.limits.close()
    (first, yesterday), (second, today) = at.service.reports
    assert [use.n_events for use in first + second if not use.was_over] == [2, 2]
    assert (yesterday.day, today.day) == (NOW_S // DAY_S, NOW_S // DAY_S + 1)


@async_test
async def test_what_was_not_reported_by_midnight_counts_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(day_limits, "REPORT_S", DEADLINE_S)
    at = door(daily=2)
    assert [at.take(), at.take()] == ["", ""]
    at.limits.take(at.service.snapshot, event_of(1), PLACE)
    at.now += DAY_S
    assert [at.take(), at.take()] == ["", ""]
    at.limits.settle(event_of(1), PLACE, is_stored=True)
    await at.limits.close()
    ((uses, mark),) = at.service.reports
    assert mark.day == at.now // DAY_S
    assert {use.pubkey: use.n_events for use in uses} == {event_of(0).pubkey: 2, event_of(1).pubkey: 1}


@async_test
async def test_an_address_offends_only_by_what_it_brought_itself() -> None:
    at = door(daily=2)
    assert [at.take(place=ELSEWHERE), at.take(place=ELSEWHERE)] == ["", ""]
    assert at.take().startswith("rate-limited: 2 events a day are taken of an author"), "others have used that up"
    assert at.take(place="").startswith("rate-limited: ")
    assert [at.take(1), at.take(1)] == ["", ""]
    assert at.take(1).startswith("rate-limited: ")
    await at.limits.close()
    over = [use for uses, _ in at.service.reports for use in uses if use.was_over]
    assert over == [Use(event_of(1).pubkey, PLACE, 0, was_over=True)]


@async_test
async def test_the_limit_of_an_address() -> None:
    at = door(by_place=3)
    assert [at.take(number) for number in range(3)] == [""] * 3
    assert at.take(3) == "rate-limited: 3 events a day are taken of one address"
    assert at.take(3, ELSEWHERE) == ""
    assert [at.take(number, "") for number in range(4)] == [""] * 4, "loopback is not counted"
    await at.limits.close()
    over = [use for uses, _ in at.service.reports for use in uses if use.was_over]
    assert over == [Use(event_of(3).pubkey, PLACE, 0, was_over=True)]


@async_test
async def test_many_counts_are_told_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(day_limits, "MAX_REPORTED", 3)
    at = door()
    assert [at.take(number) for number in range(7)] == [""] * 7
    await reported(at, 3)
    assert [len(uses) for uses, _ in at.service.reports] == [3, 3, 1]
    await at.limits.close()
    assert at.service.snapshot.used[PLACE] == 7


@async_test
async def test_no_more_is_taken_than_can_be_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert day_limits.MAX_UNREPORTED == 100_000
    monkeypatch.setattr(day_limits, "MAX_UNREPORTED", 3)
    monkeypatch.setattr(day_limits, "RETRY_S", 0.01)
    at = door()
    assert [at.take(0), at.take(1)] == ["", ""]
    assert at.take(2) == "error: events cannot be counted for the limits of the day, try again later"
    await at.limits.close()
    assert at.take(2) == ""
    await at.limits.close()


@async_test
async def test_newcomers_wait_for_tomorrow_where_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counted, "MAX_COUNTED", 4)
    at = door()
    full = "rate-limited: too many authors and addresses have written today, come back tomorrow"
    for who in (event_of(0).pubkey, event_of(1).pubkey, PLACE):
        at.service.snapshot.apply(UseChange(who, 1))
    assert at.take(2) == ""
    await reported(at, 1)
    await until(lambda: len(at.service.snapshot.used) == 4, "the count")
    assert at.take(3) == full
    assert at.take(0, ELSEWHERE) == full
    assert [at.take(0), at.take(0, "")] == ["", ""]
    at.now += DAY_S
    assert at.take(3) == ""
    await at.limits.close()
