"""`python -m tests.bench`: measure relays side by side with one client, and print tables."""

import argparse
import resource
import sys
import tempfile
from pathlib import Path
from typing import Final

import msgspec
import uvloop
from tests.bench.errors import BenchError
from tests.bench.measure import machine_facts
from tests.bench.operations import OPERATIONS, Effort
from tests.bench.peers import BUILT_IN, DEFAULT, executable
from tests.bench.runner import ORLY_ONLY, Plan, Report, Runner, TargetSpec
from tests.bench.table import memory_table, result_table

_PACKAGES: Final = (
    "orly",
    "nostr-relay",
    "nostr-sdk",
    "uvloop",
    "websockets",
    "lmdb",
    "coincurve",
    "grpcio",
    "msgspec",
    "orjson",
)
_NAMES: Final = (*(operation.name for operation in OPERATIONS), *ORLY_ONLY)
_EXIT_FAILED: Final = 1
_EXIT_USAGE: Final = 2

_NORMAL: Final = Effort(
    events=15_000, single_events=1_500, fanout_events=1_000, live_events=500, write_s=6.0, read_s=2.0
)
_QUICK: Final = Effort(events=4_000, single_events=500, fanout_events=200, live_events=100, write_s=2.0, read_s=0.7)


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description="Measure relays side by side: CPU time per operation of the whole process tree, rates, latencies.",
        epilog="A relay given by URL is filled with test events: never name one whose data matters.",
    )
    parser.add_argument(
        "relays",
        nargs="*",
        metavar="RELAY",
        help=f"{', '.join(BUILT_IN)} (started here), or name=ws://host:port[@PID] (running); "
        f"the first one is the reference of the ratios; default: {', '.join(DEFAULT)}",
    )
    parser.add_argument("--exec", action="append", default=[], metavar="NAME=COMMAND", dest="commands",
                        help="also start this relay; {port} and {dir} are replaced in the command")  # fmt: skip
    parser.add_argument("--only", default="", metavar="OP,OP", help=f"of: {', '.join(_NAMES)}")
    parser.add_argument("--quick", action="store_true", help="about a minute, rough figures")
    parser.add_argument("--rounds", type=int, default=0, help="how often the relays take turns (default 3, quick 1)")
    parser.add_argument("--scale", type=int, default=0, metavar="N",
                        help="events in the large store (default 1000000, quick 50000)")  # fmt: skip
    parser.add_argument("--seed", type=int, default=1, help="another seed gives other events")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything here")
    return parser


def _target(text: str) -> TargetSpec:
    name, equals, rest = text.partition("=")
    if not equals:
        if name not in BUILT_IN:
            raise BenchError(f"unknown relay {name!r}: one of {', '.join(BUILT_IN)}, or name=ws://host:port[@PID]")
        return TargetSpec(name=name, plan=BUILT_IN[name])
    url, at, pid = rest.rpartition("@")
    if not at:
        return TargetSpec(name=name, url=rest)
    if not pid.isdigit():
        raise BenchError(f"{text!r}: {pid!r} is no process id")
    return TargetSpec(name=name, url=url, pid=int(pid))


def _plan(options: argparse.Namespace) -> Plan:
    only = tuple(filter(None, options.only.split(",")))
    if unknown := [name for name in only if name not in _NAMES]:
        raise BenchError(f"--only: unknown operation {unknown[0]!r}; there are {', '.join(_NAMES)}")
    targets = [_target(text) for text in options.relays]
    for text in options.commands:
        name, equals, command = text.partition("=")
        if not equals:
            raise BenchError(f"--exec {text!r}: write it as NAME=COMMAND")
        targets.append(TargetSpec(name=name, plan=executable(command)))
    if not targets:
        targets = [TargetSpec(name=name, plan=BUILT_IN[name], optional=not name.startswith("orly")) for name in DEFAULT]
    names = [target.name for target in targets]
    if twice := {name for name in names if names.count(name) > 1}:
        raise BenchError(f"two relays have the name {min(twice)!r}")
    scale = options.scale or (50_000 if options.quick else 1_000_000)
    if scale < 20_000:
        raise BenchError(f"--scale {scale}: at least 20000, it is compared with a store of 10000 events")
    if options.rounds < 0:
        raise BenchError(f"--rounds {options.rounds}: at least 1")
    return Plan(
        targets=tuple(targets),
        names=only or _NAMES,
        effort=_QUICK if options.quick else _NORMAL,
        rounds=options.rounds or (1 if options.quick else 3),
        library=12_000 if options.quick else 20_000,
        scale=scale,
        seed=options.seed,
    )


def _print(report: Report) -> None:
    for title, results, first in (
        ("Per operation (ratio to the first relay)", report.results, report.first),
        ("Against the size of the store (ratio to the small one)", report.scale, report.small),
    ):
        if results:
            print(f"\n## {title}\n\n{result_table(results, first)}")
    if report.memory:
        print(f"\n## Memory\n\n{memory_table(report.memory)}")
    for note in report.notes:
        print(f"\n{note}")


async def _run(plan: Plan, options: argparse.Namespace) -> int:
    facts = machine_facts(_PACKAGES)
    print("\n".join(f"{name}: {value}" for name, value in facts.items()), flush=True)
    with tempfile.TemporaryDirectory(prefix="orly-bench-") as directory:
        report = await Runner(plan, Path(directory)).run()
    _print(report)
    if options.json is not None:
        document = {"facts": facts, **msgspec.to_builtins(report)}
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n")
    return _EXIT_FAILED if report.failed else 0


def main() -> int:
    """Run, and return the exit status: 0 measured, 1 something failed, 2 wrong usage."""
    options = _arguments().parse_args()
    try:
        plan = _plan(options)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return _EXIT_USAGE
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        return uvloop.run(_run(plan, options))
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return _EXIT_FAILED


if __name__ == "__main__":
    sys.exit(main())
