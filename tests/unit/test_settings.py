from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from tests.settings_environment import ENV_FILE, HOME, NSEC, SECRET, TOKEN, load_with, problems

from orly import services
from orly.settings import GROUPS, SETTINGS, Setting, Settings, SettingsError, load

BOUNDED = [row for row in SETTINGS if row.least is not None]


def make(**values: Any) -> Settings:
    """Settings from attributes or variables, whatever their types."""
    return Settings(**values)


def test_defaults() -> None:
    loaded = load_with()
    settings = loaded.settings
    assert settings.data_dir == Path(HOME, ".local/share/ORLY")
    assert (settings.listen, settings.port, settings.health_port) == ("0.0.0.0", services.RELAY.port, 0)
    assert (settings.default_limit, settings.max_limit) == (500, 5000)
    assert (settings.max_message_bytes, settings.max_event_bytes) == (2**20, 2**18)
    assert settings.stop_timeout_s == services.RELAY.stop_budget_s
    assert settings.relay_secret_key is None
    assert settings.log_file is None
    assert settings.db_listen == settings.grpc_server == f"127.0.0.1:{services.DB.port}"
    assert (settings.db_type, settings.db_direct_read) == ("lmdb", False)
    assert settings.relay_workers == 0
    assert settings.launcher_db_ready_timeout_s == services.DB.ready_budget_s
    assert settings.launcher_stop_timeout_s == services.DB.stop_budget_s
    assert (settings.grpc_tls, settings.grpc_token, settings.grpc_allow_insecure) == ("off", None, False)
    assert settings.run_dir is None
    assert set(loaded.sources.values()) == {"default"}
    assert loaded.warnings == ()


def test_every_variable_reaches_its_attribute() -> None:
    given = {
        "ORLY_PORT": "0",
        "ORLY_IDLE_TIMEOUT": "1h30m",
        "ORLY_DB_MAX_SIZE": "512MiB",
        "ORLY_AUTH_REQUIRED": "yes",
        "ORLY_RELAY_TAGS": "a, b",
        "ORLY_LOG_FILE": "~/x.log",
    }
    loaded = load_with(**given)
    settings = loaded.settings
    assert settings.port == 0
    assert settings.idle_timeout_s == 5400
    assert settings.db_max_bytes == 512 * 2**20
    assert settings.auth_required is True
    assert settings.relay_tags == ("a", "b")
    assert settings.log_file == Path(HOME, "x.log")
    assert {name for name, source in loaded.sources.items() if source == "environment"} == given.keys()


def test_every_variable_of_the_services_reaches_its_attribute() -> None:
    given = {
        "ORLY_DB_TYPE": "grpc",
        "ORLY_DB_LISTEN": "unix:/run/orly/db.sock",
        "ORLY_GRPC_SERVER": "localhost:1",
        "ORLY_DB_DIRECT_READ": "true",
        "ORLY_GRPC_CONNECT_TIMEOUT": "100ms",
        "ORLY_RELAY_WORKERS": "2",
        "ORLY_GRPC_TLS": "mtls",
        "ORLY_GRPC_TLS_CA": "~/tls/ca.pem",
        "ORLY_GRPC_TOKEN": TOKEN,
        "ORLY_LAUNCHER_DB_BACKEND": "badger",
        "ORLY_LAUNCHER_DB_BINARY": "~/bin/orly-db",
        "ORLY_LAUNCHER_CRASH_WINDOW": "1m",
        "ORLY_RUN_DIR": "/run/orly",
    }
    loaded = load_with(**given)
    settings = loaded.settings
    assert (settings.db_type, settings.db_listen, settings.grpc_server) == (
        "grpc",
        given["ORLY_DB_LISTEN"],
        "localhost:1",
    )
    assert settings.db_direct_read is True
    assert settings.grpc_connect_timeout_s == 0.1
    assert settings.relay_workers == 2
    assert (settings.grpc_tls, settings.grpc_tls_ca) == ("mtls", Path(HOME, "tls/ca.pem"))
    assert settings.grpc_token is not None
    assert settings.grpc_token.get_secret_value() == TOKEN
    assert settings.launcher_db_backend == "lmdb"
    assert settings.launcher_db_binary == Path(HOME, "bin/orly-db")
    assert settings.launcher_crash_window_s == 60
    assert settings.run_dir == Path("/run/orly")
    assert {name for name, source in loaded.sources.items() if source == "environment"} == given.keys()


def test_a_tilde_alone_is_the_home_directory() -> None:
    assert load_with(ORLY_DATA_DIR="~").settings.data_dir == Path(HOME)


@pytest.mark.parametrize("row", SETTINGS, ids=lambda row: row.env)
def test_each_row_is_complete(row: Setting) -> None:
    assert row.env.startswith("ORLY_")
    assert row.help.endswith(".")
    assert "|" not in row.help
    assert row.group
    assert row.form.name


@pytest.mark.parametrize("row", [row for row in SETTINGS if row.form.name != "path"], ids=lambda row: row.env)
def test_each_default_is_written_as_it_is_shown(row: Setting) -> None:
    assert row.form.show(getattr(Settings(), row.attr)) == row.default


@pytest.mark.parametrize("row", BOUNDED, ids=lambda row: row.env)
def test_each_bound_is_kept_at_its_edge(row: Setting) -> None:
    assert row.least is not None
    for bound, beyond in ((row.least, row.least - 1), (row.most, (row.most or 0) + 1)):
        if bound is None:
            continue
        assert getattr(make(**{row.env: row.form.show(bound)}), row.attr) == bound
        with pytest.raises(ValidationError):
            make(**{row.attr: beyond})


def test_the_table_has_each_name_once() -> None:
    assert len({row.env for row in SETTINGS}) == len(SETTINGS)
    groups = [row.group for row in SETTINGS]
    assert list(dict.fromkeys(groups)) == list(GROUPS), "each group has rows, and they come in this order"
    assert groups == sorted(groups, key=GROUPS.index), "the rows of a group stand together"


def test_settings_made_directly_read_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORLY_PORT", "9")
    monkeypatch.setenv("PORT", "9")
    assert Settings().port == 3334
    assert Settings(port=1).port == make(ORLY_PORT="1").port == 1
    with pytest.raises(ValidationError):
        make(prot=1)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        Settings().port = 5


def test_the_process_environment_is_read_by_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ORLY_PORT", "4000")
    (tmp_path / ".config/ORLY").mkdir(parents=True)
    (tmp_path / ".config/ORLY/.env").write_text("ORLY_HEALTH_PORT=4001\n")
    loaded = load()
    assert (loaded.settings.port, loaded.settings.health_port) == (4000, 4001)


def test_everything_wrong_is_listed_at_once() -> None:
    found = problems(
        {ENV_FILE: "ORLY_IDLE_TIMEOUT=5x\nORLY_TYPO=1\n"},
        ORLY_PORT="65536",
        ORLY_MAX_MESSAGE_SIZE="1KiB",
        ORLY_PING_INTERVAL="10ms",
        ORLY_PROT="1",
        ORLY_RELAY_SECRET_KEY="nsec1oops",
        ORLY_SPROCKET_ENABLED="true",
        ORLY_QUERY_DEFAULT_LIMIT="600",
        ORLY_QUERY_RESULT_LIMIT="500",
    )
    assert found == (
        "ORLY_PROT: no such setting; did you mean ORLY_PORT?",
        'ORLY_SPROCKET_ENABLED="true": this version has no such rules and would let every event pass: '
        "see ORLY_WRITE_PLUGIN",
        f"ORLY_TYPO: no such setting (.env {ENV_FILE})",
        'ORLY_PORT="65536": must be at most 65535',
        "ORLY_RELAY_SECRET_KEY: has 9 characters, a key has 63",
        'ORLY_MAX_MESSAGE_SIZE="1KiB": must be at least 4KiB',
        f'ORLY_IDLE_TIMEOUT="5x": not a duration: write 25ms, 30s, 5m, 1h30m or whole seconds (.env {ENV_FILE})',
        'ORLY_PING_INTERVAL="10ms": must be at least 1s',
        "ORLY_QUERY_DEFAULT_LIMIT=600 is more than ORLY_QUERY_RESULT_LIMIT=500",
    )


def test_a_rule_between_settings_is_silent_when_one_of_them_is_wrong() -> None:
    (found,) = problems(ORLY_QUERY_DEFAULT_LIMIT="6000", ORLY_QUERY_RESULT_LIMIT="lots")
    assert found == 'ORLY_QUERY_RESULT_LIMIT="lots": not a whole number'


@pytest.mark.parametrize("text", [SECRET + "0", NSEC + "q", NSEC[:-1] + "q", "0" * 64])
def test_no_problem_holds_a_secret(text: str) -> None:
    shown = "\n".join(
        (
            *problems(ORLY_RELAY_SECRET_KEY=text),
            *problems(ORLY_RELAY_SECRET_KEY_FILE=text),
            *problems({"/run/key": text}, ORLY_RELAY_SECRET_KEY_FILE="/run/key"),
            *problems(ORLY_RELAY_SECRET_KYE=text),
        )
    )
    assert text not in shown


def test_a_secret_key_in_the_wrong_place_is_not_shown() -> None:
    (found,) = problems(ORLY_RELAY_PUBKEY=NSEC)
    assert found == 'ORLY_RELAY_PUBKEY="nsec1...": this is a secret key, and a public key belongs here'


@pytest.mark.parametrize("text", ["short token here", TOKEN + "!"])
def test_no_problem_holds_a_token(text: str) -> None:
    shown = "\n".join(
        (
            *problems(ORLY_GRPC_TOKEN=text),
            *problems(ORLY_GRPC_TOKEN_FILE=text),
            *problems({"/run/token": text}, ORLY_GRPC_TOKEN_FILE="/run/token"),
            *problems(ORLY_GRPC_TOKNE=text),
        )
    )
    assert text not in shown


def test_the_settings_object_hides_its_secret() -> None:
    loaded = load_with(ORLY_RELAY_SECRET_KEY=NSEC, ORLY_GRPC_TOKEN=TOKEN)
    assert SECRET not in f"{loaded!r}{loaded.settings}"
    assert TOKEN not in f"{loaded!r}{loaded.settings}"
    assert loaded.settings.relay_secret_key is not None
    assert loaded.settings.relay_secret_key.get_secret_value() == SECRET
    with pytest.raises(ValidationError) as caught:
        make(relay_secret_key=SECRET + "0")
    assert SECRET not in str(caught.value)


def test_the_home_directory_must_be_known_for_a_path_that_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(path: type[Path] | Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", classmethod(unknown))
    monkeypatch.setattr(Path, "expanduser", unknown)
    with pytest.raises(SettingsError) as caught:
        load({}, lambda path: "")
    assert caught.value.problems == (
        'ORLY_DATA_DIR="~/.local/share/ORLY": no home directory is known: set HOME, or write the whole path (default)',
    )
