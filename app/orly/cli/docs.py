"""Writes what the docs say about settings: `python -m orly.cli.docs [DIRECTORY]` in a checkout."""

import sys
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Final

from orly.settings import SETTINGS, Setting

PAGE: Final = "docs/settings.md"
README: Final = "README.md"
BEGIN: Final = "<!-- settings:begin -->"
END: Final = "<!-- settings:end -->"

_INTRODUCTION: Final = """\
# Settings

Written by `make docs` from `app/orly/settings.py`; do not edit.

Every setting is an environment variable. A variable that is not set is looked up in `~/.config/ORLY/.env` (the
directory is named by `ORLY_APP_NAME`), then the default holds; an empty value counts as not set. Wrong values and
unknown `ORLY_*` names are listed together and the relay does not start (exit code 78). `orly config` shows every
value and where it comes from.

- **duration**: `25ms`, `30s`, `5m`, `1h30m`, or whole seconds
- **size**: `64KiB`, `512MiB`, `1TiB`, `10MB`, or plain bytes
- **true or false**: also `1`, `0`, `yes`, `no`, `on`, `off`
- **comma list**: white space around items and empty items are ignored
- **level**: `off`, `fatal`, `error`, `warn`, `info`, `debug`, `trace`

A secret may come from a file instead: `NAME_FILE` holds its path. Setting both is an error. Default limits that
exceed a limit you lower follow it: with `ORLY_QUERY_RESULT_LIMIT=256`, `ORLY_QUERY_DEFAULT_LIMIT` is 256 too.
Names that ORLY knows and this version does not use are accepted with a warning.
"""


class DocsError(Exception):
    """A file cannot take the generated text; the message names it and says why."""


def settings_page() -> str:
    """The whole of docs/settings.md: a table for each group."""
    parts = [_INTRODUCTION]
    for title, rows in groupby(SETTINGS, key=lambda row: row.group):
        cells = [(f"`{row.env}`", _default(row), _form(row), row.help) for row in rows]
        parts.append(f"## {title}\n\n{_table(('Name', 'Default', 'Form', 'Meaning'), cells)}")
    return "\n".join(parts)


def readme_table() -> str:
    """The table of all settings for the README."""
    return _table(("Name", "Default", "Meaning"), [(f"`{row.env}`", _default(row), row.help) for row in SETTINGS])


def with_table(readme: str) -> str:
    """The README with the table between its two markers.

    Raises:
        DocsError: unless each marker is there once, and in order.
    """
    if readme.count(BEGIN) != 1 or readme.count(END) != 1:
        raise DocsError(f"{README} must have one line {BEGIN} and one line {END}")
    before, rest = readme.split(BEGIN)
    if END not in rest:
        raise DocsError(f"{README} has {END} before {BEGIN}")
    return f"{before}{BEGIN}\n{readme_table()}{END}{rest.split(END)[1]}"


def write_docs(root: Path) -> None:
    """Write docs/settings.md and the table in README.md of the checkout at `root`.

    Raises:
        DocsError: when README.md is missing or lacks its markers; then nothing is written.
    """
    readme = root / README
    try:
        text = with_table(readme.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DocsError(f"there is no {readme}: give the directory of a checkout") from error
    page = root / PAGE
    page.parent.mkdir(exist_ok=True)
    page.write_text(settings_page(), encoding="utf-8")
    readme.write_text(text, encoding="utf-8")


def main(arguments: Sequence[str]) -> int:
    """Write the docs of the checkout named by the one argument, or of the current directory; returns the exit code."""
    if len(arguments) > 1:
        sys.stderr.write("usage: python -m orly.cli.docs [DIRECTORY]\n")
        return 64
    try:
        write_docs(Path(arguments[0] if arguments else "."))
    except DocsError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _default(row: Setting) -> str:
    return f"`{row.default}`" if row.default else ""


def _form(row: Setting) -> str:
    least = "" if row.least is None else row.form.show(row.least)
    most = "" if row.most is None else row.form.show(row.most)
    match least, most:
        case "", "":
            return row.form.name
        case _, "":
            return f"{row.form.name}, at least {least}"
        case "", _:
            return f"{row.form.name}, at most {most}"
        case _:
            return f"{row.form.name}, {least} to {most}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
