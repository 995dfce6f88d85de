"""The settings of syncing: the relay's side of NIP-77, and the service that syncs with other relays.

A part of the one table; see `settings`.
"""

from typing import TYPE_CHECKING

from pydantic import BaseModel

from orly import services
from orly.settings_load import group
from orly.settings_service_types import ListenTarget, OptionalProgram
from orly.settings_sync_types import (
    Authors,
    Direction,
    FilterText,
    Kinds,
    OptionalServer,
    OptionalTime,
    RelayUrls,
    SyncType,
)
from orly.settings_types import Count, Duration, Flag, OptionalLevel, SecretKey, Size
from orly.units import MIB, TIB, format_duration

if TYPE_CHECKING:
    from orly.settings import Settings

__all__ = ["SyncSettings", "negentropy_server"]

_DAY_S = 24 * 60 * 60
_MOST = 1_000_000
_ADDRESS = f"127.0.0.1:{services.SYNC_NEGENTROPY.port}"

_clients = group("Negentropy")
_sync = group("Sync with peers")
_launcher = group("Launcher")


class SyncSettings(BaseModel):
    """Set reconciliation (NIP-77) with clients and with other relays."""

    negentropy_enabled: Flag = _clients(
        "ORLY_NEGENTROPY_ENABLED",
        "false",
        "Let clients reconcile with this relay (NIP-77). `orly-launcher` turns it on beside `orly-sync-negentropy`.",
    )
    negentropy_full_sync_pubkeys: Authors = _clients(
        "ORLY_NEGENTROPY_FULL_SYNC_PUBKEYS",
        "",
        "Keys that, once proven, reconcile and read private kinds too; for the operator's other relays.",
    )
    negentropy_max_items: Count = _clients(
        "ORLY_NEGENTROPY_MAX_ITEMS",
        "1000000",
        "Most events of a set that is built for one client; the set of everything has no such limit.",
        ge=1,
        le=100_000_000,
    )
    negentropy_max_sessions_per_connection: Count = _clients(
        "ORLY_NEGENTROPY_MAX_SESSIONS_PER_CONNECTION",
        "16",
        "Open reconciliations of a connection.",
        ge=1,
        le=_MOST,
    )
    negentropy_max_sessions: Count = _clients(
        "ORLY_NEGENTROPY_MAX_SESSIONS", "1000", "Most open reconciliations in all.", ge=1, le=_MOST
    )
    negentropy_max_sets_bytes: Size = _clients(
        "ORLY_NEGENTROPY_MAX_MEMORY",
        "512MiB",
        "Memory that sets built for clients may take, those of one a quarter; the set of everything is not counted.",
        ge=MIB,
        le=TIB,
    )
    negentropy_answer_bytes: Size = _clients(
        "ORLY_NEGENTROPY_MAX_ANSWER",
        "500KB",
        "Longest answer in bytes, before it is written as hex.",
        ge=512,
        le=8 * MIB,
    )
    sync_negentropy_session_timeout_s: Duration = _clients(
        "ORLY_SYNC_NEGENTROPY_SESSION_TIMEOUT",
        "5m",
        "How long a client's reconciliation may be idle until it is closed.",
        ge=1,
        le=_DAY_S,
    )
    sync_type: SyncType = _clients(
        "ORLY_SYNC_TYPE",
        "",
        "Who reconciles: `local` is this process, `grpc` the service at `ORLY_GRPC_SYNC_NEGENTROPY`. Unset, it is the "
        "service if its address is set.",
    )
    grpc_sync_negentropy: OptionalServer = _clients(
        "ORLY_GRPC_SYNC_NEGENTROPY", "", f"Where `orly-sync-negentropy` is; {_ADDRESS} with `ORLY_SYNC_TYPE=grpc`."
    )
    grpc_sync_timeout_s: Duration = _clients(
        "ORLY_GRPC_SYNC_TIMEOUT",
        "10s",
        "How long a client's message waits for a service that is away before it is answered with `error:`.",
        ge=0.1,
        le=_DAY_S,
    )

    sync_negentropy_listen: ListenTarget = _sync(
        "ORLY_SYNC_NEGENTROPY_LISTEN",
        _ADDRESS,
        "Where `orly-sync-negentropy` listens; `ORLY_LAUNCHER_SYNC_NEGENTROPY_LISTEN` counts when this is unset.",
    )
    sync_negentropy_db_type: SyncType = _sync(
        "ORLY_SYNC_NEGENTROPY_DB_TYPE",
        "",
        "`grpc`: its store is a service, `local`: it opens the data directory itself; unset is `ORLY_DB_TYPE`.",
    )
    sync_negentropy_db_server: OptionalServer = _sync(
        "ORLY_SYNC_NEGENTROPY_DB_SERVER", "", "Where its store is; unset is `ORLY_GRPC_SERVER`."
    )
    sync_negentropy_log_level: OptionalLevel = _sync(
        "ORLY_SYNC_NEGENTROPY_LOG_LEVEL", "", "Its log level; unset is the relay's."
    )
    sync_negentropy_peers: RelayUrls = _sync(
        "ORLY_SYNC_NEGENTROPY_PEERS", "", "Relays to sync with in the background; peers added at run time are kept too."
    )
    sync_negentropy_interval_s: Duration = _sync(
        "ORLY_SYNC_NEGENTROPY_INTERVAL", "1m", "Pause between two rounds with a peer.", ge=1, le=30 * _DAY_S
    )
    sync_negentropy_direction: Direction = _sync(
        "ORLY_SYNC_NEGENTROPY_DIRECTION", "both", "`down` fetches what a peer has, `up` sends what it lacks."
    )
    sync_negentropy_frame_bytes: Size = _sync(
        "ORLY_SYNC_NEGENTROPY_FRAME_SIZE",
        "4KiB",
        "Longest negentropy message to a peer in bytes; less takes less memory and more rounds.",
        ge=512,
        le=8 * MIB,
    )
    sync_negentropy_id_bytes: Count = _sync(
        "ORLY_SYNC_NEGENTROPY_ID_SIZE",
        "16",
        "Accepted for other versions' sake: the protocol has ids of 32 bytes.",
        ge=8,
        le=32,
    )
    sync_negentropy_filter: FilterText = _sync(
        "ORLY_SYNC_NEGENTROPY_FILTER",
        "",
        "What to sync with peers; empty is everything. The next four override its keys.",
    )
    sync_negentropy_filter_kinds: Kinds = _sync("ORLY_SYNC_NEGENTROPY_FILTER_KINDS", "", "Sync these kinds only.")
    sync_negentropy_filter_authors: Authors = _sync(
        "ORLY_SYNC_NEGENTROPY_FILTER_AUTHORS", "", "Sync events of these authors only."
    )
    sync_negentropy_filter_since: OptionalTime = _sync(
        "ORLY_SYNC_NEGENTROPY_FILTER_SINCE", "", "Sync events from this time on."
    )
    sync_negentropy_filter_until: OptionalTime = _sync(
        "ORLY_SYNC_NEGENTROPY_FILTER_UNTIL", "", "Sync events up to this time."
    )
    sync_negentropy_private_kinds: Flag = _sync(
        "ORLY_SYNC_NEGENTROPY_PRIVATE_KINDS",
        "false",
        "Send private kinds (direct messages, gift wraps) to peers too.",
    )
    sync_negentropy_secret_key: SecretKey = _sync(
        "ORLY_SYNC_NEGENTROPY_SECRET_KEY",
        "",
        "Key for peers that demand authentication (NIP-42); unset is the relay's own key. May come from the file named "
        "in `ORLY_SYNC_NEGENTROPY_SECRET_KEY_FILE`.",
    )
    sync_negentropy_timeout_s: Duration = _sync(
        "ORLY_SYNC_NEGENTROPY_PEER_TIMEOUT", "1m", "Silence after which a peer is given up.", ge=1, le=_DAY_S
    )

    launcher_sync_negentropy_enabled: Flag = _launcher(
        "ORLY_LAUNCHER_SYNC_NEGENTROPY_ENABLED", "false", "Run `orly-sync-negentropy`."
    )
    launcher_sync_negentropy_binary: OptionalProgram = _launcher(
        "ORLY_LAUNCHER_SYNC_NEGENTROPY_BINARY", "", "Program to run instead of `orly-sync-negentropy`."
    )
    launcher_sync_ready_timeout_s: Duration = _launcher(
        "ORLY_LAUNCHER_SYNC_READY_TIMEOUT",
        format_duration(services.SYNC_NEGENTROPY.ready_budget_s),
        "How long a command that needs a sync service waits for it.",
        ge=0.1,
        le=_DAY_S,
    )


def negentropy_server(settings: "Settings") -> str | None:
    """Where the service is that reconciles for this relay; None if the relay does it itself."""
    if settings.sync_type == "local" or not (settings.sync_type or settings.grpc_sync_negentropy):
        return None
    return settings.grpc_sync_negentropy or _ADDRESS
