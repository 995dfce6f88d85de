"""The configuration of the mode `curating`: as tags, as JSON, and all that is neither."""

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.factory import make_event
from tests.strategies import QUICK, texts

from orly.access.curating import (
    CATEGORIES,
    CONFIG_D,
    CONFIG_KIND,
    MAX_BAN_HOURS,
    MAX_LIMIT,
    CuratingConfig,
    CuratingConfigError,
    is_config,
    parse_config,
)
from orly.nostr.event import Event


def config_event(*tags: tuple[str, ...], content: str = "{}", d: str = CONFIG_D, kind: int = CONFIG_KIND) -> Event:
    return make_event(kind=kind, tags=[("d", d), *tags], content=content).event


def test_what_wants_to_be_a_configuration() -> None:
    assert is_config(config_event())
    assert not is_config(config_event(kind=30_000))
    assert not is_config(config_event(d="other"))
    assert not is_config(make_event(kind=CONFIG_KIND).event)


def test_tags_are_read() -> None:
    event = config_event(
        ("daily_limit", "10"),
        ("ip_daily_limit", "100"),
        ("first_ban_hours", "0"),
        ("second_ban_hours", "24"),
        ("kind_category", "social"),
        ("kind_category", "dm"),
        ("kind", "7"),
        ("kind", "65535"),
        ("kind_range", "10-20"),
        ("kind_range", "5-5"),
        content='{"dailyLimit": 99}',
    )
    assert parse_config(event) == CuratingConfig(
        daily_limit=10,
        ip_daily_limit=100,
        first_ban_hours=0,
        second_ban_hours=24,
        categories=("social", "dm"),
        kinds=(7, 65_535),
        ranges=((10, 20), (5, 5)),
    )


def test_what_is_not_said_has_the_documented_value() -> None:
    for event in (config_event(), config_event(content=""), config_event(("kind", "1"), content="no JSON")):
        config = parse_config(event)
        assert (config.daily_limit, config.ip_daily_limit) == (50, 500)
        assert (config.first_ban_hours, config.second_ban_hours) == (1, 168)


def test_json_is_read_where_no_tag_says_anything() -> None:
    content = {
        "dailyLimit": 1,
        "ipDailyLimit": 2,
        "firstBanHours": 3,
        "secondBanHours": 4,
        "allowedKinds": [1],
        "allowedRanges": ["5-6"],
        "kindCategories": ["lists"],
        "unknown": True,
    }
    config = parse_config(config_event(("title", "x"), content=json.dumps(content)))
    assert (config.daily_limit, config.ip_daily_limit, config.first_ban_hours, config.second_ban_hours) == (1, 2, 3, 4)
    assert (config.kinds, config.ranges, config.categories) == ((1,), ((5, 6),), ("lists",))


@pytest.mark.parametrize(
    ("name", "key", "most"),
    [
        ("daily_limit", "dailyLimit", MAX_LIMIT),
        ("ip_daily_limit", "ipDailyLimit", MAX_LIMIT),
        ("first_ban_hours", "firstBanHours", MAX_BAN_HOURS),
        ("second_ban_hours", "secondBanHours", MAX_BAN_HOURS),
    ],
)
def test_numbers_at_their_bounds(name: str, key: str, most: int) -> None:
    for value in (0, most):
        for event in (config_event((name, str(value))), config_event(content=json.dumps({key: value}))):
            assert getattr(parse_config(event), name) == value
    for event in (
        config_event((name, str(most + 1))),
        *(config_event(content=json.dumps({key: value})) for value in (-1, most + 1)),
    ):
        with pytest.raises(CuratingConfigError, match=f"{name} must be from 0 to {most}"):
            parse_config(event)


@pytest.mark.parametrize(
    ("tag", "words"),
    [
        (("daily_limit", "-1"), "daily_limit must be a whole number, not '-1'"),
        (("daily_limit", "1.5"), "daily_limit must be a whole number"),
        (("daily_limit", ""), "daily_limit must be a whole number"),
        (("daily_limit", "\u0661"), "daily_limit must be a whole number"),
        (("daily_limit", "1" * 5000), "daily_limit must be a whole number"),
        (("kind", "65536"), "kind 65536 is not from 0 to 65535"),
        (("kind", "x"), "kind must be a whole number"),
        (("kind_category", "nonsense"), "kind_category 'nonsense' is none of social, dm"),
        (("kind_range", "2-1"), "kind_range must be two kinds"),
        (("kind_range", "1-65536"), "kind_range must be two kinds"),
        (("kind_range", "1"), "kind_range must be two kinds"),
        (("kind_range", "-1-2"), "kind_range must be two kinds"),
    ],
)
def test_tags_that_cannot_be_read(tag: tuple[str, str], words: str) -> None:
    with pytest.raises(CuratingConfigError, match=words):
        parse_config(config_event(tag))


def test_a_limit_that_is_there_twice() -> None:
    with pytest.raises(CuratingConfigError, match="daily_limit is there more than once"):
        parse_config(config_event(("daily_limit", "1"), ("daily_limit", "2")))


@pytest.mark.parametrize(
    "content", ["x", "[]", '{"dailyLimit": "1"}', '{"allowedKinds": [-1]}', '{"allowedRanges": [1]}', "[" * 100_000]
)
def test_content_that_cannot_be_read(content: str) -> None:
    with pytest.raises(CuratingConfigError):
        parse_config(config_event(content=content))


@QUICK
@given(texts(), st.sampled_from(["daily_limit", "kind", "kind_range", "kind_category", "other"]))
def test_any_text_is_read_or_refused_by_name(text: str, name: str) -> None:
    for event in (config_event((name, text)), config_event(content=text)):
        with suppress(CuratingConfigError):
            assert isinstance(parse_config(event), CuratingConfig)


def test_every_category_has_kinds() -> None:
    for name, kinds in CATEGORIES.items():
        event = config_event(("kind_category", name))
        assert all(parse_config(event).takes_kind(kind) for kind in kinds), name
        assert not parse_config(event).takes_kind(29_999)
