"""Results and how they are printed: Markdown tables with ratios to the first relay."""

from collections.abc import Sequence

import msgspec
from tests.bench.measure import percentile
from tests.bench.operations import Sample

__all__ = ["MemoryRow", "Result", "markdown", "memory_table", "result_table", "summary"]

_MIB = 1024 * 1024


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One operation of one relay over all rounds; `failure` says why there are no figures."""

    operation: str
    unit: str
    relay: str
    operations: int = 0
    failed_rounds: int = 0
    cpu_us: float | None = None
    cpu_spread: float | None = None
    per_second: float = 0.0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    failure: str = ""


class MemoryRow(msgspec.Struct, frozen=True, kw_only=True):
    """Memory of one relay in one situation, in bytes."""

    relay: str
    situation: str
    rss_bytes: int
    pss_bytes: int
    anonymous_bytes: int


def summary(operation: str, unit: str, relay: str, samples: Sequence[Sample], failures: Sequence[str] = ()) -> Result:
    """Join the rounds that succeeded: CPU is the mean of all operations, `cpu_spread` half the range over that."""
    if not samples:
        return Result(operation=operation, unit=unit, relay=relay, failure=failures[0])
    operations = sum(sample.operations for sample in samples)
    latencies = [value for sample in samples for value in sample.latencies_s]
    costs = [sample.cpu_ns / sample.operations / 1e3 for sample in samples if sample.cpu_ns is not None]
    cpu_us = sum(sample.cpu_ns or 0 for sample in samples) / operations / 1e3 if costs else None
    return Result(
        operation=operation,
        unit=unit,
        relay=relay,
        operations=operations,
        failed_rounds=len(failures),
        cpu_us=cpu_us,
        cpu_spread=(max(costs) - min(costs)) / 2 / cpu_us if cpu_us and len(costs) > 1 else None,
        per_second=operations / sum(sample.wall_s for sample in samples),
        p50_ms=percentile(latencies, 0.50) * 1e3,
        p99_ms=percentile(latencies, 0.99) * 1e3,
    )


def result_table(results: Sequence[Result], first: str) -> str:
    """One row per operation and relay; the ratio is to the relay named `first`."""
    base = {result.operation: result.cpu_us for result in results if result.relay == first}
    rows: list[list[str]] = []
    for result in results:
        if result.failure:
            reason = result.failure.replace("\n", " ").replace("|", "/")
            rows.append([result.operation, result.relay, "failed", "", "", "", "", reason[:160]])
            continue
        reference = base.get(result.operation)
        cpu = "-" if result.cpu_us is None else _number(result.cpu_us)
        ratio = f"{result.cpu_us / reference:.2f}" if result.cpu_us and reference else "-"
        spread = "-" if result.cpu_spread is None else f"±{result.cpu_spread:.0%}"
        latencies = [_number(result.p50_ms), _number(result.p99_ms)] if result.p50_ms else ["-", "-"]
        count = f"{result.operations} x {result.unit}"
        if result.failed_rounds:
            count += f", {result.failed_rounds} round(s) failed"
        rows.append([result.operation, result.relay, cpu, spread, ratio, f"{result.per_second:.0f}", *latencies, count])
    head = ["operation", "relay", "CPU µs", "spread", "ratio", "per s", "p50 ms", "p99 ms", "measured"]
    return markdown(head, [_failed_row(row, len(head)) for row in rows], numbers={2, 3, 4, 5, 6, 7})


def memory_table(rows: Sequence[MemoryRow]) -> str:
    """Memory in MiB."""
    body = [
        [row.relay, row.situation]
        + [f"{value / _MIB:.1f}" for value in (row.rss_bytes, row.pss_bytes, row.anonymous_bytes)]
        for row in rows
    ]
    return markdown(["relay", "situation", "RSS MiB", "PSS MiB", "anonymous MiB"], body, numbers={2, 3, 4})


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]], numbers: set[int]) -> str:
    """An aligned Markdown table; the columns in `numbers` are set to the right."""
    widths = [max(len(row[n]) for row in (head, *rows)) for n in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        parts = [
            cell.rjust(width) if n in numbers else cell.ljust(width)
            for n, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "| " + " | ".join(parts) + " |"

    rule = "|" + "|".join("-" * (w + 1) + (":" if n in numbers else "-") for n, w in enumerate(widths)) + "|"
    return "\n".join([line(head), rule, *map(line, rows)])


def _failed_row(row: list[str], width: int) -> list[str]:
    return row if len(row) == width else [*row[:-1], *[""] * (width - len(row)), row[-1]]


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
