import pytest

from orly.rpc.guard import MAX_PEERS, PeerLimits, peer_host


@pytest.mark.parametrize(
    ("peer", "host"),
    [
        ("ipv4:127.0.0.1:54321", "127.0.0.1"),
        ("ipv6:%5B::1%5D:54321", "::1"),
        ("ipv6:[::1]:54321", "::1"),
        ("ipv6:[2001:DB8:0::1]:1", "2001:db8::1"),
        ("ipv6:%5Bfe80::1%25eth0%5D:1", "fe80::1"),
        ("ipv6:[::ffff:192.0.2.7]:1", "192.0.2.7"),
        ("unix:", "unix"),
        ("unix:/run/orly/db.sock", "unix"),
        ("ipv4:odd", ""),
        ("", ""),
    ],
)
def test_the_host_of_a_peer(peer: str, host: str) -> None:
    assert peer_host(peer) == host


def test_the_burst_is_two_seconds_of_the_rate() -> None:
    limits = PeerLimits(10)
    assert [limits.take("a", 5.0) for _ in range(21)] == [True] * 20 + [False]


def test_peers_do_not_share() -> None:
    limits = PeerLimits(1)
    assert [limits.take("a", 0.0) for _ in range(3)] == [True, True, False]
    assert limits.take("b", 0.0)


def test_calls_come_back_with_time() -> None:
    limits = PeerLimits(10)
    assert all(limits.take("a", 0.0) for _ in range(20))
    assert not limits.take("a", 0.0625)
    assert limits.take("a", 0.125)
    assert not limits.take("a", 0.125)


def test_zero_is_no_limit_and_remembers_nobody() -> None:
    limits = PeerLimits(0)
    assert all(limits.take("a", 0.0) for _ in range(10_000))
    assert len(limits) == 0


def test_a_row_of_refusals_is_told_once() -> None:
    limits = PeerLimits(1)
    assert limits.take("a", 0.0)
    assert limits.take("a", 0.0)
    assert not limits.take("a", 0.0)
    assert [limits.must_tell("a") for _ in range(3)] == [True, False, False]
    assert limits.take("a", 1.0)
    assert not limits.take("a", 1.0)
    assert limits.must_tell("a")


def test_who_was_silent_longest_is_forgotten_first() -> None:
    limits = PeerLimits(1, max_peers=2)
    for _ in range(2):
        assert limits.take("a", 0.0)
        assert limits.take("b", 0.0)
    assert not limits.take("a", 0.0)  # so b has been silent longer
    assert limits.take("c", 0.0)
    assert len(limits) == 2
    assert not limits.take("a", 0.0)
    assert limits.take("b", 0.0)  # forgotten, so it begins anew


def test_memory_is_bounded() -> None:
    limits = PeerLimits(1)
    for number in range(MAX_PEERS + 1):
        assert limits.take(str(number), 0.0)
    assert len(limits) == MAX_PEERS
