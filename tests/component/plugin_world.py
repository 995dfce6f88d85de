"""A write policy in a test: programs to run, events that tell them what to do, and what must not be left behind."""

import asyncio
import os
import shlex
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from tests.factory import NOW_S, fake_event
from tests.wsclient import DEADLINE_S

from orly import clock
from orly.intake.plugin import CANNOT_ASK, PluginOptions, WritePlugin
from orly.intake.plugin_lines import Asked, Judgement, Ruling, SourceType
from orly.nostr.event import EncodedEvent

__all__ = [
    "FAILED",
    "PLUGINS",
    "Puppet",
    "ask",
    "asked",
    "children",
    "is_alive",
    "judge",
    "judge_until",
    "numbered",
    "plugin",
    "told",
]

PLUGINS: Final = Path(__file__).with_name("plugins")
FAILED: Final = str(CANNOT_ASK)


def told(*statements: str, key: int = 0) -> EncodedEvent:
    """An event that tells the puppet what to do."""
    return fake_event(key, content="\n".join(statements))


def numbered(count: int, *statements: str) -> list[EncodedEvent]:
    """Different events that tell the puppet the same."""
    return [fake_event(created_at=NOW_S - n, content="\n".join(statements)) for n in range(count)]


def asked(event: EncodedEvent, **fields: Any) -> Asked:
    """A question about an event."""
    given = {"received_at_s": NOW_S, "source_type": SourceType.IP4, "source_info": "192.0.2.1", **fields}
    return Asked(event=event, **given)


async def ask(plugin: WritePlugin, *questions: Asked) -> list[str]:
    """The judgements as text: `accepted`, `shadowed` or the refusal."""
    async with asyncio.timeout(DEADLINE_S):
        return [_text(each) for each in await plugin.judge(questions)]


async def judge(plugin: WritePlugin, *events: EncodedEvent) -> list[str]:
    """The judgements on events in one call; see `ask`."""
    return await ask(plugin, *map(asked, events))


async def judge_until(judgement: str, plugin: WritePlugin, event: EncodedEvent) -> None:
    """Asks about an event until that is the judgement: for options that fail when the machine is slow."""
    async with asyncio.timeout(DEADLINE_S):
        while await judge(plugin, event) != [judgement]:
            pass


def _text(judgement: Judgement) -> str:
    return judgement.value if isinstance(judgement, Ruling) else str(judgement)


@asynccontextmanager
async def plugin(
    command: str | Path, *, monotonic_s: Callable[[], float] = clock.monotonic_s, **options: Any
) -> AsyncIterator[WritePlugin]:
    """A write policy that is closed afterwards and leaves no process and no task."""
    before = children()
    made = WritePlugin(PluginOptions(command=str(command), **options), monotonic_s=monotonic_s)
    try:
        yield made
    finally:
        async with asyncio.timeout(DEADLINE_S):
            await made.aclose()
    assert children() <= before
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert made.n_in_flight == 0


class Puppet:
    """The program that obeys events; see `plugins/puppet.py`."""

    def __init__(self, folder: Path) -> None:
        """`folder` is where it keeps its record."""
        self._record = folder / "record"
        self.command = shlex.join([sys.executable, "-IS", str(PLUGINS / "puppet.py"), str(self._record)])

    @property
    def pids(self) -> list[int]:
        """Of all its lives so far."""
        return [int(line) for line in self._lines() if not line.startswith("{")]

    @property
    def questions(self) -> list[str]:
        """Every line that it read, over all its lives."""
        return [line for line in self._lines() if line.startswith("{")]

    def _lines(self) -> list[str]:
        if not self._record.exists():
            return []
        return self._record.read_text(encoding="utf-8").split("\n")[:-1]


def children() -> set[int]:
    """The processes that this one has started, and those that it has not waited for. Read from /proc (Linux)."""
    return {pid for pid, _, parent in _processes() if parent == os.getpid()}


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended but was not waited for does not. Read from /proc (Linux)."""
    return any(each == pid and state not in "ZX" for each, state, _ in _processes())


def _processes() -> Iterator[tuple[int, str, int]]:
    """Process id, state and parent of every process."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                stat = (entry / "stat").read_text(encoding="utf-8", errors="replace")
            except (FileNotFoundError, ProcessLookupError):
                continue
            state, parent = stat.rpartition(")")[2].split()[:2]
            yield int(entry.name), state, int(parent)
