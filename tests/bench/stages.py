"""`python -m tests.bench.stages`: CPU time of each stage of the relay, beside its budget.

The stages call the project's own functions in this process. There are no sockets; the store is on disk and synced.
"""

import argparse
import asyncio
import contextlib
import itertools
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, cast

import msgspec
import uvloop
from tests.bench import workload
from tests.bench.errors import BenchError
from tests.bench.measure import machine_facts
from tests.bench.table import markdown
from tests.bench.wire import handshake_request
from tests.bench.workload import HEAVY_AUTHORS, HEAVY_EVENTS, Workload

from orly.nostr.event import EncodedEvent, compute_id, decode_event
from orly.nostr.filter import Filter, FilterLimits
from orly.nostr.message import EventMessage, RequestLimits, event_prefix, ok_text, parse_message
from orly.nostr.signing import verify_event
from orly.relay.connection import Connection, connection_class
from orly.relay.frames import text_frame
from orly.relay.gate import Gate, GateRules
from orly.relay.hub import ConnectionLimits, Hub
from orly.relay.subscriptions import SubscriptionIndex
from orly.store.base import Query, SaveResult, SaveStatus
from orly.store.lmdb.store import LmdbStore

_LIBRARY: Final = HEAVY_AUTHORS * HEAVY_EVENTS
_EVENTS: Final = 2 * _LIBRARY
_STORED: Final = 200_000
_FILL_SPAN_S: Final = 365 * 86_400
_BATCHES: Final = ((1, 500, "123"), (100, 5000, "36"), (1000, 6000, "16-24"))
"""Events per commit, events measured, and the budget: LMDB alone, durable, plus the store's own share."""
_SUBSCRIPTIONS: Final = 10_000
_REPEATS: Final = 5
_READ_BYTES: Final = 64 * 1024
_LIMITS: Final = RequestLimits(max_filters=100, filter_limits=FilterLimits(max_values=5000))


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """One row: microseconds per unit (best of the repeats), and what the plan allows."""

    name: str
    unit: str
    cpu_us: float
    budget: str


class _Transport:
    """A socket that takes everything at once."""

    def write(self, data: bytes) -> None:
        """Take bytes."""

    def is_closing(self) -> bool:
        """Never."""
        return False

    def get_write_buffer_size(self) -> int:
        """Nothing ever waits."""
        return 0

    def get_extra_info(self, name: str) -> object:
        """The address of a loopback client."""
        return ("127.0.0.1", 50_000) if name == "peername" else None

    def set_write_buffer_limits(self, high: int, low: int) -> None:
        """There is no buffer."""

    def abort(self) -> None:
        """There is nothing to cut."""


class _Session:
    """Counts messages."""

    is_idle = False

    def __init__(self) -> None:
        self.count = 0

    def receive(self, messages: list[bytes]) -> None:
        """Count them."""
        self.count += len(messages)

    def writable(self) -> None:
        """Nothing waits."""

    def closed(self) -> None:
        """Nothing to free."""


class _Subscription:
    """What the subscription index needs."""

    def __init__(self, wanted: Filter) -> None:
        self.filters = (wanted,)
        self.stamp = 0


async def _cost_us(work: Callable[[], Awaitable[None]], units: int, repeats: int = _REPEATS) -> float:
    """CPU time of all threads per unit: the best of several passes, the first of which only warms up."""
    await work()
    best = float("inf")
    for _ in range(repeats):
        begin = time.process_time_ns()
        await work()
        best = min(best, (time.process_time_ns() - begin) / units / 1e3)
    return best


def _plain(work: Callable[[], object]) -> Callable[[], Awaitable[None]]:
    async def run() -> None:
        work()

    return run


def _open_connection(session: _Session) -> Connection:
    hub = Hub(
        limits=ConnectionLimits(
            max_message_bytes=2**20,
            max_send_backlog_bytes=2**23,
            max_total_send_backlog_bytes=2**28,
            send_timeout_s=60,
            ping_interval_s=30,
            pong_timeout_s=60,
            idle_timeout_s=1800,
        ),
        gate=Gate(GateRules(max_connections=10, max_connections_per_ip=0)),
        make_session=lambda _: session,
        clock=time.monotonic,
    )
    state: Any = SimpleNamespace(connections=set())
    connection = connection_class(hub)(cast(Any, None), state, {})
    connection.connection_made(cast(asyncio.Transport, _Transport()))
    connection.data_received(handshake_request("127.0.0.1", 3334, "/"))
    return connection


async def _frames_in(work: Workload) -> list[Stage]:
    session = _Session()
    connection = _open_connection(session)
    frames = work.frames[:2000]
    stream = b"".join(frames)
    reads = [stream[start : start + _READ_BYTES] for start in range(0, len(stream), _READ_BYTES)]
    stages = []
    for name, chunks, budget in (
        ("frame in, reads of 64 KiB", reads, "2.8"),
        ("frame in, one per read", frames, "3.6"),
    ):
        session.count = 0

        async def feed(chunks: Sequence[bytes] = chunks) -> None:
            for chunk in chunks:
                connection.data_received(chunk)
            await asyncio.sleep(0)

        cpu_us = await _cost_us(feed, len(frames))
        if session.count != len(frames) * (_REPEATS + 1):
            raise BenchError(f"{session.count} messages came out of {len(frames) * (_REPEATS + 1)} frames")
        stages.append(Stage(name=name, unit="event", cpu_us=cpu_us, budget=budget))
    return stages


async def _frames_out(work: Workload) -> list[Stage]:
    connection = _open_connection(_Session())
    rows = work.events[:HEAVY_EVENTS]
    prefix = event_prefix("subscription")
    ids = work.ids[:HEAVY_EVENTS]

    async def answer() -> None:
        connection.send_frames([text_frame(prefix + row + b"]") for row in rows])
        await asyncio.sleep(0)

    shared = [text_frame(prefix + row + b"]") for row in rows]

    async def deliver() -> None:
        for frame in shared:
            connection.send_frames((frame,))
        await asyncio.sleep(0)

    async def acknowledge() -> None:
        for event_id in ids:
            connection.send(ok_text(event_id))
        await asyncio.sleep(0)

    return [
        Stage(name="frame out, 500 of a REQ", unit="event", cpu_us=await _cost_us(answer, 500), budget="0.2-0.4"),
        Stage(name="frame out, shared", unit="delivery", cpu_us=await _cost_us(deliver, 500), budget="0.5"),
        Stage(name="OK out", unit="event", cpu_us=await _cost_us(acknowledge, 500), budget="0.8"),
    ]


async def _pure(work: Workload, events: Sequence[EncodedEvent]) -> list[Stage]:
    messages = [b'["EVENT",' + event + b"]" for event in work.events[:2000]]
    bodies = [parse_message(message, _LIMITS) for message in messages]
    raws = [body.raw for body in bodies if isinstance(body, EventMessage)]
    fields = [encoded.event for encoded in events[:2000]]
    if not all(verify_event(event) for event in events[:2000]):
        raise BenchError("a signature of the workload does not verify")
    return [
        Stage(name="split message", unit="event", budget="0.45",
              cpu_us=await _cost_us(_plain(lambda: [parse_message(m, _LIMITS) for m in messages]), 2000)),
        Stage(name="decode, check, id, encode", unit="event", budget="3.1",
              cpu_us=await _cost_us(_plain(lambda: [decode_event(raw) for raw in raws]), 2000)),
        Stage(name="id alone", unit="event", budget="0.9", cpu_us=await _cost_us(
            _plain(lambda: [compute_id(e.pubkey, e.created_at, e.kind, e.tags, e.content) for e in fields]), 2000)),
        Stage(name="verify, key cached", unit="event", budget="24",
              cpu_us=await _cost_us(_plain(lambda: [verify_event(event) for event in events[:2000]]), 2000)),
    ]  # fmt: skip


@contextlib.asynccontextmanager
async def _store(directory: Path) -> AsyncIterator[LmdbStore]:
    store = await LmdbStore.open(directory, max_bytes=2**33)
    try:
        yield store
    finally:
        await store.close()


async def _puts(work: Workload, events: Sequence[EncodedEvent], root: Path, seed: int) -> list[Stage]:
    """Save into a store of the size that the budget was measured with: a nearly empty one costs half as much."""
    end = decode_event(work.events[0]).event.created_at
    filler = workload.generate(seed=seed, count=_STORED, library=_LIBRARY, end=end, span_s=_FILL_SPAN_S, signed=False)
    stages = []
    async with _store(root / "put") as store:
        while batch := [decode_event(raw) for raw in itertools.islice(filler, 1000)]:
            _check_stored(await store.save(batch))
        first = 0
        for size, count, budget in _BATCHES:
            begin = time.process_time_ns()
            for start in range(first, first + count, size):
                _check_stored(await store.save(events[start : start + size]))
            cpu_us = (time.process_time_ns() - begin) / count / 1e3
            first += count
            name = f"save, {size} per commit, synced"
            stages.append(Stage(name=name, unit="event", cpu_us=cpu_us, budget=budget))
    return stages


def _check_stored(results: Sequence[SaveResult]) -> None:
    wrong = [result for result in results if result.status is not SaveStatus.STORED]
    if wrong:
        raise BenchError(f"the store did not store {len(wrong)} of {len(results)} events: {wrong[0]}")


async def _reads(work: Workload, events: Sequence[EncodedEvent], root: Path) -> list[Stage]:
    async with _store(root / "read") as store:
        await store.save(events)
        ids = [event.id for event in events[:2000]]

        async def ask(limit: int) -> None:
            for author in work.heavy:
                query = Query(filters=(Filter(authors=frozenset((author,)), limit=limit),))
                if len(await store.fetch(query)) != limit:
                    raise BenchError(f"a query did not return {limit} events")

        if not all(store.known(ids)):
            raise BenchError("the store does not know what it stored")
        authors = len(work.heavy)
        return [
            Stage(name="query author, limit 500", unit="REQ", budget="350",
                  cpu_us=await _cost_us(lambda: ask(500), authors)),
            Stage(name="query author, limit 1", unit="REQ", budget="10",
                  cpu_us=await _cost_us(lambda: ask(1), authors, 50)),
            Stage(name="known id", unit="event", budget="0.8", cpu_us=await _cost_us(
                _plain(lambda: store.known(ids)), len(ids))),
        ]  # fmt: skip


async def _match(work: Workload, events: Sequence[EncodedEvent]) -> list[Stage]:
    """Ten thousand subscriptions: follow lists, threads, mentions, and one in a thousand for a kind."""
    authors = sorted({event.event.pubkey for event in events})
    index: SubscriptionIndex[_Subscription] = SubscriptionIndex()
    for n in range(_SUBSCRIPTIONS):
        if n % 1000 == 0:
            wanted = Filter(kinds=frozenset((1,)))
        elif n % 3 == 0:
            wanted = Filter(authors=frozenset((authors[n % len(authors)],)), kinds=frozenset((7,)))
        elif n % 3 == 1:
            wanted = Filter(tags={"e": frozenset((work.ids[n],))})
        else:
            wanted = Filter(authors=frozenset((f"{n:064x}",)), kinds=frozenset((1, 6)))
        index.add(_Subscription(wanted))
    sample = [event.event for event in events[_LIBRARY : _LIBRARY + 2000]]
    matches = sum(len(index.match(event)) for event in sample) / len(sample)
    cpu_us = await _cost_us(_plain(lambda: [index.match(event) for event in sample]), len(sample))
    name = f"match {_SUBSCRIPTIONS} subscriptions ({matches:.1f} hits)"
    return [Stage(name=name, unit="event", cpu_us=cpu_us, budget="3-5")]


async def _measure(seed: int) -> list[Stage]:
    work = workload.load(seed, _EVENTS, _LIBRARY)
    events = [decode_event(raw) for raw in work.events]
    with tempfile.TemporaryDirectory(prefix="orly-stages-") as directory:
        root = Path(directory)
        return [
            *await _frames_in(work),
            *await _pure(work, events),
            *await _puts(work, events, root, seed),
            *await _match(work, events),
            *await _reads(work, events, root),
            *await _frames_out(work),
        ]


def main() -> int:
    """Measure every stage and print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.stages", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="another seed gives other events")
    options = parser.parse_args()
    facts = machine_facts(("orly", "websockets", "lmdb", "coincurve", "msgspec", "orjson", "uvloop"))
    print("\n".join(f"{name}: {value}" for name, value in facts.items()), flush=True)
    try:
        stages = uvloop.run(_measure(options.seed))
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    rows = [[stage.name, f"{stage.cpu_us:.2f}", stage.budget, stage.unit] for stage in stages]
    print("\n" + markdown(["stage", "CPU µs", "budget", "per"], rows, numbers={1, 2}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
