"""One side of a sync for tests: a store with all that `sync_with_peer` needs beside it."""

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.factory import NOW_S, make_event

from orly.intake.plugin import WritePlugin
from orly.intake.policy import WritePolicy
from orly.intake.verify import Verifier
from orly.nostr.event import EncodedEvent
from orly.nostr.filter import Filter
from orly.store.base import Query
from orly.store.lmdb.store import LmdbStore
from orly.sync.ingest import Door
from orly.sync.negentropy.peer_memory import PeerMemory
from orly.sync.negentropy.request import Direction, SyncProgress, SyncRequest, SyncResult
from orly.sync.negentropy.run import sync_with_peer
from orly.sync.negentropy.sets import SetKeeper

__all__ = ["POLICY", "Side", "hex_ids", "notes", "side"]

POLICY: Final = WritePolicy(
    max_event_bytes=256 * 1024, max_event_tags=2000, max_created_at_past_s=0.0, max_created_at_future_s=900.0
)
_STORE_BYTES: Final = 256 * 1024 * 1024


def notes(*numbers: int, key: int = 0) -> list[EncodedEvent]:
    """Signed notes, one per number and second."""
    return [make_event(key, created_at=NOW_S - 10_000 + number, content=f"note {number}") for number in numbers]


def hex_ids(events: Iterable[EncodedEvent]) -> set[str]:
    return {event.event.id for event in events}


@dataclass(slots=True, kw_only=True)
class Side:
    """A store that can sync.

    Attributes:
        store: Its events.
        sets: Their sets.
        verifier: Checks signatures.
        policy: Which events it takes.
        memory: Of its one peer.
        progress: What the last sync told.
        time: Its clock, Unix seconds, in the one element.
        plugin: Judges what is pulled.
    """

    store: LmdbStore
    sets: SetKeeper
    verifier: Verifier
    time: list[int]
    policy: WritePolicy = POLICY
    memory: PeerMemory = field(default_factory=PeerMemory)
    progress: list[SyncProgress] = field(default_factory=list)
    plugin: WritePlugin | None = None

    def now_s(self) -> int:
        return self.time[0]

    @property
    def door(self) -> Door:
        return Door(self.store, self.policy, self.verifier, self.now_s, plugin=self.plugin)

    async def fill(self, events: Sequence[EncodedEvent]) -> None:
        """Store events without looking at their signatures."""
        for start in range(0, len(events), 500):
            await self.store.save(events[start : start + 500])

    async def ids(self, wanted: Filter | None = None) -> set[str]:
        """Everything that is visible, private events too."""
        rows = (await self.store.items(Query(filters=(wanted or Filter(),)))).rows
        return {rows[at + 8 : at + 40].hex() for at in range(0, len(rows), 40)}

    async def sync(
        self, url: str, direction: Direction = Direction.BOTH, wanted: Filter | None = None, **options: Any
    ) -> SyncResult:
        """Sync with a relay."""
        self.progress.clear()
        options = {"timeout_s": 5.0, **options}
        return await sync_with_peer(
            SyncRequest(url=url, filter=wanted or Filter(), direction=direction, **options),
            store=self.store,
            sets=self.sets,
            door=self.door,
            memory=self.memory,
            now_s=self.now_s,
            on_progress=self.progress.append,
        )


@asynccontextmanager
async def side(directory: Path, events: Iterable[EncodedEvent] = ()) -> AsyncIterator[Side]:
    """Opens a store, with these events in it."""
    time = [NOW_S]
    store = await LmdbStore.open(
        directory, max_bytes=_STORE_BYTES, now_s=lambda: time[0], monotonic_s=lambda: float(time[0])
    )
    sets = SetKeeper(store, max_items=1_000_000, max_sets_bytes=1 << 30, now_s=lambda: time[0])
    verifier = Verifier(share=False)
    try:
        own = Side(store=store, sets=sets, verifier=verifier, time=time)
        await own.fill(list(events))
        yield own
    finally:
        verifier.close()
        await sets.close()
        await store.close()
