import json
import re

from hypothesis import given
from hypothesis import strategies as st
from tests.settings_environment import HOME, SECRET, TOKEN, load_with

from orly.cli.config import show_config
from orly.env_file import parse_env
from orly.settings import SETTINGS

TEXTS = st.text(st.characters(exclude_categories=["Cc", "Cs"]) | st.sampled_from("\n\t'\"\\$` #"), max_size=30)


def test_each_setting_has_one_line_with_its_source() -> None:
    text = show_config(load_with(ORLY_PORT="5000"), as_json=False)
    lines = [line for line in text.split("\n") if "=" in line]
    assert [re.split(r"[ =]", line)[0] for line in lines] == [row.env for row in SETTINGS]
    assert re.search(r"^ORLY_PORT=5000 +# environment$", text, re.MULTILINE)
    assert re.search(r"^ORLY_IDLE_TIMEOUT=30m +# default$", text, re.MULTILINE)
    assert "# Network\n" in text


def test_the_sources_stand_in_one_column() -> None:
    text = show_config(load_with(), as_json=False)
    columns = {line.rindex(" # ") for line in text.split("\n") if "=" in line}
    assert len(columns) == 1


@given(TEXTS, st.integers(0, 65535), st.booleans())
def test_the_output_is_an_environment_file_for_the_same_settings(text: str, port: int, flag: bool) -> None:
    given_values = {
        "ORLY_RELAY_DESCRIPTION": text,
        "ORLY_PORT": str(port),
        "ORLY_KEEP_VERSIONS": str(flag),
        "ORLY_IP_BLACKLIST": "10.,2001:db8::/32",
        "ORLY_QUERY_RESULT_LIMIT": "100",
        "ORLY_MAX_CREATED_AT_PAST": "90.5s",
        "ORLY_DB_LISTEN": "unix:/run/orly db.sock",
        "ORLY_GRPC_SERVER": "[0::1]:1",
        "ORLY_GRPC_TLS": "MTLS",
        "ORLY_GRPC_TLS_CA": "~/ca.pem",
        "ORLY_LAUNCHER_DB_BINARY": "/opt/my orly/orly-db",
    }
    loaded = load_with(**given_values)
    again = load_with(**parse_env(show_config(loaded, as_json=False)))
    assert again.settings == loaded.settings
    assert again.warnings == ()


def test_a_secret_is_masked_and_cannot_be_taken_for_a_value() -> None:
    given_values = {"ORLY_RELAY_SECRET_KEY": SECRET, "ORLY_GRPC_TOKEN": TOKEN}
    loaded = load_with(**given_values)
    text = show_config(loaded, as_json=False)
    as_json = show_config(loaded, as_json=True)
    for env, value in given_values.items():
        assert value not in text
        assert f"# {env}='********'" in text
        assert env not in parse_env(text)
        assert value not in as_json


def test_json() -> None:
    loaded = load_with({"/run/key": SECRET}, ORLY_RELAY_SECRET_KEY_FILE="/run/key", ORLY_APP_NAME="Café")
    shown = json.loads(show_config(loaded, as_json=True))
    assert list(shown) == [row.env for row in SETTINGS]
    assert shown["ORLY_APP_NAME"] == {"value": "Café", "source": "environment"}
    assert shown["ORLY_RELAY_SECRET_KEY"] == {"value": "********", "source": "file /run/key"}
    assert shown["ORLY_DATA_DIR"] == {"value": f"{HOME}/.local/share/ORLY", "source": "default"}
