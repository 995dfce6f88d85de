"""The counts of a day, and who went over its limits."""

import pytest

from orly.access.control import Use
from orly.access.curating import CuratingConfig
from orly.access.snapshot import UseChange
from orly.acl import usage
from orly.acl.usage import MAX_COUNTED, MAX_OFFENDERS, DailyUse, Offenders

KEY, OTHER = b"\x01" * 32, b"\x02" * 32
ADDRESS, ELSEWHERE = "192.0.2.1", "2001:db8::1"
HOUR_S = 3600


def test_a_use_counts_for_its_author_and_its_address() -> None:
    use = DailyUse(7)
    assert list(use.add([Use(KEY, ADDRESS, 2), Use(OTHER, ADDRESS, 3)])) == [
        UseChange(KEY, 2),
        UseChange(ADDRESS, 2),
        UseChange(OTHER, 3),
        UseChange(ADDRESS, 5),
    ]
    assert list(use.add([Use(KEY, ELSEWHERE, 1)])) == [UseChange(KEY, 3), UseChange(ELSEWHERE, 1)]
    assert use.counts == {KEY: 3, OTHER: 3, ADDRESS: 5, ELSEWHERE: 1}


def test_an_unknown_address_and_no_events_count_for_nothing() -> None:
    use = DailyUse(7)
    assert list(use.add([Use(KEY, "", 1), Use(OTHER, ADDRESS, 0, was_over=True)])) == [UseChange(KEY, 1)]
    assert use.counts == {KEY: 1}


def test_another_day_begins_with_nothing() -> None:
    use = DailyUse(7)
    list(use.add([Use(KEY, ADDRESS, 2)]))
    use.begin(8)
    assert (use.day, use.counts) == (8, {})
    assert list(use.add([Use(KEY, "", 1)])) == [UseChange(KEY, 1)]


def test_newcomers_are_not_counted_where_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_COUNTED == 1_000_000
    monkeypatch.setattr(usage, "MAX_COUNTED", 3)
    use = DailyUse(7)
    list(use.add([Use(KEY, ADDRESS, 1), Use(OTHER, "", 1)]))
    assert len(use.counts) == 3
    assert list(use.add([Use(bytes(32), ADDRESS, 1), Use(KEY, ELSEWHERE, 1)])) == [
        UseChange(ADDRESS, 2),
        UseChange(KEY, 2),
    ]
    assert set(use.counts) == {KEY, ADDRESS, OTHER}
    use.begin(8)
    assert list(use.add([Use(bytes(32), "", 1)])) == [UseChange(bytes(32), 1)]


def test_the_first_offence_and_all_others() -> None:
    offenders, config = Offenders(), CuratingConfig(first_ban_hours=2, second_ban_hours=5)
    for count, hours in ((1, 2), (2, 5), (3, 5)):
        assert offenders.next_offence(ADDRESS, config) == (count, hours * HOUR_S)
        assert offenders.next_offence(ADDRESS, config) == (count, hours * HOUR_S), "it was not noted yet"
        assert offenders.remember(ADDRESS, count) == []
    assert offenders.next_offence(ELSEWHERE, config) == (1, 2 * HOUR_S)
    assert offenders.next_offence(ELSEWHERE, CuratingConfig(first_ban_hours=0)) == (1, 0)
    assert len(offenders) == 1


def test_the_offence_that_is_longest_ago_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_OFFENDERS == 100_000
    monkeypatch.setattr(usage, "MAX_OFFENDERS", 3)
    offenders, config = Offenders(), CuratingConfig()
    assert [offenders.remember(address, 1) for address in "abc"] == [[], [], []]
    assert offenders.remember("a", 2) == []
    assert offenders.remember("d", 1) == ["b"]
    assert len(offenders) == 3
    assert [offenders.next_offence(address, config)[0] for address in "abcd"] == [3, 1, 2, 2]
