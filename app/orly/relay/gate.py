"""Who may connect, and from where: client addresses behind proxies, address lists, caps in total and per address."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TypeAlias

from orly import clock
from orly.token_bucket import KeyedBuckets

__all__ = ["Address", "Caller", "Gate", "GateRules", "Network", "Refusal", "identify", "parse_address"]

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

_IPV6_HOST_BITS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class GateRules:
    """What the gate enforces; 0 switches a cap off, an empty whitelist admits every address."""

    max_connections: int
    max_connections_per_ip: int
    whitelist: tuple[Network, ...] = ()
    blacklist: tuple[Network, ...] = ()
    trusted_proxies: tuple[Network, ...] = ()
    connections_per_ip_per_minute: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why a handshake is answered with an HTTP error: its status, and a sentence for the body."""

    status: HTTPStatus
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who is at the other end once trusted proxies are seen through.

    `host` is the name the client used, with its port if it gave one; empty when it sent none. It is only what the
    client claims, so a check that must not be fooled compares with a configured URL instead.
    """

    address: Address
    host: str
    secure: bool


def parse_address(text: str) -> Address | None:
    """Reads an IP address as sockets and `X-Forwarded-For` write them; None when it is none.

    A port (`192.0.2.1:5000`, `[2001:db8::1]:5000`) and a zone (`fe80::1%eth0`) are dropped, and an IPv4 address
    mapped into IPv6 becomes the IPv4 address, so that one client has one address on a dual-stack socket.
    """
    text = text.strip()
    if text.startswith("["):
        text, closed, _ = text[1:].partition("]")
        if not closed:
            return None
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _listed(address: Address, networks: Sequence[Network]) -> bool:
    return any(address in network for network in networks)


def _last_value(values: Sequence[str]) -> str:
    """The element added last to a comma list that may span several header lines: the nearest proxy's own word."""
    return values[-1].rpartition(",")[2].strip() if values else ""


def identify(peer: Address, header: Callable[[str], Sequence[str]], trusted: Sequence[Network]) -> Caller:
    """Finds the client behind a socket.

    `X-Forwarded-For`, `-Host` and `-Proto` count only when the socket's own peer is a trusted proxy. The address is
    then the first one from the right of `X-Forwarded-For` that is no trusted proxy; what a client wrote itself stands
    further left and is never reached. Where an element is no address, the proxy that reported it is taken.

    Args:
        peer: Address of the socket's other end.
        header: Gives every value of the header of that name, in order.
        trusted: Networks whose word about other addresses is believed.
    """
    own_host = header("Host")
    host = own_host[0].strip() if own_host else ""
    if not _listed(peer, trusted):
        return Caller(address=peer, host=host, secure=False)
    address = peer
    for hop in reversed([hop for value in header("X-Forwarded-For") for hop in value.split(",")]):
        reported = parse_address(hop)
        if reported is None:
            break
        address = reported
        if not _listed(address, trusted):
            break
    return Caller(
        address=address,
        host=_last_value(header("X-Forwarded-Host")) or host,
        secure=_last_value(header("X-Forwarded-Proto")).lower() in ("https", "wss"),
    )


class Gate:
    """Counts connections and refuses those over a cap or outside the address lists.

    An IPv6 client counts by its /64, since that is what one customer is given; loopback is exempt from the cap per
    address, because a proxy that is not declared as trusted makes every client look like loopback.
    """

    __slots__ = ("_monotonic_s", "_per_ip", "_rates", "rules", "total")

    def __init__(self, rules: GateRules, monotonic_s: Callable[[], float] = clock.monotonic_s) -> None:
        self.rules = rules
        self._monotonic_s = monotonic_s
        self._rates = KeyedBuckets(rules.connections_per_ip_per_minute)
        self.total = 0
        self._per_ip: dict[Address, int] = {}

    def identify(self, peer: Address, header: Callable[[str], Sequence[str]]) -> Caller:
        """The client behind `peer`, by this gate's trusted proxies; see `identify`."""
        return identify(peer, header, self.rules.trusted_proxies)

    def is_counted(self, address: Address) -> bool:
        """Whether the cap per address applies: not to loopback, nor to a proxy that speaks for many clients."""
        return not (address.is_loopback or _listed(address, self.rules.trusted_proxies))

    def count(self, address: Address) -> int:
        """Connections now open from that address (IPv6: from its /64)."""
        return self._per_ip.get(_counting_key(address), 0)

    def admit(self, address: Address) -> Refusal | None:
        """Counts a new connection, or says why it is refused and counts nothing."""
        rules = self.rules
        if _listed(address, rules.blacklist):
            return Refusal(status=HTTPStatus.FORBIDDEN, reason="your address is blocked on this relay")
        if rules.whitelist and not _listed(address, rules.whitelist):
            return Refusal(status=HTTPStatus.FORBIDDEN, reason="your address is not admitted on this relay")
        if rules.max_connections and self.total >= rules.max_connections:
            return Refusal(
                status=HTTPStatus.SERVICE_UNAVAILABLE,
                reason=f"this relay is full: it serves {rules.max_connections} connections at most",
            )
        key = _counting_key(address)
        held = self._per_ip.get(key, 0)
        if rules.max_connections_per_ip and held >= rules.max_connections_per_ip and self.is_counted(address):
            return Refusal(
                status=HTTPStatus.TOO_MANY_REQUESTS,
                reason=f"too many connections from your address: {rules.max_connections_per_ip} at most",
            )
        if self.is_counted(address) and not self._rates.take(key, self._monotonic_s()):
            return Refusal(
                status=HTTPStatus.TOO_MANY_REQUESTS,
                reason=f"too many new connections from your address: {rules.connections_per_ip_per_minute} a minute",
            )
        self.total += 1
        self._per_ip[key] = held + 1
        return None

    def release(self, address: Address) -> None:
        """Ends what `admit` counted for the same address."""
        key = _counting_key(address)
        held = self._per_ip[key] - 1
        self.total -= 1
        if held:
            self._per_ip[key] = held
        else:
            del self._per_ip[key]


def _counting_key(address: Address) -> Address:
    if isinstance(address, IPv6Address):
        return IPv6Address(int(address) >> _IPV6_HOST_BITS << _IPV6_HOST_BITS)
    return address
