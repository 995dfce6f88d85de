import subprocess
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orly.env_file import EnvFileError, parse_env, quote_env

VALUES = st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)
TRICKY = st.text(alphabet="ab #'\"\\$`\n\r\t=~", max_size=20)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("", {}),
        ("# only a comment\n\n  \t\n", {}),
        ("A=1", {"A": "1"}),
        ("\ufeffA=1\r\nB=2\r\n", {"A": "1", "B": "2"}),
        ("  export A = 1  ", {"A": "1"}),
        ("A=", {"A": ""}),
        ("A=   # nothing", {"A": ""}),
        ("A=b # comment", {"A": "b"}),
        ("A=b#c", {"A": "b#c"}),
        ("A=b=c", {"A": "b=c"}),
        ("A=two words", {"A": "two words"}),
        ("A='x # y' # z", {"A": "x # y"}),
        ("A='\\n$B'", {"A": "\\n$B"}),
        ('A="a\\"b\\\\c\\$d\\`e\\nf\\tg\\xh"', {"A": 'a"b\\c$d`e\nf\tg\\xh'}),
        ('A=""', {"A": ""}),
        ("A=1\nA=2", {"A": "2"}),
        ("A=one\u2028line", {"A": "one\u2028line"}),
    ],
)
def test_what_a_file_says(text: str, values: dict[str, str]) -> None:
    assert parse_env(text) == values


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("A=1\nsecret words", "line 2 is not NAME=value"),
        ("1A=secret", "line 1 is not NAME=value"),
        ("\n\nA='secret", "line 3 has a quote that is never closed"),
        ('A="secret\\"', "line 1 has a quote that is never closed"),
        ("A='secret'more", "or text behind it"),
    ],
)
def test_a_bad_line_is_numbered_and_not_shown(text: str, message: str) -> None:
    with pytest.raises(EnvFileError, match=message) as caught:
        parse_env(text)
    assert "secret" not in str(caught.value)


@given(VALUES | TRICKY)
def test_quoting_round_trip(value: str) -> None:
    line = f"NAME={quote_env(value)}"
    assert "\n" not in line
    assert parse_env(f"{line}  # comment\nOTHER=1") == {"NAME": value, "OTHER": "1"}


def test_a_shell_reads_the_same_values() -> None:
    values = [
        "",
        "plain/1:2",
        "two words",
        "it's",
        'a "b"',
        "$HOME `id` $(id)",
        "back\\slash'",
        "# no comment",
        "~/x",
        "é😀",
    ]
    script = "".join(f"A={quote_env(value)}  # comment\nprintf '%s\\n' \"$A\"\n" for value in values)
    done = subprocess.run(["sh", "-c", script], capture_output=True, check=True, timeout=30)
    assert done.stdout.decode().split("\n")[:-1] == values


@given(st.text(alphabet="AB=#'\"\\ \n\texport", max_size=60))
def test_nothing_but_the_documented_error(text: str) -> None:
    with suppress(EnvFileError):
        parse_env(text)
