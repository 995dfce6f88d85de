import pytest
from tests.settings_environment import load_with, problems

from orly.settings import SETTINGS, Settings
from orly.settings_rules import CEILINGS, conflicts

ROWS = {row.attr: row for row in SETTINGS}


@pytest.mark.parametrize(("attr", "ceiling"), CEILINGS)
def test_a_value_may_equal_its_ceiling_and_not_exceed_it(attr: str, ceiling: str) -> None:
    row, above = ROWS[attr], ROWS[ceiling]
    assert row.least is not None
    assert above.least is not None
    edge = int(max(row.least, above.least))
    loaded = load_with(**{row.env: str(edge), above.env: str(edge)})
    assert getattr(loaded.settings, attr) == getattr(loaded.settings, ceiling) == edge
    (found,) = problems(**{row.env: str(edge + 1), above.env: str(edge)})
    assert found == f"{row.env}={row.form.show(edge + 1)} is more than {above.env}={above.form.show(edge)}"


@pytest.mark.parametrize(("attr", "ceiling"), CEILINGS)
def test_a_default_is_lowered_to_a_ceiling_that_was_given(attr: str, ceiling: str) -> None:
    row, above = ROWS[attr], ROWS[ceiling]
    assert row.least is not None
    assert above.least is not None
    edge = int(max(row.least, above.least))
    loaded = load_with(**{above.env: str(edge)})
    assert getattr(loaded.settings, attr) == edge
    assert loaded.sources[row.env] == f"default, lowered to {above.env}"


@pytest.mark.parametrize(("attr", "ceiling"), CEILINGS)
def test_a_value_above_the_default_of_its_ceiling_is_refused(attr: str, ceiling: str) -> None:
    row, above = ROWS[attr], ROWS[ceiling]
    found = problems(**{row.env: str(getattr(Settings(), ceiling) + 1)})
    assert any(line.endswith(f"is more than {above.env}={above.default}") for line in found)


def test_a_backlog_holds_two_of_the_largest_events() -> None:
    sizes = {"ORLY_MAX_EVENT_SIZE": "1MiB", "ORLY_MAX_SEND_BACKLOG": "2MiB"}
    assert load_with(**sizes).settings.max_event_bytes == 2**20
    (found,) = problems(**sizes | {"ORLY_MAX_SEND_BACKLOG": str(2 * 2**20 - 1)})
    assert found.endswith("is less than twice ORLY_MAX_EVENT_SIZE=1MiB: a large event could not be sent")


def test_a_backlog_holds_two_of_the_longest_answers_as_hex() -> None:
    sizes = {"ORLY_NEGENTROPY_MAX_ANSWER": "1MiB", "ORLY_MAX_SEND_BACKLOG": "4MiB"}
    assert load_with(**sizes).settings.negentropy_answer_bytes == 2**20
    (found,) = problems(**sizes | {"ORLY_NEGENTROPY_MAX_ANSWER": str(2**20 + 1)})
    assert found == (
        "ORLY_MAX_SEND_BACKLOG=4MiB is less than four times ORLY_NEGENTROPY_MAX_ANSWER=1048577B: "
        "an answer could not be sent as hex"
    )
    loaded = load_with(ORLY_MAX_TOTAL_SEND_BACKLOG="1MiB")
    assert loaded.settings.negentropy_answer_bytes == 2**18
    assert loaded.sources["ORLY_NEGENTROPY_MAX_ANSWER"] == "default, lowered to ORLY_MAX_SEND_BACKLOG"


def test_two_listeners_need_two_ports() -> None:
    (found,) = problems(ORLY_PORT="4000", ORLY_HEALTH_PORT="4000")
    assert found == "ORLY_PORT=4000 and ORLY_HEALTH_PORT=4000 are the same port"
    assert load_with(ORLY_PORT="0", ORLY_HEALTH_PORT="0").settings.port == 0


def test_logs_go_to_one_place() -> None:
    (found,) = problems(ORLY_LOG_TO_STDOUT="true", ORLY_LOG_FILE="/var/log/x")
    assert found == "ORLY_LOG_TO_STDOUT=true and ORLY_LOG_FILE=/var/log/x exclude each other"


TOKEN = "x" * 16
TLS_LACKS = "ORLY_GRPC_TLS=tls or mtls"
TOKEN_LACKS = "ORLY_GRPC_TOKEN"


@pytest.mark.parametrize(
    ("given", "lacking"),
    [
        ({}, f"{TLS_LACKS} and {TOKEN_LACKS}"),
        ({"ORLY_GRPC_TOKEN": TOKEN}, TLS_LACKS),
        ({"ORLY_GRPC_TLS": "tls"}, TOKEN_LACKS),
        ({"ORLY_GRPC_TLS": "mtls"}, TOKEN_LACKS),
    ],
)
@pytest.mark.parametrize(
    ("env", "address", "needed"),
    [
        ("ORLY_DB_LISTEN", "0.0.0.0:50051", {}),
        ("ORLY_DB_LISTEN", "[::]:50051", {}),
        ("ORLY_GRPC_SERVER", "db.example.com:50051", {"ORLY_DB_TYPE": "grpc"}),
    ],
)
def test_calls_beyond_this_machine_need_tls_and_a_token(
    env: str, address: str, needed: dict[str, str], given: dict[str, str], lacking: str
) -> None:
    (found,) = problems(**{env: address}, **needed, **given)
    assert found == (f"{env}={address} is beyond this machine and needs {lacking}, or ORLY_GRPC_ALLOW_INSECURE=true")


@pytest.mark.parametrize(
    "given", [{"ORLY_GRPC_TLS": "tls", "ORLY_GRPC_TOKEN": TOKEN}, {"ORLY_GRPC_ALLOW_INSECURE": "1"}]
)
def test_calls_beyond_this_machine_that_are_protected_or_wanted(given: dict[str, str]) -> None:
    addresses = {"ORLY_DB_LISTEN": "0.0.0.0:1", "ORLY_GRPC_SERVER": "10.0.0.1:1", "ORLY_DB_TYPE": "grpc"}
    assert load_with(**addresses, **given).settings.db_listen == "0.0.0.0:1"


@pytest.mark.parametrize("address", ["127.0.0.1:1", "[::1]:1", "localhost:1", "unix:/run/orly/db.sock"])
def test_calls_on_this_machine_need_nothing(address: str) -> None:
    settings = load_with(ORLY_DB_LISTEN=address, ORLY_GRPC_SERVER=address, ORLY_DB_TYPE="grpc").settings
    assert (settings.db_listen, settings.grpc_server) == (address, address)


def test_both_addresses_are_named_at_once() -> None:
    found = problems(ORLY_DB_LISTEN="0.0.0.0:1", ORLY_GRPC_SERVER="10.0.0.1:1", ORLY_DB_TYPE="grpc")
    assert [line.split("=")[0] for line in found] == ["ORLY_DB_LISTEN", "ORLY_GRPC_SERVER"]


def test_a_store_service_that_is_not_used_needs_nothing() -> None:
    assert load_with(ORLY_GRPC_SERVER="10.0.0.1:1").settings.grpc_server == "10.0.0.1:1"


def test_a_token_that_is_wrong_is_not_also_missing() -> None:
    (found,) = problems(ORLY_DB_LISTEN="0.0.0.0:1", ORLY_GRPC_TLS="tls", ORLY_GRPC_TOKEN="x" * 15)
    assert found == "ORLY_GRPC_TOKEN: must have 16 to 4096 characters, not 15"


def test_the_defaults_keep_every_rule() -> None:
    assert list(conflicts(Settings(), SETTINGS)) == []
