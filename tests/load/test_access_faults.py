"""`orly-acl` is killed and comes back while clients write through several relays: no decision is ever wrong."""

import asyncio
import json
import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
from tests.component.relay_client import NostrClient
from tests.factory import KEYS, NOW_S, make_event
from tests.process import AclProcess, DbProcess, RelayProcess, free_port, running_acl, running_db, running_worker
from tests.transport import run_async
from tests.wsclient import connect, until

from orly.pb.orlyacl.v1 import lists_pb2, service_pb2_grpc, types_pb2

KILLS: Final = 10
WORKERS: Final = 2
WINDOW: Final = 32
OWNER, ALLOWED, BANNED, STRANGER = 0, 1, 2, 3
DEADLINE_S: Final = 30.0
MODE: Final = {"ORLY_ACL_MODE": "managed", "ORLY_OWNERS": KEYS[OWNER]}
ANSWERS: Final = {
    OWNER: (True, ""),
    ALLOWED: (True, ""),
    BANNED: (False, "blocked: its author is banned on this relay"),
    STRANGER: (False, "restricted: its author is not on the list of those who may write to this relay"),
}


@dataclass(slots=True)
class Decisions:
    """What the relays have decided.

    Attributes:
        wrong: Whatever was not as it must be.
        count: How many there were.
    """

    wrong: list[tuple[int, Any]] = field(default_factory=list)
    count: int = 0
    is_over: bool = False


@contextmanager
def everything() -> Iterator[tuple[DbProcess, AclProcess, list[RelayProcess]]]:
    """A store, access control, and relays that follow it."""
    with ExitStack() as stack:
        db = stack.enter_context(running_db(address=f"127.0.0.1:{free_port()}"))
        acl = stack.enter_context(running_acl(db, address=f"127.0.0.1:{free_port()}", **MODE))
        given = {"ORLY_ACL_TYPE": "grpc", "ORLY_GRPC_ACL_SERVER": acl.address, "ORLY_MAX_EVENTS_PER_SECOND": "0"}
        relays = [stack.enter_context(running_worker(db, reads_directly=True, **given)) for _ in range(WORKERS)]
        yield db, acl, relays


async def change(acl: AclProcess, method: str, **fields: str) -> None:
    """One change of the lists, as a tool makes it."""
    async with grpc.aio.insecure_channel(acl.address) as channel:
        stub: Any = service_pb2_grpc.ACLServiceStub(channel)  # type: ignore[no-untyped-call]
        message = lists_pb2.PubkeyReasonRequest if method in ("AllowPubkey", "BanPubkey") else lists_pb2.PubkeyRequest
        await getattr(stub, method)(message(**fields), timeout=DEADLINE_S, wait_for_ready=True)


async def write(url: str, decisions: Decisions) -> None:
    """Publish notes of all four, a few at a time, until told to stop; every answer is compared."""
    async with connect(url) as client:
        number = 0
        while not decisions.is_over:
            batch = {}
            for _ in range(WINDOW):
                number += 1
                key = number % len(ANSWERS)
                event = make_event(key, 1, NOW_S, (), f"{url} {number}")
                batch[event.event.id] = key
                await client.connection.send(b'["EVENT",%s]' % event.raw, text=True)
            for _ in range(len(batch)):
                ok = json.loads(await client.connection.recv())
                decisions.count += 1
                if (ok[2], ok[3]) != ANSWERS[batch[ok[1]]]:
                    decisions.wrong.append((batch[ok[1]], ok))


async def more_decided(decisions: Decisions, count: int) -> None:
    target = decisions.count + count
    await until(lambda: decisions.count >= target, f"{count} more decisions")


def test_no_decision_is_wrong_while_access_control_is_killed_again_and_again() -> None:
    decisions = Decisions()
    chance = random.Random(5)

    async def main(acl: AclProcess, relays: list[RelayProcess]) -> None:
        await change(acl, "AllowPubkey", pubkey=KEYS[ALLOWED])
        await change(acl, "BanPubkey", pubkey=KEYS[BANNED], reason="test")
        for relay in relays:
            async with connect(relay.url) as socket:
                await accepted_at_last(NostrClient(socket), ALLOWED)
        writers = [asyncio.create_task(write(relay.url, decisions)) for relay in relays]
        try:
            for _ in range(KILLS):
                await more_decided(decisions, chance.randrange(50, 400))
                await asyncio.to_thread(acl.kill)
                await more_decided(decisions, chance.randrange(50, 400))
                acl.start_again()
            await change(acl, "BanPubkey", pubkey=KEYS[4], reason="test")  # it is there again
        finally:
            decisions.is_over = True
            await asyncio.gather(*writers)
        for relay in relays:
            async with connect(relay.url) as socket:
                client = NostrClient(socket)
                await refused_at_last(client, 4)
        assert not decisions.wrong, decisions.wrong[:5]

    with everything() as (_, acl, relays):
        run_async(main(acl, relays))
    assert decisions.count > KILLS * 100


async def accepted_at_last(client: NostrClient, key: int) -> None:
    """A list has come here: what it allows is taken."""
    async with asyncio.timeout(DEADLINE_S):
        number = 0
        while True:
            number += 1
            (ok,) = await client.publish(make_event(key, content=f"until it is taken {number}"))
            if ok[2]:
                return


async def refused_at_last(client: NostrClient, key: int) -> None:
    async with asyncio.timeout(DEADLINE_S):
        number = 0
        while True:
            number += 1
            (ok,) = await client.publish(make_event(key, content=f"until it is banned {number}"))
            if ok[3] == ANSWERS[BANNED][1]:
                return


def test_a_relay_that_never_had_the_lists_takes_and_tells_nothing() -> None:
    """The service is there when the relay starts, and is gone before it says what is on the lists."""

    class Mute(service_pb2_grpc.ACLServiceServicer):
        async def WatchSnapshot(self, request: types_pb2.Empty, context: Any) -> None:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "error: not yet")

    async def main(db: DbProcess) -> None:
        from orly.rpc.server import RpcServer

        server = RpcServer("127.0.0.1:0", credentials=None)
        server.add(service_pb2_grpc.add_ACLServiceServicer_to_server, Mute(), "orlyacl.v1.ACLService")
        await server.start()
        server.set_serving(True)
        given = {"ORLY_ACL_TYPE": "grpc", "ORLY_GRPC_ACL_SERVER": server.address}

        def start() -> RelayProcess:
            return stack.enter_context(running_worker(db, reads_directly=True, **given))

        with ExitStack() as stack:
            try:
                relay = await asyncio.to_thread(start)
                async with connect(relay.url) as socket:
                    client = NostrClient(socket)
                    reason = "error: access control is not ready yet, try again later"
                    assert await client.refusal(make_event(OWNER)) == reason
                    await client.send("REQ", "s", {})
                    assert await client.closed_reason("s") == reason
                    await client.send("COUNT", "c", {})
                    assert await client.closed_reason("c") == reason
                await asyncio.to_thread(relay.stop)
            finally:
                await server.stop(0)

    with running_db() as db:
        run_async(main(db))
