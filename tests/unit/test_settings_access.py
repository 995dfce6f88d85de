"""The settings of access control: what follows from what, and what contradicts itself."""

import pytest
from tests.factory import KEYS
from tests.settings_environment import load_with, problems

from orly.access.levels import Mode
from orly.acl.rules import rules_from_settings
from orly.services import ACL, enabled
from orly.settings_access import acl_server


@pytest.mark.parametrize(
    ("given", "mode", "runs"),
    [
        ({}, "none", False),
        ({"ORLY_ACL_MODE": "none"}, "none", False),
        ({"ORLY_ACL_MODE": "managed"}, "managed", True),
        ({"ORLY_ACL_MODE": "Curation", "ORLY_OWNERS": KEYS[0]}, "curating", True),
        ({"ORLY_OWNERS": KEYS[0]}, "none", True),
        ({"ORLY_ADMINS": KEYS[0]}, "none", True),
        ({"ORLY_ADMINS": KEYS[0], "ORLY_LAUNCHER_ACL_ENABLED": "true"}, "follows", True),
        ({"ORLY_ADMINS": KEYS[0], "ORLY_LAUNCHER_ACL_ENABLED": "true", "ORLY_ACL_MODE": "none"}, "none", True),
        ({"ORLY_ADMINS": KEYS[0], "ORLY_LAUNCHER_ACL_ENABLED": "false", "ORLY_ACL_MODE": "follows"}, "follows", False),
    ],
)
def test_the_mode_and_whether_its_service_runs(given: dict[str, str], mode: str, runs: bool) -> None:
    loaded = load_with(**given)
    assert loaded.settings.acl_mode == mode
    assert loaded.settings.launcher_acl_enabled is runs
    assert (ACL in enabled(loaded.settings)) is runs
    if runs and "ORLY_LAUNCHER_ACL_ENABLED" not in given:
        assert loaded.sources["ORLY_LAUNCHER_ACL_ENABLED"].startswith("default, because of ORLY_")


@pytest.mark.parametrize(
    "given", [{"ORLY_ACL_MODE": "follows"}, {"ORLY_ACL_MODE": "curating"}, {"ORLY_LAUNCHER_ACL_ENABLED": "true"}]
)
def test_a_mode_in_which_nobody_could_write_is_refused(given: dict[str, str]) -> None:
    (found,) = problems(**given)
    assert found.endswith("needs ORLY_OWNERS or ORLY_ADMINS: without them nobody could write")
    load_with(**given, ORLY_OWNERS=KEYS[0])
    load_with(**given, ORLY_ACL_TYPE="grpc")  # the service knows them
    load_with(**given, ORLY_GRPC_ACL_SERVER="127.0.0.1:9")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("ORLY_ACL_MODE", "social", "write none, follows, managed or curating"),
        ("ORLY_ACL_TYPE", "remote", "write local or grpc"),
        ("ORLY_ACL_DB_TYPE", "neo4j", "write grpc, or lmdb"),
        ("ORLY_OWNERS", "abc", "ORLY_OWNERS"),
        ("ORLY_ADMINS", f"{KEYS[0]},npub1junk", "ORLY_ADMINS"),
        ("ORLY_BOOTSTRAP_RELAYS", "ftp://x", "ORLY_BOOTSTRAP_RELAYS"),
        ("ORLY_WRITE_PLUGIN_ON_FAILURE", "ignore", "write refuse or accept"),
        ("ORLY_LAUNCHER_ACL_ENABLED", "maybe", "ORLY_LAUNCHER_ACL_ENABLED"),
    ],
)
def test_what_is_refused_by_name(name: str, value: str, words: str) -> None:
    (found,) = problems(**{name: value})
    assert found.startswith(name)
    assert words in found


def test_other_names() -> None:
    given = {
        "ORLY_FOLLOWS_THROTTLE_ENABLED": "true",
        "ORLY_FOLLOWS_THROTTLE_PER_EVENT": "50ms",
        "ORLY_FOLLOWS_THROTTLE_MAX_DELAY": "2s",
        "ORLY_LAUNCHER_ACL_LISTEN": "127.0.0.1:7",
    }
    settings = load_with(**given).settings
    assert settings.follows_throttle
    assert (settings.follows_throttle_increment_s, settings.follows_throttle_max_s) == (0.05, 2.0)
    assert settings.acl_listen == "127.0.0.1:7"


def test_a_growth_beyond_the_ceiling_is_refused() -> None:
    given = {"ORLY_FOLLOWS_THROTTLE_INCREMENT": "2s", "ORLY_FOLLOWS_THROTTLE_MAX": "2s"}
    load_with(**given)
    (found,) = problems(**given | {"ORLY_FOLLOWS_THROTTLE_MAX": "1s"})
    assert found == "ORLY_FOLLOWS_THROTTLE_INCREMENT=2s is more than ORLY_FOLLOWS_THROTTLE_MAX=1s"


def test_where_the_service_is() -> None:
    assert acl_server(load_with().settings) is None
    assert acl_server(load_with(ORLY_GRPC_ACL_SERVER="127.0.0.1:9").settings) == "127.0.0.1:9"
    assert acl_server(load_with(ORLY_ACL_TYPE="local", ORLY_GRPC_ACL_SERVER="127.0.0.1:9").settings) is None
    assert acl_server(load_with(ORLY_ACL_TYPE="grpc").settings) == "127.0.0.1:50052"
    assert acl_server(load_with(ORLY_ACL_TYPE="grpc", ORLY_GRPC_ACL_SERVER="127.0.0.1:9").settings) == "127.0.0.1:9"


@pytest.mark.parametrize(
    "given",
    [
        {"ORLY_ACL_LISTEN": "0.0.0.0:50052"},
        {"ORLY_ACL_TYPE": "grpc", "ORLY_GRPC_ACL_SERVER": "acl.example:50052"},
        {"ORLY_GRPC_ACL_SERVER": "acl.example:50052"},
        {"ORLY_ACL_GRPC_DB_SERVER": "db.example:50051"},
    ],
)
def test_beyond_this_machine_it_needs_tls_and_a_token(given: dict[str, str]) -> None:
    (found,) = problems(**given)
    assert "is beyond this machine and needs ORLY_GRPC_TLS" in found


def test_rules_from_settings() -> None:
    settings = load_with(
        ORLY_ACL_MODE="follows",
        ORLY_OWNERS=KEYS[0],
        ORLY_ADMINS=f"{KEYS[1]},{KEYS[2]}",
        ORLY_ACL_RESTRICT_READS="true",
        ORLY_FOLLOWS_THROTTLE="true",
    ).settings
    rules = rules_from_settings(settings)
    assert rules.mode is Mode.FOLLOWS
    assert rules.owners == {bytes.fromhex(KEYS[0])}
    assert rules.admins == {bytes.fromhex(key) for key in KEYS[1:3]}
    assert rules.reads_restricted
    assert rules.throttles
