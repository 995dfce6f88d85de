"""The text of an environment file: lines of NAME=value, as a shell and Compose read them."""

import re
from collections.abc import Iterator
from typing import Final

_LINE: Final = re.compile(r"(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_]*)[ \t]*=(.*)", re.DOTALL)
_SINGLE_QUOTED: Final = re.compile(r"'([^']*)'(?:[ \t]+#.*)?", re.DOTALL)
_DOUBLE_QUOTED: Final = re.compile(r'"((?:[^"\\]|\\.)*)"(?:[ \t]+#.*)?', re.DOTALL)
_COMMENT: Final = re.compile(r"[ \t]+#.*", re.DOTALL)
_ESCAPE: Final = re.compile(r"\\(.)", re.DOTALL)
_PLAIN: Final = re.compile(r"[A-Za-z0-9_./:@%+,=-]+")

_ESCAPED: Final = {"\\": "\\", '"': '"', "$": "$", "`": "`", "n": "\n", "r": "\r", "t": "\t"}
_MUST_ESCAPE: Final = {character: f"\\{letter}" for letter, character in _ESCAPED.items()}


class EnvFileError(ValueError):
    """A line that cannot be read; the message has its number and never its content, which may be secret."""


def parse_env(text: str) -> dict[str, str]:
    """The names and values of an environment file; a later line wins.

    Blank lines and lines that start with `#` are skipped, `export` is allowed, and so is a comment after white
    space behind a value. Single quotes keep everything; double quotes know the escapes `\\\\ \\" \\$ \\` \\n \\r \\t`.
    Nothing is substituted.

    Raises:
        EnvFileError: for the first line that is not NAME=value or whose quote is never closed.
    """
    return dict(_assignments(text))


def _assignments(text: str) -> Iterator[tuple[str, str]]:
    for number, raw in enumerate(text.removeprefix("\ufeff").split("\n"), start=1):
        line = raw.strip(" \t\r")
        if not line or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise EnvFileError(f"line {number} is not NAME=value")
        yield match[1], _value(match[2], number)


def _value(text: str, number: int) -> str:
    quoted = text.lstrip(" \t")
    if not quoted.startswith(("'", '"')):
        return _COMMENT.sub("", text, count=1).strip(" \t")
    is_single = quoted.startswith("'")
    match = (_SINGLE_QUOTED if is_single else _DOUBLE_QUOTED).fullmatch(quoted)
    if match is None:
        raise EnvFileError(f"line {number} has a quote that is never closed, or text behind it")
    return match[1] if is_single else _ESCAPE.sub(_unescape, match[1])


def _unescape(match: re.Match[str]) -> str:
    return _ESCAPED.get(match[1], match[0])


def quote_env(value: str) -> str:
    """A value (any text without NUL) as `parse_env` and POSIX shells read it back, quoted only where needed.

    Line breaks and tabs become escapes, which Compose knows and a shell does not.
    """
    if _PLAIN.fullmatch(value):
        return value
    if not any(character in value for character in "'\\\n\r\t"):
        return f"'{value}'"
    return '"' + "".join(_MUST_ESCAPE.get(character, character) for character in value) + '"'
