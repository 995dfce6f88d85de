"""From the plan to the text of `supervisord.conf`."""

import re
import shlex
from importlib.resources import files
from pathlib import Path
from typing import Final

import jinja2

import orly
from orly.appliance.plan import CONFIG_FILE, Plan

__all__ = ["render", "unusable_path"]

_TEMPLATE: Final = f"{CONFIG_FILE}.j2"
_COMMENT_SIGN: Final = re.compile(r"(\s)([;#])")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")


def render(plan: Plan) -> str:
    """The configuration of supervisord for what runs."""
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
    return environment.from_string(_template()).render(programs=programs)


def unusable_path(path: str) -> str | None:
    """Why a path cannot stand in the configuration; None if it can."""
    return "control characters cannot stand in supervisord.conf" if _CONTROL.search(path) else None


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
