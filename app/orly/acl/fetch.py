"""Follow lists of owners and admins from other relays: where they say they publish, else where the settings say."""

import asyncio
import logging
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Final

from orly import clock
from orly.acl.sources import FOLLOW_LIST, RELAY_LIST, relays_of
from orly.intake.policy import policy_from_settings
from orly.intake.verify import Verifier
from orly.nostr.filter import Filter
from orly.nostr.nip42 import targets_relay
from orly.rpc.convert import filter_to_json
from orly.store.base import EventStore, StoreError
from orly.sync.ingest import Door
from orly.sync.peer import PeerConnection, PeerError, PeerOptions

if TYPE_CHECKING:
    from orly.settings import Settings

__all__ = ["FollowFetcher", "fetcher_from_settings"]

FIRST_S: Final = 15.0
"""After the start; the relay serves meanwhile."""

MAX_RELAYS: Final = 20
"""Asked in one round: authors may name any number."""

MAX_EVENTS: Final = 1_000
"""Taken from one relay in one round."""

ROUND_S: Final = 60.0
"""How long one relay may take for all it has to say."""

log = logging.getLogger(__name__)


class FollowFetcher:
    """Asks other relays from time to time; what is found is stored like any event, and takes effect by the feed.

    Args:
        store: Knows the relays of the authors, and their newest lists.
        door: Checks and stores what comes.
        authors: Keys (32 bytes) of owners and admins.
        bootstrap: Relays to be asked if the authors name none.
        own_urls: Never asked: they are this relay.
        interval_s: Between two rounds.
    """

    def __init__(
        self,
        store: EventStore,
        door: Door,
        *,
        authors: Collection[bytes],
        bootstrap: Sequence[str],
        own_urls: Sequence[str],
        interval_s: float,
    ) -> None:
        self._store = store
        self._door = door
        self._authors = authors
        self._bootstrap = bootstrap
        self._own_urls = own_urls
        self._interval_s = interval_s
        self._task: asyncio.Task[None] | None = None

    def start(self, first_s: float = FIRST_S) -> None:
        """Ask after a while, then again and again."""
        self._task = asyncio.create_task(self._run(first_s))

    async def close(self) -> None:
        """Ask no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))

    async def _run(self, first_s: float) -> None:
        await asyncio.sleep(first_s)
        while True:
            try:
                await self.round()
            except StoreError as error:
                log.warning("follow lists could not be looked for: %s", error)
            await asyncio.sleep(self._interval_s)

    async def round(self) -> int:
        """Ask every relay once; how many events were new.

        Raises:
            StoreError: The store cannot be asked for the relays.
        """
        named = await relays_of(self._store, self._authors)
        urls = [url for url in named or self._bootstrap if not targets_relay([url], self._own_urls)]
        found = 0
        for url in urls[:MAX_RELAYS]:
            try:
                async with asyncio.timeout(ROUND_S):
                    found += await self._ask(url)
            except (PeerError, StoreError) as error:
                log.info("no follow lists from %s: %s", url, error)
            except TimeoutError:
                log.info("no follow lists from %s: it took longer than %g s", url, ROUND_S)
        if found:
            log.info("%d follow and relay lists were found on other relays", found)
        return found

    async def _ask(self, url: str) -> int:
        wanted = Filter(kinds=frozenset({FOLLOW_LIST, RELAY_LIST}), authors=frozenset(map(bytes.hex, self._authors)))
        sink = _Sink()
        connection = await PeerConnection.open(url, PeerOptions())
        try:
            await connection.fetch([filter_to_json(wanted)], sink, most=MAX_EVENTS).wait()
        finally:
            await connection.close()
        result = await self._door.offer(sink.raws, None, matching=wanted)
        return len(result.stored)


def fetcher_from_settings(settings: "Settings", store: EventStore, verifier: Verifier) -> FollowFetcher | None:
    """What looks for follow lists elsewhere; None where that is not needed, or not wanted."""
    if settings.acl_mode != "follows" or not settings.follow_list_frequency_s:
        return None
    authors = [bytes.fromhex(key) for key in (*settings.owners, *settings.admins)]
    if not authors:
        return None
    return FollowFetcher(
        store,
        Door(store, policy_from_settings(settings), verifier, clock.now_s),
        authors=authors,
        bootstrap=settings.bootstrap_relays,
        own_urls=[settings.relay_url] if settings.relay_url else [],
        interval_s=settings.follow_list_frequency_s,
    )


class _Sink:
    def __init__(self) -> None:
        self.raws: list[bytes] = []

    def events(self, rows: list[bytes]) -> None:
        self.raws += rows

    def ended(self, reason: str | None) -> None:
        """Whatever the reason, what came is looked at."""
