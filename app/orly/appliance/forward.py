"""What a program writes, made lines of the log: its own records pass as they are, anything else becomes one."""

import logging
import re
from collections.abc import Callable
from typing import Final, Literal

from orly.logs import JsonFormatter, TextFormatter

__all__ = ["MAX_LINE_BYTES", "LineForwarder"]

MAX_LINE_BYTES: Final = 256 * 1024
"""Longer lines are cut: the largest record of ours is an error about an event, and far below."""

_LOGGER: Final = "output"
_TIME: Final = rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
_LEVEL: Final = rb"(?:FATAL|ERROR|WARN |INFO |DEBUG|TRACE)"
_CONTROL: Final = re.compile(rb"[\x00-\x1f\x7f]")


def _own_head(services: tuple[str, ...], format: Literal["text", "json"]) -> re.Pattern[bytes]:
    names = b"(?:" + b"|".join(re.escape(name.encode()) for name in services) + b")"
    if format == "json":
        return re.compile(rb'\{"time": "' + _TIME + rb'", "service": "' + names + rb'", "level": "')
    return re.compile(_TIME + b" " + names + b" " + _LEVEL + rb" \S+ \| ")


class LineForwarder:
    """Cuts the output of one process into lines and hands each on as one record.

    Records of our own format are handed on untouched. Tracebacks of the interpreter, lines of C libraries and of
    programs that know no such format become records of the process, at level `warn` under the name `output`.

    Args:
        process: What the process is called.
        program: What its program is called; it may log under either name.
        format: Of the log.
        write: Takes whole lines.
        is_silent: Only records of our own format are handed on.
    """

    def __init__(
        self,
        *,
        process: str,
        program: str,
        format: Literal["text", "json"],
        write: Callable[[bytes], object],
        is_silent: bool = False,
    ) -> None:
        self._is_own = _own_head((process, program), format).match
        self._formatter = TextFormatter(process) if format == "text" else JsonFormatter(process)
        self._write = write
        self._is_silent = is_silent
        self._rest = b""
        self._cut_bytes = 0

    def feed(self, data: bytes) -> None:
        """Takes the next output; whole lines in it are handed on at once."""
        first, *others = data.split(b"\n")
        self._gather(first)
        if not others:
            return
        *whole, last = others
        lines = [self._end_line(), *(self._record(line, 0) for line in whole)]
        self._gather(last)
        self._write(b"".join(lines))

    def finish(self) -> None:
        """Nothing more will come: hands on what there is of a last line."""
        if line := self._end_line():
            self._write(line)

    def _gather(self, part: bytes) -> None:
        """Adds to the unfinished line, and counts what is beyond the bound."""
        space = MAX_LINE_BYTES - len(self._rest)
        if part:
            self._rest += part[:space]
            self._cut_bytes += max(0, len(part) - space)

    def _end_line(self) -> bytes:
        line, cut_bytes = self._rest, self._cut_bytes
        self._rest, self._cut_bytes = b"", 0
        return self._record(line, cut_bytes)

    def _record(self, line: bytes, cut_bytes: int) -> bytes:
        """A line as a record with its line break; nothing for an empty line."""
        if not cut_bytes and self._is_own(line) and not _CONTROL.search(line):
            return line + b"\n"
        text = line.decode("utf-8", "backslashreplace").rstrip()
        if self._is_silent or not text:
            return b""
        if cut_bytes:
            text = f"{text} [{cut_bytes} more bytes were cut]"
        record = logging.LogRecord(_LOGGER, logging.WARNING, "", 0, text, None, None)
        return self._formatter.format(record).encode() + b"\n"
