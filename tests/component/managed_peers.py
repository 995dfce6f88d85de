"""A manager of peers whose syncs are made up."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from orly import clock
from orly.sync.negentropy.manager import SyncManager
from orly.sync.negentropy.own_address import OwnAddress
from orly.sync.negentropy.peer_loop import SyncOptions
from orly.sync.negentropy.peer_memory import PeerMemory, Why
from orly.sync.negentropy.peers import PeerBook, PeerState
from orly.sync.negentropy.request import Phase, SyncProgress, SyncRequest, SyncResult

__all__ = ["DEADLINE_S", "NEVER", "NOW_S", "QUICK", "A", "B", "FakeRuns", "done", "managing", "state", "until"]

DEADLINE_S = 20.0
NOW_S = 1_700_000_000
A, B = "wss://a.invalid", "wss://b.invalid"
QUICK = SyncOptions(peers=(A,), interval_s=0.01)
NEVER = replace(QUICK, interval_s=3600.0)


class FakeRuns:
    """Does what a test says in place of syncs.

    Attributes:
        requests: What was asked for, in order.
        at_once: Syncs under way, by URL.
        most: The most at once.
        cancelled: How many were broken off.
        end: What a sync ends with: a result, or an error that is raised.
        hold: Cleared, syncs wait for it.
        steps: Progress that is told meanwhile.
        note: An id that each sync remembers as refused.
        memories: What each was given.
    """

    def __init__(self) -> None:
        self.requests: list[SyncRequest] = []
        self.at_once: list[str] = []
        self.most = 0
        self.cancelled = 0
        self.end: SyncResult | Exception = done()
        self.hold = asyncio.Event()
        self.hold.set()
        self.steps = [SyncProgress(phase=Phase.RECONCILING)]
        self.note: bytes | None = None
        self.memories: list[PeerMemory] = []

    async def __call__(
        self, request: SyncRequest, memory: PeerMemory, on_progress: Callable[[SyncProgress], None]
    ) -> SyncResult:
        assert request.url not in self.at_once, "two syncs with one peer"
        self.requests.append(request)
        self.memories.append(memory)
        self.at_once.append(request.url)
        self.most = max(self.most, len(self.at_once))
        if self.note is not None:
            memory.note(self.note, Why.REFUSED, now_s=NOW_S)
        for step in self.steps:
            on_progress(step)
        try:
            await self.hold.wait()
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.at_once.remove(request.url)
        if isinstance(self.end, Exception):
            raise self.end
        return self.end

    @property
    def urls(self) -> list[str]:
        return [request.url for request in self.requests]


def done(*, fetched: int = 0, sent: int = 0, problems: tuple[str, ...] = (), is_settled: bool = False) -> SyncResult:
    """How a sync ends that comes to its end."""
    progress = SyncProgress(phase=Phase.DONE, fetched=fetched, sent=sent)
    return SyncResult(progress=progress, is_complete=not problems, is_settled=is_settled, problems=problems)


@asynccontextmanager
async def managing(
    directory: Path,
    runs: FakeRuns,
    options: SyncOptions = QUICK,
    *,
    start: bool = True,
    address: OwnAddress | None = None,
    chance: float = 0.0,
    monotonic_s: Callable[[], float] = clock.monotonic_s,
) -> AsyncIterator[SyncManager]:
    """An open manager; when it is closed nothing of it is left on the loop."""
    before = asyncio.all_tasks()
    manager = SyncManager(
        options,
        run=runs,
        book=PeerBook(directory),
        address=address or OwnAddress(relay_url="", listen="127.0.0.1", port=0),
        now_s=lambda: NOW_S,
        monotonic_s=monotonic_s,
        chance=lambda: chance,
    )
    await manager.open()
    if start:
        manager.start()
    try:
        yield manager
    finally:
        await manager.close()
        assert runs.at_once == []
        assert asyncio.all_tasks() == before


async def until(condition: Callable[[], object]) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.001)


def state(manager: SyncManager, url: str = A) -> PeerState:
    """How a peer is doing."""
    found = manager.peer(url)
    assert found is not None
    return found.state
