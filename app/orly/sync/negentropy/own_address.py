"""Whether a peer's URL leads back to this relay."""

import asyncio
import ipaddress
import socket
from typing import Final
from urllib.parse import urlsplit

__all__ = ["OwnAddress"]

_DEFAULT_PORTS: Final = {"ws": 80, "wss": 443}
_ANY: Final = frozenset({"0.0.0.0", "::"})  # noqa: S104  (compared, not bound)


class OwnAddress:
    """Where this relay is.

    Args:
        relay_url: `ORLY_RELAY_URL`; empty if it is not known.
        listen: `ORLY_LISTEN`.
        port: `ORLY_PORT`; 0 if it is not known.
    """

    def __init__(self, *, relay_url: str, listen: str, port: int) -> None:
        self._relay_url = relay_url
        self._listen = listen.strip("[]")
        self._port = port

    async def why_own(self, url: str) -> str | None:
        """Which setting says that a URL (of the form of `ORLY_RELAY_URL`) is this relay's; None if none does.

        A name that cannot be resolved is nobody's.
        """
        if self._relay_url and _place(url) == _place(self._relay_url):
            return "ORLY_RELAY_URL"
        parts = urlsplit(url)
        port = parts.port or _DEFAULT_PORTS[parts.scheme]
        if port != self._port or parts.hostname is None:
            return None
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            return None
        if any(self._is_listened_on(str(address[0])) for *_, address in found):
            return "ORLY_LISTEN and ORLY_PORT"
        return None

    def _is_listened_on(self, host: str) -> bool:
        if self._listen not in _ANY:
            return host == self._listen
        return _is_of_this_machine(host)


def _place(url: str) -> tuple[str | None, int | None, str]:
    """Host, port unless it is the default, path: `ws` and `wss` are two doors of one house."""
    parts = urlsplit(url)
    return parts.hostname, parts.port, parts.path.rstrip("/")


def _is_of_this_machine(host: str) -> bool:
    address = ipaddress.ip_address(host.partition("%")[0])
    if address.is_loopback:
        return True
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((host, 0))
    except OSError:
        return False
    return True
