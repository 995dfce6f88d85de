"""Every setting of the relay, once: variable, default, bounds, meaning. Nothing else reads the environment.

`load` returns checked settings or raises with every problem at once. The docs, the README and `orly config` derive
from `SETTINGS`.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from orly import services
from orly.settings_access import AccessSettings
from orly.settings_load import Setting, SettingsError, group, table, validate
from orly.settings_rules import conflicts, lower_defaults
from orly.settings_service_types import Store
from orly.settings_services import ServiceSettings
from orly.settings_sources import gather
from orly.settings_sync import SyncSettings
from orly.settings_types import (
    Count,
    DirectoryPath,
    Duration,
    Flag,
    Level,
    ListenAddress,
    LogFormat,
    Name,
    Networks,
    OptionalLevel,
    OptionalPath,
    Prefixes,
    PublicKey,
    RelayUrl,
    SecretKey,
    Size,
    Text,
    WebUrl,
    Words,
)
from orly.units import GIB, KIB, MIB, TIB, format_duration

__all__ = ["SETTINGS", "Loaded", "Setting", "Settings", "SettingsError", "load"]

_DAY_S: Final = 24 * 60 * 60
_MOST: Final = 1_000_000

_storage = group("Storage")
_network = group("Network")
_identity = group("Identity")
_access = group("Access")
_limits = group("Limits")
_logs = group("Logs")


class Settings(ServiceSettings, SyncSettings, AccessSettings, BaseSettings):
    """The settings of a relay, checked and typed.

    Made by `load`, or directly with attributes or variables as keyword arguments; either way nothing is read from
    the environment by pydantic. A direct call checks each value but not the rules between settings.
    """

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", populate_by_name=True, validate_default=True, hide_input_in_errors=True
    )

    data_dir: DirectoryPath = _storage("ORLY_DATA_DIR", "~/.local/share/ORLY", "Directory of the event store.")
    db_type: Store = _storage(
        "ORLY_DB_TYPE",
        "lmdb",
        "The event store: `lmdb`, inside this process (also called `badger` or `local`), or `grpc`, the service at "
        "`ORLY_GRPC_SERVER`.",
    )
    db_max_bytes: Size = _storage(
        "ORLY_DB_MAX_SIZE",
        "1TiB",
        "How large the store may grow. Address space is reserved, disk is not: space is taken as events arrive.",
        ge=16 * MIB,
        le=64 * TIB,
    )
    keep_versions: Flag = _storage(
        "ORLY_KEEP_VERSIONS", "false", "Keep replaced versions of replaceable events; clients never see them."
    )
    expiration_cleanup_interval_s: Duration = _storage(
        "ORLY_EXPIRATION_CLEANUP_INTERVAL",
        "10m",
        "How often expired events are removed from disk; they are invisible from the second they expire.",
        ge=1,
        le=30 * _DAY_S,
    )

    listen: ListenAddress = _network("ORLY_LISTEN", "0.0.0.0", "Address to listen on; `::` is every IPv6 address.")  # noqa: S104
    port: Count = _network(
        "ORLY_PORT", str(services.RELAY.port), "TCP port to listen on; 0 takes any free port.", ge=0, le=65_535
    )
    health_port: Count = _network(
        "ORLY_HEALTH_PORT", "0", "A second port that serves `/health` alone; 0 is none.", ge=0, le=65_535
    )
    relay_url: RelayUrl = _network(
        "ORLY_RELAY_URL",
        "",
        "The address clients use, such as `wss://relay.example.com`; they name it when they authenticate.",
    )
    trusted_proxies: Networks = _network(
        "ORLY_TRUSTED_PROXIES", "", "Reverse proxies whose `X-Forwarded-*` headers are believed."
    )
    ip_whitelist: Prefixes = _network("ORLY_IP_WHITELIST", "", "When set, only these addresses may connect.")
    ip_blacklist: Prefixes = _network("ORLY_IP_BLACKLIST", "", "These addresses may not connect.")

    app_name: Name = _identity(
        "ORLY_APP_NAME", "ORLY", "Name of the relay, and of its directory under `~/.config` with the `.env` file."
    )
    relay_description: Text = _identity(
        "ORLY_RELAY_DESCRIPTION", "A Nostr relay that keeps what it acknowledges.", "What the relay is for."
    )
    relay_contact: Text = _identity(
        "ORLY_RELAY_CONTACT", "", "How to reach the operator: a `mailto:` or a web address."
    )
    relay_pubkey: PublicKey = _identity("ORLY_RELAY_PUBKEY", "", "The operator's public key.")
    relay_icon: WebUrl = _identity("ORLY_RELAY_ICON", "", "A square image.")
    relay_banner: WebUrl = _identity("ORLY_RELAY_BANNER", "", "A wide image.")
    posting_policy: WebUrl = _identity("ORLY_RELAY_POSTING_POLICY", "", "The page that says what may be posted.")
    privacy_policy: WebUrl = _identity("ORLY_RELAY_PRIVACY_POLICY", "", "The page that says what is done with data.")
    terms_of_service: WebUrl = _identity("ORLY_RELAY_TERMS_OF_SERVICE", "", "The page with the terms of service.")
    relay_countries: Words = _identity(
        "ORLY_RELAY_COUNTRIES", "", "Countries whose laws may apply, as two-letter codes."
    )
    relay_language_tags: Words = _identity("ORLY_RELAY_LANGUAGE_TAGS", "", "Languages spoken here, such as `en,de-CH`.")
    relay_tags: Words = _identity("ORLY_RELAY_TAGS", "", "Topics of the relay, such as `sfw-only,bitcoin-only`.")
    relay_secret_key: SecretKey = _identity(
        "ORLY_RELAY_SECRET_KEY",
        "",
        "The relay's own key; its public half is shown as `self`. May come from the file named in "
        "`ORLY_RELAY_SECRET_KEY_FILE`.",
    )

    auth_required: Flag = _access("ORLY_AUTH_REQUIRED", "false", "Demand authentication (NIP-42) for everything.")
    auth_to_write: Flag = _access("ORLY_AUTH_TO_WRITE", "false", "Demand authentication for publishing.")
    auth_on_connect: Flag = _access(
        "ORLY_AUTH_ON_CONNECT",
        "false",
        "Send the challenge at once, not when it is needed; some tools give up on one they did not ask for.",
    )
    auth_time_window_s: Duration = _access(
        "ORLY_AUTH_TIME_WINDOW", "10m", "How far the time of an AUTH event may be off.", ge=1, le=_DAY_S
    )
    privileged_open: Flag = _access(
        "ORLY_PRIVILEGED_OPEN", "false", "Serve private kinds (direct messages, gift wraps) to everybody."
    )
    nip46_bypass_auth: Flag = _access(
        "ORLY_NIP46_BYPASS_AUTH", "false", "Let remote signing (kind 24133) pass where authentication is demanded."
    )

    max_message_bytes: Size = _limits(
        "ORLY_MAX_MESSAGE_SIZE", "1MiB", "Longest message a client may send.", ge=4 * KIB, le=GIB
    )
    max_event_bytes: Size = _limits("ORLY_MAX_EVENT_SIZE", "256KiB", "Largest event, as JSON.", ge=KIB, le=GIB)
    max_event_tags: Count = _limits("ORLY_MAX_EVENT_TAGS", "5000", "Most tags of an event.", ge=0, le=_MOST)
    max_subscriptions_per_connection: Count = _limits(
        "ORLY_MAX_SUBSCRIPTIONS_PER_CONNECTION", "200", "Most open subscriptions of a connection.", ge=1, le=_MOST
    )
    max_subscriptions: Count = _limits(
        "ORLY_MAX_SUBSCRIPTIONS", "10000", "Most open subscriptions in all.", ge=1, le=_MOST
    )
    max_filters: Count = _limits("ORLY_MAX_FILTERS", "100", "Most filters of a request.", ge=1, le=_MOST)
    max_filter_values: Count = _limits(
        "ORLY_MAX_FILTER_VALUES",
        "5000",
        "Most ids, authors, kinds or values of one tag in a filter.",
        ge=1,
        le=_MOST,
    )
    default_limit: Count = _limits(
        "ORLY_QUERY_DEFAULT_LIMIT", "500", "Stored events for a filter that asks for no number.", ge=1, le=_MOST
    )
    max_limit: Count = _limits(
        "ORLY_QUERY_RESULT_LIMIT", "5000", "Most stored events for a filter, whatever it asks for.", ge=1, le=_MOST
    )
    query_timeout_s: Duration = _limits(
        "ORLY_QUERY_TIMEOUT", "30s", "How long the stored events of a request may take.", ge=0.1, le=_DAY_S
    )
    max_connections: Count = _limits("ORLY_MAX_GLOBAL_CONNECTIONS", "500", "Most connections.", ge=1, le=_MOST)
    max_connections_per_ip: Count = _limits(
        "ORLY_MAX_CONN_PER_IP", "100", "Most connections of an IPv4 address or IPv6 /64; 0 is no limit.", ge=0, le=_MOST
    )
    max_events_per_second: Count = _limits(
        "ORLY_MAX_EVENTS_PER_SECOND", "2000", "Events a connection may send for long; 0 is no limit.", ge=0, le=_MOST
    )
    max_events_burst: Count = _limits(
        "ORLY_MAX_EVENTS_BURST", "100000", "Events a connection may send at once.", ge=1, le=_MOST
    )
    max_created_at_past_s: Duration = _limits(
        "ORLY_MAX_CREATED_AT_PAST", "0s", "How old a new event may be; 0 is any age.", ge=0
    )
    max_created_at_future_s: Duration = _limits(
        "ORLY_MAX_CREATED_AT_FUTURE", "15m", "How far ahead an event may be dated.", ge=0
    )
    min_pow_difficulty: Count = _limits(
        "ORLY_MIN_POW_DIFFICULTY", "0", "Proof of work (NIP-13) an event must carry, in bits.", ge=0, le=256
    )
    idle_timeout_s: Duration = _limits(
        "ORLY_IDLE_TIMEOUT",
        "30m",
        "Close a connection without a subscription after this time without a message; 0 is never.",
        ge=0,
        le=30 * _DAY_S,
    )
    ping_interval_s: Duration = _limits(
        "ORLY_PING_INTERVAL", "30s", "Ping a client that has been silent for this long.", ge=1, le=_DAY_S
    )
    pong_timeout_s: Duration = _limits(
        "ORLY_PONG_TIMEOUT", "1m", "Drop a client that leaves a ping unanswered for this long.", ge=1, le=_DAY_S
    )
    handshake_timeout_s: Duration = _limits(
        "ORLY_HANDSHAKE_TIMEOUT", "10s", "How long a client may take to send its request.", ge=1, le=_DAY_S
    )
    max_send_backlog_bytes: Size = _limits(
        "ORLY_MAX_SEND_BACKLOG",
        "8MiB",
        "Drop a client for which this much is waiting because it reads too slowly.",
        ge=512 * KIB,
        le=GIB,
    )
    max_total_send_backlog_bytes: Size = _limits(
        "ORLY_MAX_TOTAL_SEND_BACKLOG",
        "256MiB",
        "The same over all connections: beyond it the one with the most waiting is dropped.",
        ge=512 * KIB,
        le=64 * GIB,
    )
    send_timeout_s: Duration = _limits(
        "ORLY_SEND_TIMEOUT",
        "1m",
        "Drop a client that takes nothing of what waits for it for this long.",
        ge=1,
        le=_DAY_S,
    )
    stop_timeout_s: Duration = _limits(
        "ORLY_STOP_TIMEOUT",
        format_duration(services.RELAY.stop_budget_s),
        "How long a stop may take until connections are cut.",
        ge=1,
        le=_DAY_S,
    )

    log_level: Level = _logs(
        "ORLY_LOG_LEVEL",
        "info",
        "off, fatal, error, warn, info, debug or trace; `LOG_LEVEL` counts when this is unset.",
    )
    db_log_level: OptionalLevel = _logs("ORLY_DB_LOG_LEVEL", "", "The same for the store; unset is the relay's level.")
    log_format: LogFormat = _logs("ORLY_LOG_FORMAT", "text", "One line of text, or one JSON object, a record.")
    log_to_stdout: Flag = _logs("ORLY_LOG_TO_STDOUT", "false", "Write to standard output instead of standard error.")
    log_file: OptionalPath = _logs("ORLY_LOG_FILE", "", "Append to this file instead.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Keyword arguments are the only source: `load` has gathered, named and checked all others."""
        return (init_settings,)


GROUPS: Final = (
    "Storage",
    "Network",
    "Identity",
    "Access",
    "Access control",
    "Write plugin",
    "Limits",
    "Rates",
    "Logs",
    "Negentropy",
    "Sync with peers",
    "Services",
    "Calls between services",
    "Launcher",
)
"""The headings of the table, in their order."""

SETTINGS: Final = tuple(sorted(table(Settings), key=lambda row: GROUPS.index(row.group)))

ENV_NAMES: Final = {row.attr: row.env for row in SETTINGS}
SYNONYMS: Final = {
    "LOG_LEVEL": ENV_NAMES["log_level"],
    "ORLY_FOLLOWS_THROTTLE_ENABLED": ENV_NAMES["follows_throttle"],
    "ORLY_FOLLOWS_THROTTLE_MAX_DELAY": ENV_NAMES["follows_throttle_max_s"],
    "ORLY_FOLLOWS_THROTTLE_PER_EVENT": ENV_NAMES["follows_throttle_increment_s"],
    "ORLY_LAUNCHER_ACL_LISTEN": ENV_NAMES["acl_listen"],
    "ORLY_LAUNCHER_DB_LISTEN": ENV_NAMES["db_listen"],
    "ORLY_LAUNCHER_SYNC_NEGENTROPY_LISTEN": ENV_NAMES["sync_negentropy_listen"],
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """Settings that may be used.

    Attributes:
        settings: the values.
        sources: by variable, where its value comes from: `default`, `environment`, `.env PATH` or `file PATH`.
        warnings: lines to log once.
    """

    settings: Settings
    sources: Mapping[str, str]
    warnings: tuple[str, ...]


def _read_text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def load(environ: Mapping[str, str] | None = None, read_text: Callable[[Path], str] = _read_text) -> Loaded:
    """Read the settings from the environment, then `~/.config/<ORLY_APP_NAME>/.env`, then the defaults.

    Args:
        environ: instead of the process's environment.
        read_text: instead of the file system; raises `OSError` or `UnicodeDecodeError`.

    Raises:
        SettingsError: with everything that is wrong: values, names, files, and settings that contradict each other.
    """
    environ = os.environ if environ is None else environ
    home = _home(environ)
    given = gather(SETTINGS, environ, read_text, env_file=_env_file(environ, home), synonyms=SYNONYMS)
    sources = {row.env: given.sources.get(row.env, "default") for row in SETTINGS}
    settings, wrong = validate(Settings, SETTINGS, _with_home(given.values, home), sources)
    contradictions: list[str] = []
    if settings is not None:
        settings, lowered = lower_defaults(settings, SETTINGS, sources)
        sources |= lowered
        contradictions = [
            text
            for attrs, text in conflicts(settings, SETTINGS)
            if not wrong.keys() & {ENV_NAMES[attr] for attr in attrs}
        ]
    problems = (*given.problems, *wrong.values(), *contradictions)
    if settings is None or problems:
        raise SettingsError(problems)
    return Loaded(settings=settings, sources=sources, warnings=tuple(given.warnings))


def _home(environ: Mapping[str, str]) -> Path | None:
    if home := environ.get("HOME"):
        return Path(home)
    try:
        return Path.home()
    except RuntimeError:
        return None


def _env_file(environ: Mapping[str, str], home: Path | None) -> Path | None:
    name = environ.get(ENV_NAMES["app_name"], "").strip() or str(Settings.model_fields["app_name"].default)
    is_plain = home is not None and "/" not in name and "\0" not in name and name not in (".", "..")
    return home / ".config" / name / ".env" if home is not None and is_plain else None


def _with_home(values: Mapping[str, str], home: Path | None) -> dict[str, str]:
    """The values, with `~/` in paths, also in default ones, made the home directory of the given environment."""
    paths = {row.env: values.get(row.env, row.default) for row in SETTINGS if row.form.name == "path"}
    expanded = {
        name: str(home / text.strip()[2:])
        for name, text in paths.items()
        if home is not None and (text.strip() == "~" or text.strip().startswith("~/"))
    }
    return {**values, **expanded}
