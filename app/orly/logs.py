"""Log records as single lines of text or JSON, written whole and without ever raising.

A line is `2026-01-15T15:23:13.271Z orly INFO  store.writer | committed 120 events`. Whatever a record holds, it is
one line: line breaks, tracebacks and other control characters are written as escapes, so that no client can forge
a record.
"""

import io
import json
import logging
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal, Protocol

if TYPE_CHECKING:  # the launcher logs too, and has no use for the tables of settings
    from orly.settings_types import LevelName

TRACE: Final = 5
"""Level below DEBUG: `logger.log(TRACE, ...)`."""

FATAL: Final = logging.CRITICAL
OFF: Final = logging.CRITICAL + 10

LEVELS: Final["Mapping[LevelName, int]"] = MappingProxyType(
    {
        "off": OFF,
        "fatal": FATAL,
        "error": logging.ERROR,
        "warn": logging.WARNING,
        "info": logging.INFO,
        "debug": logging.DEBUG,
        "trace": TRACE,
    }
)
"""The names that settings use, with the numbers of the logging module."""

ROOT: Final = "orly"
STORE: Final = "orly.store"

_NAMES: Final = {number: name for name, number in LEVELS.items()}
_BIDI_CONTROLS: Final = (*range(0x200E, 0x2010), *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_ESCAPES: Final = {
    code: ascii(chr(code))[1:-1]
    for code in (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029, *_BIDI_CONTROLS, *range(0xD800, 0xE000))
}


class LogFileError(Exception):
    """The log file cannot be opened; the message names it and says why."""


def escape(text: str) -> str:
    """The text with everything that could break, forge or disguise a line written as an escape such as `\\n`."""
    return text.translate(_ESCAPES)


class _LineFormatter(logging.Formatter):
    """What both formats share: the fields of a record as plain text."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def _fields(self, record: logging.LogRecord) -> dict[str, str]:
        """The fields in the order of a line, without the last one where nothing was raised."""
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        fields = {
            "time": f"{seconds}.{int(record.created % 1 * 1000):03}Z",
            "service": self._service,
            "level": _NAMES.get(record.levelno, record.levelname.lower()),
            "logger": record.name.removeprefix(f"{ROOT}."),
            "message": record.getMessage(),
        }
        details = [record.exc_text or (self.formatException(record.exc_info) if record.exc_info else "")]
        details.append(self.formatStack(record.stack_info) if record.stack_info else "")
        trace = "\n".join(filter(None, details))
        return {**fields, "exception": trace} if trace else fields


class TextFormatter(_LineFormatter):
    """Lines for people; a traceback follows its message, folded into the line."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line, without the line break."""
        fields = self._fields(record)
        head = f"{fields['time']} {fields['service']} {fields['level'].upper():<5} {fields['logger']}"
        body = "\n".join(filter(None, (fields["message"], fields.get("exception"))))
        return escape(f"{head} | {body}")


class JsonFormatter(_LineFormatter):
    """JSON objects for collectors: time, service, level, logger, message and, if something was raised, exception."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line of ASCII, without the line break."""
        fields = self._fields(record)
        valid = {name: text.encode("utf-8", "backslashreplace").decode() for name, text in fields.items()}
        return json.dumps(valid).replace("\x7f", "\\u007f")


class RawStream(Protocol):
    """What log lines are written to: an unbuffered binary stream."""

    def write(self, data: bytes, /) -> int | None:
        """Write some of the data; returns how many bytes, or None when the stream would block."""


class _LineWriter:
    """Writes whole lines to a raw stream, and drops them when nobody can read them any more.

    A closed pipe, a full disk or a closed descriptor must not stop a relay. Nothing is buffered, so nothing is left
    to fail when the interpreter exits.
    """

    def __init__(self, raw: RawStream | None) -> None:
        self._raw = raw
        self._is_torn = False

    def write(self, text: str) -> None:
        """Write lines, first ending one that could not be written to its end."""
        if self._raw is None:
            return
        rest = memoryview(("\n" if self._is_torn else "").encode() + text.encode())
        try:
            while rest and (count := self._raw.write(bytes(rest))):
                self._is_torn = True
                rest = rest[count:]
        except (OSError, ValueError):  # ValueError: the stream was closed
            return
        self._is_torn = self._is_torn and bool(rest)

    def flush(self) -> None:
        """Nothing to do; handlers call it."""


class LineHandler(logging.StreamHandler[_LineWriter]):
    """Writes each record as one line; neither writing nor formatting ever raises.

    Args:
        raw: where to; None is nowhere.
        owned: a file to close together with the handler.
    """

    terminator = "\n"

    def __init__(self, raw: RawStream | None, owned: io.FileIO | None = None) -> None:
        super().__init__(_LineWriter(raw))
        self._owned = owned

    def handleError(self, record: logging.LogRecord) -> None:
        """Instead of a record that cannot be formatted, write where it came from and what went wrong."""
        error = sys.exc_info()[1]
        text = f"cannot format a record of {record.pathname}:{record.lineno}: {type(error).__name__}"
        plain = logging.LogRecord(__name__, logging.ERROR, __file__, 0, text, None, None)
        self.stream.write(f"{self.format(plain)}{self.terminator}")

    def close(self) -> None:
        """Close the handler, and the file that it owns."""
        super().close()
        if self._owned is not None:
            self._owned.close()


def configure(
    service: str,
    *,
    level: "LevelName",
    db_level: "LevelName | Literal['']" = "",
    format: Literal["text", "json"] = "text",
    to_stdout: bool = False,
    file: Path | None = None,
    raw: RawStream | None = None,
) -> None:
    """Send the records of this process, and Python's warnings, to one place; calling it again replaces the last call.

    Libraries are heard from `warn` up, and in full at `debug` and `trace`.

    Args:
        service: the name of the program, shown in every line.
        level: the least severe level that is written; `off` writes nothing.
        db_level: the same for the store; empty is `level`.
        format: lines of text, or JSON objects.
        to_stdout: standard output instead of standard error.
        file: append to this file instead; a rotating tool must copy and truncate it.
        raw: write to this stream instead.

    Raises:
        LogFileError: the file cannot be opened.
    """
    owned = _open(file) if file is not None else None
    handler = LineHandler(raw or owned or _standard(to_stdout), owned)
    handler.setFormatter(TextFormatter(service) if format == "text" else JsonFormatter(service))
    root = logging.getLogger()
    for old in [old for old in root.handlers if isinstance(old, LineHandler)]:
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    number = LEVELS[level]
    root.setLevel(number if number <= logging.DEBUG else max(number, logging.WARNING))
    logging.getLogger(ROOT).setLevel(number)
    logging.getLogger(STORE).setLevel(LEVELS[db_level] if db_level else logging.NOTSET)
    logging.captureWarnings(True)


def _open(file: Path) -> io.FileIO:
    try:
        return file.open("ab", buffering=0)
    except OSError as error:
        raise LogFileError(f"the log file {file} cannot be opened: {error.strerror or error}") from error


def _standard(to_stdout: bool) -> RawStream | None:
    """Standard output or error by its descriptor; None when the process was started without it."""
    stream = sys.__stdout__ if to_stdout else sys.__stderr__
    return None if stream is None else open(1 if to_stdout else 2, "wb", buffering=0, closefd=False)
