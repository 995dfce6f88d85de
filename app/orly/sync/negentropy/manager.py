"""Syncing with all peers in the background, and one sync at a time by hand."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from random import SystemRandom
from typing import Final, Literal

from orly import clock
from orly.nostr.filter import Filter
from orly.sync.negentropy.own_address import OwnAddress
from orly.sync.negentropy.peer_line import PeerLine
from orly.sync.negentropy.peer_loop import LoopContext, PeerLoop, Runner, SyncOptions, refuse_own
from orly.sync.negentropy.peer_memory import PeerMemory
from orly.sync.negentropy.peers import MAX_PEERS, PeerBook, PeerBookError, PeerState
from orly.sync.negentropy.request import SyncProgress, SyncRequest, SyncResult

__all__ = ["MAX_AT_ONCE", "MAX_BY_HAND", "PeerStatus", "SyncManager", "TooManyError", "UnknownPeerError"]

MAX_AT_ONCE: Final = 4
"""Rounds in the background at once: each may hold some thousand events and the ids of a million."""

MAX_BY_HAND: Final = 16
"""Syncs at once that callers watch."""

_chance: Final = SystemRandom().random

log = logging.getLogger(__name__)


class TooManyError(Exception):
    """A bound is reached; the text names it."""


class UnknownPeerError(Exception):
    """There is no such peer; the text names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerStatus:
    """One peer: how it went, and what it does now."""

    state: PeerState
    status: Literal["idle", "syncing", "error"]


class SyncManager:
    """The peers of one relay; used from one event loop, between `open` and `close`.

    Peers of the settings are there at every start. One that was added at run time is kept until it is removed; one of
    the settings that is removed comes back with the next start.

    Args:
        options: How to sync.
        run: Does one sync.
        book: Where peers are kept.
        address: Where this relay is.
        now_s: Unix time.
        monotonic_s: Steady seconds.
        chance: A random number of 0 to 1.
    """

    def __init__(
        self,
        options: SyncOptions,
        *,
        run: Runner,
        book: PeerBook,
        address: OwnAddress,
        now_s: Callable[[], int] = clock.now_s,
        monotonic_s: Callable[[], float] = clock.monotonic_s,
        chance: Callable[[], float] = _chance,
    ) -> None:
        self._context = LoopContext(
            options=options,
            run=run,
            turn=asyncio.Semaphore(MAX_AT_ONCE),
            address=address,
            keep=self._keep,
            now_s=now_s,
            monotonic_s=monotonic_s,
            chance=chance,
        )
        self._book = book
        self._loops: dict[str, PeerLoop] = {}
        self._others: dict[str, PeerLine] = {}
        self._saving = asyncio.Lock()
        self._changing = asyncio.Lock()
        self._is_active = False
        self._by_hand = 0
        self._trouble = ""

    @property
    def is_active(self) -> bool:
        """Whether there are rounds by the clock."""
        return self._is_active

    async def open(self) -> None:
        """Take up the peers of the settings and those that were kept.

        Raises:
            PeerBookError: What was kept cannot be read.
        """
        kept = {state.url: state for state in await asyncio.to_thread(self._book.load)}
        wanted = {url: kept.get(url, PeerState(url=url)) for url in self._context.options.peers}
        wanted |= {url: state for url, state in kept.items() if state.is_added}
        for state in wanted.values():
            await self._take_up(state)

    async def close(self) -> None:
        """Break off everything; what was reached is kept."""
        self._is_active = False
        await asyncio.gather(*(loop.close() for loop in self._loops.values()))

    def start(self) -> None:
        """Begin rounds by the clock; doing so twice is no error."""
        if not self._is_active:
            log.info("syncing with %d peers every %g s", len(self._loops), self._context.options.interval_s)
        self._set_active(True)

    def stop(self) -> None:
        """End them, and those under way; doing so twice is no error. Syncs by hand go on."""
        if self._is_active:
            log.info("no more syncing with peers by the clock")
        self._set_active(False)

    def trigger(self, url: str, wanted: Filter | None) -> None:
        """Do a full round with a peer soon, or with all if the URL is empty; does not wait for it.

        Args:
            url: The peer.
            wanted: Which events; None = as in the settings.

        Raises:
            UnknownPeerError: There is no such peer.
            TooManyError: Too many rounds wait already; with several peers, some of them may have been asked.
        """
        if url and url not in self._loops:
            raise UnknownPeerError(f"{url} is not a peer: add it first")
        for loop in [self._loops[url]] if url else list(self._loops.values()):
            if not loop.ask(wanted):
                raise TooManyError(f"too many rounds with {loop.state.url} wait already")

    async def add(self, url: str) -> None:
        """Sync with one more relay from now on, and after a restart; one that is a peer already is no error.

        Raises:
            SyncFailedError: It is this relay itself.
            TooManyError: There are too many.
            PeerBookError: It cannot be kept, and was not added.
        """
        await refuse_own(self._context.address, url)
        async with self._changing:
            if url in self._loops:
                return
            if len(self._loops) >= MAX_PEERS:
                raise TooManyError(f"there are {MAX_PEERS} peers already, which is the maximum")
            loop = await self._take_up(PeerState(url=url, is_added=True))
            try:
                await self._save()
            except PeerBookError:
                await self._give_up(url)
                raise
            loop.set_active(self._is_active)
            log.info("%s is a peer now", url)

    async def remove(self, url: str) -> None:
        """Break off and forget a peer; one that is none is no error.

        Raises:
            PeerBookError: That cannot be kept, and after a restart it would be there again.
        """
        async with self._changing:
            if url not in self._loops:
                return
            await self._give_up(url)
            await self._save()
            await asyncio.to_thread(self._book.save_memory, url, b"")
            log.info("%s is no peer any more", url)

    def peers(self) -> list[PeerStatus]:
        """All of them, in the order of their coming."""
        return [_status(loop) for loop in self._loops.values()]

    def peer(self, url: str) -> PeerStatus | None:
        """One of them; None if there is no such peer."""
        loop = self._loops.get(url)
        return None if loop is None else _status(loop)

    async def sync(self, request: SyncRequest, on_progress: Callable[[SyncProgress], None]) -> SyncResult:
        """One sync with any relay; it waits for the one that is under way with the same relay.

        Raises:
            SyncFailedError: It broke off, or the relay is this one.
            StoreError: The store cannot be used.
            TooManyError: There are too many.
        """
        if self._by_hand >= MAX_BY_HAND:
            raise TooManyError(f"{MAX_BY_HAND} syncs are under way already, which is the maximum")
        self._by_hand += 1
        try:
            await refuse_own(self._context.address, request.url)
            line = self._line(request.url)
            try:
                async with line.turn():
                    with line.fresh_memory() as memory:
                        return await self._context.run(request, memory, on_progress)
            finally:
                self._forget_unused(request.url, line)
        finally:
            self._by_hand -= 1

    def _set_active(self, is_active: bool) -> None:
        self._is_active = is_active
        for loop in self._loops.values():
            loop.set_active(is_active)

    async def _take_up(self, state: PeerState) -> PeerLoop:
        """Make it a peer. Syncs by hand may begin meanwhile, and have the same line."""
        url, is_new = state.url, state.url not in self._others
        line = self._line(url)
        with line.in_use():
            if is_new:
                memory = await asyncio.to_thread(self._book.load_memory, url, now_s=self._context.now_s())
                memory.take_in(line.memory)
                line.memory = memory
            loop = self._loops[url] = PeerLoop(state, line, self._context)
            del self._others[url]
        return loop

    async def _give_up(self, url: str) -> None:
        """Make it none; with syncs by hand it is as in `_take_up`."""
        loop = self._loops.pop(url)
        line = self._others[url] = loop.line
        with line.in_use():
            await loop.close()
        self._forget_unused(url, line)

    def _forget_unused(self, url: str, line: PeerLine) -> None:
        if not line.n_users and self._others.get(url) is line:
            del self._others[url]

    def _line(self, url: str) -> PeerLine:
        if (loop := self._loops.get(url)) is not None:
            return loop.line
        return self._others.setdefault(url, PeerLine(PeerMemory()))

    async def _keep(self, loop: PeerLoop) -> None:
        """After a round; a disk that is full must not end the syncing, and is told once."""
        try:
            await asyncio.to_thread(self._keep_memory, loop)
            await self._save()
        except PeerBookError as error:
            if str(error) != self._trouble:
                log.warning("the state of peers is not kept: %s", error)
            self._trouble = str(error)
        else:
            self._trouble = ""

    def _keep_memory(self, loop: PeerLoop) -> None:
        """On another thread; nothing else uses the memory meanwhile, for the loop holds its lock."""
        line = loop.line
        if loop.state.url in self._loops and line.memory.version != line.kept_version:
            self._book.save_memory(loop.state.url, line.memory.to_bytes(now_s=self._context.now_s()))
            line.kept_version = line.memory.version

    async def _save(self) -> None:
        async with self._saving:
            states = tuple(loop.state for loop in self._loops.values())
            await asyncio.to_thread(self._book.save, states)


def _status(loop: PeerLoop) -> PeerStatus:
    if loop.is_syncing:
        return PeerStatus(state=loop.state, status="syncing")
    return PeerStatus(state=loop.state, status="error" if loop.state.consecutive_failures else "idle")
