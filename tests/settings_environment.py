"""Settings loaded from an environment that a test makes up."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from orly.settings import Loaded, SettingsError, load

HOME = "/home/op"
ENV_FILE = f"{HOME}/.config/ORLY/.env"
SECRET = "67dea2ed018072d675f5415ecfaed7d2597555e202d85b3d65ea4e58d2d92ffa"
TOKEN = "a-token.of_some~length+/="
NSEC = "nsec1vl029mgpspedva04g90vltkh6fvh240zqtv9k0t9af8935ke9laqsnlfe5"


def load_with(files: Mapping[str, str | Exception] | None = None, /, **environ: str) -> Loaded:
    """Load from these variables and files; no other file exists."""

    def read_text(path: Path) -> str:
        content = (files or {}).get(str(path), FileNotFoundError(2, "No such file or directory"))
        if isinstance(content, Exception):
            raise content
        return content

    return load({"HOME": HOME, **environ}, read_text)


def problems(files: Mapping[str, str | Exception] | None = None, /, **environ: str) -> tuple[str, ...]:
    """What is wrong with these variables and files."""
    with pytest.raises(SettingsError) as caught:
        load_with(files, **environ)
    assert str(caught.value) == "\n".join(caught.value.problems)
    assert all("\n" not in line for line in caught.value.problems)
    return caught.value.problems
