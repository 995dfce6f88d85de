"""The sides of a sync: what a test does with a store, whoever's it is, and what must be in it by NIP-01's rules."""

import json
import re
import shlex
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Protocol, runtime_checkable

from tests.interop import wire
from tests.interop.expected import JsonEvent, Model, Outcome

__all__ = [
    "SYNC_S",
    "Direction",
    "Filter",
    "ReachableSide",
    "Restartable",
    "Run",
    "Side",
    "difference",
    "orly_run",
    "run_command",
    "strfry_run",
]

SYNC_S: Final = 40.0
"""How long one sync may take; a hang is a failure."""

_SHOWN: Final = 20

Filter = Mapping[str, Any]


class Direction(StrEnum):
    """Which way events go, as seen by who syncs."""

    DOWN = "down"
    UP = "up"
    BOTH = "both"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A sync that came to its end.

    Attributes:
        code: Its exit status.
        output: Standard output and standard error.
        need: Events that it found only its peer to have; None if it does not say.
        have: Events that it found only itself to have.
        fetched: Events that it stored.
        sent: Events that its peer took.
        rounds: Messages of reconciliation that the peer answered.
        took_s: How long it took.
    """

    code: int
    output: str
    need: int | None = None
    have: int | None = None
    fetched: int | None = None
    sent: int | None = None
    rounds: int | None = None
    took_s: float = 0.0

    def summary(self) -> str:
        """The numbers it gave, for a table."""
        named = [("need", self.need), ("have", self.have), ("rounds", self.rounds)]
        return " ".join([*(f"{name} {value}" for name, value in named if value is not None), f"{self.took_s:.2f} s"])


def difference(expected: Mapping[str, JsonEvent], found: Mapping[str, JsonEvent]) -> str:
    """What is wrong, in a few lines; empty when nothing is."""
    lines = []
    for what, ids in (("missing", expected.keys() - found.keys()), ("too many", found.keys() - expected.keys())):
        if ids:
            known = {**expected, **found}
            kinds = sorted({known[event_id]["kind"] for event_id in ids})
            shown = "\n    ".join(sorted(ids)[:_SHOWN])
            lines.append(f"  {len(ids)} {what}, of kinds {kinds}:\n    {shown}")
    changed = [event_id for event_id in expected.keys() & found.keys() if expected[event_id] != found[event_id]]
    lines += [f"  changed: {expected[event_id]} is now {found[event_id]}" for event_id in changed[:_SHOWN]]
    return "\n".join(lines)


class Side(ABC):
    """A store of events, and beside it what must be in it.

    Attributes:
        name: For messages.
        model: What must be stored.
        private_kinds: What reading it does not show to a stranger.
    """

    private_kinds: frozenset[int] = frozenset()

    def __init__(self, name: str, now_s: int) -> None:
        self.name = name
        self.model = Model(now_s=now_s, max_future_s=None)

    @abstractmethod
    def publish(self, events: Sequence[JsonEvent]) -> None:
        """Stores events, and checks that each was taken."""

    @abstractmethod
    def stored(self) -> dict[str, JsonEvent]:
        """All that can be read, by id."""

    def sync(self, url: str, direction: Direction, wanted: Filter, *, timeout_s: float = SYNC_S) -> Run:
        """Syncs with a relay, as who starts it."""
        raise NotImplementedError(f"{self.name} starts no syncs")

    def logs(self) -> str:
        """What it has logged so far."""
        return ""

    def close(self) -> None:
        """Ends it, and checks that it leaves as it should."""
        return

    def expected(self) -> dict[str, JsonEvent]:
        """What reading it must give."""
        return {event["id"]: event for event in self.model.visible if event["kind"] not in self.private_kinds}

    def take(self, events: Sequence[JsonEvent]) -> None:
        """Events arrived; in the order of their times, whatever that was."""
        for event in sorted(events, key=lambda event: (event["created_at"], event["id"])):
            self.model.take(event)

    def check(self) -> None:
        """Compares ids, and every field of every event."""
        wrong = difference(self.expected(), self.stored())
        assert not wrong, f"{self.name} does not hold what it must:\n{wrong}"

    def await_expected(self, *, within_s: float = SYNC_S) -> None:
        """Waits until it holds what it must."""
        end_s = time.monotonic() + within_s
        while wrong := difference(self.expected(), self.stored()):
            assert time.monotonic() < end_s, f"{self.name} did not come to hold what it must:\n{wrong}"
            time.sleep(0.1)


class ReachableSide(Side):
    """A side that is a relay.

    Attributes:
        url: Where clients and peers connect.
    """

    def __init__(self, name: str, url: str, now_s: int) -> None:
        super().__init__(name, now_s)
        self.url = url

    def publish(self, events: Sequence[JsonEvent]) -> None:
        """Sends events; each must get the OK that it deserves."""
        outcomes = [self.model.take(event) for event in events]
        for outcome, (event_id, accepted, words) in zip(outcomes, wire.publish(self.url, events), strict=True):
            should_be = outcome in (Outcome.STORED, Outcome.DUPLICATE)
            assert accepted == should_be, f"{self.name}: {event_id} is {outcome.name}, and its OK {accepted} {words!r}"

    def stored(self) -> dict[str, JsonEvent]:
        """All that a stranger may read."""
        return wire.read(self.url)

    def check(self) -> None:
        """As any side's; and it must count as many as it shows."""
        super().check()
        counted, shown = wire.count(self.url), len(self.expected())
        assert counted == shown, f"{self.name} counts {counted} events and shows {shown}"


@runtime_checkable
class Restartable(Protocol):
    """A relay that can be ended without warning, and started again with what it stored."""

    url: str

    def start(self) -> None:
        """Starts it, and waits until it answers."""

    def kill(self) -> None:
        """Ends it without warning."""

    def stored(self) -> dict[str, JsonEvent]:
        """All that a stranger may read."""


def run_command(
    command: Sequence[str], environment: Mapping[str, str], *, timeout_s: float, stdin: bytes = b""
) -> tuple[int, bytes, bytes, float]:
    """Runs a command to its end: exit status, standard output, standard error, seconds."""
    started_s = time.monotonic()
    try:
        done = subprocess.run(
            command, env=dict(environment), input=stdin, capture_output=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired as error:
        said = b"".join(part or b"" for part in (error.stdout, error.stderr)).decode(errors="replace")
        raise AssertionError(f"{shlex.join(command)} was still there after {timeout_s:g} s:\n{said}") from None
    return done.returncode, done.stdout, done.stderr, time.monotonic() - started_s


_RECONCILED: Final = re.compile(r"Have (\d+) need (\d+)")


def strfry_run(code: int, output: str, took_s: float) -> Run:
    """A run of `strfry sync`, by what it logged."""
    found = _RECONCILED.search(output)
    have, need = (int(found[1]), int(found[2])) if found else (None, None)
    return Run(code=code, output=output, have=have, need=need, took_s=took_s)


def orly_run(code: int, out: bytes, err: bytes, took_s: float) -> Run:
    """A run of `orly sync --json`, by its last line."""
    text = out.decode() + err.decode(errors="replace")
    last = out.decode().splitlines()[-1:]
    result = json.loads(last[0]) if last else {}
    return Run(
        code=code,
        output=text,
        need=result.get("need"),
        have=result.get("have"),
        fetched=result.get("fetched"),
        sent=result.get("sent"),
        rounds=result.get("round"),
        took_s=took_s,
    )
