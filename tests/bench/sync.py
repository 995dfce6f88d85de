"""How long a sync with a peer takes: an empty side that pulls everything, one that pushes everything, sets that
overlap, and sets that are equal.

    python -m tests.bench.sync                                  # with this project's own relay
    python -m tests.bench.sync --exec 'RELAY {port} {dir}'      # with any relay that a command starts
    python -m tests.bench.sync --round-trip-ms 100              # with a relay that is that far away

The syncing side is this process, on an LMDB store of its own, as in `orly sync`. Each round starts new relays and new
stores. What the peer has at first is pushed to it, which is one of the measurements.
"""

import argparse
import logging
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from pathlib import Path
from typing import Final

import msgspec
import uvloop
from msgspec import structs
from tests.bench.delay import far_away
from tests.bench.measure import ProcessTree
from tests.bench.peers import BUILT_IN, Launch, Relay, executable
from tests.bench.workload import load

from orly import clock
from orly.intake.policy import WritePolicy
from orly.intake.verify import Verifier
from orly.nostr.event import decode_event
from orly.nostr.filter import Filter
from orly.process.cores import has_second_core
from orly.store.lmdb.store import LmdbStore
from orly.sync.ingest import Door
from orly.sync.negentropy.peer_memory import PeerMemory
from orly.sync.negentropy.request import Direction, SyncRequest, SyncResult
from orly.sync.negentropy.run import sync_with_peer
from orly.sync.negentropy.sets import SetKeeper

_STORE_BYTES: Final = 4 * 1024**3
_MAX_ITEMS: Final = 10_000_000
_LIBRARY: Final = 6000
_POLICY: Final = WritePolicy(
    max_event_bytes=512 * 1024, max_event_tags=2000, max_created_at_past_s=0.0, max_created_at_future_s=3600.0
)


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One sync."""

    name: str
    wall_s: float
    own_cpu_s: float
    peer_cpu_s: float
    result: SyncResult

    def __str__(self) -> str:
        progress = self.result.progress
        complete = "" if self.result.is_complete else "  INCOMPLETE: " + "; ".join(self.result.problems)
        return (
            f"{self.name:<26} {self.wall_s:>8.3f} {self.own_cpu_s:>8.3f} {self.peer_cpu_s:>8.3f} "
            f"{progress.fetched:>8} {progress.sent:>8} {progress.round:>6} "
            f"{progress.bytes_sent / 1e6:>9.3f} {progress.bytes_received / 1e6:>9.3f}{complete}"
        )


HEAD: Final = (
    f"{'':<26} {'wall s':>8} {'own CPU':>8} {'peer CPU':>8} {'fetched':>8} {'sent':>8} {'rounds':>6} "
    f"{'MB up':>9} {'MB down':>9}"
)


class Side:
    """A store that syncs."""

    def __init__(self, store: LmdbStore) -> None:
        self.store = store
        self.sets = SetKeeper(store, max_items=_MAX_ITEMS, max_sets_bytes=_MAX_ITEMS * 40)
        self.verifier = Verifier(share=has_second_core())

    async def fill(self, events: Sequence[bytes]) -> None:
        """Store events without looking at their signatures."""
        for start in range(0, len(events), 512):
            await self.store.save([decode_event(raw) for raw in events[start : start + 512]])

    async def sync(self, name: str, port: int, tree: ProcessTree, direction: Direction) -> Row:
        """Sync once, and measure."""
        request = SyncRequest(url=f"ws://127.0.0.1:{port}", filter=Filter(), direction=direction)
        door = Door(self.store, _POLICY, self.verifier, clock.now_s)
        peer_ns, own_ns, started = tree.cpu_ns(), time.process_time_ns(), time.perf_counter()
        result = await sync_with_peer(
            request, store=self.store, sets=self.sets, door=door, memory=PeerMemory(), now_s=clock.now_s
        )
        return Row(
            name=name,
            wall_s=time.perf_counter() - started,
            own_cpu_s=(time.process_time_ns() - own_ns) / 1e9,
            peer_cpu_s=(tree.cpu_ns() - peer_ns) / 1e9,
            result=result,
        )


@asynccontextmanager
async def opened(directory: Path, events: Sequence[bytes] = ()) -> AsyncIterator[Side]:
    """A side with these events."""
    store = await LmdbStore.open(directory, max_bytes=_STORE_BYTES, now_s=clock.now_s, monotonic_s=clock.monotonic_s)
    side = Side(store)
    try:
        await side.fill(events)
        yield side
    finally:
        side.verifier.close()
        await side.sets.close()
        await store.close()


async def measure_transfers(
    plan: Callable[[int, Path], Launch], events: Sequence[bytes], home: Path, round_trip_ms: float
) -> None:
    """Push everything, compare equal sets, pull everything."""
    with Relay("peer", plan, home / "peer-a") as relay, at_distance(relay, round_trip_ms) as port:
        tree = await relay.ready()
        async with opened(home / "full", events) as full:
            say(await full.sync(f"push {len(events)}", port, tree, Direction.UP))
            say(await full.sync("equal sets, first", port, tree, Direction.BOTH))
            say(await full.sync("equal sets, again", port, tree, Direction.BOTH))
        async with opened(home / "empty") as empty:
            say(await empty.sync(f"pull {len(events)}", port, tree, Direction.DOWN))


async def measure_overlap(
    plan: Callable[[int, Path], Launch], events: Sequence[bytes], n_own: int, home: Path, round_trip_ms: float
) -> None:
    """Both ways, with so many events that only one side has, on each side."""
    with Relay("peer", plan, home / "peer-b") as relay, at_distance(relay, round_trip_ms) as port:
        tree = await relay.ready()
        async with opened(home / "theirs", events[n_own:]) as theirs:
            await theirs.sync("", port, tree, Direction.UP)
        async with opened(home / "ours", events[: len(events) - n_own]) as ours:
            name = f"{len(events) - 2 * n_own} + {n_own}/{n_own} both ways"
            say(await ours.sync(name, port, tree, Direction.BOTH))


def at_distance(relay: Relay, round_trip_ms: float) -> AbstractContextManager[int]:
    """The port at which a relay is that far away."""
    return far_away(relay.port, round_trip_ms) if round_trip_ms else nullcontext(relay.port)


def with_negentropy(plan: Callable[[int, Path], Launch]) -> Callable[[int, Path], Launch]:
    """The same relay with its NIP-77 switched on."""

    def changed(port: int, directory: Path) -> Launch:
        launch = plan(port, directory)
        return structs.replace(launch, environment=launch.environment | {"ORLY_NEGENTROPY_ENABLED": "true"})

    return changed


def say(row: object) -> None:
    """Print one line at once."""
    print(row, flush=True)


async def main() -> None:
    """Run the measurements."""
    options = argparse.ArgumentParser(prog="python -m tests.bench.sync", description=__doc__)
    options.add_argument("--exec", default="", help="command that starts the peer, with {port} and {dir}")
    options.add_argument("--relay", default="orly", choices=sorted(BUILT_IN), help="a built-in peer instead")
    options.add_argument("--events", type=int, default=60_000, help="how many events in all")
    options.add_argument("--own", type=int, default=5_000, help="events that only one side has, for the overlap")
    options.add_argument("--rounds", type=int, default=1, help="how often")
    options.add_argument("--round-trip-ms", type=float, default=0, help="how far away the peer is")
    arguments = options.parse_args()
    logging.basicConfig(level=logging.INFO)
    plan = executable(arguments.exec) if arguments.exec else with_negentropy(BUILT_IN[arguments.relay])
    events = load(seed=1, count=arguments.events, library=_LIBRARY).events
    say(HEAD)
    for _ in range(arguments.rounds):
        with tempfile.TemporaryDirectory(prefix="orly-bench-sync-") as home:
            await measure_transfers(plan, events, Path(home) / "transfers", arguments.round_trip_ms)
            await measure_overlap(plan, events, arguments.own, Path(home) / "overlap", arguments.round_trip_ms)


if __name__ == "__main__":
    uvloop.run(main())
