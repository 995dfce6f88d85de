"""What is looked at before anything is started; every problem is found, not only the first."""

import errno
import ipaddress
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Final

from orly.appliance.planning import executable
from orly.appliance.render import unusable_path
from orly.process.exit_codes import ExitCode
from orly.process.runnable import plugin_problem, why_not_executable
from orly.services import ACL, Service, enabled
from orly.settings import ENV_NAMES, Settings
from orly.settings_access import acl_server
from orly.settings_service_types import UNIX_PREFIX

__all__ = ["Problem", "find_problems", "reserve_port", "worst"]

_LOOPBACK: Final = "127.0.0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What is in the way.

    Attributes:
        code: The exit status it leads to.
        text: One line for the operator.
    """

    code: ExitCode
    text: str


def find_problems(settings: Settings) -> list[Problem]:
    """Everything that would keep the programs from running."""
    return [
        *_access(settings),
        *_executables(settings),
        *_plugin(settings),
        *_directory("data", settings.data_dir),
        *([] if settings.run_dir is None else _directory("run", settings.run_dir)),
        *_credentials(settings),
        *_shared_addresses(settings),
        *_addresses(settings),
    ]


def worst(problems: list[Problem]) -> ExitCode:
    """The exit status for several: what must be changed outweighs what may go away."""
    return ExitCode.SETTINGS if any(p.code is ExitCode.SETTINGS for p in problems) else problems[0].code


def reserve_port(settings: Settings) -> socket.socket:
    """A free port for the relay, kept from others; processes that share the port can still listen on it.

    Raises:
        OSError: The address is not this machine's.
    """
    family, address = _resolve(settings.listen, 0)
    holder = socket.socket(family, socket.SOCK_STREAM)
    try:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind(address)
    except OSError:
        holder.close()
        raise
    return holder


def _access(settings: Settings) -> Iterator[Problem]:
    asks = settings.acl_mode != "none" or settings.owners or settings.admins
    if asks and ACL not in enabled(settings) and acl_server(settings) is None:
        yield Problem(
            code=ExitCode.SETTINGS,
            text=f"{ACL.switched_on_by}=false, but there are owners, admins or a mode: each program would keep lists "
            f"of its own; remove it, or name the {ACL.name} to use (ORLY_GRPC_ACL_SERVER)",
        )


def _executables(settings: Settings) -> Iterator[Problem]:
    for service in enabled(settings):
        path = executable(service, settings)
        is_named = bool(service.binary_attr) and getattr(settings, service.binary_attr) is not None
        what = f"{ENV_NAMES[service.binary_attr]}={path}" if is_named else f"{service.name} at {path}"
        if (why := unusable_path(path) or why_not_executable(path)) is not None:
            yield Problem(code=ExitCode.SETTINGS, text=f"{what}: {why}")


def _plugin(settings: Settings) -> Iterator[Problem]:
    if (text := plugin_problem(settings)) is not None:
        yield Problem(code=ExitCode.SETTINGS, text=text)


def _directory(name: str, path: Path) -> Iterator[Problem]:
    """A directory that exists must be writable; one that does not must be possible to make."""
    existing = path
    try:
        while not existing.exists() and existing != existing.parent:
            existing = existing.parent
        is_directory = existing.is_dir()
    except OSError as error:
        yield Problem(code=ExitCode.SETTINGS, text=f"the {name} directory {path}: {error.strerror or error}")
        return
    if not is_directory:
        yield Problem(code=ExitCode.SETTINGS, text=f"the {name} directory {path}: {existing} is not a directory")
    elif not os.access(existing, os.W_OK | os.X_OK):
        verb = "written to" if existing == path else "made"
        yield Problem(
            code=ExitCode.SETTINGS,
            text=f"the {name} directory {path} cannot be {verb} by user {os.getuid()}: no permission in {existing}",
        )


def _credentials(settings: Settings) -> Iterator[Problem]:
    """Certificates and keys, loaded as the services will load them."""
    if settings.grpc_tls == "off":
        return
    from orly.rpc.credentials import CredentialsError, channel_credentials, server_credentials

    lines: list[str] = []
    for load in (server_credentials, channel_credentials):
        try:
            load(settings)
        except CredentialsError as error:
            lines += error.problems
    yield from (Problem(code=ExitCode.SETTINGS, text=line) for line in dict.fromkeys(lines))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Listener:
    """Where a program listens.

    Attributes:
        attrs: The settings that say so.
        path: Of a Unix socket.
        host: Without brackets.
        port: 0 is any free one.
    """

    service: Service
    attrs: tuple[str, ...]
    path: str = ""
    host: str = ""
    port: int = 0

    def overlaps(self, other: "_Listener") -> bool:
        """Whether not both can listen."""
        if self.path or other.path:
            return self.path == other.path
        if self.port != other.port or not self.port:
            return False
        hosts = {ipaddress.ip_address(_LOOPBACK if each.host == "localhost" else each.host) for each in (self, other)}
        return len(hosts) == 1 or any(host.is_unspecified for host in hosts)

    def shown(self, settings: Settings) -> str:
        """As it is set."""
        return " ".join(f"{ENV_NAMES[attr]}={getattr(settings, attr)}" for attr in self.attrs)


def _listeners(settings: Settings) -> Iterator[_Listener]:
    for service in enabled(settings):
        listen = str(getattr(settings, service.listen_attr))
        if service.port_attr:
            ports = (service.port_attr, "health_port") if settings.health_port else (service.port_attr,)
            for attr in ports:
                attrs = (service.listen_attr, attr)
                yield _Listener(service=service, attrs=attrs, host=listen, port=int(getattr(settings, attr)))
        elif listen.startswith(UNIX_PREFIX):
            yield _Listener(service=service, attrs=(service.listen_attr,), path=listen.removeprefix(UNIX_PREFIX))
        else:
            host, _, port = listen.rpartition(":")
            yield _Listener(service=service, attrs=(service.listen_attr,), host=host.strip("[]"), port=int(port))


def _shared_addresses(settings: Settings) -> Iterator[Problem]:
    for one, other in combinations(_listeners(settings), 2):
        if one.overlaps(other) and one.service is not other.service:
            names = f"{one.service.name} and {other.service.name}"
            text = f"{one.shown(settings)} and {other.shown(settings)}: {names} cannot both listen there"
            yield Problem(code=ExitCode.SETTINGS, text=text)


def _addresses(settings: Settings) -> Iterator[Problem]:
    for listener in _listeners(settings):
        name, host, port = listener.service.name, listener.host, listener.port
        if listener.path:
            yield from _unix_socket(name, Path(listener.path))
        elif (why := _why_not_bindable(host, port)) is not None:
            shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            yield Problem(code=ExitCode.UNAVAILABLE, text=f"{name} cannot listen on {shown}: {why}")


def _unix_socket(name: str, path: Path) -> Iterator[Problem]:
    if not path.parent.is_dir():
        yield Problem(
            code=ExitCode.SETTINGS, text=f"{name} cannot listen on {UNIX_PREFIX}{path}: {path.parent} is no directory"
        )
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return  # nobody answers: a socket that was left behind is replaced
    yield Problem(
        code=ExitCode.UNAVAILABLE, text=f"{name} cannot listen on {UNIX_PREFIX}{path}: another process already does"
    )


def _why_not_bindable(host: str, port: int) -> str | None:
    try:
        family, address = _resolve(host, port)
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, host != "::")
            probe.bind(address)
            probe.listen(1)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return "another process already does"
        if error.errno == errno.EADDRNOTAVAIL:
            return "this machine has no such address"
        if error.errno == errno.EACCES:
            return "ports below 1024 need special rights"
        return error.strerror or str(error)
    return None


def _resolve(host: str, port: int) -> tuple[socket.AddressFamily, tuple[str, int] | tuple[str, int, int, int]]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, _, _, address = min(found, key=lambda each: each[0] != socket.AF_INET)
    return family, address  # type: ignore[return-value]  # IPv4 or IPv6
