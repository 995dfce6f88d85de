"""The counts of a day, and who went over its limits."""

import pytest

from orly.access import snapshot
from orly.access.control import Use, UseMark
from orly.access.curating import CuratingConfig
from orly.acl import usage
from orly.acl.usage import MAX_OFFENDERS, MAX_REPORTERS, Offenders, Reporters, count_uses

KEY, OTHER = b"\x01" * 32, b"\x02" * 32
PLACE, ELSEWHERE = "192.0.2.1", "2001:db8::/64"
HOUR_S = 3600


def test_a_use_counts_for_its_author_and_its_place() -> None:
    assert count_uses({}, [Use(KEY, PLACE, 2), Use(OTHER, PLACE, 3)]) == {KEY: 2, PLACE: 5, OTHER: 3}
    used: dict[bytes | str, int] = {KEY: 2, PLACE: 5}
    assert count_uses(used, [Use(KEY, ELSEWHERE, 1), Use(KEY, PLACE, 1)]) == {KEY: 4, ELSEWHERE: 1, PLACE: 6}
    assert used == {KEY: 2, PLACE: 5}


def test_an_unknown_place_and_no_events_count_for_nothing() -> None:
    assert count_uses({}, [Use(KEY, "", 1), Use(OTHER, PLACE, 0, was_over=True)]) == {KEY: 1}


def test_newcomers_are_not_counted_where_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    assert snapshot.MAX_COUNTED == 1_000_000
    monkeypatch.setattr(snapshot, "MAX_COUNTED", 3)
    used: dict[bytes | str, int] = {KEY: 1, PLACE: 1}
    uses = [Use(OTHER, "", 1), Use(bytes(32), PLACE, 1), Use(OTHER, ELSEWHERE, 1), Use(KEY, "", 1)]
    assert count_uses(used, uses) == {OTHER: 2, PLACE: 2, KEY: 2}


def test_a_report_counts_once() -> None:
    reporters = Reporters()
    assert reporters.is_new(UseMark(b"a", 1, 7))
    assert not reporters.is_new(UseMark(b"a", 1, 7))
    assert reporters.is_new(UseMark(b"b", 1, 7))
    assert reporters.is_new(UseMark(b"a", 3, 7))
    assert not reporters.is_new(UseMark(b"a", 2, 8))


def test_the_reporter_that_is_quiet_the_longest_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_REPORTERS == 1_000
    monkeypatch.setattr(usage, "MAX_REPORTERS", 2)
    reporters = Reporters()
    assert all(reporters.is_new(UseMark(name, 1, 7)) for name in (b"a", b"b"))
    assert reporters.is_new(UseMark(b"a", 2, 7))
    assert reporters.is_new(UseMark(b"c", 1, 7))
    assert len(reporters) == 2
    assert not reporters.is_new(UseMark(b"a", 2, 7))
    assert reporters.is_new(UseMark(b"b", 1, 7))


def test_the_first_offence_and_all_others() -> None:
    offenders, config = Offenders(), CuratingConfig(first_ban_hours=2, second_ban_hours=5)
    for count, hours in ((1, 2), (2, 5), (3, 5)):
        assert offenders.next_offence(PLACE, config) == (count, hours * HOUR_S)
        assert offenders.next_offence(PLACE, config) == (count, hours * HOUR_S), "it was not noted yet"
        assert offenders.remember(PLACE, count) == []
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
