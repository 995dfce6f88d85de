"""Filters: strict reading, every limit at its edge, and matching against an obvious matcher."""

import json
from collections.abc import Mapping
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.factory import KEYS, fake_event
from tests.strategies import QUICK, events, filters, junk_json, to_json

from orly.nostr.event import MAX_CREATED_AT, EncodedEvent, Event
from orly.nostr.filter import MAX_LIMIT, Filter, FilterError, FilterLimits, matches, parse_filter
from orly.nostr.kinds import MAX_KIND
from orly.nostr.tags import TAG_LETTERS

_LIMITS: Final = FilterLimits(max_values=10)
_HEX: Final = "0123456789abcdef" * 4


def _parse(**data: object) -> Filter:
    return parse_filter(data, _LIMITS)


def _refusal(data: object) -> FilterError:
    with pytest.raises(FilterError) as caught:
        parse_filter(data, _LIMITS)
    return caught.value


def _obviously_matches(data: Mapping[str, Any], event: Event) -> bool:
    """NIP-01's rule, condition by condition, over the filter as a client wrote it."""
    for key, wanted in data.items():
        if key == "ids" and event.id not in wanted:
            return False
        if key == "authors" and event.pubkey not in wanted:
            return False
        if key == "kinds" and event.kind not in wanted:
            return False
        if key == "since" and event.created_at < wanted:
            return False
        if key == "until" and event.created_at > wanted:
            return False
        if key.startswith("#"):
            found = [tag[1] for tag in event.tags if len(tag) >= 2 and tag[0] == key[1:]]
            if not set(found) & set(wanted):
                return False
    return True


def test_an_empty_filter_asks_for_everything() -> None:
    wanted = _parse()
    assert wanted == Filter()
    assert not wanted.matches_nothing()
    assert matches(wanted, fake_event(created_at=0).event)
    assert matches(wanted, fake_event(created_at=MAX_CREATED_AT).event)


def test_every_condition_is_read() -> None:
    data = {"ids": [_HEX], "authors": [KEYS[0]], "kinds": [1, 7], "since": 5, "until": 9, "limit": 3, "#e": ["x"]}
    assert parse_filter(data, _LIMITS) == Filter(
        ids=frozenset({_HEX}),
        authors=frozenset({KEYS[0]}),
        kinds=frozenset({1, 7}),
        tags={"e": frozenset({"x"})},
        since=5,
        until=9,
        limit=3,
    )


def test_every_letter_is_a_tag_filter_in_both_cases() -> None:
    assert len(TAG_LETTERS) == 52
    wanted = parse_filter({f"#{letter}": [letter] for letter in TAG_LETTERS}, _LIMITS)
    assert wanted.tags == {letter: frozenset({letter}) for letter in TAG_LETTERS}
    both = {"#p": ["a"], "#P": ["b"]}
    assert matches(parse_filter(both, _LIMITS), fake_event(tags=[["p", "a"], ["P", "b"]]).event)
    assert not matches(parse_filter(both, _LIMITS), fake_event(tags=[["p", "a"], ["p", "b"]]).event)


@pytest.mark.parametrize("value", ["", "x", "not hex", _HEX.upper(), "30023:x:y", "\x00😀"])
def test_tag_values_are_any_text(value: str) -> None:
    for key in ("#e", "#p", "#a", "#d"):
        assert parse_filter({key: [value]}, _LIMITS).tags[key[1]] == {value}


@pytest.mark.parametrize(
    "key", ["search", "#ab", "#", "#1", "##", "#é", "# e", "e", "&t", "Ids", "id", "kind", "", "#e ", "\ud800"]
)
def test_an_unknown_key_is_unsupported_and_named(key: str) -> None:
    error = _refusal({"kinds": [1], key: ["x"]})
    assert error.unsupported
    assert repr(key) in str(error)
    str(error).encode()


def test_a_long_unknown_key_is_not_repeated_in_full() -> None:
    assert len(str(_refusal({"k" * 100_000: []}))) < 100


@pytest.mark.parametrize("data", [None, 1, "x", [], [{}], True, 1.5])
def test_a_filter_must_be_an_object(data: object) -> None:
    error = _refusal(data)
    assert not error.unsupported
    assert "object" in str(error)


@pytest.mark.parametrize("key", ["ids", "authors", "kinds", "#e", "#T"])
@pytest.mark.parametrize("value", [None, "x", 1, {}, True, [None], [[]], [{}], [True], [1.0], [1.5]])
def test_a_list_of_the_wrong_type_is_refused_by_name(key: str, value: object) -> None:
    error = _refusal({key: value})
    assert not error.unsupported
    assert key in str(error)


@pytest.mark.parametrize("key", ["ids", "authors"])
@pytest.mark.parametrize(
    "value",
    ["", "x", _HEX[:-1], _HEX + "0", _HEX.upper(), _HEX[:-1] + "g", _HEX[:-1] + " ", _HEX + "\n", "\uff10" * 64],
)
def test_ids_and_authors_are_exactly_64_lower_case_hex_digits(key: str, value: str) -> None:
    assert getattr(parse_filter({key: [_HEX]}, _LIMITS), key) == {_HEX}
    error = _refusal({key: [_HEX, value]})
    assert key in str(error)
    assert len(str(error)) < 200


def test_kinds_are_in_the_range_of_events() -> None:
    assert _parse(kinds=[0, MAX_KIND, 0]).kinds == frozenset({0, MAX_KIND})
    for kind in (-1, MAX_KIND + 1, 2**70, "1", 1.0, True):
        assert "kinds" in str(_refusal({"kinds": [kind]}))


@pytest.mark.parametrize("key", ["ids", "authors", "kinds", "#e"])
def test_a_list_may_have_as_many_values_as_the_limit_and_no_more(key: str) -> None:
    values: list[Any] = list(range(11)) if key == "kinds" else [f"{n:064x}" for n in range(11)]
    parse_filter({key: values[:10]}, _LIMITS)
    assert str(_refusal({key: values})) == f"filter {key} has 11 values, the maximum is 10"
    assert "11 values" in str(_refusal({key: values[:1] * 11}))


def test_the_limit_of_values_is_for_each_list() -> None:
    values = [f"{n:064x}" for n in range(10)]
    wanted = parse_filter({"ids": values, "authors": values, "#e": values, "#p": values}, _LIMITS)
    assert len(wanted.tags) == 2


@pytest.mark.parametrize("key", ["since", "until", "limit"])
@pytest.mark.parametrize("value", [None, "1", 1.0, 1e3, True, False, [1], {}])
def test_a_number_must_be_an_integer(key: str, value: object) -> None:
    assert key in str(_refusal({key: value}))


@pytest.mark.parametrize(
    ("value", "since", "until"),
    [
        (-(2**80), 0, -1),
        (-1, 0, -1),
        (0, 0, 0),
        (1, 1, 1),
        (MAX_CREATED_AT, MAX_CREATED_AT, MAX_CREATED_AT),
        (MAX_CREATED_AT + 1, MAX_CREATED_AT + 1, MAX_CREATED_AT),
        (2**64, MAX_CREATED_AT + 1, MAX_CREATED_AT),
        (10**4000, MAX_CREATED_AT + 1, MAX_CREATED_AT),
    ],
    ids=lambda value: str(value)[:20],
)
def test_times_beyond_the_range_mean_the_same_within_64_bits(value: int, since: int, until: int) -> None:
    for key, read in (("since", _parse(since=value).since), ("until", _parse(until=value).until)):
        assert read == (since if key == "since" else until)
        for created_at in (0, 1, MAX_CREATED_AT):
            event = fake_event(created_at=created_at).event
            assert matches(_parse(**{key: value}), event) == _obviously_matches({key: value}, event)


def test_both_ends_of_a_window_are_part_of_it() -> None:
    wanted = _parse(since=5, until=7)
    assert [t for t in range(10) if matches(wanted, fake_event(created_at=t).event)] == [5, 6, 7]


def test_a_limit_is_not_negative_and_never_larger_than_an_int32() -> None:
    assert _parse().limit is None
    assert [_parse(limit=n).limit for n in (0, 1, MAX_LIMIT)] == [0, 1, MAX_LIMIT]
    assert [_parse(limit=n).limit for n in (MAX_LIMIT + 1, 2**63, 10**4000)] == [MAX_LIMIT] * 3
    assert "limit" in str(_refusal({"limit": -1}))


def test_a_limit_of_zero_still_matches_live_events() -> None:
    wanted = _parse(limit=0)
    assert not wanted.matches_nothing()
    assert matches(wanted, fake_event().event)


@pytest.mark.parametrize(
    "data",
    [
        {"ids": []},
        {"authors": []},
        {"kinds": []},
        {"#e": []},
        {"#e": ["x"], "#p": []},
        {"since": 2, "until": 1},
        {"until": -1},
        {"since": MAX_CREATED_AT + 1},
    ],
)
def test_a_filter_that_can_match_nothing_says_so(data: dict[str, Any]) -> None:
    wanted = parse_filter(data, _LIMITS)
    assert wanted.matches_nothing()
    assert not matches(wanted, fake_event(created_at=1, tags=[["e", "x"]]).event)


def test_only_the_first_value_of_a_tag_counts_and_bare_tags_have_none() -> None:
    tags = [["t"], ["t", "first", "second"], ["title", "x"]]
    event = fake_event(tags=tags).event
    assert matches(_parse(**{"#t": ["first"]}), event)
    assert not matches(_parse(**{"#t": ["second", "", "t", "x"]}), event)


def test_a_window_of_one_second_matches_something() -> None:
    wanted = _parse(since=5, until=5)
    assert not wanted.matches_nothing()
    assert matches(wanted, fake_event(created_at=5).event)


@QUICK
@given(st.data(), st.lists(events(), min_size=1, max_size=4))
def test_matching_agrees_with_an_obvious_matcher(data: st.DataObject, some: list[EncodedEvent]) -> None:
    written = to_json(data.draw(filters(some)))
    wanted = parse_filter(json.loads(json.dumps(written)), _LIMITS)
    for event in some:
        expected = _obviously_matches(written, event.event)
        assert matches(wanted, event.event) == expected
        assert not (expected and wanted.matches_nothing())


@QUICK
@given(filters())
def test_a_filter_written_as_json_is_read_as_itself(wanted: Filter) -> None:
    assert parse_filter(to_json(wanted), _LIMITS) == wanted


@QUICK
@given(junk_json(), st.sampled_from(["ids", "authors", "kinds", "since", "until", "limit", "#e", "#é", "x"]))
def test_random_json_raises_nothing_else(junk: Any, key: str) -> None:
    for data in (junk, {key: junk}, {key: [junk]}):
        try:
            wanted = parse_filter(data, _LIMITS)
        except FilterError:
            continue
        assert parse_filter(to_json(wanted), _LIMITS) == wanted
