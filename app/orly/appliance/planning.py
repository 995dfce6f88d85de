"""From settings to the plan and the environment of the programs."""

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from orly.appliance.plan import Plan, Program, Trust
from orly.services import ACL, DB, SYNC_NEGENTROPY, Service, enabled, process_count, start_s, stop_budget_s
from orly.settings import ENV_NAMES, Loaded, Settings

__all__ = ["children_environment", "local_address", "make_plan"]

_ANY_HOST: Final = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]", "::": "::1"}  # noqa: S104  (compared, not bound)


def make_plan(loaded: Loaded, *, cores: int, port: int) -> Plan:
    """What runs with these settings.

    Args:
        loaded: The settings.
        cores: Of this machine, for the number of processes.
        port: The relay's port; never 0.
    """
    settings = loaded.settings
    services = enabled(settings)
    return Plan(
        programs=tuple(
            Program(
                name=service.name,
                path=executable(service, settings),
                processes=process_count(service, settings, cores=cores),
                priority=service.priority,
                start_s=start_s(service, services, settings),
                start_retries=settings.launcher_crash_limit,
                stop_s=stop_budget_s(service, settings),
                probe=service.probe,
                address=_address(service, settings, port),
            )
            for service in services
        ),
        trust=_trust(loaded),
        data_dir=str(settings.data_dir),
        log_level=settings.log_level,
        log_format=settings.log_format,
        log_file="" if settings.log_file is None else str(settings.log_file),
        crash_limit=settings.launcher_crash_limit,
        crash_window_s=settings.launcher_crash_window_s,
        notes=tuple(_notes(loaded)),
    )


def children_environment(loaded: Loaded, plan: Plan, *, port: int) -> dict[str, str]:
    """What the programs are told on top of the launcher's own environment; no secrets.

    Everything they log is to come out of the launcher's standard output, unless a file was named.
    """
    settings = loaded.settings
    told: dict[str, str] = {}
    programs = {program.name: program for program in plan.programs}
    for service in enabled(settings):
        program = programs[service.name]
        told |= {name: text.format(address=program.address) for name, text in service.for_callers}
        if service.processes_attr:
            told[ENV_NAMES[service.processes_attr]] = str(program.processes)
    if ACL.name in programs:
        told |= _beside_acl(loaded, programs[DB.name].address)
    if SYNC_NEGENTROPY.name in programs:
        told |= _beside_sync(loaded, programs[DB.name].address)
    if not is_given(loaded, "db_direct_read"):
        told[ENV_NAMES["db_direct_read"]] = "true"
    if settings.log_file is None:
        told[ENV_NAMES["log_to_stdout"]] = "true"
    if settings.port != port:
        told[ENV_NAMES["port"]] = str(port)
    return told


def _beside_acl(loaded: Loaded, db_address: str) -> dict[str, str]:
    """The mode that holds, since the service run alone has another default; its lists are in the relay's store."""
    told = {ENV_NAMES["acl_db_type"]: "grpc", ENV_NAMES["acl_grpc_db_server"]: db_address}
    return told | {ENV_NAMES["acl_mode"]: loaded.settings.acl_mode}


def _beside_sync(loaded: Loaded, db_address: str) -> dict[str, str]:
    """Clients may reconcile unless that was forbidden, and the service has no other store than the relay's."""
    told = {ENV_NAMES["sync_negentropy_db_type"]: "grpc", ENV_NAMES["sync_negentropy_db_server"]: db_address}
    if not is_given(loaded, "negentropy_enabled"):
        told[ENV_NAMES["negentropy_enabled"]] = "true"
    return told


def executable(service: Service, settings: Settings) -> str:
    """The program to start: the one that was named, else the console script beside this interpreter, else on PATH."""
    named = getattr(settings, service.binary_attr) if service.binary_attr else None
    if named is not None:
        return str(named)
    beside = Path(sys.executable).with_name(service.name)
    if beside.exists():
        return str(beside)
    return shutil.which(service.name) or str(beside)


def is_given(loaded: Loaded, attr: str) -> bool:
    """Whether a setting was given, and is not a default."""
    return not loaded.sources[ENV_NAMES[attr]].startswith("default")


def local_address(listen: str) -> str:
    """Where a process of this machine reaches a service that listens there."""
    host, colon, port = listen.rpartition(":")
    return f"{_ANY_HOST.get(host, host)}{colon}{port}"


def _address(service: Service, settings: Settings, port: int) -> str:
    if not service.port_attr:
        return local_address(getattr(settings, service.listen_attr))
    host = str(getattr(settings, service.listen_attr))
    host = _ANY_HOST.get(host, host)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _trust(loaded: Loaded) -> Trust:
    settings = loaded.settings
    paths: Mapping[str, Path | None] = {
        "ca": settings.grpc_tls_ca,
        "client_cert": settings.grpc_tls_client_cert,
        "client_key": settings.grpc_tls_client_key,
    }
    return Trust(
        tls=settings.grpc_tls,
        server_name=settings.grpc_tls_server_name,
        token_source="" if settings.grpc_token is None else loaded.sources[ENV_NAMES["grpc_token"]],
        **{name: "" if path is None else str(path) for name, path in paths.items()},
    )


def _notes(loaded: Loaded) -> list[str]:
    settings = loaded.settings
    here = {
        service.name: local_address(getattr(settings, service.listen_attr)) for service in (DB, ACL, SYNC_NEGENTROPY)
    }
    used = [("grpc_server", here[DB.name], DB)]
    if ACL in enabled(settings):
        used += [("acl_type", "grpc", ACL), ("grpc_acl_server", here[ACL.name], ACL)]
        used += [("acl_db_type", "grpc", DB), ("acl_grpc_db_server", here[DB.name], DB)]
    if SYNC_NEGENTROPY in enabled(settings):
        used += [("sync_type", "grpc", SYNC_NEGENTROPY)]
        used += [("grpc_sync_negentropy", here[SYNC_NEGENTROPY.name], SYNC_NEGENTROPY)]
        used += [("sync_negentropy_db_type", "grpc", DB), ("sync_negentropy_db_server", here[DB.name], DB)]
    return [
        f"{ENV_NAMES[attr]}={getattr(settings, attr)} has no effect here: the {service.name} at {here[service.name]}, "
        "which runs beside, is used"
        for attr, value, service in used
        if is_given(loaded, attr) and getattr(settings, attr) != value
    ]
