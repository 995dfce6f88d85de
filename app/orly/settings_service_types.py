"""The forms that settings of services take beside those of `settings_types`: addresses of services, TLS, tokens."""

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import SecretStr

from orly import units
from orly.settings_types import Form, read_text, show_optional, show_secret

__all__ = [
    "MAX_TOKEN_CHARACTERS",
    "MAX_UNIX_PATH_BYTES",
    "MIN_TOKEN_CHARACTERS",
    "UNIX_PREFIX",
    "Engine",
    "ListenTarget",
    "OptionalProgram",
    "Server",
    "Store",
    "Tls",
    "Token",
    "is_local",
]

UNIX_PREFIX: Final = "unix:"
"""What an address starts with that is a socket in the file system."""

MIN_TOKEN_CHARACTERS: Final = 16
"""A shorter token could be guessed over the network."""

MAX_TOKEN_CHARACTERS: Final = 4096
"""Longer ones do not fit into the headers of a call."""

MAX_UNIX_PATH_BYTES: Final = 107
"""What fits into the kernel's address of a socket."""

_MAX_HOST_CHARACTERS: Final = 253
_LABEL: Final = r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)"
# a last part of digits alone is a mistyped address, not a name
_HOST: Final = re.compile(rf"(?:{_LABEL}\.)*(?![0-9]+\Z){_LABEL}")
_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/=-]+")


def is_local(address: str) -> bool:
    """Whether only processes of this machine can reach a service at this address."""
    if address.startswith(UNIX_PREFIX):
        return True
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _read_unix(text: str) -> str:
    path = read_text(text.removeprefix(UNIX_PREFIX).removeprefix("//"))
    if not path.startswith("/"):
        raise ValueError("the path behind unix: must start with a slash")
    if path.endswith("/"):
        raise ValueError("the path behind unix: must name a file, not a directory")
    if len(path.encode()) > MAX_UNIX_PATH_BYTES:
        raise ValueError(f"the path behind unix: is longer than {MAX_UNIX_PATH_BYTES} bytes")
    return UNIX_PREFIX + path


def _split(text: str) -> tuple[str, int]:
    if "//" in text:
        raise ValueError("not an address: write HOST:PORT alone, without a scheme")
    host, colon, port_text = text.rpartition(":")
    if not colon:
        raise ValueError("has no port: write HOST:PORT, [::1]:PORT or unix:/path")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise ValueError("an IPv6 address stands in brackets, and a port behind it: [::1]:PORT")
    try:
        port = units.parse_int(port_text)
    except ValueError as error:
        raise ValueError("what follows the last colon is not a port: write a number of 1 to 65535") from error
    if not 0 < port < 65_536:
        raise ValueError(f"the port {port} is not one of 1 to 65535")
    return host, port


def _read_server(text: str) -> str:
    if text.startswith(UNIX_PREFIX):
        return _read_unix(text)
    host, port = _split(text)
    try:
        if host.startswith("["):
            return f"[{ipaddress.IPv6Address(host[1:-1])}]:{port}"
        return f"{ipaddress.IPv4Address(host)}:{port}"
    except ValueError:
        if len(host) > _MAX_HOST_CHARACTERS or _HOST.fullmatch(host) is None:
            raise ValueError("not an address: write HOST:PORT, [::1]:PORT or unix:/path") from None
    return f"{host.lower()}:{port}"


def _read_listen_target(text: str) -> str:
    found = _read_server(text)
    host = found.rpartition(":")[0].strip("[]")
    if not found.startswith(UNIX_PREFIX) and host != "localhost":
        try:
            ipaddress.ip_address(host)
        except ValueError:
            raise ValueError(
                "not an IP address of this machine: write 127.0.0.1:PORT, unix:/path or the like"
            ) from None
    return found


def _read_store(text: str) -> str:
    if text.lower() == "grpc":
        return "grpc"
    return _read_engine(text)


def _read_engine(text: str) -> str:
    if text.lower() not in ("lmdb", "badger", "local"):
        raise ValueError("this version has one engine only: lmdb (badger and local are other names for it)")
    return "lmdb"


def _read_tls(text: str) -> str:
    if text.lower() not in ("off", "tls", "mtls"):
        raise ValueError("write off, tls or mtls")
    return text.lower()


def _read_token(text: str) -> SecretStr | None:
    if not text:
        return None
    if not MIN_TOKEN_CHARACTERS <= len(text) <= MAX_TOKEN_CHARACTERS:
        raise ValueError(f"must have {MIN_TOKEN_CHARACTERS} to {MAX_TOKEN_CHARACTERS} characters, not {len(text)}")
    if _TOKEN.fullmatch(text) is None:
        raise ValueError("may hold letters, digits and . _ ~ + / = - only")
    return SecretStr(text)


def _read_program(text: str) -> Path | None:
    if not text:
        return None
    path = Path(read_text(text))
    if not path.is_absolute():
        raise ValueError("must be the whole path of a program, starting with a slash")
    return path


Store = Annotated[Literal["lmdb", "grpc"], Form(name="`lmdb`, `badger`, `local` or `grpc`", read=_read_store)]
Engine = Annotated[Literal["lmdb"], Form(name="`lmdb`, `badger` or `local`", read=_read_engine)]
Server = Annotated[str, Form(name="HOST:PORT or `unix:/path`", read=_read_server)]
ListenTarget = Annotated[str, Form(name="IP:PORT or `unix:/path`", read=_read_listen_target)]
Tls = Annotated[Literal["off", "tls", "mtls"], Form(name="`off`, `tls` or `mtls`", read=_read_tls)]
Token = Annotated[
    SecretStr | None,
    Form(name=f"at least {MIN_TOKEN_CHARACTERS} characters", read=_read_token, show=show_secret, is_secret=True),
]
OptionalProgram = Annotated[Path | None, Form(name="path", read=_read_program, show=show_optional)]
