"""The settings of the split relay: where services listen, how they trust each other, how they are supervised.

A part of the one table; see `settings`.
"""

from pydantic import BaseModel

from orly import services
from orly.settings_load import group
from orly.settings_service_types import Engine, ListenTarget, OptionalProgram, Server, Tls, Token
from orly.settings_types import Count, Duration, Flag, OptionalPath, Text
from orly.units import format_duration

__all__ = ["ServiceSettings"]

_DAY_S = 24 * 60 * 60
_DB_ADDRESS = f"127.0.0.1:{services.DB.port}"

_services = group("Services")
_safety = group("Calls between services")
_launcher = group("Launcher")


class ServiceSettings(BaseModel):
    """What only matters when the relay runs as several processes."""

    db_listen: ListenTarget = _services(
        "ORLY_DB_LISTEN",
        _DB_ADDRESS,
        "Where `orly-db` listens; `ORLY_LAUNCHER_DB_LISTEN` counts when this is unset.",
    )
    grpc_server: Server = _services(
        "ORLY_GRPC_SERVER", _DB_ADDRESS, "Where the store is, for everything that runs with `ORLY_DB_TYPE=grpc`."
    )
    db_direct_read: Flag = _services(
        "ORLY_DB_DIRECT_READ",
        "false",
        "With `ORLY_DB_TYPE=grpc`: read the store's file in `ORLY_DATA_DIR` directly, and send only writes to "
        "`orly-db`; same machine, same user. `orly-launcher` turns it on.",
    )
    grpc_connect_timeout_s: Duration = _services(
        "ORLY_GRPC_CONNECT_TIMEOUT",
        "10s",
        "How long an event or a query waits for a store that is away before it is answered with `error:`.",
        ge=0.1,
        le=_DAY_S,
    )
    db_stream_batch_events: Count = _services(
        "ORLY_DB_STREAM_BATCH_SIZE",
        "100",
        "Most events in one message of an answer that `orly-db` streams to tools.",
        ge=1,
        le=10_000,
    )
    db_max_concurrent_queries: Count = _services(
        "ORLY_DB_MAX_CONCURRENT_QUERIES",
        "1000",
        "Queries of one caller that `orly-db` works on at once; more wait their turn.",
        ge=1,
        le=100_000,
    )
    relay_workers: Count = _services(
        "ORLY_RELAY_WORKERS",
        "0",
        "How many relay processes `orly-launcher` runs; they share the port. 0 is one for each core, at most 4.",
        ge=0,
        le=64,
    )

    grpc_tls: Tls = _safety(
        "ORLY_GRPC_TLS",
        "off",
        "`tls`: services prove who they are; `mtls`: their callers too. `orly certs` makes what is needed.",
    )
    grpc_tls_ca: OptionalPath = _safety(
        "ORLY_GRPC_TLS_CA", "", "Certificate of the authority that signed the others (PEM)."
    )
    grpc_tls_cert: OptionalPath = _safety(
        "ORLY_GRPC_TLS_CERT", "", "Certificate of the services on this machine (PEM)."
    )
    grpc_tls_key: OptionalPath = _safety("ORLY_GRPC_TLS_KEY", "", "Its private key (PEM).")
    grpc_tls_client_cert: OptionalPath = _safety(
        "ORLY_GRPC_TLS_CLIENT_CERT", "", "Certificate that callers on this machine show (PEM); for `mtls`."
    )
    grpc_tls_client_key: OptionalPath = _safety("ORLY_GRPC_TLS_CLIENT_KEY", "", "Its private key (PEM).")
    grpc_tls_server_name: Text = _safety(
        "ORLY_GRPC_TLS_SERVER_NAME", "", "Name expected in a service's certificate, if not the host of its address."
    )
    grpc_token: Token = _safety(
        "ORLY_GRPC_TOKEN",
        "",
        "What every call must carry, when set. May come from the file named in `ORLY_GRPC_TOKEN_FILE`.",
    )
    grpc_allow_insecure: Flag = _safety(
        "ORLY_GRPC_ALLOW_INSECURE",
        "false",
        "Let services listen and be called beyond this machine without TLS or without a token.",
    )
    grpc_max_calls_per_second: Count = _safety(
        "ORLY_GRPC_MAX_CALLS_PER_SECOND",
        "1000",
        "Calls one peer address may make for long, and twice that at once; 0 is no limit.",
        ge=0,
        le=1_000_000,
    )

    launcher_db_backend: Engine = _launcher(
        "ORLY_LAUNCHER_DB_BACKEND", "lmdb", "Engine of `orly-db`; `badger` and `local` are other names for `lmdb`."
    )
    launcher_db_binary: OptionalProgram = _launcher(
        "ORLY_LAUNCHER_DB_BINARY", "", "Program to run instead of `orly-db`."
    )
    launcher_relay_binary: OptionalProgram = _launcher(
        "ORLY_LAUNCHER_RELAY_BINARY", "", "Program to run instead of `orly`."
    )
    launcher_db_ready_timeout_s: Duration = _launcher(
        "ORLY_LAUNCHER_DB_READY_TIMEOUT",
        format_duration(services.DB.ready_budget_s),
        "How long a program that needs the store waits for it at its start, before it gives up with exit code 69.",
        ge=0.1,
        le=_DAY_S,
    )
    launcher_stop_timeout_s: Duration = _launcher(
        "ORLY_LAUNCHER_STOP_TIMEOUT",
        format_duration(services.DB.stop_budget_s),
        "How long a service may take to stop before it is killed; the relay has `ORLY_STOP_TIMEOUT` and 2 s more.",
        ge=1,
        le=_DAY_S,
    )
    launcher_crash_limit: Count = _launcher(
        "ORLY_LAUNCHER_CRASH_LIMIT",
        "10",
        "Crashes of one program within `ORLY_LAUNCHER_CRASH_WINDOW` after which everything ends with exit code 70.",
        ge=1,
        le=100_000,
    )
    launcher_crash_window_s: Duration = _launcher(
        "ORLY_LAUNCHER_CRASH_WINDOW", "5m", "The time in which crashes are counted.", ge=1, le=_DAY_S
    )
    run_dir: OptionalPath = _launcher(
        "ORLY_RUN_DIR",
        "",
        "Where `orly-launcher` keeps what it renders; unset is a temporary directory.",
    )
