"""Servers and channels: binding, sizes, health, reflection, the end."""

import asyncio
import logging
import os
import socket
import stat
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse, HealthListRequest
from grpc_reflection.v1alpha import reflection_pb2_grpc
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest
from tests.component.rpc_world import ANSWERS, DEADLINE_S, KINDS, PROBE, called, serving_probe, until
from tests.transport import run_async

from orly.rpc.channel import channel_from_settings
from orly.rpc.health import HEALTH_SERVICE
from orly.rpc.options import MAX_MESSAGE_BYTES
from orly.rpc.server import ListenError, RpcServer
from orly.settings import Settings

PLAIN = Settings()
ENDED = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
"""How a call fails when its server stops, by what gRPC was doing with it."""


async def listen_error(address: str) -> ListenError:
    with pytest.raises(ListenError) as caught:
        await RpcServer(address, credentials=None).start()
    assert str(caught.value) == f"cannot listen on {address}: {caught.value.reason}"
    assert caught.value.address == address
    return caught.value


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("max_calls", [0, 1000])
def test_every_kind_of_call_passes(kind: str, max_calls: int) -> None:
    async def main() -> None:
        settings = Settings(grpc_max_calls_per_second=max_calls)
        async with serving_probe(settings) as (server, _), channel_from_settings(settings, server.address) as channel:
            assert await called(channel, kind) == ANSWERS[kind]

    run_async(main())


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "localhost", "[::1]", "[::]"])
def test_a_port_in_use_is_named(host: str) -> None:
    async def main() -> None:
        async with serving_probe(PLAIN) as (server, _):
            port = server.address.rpartition(":")[2]
            if host in ("[::1]", "[::]"):
                with socket.socket(socket.AF_INET6) as other:
                    other.bind(("::1", int(port)))
                    other.listen()
                    error = await listen_error(f"{host}:{port}")
            else:
                error = await listen_error(f"{host}:{port}")
            assert error.reason == "another process already does"

    run_async(main())


def test_a_part_of_the_addresses_is_not_enough() -> None:
    """`localhost` is two addresses; gRPC alone would be content with the free one."""

    async def main() -> None:
        with socket.socket(socket.AF_INET) as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            assert (await listen_error(f"localhost:{other.getsockname()[1]}")).reason == "another process already does"

    run_async(main())


def test_an_address_that_is_not_ours_is_named() -> None:
    async def main() -> None:
        assert (await listen_error("192.0.2.1:50051")).reason == "this machine has no such address"

    run_async(main())


def test_a_port_is_free_again_after_a_stop() -> None:
    async def main() -> None:
        async with serving_probe(PLAIN) as (first, _), channel_from_settings(PLAIN, first.address) as channel:
            await called(channel, "One")
        async with serving_probe(PLAIN, first.address) as (second, _):
            assert second.address == first.address
            async with channel_from_settings(PLAIN, second.address) as channel:
                assert await called(channel, "One") == [b"x"]

    run_async(main())


def test_a_unix_socket_is_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "db.sock"

    async def main() -> None:
        before = os.umask(0)
        try:
            async with serving_probe(PLAIN, f"unix:{path}") as (server, _):
                mode = path.lstat().st_mode
                assert (stat.S_ISSOCK(mode), stat.S_IMODE(mode)) == (True, 0o600)
                assert os.umask(0) == 0
                async with channel_from_settings(PLAIN, server.address) as channel:
                    assert await called(channel, "Chat") == ANSWERS["Chat"]
        finally:
            os.umask(before)
        assert not path.exists()

    run_async(main())


def test_a_socket_that_was_left_behind_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "db.sock"
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(path))

    async def main() -> None:
        async with (
            serving_probe(PLAIN, f"unix:{path}") as (server, _),
            channel_from_settings(PLAIN, server.address) as channel,
        ):
            assert await called(channel, "One") == [b"x"]

    run_async(main())


def test_a_unix_socket_in_use_is_left_alone(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving_probe(PLAIN, f"unix:{tmp_path}/db.sock") as (server, _):
            assert (await listen_error(server.address)).reason == "another process already does"
            async with channel_from_settings(PLAIN, server.address) as channel:
                assert await called(channel, "One") == [b"x"]

    run_async(main())


def test_what_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")

    async def main() -> None:
        assert (await listen_error(f"unix:{path}")).reason == "the file there is not a socket"
        assert (await listen_error(f"unix:{tmp_path}")).reason == "the file there is not a socket"

    run_async(main())
    assert path.read_text() == "data"


def test_the_directory_of_a_socket_must_be_there(tmp_path: Path) -> None:
    async def main() -> None:
        error = await listen_error(f"unix:{tmp_path}/none/db.sock")
        assert error.reason == f"there is no directory {tmp_path}/none"

    run_async(main())


def test_messages_up_to_64_mib_in_both_directions() -> None:
    async def main() -> None:
        async with serving_probe(PLAIN) as (server, probe), channel_from_settings(PLAIN, server.address) as channel:
            longest = bytes(MAX_MESSAGE_BYTES)
            assert (await called(channel, "One", longest)) == [longest]
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await called(channel, "One", longest + b"x")
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert probe.calls == 1
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await called(channel, "Many", longest)  # each answer is one byte longer
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert await called(channel, "One") == [b"x"]

    assert MAX_MESSAGE_BYTES == 64 * 1024 * 1024
    run_async(main())


def test_calls_at_once_are_limited() -> None:
    async def main() -> None:
        async with (
            serving_probe(PLAIN, max_concurrent=2) as (server, probe),
            channel_from_settings(PLAIN, server.address) as channel,
        ):
            probe.hold.clear()
            held = [asyncio.create_task(called(channel, "One")) for _ in range(2)]
            await until(lambda: probe.calls == 2)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await called(channel, "One")
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            probe.hold.set()
            assert await asyncio.gather(*held) == [[b"x"], [b"x"]]

    run_async(main())


def test_health_is_that_of_every_service() -> None:
    async def main() -> None:
        async with serving_probe(PLAIN) as (server, _), channel_from_settings(PLAIN, server.address) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            for is_serving, expected in ((True, "SERVING"), (False, "NOT_SERVING"), (True, "SERVING")):
                server.set_serving(is_serving)
                status = HealthCheckResponse.ServingStatus.Value(expected)
                for name in ("", PROBE):
                    assert (await health.Check(HealthCheckRequest(service=name))).status == status
                listed = (await health.List(HealthListRequest())).statuses
                assert {name: found.status for name, found in listed.items()} == {"": status, PROBE: status}
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await health.Check(HealthCheckRequest(service="no.such.Service"))
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND
            assert caught.value.details() == "there is no service 'no.such.Service' here"

    run_async(main())


def test_health_is_watched_until_the_end() -> None:
    async def main() -> None:
        async with serving_probe(PLAIN) as (server, _), channel_from_settings(PLAIN, server.address) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            known = health.Watch(HealthCheckRequest(service=PROBE))
            unknown = health.Watch(HealthCheckRequest(service="no.such.Service"))
            async with asyncio.timeout(DEADLINE_S):
                assert (await known.read()).status == HealthCheckResponse.SERVING
                assert (await unknown.read()).status == HealthCheckResponse.SERVICE_UNKNOWN
                server.set_serving(False)
                assert (await known.read()).status == HealthCheckResponse.NOT_SERVING
                server.set_serving(True)
                assert (await known.read()).status == HealthCheckResponse.SERVING
                stopping = asyncio.create_task(server.stop(DEADLINE_S * 2))
                assert (await known.read()).status == HealthCheckResponse.NOT_SERVING
                assert await known.read() is grpc.aio.EOF
                assert await unknown.read() is grpc.aio.EOF
                await stopping  # nobody who watches holds it up
            server.set_serving(True)  # of no effect any more

    run_async(main())


def test_reflection_lists_the_services() -> None:
    async def main() -> None:
        async with serving_probe(PLAIN) as (server, _), channel_from_settings(PLAIN, server.address) as channel:
            stub = reflection_pb2_grpc.ServerReflectionStub(channel)
            call = stub.ServerReflectionInfo(iter([ServerReflectionRequest(list_services="")]))
            (answer,) = [answer async for answer in call]
            names = {found.name for found in answer.list_services_response.service}
            assert names == {PROBE, HEALTH_SERVICE, "grpc.reflection.v1alpha.ServerReflection"}

    run_async(main())


def test_a_stop_lets_calls_finish_and_refuses_new_ones() -> None:
    async def main() -> None:
        async with serving_probe(PLAIN) as (server, probe), channel_from_settings(PLAIN, server.address) as channel:
            probe.hold.clear()
            held = asyncio.create_task(called(channel, "Many"))
            await until(lambda: probe.calls == 1)
            async with asyncio.timeout(DEADLINE_S):
                stopping = asyncio.create_task(server.stop(DEADLINE_S * 2))
                await asyncio.sleep(0)
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await called(channel, "One")
                assert caught.value.code() in ENDED
                assert probe.calls == 1
                assert not stopping.done()
                probe.hold.set()
                assert await held == ANSWERS["Many"]
                await stopping

    run_async(main())


def test_a_stop_ends_calls_that_outlast_it(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with serving_probe(PLAIN) as (server, probe), channel_from_settings(PLAIN, server.address) as channel:
            probe.hold.clear()
            held = asyncio.create_task(called(channel, "Many"))
            await until(lambda: probe.calls == 1)
            async with asyncio.timeout(DEADLINE_S):
                await server.stop(0.05)
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await held
                assert caught.value.code() in ENDED

    with caplog.at_level(logging.ERROR):
        run_async(main())
    assert caplog.records == []


def test_a_stop_without_a_start_is_nothing() -> None:
    run_async(RpcServer("127.0.0.1:0", credentials=None).stop(1.0))
