"""What stands for one client: an IPv4 address, or an IPv6 network of 64 bits, for a client may have all of that."""

from ipaddress import IPv6Network, ip_address, ip_network
from typing import Final

__all__ = ["CLIENT_PREFIX_BITS", "network_of", "place_of", "read_network"]

CLIENT_PREFIX_BITS: Final = 64


def read_network(text: str) -> str:
    """An IPv6 network of 64 bits (`2001:db8::/64`), as `ipaddress` writes it.

    Raises:
        ValueError: It is none.
    """
    network = ip_network(text, strict=False)
    if not isinstance(network, IPv6Network) or network.prefixlen != CLIENT_PREFIX_BITS or "%" in text:
        raise ValueError(f"{text} is no IPv6 network of {CLIENT_PREFIX_BITS} bits")
    return str(network)


def network_of(address: str) -> str:
    """The network that an IPv6 address is in; empty for any other address, and for a network."""
    return read_network(f"{address}/{CLIENT_PREFIX_BITS}") if ":" in address and "/" not in address else ""


def place_of(address: str) -> str:
    """What stands for the client behind an address, itself or its network.

    Empty for what is no address, and for loopback: a proxy on this machine that is not declared as trusted would make
    everybody one.
    """
    try:
        found = ip_address(address)
    except ValueError:
        return ""
    return "" if found.is_loopback else network_of(str(found)) or str(found)
