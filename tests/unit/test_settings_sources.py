from itertools import product

import pytest
from tests.settings_environment import ENV_FILE, HOME, NSEC, SECRET, TOKEN, load_with, problems

from orly.settings import SETTINGS

SECRETS = [row.env for row in SETTINGS if row.form.is_secret]
ATTRS = {row.env: row.attr for row in SETTINGS}
VALUES = {
    "ORLY_RELAY_SECRET_KEY": (NSEC, SECRET),
    "ORLY_SYNC_NEGENTROPY_SECRET_KEY": (NSEC, SECRET),
    "ORLY_GRPC_TOKEN": (TOKEN, TOKEN),
}
"""How a secret is written, and what it then is."""


def test_the_environment_wins_over_the_file() -> None:
    loaded = load_with({ENV_FILE: "ORLY_PORT=1\nORLY_HEALTH_PORT=2\nPATH=/x\n"}, ORLY_PORT="3")
    assert (loaded.settings.port, loaded.settings.health_port) == (3, 2)
    assert loaded.sources["ORLY_PORT"] == "environment"
    assert loaded.sources["ORLY_HEALTH_PORT"] == f".env {ENV_FILE}"
    assert loaded.sources["ORLY_LISTEN"] == "default"


def test_the_name_of_the_relay_names_the_directory_of_the_file() -> None:
    path = f"{HOME}/.config/My Relay/.env"
    loaded = load_with({path: "ORLY_PORT=1\n", ENV_FILE: "ORLY_PORT=2\n"}, ORLY_APP_NAME="My Relay")
    assert loaded.settings.port == 1


@pytest.mark.parametrize("name", ["../../etc", "..", "."])
def test_a_name_that_leads_elsewhere_reads_no_file(name: str) -> None:
    (found,) = problems({f"{HOME}/.config/{name}/.env": "ORLY_TYPO=1"}, ORLY_APP_NAME=name)
    assert found.startswith(f'ORLY_APP_NAME="{name}": also names a directory')


def test_an_empty_value_is_not_set() -> None:
    loaded = load_with({ENV_FILE: "ORLY_PORT=1"}, ORLY_PORT="", ORLY_TYPO=" ", ORLY_RELAY_SECRET_KEY_FILE="")
    assert loaded.settings.port == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (PermissionError(13, "Permission denied"), "cannot be read: Permission denied"),
        (IsADirectoryError(21, "Is a directory"), "cannot be read: Is a directory"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), "is not UTF-8 text"),
        ("ORLY_PORT=1\nnonsense", "line 2 is not NAME=value"),
    ],
)
def test_a_file_that_cannot_be_used(content: str | Exception, message: str) -> None:
    assert problems({ENV_FILE: content}) == (f"{ENV_FILE}: {message}",)


def test_a_path_to_the_file_that_does_not_lead_on_is_no_problem() -> None:
    assert load_with({ENV_FILE: NotADirectoryError(20, "Not a directory")}).settings.port == 3334


def test_the_synonym_counts_only_without_the_setting() -> None:
    loaded = load_with(LOG_LEVEL="debug")
    assert loaded.settings.log_level == "debug"
    assert loaded.sources["ORLY_LOG_LEVEL"] == "environment, as LOG_LEVEL"
    assert load_with(LOG_LEVEL="debug", ORLY_LOG_LEVEL="error").settings.log_level == "error"
    assert load_with({ENV_FILE: "ORLY_LOG_LEVEL=error"}, LOG_LEVEL="debug").settings.log_level == "error"
    (found,) = problems(LOG_LEVEL="loud")
    assert found.startswith('ORLY_LOG_LEVEL="loud": not a level')
    assert found.endswith("(environment, as LOG_LEVEL)")


def test_the_launcher_has_its_own_name_for_the_address_of_the_store() -> None:
    loaded = load_with(ORLY_LAUNCHER_DB_LISTEN="127.0.0.1:1")
    assert loaded.settings.db_listen == "127.0.0.1:1"
    assert loaded.sources["ORLY_DB_LISTEN"] == "environment, as ORLY_LAUNCHER_DB_LISTEN"
    assert loaded.warnings == ()
    both = load_with(ORLY_LAUNCHER_DB_LISTEN="127.0.0.1:1", ORLY_DB_LISTEN="127.0.0.1:2")
    assert both.settings.db_listen == "127.0.0.1:2"
    (found,) = problems({ENV_FILE: "ORLY_LAUNCHER_DB_LISTEN=here\n"})
    assert found.startswith('ORLY_DB_LISTEN="here": has no port')
    assert found.endswith(f"(.env {ENV_FILE}, as ORLY_LAUNCHER_DB_LISTEN)")


def test_the_address_of_the_sync_service_has_another_name_too() -> None:
    loaded = load_with(ORLY_LAUNCHER_SYNC_NEGENTROPY_LISTEN="127.0.0.1:1")
    assert loaded.settings.sync_negentropy_listen == "127.0.0.1:1"
    assert loaded.sources["ORLY_SYNC_NEGENTROPY_LISTEN"] == "environment, as ORLY_LAUNCHER_SYNC_NEGENTROPY_LISTEN"
    assert loaded.warnings == ()
    both = load_with(ORLY_LAUNCHER_SYNC_NEGENTROPY_LISTEN="127.0.0.1:1", ORLY_SYNC_NEGENTROPY_LISTEN="127.0.0.1:2")
    assert both.settings.sync_negentropy_listen == "127.0.0.1:2"


def test_there_are_secrets() -> None:
    assert list(VALUES) == SECRETS


@pytest.mark.parametrize(("env", "end"), list(product(SECRETS, ["", "\n", "\r\n"])))
def test_a_secret_may_come_from_a_file(env: str, end: str) -> None:
    written, value = VALUES[env]
    loaded = load_with({"/run/key": written + end}, **{f"{env}_FILE": "/run/key"})
    assert getattr(loaded.settings, ATTRS[env]).get_secret_value() == value
    assert loaded.sources[env] == "file /run/key"


def test_the_name_of_a_secret_file_may_come_from_the_env_file() -> None:
    loaded = load_with({ENV_FILE: "ORLY_RELAY_SECRET_KEY_FILE=/run/key", "/run/key": SECRET})
    assert loaded.sources["ORLY_RELAY_SECRET_KEY"] == "file /run/key"


@pytest.mark.parametrize("env", SECRETS)
def test_a_secret_given_twice(env: str) -> None:
    written, _ = VALUES[env]
    found = problems({"/run/key": written}, **{env: written, f"{env}_FILE": "/run/key"})
    assert found == (f"{env} and {env}_FILE are both set: keep one of them",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (FileNotFoundError(2, "No such file or directory"), "cannot be read: No such file or directory"),
        (PermissionError(13, "Permission denied"), "cannot be read: Permission denied"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), "is not UTF-8 text"),
        ("\n", "is empty"),
        ("", "is empty"),
    ],
)
def test_a_secret_file_that_cannot_be_used(content: str | Exception, message: str) -> None:
    found = problems({"/run/key": content}, ORLY_RELAY_SECRET_KEY_FILE="/run/key")
    assert found == (f'ORLY_RELAY_SECRET_KEY_FILE="/run/key": {message}',)


def test_only_one_line_break_is_removed_from_a_secret_file() -> None:
    (found,) = problems({"/run/key": f"{NSEC}\nmore\n"}, ORLY_RELAY_SECRET_KEY_FILE="/run/key")
    assert found == "ORLY_RELAY_SECRET_KEY: has 68 characters, a key has 63 (file /run/key)"


def test_a_relative_path_of_a_secret_file_is_refused_unseen() -> None:
    (found,) = problems(ORLY_RELAY_SECRET_KEY_FILE="key.txt")
    assert found == "ORLY_RELAY_SECRET_KEY_FILE: must be the whole path of a file, starting with a slash"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("ORLY_PROT", "; did you mean ORLY_PORT?"),
        ("ORLY_MAX_CONNS_PER_IP", "; did you mean ORLY_MAX_CONN_PER_IP?"),
        ("ORLY_MAX_MESSAGE_BYTES", "; did you mean ORLY_MAX_MESSAGE_SIZE?"),
        ("ORLY_MAX_LIMIT", "; did you mean ORLY_QUERY_RESULT_LIMIT?"),
        ("ORLY_MAX_CONNECTIONS", "; did you mean ORLY_MAX_GLOBAL_CONNECTIONS?"),
        ("ORLY_ACL_MOD", "; did you mean ORLY_ACL_MODE?"),
        ("ORLY_RELAY_SECRET_KEY_FIEL", "; did you mean ORLY_RELAY_SECRET_KEY_FILE?"),
        ("ORLY_PORT_FILE", "; only secrets are read from files, set ORLY_PORT itself"),
        ("ORLY_ZZZZZZZZ", ""),
        ("ORLY_", ""),
    ],
)
def test_an_unknown_name_is_refused_with_a_suggestion(name: str, hint: str) -> None:
    assert problems(**{name: "value-not-shown"}) == (f"{name}: no such setting{hint}",)


@pytest.mark.parametrize("env", [row.env for row in SETTINGS])
def test_a_letter_left_out_is_understood(env: str) -> None:
    known = {row.env for row in SETTINGS}
    for position in range(len("ORLY_") + 1, len(env)):
        name = env[:position] + env[position + 1 :]
        if name not in known:
            (found,) = problems(**{name: "1"})
            assert "did you mean ORLY_" in found


def test_a_strange_name_is_escaped() -> None:
    assert problems(**{"ORLY_\x1b[1m": "1"}) == ("ORLY_\\x1b[1m: no such setting",)


def test_names_of_other_programs_are_left_alone() -> None:
    loaded = load_with({ENV_FILE: "PATH=/bin\nMY_ORLY_PORT=x"}, ORLYPORT="x", SHELL="/bin/sh")
    assert loaded.warnings == ()
