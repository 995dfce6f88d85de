"""Rows of a settings table, and the check of given values against it.

What the settings are is none of this module's business: it is given a model whose fields are made by `setting`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from pydantic import BaseModel, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from orly.settings_types import Form

MAX_QUOTED_CHARACTERS: Final = 80

_SECRET_KEY: Final = re.compile(r"nsec1\w*", re.IGNORECASE)

Model = TypeVar("Model", bound=BaseModel)


class SettingsError(Exception):
    """The settings cannot be used.

    Attributes:
        problems: one line each, naming the variable; no line holds the value of a secret.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems: Final = tuple(problems)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One row of the settings table.

    Attributes:
        attr: the attribute of the settings object, with its unit.
        env: the variable.
        default: as it would be written in the environment; empty means unset.
        group: the heading under which the docs list it.
        help: what it is for, one line.
        form: how values are written.
        least: the smallest value allowed, in the attribute's unit; None is no bound.
        most: the largest value allowed, likewise.
    """

    attr: str
    env: str
    default: str
    group: str
    help: str
    form: Form
    least: float | None
    most: float | None


def group(title: str) -> Callable[..., Any]:
    """A maker of fields under one heading: `field(env, default, help, ge=None, le=None)`.

    The default is written as in the environment, so that a value has one notation; the annotation has a `Form`.
    """

    def field(env: str, default: str, help: str, ge: float | None = None, le: float | None = None) -> Any:
        return Field(default, validation_alias=env, description=help, json_schema_extra={"group": title}, ge=ge, le=le)

    return field


def table(model: type[BaseModel]) -> tuple[Setting, ...]:
    """The rows of a model whose fields were made with `group`, in their order."""
    return tuple(_row(attr, info) for attr, info in model.model_fields.items())


def _row(attr: str, info: FieldInfo) -> Setting:
    assert isinstance(info.validation_alias, str)
    assert isinstance(info.json_schema_extra, dict)
    return Setting(
        attr=attr,
        env=info.validation_alias,
        default=str(info.default),
        group=str(info.json_schema_extra["group"]),
        help=info.description or "",
        form=next(item for item in info.metadata if isinstance(item, Form)),
        least=_bound(info, "ge"),
        most=_bound(info, "le"),
    )


def _bound(info: FieldInfo, side: str) -> float | None:
    return next((bound for item in info.metadata if (bound := getattr(item, side, None)) is not None), None)


def validate(
    model: type[Model], rows: Sequence[Setting], values: Mapping[str, str], sources: Mapping[str, str]
) -> tuple[Model | None, dict[str, str]]:
    """Make the model of the given values.

    Returns:
        The model and the problems by variable. Where there are problems, the model is made of the good values
        alone, so that rules across settings can still be checked; None when even that cannot be made.
    """
    try:
        return model(**values), {}
    except ValidationError as error:
        wrong = {details["loc"][0]: details for details in error.errors()}
    problems = {
        row.env: _problem(row, details, values.get(row.env, row.default), sources.get(row.env, "default"))
        for row in rows
        # pydantic names a given value by its variable and a default by its attribute
        if (details := wrong.get(row.env) or wrong.get(row.attr)) is not None
    }
    try:
        return model(**{name: value for name, value in values.items() if name not in problems}), problems
    except ValidationError:
        return None, problems


def _problem(row: Setting, details: ErrorDetails, value: str, source: str) -> str:
    shown = row.env if row.form.is_secret else f"{row.env}={quoted(value)}"
    place = "" if source == "environment" else f" ({source})"
    context = details.get("ctx", {})
    match details["type"]:
        case "greater_than_equal":
            why = f"must be at least {row.form.show(row.least)}"
        case "less_than_equal":
            why = f"must be at most {row.form.show(row.most)}"
        case "value_error":
            why = str(context["error"])
        case _:
            why = details["msg"]
    return f"{shown}: {why}{place}"


def quoted(value: str) -> str:
    """A value in double quotes for a message of one line: shortened, escaped, and without any `nsec`."""
    text = _SECRET_KEY.sub("nsec1...", value)
    if len(text) > MAX_QUOTED_CHARACTERS:
        text = f"{text[:MAX_QUOTED_CHARACTERS]}..."
    return '"' + "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text) + '"'
