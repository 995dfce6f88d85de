"""How `orly sync` shows what it does: a bar on a terminal, a line a second elsewhere, or JSON lines."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, Final, Protocol

from orly import clock
from orly.cli.json_lines import JsonLines
from orly.process.streams import tell
from orly.sync.negentropy.request import Direction, Phase, SyncProgress

__all__ = ["SyncReport", "amount", "numbers", "sync_report"]

_PHASES: Final[Mapping[Phase, str]] = {
    Phase.CONNECTING: "connecting",
    Phase.RECONCILING: "comparing",
    Phase.TRANSFERRING: "transferring",
    Phase.DONE: "done",
}
_RATE_SPAN_S: Final = 3.0
"""The rates of the bar are those of so many seconds past."""


class SyncReport(Protocol):
    """Where a sync reports while it runs."""

    def progress(self, progress: SyncProgress) -> None:
        """The newest numbers."""

    def tick(self) -> None:
        """A second has passed."""

    def say(self, text: str) -> None:
        """A line for the operator, on standard error."""


@contextmanager
def sync_report(direction: Direction, lines: JsonLines | None) -> Iterator[SyncReport]:
    """Report in the way that fits: JSON lines if wanted, else a bar if standard error is a terminal, else lines.

    Args:
        direction: Which of the differences are work to do.
        lines: Where JSON lines go, if they are wanted.
    """
    if lines is not None:
        yield _Json(lines)
    elif sys.stderr is not None and sys.stderr.isatty():
        with _bar(direction) as report:
            yield report
    else:
        yield _Lines()


def amount(n_bytes: float) -> str:
    """Bytes for people: `950 B`, `1.2 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 999.5 or unit == "GB":
            break
        n_bytes /= 1000
    return f"{n_bytes:.0f} {unit}" if unit == "B" else f"{n_bytes:.1f} {unit}"


def numbers(progress: SyncProgress) -> dict[str, Any]:
    """The fields of a progress as JSON has them."""
    return {**asdict(progress), "phase": progress.phase.name.lower()}


def _settled(progress: SyncProgress, direction: Direction) -> tuple[int, int]:
    """How many differences are dealt with, and how many there are, in the directions asked for."""
    done = total = 0
    if direction.pulls:
        total += progress.need
        done += progress.fetched + progress.known + progress.unwanted + progress.refused + progress.unavailable
    if direction.pushes:
        total += progress.have
        done += progress.sent + progress.unneeded + progress.rejected
    return done, total


def _where(progress: SyncProgress) -> str:
    phase = _PHASES[progress.phase]
    return f"{phase}, round {progress.round}" if progress.phase is Phase.RECONCILING else phase


class _Rates:
    """How fast events move, over the last seconds."""

    def __init__(self, span_s: float) -> None:
        self._span_s = span_s
        self._marks = [(clock.monotonic_s(), 0, 0)]

    def of(self, progress: SyncProgress) -> tuple[float, float]:
        """Events fetched and sent per second, until now."""
        now_s = clock.monotonic_s()
        marks = self._marks
        while len(marks) > 1 and marks[1][0] <= now_s - self._span_s:
            del marks[0]
        then_s, fetched, sent = marks[0]
        if now_s - marks[-1][0] >= self._span_s / 16:  # a few marks are enough, however often this is asked
            marks.append((now_s, progress.fetched, progress.sent))
        passed_s = max(now_s - then_s, 0.001)
        return (progress.fetched - fetched) / passed_s, (progress.sent - sent) / passed_s


class _Lines:
    """A line a second, as long as there is something new."""

    def __init__(self) -> None:
        self._newest = self._told = SyncProgress()
        self._rates = _Rates(1.0)

    def progress(self, progress: SyncProgress) -> None:
        self._newest = progress

    def tick(self) -> None:
        newest = self._newest
        if newest == self._told:
            return
        self._told = newest
        fetched_rate, sent_rate = self._rates.of(newest)
        tell(
            f"{_where(newest)}: {newest.need} missing here, {newest.have} missing there; "
            f"{newest.fetched} fetched ({fetched_rate:.0f}/s), {newest.sent} sent ({sent_rate:.0f}/s); "
            f"{amount(newest.bytes_received)} in, {amount(newest.bytes_sent)} out"
        )

    def say(self, text: str) -> None:
        tell(text)


class _Json:
    """An object for each phase, and one a second as long as there is something new."""

    def __init__(self, lines: JsonLines) -> None:
        self._lines = lines
        self._started_s = clock.monotonic_s()
        self._newest: SyncProgress | None = None
        self._told: SyncProgress | None = None

    def progress(self, progress: SyncProgress) -> None:
        is_new_phase = self._newest is None or self._newest.phase is not progress.phase
        self._newest = progress
        if is_new_phase:
            self._tell(progress)

    def tick(self) -> None:
        if self._newest is not None and self._newest != self._told:
            self._tell(self._newest)

    def say(self, text: str) -> None:
        tell(text)

    def _tell(self, progress: SyncProgress) -> None:
        self._told = progress
        elapsed_s = round(clock.monotonic_s() - self._started_s, 3)
        self._lines.write({"type": "progress", **numbers(progress), "elapsed_s": elapsed_s})


@contextmanager
def _bar(direction: Direction) -> Iterator[SyncReport]:
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rates]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(_PHASES[Phase.CONNECTING], total=None, rates="")
        rates = _Rates(_RATE_SPAN_S)

        class Bar:
            newest = SyncProgress()

            def progress(self, progress: SyncProgress) -> None:
                self.newest = progress
                self._show()

            def tick(self) -> None:
                self._show()

            def say(self, text: str) -> None:
                bar.console.print(escape(text), highlight=False, soft_wrap=True)

            def _show(self) -> None:
                newest = self.newest
                done, total = _settled(newest, direction)
                down, up = rates.of(newest)
                shown = [f"{down:.0f}/s down"] if direction.pulls else []
                shown += [f"{up:.0f}/s up"] if direction.pushes else []
                if not shown:
                    shown = [f"{newest.need} missing here, {newest.have} there"]
                bar.update(
                    task, description=_where(newest), completed=done, total=total or None, rates=", ".join(shown)
                )

        yield Bar()
