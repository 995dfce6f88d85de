"""The end of `orly sync`: what became of it, as lines or as JSON."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orly.cli.files import FileError, ReaderGoneError, opened_output
from orly.cli.json_lines import JsonLines
from orly.cli.sync_report import amount, numbers
from orly.process.exit_codes import ExitCode
from orly.process.streams import tell
from orly.sync.negentropy.request import Direction, SyncProgress, SyncRequest, SyncResult

__all__ = ["Outcome", "tell_outcome"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How it ended.

    Attributes:
        code: The exit status.
        status: The same in a word.
        progress: The last numbers.
        problems: Lines for the operator.
        result: What there is beyond that, if it came to its end.
        began: Whether there is anything to count.
    """

    code: ExitCode
    status: str
    progress: SyncProgress
    problems: tuple[str, ...] = ()
    result: SyncResult | None = None
    began: bool = True


def tell_outcome(
    outcome: Outcome, request: SyncRequest, lines: JsonLines | None, *, elapsed_s: float
) -> tuple[ExitCode, str]:
    """Print what it ended with.

    Args:
        outcome: What that is.
        request: What was asked for.
        lines: Where JSON lines go, instead of words for people.
        elapsed_s: How long it took.

    Returns:
        The exit status, and what else there is to say.
    """
    problems = "\n".join(outcome.problems)
    if lines is not None:
        lines.write(_as_json(outcome, request, elapsed_s))
        if lines.problem:
            return ExitCode.FAILED, "\n".join((*outcome.problems, lines.problem))
        return outcome.code, problems
    if outcome.result is not None and request.list_ids:
        try:
            _print_ids(outcome.result)
        except ReaderGoneError:
            return ExitCode.FAILED, ""
        except FileError as error:
            return ExitCode.FAILED, str(error)
    if outcome.began:
        tell(_summary(outcome, request, elapsed_s))
    return outcome.code, problems


def _as_json(outcome: Outcome, request: SyncRequest, elapsed_s: float) -> dict[str, Any]:
    listed = outcome.result if request.list_ids else None
    ids = {} if listed is None else {"have_ids": _hex(listed.have_ids), "need_ids": _hex(listed.need_ids)}
    return {
        "type": "result",
        "status": outcome.status,
        "exit_code": int(outcome.code),
        "url": request.url,
        "direction": request.direction.value,
        **numbers(outcome.progress),
        "elapsed_s": round(elapsed_s, 3),
        "problems": list(outcome.problems),
        **ids,
    }


def _hex(ids: Sequence[bytes]) -> list[str]:
    return [event_id.hex() for event_id in ids]


def _print_ids(result: SyncResult) -> None:
    """The ids as strfry prints them.

    Raises:
        FileError: Standard output cannot be written.
    """
    with opened_output(Path("-")) as stream:
        for word, ids in (("have", result.have_ids), ("need", result.need_ids)):
            stream.writelines(f"{word},{event_id.hex()}\n".encode() for event_id in ids)


def _summary(outcome: Outcome, request: SyncRequest, elapsed_s: float) -> str:
    """The last line: what was moved, what was not, and how long it took."""
    progress = outcome.progress
    if request.direction is Direction.NONE:
        counts = [f"{progress.need} missing here", f"{progress.have} missing there"]
    else:
        counts = [f"{progress.fetched} fetched", f"{progress.sent} sent", f"{progress.refused} refused"]
        others = (
            (progress.rejected, "not taken by the other relay"),
            (progress.unavailable, "not given by the other relay"),
            (progress.unwanted, "deleted, replaced or expired here"),
        )
        counts += [f"{count} {text}" for count, text in others if count]
    traffic = f"{amount(progress.bytes_received)} in, {amount(progress.bytes_sent)} out"
    return f"{outcome.status}: {', '.join(counts)}; {traffic}; {elapsed_s:.1f} s"
