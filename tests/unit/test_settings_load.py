import pytest
from pydantic import BaseModel, ConfigDict

from orly.settings_load import MAX_QUOTED_CHARACTERS, group, quoted, table, validate
from orly.settings_types import Count, Duration, SecretKey

_field = group("Things")


class Sample(BaseModel):
    """A table of three rows."""

    model_config = ConfigDict(validate_default=True)

    things: Count = _field("X_THINGS", "3", "How many things.", ge=1, le=9)
    wait_s: Duration = _field("X_WAIT", "1m", "How long to wait.", ge=0.5)
    key: SecretKey = _field("X_KEY", "", "A key.")


ROWS = table(Sample)


def test_rows_say_what_the_fields_say() -> None:
    things, wait, key = ROWS
    assert (things.attr, things.env, things.default, things.group) == ("things", "X_THINGS", "3", "Things")
    assert (things.help, things.least, things.most) == ("How many things.", 1, 9)
    assert (wait.least, wait.most, wait.form.name) == (0.5, None, "duration")
    assert (key.least, key.most, key.form.is_secret) == (None, None, True)


def test_good_values_make_the_model() -> None:
    model, problems = validate(Sample, ROWS, {"X_THINGS": "9"}, {"X_THINGS": "environment"})
    assert model == Sample.model_construct(things=9, wait_s=60.0, key=None)
    assert problems == {}


def test_bad_values_are_named_and_the_good_ones_still_count() -> None:
    values = {"X_THINGS": "10", "X_WAIT": "2s", "X_KEY": "nonsense"}
    sources = {"X_THINGS": "environment", "X_WAIT": "environment", "X_KEY": "file /k"}
    model, problems = validate(Sample, ROWS, values, sources)
    assert model == Sample.model_construct(things=3, wait_s=2.0, key=None)
    assert problems == {
        "X_THINGS": 'X_THINGS="10": must be at most 9',
        "X_KEY": "X_KEY: neither nsec1... nor 64 hex digits (file /k)",
    }


def test_a_bad_default_is_a_problem_too() -> None:
    class Broken(BaseModel):
        model_config = ConfigDict(validate_default=True)

        things: Count = _field("X_THINGS", "0", "How many things.", ge=1)

    model, problems = validate(Broken, table(Broken), {}, {})
    assert model is None
    assert problems == {"X_THINGS": 'X_THINGS="0": must be at least 1 (default)'}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("plain é", '"plain é"'),
        ("a\nb\x1b\u2028\ud800", r'"a\nb\x1b\u2028\ud800"'),
        ("key NSEC1QQQQ!", '"key nsec1...!"'),
        ("x" * MAX_QUOTED_CHARACTERS, '"' + "x" * MAX_QUOTED_CHARACTERS + '"'),
        ("x" * (MAX_QUOTED_CHARACTERS + 1), '"' + "x" * MAX_QUOTED_CHARACTERS + '..."'),
    ],
)
def test_how_values_are_quoted(value: str, text: str) -> None:
    assert quoted(value) == text
