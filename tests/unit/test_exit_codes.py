import os

from orly.process.exit_codes import ExitCode


def test_the_numbers_are_those_that_scripts_rely_on() -> None:
    assert {code.name: code.value for code in ExitCode} == {
        "OK": 0,
        "FAILED": 1,
        "USAGE": 2,
        "INCOMPLETE": 3,
        "UNAVAILABLE": os.EX_UNAVAILABLE,
        "INTERNAL": os.EX_SOFTWARE,
        "SETTINGS": os.EX_CONFIG,
    }
