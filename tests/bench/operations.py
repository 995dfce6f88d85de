"""The operations that every relay can be asked for, each as one timed slice."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import msgspec
from tests.bench.client import Channel, Endpoint, fetch, open_channels
from tests.bench.errors import BenchError
from tests.bench.handlers import SUB_WIDTH, Publisher, Requester, Subscribers
from tests.bench.measure import ProcessTree
from tests.bench.workload import KINDS, Supply, Workload, close, request

__all__ = ["OPERATIONS", "Effort", "Operation", "Sample", "Target", "preload", "settle"]

_GRACE_S: Final = 30.0
_QUIET_S: Final = 0.15
_QUIET_SHARE: Final = 0.05
_SUBSCRIBERS: Final = 300
_LIVE_MANY: Final = 16
_PRELOAD_S: Final = 600.0
_EVERYTHING: Final[dict[str, object]] = {"kinds": list(KINDS), "limit": 1}


class Effort(msgspec.Struct, frozen=True, kw_only=True):
    """How long a slice lasts: whichever of events or seconds comes first; reads last `read_s`."""

    events: int
    single_events: int
    fanout_events: int
    live_events: int
    write_s: float
    read_s: float


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """A relay under test; what an optional one fails at is told, but does not fail the run."""

    name: str
    optional: bool = False
    endpoint: Endpoint
    tree: ProcessTree | None
    supply: Supply


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One slice: how many operations, what they cost the relay, how long they took."""

    operations: int
    wall_s: float
    cpu_ns: int | None
    latencies_s: list[float]


Work = Callable[[Target, Effort], Awaitable[Sample]]


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the table."""

    name: str
    unit: str
    what: str
    run: Work


async def settle(target: Target, deadline_s: float = _GRACE_S) -> int | None:
    """Wait until the relay has finished what it still does on its own, and return its CPU time in ns.

    A relay that answers first and works later is charged for that work. None when the process is not known.
    """
    if target.tree is None:
        return None
    end = time.perf_counter() + deadline_s
    before = target.tree.cpu_ns()
    while time.perf_counter() < end:
        await asyncio.sleep(_QUIET_S)
        now = target.tree.cpu_ns()
        if now - before < _QUIET_S * 1e9 * _QUIET_SHARE:
            return now
        before = now
    raise BenchError(f"{target.name} is still busy {deadline_s:g} s after the last request")


async def _timed(target: Target, work: Callable[[], Awaitable[tuple[int, list[float]]]]) -> Sample:
    cpu_before = await settle(target)
    begin = time.perf_counter()
    operations, latencies = await work()
    wall_s = time.perf_counter() - begin
    cpu_after = await settle(target)
    if operations == 0:
        raise BenchError("the slice was too short: nothing finished")
    cpu_ns = None if cpu_before is None or cpu_after is None else cpu_after - cpu_before
    return Sample(operations=operations, wall_s=wall_s, cpu_ns=cpu_ns, latencies_s=latencies)


async def _wait(done: asyncio.Future[None], slice_s: float, what: str) -> None:
    limit_s = slice_s + _GRACE_S
    try:
        async with asyncio.timeout(limit_s):
            await done
    except TimeoutError as error:
        raise BenchError(f"{what}: answers are missing after {limit_s:g} s") from error


async def _publish(target: Target, *, connections: int, window: int, count: int, slice_s: float) -> Sample:
    channels = await open_channels(target.endpoint, connections)

    async def work() -> tuple[int, list[float]]:
        indexes = target.supply.take(count)
        publisher = Publisher(target.supply.workload, indexes, window=window, deadline=time.perf_counter() + slice_s)
        publisher.start(channels)
        await _wait(publisher.done, slice_s, "EVENT")
        target.supply.give_back(publisher.next)
        if len(publisher.latencies_s) != publisher.next - indexes.start:
            raise BenchError(f"{publisher.next - indexes.start} events gave {len(publisher.latencies_s)} OKs")
        return len(publisher.latencies_s), publisher.latencies_s

    try:
        return await _timed(target, work)
    finally:
        _close_all(channels)


async def preload(target: Target) -> Sample:
    """Store the library of the workload: warm-up, and what the reads ask for."""
    library = target.supply.workload.library
    sample = await _publish(target, connections=4, window=100, count=library, slice_s=_PRELOAD_S)
    if sample.operations < library:
        raise BenchError(f"took only {sample.operations} of the first {library} events in {_PRELOAD_S:g} s")
    return sample


async def _event(target: Target, effort: Effort) -> Sample:
    return await _publish(target, connections=4, window=100, count=effort.events, slice_s=effort.write_s)


async def _event_alone(target: Target, effort: Effort) -> Sample:
    return await _publish(target, connections=1, window=1, count=effort.single_events, slice_s=effort.write_s)


async def _request(
    target: Target, effort: Effort, *, authors: Sequence[str], limit: int, connections: int, per_channel: int
) -> Sample:
    filters: list[dict[str, object]] = [
        {"authors": [author], "kinds": [1], "limit": limit} if limit < 500 else {"authors": [author], "limit": limit}
        for author in authors
    ]
    subs = [f"{n:0{SUB_WIDTH}d}" for n in range(max(2 * connections * per_channel, len(filters)))]
    requests = [(sub, request(sub, filters[n % len(filters)]), close(sub)) for n, sub in enumerate(subs)]
    await _verify(target, filters[0], limit)
    channels = await open_channels(target.endpoint, connections)

    async def work() -> tuple[int, list[float]]:
        requester = Requester(
            requests, expected=limit, per_channel=per_channel, deadline=time.perf_counter() + effort.read_s
        )
        requester.start(channels)
        await _wait(requester.done, effort.read_s, "REQ")
        return len(requester.latencies_s), requester.latencies_s

    try:
        return await _timed(target, work)
    finally:
        _close_all(channels)


async def _request_500(target: Target, effort: Effort) -> Sample:
    heavy = target.supply.workload.heavy
    return await _request(target, effort, authors=heavy, limit=500, connections=4, per_channel=1)


async def _request_20(target: Target, effort: Effort) -> Sample:
    frequent = target.supply.workload.frequent
    return await _request(target, effort, authors=frequent, limit=20, connections=5, per_channel=5)


async def _request_1(target: Target, effort: Effort) -> Sample:
    frequent = target.supply.workload.frequent
    return await _request(target, effort, authors=frequent, limit=1, connections=5, per_channel=5)


async def _fan_out(target: Target, effort: Effort) -> Sample:
    count = effort.fanout_events // 4
    return await _deliver(target, effort, subscribers=_SUBSCRIBERS, window=1, count=count)


async def _fan_out_busy(target: Target, effort: Effort) -> Sample:
    return await _deliver(target, effort, subscribers=_SUBSCRIBERS, window=20, count=effort.fanout_events)


async def _live(target: Target, effort: Effort) -> Sample:
    return await _deliver(target, effort, subscribers=1, window=1, count=effort.live_events)


async def _live_many(target: Target, effort: Effort) -> Sample:
    return await _deliver(target, effort, subscribers=_LIVE_MANY, window=1, count=effort.live_events)


async def _deliver(target: Target, effort: Effort, *, subscribers: int, window: int, count: int) -> Sample:
    channels = await open_channels(target.endpoint, subscribers + 1)
    workload: Workload = target.supply.workload
    handler = Subscribers(workload, target.supply.take(count), window=window)
    try:
        async with asyncio.timeout(_GRACE_S):
            await handler.subscribe(channels[:-1], request("everything", _EVERYTHING))

        async def work() -> tuple[int, list[float]]:
            handler.publish(channels[-1], deadline=time.perf_counter() + effort.write_s)
            await _wait(handler.done, effort.write_s, "live delivery")
            target.supply.give_back(handler.next)
            handler.check()
            return handler.deliveries, handler.latencies_s

        return await _timed(target, work)
    except TimeoutError as error:
        raise BenchError(f"{subscribers} subscriptions got no EOSE within {_GRACE_S:g} s") from error
    finally:
        _close_all(channels)


async def _verify(target: Target, filters: dict[str, object], limit: int) -> None:
    """Ask once before the clock runs and look at every event that comes back."""
    messages = await fetch(target.endpoint, request("verify", filters))
    events = [msgspec.json.decode(message, type=tuple[str, str, _Event])[2] for message in messages]
    authors = filters["authors"]
    assert isinstance(authors, list)
    strangers = [event.id for event in events if event.pubkey not in authors]
    if strangers or len({event.id for event in events}) != limit:
        raise BenchError(
            f"REQ {filters} returned {len(events)} events, {len(strangers)} of which do not match, instead of {limit}"
        )


class _Event(msgspec.Struct, frozen=True):
    id: str
    pubkey: str


def _close_all(channels: Sequence[Channel]) -> None:
    for channel in channels:
        channel.close()


OPERATIONS: Final = (
    Operation(name="event", unit="event", what="EVENT, 4 connections x 100 in flight", run=_event),
    Operation(name="event1", unit="event", what="EVENT, one at a time", run=_event_alone),
    Operation(name="req500", unit="REQ", what="REQ author, limit 500, 4 connections", run=_request_500),
    Operation(name="req20x25", unit="REQ", what="REQ limit 20 + CLOSE, 25 in flight", run=_request_20),
    Operation(name="req1x25", unit="REQ", what="REQ limit 1 + CLOSE, 25 in flight", run=_request_1),
    Operation(name="fanout", unit="delivery", what="live, 300 subscribers, one event at a time", run=_fan_out),
    Operation(name="fanout20", unit="delivery", what="live, 300 subscribers, 20 events under way", run=_fan_out_busy),
    Operation(name="live", unit="delivery", what="live, publish to delivery, one at a time", run=_live),
    Operation(name="live16", unit="delivery", what="the same to 16 subscribers, on all workers", run=_live_many),
)
