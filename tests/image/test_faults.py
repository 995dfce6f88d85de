"""Services that are killed, stopped or broken inside a container: what clients, Docker and the operator see."""

import asyncio
import signal
from contextlib import AsyncExitStack
from typing import Final

import pytest
from docker import DockerClient
from tests.factory import make_event
from tests.image.clients import notes, publish, send_all, stored_ids
from tests.image.container import HARDENED, Appliance, Process, appliance, run_to_end, wait_until
from tests.image.test_serving import TWO_WORKERS, grace_s
from tests.wsclient import connect

from orly.process.exit_codes import ExitCode

CLIENTS: Final = 16


def test_a_service_that_stands_still_makes_the_container_unhealthy(engine: DockerClient, image: str) -> None:
    with appliance(engine, image, environment=TWO_WORKERS) as relay:
        (store,) = relay.processes("orly-db")
        relay.send(signal.SIGSTOP, store)
        wait_until(lambda: relay.health() == "unhealthy", "Docker to call it unhealthy")
        assert "orly-db" in relay.health_report()
        relay.send(signal.SIGCONT, store)
        relay.wait_healthy()
        publish(relay.url, notes(1))


def test_a_store_that_is_killed_comes_back_and_no_client_notices(engine: DockerClient, image: str) -> None:
    async def main(relay: Appliance) -> None:
        first, second = make_event(content="before"), make_event(content="after")
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(connect(relay.url)) for _ in range(CLIENTS)]
            for client in clients:
                await client.send("REQ", "live", {"kinds": [1]})
                await client.receive_until("EOSE")
            writer = await stack.enter_async_context(connect(relay.url))
            await send_all(writer, [first])
            (store,) = relay.processes("orly-db")
            relay.send(signal.SIGKILL, store)
            await send_all(writer, [second])
            for client in clients:
                messages = [await client.receive(), await client.receive()]
                assert [message[2]["id"] for message in messages] == [first.event.id, second.event.id]
        (again,) = relay.processes("orly-db")
        assert again.pid != store.pid

    with appliance(engine, image, environment=TWO_WORKERS) as relay:
        workers = [process.pid for process in relay.processes("orly")]
        asyncio.run(main(relay))
        relay.wait_healthy()
        assert [process.pid for process in relay.processes("orly")] == workers
        assert len(stored_ids(relay.url)) == 2


def test_a_worker_that_is_killed_takes_only_its_own_clients(engine: DockerClient, image: str) -> None:
    async def main(relay: Appliance) -> None:
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(connect(relay.url)) for _ in range(CLIENTS)]
            victim = relay.processes("orly")[0]
            relay.send(signal.SIGKILL, victim)
            ended = [asyncio.ensure_future(client.connection.wait_closed()) for client in clients]
            await asyncio.wait(ended, return_when=asyncio.FIRST_COMPLETED, timeout=20)
            await asyncio.to_thread(replaced, relay, victim)
            alive = [client for client, end in zip(clients, ended, strict=True) if not end.done()]
            assert 0 < len(alive) < CLIENTS, "the port is shared between the workers"
            for client in alive:
                await client.send("REQ", "still here", {"limit": 0})
                assert await client.receive_until("EOSE")
            for end in ended:
                end.cancel()

    def replaced(relay: Appliance, victim: Process) -> list[Process]:
        return wait_until(
            lambda: [p for p in now if p.pid != victim.pid] if len(now := relay.processes("orly")) == 2 else [],
            "the worker to be replaced",
        )

    with appliance(engine, image, environment=TWO_WORKERS) as relay:
        (store,) = relay.processes("orly-db")
        asyncio.run(main(relay))
        assert relay.processes("orly-db")[0].pid == store.pid
        publish(relay.url, notes(3))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_closes_clients_goes_in_reverse_order_and_exits_0(
    engine: DockerClient, image: str, number: signal.Signals
) -> None:
    async def main(relay: Appliance) -> None:
        async with connect(relay.url) as client:
            relay.container.kill(signal=number)
            code, _ = await client.closed()
            assert code == 1001
        assert await asyncio.to_thread(relay.wait_exit, within_s=grace_s()) == 0

    with appliance(engine, image, environment=TWO_WORKERS, **HARDENED) as relay:
        publish(relay.url, notes(5))
        asyncio.run(main(relay))
        stopped = [line.split()[1] for line in relay.logs().splitlines() if line.endswith("| stopped")]
        assert stopped.index("orly-db") > max(stopped.index("orly-0"), stopped.index("orly-1")), stopped
        assert "Traceback" not in relay.logs()


@pytest.mark.parametrize("variable", ["ORLY_LAUNCHER_DB_BINARY", "ORLY_LAUNCHER_RELAY_BINARY"])
def test_a_program_that_cannot_live_ends_the_container(engine: DockerClient, image: str, variable: str) -> None:
    ran = run_to_end(engine, image, environment={variable: "/bin/false", "ORLY_LAUNCHER_CRASH_LIMIT": "2"})
    assert ran.code == ExitCode.INTERNAL, ran.output
    assert {"ORLY_LAUNCHER_DB_BINARY": "orly-db", "ORLY_LAUNCHER_RELAY_BINARY": "orly"}[variable] in ran.output
