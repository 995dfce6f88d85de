import pytest
from tests.settings_environment import ENV_FILE, load_with, problems

from orly.settings import SETTINGS
from orly.settings_names import PREFIXES_WITHOUT_EFFECT, WITHOUT_EFFECT, is_without_effect, refusal

HARMLESS = {"ORLY_ACL_MODE": "none", "ORLY_ACL_TYPE": "local"}
SYNC_ADDRESSES = ["ORLY_GRPC_SYNC_DISTRIBUTED", "ORLY_GRPC_SYNC_CLUSTER", "ORLY_GRPC_SYNC_RELAYGROUP"]


def test_no_name_is_both_a_setting_and_without_effect() -> None:
    assert [row.env for row in SETTINGS if is_without_effect(row.env)] == []
    assert [name for name in WITHOUT_EFFECT if not name.startswith("ORLY_")] == []
    assert [prefix for prefix in PREFIXES_WITHOUT_EFFECT if not prefix.startswith("ORLY_")] == []


@pytest.mark.parametrize("name", sorted(WITHOUT_EFFECT | {f"{prefix}X" for prefix in PREFIXES_WITHOUT_EFFECT}))
def test_each_is_accepted_with_one_warning(name: str) -> None:
    environ = {name: HARMLESS.get(name, "false")}
    if name in SYNC_ADDRESSES:
        environ["ORLY_SYNC_TYPE"] = "local"
    assert load_with(**environ).warnings == (f"{name} has no effect in this version",)


def test_a_warning_says_when_the_name_comes_from_a_file() -> None:
    loaded = load_with({ENV_FILE: "ORLY_TOR_ENABLED=true\n"})
    assert loaded.warnings == (f"ORLY_TOR_ENABLED has no effect in this version (.env {ENV_FILE})",)


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        *(
            (f"ORLY_LAUNCHER_SYNC_{name}_ENABLED", "true", "no such sync service")
            for name in ("DISTRIBUTED", "CLUSTER", "RELAYGROUP", "GRASP")
        ),
        ("ORLY_POLICY_ENABLED", "1", "no such rules"),
        ("ORLY_SPROCKET_ENABLED", "true", "no such rules"),
        *((name, "127.0.0.1:50061", "no such sync service") for name in SYNC_ADDRESSES),
    ],
)
def test_what_would_mislead_is_refused(name: str, value: str, why: str) -> None:
    (found,) = problems(**{name: value})
    assert found.startswith(f'{name}="{value}": this version has {why}')
    assert "unset it" in found or "see ORLY_WRITE_PLUGIN" in found


def test_case_and_white_space_do_not_matter() -> None:
    assert refusal("ORLY_ACL_MODE", {"ORLY_ACL_MODE": " None "}) is None
    assert refusal("ORLY_POLICY_ENABLED", {"ORLY_POLICY_ENABLED": "OFF"}) is None
