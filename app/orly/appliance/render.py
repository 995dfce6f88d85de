"""From the plan to the text of `supervisord.conf`."""

import re
import shlex
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Final

import jinja2

import orly
from orly.appliance.plan import CONFIG_FILE, Plan

__all__ = ["render", "unusable_path", "unusable_value"]

_TEMPLATE: Final = f"{CONFIG_FILE}.j2"
_COMMENT_SIGN: Final = re.compile(r"(\s)([;#])")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")


def render(plan: Plan, told: Mapping[str, str] | None = None) -> str:
    """The configuration of supervisord for what runs.

    Args:
        plan: What runs.
        told: Variables that it gives to the programs; see `unusable_value`.
    """
    environment = jinja2.Environment(  # noqa: S701  (the result is no HTML)
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    programs = [
        {
            "name": program.name,
            "command": _command(program.path),
            "processes": program.processes,
            "priority": program.priority,
            "start_s": program.start_s,
            "start_retries": program.start_retries,
            "stop_s": program.stop_s,
        }
        for program in plan.programs
    ]
    return environment.from_string(_template()).render(programs=programs, variables=told or {})


def unusable_path(path: str) -> str | None:
    """Why a path cannot stand in the configuration; None if it can."""
    return "control characters cannot stand in supervisord.conf" if _CONTROL.search(path) else None


def unusable_value(value: str) -> str | None:
    """Why a variable's value cannot stand in the configuration, where nothing has an escape; None if it can."""
    if _CONTROL.search(value) or _COMMENT_SIGN.search(value) or set(value) & set("'\"%"):
        return "quotes, %, comment signs after a space and control characters cannot stand in supervisord.conf"
    return None


def _template() -> str:
    """The template: inside an installed package, else at the top of the checkout."""
    packaged = files("orly.appliance") / _TEMPLATE
    if packaged.is_file():
        return packaged.read_text(encoding="utf-8")
    return (Path(orly.__file__).parents[2] / _TEMPLATE).read_text(encoding="utf-8")


def _command(path: str) -> str:
    """A path that survives the parser (comments after white space), its expansion (%) and its splitting (quotes)."""
    quoted = _COMMENT_SIGN.sub(r"\1''\2", shlex.quote(path))
    return quoted.replace("%", "%%")
