"""Starting and stopping: sockets that cannot be bound, the order of a stop, its bounds."""

import asyncio
import json
import resource
import socket
from ipaddress import ip_address
from typing import Literal

import pytest
from tests.process import free_port
from tests.transport import Echo, run_async, serving
from tests.wsclient import CLOSE, TEXT, RawClient, connect, frame, http, until

from orly.relay.options import options_from_settings
from orly.relay.server import AddressNotAvailable, PortInUse, ServeError, allow_open_files, bind
from orly.settings import Settings


def test_a_port_in_use_is_named() -> None:
    with bind("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(PortInUse, match=f"cannot listen on 127.0.0.1:{port}: another process already does"):
            bind("127.0.0.1", port)


def test_a_port_is_free_again_at_once() -> None:
    port = free_port()
    with bind("127.0.0.1", port) as listener, socket.create_connection(("127.0.0.1", port)):
        accepted = None
        listener.setblocking(True)
        accepted, _ = listener.accept()
        accepted.close()
    with bind("127.0.0.1", port):
        pass


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1", "no.such.host.invalid"])
def test_an_address_that_is_not_ours_is_named(host: str) -> None:
    with pytest.raises(AddressNotAvailable, match="cannot listen on ") as caught:
        bind(host, 3334)
    assert host in str(caught.value)


def test_every_failure_to_listen_is_one_kind_of_error() -> None:
    assert issubclass(PortInUse, ServeError)
    assert issubclass(AddressNotAvailable, ServeError)


def test_ipv6_listens_and_all_addresses_take_ipv4_too() -> None:
    try:
        probe = bind("::1", 0)
    except AddressNotAvailable:
        pytest.skip("this machine has no IPv6")
    probe.close()

    async def main() -> None:
        async with serving(listen="::") as relay:
            assert relay.url.startswith("ws://[::]:")
            port = relay.url.rpartition(":")[2]
            for host, address in (("127.0.0.1", "127.0.0.1"), ("[::1]", "::1")):
                async with connect(f"ws://{host}:{port}") as client:
                    await client.send("hello")
                    assert await client.receive() == ["hello"]
                    peer = (await relay.session()).connection
                    assert ip_address(peer.remote_ip) == ip_address(address)

    run_async(main())


def test_a_name_with_both_families_is_bound_where_ipv4_clients_look(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(host: str, port: int, **kind: int) -> list[tuple[object, ...]]:
        assert host == "localhost"
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", port, 0, 0)),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)),
        ]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with bind("localhost", 0) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"


UNLIMITED = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("soft", "hard", "max_connections", "raised_to", "warns"),
    [
        (1024, 4096, 416, None, False),
        (1024, 4096, 417, 1026, False),
        (1024, 4096, 1952, 4096, False),
        (1024, 4096, 1953, 4096, True),
        (4096, 4096, 5000, None, True),
        (1024, UNLIMITED, 5000, 10_192, False),
        (UNLIMITED, UNLIMITED, 5000, None, False),
        (1024, 4096, 0, 4096, False),
        (4096, 4096, 0, None, False),
        (1024, UNLIMITED, 0, UNLIMITED, False),
    ],
)
def test_the_limit_on_open_files_is_raised_as_far_as_needed_or_possible(
    soft: int,
    hard: int,
    max_connections: int,
    raised_to: int | None,
    warns: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    raised: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda kind, limits: raised.append(limits))
    allow_open_files(max_connections)
    assert raised == ([] if raised_to is None else [(raised_to, hard)])
    assert ("are needed to serve all connections" in caplog.text) is warns


def test_a_port_is_shared_by_those_only_who_all_say_so() -> None:
    with bind("127.0.0.1", 0, shared=True) as first:
        port = first.getsockname()[1]
        bind("127.0.0.1", port, shared=True).close()
        with pytest.raises(PortInUse, match=str(port)):
            bind("127.0.0.1", port)
    with bind("127.0.0.1", port), pytest.raises(PortInUse, match=str(port)):
        bind("127.0.0.1", port, shared=True)


@pytest.mark.parametrize(("db_type", "shared"), [("lmdb", False), ("grpc", True)])
def test_only_one_of_several_relay_processes_shares_its_ports(db_type: Literal["lmdb", "grpc"], shared: bool) -> None:
    assert options_from_settings(Settings(db_type=db_type)).shares_ports is shared


def test_a_port_in_use_ends_the_start_and_leaves_nothing_open() -> None:
    async def main() -> None:
        async with serving() as relay:
            taken = int(relay.url.rpartition(":")[2])
            with pytest.raises(PortInUse, match=str(taken)):
                async with serving(health_port=taken):
                    pass

    run_async(main())


def test_the_health_port_answers_health_only() -> None:
    async def main() -> None:
        port = free_port()
        async with serving(health_port=port):
            url = f"ws://127.0.0.1:{port}"
            assert json.loads((await http(url, path="/health")).body) == {"status": "ok"}
            assert (await http(url, path="/healthz")).status == 200
            assert (await http(url)).status == 404
            async with await RawClient.open(url) as client:
                assert (await client.upgrade()).status == 404

    run_async(main())


def test_a_stop_closes_every_client_with_1001_and_a_reason() -> None:
    async def main() -> None:
        async with serving() as relay, connect(relay.url) as first, connect(relay.url) as second:
            await until(lambda: len(relay.sessions) == 2, "both sessions")
            relay.stop.set()
            assert await first.closed() == (1001, "relay is stopping")
            assert await second.closed() == (1001, "relay is stopping")
            await relay.task
            assert all(session.closed_calls == 1 for session in relay.sessions)
            assert relay.hub.gate.total == 0

    run_async(main())


def test_a_stop_finishes_the_work_under_way_before_it_closes() -> None:
    async def main() -> None:
        draining, finish = asyncio.Event(), asyncio.Event()

        async def drain() -> None:
            draining.set()
            await finish.wait()
            relay.sessions[0].connection.send(b"your event is stored")

        port = free_port()
        async with (
            serving(drain=drain, health_port=port) as relay,
            await RawClient.open(relay.url) as idle,
            await RawClient.open(relay.url) as client,
        ):
            assert (await client.upgrade()).status == 101
            session = await relay.session()
            assert (await idle.request(path="/health")).status == 200
            relay.stop.set()
            await draining.wait()

            client.send(frame(TEXT, b"too late"))
            with pytest.raises(OSError, match="Connect"):
                await RawClient.open(relay.url)
            reply = await idle.request(path="/health")
            assert (reply.status, "stopping" in reply.body.decode()) == (503, True)
            assert (await http(f"ws://127.0.0.1:{port}", path="/health")).status == 503
            reply = await idle.upgrade()
            assert (reply.status, reply.body) == (503, b"This relay is stopping.\n")
            assert session.closed_calls == 0

            finish.set()
            assert await client.receive_frame() == (TEXT, b"your event is stored")
            assert await client.receive_close() == (1001, "relay is stopping")
            client.send(frame(CLOSE, (1001).to_bytes(2, "big")))
            await relay.task
            assert session.messages == []

    run_async(main())


def test_a_stop_is_bounded_when_clients_do_not_answer() -> None:
    async def main() -> None:
        async with serving(stop_timeout_s=1.2) as relay, await RawClient.open(relay.url) as client:
            assert (await client.upgrade()).status == 101
            session = await relay.session()
            relay.stop.set()
            assert await client.receive_close() == (1001, "relay is stopping")
            await relay.task
            assert session.closed_calls == 1

    run_async(main())


def test_a_stop_is_bounded_when_the_work_under_way_does_not_end() -> None:
    async def main() -> None:
        cancelled = asyncio.Event()

        async def drain() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

        async with serving(drain=drain, stop_timeout_s=0.2) as relay, connect(relay.url) as client:
            relay.stop.set()
            assert await client.closed() == (1001, "relay is stopping")
            await relay.task
            assert cancelled.is_set()

    run_async(main())


def test_a_stop_before_anybody_came() -> None:
    async def main() -> None:
        async with serving() as relay:
            relay.stop.set()
            await relay.task
            with pytest.raises(OSError, match="Connect"):
                await RawClient.open(relay.url)

    run_async(main())


def test_an_error_of_the_caller_is_not_swallowed() -> None:
    class Unready(Exception):
        pass

    async def main() -> None:
        async def fail() -> None:
            raise Unready

        with pytest.raises(Unready):
            async with serving(drain=fail, make_session=Echo):
                pass

    run_async(main())


def test_every_bound_of_the_transport_comes_from_the_settings() -> None:
    options = options_from_settings(
        Settings.model_validate(
            {
                "listen": "127.0.0.1",
                "port": "4000",
                "max_connections": "11",
                "max_connections_per_ip": "12",
                "ip_blacklist": "192.0.2.0/24",
                "ip_whitelist": "10.",
                "trusted_proxies": "127.0.0.1",
                "max_message_bytes": "5KiB",
                "max_send_backlog_bytes": "1MiB",
                "max_total_send_backlog_bytes": "2MiB",
                "send_timeout_s": "3s",
                "ping_interval_s": "4s",
                "pong_timeout_s": "5s",
                "idle_timeout_s": "6s",
                "handshake_timeout_s": "7s",
                "stop_timeout_s": "8s",
            }
        )
    )
    assert (options.listen, options.port, options.health_port) == ("127.0.0.1", 4000, 0)
    assert (options.gate.max_connections, options.gate.max_connections_per_ip) == (11, 12)
    assert [str(net) for net in (*options.gate.blacklist, *options.gate.whitelist, *options.gate.trusted_proxies)] == [
        "192.0.2.0/24",
        "10.0.0.0/8",
        "127.0.0.1/32",
    ]
    limits = options.limits
    assert (limits.max_message_bytes, limits.max_send_backlog_bytes) == (5 * 1024, 1 << 20)
    assert limits.max_total_send_backlog_bytes == 2 << 20
    assert (limits.send_timeout_s, limits.ping_interval_s, limits.pong_timeout_s, limits.idle_timeout_s) == (3, 4, 5, 6)
    assert (options.handshake_timeout_s, options.stop_timeout_s) == (7, 8)
