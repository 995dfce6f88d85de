"""`orly config`: every setting with its value and where it came from."""

import json

from orly.env_file import quote_env
from orly.settings import SETTINGS, Loaded, Setting


def show_config(loaded: Loaded, *, as_json: bool) -> str:
    """All settings, secrets masked, as text that ends with a line break.

    As text it is an environment file: a heading for each group and a line `NAME=value  # source` for each setting.
    A secret that is set is a comment, so that its mask is never taken for a value. As JSON it is an object of
    `{"value": ..., "source": ...}` by name, with values written as in the environment.
    """
    values = {row.env: row.form.show(getattr(loaded.settings, row.attr)) for row in SETTINGS}
    if as_json:
        both = {env: {"value": value, "source": loaded.sources[env]} for env, value in values.items()}
        return json.dumps(both, indent=2, ensure_ascii=False) + "\n"
    lines = {row.env: _line(row, values[row.env]) for row in SETTINGS}
    width = min(max(map(len, lines.values())), 80)
    text: list[str] = []
    title = ""
    for row in SETTINGS:
        if row.group != title:
            text += ["", f"# {row.group}"] if title else [f"# {row.group}"]
            title = row.group
        text.append(f"{lines[row.env]:<{width}}  # {loaded.sources[row.env]}")
    return "\n".join(text) + "\n"


def _line(row: Setting, value: str) -> str:
    is_hidden = row.form.is_secret and value != ""
    return f"{'# ' if is_hidden else ''}{row.env}={quote_env(value)}"
