import pytest

from orly.cli.run import process_name


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("", "orly"),
        ("orly", "orly"),
        ("orly-1", "orly-1"),
        ("orly-12", "orly-12"),
        ("my-orly", "orly"),
        ("cat", "orly"),
    ],
)
def test_a_supervised_process_is_named_by_its_supervisor(given: str, name: str) -> None:
    assert process_name(given) == name
