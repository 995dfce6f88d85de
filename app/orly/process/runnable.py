"""Whether a program can be run at all: looked at before anything waits for it."""

import os
import shlex
import shutil
import stat
from re import compile as compile_re
from typing import Final

from orly.settings import Settings

__all__ = ["plugin_problem", "why_not_executable", "why_not_runnable"]

_UNKNOWN: Final = frozenset("$`*?[]{}()<>|&;!~=#")
"""In a word, what the shell may make something else of."""

_is_of_the_shell: Final = compile_re(
    r"[.:]|alias|break|builtin|case|cd|command|continue|declare|do|done|elif|else|esac|eval|exit|export|fi|for|function|"
    r"getopts|hash|if|in|let|local|read|readonly|return|select|set|shift|source|then|time|times|trap|type|typeset|"
    r"ulimit|umask|unalias|unset|until|wait|while"
).fullmatch
"""Words that need no program."""


def why_not_executable(path: str) -> str | None:
    """Why a file cannot be run; None if it can, as far as that shows."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:
        return getattr(error, "strerror", None) or str(error)
    if not stat.S_ISREG(mode):
        return "is not a file"
    return None if os.access(path, os.X_OK) else "is not executable"


def why_not_runnable(command: str) -> str | None:
    """Why a command for `/bin/sh -c` cannot be run; None if its first word is a program, or cannot be known."""
    word = _program(command)
    if word is None:
        return None
    if "/" in word:
        why = why_not_executable(word)
        return why if why is None or word == command else f"{word}: {why}"
    if shutil.which(word) is not None:
        return None
    return f"there is no program {word} on PATH" + (": write its path" if os.path.exists(word) else "")


def plugin_problem(settings: Settings) -> str | None:
    """Why the write policy that the settings name cannot be run; None if it can, or there is none."""
    why = why_not_runnable(settings.write_plugin) if settings.write_plugin else None
    return None if why is None else f"ORLY_WRITE_PLUGIN={settings.write_plugin}: {why}"


def _program(command: str) -> str | None:
    """The program that a command begins with; None if only the shell knows."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    try:
        word = lexer.get_token()
        if word == "exec":
            word = lexer.get_token()
        is_function = (lexer.get_token() or "").startswith("(")
    except ValueError:
        return None
    if is_function or not word or word.startswith("-") or _is_of_the_shell(word) or not _UNKNOWN.isdisjoint(word):
        return None
    return word
