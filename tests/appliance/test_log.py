"""The log of all processes: whole lines, each with its service, on the launcher's standard output."""

import json
import os
import subprocess
from pathlib import Path

from tests.appliance.launcher import LAUNCHER, RECORD, launcher_variables, launching
from tests.process import clean_environment

SERVE = [["own", "ready"], ["serve"]]


def test_no_line_is_torn(tmp_path: Path) -> None:
    flood = [["flood", "10000", "100000"], *SERVE]
    with launching(tmp_path, {"orly-db": flood, "orly": flood}, ORLY_RELAY_WORKERS="2") as launcher:
        processes = ("orly-db", "orly-0", "orly-1")
        for process in processes:
            launcher.await_line(f" {process} INFO  fake | ready")
        assert launcher.stop() == 0
        assert [line for line in launcher.lines() if RECORD.fullmatch(line) is None] == []
        for process in processes:
            lines = [text for text in launcher.messages(process) if text.startswith("line ")]
            assert lines == [f"line {n} {'x' * 100_000 if n % 100 == 0 else 'x'}" for n in range(10_000)]


def test_what_is_no_record_becomes_one(tmp_path: Path) -> None:
    raising = [["once", str(tmp_path / "once"), "raise", "broken"], *SERVE]
    ending = [["own", "ready"], ["stopping", "part", "the last words"], ["serve"]]
    with launching(tmp_path, {"orly-db": raising, "orly": ending}) as launcher:
        launcher.await_line("orly-db INFO  fake | ready")
        launcher.await_line("orly INFO  fake | ready")
        assert launcher.stop() == 0
        assert [line for line in launcher.lines() if RECORD.fullmatch(line) is None] == []
        traceback = [line for line in launcher.lines() if " orly-db WARN  output | " in line]
        assert traceback[0].endswith("| Traceback (most recent call last):")
        assert traceback[-1].endswith("| RuntimeError: broken")


def test_last_words_without_a_line_break_are_kept(tmp_path: Path) -> None:
    once = [["once", str(tmp_path / "once"), "part", "last words"], ["once", str(tmp_path / "exit"), "exit", "1"]]
    with launching(tmp_path, {"orly-db": [*once, *SERVE], "orly": SERVE}) as launcher:
        launcher.await_line("orly-db INFO  fake | ready")
        lines = launcher.lines()
        (number,) = [n for n, line in enumerate(lines) if line.endswith(" orly-db WARN  output | last words")]
        assert "orly-db left with exit status 1" in lines[number + 1]
        assert launcher.stop() == 0


def test_json(tmp_path: Path) -> None:
    scripts = {"orly-db": [["say", 'no "record" \x1b[31m'], *SERVE], "orly": SERVE}
    with launching(tmp_path, scripts, ORLY_LOG_FORMAT="json") as launcher:
        for process in ("orly-db", "orly"):
            launcher.await_line(f" {process} INFO  fake | ready")
        assert launcher.stop() == 0
        records = [json.loads(line) for line in launcher.lines()]
        assert {record["service"] for record in records} == {"launcher", "orly-db", "orly"}
        assert all(set(record) == {"time", "service", "level", "logger", "message"} for record in records)
        (said,) = [record for record in records if record["message"].startswith("no ")]
        assert (said["service"], said["level"], said["logger"]) == ("orly-db", "warn", "output")
        assert said["message"] == 'no "record" \x1b[31m'


def test_a_level_is_kept_to(tmp_path: Path) -> None:
    scripts = {"orly-db": [["say", "a stray line"], *SERVE], "orly": SERVE}
    with launching(tmp_path, scripts, ORLY_LOG_LEVEL="error") as launcher:
        launcher.await_line("orly-db INFO  fake | ready")
        launcher.await_line("orly INFO  fake | ready")
        assert launcher.stop() == 0
        assert launcher.messages() == []
        assert "a stray line" in launcher.messages("orly-db")


def test_off_is_silent(tmp_path: Path) -> None:
    scripts = {"orly-db": [["say", "a stray line"], *SERVE], "orly": [["say", "another"], ["exit", "69"]]}
    with launching(tmp_path, scripts, ORLY_LOG_LEVEL="off") as launcher:
        assert launcher.await_exit() == 69
        assert {line.split()[1] for line in launcher.lines()} <= {"orly-db"}
        assert "another" not in launcher.logs()
        assert "stray" not in launcher.logs()


def test_a_log_that_nobody_reads_stops_nobody(tmp_path: Path) -> None:
    """The reader stands still while far more is logged than a pipe holds: programs go on, and so does the stop."""
    done = tmp_path / "done"
    scripts = {"orly-db": SERVE, "orly": [["flood", "3000", "10000"], ["touch", str(done)], ["serve"]]}
    reader, writer = os.pipe()
    child = subprocess.Popen(
        [LAUNCHER], env=clean_environment(tmp_path, launcher_variables(tmp_path, scripts, {})), stdout=writer
    )
    os.close(writer)
    try:
        from tests.appliance.launcher import Launcher

        launcher = Launcher(child=child, log_file=Path(os.devnull), run_dir=tmp_path / "run", variables={})
        launcher.await_until(lambda: done.exists() or None, "the program that logs")
        assert launcher.stop() == 0
        assert b"launcher INFO" in os.read(reader, 65_536)
    finally:
        os.close(reader)
        if child.poll() is None:
            child.kill()
            child.wait()
