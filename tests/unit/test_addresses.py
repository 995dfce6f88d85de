"""What stands for one client."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orly.access.addresses import network_of, place_of, read_network
from orly.access.commands import read_address
from orly.access.decide import block_of, standing_of
from orly.access.snapshot import AddressChange, Rules, Snapshot


@pytest.mark.parametrize(
    ("address", "network", "place"),
    [
        ("192.0.2.1", "", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::/64", "2001:db8::/64"),
        ("2001:db8:0:1:ffff:ffff:ffff:ffff", "2001:db8:0:1::/64", "2001:db8:0:1::/64"),
        ("2001:db8::/64", "", ""),
        ("127.0.0.1", "", ""),
        ("127.3.2.1", "", ""),
        ("::1", "::/64", ""),
        ("", "", ""),
        ("unix", "", ""),
    ],
)
def test_places(address: str, network: str, place: str) -> None:
    assert network_of(address) == network
    assert place_of(address) == place


@pytest.mark.parametrize(
    ("text", "network"),
    [("2001:DB8::/64", "2001:db8::/64"), ("2001:db8::1/64", "2001:db8::/64"), (" 2001:db8::/64 ", "2001:db8::/64")],
)
def test_a_network_is_named_in_one_way(text: str, network: str) -> None:
    assert read_address(text) == network
    assert read_network(text.strip()) == network


@given(st.ip_addresses(v=6).map(str), st.ip_addresses(v=6).map(str))
def test_a_block_of_a_network_bars_all_its_addresses(address: str, other: str) -> None:
    snapshot = Snapshot(Rules())
    assert block_of(snapshot, address) == ""
    snapshot.apply(AddressChange(network_of(address), True))
    assert block_of(snapshot, address) == network_of(address)
    assert standing_of(snapshot, [], address).barred is not None
    assert bool(block_of(snapshot, other)) is (network_of(other) == network_of(address))
    snapshot.apply(AddressChange(address, True))
    assert block_of(snapshot, address) == address
    assert block_of(snapshot, "192.0.2.1") == ""
