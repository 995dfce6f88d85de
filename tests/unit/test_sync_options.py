import pytest
from tests.settings_environment import NSEC, SECRET, load_with

from orly.nostr.filter import Filter
from orly.sync.negentropy.parts import options_from_settings
from orly.sync.negentropy.peer_loop import SyncOptions
from orly.sync.negentropy.request import Direction, SyncRequest


def options(**variables: str) -> SyncOptions:
    """With these variables, less the common start of their names."""
    given = {f"ORLY_SYNC_NEGENTROPY_{name}": value for name, value in variables.items()}
    return options_from_settings(load_with(**given).settings)


def test_the_defaults_are_those_of_the_settings() -> None:
    assert options() == SyncOptions()


def test_every_setting_is_used() -> None:
    found = options(
        PEERS="wss://a.example.com/, WS://b.example.com:80",
        INTERVAL="5m",
        DIRECTION="Up",
        FRAME_SIZE="2048",
        PEER_TIMEOUT="90s",
        SECRET_KEY=NSEC,
        PRIVATE_KINDS="true",
        FILTER='{"limit":3}',
        FILTER_KINDS="1",
    )
    assert found == SyncOptions(
        peers=("wss://a.example.com", "ws://b.example.com"),
        interval_s=300,
        direction=Direction.UP,
        filter=Filter(kinds=frozenset({1}), limit=3),
        frame_bytes=2048,
        timeout_s=90,
        auth_key=bytes.fromhex(SECRET),
        private_kinds=True,
    )
    assert found.request("wss://a.example.com", Filter()) == SyncRequest(
        url="wss://a.example.com",
        filter=Filter(),
        direction=Direction.UP,
        frame_bytes=2048,
        timeout_s=90,
        auth_key=bytes.fromhex(SECRET),
        private_kinds=True,
    )


@pytest.mark.parametrize(
    ("own", "relays", "key"), [("", "", None), ("", SECRET, SECRET), ("11" * 32, SECRET, "11" * 32)]
)
def test_the_relays_key_is_used_unless_there_is_one_for_peers(own: str, relays: str, key: str | None) -> None:
    settings = load_with(ORLY_SYNC_NEGENTROPY_SECRET_KEY=own, ORLY_RELAY_SECRET_KEY=relays).settings
    assert options_from_settings(settings).auth_key == (None if key is None else bytes.fromhex(key))


def test_no_key_is_shown() -> None:
    shown = repr(options(SECRET_KEY=NSEC))
    assert SECRET not in shown
    assert repr(bytes.fromhex(SECRET)) not in shown
