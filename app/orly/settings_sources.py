"""Where the values of settings come from: the environment, an environment file, and files of secrets."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from orly.env_file import EnvFileError, parse_env
from orly.settings_load import Setting, quoted
from orly.settings_names import WITHOUT_EFFECT, is_without_effect, refusal

PREFIX: Final = "ORLY_"
FILE_SUFFIX: Final = "_FILE"
SIMILARITY: Final = 0.7
"""How alike two names must be (0..1) for one to be suggested for the other."""

ReadText = Callable[[Path], str]


@dataclass(slots=True, kw_only=True)
class Given:
    """What was found for the rows of a table.

    Attributes:
        values: the text of each variable that is set.
        sources: where each comes from: `environment`, `.env PATH` or `file PATH`.
        problems: lines about names, files and places.
        warnings: lines about variables that have no effect.
    """

    values: dict[str, str] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def take(self, name: str) -> tuple[str, str]:
        """Remove a variable; returns its value and its source."""
        return self.values.pop(name), self.sources.pop(name)

    def put(self, name: str, value: str, source: str) -> None:
        """Set a variable, replacing what it had."""
        self.values[name] = value
        self.sources[name] = source


def gather(
    rows: Sequence[Setting],
    environ: Mapping[str, str],
    read_text: ReadText,
    *,
    env_file: Path | None,
    synonyms: Mapping[str, str],
) -> Given:
    """Collect the values of a table's variables; an empty value counts as unset.

    Args:
        rows: the table.
        environ: the environment, which wins over the file.
        read_text: reads a whole file; raises `OSError` or `UnicodeDecodeError`.
        env_file: an environment file, which may be missing.
        synonyms: names from outside, each with the setting that it sets when that one is not set itself.
    """
    given = Given()
    if env_file is not None:
        _add(given, _read_env_file(env_file, read_text, given.problems), f".env {env_file}", synonyms)
    _add(given, environ, "environment", synonyms)
    for name, env in synonyms.items():
        if name in given.values:
            value, source = given.take(name)
            if env not in given.values:
                given.put(env, value, f"{source}, as {name}")
    for row in rows:
        if row.form.is_secret and f"{row.env}{FILE_SUFFIX}" in given.values:
            _read_secret(row.env, given, read_text)
    _check_names(rows, given)
    return given


def _add(given: Given, found: Mapping[str, str], source: str, synonyms: Mapping[str, str]) -> None:
    for name, value in found.items():
        if value.strip() and (name.startswith(PREFIX) or name in synonyms):
            given.put(name, value, source)


def _read_env_file(path: Path, read_text: ReadText, problems: list[str]) -> dict[str, str]:
    try:
        return parse_env(read_text(path))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        problems.append(f"{path}: cannot be read: {error.strerror or error}")
    except UnicodeDecodeError:
        problems.append(f"{path}: is not UTF-8 text")
    except EnvFileError as error:
        problems.append(f"{path}: {error}")
    return {}


def _read_secret(env: str, given: Given, read_text: ReadText) -> None:
    """Replace NAME_FILE by NAME with the file's content, less one line break at its end.

    The file's name is shown only once it has proved to be one: a key may have been put there by mistake.
    """
    name = f"{env}{FILE_SUFFIX}"
    value, _ = given.take(name)
    if env in given.values:
        given.take(env)
        given.problems.append(f"{env} and {name} are both set: keep one of them")
        return
    path = Path(value.strip())
    if not path.is_absolute():
        given.problems.append(f"{name}: must be the whole path of a file, starting with a slash")
        return
    try:
        text = read_text(path)
    except OSError as error:
        given.problems.append(f"{name}={quoted(str(path))}: cannot be read: {error.strerror or error}")
    except UnicodeDecodeError:
        given.problems.append(f"{name}={quoted(str(path))}: is not UTF-8 text")
    else:
        secret = text.removesuffix("\n").removesuffix("\r")
        if secret:
            given.put(env, secret, f"file {path}")
        else:
            given.problems.append(f"{name}={quoted(str(path))}: is empty")


def _check_names(rows: Sequence[Setting], given: Given) -> None:
    """Sort out what is no row of the table: without effect, refused, or unknown."""
    known = {row.env for row in rows}
    everything = dict(given.values)
    for name in sorted(everything.keys() - known):
        value, source = given.take(name)
        place = "" if source == "environment" else f" ({source})"
        if not is_without_effect(name):
            given.problems.append(f"{quoted(name)[1:-1]}: no such setting{_hint(name, rows)}{place}")
        elif (why := refusal(name, everything)) is not None:
            given.problems.append(f"{name}={quoted(value)}: {why}{place}")
        else:
            given.warnings.append(f"{name} has no effect in this version{place}")


def _hint(name: str, rows: Sequence[Setting]) -> str:
    plain = name.removesuffix(FILE_SUFFIX)
    if name != plain and any(row.env == plain for row in rows):
        return f"; only secrets are read from files, set {plain} itself"
    spellings = {other: other for other in WITHOUT_EFFECT}
    spellings |= {f"{row.env}{FILE_SUFFIX}": f"{row.env}{FILE_SUFFIX}" for row in rows if row.form.is_secret}
    spellings |= {f"{PREFIX}{row.attr.upper()}": row.env for row in rows}
    spellings |= {row.env: row.env for row in rows}
    candidates = [spelling.removeprefix(PREFIX) for spelling in spellings]
    close = difflib.get_close_matches(name.removeprefix(PREFIX), candidates, n=1, cutoff=SIMILARITY)
    return f"; did you mean {spellings[PREFIX + close[0]]}?" if close else ""
