import io
import json
import logging
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orly.logs import LEVELS, TRACE, LineHandler, LogFileError, TextFormatter, configure, escape
from orly.settings_types import LevelName

LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z orly (FATAL|ERROR|WARN |INFO |DEBUG|TRACE) (\S+) \| (.*)")


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """Undo what `configure` does to the process."""
    loggers = [logging.getLogger(name) for name in ("", "orly", "orly.store")]
    levels = [logger.level for logger in loggers]
    handlers = list(loggers[0].handlers)
    yield
    logging.captureWarnings(False)
    loggers[0].handlers[:] = handlers
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


def lines(raw: io.BytesIO) -> list[str]:
    """The lines written, each of which was ended."""
    text = raw.getvalue().decode()
    assert text == "" or text.endswith("\n")
    return text.split("\n")[:-1]


def parts(raw: io.BytesIO) -> list[tuple[str, str, str]]:
    """Level, logger and message of each line written as text."""
    matches = [LINE.fullmatch(line) for line in lines(raw)]
    return [(match[1].strip(), match[2], match[3]) for match in matches if match is not None]


def test_a_line_of_text() -> None:
    raw = io.BytesIO()
    configure("orly", level="info", raw=raw)
    record = logging.makeLogRecord(
        {"name": "orly.store.writer", "levelno": 20, "msg": "committed %d events", "args": (120,)}
    )
    record.created = 1768490593.271828
    logging.getLogger("orly.store.writer").handle(record)
    assert lines(raw) == ["2026-01-15T15:23:13.271Z orly INFO  store.writer | committed 120 events"]


def test_a_line_of_json() -> None:
    raw = io.BytesIO()
    configure("orly", level="info", format="json", raw=raw)
    record = logging.makeLogRecord({"name": "orly", "levelno": 50, "msg": "é\n\x7f\ud800\u2028"})
    record.created = 1768490593.9999
    logging.getLogger("orly").handle(record)
    (line,) = lines(raw)
    assert line.isascii()
    assert line.isprintable()
    assert json.loads(line) == {
        "time": "2026-01-15T15:23:13.999Z",
        "service": "orly",
        "level": "fatal",
        "logger": "orly",
        "message": "é\n\x7f\\ud800\u2028",
    }


@pytest.mark.parametrize("name", LEVELS)
def test_a_level_shows_itself_and_what_is_more_severe(name: LevelName) -> None:
    raw = io.BytesIO()
    configure("orly", level=name, raw=raw)
    logger = logging.getLogger("orly.x")
    for number in (TRACE, logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL):
        logger.log(number, "text")
    names = ["TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL"]
    shown = [] if name == "off" else names[names.index(name.upper()) :]
    assert parts(raw) == [(level, "x", "text") for level in shown]


def test_the_store_has_its_own_level() -> None:
    raw = io.BytesIO()
    configure("orly", level="warn", db_level="debug", raw=raw)
    logging.getLogger("orly.relay").info("no")
    logging.getLogger("orly.store.writer").debug("yes")
    assert parts(raw) == [("DEBUG", "store.writer", "yes")]
    again = io.BytesIO()
    configure("orly", level="warn", raw=again)
    logging.getLogger("orly.store.writer").info("no")
    assert lines(again) == []


@pytest.mark.parametrize(
    ("level", "shown"), [("trace", "DEBUG INFO WARN"), ("debug", "DEBUG INFO WARN"), ("info", "WARN"), ("error", "")]
)
def test_libraries_are_heard_from_warnings_up_unless_debugging(level: LevelName, shown: str) -> None:
    raw = io.BytesIO()
    configure("orly", level=level, raw=raw)
    logger = logging.getLogger("some.library")
    logger.debug("text")
    logger.info("text")
    logger.warning("text")
    assert [part[0] for part in parts(raw)] == shown.split()


def test_configuring_again_replaces_the_place() -> None:
    first, second = io.BytesIO(), io.BytesIO()
    configure("orly", level="info", raw=first)
    configure("orly", level="info", raw=second)
    logging.getLogger("orly").info("text")
    assert lines(first) == []
    assert parts(second) == [("INFO", "orly", "text")]


def test_a_traceback_is_folded_into_its_line() -> None:
    for name in ("text", "json"):
        raw = io.BytesIO()
        configure("orly", level="info", format="json" if name == "json" else "text", raw=raw)
        try:
            raise OSError("disk\nfull")
        except OSError:
            logging.getLogger("orly.store").exception("cannot write", stack_info=True)
        (line,) = lines(raw)
        assert "cannot write" in line
        assert "Traceback (most recent call last):\\n" in line
        assert "OSError: disk\\nfull" in line
        assert "Stack (most recent call last):\\n" in line


def test_a_message_cannot_forge_a_record() -> None:
    raw = io.BytesIO()
    configure("orly", level="info", raw=raw)
    logging.getLogger("orly").info("from %s", "x\r\n2026-01-15T15:23:13.271Z orly FATAL y | z\x1b[2J\u202e\u2028\x85")
    (line,) = lines(raw)
    assert line.isprintable()
    assert line.endswith(r"x\r\n2026-01-15T15:23:13.271Z orly FATAL y | z\x1b[2J\u202e\u2028\x85")


@given(st.text(alphabet=st.characters(exclude_categories=[])))
def test_any_text_is_one_line_of_valid_text(text: str) -> None:
    escaped = escape(text)
    assert len(escaped.splitlines()) <= 1
    assert escaped.encode().decode() == escaped
    assert "\x1b" not in escaped


def test_python_warnings_are_records() -> None:
    raw = io.BytesIO()
    configure("orly", level="info", raw=raw)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(False)
        logging.captureWarnings(True)
        warnings.warn("old thing", DeprecationWarning, stacklevel=1)
    ((level, logger, message),) = parts(raw)
    assert (level, logger) == ("WARN", "py.warnings")
    assert "DeprecationWarning: old thing" in message


class Unprintable:
    """A value whose text cannot be made."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    ("message", "argument", "error"), [("%d", "x", "TypeError"), ("%s", Unprintable(), "RuntimeError")]
)
def test_a_record_that_cannot_be_formatted_names_its_place(message: str, argument: object, error: str) -> None:
    raw = io.BytesIO()
    handler = LineHandler(raw)
    handler.setFormatter(TextFormatter("orly"))
    handler.handle(logging.LogRecord("orly", logging.INFO, __file__, 7, message, (argument,), None))
    ((level, logger, text),) = parts(raw)
    assert (level, logger) == ("ERROR", "logs")
    assert re.fullmatch(rf"cannot format a record of .*test_logs\.py:7: {error}", text)


class Stuttering:
    """A raw stream that takes a few bytes at a time, and now and then fails."""

    def __init__(self, *answers: int | OSError | None) -> None:
        self.taken = b""
        self._answers = list(answers)

    def write(self, data: bytes, /) -> int | None:
        """Take as many bytes as the next answer says, or all of them."""
        answer = self._answers.pop(0) if self._answers else len(data)
        if isinstance(answer, OSError):
            raise answer
        self.taken += data[: answer or 0]
        return answer


def log_two(raw: Stuttering) -> list[bytes]:
    """What two records leave in the stream, as lines without their heads."""
    handler = LineHandler(raw)
    handler.setFormatter(TextFormatter("orly"))
    for text in ("first", "second"):
        handler.handle(logging.makeLogRecord({"name": "orly", "levelno": 20, "msg": text}))
    return [line[25:] for line in raw.taken.split(b"\n")]


def test_a_partial_write_is_continued() -> None:
    assert log_two(Stuttering(3, 30)) == [b"orly INFO  orly | first", b"orly INFO  orly | second", b""]


@pytest.mark.parametrize(
    "failure", [None, BlockingIOError(), BrokenPipeError(), OSError(28, "No space left on device")]
)
def test_a_line_that_cannot_be_written_is_dropped(failure: OSError | None) -> None:
    assert log_two(Stuttering(failure)) == [b"orly INFO  orly | second", b""]


@pytest.mark.parametrize("failure", [None, BlockingIOError(), OSError(28, "No space left on device")])
def test_a_torn_line_is_ended_before_the_next(failure: OSError | None) -> None:
    assert log_two(Stuttering(30, failure)) == [b"orly ", b"orly INFO  orly | second", b""]


def test_a_closed_stream_is_no_error() -> None:
    raw = io.BytesIO()
    configure("orly", level="info", raw=raw)
    raw.close()
    logging.getLogger("orly").error("text")
    configure("orly", level="info", raw=io.BytesIO())


def test_a_file_is_appended_to(tmp_path: Path) -> None:
    file = tmp_path / "orly.log"
    file.write_text("before\n")
    configure("orly", level="info", file=file)
    logging.getLogger("orly").info("text")
    assert file.read_text().startswith("before\n")
    assert file.read_text().endswith(" orly INFO  orly | text\n")
    configure("orly", level="info", raw=io.BytesIO())


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(LogFileError, match=r"log file .*/none/orly.log cannot be opened: No such file"):
        configure("orly", level="info", file=tmp_path / "none" / "orly.log")


PROGRAM = """
import logging, sys
from orly.logs import configure
configure("orly", level="info", to_stdout={to_stdout})
sys.stdin.readline()
for number in range(3):
    logging.getLogger("orly").info("line %d", number)
"""


@pytest.mark.parametrize("to_stdout", [False, True])
def test_standard_output_or_error(to_stdout: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(to_stdout=to_stdout)],
        input=b"\n",
        capture_output=True,
        check=True,
        timeout=60,
    )
    wanted, other = (done.stdout, done.stderr) if to_stdout else (done.stderr, done.stdout)
    assert [line.split(" | ")[1] for line in wanted.decode().splitlines()] == ["line 0", "line 1", "line 2"]
    assert other == b""


def test_a_reader_that_went_away_does_not_stop_the_program() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(to_stdout=True)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        process.stdout = None
        _, errors = process.communicate(b"\n", timeout=60)
    assert (process.returncode, errors) == (0, b"")


def test_a_program_without_standard_output_runs() -> None:
    script = ["sh", "-c", 'exec "$0" -c "$1" >&-', sys.executable, PROGRAM.format(to_stdout=True)]
    done = subprocess.run(script, input=b"\n", stderr=subprocess.PIPE, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")
