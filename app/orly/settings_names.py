"""Names of ORLY's other settings: accepted with a warning so that an existing environment file still starts.

Most have no effect here and one warning each says so. The exception is a value that asks for something whose
absence would harm silently: `refusal` turns those into errors. Access rules that are not enforced leave the relay
open to everybody, and a sync service that is not used leaves events where nobody looks for them. Plain addresses and
timeouts of such services stay warnings: ORLY too reads them only when the matching `*_TYPE=grpc` is set, except for
`ORLY_GRPC_SYNC_*`, where the address alone selects the service.
"""

from collections.abc import Mapping
from typing import Final

from orly import units

_STORE_SERVICE: Final = """
    ORLY_DB_BLOCK_CACHE_MB ORLY_DB_INDEX_CACHE_MB ORLY_DB_ZSTD_LEVEL
    ORLY_NEO4J_URI ORLY_NEO4J_USER ORLY_NEO4J_PASSWORD
"""
_ACCESS: Final = """
    ORLY_POLICY_ENABLED ORLY_POLICY_PATH ORLY_SPROCKET_ENABLED
    ORLY_NIP43_ENABLED ORLY_NIP43_PUBLISH_EVENTS ORLY_NIP43_PUBLISH_MEMBER_LIST ORLY_NIP43_INVITE_EXPIRY
"""
_RELAY: Final = """
    ORLY_RELAY_ADDRESSES ORLY_RELAY_PEERS ORLY_SPIDER_MODE ORLY_PPROF_HTTP
    ORLY_HTTP_GUARD_ENABLED ORLY_HTTP_GUARD_RPM ORLY_HTTP_GUARD_BOT_BLOCK
    ORLY_CORS_ENABLED ORLY_CORS_ORIGINS
"""
_SYNC: Final = """
    ORLY_GRPC_SYNC_DISTRIBUTED ORLY_GRPC_SYNC_CLUSTER ORLY_GRPC_SYNC_RELAYGROUP
    ORLY_SYNC_DISTRIBUTED_LISTEN ORLY_SYNC_DISTRIBUTED_DB_TYPE ORLY_SYNC_DISTRIBUTED_DB_SERVER
    ORLY_SYNC_DISTRIBUTED_LOG_LEVEL ORLY_SYNC_DISTRIBUTED_PEERS ORLY_SYNC_DISTRIBUTED_INTERVAL
    ORLY_SYNC_DISTRIBUTED_NODE_ID ORLY_SYNC_DISTRIBUTED_RELAY_URL ORLY_SYNC_DISTRIBUTED_NIP11_TTL
    ORLY_SYNC_CLUSTER_LISTEN ORLY_SYNC_CLUSTER_DB_TYPE ORLY_SYNC_CLUSTER_DB_SERVER ORLY_SYNC_CLUSTER_LOG_LEVEL
    ORLY_SYNC_CLUSTER_POLL_INTERVAL ORLY_SYNC_CLUSTER_NIP11_TTL ORLY_SYNC_CLUSTER_ADMINS ORLY_CLUSTER_ADMINS
    ORLY_SYNC_CLUSTER_PROPAGATE_PRIVILEGED ORLY_CLUSTER_PROPAGATE_PRIVILEGED_EVENTS
    ORLY_SYNC_RELAYGROUP_LISTEN ORLY_SYNC_RELAYGROUP_DB_TYPE ORLY_SYNC_RELAYGROUP_DB_SERVER
    ORLY_SYNC_RELAYGROUP_LOG_LEVEL ORLY_SYNC_RELAYGROUP_ADMINS ORLY_RELAY_GROUP_ADMINS
"""
_LAUNCHER: Final = """
    ORLY_LAUNCHER_SYNC_DISTRIBUTED_ENABLED ORLY_LAUNCHER_SYNC_DISTRIBUTED_BINARY
    ORLY_LAUNCHER_SYNC_DISTRIBUTED_LISTEN
    ORLY_LAUNCHER_SYNC_CLUSTER_ENABLED ORLY_LAUNCHER_SYNC_CLUSTER_BINARY ORLY_LAUNCHER_SYNC_CLUSTER_LISTEN
    ORLY_LAUNCHER_SYNC_RELAYGROUP_ENABLED ORLY_LAUNCHER_SYNC_RELAYGROUP_BINARY
    ORLY_LAUNCHER_SYNC_RELAYGROUP_LISTEN
    ORLY_LAUNCHER_SYNC_GRASP_ENABLED ORLY_LAUNCHER_SYNC_GRASP_BINARY ORLY_LAUNCHER_SYNC_GRASP_LISTEN
    ORLY_LAUNCHER_ADMIN_ENABLED ORLY_LAUNCHER_ADMIN_PORT ORLY_LAUNCHER_OWNERS
"""
_OUT_OF_SCOPE: Final = """
    ORLY_MONTHLY_PRICE_SATS ORLY_NWC_URI ORLY_THEME ORLY_TLS_DOMAINS ORLY_CONN_DELAY_MAX_MS
    ORLY_MAX_HANDLERS_PER_CONN ORLY_MAX_STORAGE_BYTES ORLY_ENABLE_SHUTDOWN ORLY_LOG_BUFFER_SIZE ORLY_PPROF
    ORLY_PPROF_PATH ORLY_INLINE_EVENT_THRESHOLD ORLY_CERTS ORLY_DIRECTORY_SPIDER
"""

WITHOUT_EFFECT: Final = frozenset(f"{_STORE_SERVICE}{_ACCESS}{_RELAY}{_SYNC}{_LAUNCHER}{_OUT_OF_SCOPE}".split())
"""Names that ORLY reads and this version does not."""

PREFIXES_WITHOUT_EFFECT: Final = (
    "ORLY_ARCHIVE_",
    "ORLY_BLOSSOM_",
    "ORLY_BRANDING_",
    "ORLY_BRIDGE_",
    "ORLY_BUNKER_",
    "ORLY_CERTS_",
    "ORLY_CRAWLER_",
    "ORLY_DB_QUERY_CACHE_",
    "ORLY_DIRECTORY_SPIDER_",
    "ORLY_GC_",
    "ORLY_GOROUTINE_",
    "ORLY_GRAPEVINE_",
    "ORLY_GRAPH_",
    "ORLY_LAUNCHER_BITCOIN_",
    "ORLY_LAUNCHER_CERTS_",
    "ORLY_LAUNCHER_LIGHTNING_",
    "ORLY_LAUNCHER_UPDATE",
    "ORLY_LAUNCHER_WALLET_",
    "ORLY_NEO4J_",
    "ORLY_NRC_",
    "ORLY_PROXY_",
    "ORLY_QUERY_CACHE_",
    "ORLY_RATE_LIMIT_",
    "ORLY_SERIAL_CACHE_",
    "ORLY_SMESH",
    "ORLY_SOCIAL_",
    "ORLY_SUBSCRIPTION_",
    "ORLY_SYNC_GRASP_",
    "ORLY_TOR_",
    "ORLY_WEB_",
    "ORLY_WG_",
)
"""Families of settings of features that this project does not have."""


def is_without_effect(name: str) -> bool:
    """Whether ORLY knows this setting and this version ignores it."""
    return name in WITHOUT_EFFECT or name.startswith(PREFIXES_WITHOUT_EFFECT)


def refusal(name: str, values: Mapping[str, str]) -> str | None:
    """Why the value of a setting without effect must stop the start; None when a warning is enough.

    Args:
        name: a name for which `is_without_effect` holds.
        values: all settings that are given, by name; `name` is one of them.
    """
    value = values[name].strip().lower()
    match name:
        case (
            "ORLY_LAUNCHER_SYNC_DISTRIBUTED_ENABLED"
            | "ORLY_LAUNCHER_SYNC_CLUSTER_ENABLED"
            | "ORLY_LAUNCHER_SYNC_RELAYGROUP_ENABLED"
            | "ORLY_LAUNCHER_SYNC_GRASP_ENABLED"
        ) if not _is_off(value):
            return "this version has no such sync service: unset it, or write false"
        case "ORLY_POLICY_ENABLED" | "ORLY_SPROCKET_ENABLED" if not _is_off(value):
            return "this version has no such rules and would let every event pass: see ORLY_WRITE_PLUGIN"
        case "ORLY_GRPC_SYNC_DISTRIBUTED" | "ORLY_GRPC_SYNC_CLUSTER" | "ORLY_GRPC_SYNC_RELAYGROUP" if (
            values.get("ORLY_SYNC_TYPE", "").strip().lower() != "local"
        ):
            return "this version has no such sync service: unset it, or set ORLY_SYNC_TYPE=local"
        case _:
            return None


def _is_off(value: str) -> bool:
    try:
        return not units.parse_bool(value)
    except ValueError:
        return False
