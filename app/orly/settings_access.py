"""The settings of access control: who may do what, the service that decides it, and how much anybody may do.

A part of the one table; see `settings`.
"""

from typing import Annotated, Final, Literal

from pydantic import BaseModel

from orly import services
from orly.settings_load import group
from orly.settings_service_types import ListenTarget, OptionalProgram
from orly.settings_sync_types import Authors, OptionalServer, RelayUrls
from orly.settings_types import Count, Duration, Flag, Form, OptionalLevel, Text
from orly.units import format_duration

__all__ = ["AccessSettings", "AclMode", "acl_server"]

_DAY_S: Final = 24 * 60 * 60
_MOST: Final = 1_000_000
_ADDRESS: Final = f"127.0.0.1:{services.ACL.port}"
_MODES: Final = {"": "", "none": "none", "follows": "follows", "managed": "managed", "curating": "curating"}

_control = group("Access control")
_plugin = group("Write plugin")
_rates = group("Rates")
_launcher = group("Launcher")


def _read_mode(text: str) -> str:
    word = text.lower().replace("curation", "curating")
    if word not in _MODES:
        raise ValueError("write none, follows, managed or curating")
    return word


def _read_type(text: str) -> str:
    if text.lower() not in ("", "local", "grpc"):
        raise ValueError("write local or grpc")
    return text.lower()


def _read_store(text: str) -> str:
    if text.lower() not in ("", "grpc", "lmdb", "badger", "local"):
        raise ValueError("write grpc, or lmdb (badger and local are other names for it)")
    return text.lower() if text.lower() in ("", "grpc") else "lmdb"


def _read_failure(text: str) -> str:
    if text.lower() not in ("refuse", "accept"):
        raise ValueError("write refuse or accept")
    return text.lower()


AclMode = Annotated[
    Literal["", "none", "follows", "managed", "curating"],
    Form(name="`none`, `follows`, `managed` or `curating`", read=_read_mode),
]
AclType = Annotated[Literal["", "local", "grpc"], Form(name="`local` or `grpc`", read=_read_type)]
AclStore = Annotated[Literal["", "lmdb", "grpc"], Form(name="`lmdb` or `grpc`", read=_read_store)]
OnFailure = Annotated[Literal["refuse", "accept"], Form(name="`refuse` or `accept`", read=_read_failure)]


class AccessSettings(BaseModel):
    """Who may do what, and how much of it."""

    acl_mode: AclMode = _control(
        "ORLY_ACL_MODE",
        "",
        "Who may write: everybody (`none`), whom the admins follow (`follows`), who is on a list (`managed`), or "
        "everybody within limits (`curating`). Unset is `none`, but `follows` with `ORLY_LAUNCHER_ACL_ENABLED=true` "
        "and for an `orly-acl` that is run by itself.",
    )
    owners: Authors = _control("ORLY_OWNERS", "", "Keys with full control.")
    admins: Authors = _control(
        "ORLY_ADMINS", "", "Keys that moderate: they keep the lists, see what is hidden, export and import."
    )
    acl_restrict_reads: Flag = _control(
        "ORLY_ACL_RESTRICT_READS", "false", "Answer only those who may write; they must authenticate (NIP-42)."
    )
    bootstrap_relays: RelayUrls = _control(
        "ORLY_BOOTSTRAP_RELAYS",
        "",
        "Where follow lists of owners and admins are looked for who name no relays themselves (kind 10002).",
    )
    follow_list_frequency_s: Duration = _control(
        "ORLY_FOLLOW_LIST_FREQUENCY",
        "1h",
        "How often other relays are asked for those lists; 0 is never.",
        ge=0,
        le=30 * _DAY_S,
    )
    follows_throttle: Flag = _control(
        "ORLY_FOLLOWS_THROTTLE",
        "false",
        "In the mode `follows`: let everybody else write as well, ever more slowly; `ORLY_FOLLOWS_THROTTLE_ENABLED` "
        "counts when this is unset.",
    )
    follows_throttle_increment_s: Duration = _control(
        "ORLY_FOLLOWS_THROTTLE_INCREMENT",
        "25ms",
        "How much longer each event makes them wait; `ORLY_FOLLOWS_THROTTLE_PER_EVENT` counts when this is unset.",
        ge=0.001,
        le=3600,
    )
    follows_throttle_max_s: Duration = _control(
        "ORLY_FOLLOWS_THROTTLE_MAX",
        "1m",
        "The longest they wait; `ORLY_FOLLOWS_THROTTLE_MAX_DELAY` counts when this is unset.",
        ge=0.001,
        le=3600,
    )
    acl_type: AclType = _control(
        "ORLY_ACL_TYPE",
        "",
        "Who keeps the lists: `local` is this process, `grpc` the service at `ORLY_GRPC_ACL_SERVER`. Unset, it is the "
        "service if its address is set.",
    )
    grpc_acl_server: OptionalServer = _control(
        "ORLY_GRPC_ACL_SERVER", "", f"Where `orly-acl` is; {_ADDRESS} with `ORLY_ACL_TYPE=grpc`."
    )
    grpc_acl_timeout_s: Duration = _control(
        "ORLY_GRPC_ACL_TIMEOUT", "10s", "How long a change of the lists waits for the service.", ge=0.1, le=_DAY_S
    )
    acl_listen: ListenTarget = _control(
        "ORLY_ACL_LISTEN",
        _ADDRESS,
        "Where `orly-acl` listens; `ORLY_LAUNCHER_ACL_LISTEN` counts when this is unset.",
    )
    acl_db_type: AclStore = _control(
        "ORLY_ACL_DB_TYPE", "", "The store of `orly-acl`, as `ORLY_DB_TYPE`, which counts when this is unset."
    )
    acl_grpc_db_server: OptionalServer = _control(
        "ORLY_ACL_GRPC_DB_SERVER", "", "Where that store is; unset is `ORLY_GRPC_SERVER`."
    )
    acl_log_level: OptionalLevel = _control(
        "ORLY_ACL_LOG_LEVEL", "", "How much `orly-acl` logs; unset is `ORLY_LOG_LEVEL`."
    )

    write_plugin: Text = _plugin(
        "ORLY_WRITE_PLUGIN",
        "",
        "Command that is asked about every event before it is stored, by the line protocol of strfry's write policies.",
    )
    write_plugin_timeout_s: Duration = _plugin(
        "ORLY_WRITE_PLUGIN_TIMEOUT",
        "10s",
        "How long it may take for an answer; then it is restarted.",
        ge=0.1,
        le=3600,
    )
    write_plugin_on_failure: OnFailure = _plugin(
        "ORLY_WRITE_PLUGIN_ON_FAILURE",
        "refuse",
        "What becomes of events about which it cannot be asked: `refuse` answers them with `error:`.",
    )
    write_plugin_max_in_flight: Count = _plugin(
        "ORLY_WRITE_PLUGIN_MAX_IN_FLIGHT",
        "100",
        "Events it is asked about before it has answered; 1 for programs that count on that.",
        ge=1,
        le=10_000,
    )

    events_per_ip_per_minute: Count = _rates(
        "ORLY_MAX_EVENTS_PER_IP_PER_MINUTE", "0", "Events taken from one address; 0 is no limit.", ge=0, le=_MOST
    )
    events_per_key_per_minute: Count = _rates(
        "ORLY_MAX_EVENTS_PER_PUBKEY_PER_MINUTE", "0", "Events taken of one author; 0 is no limit.", ge=0, le=_MOST
    )
    reqs_per_ip_per_minute: Count = _rates(
        "ORLY_MAX_REQS_PER_IP_PER_MINUTE",
        "0",
        "REQ, COUNT, NEG-OPEN and requests to the HTTP API taken from one address; 0 is no limit.",
        ge=0,
        le=_MOST,
    )
    reqs_per_key_per_minute: Count = _rates(
        "ORLY_MAX_REQS_PER_PUBKEY_PER_MINUTE", "0", "The same for a key that has authenticated.", ge=0, le=_MOST
    )
    connections_per_ip_per_minute: Count = _rates(
        "ORLY_HTTP_GUARD_WS_PER_MIN",
        "0",
        "New connections taken from one address; 0 is no limit. Loopback and trusted proxies are exempt.",
        ge=0,
        le=_MOST,
    )
    auths_per_ip_per_minute: Count = _rates(
        "ORLY_MAX_AUTHS_PER_IP_PER_MINUTE",
        "120",
        "AUTH messages taken from one address; 0 is no limit.",
        ge=0,
        le=_MOST,
    )

    launcher_acl_enabled: Flag = _launcher(
        "ORLY_LAUNCHER_ACL_ENABLED",
        "false",
        "Run `orly-acl`. Unset, it runs if `ORLY_ACL_MODE`, `ORLY_OWNERS` or `ORLY_ADMINS` ask for access control.",
    )
    launcher_acl_binary: OptionalProgram = _launcher("ORLY_LAUNCHER_ACL_BINARY", "", "Program to run instead of it.")
    launcher_acl_ready_timeout_s: Duration = _launcher(
        "ORLY_LAUNCHER_ACL_READY_TIMEOUT",
        format_duration(services.ACL.ready_budget_s),
        "How long a program that needs `orly-acl` waits for it at its start.",
        ge=0.1,
        le=_DAY_S,
    )


def acl_server(settings: "AccessSettings") -> str | None:
    """Where the service is by whose lists this process decides; None if it keeps them itself."""
    if settings.acl_type == "local" or not (settings.acl_type or settings.grpc_acl_server):
        return None
    return settings.grpc_acl_server or _ADDRESS
