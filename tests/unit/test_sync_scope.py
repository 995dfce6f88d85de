import pytest
from tests.settings_environment import load_with, problems

from orly.nostr.event import MAX_CREATED_AT
from orly.nostr.filter import Filter
from orly.sync.negentropy.scope import narrowed, scope_from_settings

KEY = "67dea2ed018072d675f5415ecfaed7d2597555e202d85b3d65ea4e58d2d92ffa"
NAME = "ORLY_SYNC_NEGENTROPY_FILTER"


def scope(**variables: str) -> Filter:
    """The scope with these variables, by what follows the common name."""
    return scope_from_settings(load_with(**{f"{NAME}{name}": value for name, value in variables.items()}).settings)


def test_nothing_given_is_everything() -> None:
    assert scope() == Filter()


def test_a_filter_is_taken_whole() -> None:
    assert scope(**{"": f'{{"kinds":[1],"#t":["a","b"],"ids":["{KEY}"],"limit":7,"until":9}}'}) == Filter(
        kinds=frozenset({1}), tags={"t": frozenset({"a", "b"})}, ids=frozenset({KEY}), limit=7, until=9
    )


@pytest.mark.parametrize(
    ("variables", "wanted"),
    [
        ({"_KINDS": "0, 1,30000"}, Filter(kinds=frozenset({0, 1, 30000}))),
        ({"_AUTHORS": KEY}, Filter(authors=frozenset({KEY}))),
        ({"_SINCE": "5"}, Filter(since=5)),
        ({"_UNTIL": "0"}, Filter(until=0)),
        ({"": '{"kinds":[1],"since":3}', "_KINDS": "2"}, Filter(kinds=frozenset({2}), since=3)),
        ({"": '{"since":3,"until":9}', "_SINCE": "0", "_UNTIL": "10"}, Filter(since=0, until=10)),
    ],
)
def test_single_variables_override_the_keys_of_the_filter(variables: dict[str, str], wanted: Filter) -> None:
    assert scope(**variables) == wanted


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("", '{"kinds":1}', "kinds"),
        ("", "{", "not JSON"),
        ("", '{"search":"x"}', "search"),
        ("_KINDS", "1,70000", "70000 is not a kind"),
        ("_AUTHORS", "me", ""),
        ("_SINCE", "yesterday", "not a time"),
    ],
)
def test_what_is_no_filter_is_refused_by_name(name: str, value: str, why: str) -> None:
    (found,) = problems(**{NAME + name: value})
    assert found.startswith(f"{NAME}{name}=")
    assert why in found


def test_times_only_tighten() -> None:
    wanted = Filter(since=5, until=9)
    assert narrowed(wanted) == wanted
    assert narrowed(wanted, since_s=4, until_s=10) == wanted
    assert narrowed(wanted, since_s=6, until_s=8) == Filter(since=6, until=8)
    assert narrowed(Filter(), since_s=0, until_s=MAX_CREATED_AT) == Filter()
