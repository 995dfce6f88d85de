"""Waiting until a service can work: what is worth waiting for, what is not, and what is said at the end."""

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest
from tests.component.rpc_world import DEADLINE_S, PROBE, TOKEN, Certificates, serving_probe
from tests.process import free_port
from tests.transport import run_async

from orly.rpc.channel import AccessRefusedError, NotReadyError, channel_from_settings, wait_ready
from orly.rpc.server import RpcServer
from orly.settings import Settings

SHORT_S = 1.0
PLAIN = Settings()


def settings_with(**given: Any) -> Settings:
    return Settings(**given)


@pytest.fixture(name="own")
def make_own(tmp_path: Path) -> Certificates:
    return Certificates.make(tmp_path / "own")


async def not_ready(
    address: str, *, settings: Settings = PLAIN, service: str = PROBE, timeout_s: float = SHORT_S, program: str = ""
) -> NotReadyError:
    async with channel_from_settings(settings, address) as channel, asyncio.timeout(DEADLINE_S):
        with pytest.raises(NotReadyError) as caught:
            await wait_ready(channel, service=service, timeout_s=timeout_s, program=program)
    assert (caught.value.service, caught.value.address) == (service, address)
    return caught.value


def closed_port() -> str:
    return f"127.0.0.1:{free_port()}"


@pytest.mark.parametrize("service", [PROBE, ""])
def test_a_service_that_serves_is_ready(service: str) -> None:
    async def main() -> None:
        async with serving_probe(PLAIN) as (server, _), channel_from_settings(PLAIN, server.address) as channel:
            await wait_ready(channel, service=service, timeout_s=DEADLINE_S)

    run_async(main())


def test_a_service_that_is_not_there_yet_is_waited_for(tmp_path: Path) -> None:
    async def main() -> None:
        address = f"unix:{tmp_path}/db.sock"
        async with channel_from_settings(PLAIN, address) as channel:
            waiting = asyncio.create_task(wait_ready(channel, service=PROBE, timeout_s=DEADLINE_S))
            await not_ready(address)  # takes its time, and the other waits through it
            async with serving_probe(PLAIN, address) as (server, _):
                server.set_serving(False)
                error = await not_ready(address)
                assert error.last == "NOT_SERVING"
                assert not waiting.done()
                server.set_serving(True)
                await waiting

    run_async(main())


def test_a_service_that_stops_and_comes_back_is_waited_for(tmp_path: Path) -> None:
    async def main() -> None:
        address = f"unix:{tmp_path}/db.sock"
        async with channel_from_settings(PLAIN, address) as channel:
            async with serving_probe(PLAIN, address) as (server, _):
                server.set_serving(False)
                waiting = asyncio.create_task(wait_ready(channel, service=PROBE, timeout_s=DEADLINE_S))
                await not_ready(address)
            async with serving_probe(PLAIN, address):
                await waiting

    run_async(main())


def test_what_never_came_is_named() -> None:
    async def main() -> None:
        address = closed_port()
        error = await not_ready(address, program="orly-db")
        assert type(error) is NotReadyError
        assert str(error).startswith(f"orly-db at {address} was not ready within 1 s: UNAVAILABLE: ")
        assert "Connection refused" in str(error)
        assert error.waited_s > SHORT_S / 2  # the loop counts in whole milliseconds
        assert (await not_ready(address)).args[0].startswith(f"{PROBE} at ")
        assert (await not_ready(address, service="")).args[0].startswith("the service at ")

    run_async(main())


def test_what_never_answers_is_named() -> None:
    async def main() -> None:
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            address = f"127.0.0.1:{silent.getsockname()[1]}"
            error = await not_ready(address)
            assert str(error) == f"{PROBE} at {address} was not ready within 1 s: no answer yet"

    run_async(main())


def test_what_never_can_work_is_named() -> None:
    async def main() -> None:
        async with serving_probe(PLAIN) as (server, _):
            server.set_serving(False)
            assert str(await not_ready(server.address)).endswith(" was not ready within 1 s: NOT_SERVING")

    run_async(main())


def test_another_service_is_not_waited_for() -> None:
    async def main() -> None:
        async with serving_probe(PLAIN) as (server, _):
            error = await not_ready(server.address, service="no.such.Service", timeout_s=DEADLINE_S * 2)
            assert isinstance(error, AccessRefusedError)
            assert str(error).endswith(" is something else: no such service as no.such.Service there")

    run_async(main())


@pytest.mark.parametrize("token", ["", "x" * 16])
def test_a_wrong_token_is_not_waited_for(token: str) -> None:
    async def main() -> None:
        async with serving_probe(settings_with(grpc_token=TOKEN)) as (server, _):
            error = await not_ready(
                server.address, settings=settings_with(grpc_token=token), timeout_s=DEADLINE_S * 2, program="orly-db"
            )
            assert isinstance(error, AccessRefusedError)
            assert str(error).startswith(f"orly-db at {server.address} refuses the call: UNAUTHENTICATED: this ")

    run_async(main())


def test_a_service_that_cannot_be_trusted_is_not_waited_for(own: Certificates, tmp_path: Path) -> None:
    foreign = Certificates.make(tmp_path / "foreign")
    named = {"grpc_tls": "tls", "grpc_tls_server_name": "db.example", **own.trust()}

    async def main() -> None:
        async with serving_probe(settings_with(grpc_tls="tls", **own.server())) as (server, _):
            for settings, text in (
                ({"grpc_tls": "tls", **foreign.trust()}, "not signed by the authority in ORLY_GRPC_TLS_CA"),
                (named, "for another name: see ORLY_GRPC_TLS_SERVER_NAME"),
            ):
                error = await not_ready(server.address, settings=settings_with(**settings), timeout_s=DEADLINE_S * 2)
                assert isinstance(error, AccessRefusedError)
                assert str(error).startswith(f"{PROBE} at {server.address} cannot be trusted: ")
                assert text in str(error)
        async with serving_probe(PLAIN) as (server, _):
            settings = {"grpc_tls": "tls", **own.trust()}
            error = await not_ready(server.address, settings=settings_with(**settings), timeout_s=DEADLINE_S * 2)
            assert isinstance(error, AccessRefusedError)
            assert "does not speak TLS" in str(error)

    run_async(main())


@pytest.mark.parametrize("caller", [{}, {"grpc_tls": "tls"}])
def test_a_service_that_hangs_up_is_named_with_a_hint(own: Certificates, caller: dict[str, Any]) -> None:
    async def main() -> None:
        async with serving_probe(settings_with(grpc_tls="mtls", **own.trust(), **own.server())) as (server, _):
            settings = settings_with(**caller, **own.trust())
            error = await not_ready(server.address, settings=settings, timeout_s=1.0)
            assert str(error).endswith("it may want TLS or another client certificate: see ORLY_GRPC_TLS")

    run_async(main())


def test_a_service_that_is_too_busy_is_asked_again() -> None:
    """The rate limit refuses some watches; they are repeated after a pause, not at once."""

    async def main() -> None:
        settings = settings_with(grpc_max_calls_per_second=1)
        async with serving_probe(settings) as (server, _), channel_from_settings(settings, server.address) as channel:
            for _ in range(4):
                await wait_ready(channel, service=PROBE, timeout_s=DEADLINE_S)

    run_async(main())


def test_a_service_without_health_is_not_waited_for() -> None:
    async def main() -> None:
        import grpc

        server = grpc.aio.server()
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            error = await not_ready(f"127.0.0.1:{port}", timeout_s=DEADLINE_S * 2)
            assert isinstance(error, AccessRefusedError)
            assert " is something else: UNIMPLEMENTED: " in str(error)
        finally:
            await server.stop(0)

    run_async(main())


def test_a_server_begins_as_not_serving() -> None:
    async def main() -> None:
        server = RpcServer("127.0.0.1:0", credentials=None)
        await server.start()
        try:
            assert (await not_ready(server.address, service="")).last == "NOT_SERVING"
        finally:
            await server.stop(0)

    run_async(main())
