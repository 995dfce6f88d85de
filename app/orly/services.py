"""Every program of the project: its port, its place in the start order and its time budgets, once.

The settings' defaults, the launcher, `supervisord.conf`, the health check and the stop budget derive from this table.
A further program is one more row; a test holds the rows to the rule that what a program needs starts before it.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from orly.settings import Settings

__all__ = [
    "ACL",
    "DB",
    "RELAY",
    "SERVICES",
    "SYNC_NEGENTROPY",
    "Service",
    "enabled",
    "process_count",
    "start_s",
    "stop_budget_s",
    "stop_grace_s",
]

MOST_DEFAULT_PROCESSES: Final = 4
"""One for each core, but no more: beyond it the store's single writer is the limit."""

_START_MARGIN_S: Final = 2
"""How much longer than its wait for others a program must last to count as started."""

_STOP_POLL_S: Final = 1
"""How long supervisord may take to notice that a program is gone, for each step of a stop."""

_STOP_MARGIN_S: Final = 2
"""Time the supervising process has for itself at the end of a stop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One program. What ends in `_attr` names an attribute of the settings; empty means there is none.

    Attributes:
        name: the program's name: console script, log prefix.
        port: the TCP port it listens on by default.
        priority: lower starts earlier and stops later.
        needs: names of the programs it cannot work without, as far as they are switched on.
        ready_budget_s: how long it may take from start until it can work.
        stop_budget_s: how long it may take from SIGTERM until it is gone.
        switched_on_by: the setting that makes it run; None means it always runs.
        probe: how it is asked whether it is well: `grpc.health.v1`, or HTTP `/health`.
        listen_attr: where it listens: an address with a port, or with `http` a host beside `port_attr`.
        port_attr: the port, where that is a setting of its own.
        binary_attr: a program to run instead.
        processes_attr: how many processes of it run; 0 there is one for each core.
        ready_timeout_attr: how long those that need it wait for it.
        stop_timeout_attr: how long it may take to stop, instead of `stop_budget_s`.
        stop_margin_s: what it needs beyond that setting.
        for_callers: variables that tell its callers where it is; `{address}` stands for the address.
    """

    name: str
    port: int
    priority: int
    needs: tuple[str, ...] = ()
    ready_budget_s: float
    stop_budget_s: float
    switched_on_by: str | None = None
    probe: Literal["grpc", "http"] = "grpc"
    listen_attr: str = ""
    port_attr: str = ""
    binary_attr: str = ""
    processes_attr: str = ""
    ready_timeout_attr: str = ""
    stop_timeout_attr: str = ""
    stop_margin_s: float = 0
    for_callers: tuple[tuple[str, str], ...] = ()


DB: Final = Service(
    name="orly-db",
    port=50051,
    priority=10,
    ready_budget_s=30,
    stop_budget_s=30,
    listen_attr="db_listen",
    binary_attr="launcher_db_binary",
    ready_timeout_attr="launcher_db_ready_timeout_s",
    stop_timeout_attr="launcher_stop_timeout_s",
    for_callers=(("ORLY_DB_TYPE", "grpc"), ("ORLY_GRPC_SERVER", "{address}")),
)

ACL: Final = Service(
    name="orly-acl",
    port=50052,
    priority=20,
    needs=("orly-db",),
    ready_budget_s=120,
    stop_budget_s=10,
    switched_on_by="ORLY_LAUNCHER_ACL_ENABLED",
    listen_attr="acl_listen",
    binary_attr="launcher_acl_binary",
    ready_timeout_attr="launcher_acl_ready_timeout_s",
    stop_timeout_attr="launcher_stop_timeout_s",
    for_callers=(("ORLY_ACL_TYPE", "grpc"), ("ORLY_GRPC_ACL_SERVER", "{address}")),
)

SYNC_NEGENTROPY: Final = Service(
    name="orly-sync-negentropy",
    port=50064,
    priority=30,
    needs=("orly-db", "orly-acl"),
    ready_budget_s=30,
    stop_budget_s=10,
    switched_on_by="ORLY_LAUNCHER_SYNC_NEGENTROPY_ENABLED",
    listen_attr="sync_negentropy_listen",
    binary_attr="launcher_sync_negentropy_binary",
    ready_timeout_attr="launcher_sync_ready_timeout_s",
    stop_timeout_attr="launcher_stop_timeout_s",
    for_callers=(("ORLY_SYNC_TYPE", "grpc"), ("ORLY_GRPC_SYNC_NEGENTROPY", "{address}")),
)

RELAY: Final = Service(
    name="orly",
    port=3334,
    priority=40,
    needs=("orly-db", "orly-acl"),
    ready_budget_s=30,
    stop_budget_s=10,
    probe="http",
    listen_attr="listen",
    port_attr="port",
    binary_attr="launcher_relay_binary",
    processes_attr="relay_workers",
    stop_timeout_attr="stop_timeout_s",
    stop_margin_s=2,
)

SERVICES: Final = (DB, ACL, SYNC_NEGENTROPY, RELAY)


def enabled(settings: "Settings") -> tuple[Service, ...]:
    """The programs that these settings switch on, in the order in which they start."""
    from orly.settings import ENV_NAMES  # the settings' defaults come from this module

    attrs = {env: attr for attr, env in ENV_NAMES.items()}
    found = [
        service
        for service in SERVICES
        if service.switched_on_by is None or getattr(settings, attrs[service.switched_on_by])
    ]
    return tuple(sorted(found, key=lambda service: service.priority))


def process_count(service: Service, settings: "Settings", *, cores: int) -> int:
    """How many processes of a program run."""
    wanted = int(getattr(settings, service.processes_attr)) if service.processes_attr else 1
    return wanted or max(1, min(cores, MOST_DEFAULT_PROCESSES))


def start_s(service: Service, running: Iterable[Service], settings: "Settings") -> int:
    """How long a program must last to count as started: longer than it may wait for all that it needs."""
    waits_s = [
        float(getattr(settings, other.ready_timeout_attr)) if other.ready_timeout_attr else other.ready_budget_s
        for other in running
        if other.name in service.needs
    ]
    return math.ceil(sum(waits_s) + _START_MARGIN_S) if waits_s else 1


def stop_budget_s(service: Service, settings: "Settings") -> int:
    """How long a program may take from SIGTERM until it is killed."""
    timeout_s = float(getattr(settings, service.stop_timeout_attr)) if service.stop_timeout_attr else None
    return math.ceil((service.stop_budget_s if timeout_s is None else timeout_s) + service.stop_margin_s)


def stop_grace_s(settings: "Settings") -> int:
    """How long the whole appliance may take to stop: what to set as grace period of a container or a unit.

    Programs of one priority stop together, one priority after the other.
    """
    slowest: dict[int, int] = {}
    for service in enabled(settings):
        budget_s = stop_budget_s(service, settings)
        slowest[service.priority] = max(budget_s, slowest.get(service.priority, 0))
    return sum(budget_s + _STOP_POLL_S for budget_s in slowest.values()) + _STOP_MARGIN_S
