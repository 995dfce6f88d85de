"""JSON lines on standard output, for programs that read what a command does."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from orly.cli.files import FileError, ReaderGoneError, opened_output

__all__ = ["JsonLines"]

_STDOUT: Final = Path("-")


class JsonLines:
    """Writes each line whole, and goes on without when it cannot.

    Attributes:
        problem: Why something could not be written; empty if all was, or if the reader had enough.
    """

    def __init__(self) -> None:
        self.problem = ""

    def write(self, line: Mapping[str, Any]) -> None:
        """One object."""
        try:
            with opened_output(_STDOUT) as stream:
                stream.write(json.dumps(line).encode() + b"\n")
        except ReaderGoneError:
            return
        except FileError as error:
            self.problem = str(error)
