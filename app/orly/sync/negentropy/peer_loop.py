"""The rounds with one peer: by the clock, and when someone asks for one."""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import msgspec

from orly.nostr.filter import Filter
from orly.store.base import StoreError
from orly.sync.negentropy.own_address import OwnAddress
from orly.sync.negentropy.peer_line import PeerLine
from orly.sync.negentropy.peer_memory import PeerMemory
from orly.sync.negentropy.peers import PeerState
from orly.sync.negentropy.request import Direction, SyncFailedError, SyncProgress, SyncRequest, SyncResult
from orly.sync.negentropy.schedule import Cursor, first_delay_s, next_delay_s
from orly.sync.negentropy.scope import narrowed

__all__ = [
    "MAX_ASKED",
    "MAX_ERROR_CHARACTERS",
    "MAX_ROUND_S",
    "LoopContext",
    "PeerLoop",
    "Runner",
    "SyncOptions",
]

MAX_ERROR_CHARACTERS: Final = 1000
"""Of why a round failed, which may quote the peer."""

MAX_ASKED: Final = 16
"""Rounds of one peer that wait because they were asked for."""

MAX_ROUND_S: Final = 15 * 60
"""Then others have their turn, and the next round goes on where this one was: a peer that sends an event now and then
makes headway for ever."""

log = logging.getLogger(__name__)


class Runner(Protocol):
    """Who does one sync; see `orly.sync.negentropy.run`."""

    async def __call__(
        self, request: SyncRequest, memory: PeerMemory, on_progress: Callable[[SyncProgress], None]
    ) -> SyncResult:
        """Do it.

        Raises:
            SyncFailedError: It broke off.
            StoreError: The store cannot be used.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncOptions:
    """How peers are synced with in the background; see the settings of the same names.

    Attributes:
        peers: Those of the settings.
        interval_s: The pause between two rounds.
        direction: Which way events go.
        filter: Which events.
        frame_bytes: How long our negentropy messages may be.
        timeout_s: Silence after which a peer is given up.
        auth_key: The secret key to authenticate with; None = none.
        private_kinds: Whether private kinds are pushed.
    """

    peers: tuple[str, ...] = ()
    interval_s: float = 60.0
    direction: Direction = Direction.BOTH
    filter: Filter = field(default_factory=Filter)
    frame_bytes: int = 4096
    timeout_s: float = 60.0
    auth_key: bytes | None = field(default=None, repr=False)
    private_kinds: bool = False

    def request(self, url: str, wanted: Filter) -> SyncRequest:
        """One round with a peer."""
        return SyncRequest(
            url=url,
            filter=wanted,
            direction=self.direction,
            frame_bytes=self.frame_bytes,
            timeout_s=self.timeout_s,
            auth_key=self.auth_key,
            private_kinds=self.private_kinds,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopContext:
    """What the loops of all peers share.

    Attributes:
        options: How to sync.
        run: Does one sync.
        turn: Bounds the syncs at once.
        address: Where this relay is.
        keep: Called after each round, for the state and the memory to be kept.
        now_s: Unix time.
        monotonic_s: Steady seconds.
        chance: A random number of 0 to 1.
    """

    options: SyncOptions
    run: Runner
    turn: asyncio.Semaphore
    address: OwnAddress
    keep: Callable[["PeerLoop"], Coroutine[Any, Any, None]]
    now_s: Callable[[], int]
    monotonic_s: Callable[[], float]
    chance: Callable[[], float]


@dataclass(frozen=True, slots=True)
class _Asked:
    """A round that someone asked for.

    Attributes:
        filter: Which events; None = as in the settings. With one it is no substitute for a round by the clock, and
            says little about how those go.
    """

    filter: Filter | None

    @property
    def is_whole(self) -> bool:
        """Whether it does what a round by the clock would do."""
        return self.filter is None


class _TimeIsUpError(SyncFailedError):
    """A round was broken off for the sake of others."""


class PeerLoop:
    """Syncs with one peer until it is closed.

    A round that fails leaves the rest to the next: what was fetched is stored, and is not fetched again.

    Args:
        state: As it was kept.
        line: Shared with syncs that are started by hand.
        context: Shared with other loops.

    Attributes:
        state: How the rounds went.
        line: See above.
        is_syncing: Whether a round is under way.
    """

    def __init__(self, state: PeerState, line: PeerLine, context: LoopContext) -> None:
        self.state = state
        self.line = line
        self.is_syncing = False
        self._context = context
        self._cursor = Cursor()
        self._asked: deque[_Asked] = deque()
        self._is_active = False
        self._due_s = 0.0
        self._is_due_anew = False
        self._has_moved = False
        self._wake = asyncio.Event()
        self._round: asyncio.Task[None] | None = None
        self._task = asyncio.create_task(self._run())

    def set_active(self, is_active: bool) -> None:
        """Begin or end rounds by the clock; an end also breaks off the one under way and forgets what was asked."""
        if is_active and not self._is_active:
            delay_s = first_delay_s(self._context.options.interval_s, self._context.chance())
            self._due_s = self._context.monotonic_s() + delay_s
            self._is_due_anew = True
        self._is_active = is_active
        if not is_active:
            self._asked.clear()
            if self._round is not None:
                self._round.cancel()
        self._wake.set()

    def ask(self, wanted: Filter | None) -> bool:
        """Do a round soon, also when there are none by the clock; False if too many wait already."""
        if len(self._asked) >= MAX_ASKED:
            return False
        self._asked.append(_Asked(wanted))
        self._wake.set()
        return True

    async def close(self) -> None:
        """Break off whatever is under way."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            asked = await self._next()
            is_whole = asked is None or asked.is_whole
            self._is_due_anew = False
            self._round = asyncio.create_task(self._sync(asked))
            try:
                await asyncio.wait([self._round])
            finally:
                self._round.cancel()
                (error,) = await asyncio.gather(self._round, return_exceptions=True)
                self._round = None
            if isinstance(error, Exception):
                log.error("%s: the sync ended unexpectedly", self.state.url, exc_info=error)
                self._note_failure(f"unexpected {type(error).__name__}", SyncProgress(), is_whole=is_whole)
            if is_whole and not self._is_due_anew:
                self._due_s = self._context.monotonic_s() + self._pause_s()

    def _pause_s(self) -> float:
        """Until the next round. Some relays cut every connection after so much: those that give something fail once."""
        failures = self.state.consecutive_failures
        if self._has_moved:
            failures = min(failures, 1)
        return next_delay_s(self._context.options.interval_s, failures, self._context.chance())

    async def _next(self) -> _Asked | None:
        """None when a round is due, or else what was asked for."""
        while True:
            left_s = self._due_s - self._context.monotonic_s() if self._is_active else None
            if left_s is not None and left_s <= 0:
                return None
            if self._asked:
                return self._asked.popleft()
            self._wake.clear()
            try:
                async with asyncio.timeout(left_s):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _sync(self, asked: _Asked | None) -> None:
        async with self._turn():
            self.is_syncing = True
            try:
                if asked is None:
                    await self._sync_now(None, self.line.memory)
                else:
                    with self.line.fresh_memory() as memory:
                        await self._sync_now(asked, memory)
            finally:
                self.is_syncing = False
                await _to_its_end(self._context.keep(self))

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Around one round: among all rounds, and with this peer.

        Whoever waits for the one does not hold the other. A sync by hand with this peer would wait for rounds with
        others, or rounds with others for that sync.
        """
        while True:
            await self.line.free()
            async with self._context.turn:
                if not self.line.is_busy:
                    async with self.line.turn():
                        yield
                    return

    async def _sync_now(self, asked: _Asked | None, memory: PeerMemory) -> None:
        options, url = self._context.options, self.state.url
        wanted = options.filter if asked is None or asked.filter is None else asked.filter
        is_whole = asked is None or asked.is_whole
        since_s = self._cursor.since_s() if asked is None and wanted.limit is None else None
        request = options.request(url, narrowed(wanted, since_s=since_s))
        began_s, started_s = self._context.now_s(), self._context.monotonic_s()
        try:
            await refuse_own(self._context.address, url)
            result = await self._run_for_a_while(request, memory)
        except SyncFailedError as error:
            is_failure = not (isinstance(error, _TimeIsUpError) and _moved(error.progress))
            self._note_failure(str(error), error.progress, is_whole=is_whole, is_failure=is_failure)
        except StoreError as error:
            self._note_failure(f"the store failed: {error}", SyncProgress(), is_whole=is_whole)
        else:
            took_s = self._context.monotonic_s() - started_s
            if asked is None:
                self._cursor = self._cursor.after(
                    began_s=began_s,
                    took_s=took_s,
                    moved=_moved(result.progress),
                    was_full=since_s is None,
                    is_settled=result.is_complete or result.is_settled,
                )
            self._note_result(result, took_s, is_whole=is_whole)

    async def _run_for_a_while(self, request: SyncRequest, memory: PeerMemory) -> SyncResult:
        reached = SyncProgress()

        def note(progress: SyncProgress) -> None:
            nonlocal reached
            reached = progress

        budget = asyncio.timeout(MAX_ROUND_S)
        try:
            async with budget:
                return await self._context.run(request, memory, note)
        except TimeoutError:
            if not budget.expired():
                raise
            text = f"it took {MAX_ROUND_S:g} s and was broken off, for others have their turn; the next round goes on"
            raise _TimeIsUpError(text, reached) from None

    def _note_failure(self, reason: str, progress: SyncProgress, *, is_whole: bool, is_failure: bool = True) -> None:
        text = reason[:MAX_ERROR_CHARACTERS]
        moved = _moved(progress)
        failures = self.state.consecutive_failures
        if is_whole:
            failures = failures + 1 if is_failure else 0
            self._has_moved = moved > 0
        self.state = msgspec.structs.replace(
            self.state,
            events_synced=self.state.events_synced + moved,
            last_error=text,
            consecutive_failures=failures,
        )
        log.log(
            logging.WARNING if is_failure else logging.INFO,
            "%s; fetched %d, sent %d; %d in a row failed",
            text if self.state.url in text else f"{self.state.url}: {text}",
            progress.fetched,
            progress.sent,
            self.state.consecutive_failures,
        )

    def _note_result(self, result: SyncResult, took_s: float, *, is_whole: bool) -> None:
        progress = result.progress
        moved = _moved(progress)
        problems = "; ".join(result.problems)[:MAX_ERROR_CHARACTERS]
        was_known = problems == self.state.last_error
        self.state = msgspec.structs.replace(
            self.state,
            last_sync_s=self._context.now_s(),
            events_synced=self.state.events_synced + moved,
        )
        if is_whole:
            last_error = "" if result.is_complete else problems or "incomplete"
            self.state = msgspec.structs.replace(self.state, last_error=last_error, consecutive_failures=0)
        log.log(
            logging.INFO if moved or not (result.is_complete or was_known) else logging.DEBUG,
            "%s: fetched %d, sent %d, refused %d, rejected %d, unavailable %d, %d rounds, %d bytes in %.1f s%s",
            self.state.url,
            progress.fetched,
            progress.sent,
            progress.refused,
            progress.rejected,
            progress.unavailable,
            progress.round,
            progress.bytes_sent + progress.bytes_received,
            took_s,
            f": {problems}" if problems else "",
        )


def _moved(progress: SyncProgress) -> int:
    """Events that were carried."""
    return progress.fetched + progress.sent


async def refuse_own(address: OwnAddress, url: str) -> None:
    """Check that a URL leads elsewhere.

    Raises:
        SyncFailedError: It leads back to this relay.
    """
    if (setting := await address.why_own(url)) is not None:
        raise SyncFailedError(f"{url} is this relay itself, by {setting}", SyncProgress())


async def _to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Wait for work that must not be broken off half-way, or what is written next could be older."""
    task = asyncio.create_task(work)
    is_cancelled = False
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            is_cancelled = True
    task.result()
    if is_cancelled:
        raise asyncio.CancelledError
