from collections.abc import Callable, Sequence
from http import HTTPStatus
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.transport import rules

from orly.relay.gate import Address, Gate, GateRules, Network, identify, parse_address

PROXY = ip_address("10.0.0.1")
TRUSTED: tuple[Network, ...] = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))


def headers(**given_values: str | list[str]) -> Callable[[str], Sequence[str]]:
    """Header values by name, underscores for dashes."""
    values = {name.lower().replace("_", "-"): value for name, value in given_values.items()}

    def get_all(name: str) -> Sequence[str]:
        value = values.get(name.lower(), [])
        return [value] if isinstance(value, str) else value

    return get_all


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        (" 192.0.2.1 ", "192.0.2.1"),
        ("192.0.2.1:5000", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:db8::1]:5000", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("[::ffff:192.0.2.1]:80", "192.0.2.1"),
    ],
)
def test_addresses_as_proxies_write_them(text: str, address: str) -> None:
    assert parse_address(text) == ip_address(address)


@pytest.mark.parametrize(
    "text", ["", "unknown", "_hidden", "[2001:db8::1", "1.2.3", "1.2.3.4.5", "host.example:80", "256.0.0.1"]
)
def test_what_is_no_address(text: str) -> None:
    assert parse_address(text) is None


@given(st.text(max_size=60))
def test_reading_an_address_never_raises(text: str) -> None:
    assert parse_address(text) is None or isinstance(parse_address(text), IPv4Address | IPv6Address)


def test_an_untrusted_peer_is_itself_whatever_it_claims() -> None:
    claims = headers(
        Host="relay.example", X_Forwarded_For="192.0.2.9", X_Forwarded_Host="evil.example", X_Forwarded_Proto="https"
    )
    caller = identify(ip_address("203.0.113.5"), claims, TRUSTED)
    assert (str(caller.address), caller.host, caller.secure) == ("203.0.113.5", "relay.example", False)


@pytest.mark.parametrize(
    ("forwarded_for", "client"),
    [
        ("192.0.2.9", "192.0.2.9"),
        ("198.51.100.1, 192.0.2.9", "192.0.2.9"),
        ("198.51.100.1, 192.0.2.9, 10.0.0.7", "192.0.2.9"),
        ("198.51.100.1,192.0.2.9,fd00::5,10.0.0.7", "192.0.2.9"),
        (["198.51.100.1", "192.0.2.9, 10.0.0.7"], "192.0.2.9"),
        ("10.0.0.9, 10.0.0.7", "10.0.0.9"),
        ("192.0.2.9, unknown", "10.0.0.1"),
        ("192.0.2.9, unknown, 10.0.0.7", "10.0.0.7"),
        ("192.0.2.9:41000", "192.0.2.9"),
        ("2001:db8::7", "2001:db8::7"),
        ("", "10.0.0.1"),
        ([], "10.0.0.1"),
    ],
)
def test_the_client_is_the_first_untrusted_hop_from_the_right(forwarded_for: str | list[str], client: str) -> None:
    assert str(identify(PROXY, headers(X_Forwarded_For=forwarded_for), TRUSTED).address) == client


def test_a_trusted_proxy_speaks_for_host_and_scheme_and_the_nearest_has_the_last_word() -> None:
    said = headers(
        Host="127.0.0.1:3334",
        X_Forwarded_For="192.0.2.9",
        X_Forwarded_Host=["forged.example", "other.example, relay.example:8443"],
        X_Forwarded_Proto="http, HTTPS",
    )
    caller = identify(PROXY, said, TRUSTED)
    assert (caller.host, caller.secure) == ("relay.example:8443", True)


@pytest.mark.parametrize(
    ("proto", "secure"), [("https", True), ("wss", True), ("http", False), ("ws", False), ("", False)]
)
def test_which_forwarded_schemes_are_secure(proto: str, secure: bool) -> None:
    assert identify(PROXY, headers(X_Forwarded_Proto=proto), TRUSTED).secure is secure


def test_a_proxy_that_says_nothing_of_the_host_leaves_the_host_header() -> None:
    assert identify(PROXY, headers(Host="relay.example"), TRUSTED).host == "relay.example"


def test_the_total_cap_at_its_edge() -> None:
    gate = Gate(rules(max_connections=2, max_connections_per_ip=0))
    first, second, third = (ip_address(f"192.0.2.{n}") for n in range(3))
    assert gate.admit(first) is None
    assert gate.admit(second) is None
    refusal = gate.admit(third)
    assert refusal is not None
    assert refusal.status == HTTPStatus.SERVICE_UNAVAILABLE
    assert "2 connections" in refusal.reason
    gate.release(first)
    assert gate.admit(third) is None
    assert gate.total == 2


def test_the_cap_per_address_at_its_edge() -> None:
    gate = Gate(rules(max_connections_per_ip=2))
    address = ip_address("192.0.2.1")
    assert [gate.admit(address), gate.admit(address)] == [None, None]
    refusal = gate.admit(address)
    assert refusal is not None
    assert refusal.status == HTTPStatus.TOO_MANY_REQUESTS
    assert "2 at most" in refusal.reason
    assert gate.count(address) == 2
    assert gate.admit(ip_address("192.0.2.2")) is None
    gate.release(address)
    assert gate.admit(address) is None


def test_ipv6_counts_by_its_64_bit_prefix() -> None:
    gate = Gate(rules(max_connections_per_ip=1))
    assert gate.admit(ip_address("2001:db8:0:1::1")) is None
    assert gate.admit(ip_address("2001:db8:0:1:ffff:ffff:ffff:ffff")) is not None
    assert gate.admit(ip_address("2001:db8:0:2::1")) is None
    assert gate.count(ip_address("2001:db8:0:1::beef")) == 1


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1", "10.0.0.1"])
def test_loopback_and_trusted_proxies_are_exempt_from_the_cap_per_address_but_not_from_the_total(address: str) -> None:
    gate = Gate(rules(max_connections=3, max_connections_per_ip=1, trusted_proxies=TRUSTED))
    for _ in range(3):
        assert gate.admit(ip_address(address)) is None
    assert gate.admit(ip_address(address)) is not None


def test_zero_is_no_limit() -> None:
    gate = Gate(rules(max_connections=0, max_connections_per_ip=0))
    for _ in range(1000):
        assert gate.admit(ip_address("192.0.2.1")) is None
    assert gate.total == 1000


def test_the_blacklist_beats_the_whitelist() -> None:
    gate = Gate(rules(whitelist=(ip_network("192.0.2.0/24"),), blacklist=(ip_network("192.0.2.64/26"),)))
    assert gate.admit(ip_address("192.0.2.63")) is None
    for refused in ("192.0.2.64", "192.0.2.127", "192.0.3.0", "127.0.0.1", "2001:db8::1"):
        refusal = gate.admit(ip_address(refused))
        assert refusal is not None, refused
        assert refusal.status == HTTPStatus.FORBIDDEN
    assert gate.admit(ip_address("192.0.2.128")) is None


def test_a_refused_connection_is_not_counted() -> None:
    gate = Gate(rules(blacklist=(ip_network("192.0.2.0/24"),)))
    assert gate.admit(ip_address("192.0.2.1")) is not None
    assert (gate.total, gate.count(ip_address("192.0.2.1"))) == (0, 0)


@given(st.lists(st.integers(0, 5), max_size=60))
def test_counts_come_back_to_nothing(visitors: list[int]) -> None:
    gate = Gate(GateRules(max_connections=20, max_connections_per_ip=4))
    inside: list[Address] = []
    for visitor in visitors:
        address = ip_address(f"2001:db8:0:{visitor}::{len(inside)}")
        if gate.admit(address) is None:
            inside.append(address)
        assert gate.total == len(inside) <= 20
        assert gate.count(address) <= 4
    for address in inside:
        gate.release(address)
    assert gate.total == 0
    assert all(gate.count(address) == 0 for address in inside)
