"""What can be said of a shell command before it is run."""

from pathlib import Path
from typing import Final

import pytest

from orly.process.runnable import why_not_runnable

MISSING: Final = "No such file or directory"


@pytest.fixture(name="program")
def program_file(tmp_path: Path) -> Path:
    path = tmp_path / "a policy"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_a_program_that_is_there(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"/nowhere:{program.parent}")
    for command in (f"'{program}'", f"'{program}' --verbose", f'exec "{program}" <&0', "'a policy'", "a\\ policy|cat"):
        assert why_not_runnable(command) is None, command


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("/nonexistent/x", MISSING),
        ("/nonexistent/x --verbose", f"/nonexistent/x: {MISSING}"),
        ("exec /nonexistent/x", f"/nonexistent/x: {MISSING}"),
        ("/nonexistent/x|cat", f"/nonexistent/x: {MISSING}"),
        ("/", "is not a file"),
        ("/dev/null", "is not a file"),
        ("no-such-policy", "there is no program no-such-policy on PATH"),
        ("no-such-policy --verbose; true", "there is no program no-such-policy on PATH"),
        ("./no-such-policy", MISSING),
        ("/tmp/\0", "embedded null byte"),
    ],
)
def test_a_program_that_is_not_there(command: str, why: str) -> None:
    assert why_not_runnable(command) == why


def test_a_file_that_is_no_program(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program.chmod(0o644)
    assert why_not_runnable(f"'{program}'") == f"{program}: is not executable"
    monkeypatch.chdir(program.parent)
    assert why_not_runnable("'a policy'") == "there is no program a policy on PATH: write its path"


@pytest.mark.parametrize(
    "command",
    [
        "cd /srv && ./policy",
        "if [ -e x ]; then x; fi",
        "X=1 no-such-policy",
        "$POLICY",
        '"$DIR/policy" -v',
        "~/policy",
        "(no-such-policy)",
        "{ no-such-policy; }",
        "! no-such-policy",
        "policy() { cat; }; policy",
        "<input no-such-policy",
        "exec -a name no-such-policy",
        "/opt/*/policy",
        "'",
        "",
    ],
)
def test_what_only_the_shell_knows(command: str) -> None:
    assert why_not_runnable(command) is None
