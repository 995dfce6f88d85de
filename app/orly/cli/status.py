"""`orly status`: what runs under `orly-launcher`, and whether it is well."""

import os

from orly import clock
from orly.appliance.healthcheck import Finding, NotRunningError, examine
from orly.appliance.run_dir import default_run_dir
from orly.process.exit_codes import ExitCode
from orly.settings import Loaded

__all__ = ["run_status"]

_HEADINGS = ("PROCESS", "STATE", "PID", "SINCE", "HEALTH")


def run_status(loaded: Loaded) -> tuple[ExitCode, str, str]:
    """Look at every process; returns the exit status, what was found, and what else there is to say."""
    run_dir = loaded.settings.run_dir or default_run_dir(loaded.settings.data_dir)
    try:
        findings = examine(run_dir, os.environ)  # noqa: TID251  (for the token, where the launcher had it from there)
    except NotRunningError as error:
        return ExitCode.FAILED, "", str(error)
    is_well = all(finding.problem is None for finding in findings)
    return (ExitCode.OK if is_well else ExitCode.FAILED), _table(findings, clock.now()), ""


def _table(findings: list[Finding], now_s: float) -> str:
    rows = [_HEADINGS, *(_row(finding, now_s) for finding in findings)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    return "\n".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _row(finding: Finding, now_s: float) -> tuple[str, ...]:
    return (
        finding.name,
        finding.state,
        str(finding.pid or "-"),
        _duration(now_s - finding.since) if finding.since else "-",
        "ok" if finding.problem is None else finding.problem,
    )


def _duration(seconds: float) -> str:
    """A span of time with its two largest units."""
    rest = max(0, int(seconds))
    parts: list[str] = []
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)):
        count, rest = divmod(rest, size)
        if count or (unit == "s" and not parts):
            parts.append(f"{count}{unit}")
    return "".join(parts[:2])
