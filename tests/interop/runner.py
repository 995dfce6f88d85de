"""The sync cases against sides in other containers: `python -m tests.interop.runner`, as compose/interop.yml runs it.

It prints a line for each sync, tells of each case how it ended, and ends with 1 if one of them failed.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import grpc
from tests.interop.cases import CASES, killed_half_way, many
from tests.interop.deck import Deck
from tests.interop.orly_sides import DirectorySide
from tests.interop.remote_sides import RemoteOrlySide, RemoteStrfrySide
from tests.interop.sides import Direction, Side
from tests.interop.world import Bed, Make, World, three_ways

from orly.pb.orlysync.negentropy.v1 import service_pb2_grpc, types_pb2

__all__ = ["main"]

MANY: Final = 5000
SETTLED_S: Final = 60.0

PAIRS: Final = (
    ("directory", "strfry"),
    ("directory", "appliance"),
    ("strfry", "appliance"),
    ("strfry", "orly"),
    ("appliance", "strfry"),
    ("appliance", "orly"),
)


_make_stub: Final[Callable[[grpc.Channel], Any]] = service_pb2_grpc.NegentropyServiceStub


def makers(directory: Path) -> dict[str, Make]:
    """The sides that the environment names."""

    def data_directory(name: str, now_s: int) -> Side:
        return DirectorySide(name, directory / name, now_s)

    def strfry(_: str, now_s: int) -> Side:
        box = Path(os.environ["INTEROP_COMMANDS"])
        return RemoteStrfrySide("strfry", os.environ["INTEROP_STRFRY"], now_s, box=box)

    def appliance(_: str, now_s: int) -> Side:
        return RemoteOrlySide("appliance", os.environ["INTEROP_ORLY"], now_s, server=os.environ["INTEROP_ORLY_SYNC"])

    def orly(_: str, now_s: int) -> Side:
        return RemoteOrlySide("orly", os.environ["INTEROP_ORLY2"], now_s)

    return {"directory": data_directory, "strfry": strfry, "appliance": appliance, "orly": orly}


def background(world: World) -> None:
    """A peer that is added while the service runs is kept equal, both ways, until it is removed."""
    service, peer = world.side("appliance"), world.side("orly")
    assert isinstance(service, RemoteOrlySide)
    assert isinstance(peer, RemoteOrlySide)
    deck = Deck(f"background {time.time_ns()}", world.now_s)
    token = [("authorization", f"Bearer {os.environ['ORLY_GRPC_TOKEN']}")]
    with grpc.insecure_channel(service.server) as channel:
        stub = _make_stub(channel)
        stub.AddPeer(types_pb2.AddPeerRequest(peer_url=peer.url), metadata=token, timeout=SETTLED_S)
        try:
            service.publish(deck.notes(50))
            peer.publish(deck.notes(50))
            stub.TriggerSync(types_pb2.TriggerSyncRequest(peer_url=peer.url), metadata=token, timeout=SETTLED_S)
            everything = [*service.model.visible, *peer.model.visible]
            for side in (service, peer):
                side.take(everything)
                side.await_expected(within_s=SETTLED_S)
        finally:
            stub.RemovePeer(types_pb2.RemovePeerRequest(peer_url=peer.url), metadata=token, timeout=SETTLED_S)


def steps(world: World) -> Iterator[tuple[str, Callable[[], None]]]:
    """Every case by name, and what does it."""

    def between(name: str, client: str, server: str, case: Callable[[Bed], None]) -> None:
        case(Bed(world, f"{name} {world.now_s}", world.side(client), world.side(server)))

    for client, server in PAIRS:
        for case in CASES:
            yield f"{case.__name__}: {client} -> {server}", partial(between, case.__name__, client, server, case)
    for client, server in PAIRS[:3]:
        yield f"many: {client} -> {server}", partial(between, "many", client, server, partial(many, count=MANY))
    for direction in (Direction.DOWN, Direction.UP):
        case = partial(killed_half_way, direction=direction)
        yield (
            f"killed_half_way: directory -> strfry, {direction}",
            partial(between, "killed", "directory", "strfry", case),
        )
    yield "three_ways: strfry, appliance, orly", partial(three_ways, world, "strfry", ("appliance", "orly"))
    yield "background: appliance with orly", partial(background, world)


def say(line: str) -> None:
    """Prints a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def run(world: World, wanted: str) -> list[str]:
    """Does every case whose name holds one of the texts; the names of those that failed."""
    failed = []
    for name, do in steps(world):
        if not any(part in name for part in wanted.split(",")):
            continue
        told = len(world.rows)
        try:
            with world.case():
                do()
        except (AssertionError, OSError, grpc.RpcError) as error:
            failed.append(name)
            say(f"FAILED {name}\n{error}")
        else:
            say(f"ok     {name}")
        for row in world.rows[told:]:
            say(row.line())
    return failed


def main() -> int:
    """Runs the cases; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="TEXT,...", help="only the cases whose names hold one of these")
    arguments = parser.parse_args()
    started_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="interop-") as directory:
        world = World(makers(Path(directory)))
        failed = run(world, arguments.only)
        world.close()
    say(f"{len(world.rows)} syncs in {time.monotonic() - started_s:.0f} s; {len(failed)} cases failed")
    for name in failed:
        say(f"  {name}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
