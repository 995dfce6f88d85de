"""The order of a benchmark run: start the relays, let them take turns, then what only the project can do."""

import contextlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec
from tests.bench import workload
from tests.bench.client import Endpoint, open_channels
from tests.bench.errors import BenchError
from tests.bench.measure import Memory, ProcessTree
from tests.bench.offline import ImportCost, fill, measure_import
from tests.bench.operations import OPERATIONS, Effort, Operation, Sample, Target, preload, settle
from tests.bench.peers import BUILT_IN, Launch, Relay
from tests.bench.table import MemoryRow, Result, summary
from tests.bench.workload import Supply, Workload

__all__ = ["ORLY_ONLY", "Plan", "Report", "Runner", "TargetSpec"]

ORLY_ONLY: Final = ("import", "scale", "memory")
"""Operations that are not traffic on a socket."""

_SCALE_OPERATIONS: Final = ("event", "req500", "req1x25")
_SMALL: Final = 10_000
_IDLE_CONNECTIONS: Final = 1000


class TargetSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A relay as named on the command line: started with `plan`, or running at `url`."""

    name: str
    plan: Callable[[int, Path], Launch] | None = None
    url: str = ""
    pid: int | None = None
    optional: bool = False


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to measure."""

    targets: tuple[TargetSpec, ...]
    names: tuple[str, ...]
    effort: Effort
    rounds: int
    library: int
    scale: int
    seed: int


class Report(msgspec.Struct, kw_only=True):
    """Everything measured."""

    first: str = ""
    small: str = ""
    failed: bool = False
    results: list[Result] = []
    scale: list[Result] = []
    memory: list[MemoryRow] = []
    notes: list[str] = []


class Runner:
    """Runs a plan, part by part; each part ends the relays that it started, so that none disturbs the next."""

    def __init__(self, plan: Plan, directory: Path) -> None:
        self._plan = plan
        self._directory = directory
        self._report = Report()
        self._operations = [operation for operation in OPERATIONS if operation.name in plan.names]

    async def run(self) -> Report:
        """Measure everything.

        Raises:
            BenchError: a relay cannot be started or filled.
        """
        plan, effort = self._plan, self._plan.effort
        per_round = effort.events + effort.single_events + 2 * effort.fanout_events + effort.live_events
        _progress("signing events, or reading them from the cache")
        work = workload.load(plan.seed, plan.library + plan.rounds * per_round, plan.library)
        self._report.notes.append(
            f"Events: {len(work.events)} signed, {work.mean_bytes:.0f} bytes mean; "
            f"{plan.rounds} round(s), the relays taking turns; no compression; one client process."
        )
        legend = [f"- {operation.name}: {operation.what}" for operation in self._operations]
        if legend:
            self._report.notes.append("\n".join(["Operations:", "", *legend]))
        if self._operations or "memory" in plan.names:
            with contextlib.ExitStack() as stack:
                await self._compare(work, stack)
        if "import" in plan.names:
            self._import(work)
        if {"scale", "memory"} & set(plan.names):
            try:
                with contextlib.ExitStack() as stack:
                    await self._grown(work, stack)
            except BenchError as error:
                self._fail("scale and memory", error)
        return self._report

    async def _compare(self, work: Workload, stack: contextlib.ExitStack) -> None:
        opened = [await self._open(spec, work, stack) for spec in self._plan.targets]
        targets = [target for target in opened if target is not None]
        targets = [target for target in targets if await self._prepare(target)]
        if not targets:
            raise BenchError("no relay to measure")
        self._report.first = targets[0].name
        if self._operations:
            self._report.results += await self._turns(targets, self._operations)

    async def _prepare(self, target: Target) -> bool:
        """Measure its idle memory and store the library; False when an optional relay cannot."""
        try:
            if "memory" in self._plan.names:
                await self._idle_memory(target)
            if self._operations:
                _progress(f"{target.name}: storing {target.supply.workload.library} events")
                await preload(target)
        except BenchError as error:
            if not target.optional:
                raise BenchError(f"{target.name}: {error}") from error
            self._fail(f"{target.name} is left out", error, optional=True)
            return False
        return True

    async def _open(self, spec: TargetSpec, work: Workload, stack: contextlib.ExitStack) -> Target | None:
        if spec.plan is None:
            tree = None if spec.pid is None else ProcessTree(spec.pid)
            endpoint = Endpoint.parse(spec.url)
            return Target(name=spec.name, endpoint=endpoint, tree=tree, supply=Supply(work))
        try:
            relay = stack.enter_context(Relay(spec.name, spec.plan, self._directory / spec.name))
            tree = await relay.ready()
        except BenchError as error:
            if not spec.optional:
                raise
            self._fail(f"{spec.name} is left out", error, optional=True)
            return None
        self._report.notes.append(f"{spec.name}: {relay.launch.note}")
        return Target(name=spec.name, optional=spec.optional, endpoint=relay.endpoint, tree=tree, supply=Supply(work))

    async def _turns(self, targets: Sequence[Target], operations: Sequence[Operation]) -> list[Result]:
        results: list[Result] = []
        for operation in operations:
            samples: dict[str, list[Sample]] = {target.name: [] for target in targets}
            failures: dict[str, list[str]] = {target.name: [] for target in targets}
            for number in range(1, self._plan.rounds + 1):
                for target in targets:
                    _progress(f"{operation.name}: {target.name}, round {number} of {self._plan.rounds}")
                    try:
                        samples[target.name].append(await operation.run(target, self._plan.effort))
                    except BenchError as error:
                        what = f"{operation.name}: {target.name}, round {number}"
                        self._fail(what, error, optional=target.optional)
                        failures[target.name].append(str(error))
            results += [
                summary(operation.name, operation.unit, target.name, samples[target.name], failures[target.name])
                for target in targets
            ]
        return results

    async def _idle_memory(self, target: Target) -> None:
        if target.tree is None:
            self._report.notes.append(f"{target.name}: no process id, so its memory is not measured")
            return
        _progress(f"memory: {target.name}")
        await settle(target)
        self._remember(target, "idle, before any load")
        self._remember_each(target, "idle")
        channels = await open_channels(target.endpoint, _IDLE_CONNECTIONS)
        try:
            await settle(target)
            self._remember(target, f"{_IDLE_CONNECTIONS} idle connections")
        finally:
            for channel in channels:
                channel.close()
        await settle(target)

    def _remember(self, target: Target, situation: str) -> int:
        assert target.tree is not None
        memory = target.tree.memory()
        self._add_memory(target.name, situation, memory)
        return memory.anonymous_bytes

    def _remember_each(self, target: Target, situation: str) -> None:
        assert target.tree is not None
        parts = target.tree.memory_of_each()
        if len(parts) > 1:
            for program, memory in parts:
                self._add_memory(target.name, f"{situation}: {program}", memory)

    def _add_memory(self, relay: str, situation: str, memory: Memory) -> None:
        row = MemoryRow(
            relay=relay,
            situation=situation,
            rss_bytes=memory.rss_bytes,
            pss_bytes=memory.pss_bytes,
            anonymous_bytes=memory.anonymous_bytes,
        )
        self._report.memory.append(row)

    def _fail(self, what: str, error: BenchError, *, optional: bool = False) -> None:
        self._report.failed |= not optional
        self._report.notes.append(f"FAILED {what}: {error}")
        _progress(f"FAILED {what}: {error}")

    def _import(self, work: Workload) -> None:
        for name, verify in (("import", True), ("import --no-verify", False)):
            _progress(f"orly {name} of {len(work.events)} events")
            try:
                cost = measure_import(work.events, self._directory / f"import-{verify}", verify=verify)
            except BenchError as error:
                self._fail(name, error)
                self._report.results.append(Result(operation=name, unit="event", relay="orly", failure=str(error)))
            else:
                self._report.results.append(_import_result(name, "orly", cost))

    async def _grown(self, work: Workload, stack: contextlib.ExitStack) -> None:
        """The same work on a small and a large store, one beside the other."""
        targets: list[Target] = []
        filled: list[Result] = []
        for size in (_SMALL, self._plan.scale):
            name = f"orly {_short(size)}"
            directory = self._directory / f"store-{size}"
            _progress(f"{name}: importing {size} generated events")
            filled.append(_import_result("fill (import --no-verify)", name, fill(directory, size, self._plan.seed)))
            relay = stack.enter_context(Relay(name, BUILT_IN["orly"], directory))
            tree = await relay.ready()
            targets.append(Target(name=name, endpoint=relay.endpoint, tree=tree, supply=Supply(work)))
        self._report.small = targets[0].name
        names = _SCALE_OPERATIONS if "scale" in self._plan.names else _SCALE_OPERATIONS[1:]
        fresh = [self._remember(target, "started on its store") for target in targets]
        results = await self._turns(targets, [o for o in OPERATIONS if o.name in names])
        used = [self._remember(target, f"after {', '.join(names)}") for target in targets]
        if "scale" in self._plan.names:
            self._report.scale += [*results, *filled]
        started, worked = ((values[1] - values[0]) / 2**20 for values in (fresh, used))
        self._report.notes.append(
            f"Anonymous memory of a store of {self._plan.scale} events above one of {_SMALL}: "
            f"{started:+.1f} MiB when started, {worked:+.1f} MiB after the work."
        )


def _import_result(operation: str, relay: str, cost: ImportCost) -> Result:
    return Result(
        operation=operation,
        unit="event",
        relay=relay,
        operations=cost.events,
        cpu_us=cost.cpu_ns / cost.events / 1e3,
        per_second=cost.events / cost.wall_s,
    )


def _short(count: int) -> str:
    for size, letter in ((1_000_000, "M"), (1_000, "k")):
        if count >= size:
            return f"{count / size:g}{letter}"
    return str(count)


def _progress(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)
