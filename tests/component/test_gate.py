"""The gate over real sockets: who is turned away, with which status and why."""

from ipaddress import ip_network

import pytest
from tests.transport import rules, run_async, serving
from tests.wsclient import RawClient, until

LOOPBACK = (ip_network("127.0.0.0/8"),)


async def knock(url: str, *headers: str) -> tuple[RawClient, int, str]:
    client = await RawClient.open(url)
    reply = await client.upgrade(headers)
    return client, reply.status, reply.body.decode()


def test_the_relay_is_full_at_its_cap_and_not_before() -> None:
    async def main() -> None:
        async with serving(gate=rules(max_connections=2)) as relay:
            first, status, _ = await knock(relay.url)
            assert status == 101
            second, status, _ = await knock(relay.url)
            assert status == 101
            third, status, body = await knock(relay.url)
            assert (status, body) == (503, "this relay is full: it serves 2 connections at most\n")
            assert await third.ended() == b""
            async with first:
                pass
            await until(lambda: relay.hub.gate.total == 1, "the first to be gone")
            fourth, status, _ = await knock(relay.url)
            assert status == 101
            for client in (second, third, fourth):
                async with client:
                    pass

    run_async(main())


def test_an_address_behind_a_trusted_proxy_has_its_own_cap() -> None:
    async def main() -> None:
        async with serving(gate=rules(max_connections_per_ip=1, trusted_proxies=LOOPBACK)) as relay:
            clients = []
            for forwarded, expected in [
                ("192.0.2.1", 101),
                ("192.0.2.1", 429),
                ("8.8.8.8, 192.0.2.1", 429),
                ("192.0.2.2", 101),
                ("2001:db8:0:1::1", 101),
                ("2001:db8:0:1:ffff::2", 429),
                ("2001:db8:0:2::1", 101),
            ]:
                client, status, body = await knock(relay.url, f"X-Forwarded-For: {forwarded}")
                clients.append(client)
                assert status == expected, forwarded
                assert status == 101 or body == "too many connections from your address: 1 at most\n"
            assert [session.connection.remote_ip for session in relay.sessions] == [
                "192.0.2.1",
                "192.0.2.2",
                "2001:db8:0:1::1",
                "2001:db8:0:2::1",
            ]
            for client in clients:
                async with client:
                    pass

    run_async(main())


def test_nobody_is_believed_without_a_trusted_proxy() -> None:
    async def main() -> None:
        async with serving() as relay:
            claims = ("X-Forwarded-For: 192.0.2.1", "X-Forwarded-Host: evil.example", "X-Forwarded-Proto: https")
            client, status, _ = await knock(relay.url, *claims)
            async with client:
                assert status == 101
                peer = (await relay.session()).connection
                assert (peer.remote_ip, peer.secure) == ("127.0.0.1", False)
                assert f"ws://{peer.host}" == relay.url

    run_async(main())


def test_a_trusted_proxy_names_address_host_and_scheme() -> None:
    async def main() -> None:
        async with serving(gate=rules(trusted_proxies=LOOPBACK)) as relay:
            said = ("X-Forwarded-For: 192.0.2.1", "X-Forwarded-Host: relay.example", "X-Forwarded-Proto: https")
            client, status, _ = await knock(relay.url, *said)
            async with client:
                assert status == 101
                peer = (await relay.session()).connection
                assert (peer.remote_ip, peer.host, peer.secure) == ("192.0.2.1", "relay.example", True)

    run_async(main())


@pytest.mark.parametrize(
    ("forwarded", "status"), [("192.0.2.63", 101), ("192.0.2.64", 403), ("192.0.2.127", 403), ("192.0.2.128", 101)]
)
def test_blocked_addresses_are_turned_away(forwarded: str, status: int) -> None:
    async def main() -> None:
        gate = rules(blacklist=(ip_network("192.0.2.64/26"),), trusted_proxies=LOOPBACK)
        async with serving(gate=gate) as relay:
            client, got, body = await knock(relay.url, f"X-Forwarded-For: {forwarded}")
            async with client:
                assert got == status
                assert status == 101 or body == "your address is blocked on this relay\n"

    run_async(main())


def test_only_admitted_addresses_come_in_when_there_is_a_list() -> None:
    async def main() -> None:
        async with serving(gate=rules(whitelist=(ip_network("192.0.2.0/24"),))) as relay:
            client, status, body = await knock(relay.url)
            async with client:
                assert (status, body) == (403, "your address is not admitted on this relay\n")
        async with serving(gate=rules(whitelist=LOOPBACK)) as relay:
            client, status, _ = await knock(relay.url)
            async with client:
                assert status == 101

    run_async(main())


def test_sockets_that_only_wait_are_capped_too() -> None:
    async def main() -> None:
        async with serving(gate=rules(max_connections=1)) as relay:
            waiting = [await RawClient.open(relay.url) for _ in range(1 + 64)]
            for client in waiting[:3]:
                assert (await client.request(path="/health")).status == 200
            refused = await RawClient.open(relay.url)
            refused.send(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            assert await refused.ended() == b""
            for client in (*waiting, refused):
                async with client:
                    pass
            again = await RawClient.open(relay.url)
            async with again:
                assert (await again.request(path="/health")).status == 200

    run_async(main())


def test_a_socket_that_became_a_connection_no_longer_counts_as_waiting() -> None:
    async def main() -> None:
        async with serving(gate=rules(max_connections=200)) as relay:
            clients = []
            for _ in range(150):
                client, status, _ = await knock(relay.url)
                assert status == 101
                clients.append(client)
            assert relay.hub.gate.total == 150
            async with await RawClient.open(relay.url) as plain:
                assert (await plain.request(path="/health")).status == 200
            for client in clients:
                async with client:
                    pass

    run_async(main())
