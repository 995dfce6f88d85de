"""What the parts of one sync share: whom they talk to, what they count, and how much may wait."""

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

from orly.nostr.filter import Filter
from orly.store.base import ITEM_BYTES, READ_ALL, EventStore, Query, ReadScope
from orly.sync.ingest import Door
from orly.sync.negentropy.peer_memory import PeerMemory
from orly.sync.negentropy.request import Phase, SyncProgress, SyncRequest
from orly.sync.negentropy.state import wants_key
from orly.sync.peer import PeerConnection

__all__ = ["MAX_WAITING_IDS", "Room", "SyncContext", "Tally", "key_hint", "stored_ids"]

MAX_WAITING_IDS: Final = 200_000
"""Ids that wait to be fetched or sent, about 100 bytes each; above it the reconciliation pauses."""

_MAX_REASONS: Final = 50
_MAX_REASON_CHARACTERS: Final = 160
_OTHER_REASONS: Final = "other reasons"
_NUMBER: Final = re.compile(r"[0-9]+")
_SHOWN_REASONS: Final = 5
_ID_OFFSET: Final = 8
_WITH_PRIVATE: Final = ReadScope(private_kinds=frozenset())


class Tally:
    """The numbers of one sync, and why events did not go where they should.

    Attributes:
        have_ids: What only this store had, if the request wants it listed.
        need_ids: What only the peer had, likewise.
        unavailable_ids: What the peer announced and did not send in this sync.
        rejected_ids: What the peer refused in this sync, and whether it would do so again.
        passing: Of what was refused here or by the peer, how many events may be taken another time.
        gaps: What could not even be compared; one line each.
    """

    def __init__(self, peer: PeerConnection, *, list_ids: bool, on_progress: Callable[[SyncProgress], None]) -> None:
        self._peer = peer
        self._list_ids = list_ids
        self._on_progress = on_progress
        self._refused_reasons = _Reasons()
        self._rejected_reasons = _Reasons()
        self.phase = Phase.RECONCILING
        self.round = 0
        self.have = self.need = 0
        self.fetched = self.known = self.unwanted = self.refused = self.unavailable = 0
        self.sent = self.unneeded = self.rejected = 0
        self.have_ids: list[bytes] = []
        self.need_ids: list[bytes] = []
        self.unavailable_ids: set[bytes] = set()
        self.rejected_ids: dict[bytes, bool] = {}
        self.passing = 0
        self.gaps: list[str] = []

    def progress(self) -> SyncProgress:
        """The numbers now."""
        counters = self._peer.counters()
        return SyncProgress(
            phase=self.phase,
            round=self.round,
            have=self.have,
            need=self.need,
            fetched=self.fetched,
            known=self.known,
            unwanted=self.unwanted,
            refused=self.refused,
            unavailable=self.unavailable,
            sent=self.sent,
            unneeded=self.unneeded,
            rejected=self.rejected,
            bytes_sent=counters.bytes_sent,
            bytes_received=counters.bytes_received,
        )

    def tell(self) -> None:
        """Report the numbers; called per message and per batch."""
        self._on_progress(self.progress())

    def found(self, *, have: Collection[bytes] = (), need: Collection[bytes] = ()) -> None:
        """Count differences, and list what only this store has."""
        self.have += len(have)
        self.need += len(need)
        if self._list_ids:
            self.have_ids += have

    def list_need(self, ids: Collection[bytes]) -> None:
        """List what only the peer has, once it is known not to be here."""
        if self._list_ids:
            self.need_ids += ids

    def refuse(self, reason: str, *, is_passing: bool = False) -> None:
        """Count an event that our rules refused."""
        self.refused += 1
        self.passing += is_passing
        self._refused_reasons.count(reason)

    def reject(self, reason: str, *, is_passing: bool = False) -> None:
        """Count an event that the peer refused."""
        self.rejected += 1
        self.passing += is_passing
        self._rejected_reasons.count(reason)

    def unreject(self, count: int, *, passing: int) -> None:
        """Take back what turned out to be no loss, and of this what the peer might have taken another time."""
        self.rejected -= count
        self.passing -= passing
        self.unneeded += count

    @property
    def is_complete(self) -> bool:
        """Whether nothing is missing on either side."""
        return not (self.refused or self.unavailable or self.rejected or self.gaps)

    @property
    def is_settled(self) -> bool:
        """Whether nothing is missing but what the next sync would not bring either."""
        return not (self.passing or self.gaps)

    def problems(self) -> tuple[str, ...]:
        """What an operator should know of."""
        lines = []
        if self.refused:
            lines.append(f"{_events(self.refused)} refused by us: {self._refused_reasons}")
        if self.unavailable:
            lines.append(f"{_events(self.unavailable)} announced by the peer and not sent")
        if self.rejected:
            lines.append(f"{_events(self.rejected)} rejected by the peer: {self._rejected_reasons}")
        if self.unwanted:
            lines.append(f"{_events(self.unwanted)} not kept here: replaced, deleted, expired or ephemeral")
        return (*lines, *self.gaps[:_SHOWN_REASONS])


def _events(count: int) -> str:
    return "1 event" if count == 1 else f"{count} events"


class _Reasons:
    """Why events did not go where they should; those that differ in numbers only are one, shown as the first was."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._first: dict[str, str] = {}
        self._varied: set[str] = set()

    def count(self, reason: str) -> None:
        text = reason[:_MAX_REASON_CHARACTERS] or "no reason given"
        kind = _NUMBER.sub("#", text)
        if kind not in self._counts and len(self._counts) >= _MAX_REASONS:
            kind = text = _OTHER_REASONS
        self._counts[kind] += 1
        if self._first.setdefault(kind, text) != text:
            self._varied.add(kind)

    def __str__(self) -> str:
        most = self._counts.most_common(_SHOWN_REASONS)
        shown = [
            f"{self._first[kind]}{', and alike' if kind in self._varied else ''} ({count})" for kind, count in most
        ]
        n_more = self._counts.total() - sum(count for _, count in most)
        return ", ".join(shown + ([f"and {n_more} more"] if n_more else []))


class Room:
    """How many ids wait for their transfer in all; whoever finds more waits until there is room."""

    def __init__(self, max_ids: int = MAX_WAITING_IDS) -> None:
        self._max_ids = max_ids
        self._n_ids = 0
        self._is_free = asyncio.Event()
        self._is_free.set()

    def add(self, count: int) -> None:
        """Count ids that wait from now on; negative for those that do not any more."""
        self._n_ids += count
        if self._n_ids <= self._max_ids:
            self._is_free.set()
        else:
            self._is_free.clear()

    async def free(self) -> None:
        """Return when more may come."""
        await self._is_free.wait()


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncContext:
    """One sync.

    Attributes:
        request: What is to be done.
        peer: The connection.
        store: Our events.
        door: Where pulled events go.
        memory: What earlier syncs with this peer found out.
        tally: The numbers.
        room: What waits.
        now_s: The clock.
    """

    request: SyncRequest
    peer: PeerConnection
    store: EventStore
    door: Door
    memory: PeerMemory
    tally: Tally
    room: Room
    now_s: Callable[[], int]

    @property
    def scope(self) -> ReadScope:
        """Which of our events the peer may have."""
        return _WITH_PRIVATE if self.request.private_kinds else ReadScope()


def key_hint(request: SyncRequest, reason: str) -> str:
    """What can be done about a refusal for want of a key, in brackets; empty if it was for something else."""
    if not wants_key(reason):
        return ""
    if request.auth_key is not None:
        return " (it does not take our key)"
    return " (it wants a key, and none is given: see --auth-key-file and ORLY_SYNC_NEGENTROPY_SECRET_KEY)"


async def stored_ids(store: EventStore, ids: Collection[bytes], scope: ReadScope = READ_ALL) -> set[bytes]:
    """Which of the ids are visible in the store to a reader."""
    wanted = Filter(ids=frozenset(event_id.hex() for event_id in ids))
    rows = (await store.items(Query(filters=(wanted,), scope=scope))).rows
    return {rows[start + _ID_OFFSET : start + ITEM_BYTES] for start in range(0, len(rows), ITEM_BYTES)}
