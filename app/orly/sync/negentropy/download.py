"""Pulling events by their ids: several REQs in flight, batches through the door, bounded memory."""

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Final, assert_never

from orly.nostr.filter import Filter
from orly.store.base import Query, StoreError
from orly.sync.ingest import Checked, OfferResult
from orly.sync.negentropy.peer_memory import MAX_REMEMBERED_IDS, Why
from orly.sync.negentropy.run_context import SyncContext, key_hint, stored_ids
from orly.sync.negentropy.state import wants_key
from orly.sync.peer import PeerRefusedError

__all__ = ["MAX_FETCHES", "MAX_HELD_BYTES", "Downloads"]

MAX_FETCHES: Final = 8
"""REQs in flight: 4000 events at 500 ids each, which fills a link of 100 ms round-trip time."""

MAX_HELD_BYTES: Final = 16 * 1024 * 1024
"""Events that came and are not stored yet; above it nothing more is read from the peer, until half of it is left."""

MAX_SAVES: Final = 3
"""Batches on their way to the disk at once; the next is checked meanwhile."""

_OFFER_EVENTS: Final = 512
_LAST_SAVES_S: Final = 2.0
"""How long the end of a sync waits for the disk."""

_MAX_REFUSED_FETCHES: Final = 12
"""A peer that refuses so many REQs at a stretch, however short, sends nothing at all."""

_MAX_BARREN_IDS: Final = 200_000
"""A peer that announces so many events at a stretch without sending one that is stored never will."""

_MAX_UNASKED: Final = 1000
"""Events that nobody asked for, above as many as were stored."""


class _Batch:
    """The ids of one REQ, and where its answer goes."""

    __slots__ = ("attempt", "ids", "owner")

    def __init__(self, owner: "Downloads", ids: list[bytes], attempt: int) -> None:
        self.owner = owner
        self.ids = ids
        self.attempt = attempt

    def events(self, rows: list[bytes]) -> None:
        """See `FetchSink`."""
        self.owner._came(rows)

    def ended(self, reason: str | None) -> None:
        """See `FetchSink`."""
        self.owner._came_to_end(self, reason)


class Downloads:
    """Fetches what is added until all of it came, or will not come; run by one task."""

    def __init__(self, context: SyncContext, *, is_dry: bool = False) -> None:
        """With `is_dry` only what is here already is found out, and nothing is fetched."""
        self._context = context
        self._is_dry = is_dry
        self._batch_ids = context.request.batch_events
        self._queue: deque[bytes] = deque()
        self._again: deque[tuple[bytes, int]] = deque()
        self._wanted: set[bytes] = set()
        self._arrived: deque[list[bytes] | tuple[_Batch, str | None]] = deque()
        self._held_bytes = 0
        self._is_paused = False
        self._n_fetches = 0
        self._saves: set[asyncio.Task[OfferResult]] = set()
        self._changed = asyncio.Event()
        self._drained = asyncio.Event()
        self._is_last = False
        self._n_refused_fetches = 0
        self._n_barren_ids = 0
        self._n_unasked = 0
        self._largest_answer = 0
        self._has_hidden: bool | None = None

    @property
    def is_over(self) -> bool:
        """Whether everything came that will come."""
        return self._is_last and not (self._has_queued() or self._n_fetches or self._arrived or self._saves)

    def add(self, ids: Sequence[bytes]) -> None:
        """Fetch these too."""
        if ids:
            self._queue.extend(ids)
            self._context.room.add(len(ids))
            self._changed.set()

    def take(self, ids: Sequence[bytes], rows: list[bytes]) -> None:
        """Take events that came on another way, by their ids and as JSON."""
        if rows:
            self._wanted.update(ids)
            self._came(rows)

    def hopeful(self, ids: Sequence[bytes]) -> list[bytes]:
        """Those of which no earlier sync found that they are of no use; the others are counted."""
        now_s = self._context.now_s()
        return [event_id for event_id in ids if not self._is_hopeless(event_id, now_s)]

    async def drained(self) -> None:
        """Return when more may be taken."""
        while self._is_paused:
            self._drained.clear()
            await self._drained.wait()

    def finish(self) -> None:
        """Nothing more will be added."""
        self._is_last = True
        self._changed.set()

    async def run(self) -> None:
        """Work until `finish` was called and all is done.

        Raises:
            PeerError: The peer refuses, or does not keep to what was asked.
            StoreError: The store does not take events.
        """
        try:
            while True:
                self._changed.clear()
                await self._ask()
                if await self._take_some() or (self._can_ask() and self._has_queued()):
                    continue
                if self.is_over:
                    return
                await self._changed.wait()
        finally:
            await self._end_saves()

    async def drain(self) -> None:
        """Store what came before the connection was lost."""
        with suppress(StoreError, PeerRefusedError):
            while await self._take_some():
                pass
            await self._end_saves()

    async def _end_saves(self) -> None:
        """Wait for what is on its way to the disk, and count it: it is stored, whatever becomes of the sync."""
        if self._saves:
            _, late = await asyncio.wait(self._saves, timeout=_LAST_SAVES_S)
            for save in late:
                save.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        while self._saves:
            with suppress(StoreError, PeerRefusedError):  # what ended the sync is known already
                self._collect()

    def _has_queued(self) -> bool:
        return bool(self._queue or self._again)

    def _can_ask(self) -> bool:
        return self._n_fetches < MAX_FETCHES and not self._is_paused

    # Asking.

    async def _ask(self) -> None:
        """Send REQs while there is something to ask and room for the answers."""
        while self._can_ask() and self._has_queued():
            ids, attempt = await self._next_ids()
            if not ids:
                continue
            self._wanted.update(ids)
            self._n_fetches += 1
            listed = b'","'.join([event_id.hex().encode() for event_id in ids])
            asked = b'{"ids":["%b"],"limit":%d}' % (listed, len(ids))
            self._context.peer.fetch([asked], _Batch(self, ids, attempt), most=len(ids))

    async def _next_ids(self) -> tuple[list[bytes], int]:
        """The ids of the next REQ, without those that are known or hopeless, and how often they were asked before."""
        if self._queue and not self._again:
            n_ids = min(len(self._queue), self._batch_ids)
            ids = [self._queue.popleft() for _ in range(n_ids)]
            self._context.room.add(-n_ids)
            return await self._choose(ids), 0
        attempt = self._again[0][1]
        ids = []
        while self._again and self._again[0][1] == attempt and len(ids) < self._batch_ids:
            ids.append(self._again.popleft()[0])
        return ids, attempt

    async def _choose(self, ids: Sequence[bytes]) -> list[bytes]:
        context = self._context
        known = context.store.known(ids)
        context.tally.known += sum(known)
        unknown = [event_id for event_id, seen in zip(ids, known, strict=True) if not seen]
        if unknown and (self._is_dry or await self._hides_some()):
            here = await stored_ids(context.store, unknown)
            context.tally.known += len(here)
            unknown = [event_id for event_id in unknown if event_id not in here]
        context.tally.list_need(unknown)
        if self._is_dry:
            return []
        return self.hopeful(unknown)

    async def _hides_some(self) -> bool:
        """Whether the store may hold events that are not in the set that was compared: private or hidden ones."""
        context = self._context
        if self._has_hidden is None:
            private = Filter(kinds=context.scope.private_kinds, limit=1)
            has_private = await context.store.count(Query(filters=(private,))) > 0
            self._has_hidden = has_private or bool(await context.store.hidden(limit=1))
        return self._has_hidden

    def _is_hopeless(self, event_id: bytes, now_s: int) -> bool:
        """Whether an earlier sync settled what becomes of the event; it is counted then."""
        tally = self._context.tally
        why = self._context.memory.why_not_pull(event_id, now_s=now_s)
        match why:
            case None:
                return False
            case Why.UNAVAILABLE:
                tally.unavailable += 1
            case Why.REFUSED:
                tally.refuse("refused in an earlier sync")
            case Why.UNWANTED:
                tally.unwanted += 1
            case Why.REJECTED | Why.UNNEEDED:
                raise AssertionError("these concern pushing")
            case _:
                assert_never(why)
        return True

    # What comes; the first two are called by the connection.

    def _came(self, rows: list[bytes]) -> None:
        self._arrived.append(rows)
        self._hold(sum(map(len, rows)))
        self._changed.set()

    def _came_to_end(self, batch: _Batch, reason: str | None) -> None:
        self._arrived.append((batch, reason))
        self._changed.set()

    def _hold(self, n_bytes: int) -> None:
        self._held_bytes += n_bytes
        if self._held_bytes > MAX_HELD_BYTES and not self._is_paused:
            self._is_paused = True
            self._context.peer.pause_reading()
        elif self._held_bytes < MAX_HELD_BYTES // 2 and self._is_paused:
            self._is_paused = False
            self._context.peer.resume_reading()
            self._drained.set()
            self._changed.set()

    async def _take_some(self) -> bool:
        """Check the next events that came, and hand them to the store; False if there are none."""
        if len(self._saves) >= MAX_SAVES:
            await asyncio.wait(self._saves, return_when=asyncio.FIRST_COMPLETED)
        self._collect()
        if not self._arrived:
            return False
        rows: list[bytes] = []
        while self._arrived and len(rows) < _OFFER_EVENTS:
            match self._arrived[0]:
                case list() as more:
                    self._arrived.popleft()
                    rows += more
                case (batch, reason):
                    if rows:
                        break  # what the batch lacks is known when these have been looked at
                    self._arrived.popleft()
                    self._end(batch, reason)
        if rows:
            await self._offer(rows)
        return True

    async def _offer(self, rows: list[bytes]) -> None:
        context, loop = self._context, asyncio.get_running_loop()
        door, request = context.door, context.request
        checking = loop.create_task(door.check(rows, self._wanted, matching=request.filter, source=request.url))
        try:
            await asyncio.shield(checking)
        finally:  # also when the sync is broken off: it is not asked for again
            save = loop.create_task(self._save(await checking))
            self._saves.add(save)
            save.add_done_callback(partial(self._saved, sum(map(len, rows))))

    async def _save(self, checked: Checked) -> OfferResult:
        return await self._context.door.save(checked)

    def _saved(self, n_bytes: int, save: asyncio.Task[OfferResult]) -> None:
        if self._context.peer.error is None:
            self._hold(-n_bytes)
        self._changed.set()

    def _collect(self) -> None:
        """Count what became of the batches that the store has answered.

        Raises:
            StoreError: It did not take one.
            PeerRefusedError: The peer sends what it was not asked for.
        """
        for save in [save for save in self._saves if save.done()]:
            self._saves.discard(save)
            if not save.cancelled():
                self._count(save.result())

    def _count(self, result: OfferResult) -> None:
        context = self._context
        tally, memory, now_s = context.tally, context.memory, context.now_s()
        if result.stored or result.known:
            self._n_barren_ids = 0
        tally.fetched += len(result.stored)
        tally.known += len(result.known)
        tally.unwanted += len(result.unwanted)
        for event_id in result.unwanted:
            memory.note(event_id, Why.UNWANTED, now_s=now_s)
        for event_id, reason in result.refused:
            tally.refuse(reason)
            memory.note(event_id, Why.REFUSED, now_s=now_s)
        for deferral in result.deferred:
            tally.refuse(deferral.reason, is_passing=deferral.until_s is None)
            if deferral.until_s is not None:  # what is ahead of our clock is new in every round
                memory.note(deferral.event_id, Why.REFUSED, now_s=now_s, until_s=deferral.until_s)
        self._n_unasked += result.n_unasked
        tally.tell()
        if self._n_unasked > _MAX_UNASKED + tally.fetched:
            text = f"{context.peer.name} sent {self._n_unasked} events that it was not asked for"
            raise PeerRefusedError(text, "")

    def _end(self, batch: _Batch, reason: str | None) -> None:
        """All that came of a REQ has been looked at: see what did not."""
        self._n_fetches -= 1
        missing = [event_id for event_id in batch.ids if event_id in self._wanted]
        self._wanted.difference_update(missing)
        n_came = len(batch.ids) - len(missing)
        if missing and not n_came and reason:
            self._refused(batch, reason)
            return
        self._n_refused_fetches = 0
        self._largest_answer = max(self._largest_answer, n_came)
        if n_came and batch.attempt:
            # They were there, and did not come the first time: the peer cuts its answers.
            self._batch_ids = max(1, min(self._batch_ids, self._largest_answer))
        if n_came or not batch.attempt:
            self._again.extend((event_id, batch.attempt + 1) for event_id in missing)
        else:
            self._give_up(missing)

    def _refused(self, batch: _Batch, reason: str) -> None:
        """A REQ was refused as a whole: it may have been too long."""
        name = self._context.peer.name
        if wants_key(reason):
            raise PeerRefusedError(
                f"{name} does not send events: {reason}{key_hint(self._context.request, reason)}", reason
            )
        if len(batch.ids) <= self._batch_ids:  # longer ones were asked before this was known
            self._n_refused_fetches += 1
            self._batch_ids = max(1, len(batch.ids) // 2)
        if self._n_refused_fetches > _MAX_REFUSED_FETCHES:
            raise PeerRefusedError(f"{name} does not send events: {reason}", reason)
        if len(batch.ids) == 1:
            self._give_up(batch.ids)
        else:
            self._again.extend((event_id, batch.attempt + 1) for event_id in batch.ids)

    def _give_up(self, ids: Sequence[bytes]) -> None:
        tally = self._context.tally
        tally.unavailable += len(ids)
        if len(tally.unavailable_ids) < MAX_REMEMBERED_IDS:
            tally.unavailable_ids.update(ids)
        tally.tell()
        self._n_barren_ids += len(ids)
        if self._n_barren_ids > _MAX_BARREN_IDS:
            # The next sync need not end in the same way.
            self._context.memory.note_all(tally.unavailable_ids, Why.UNAVAILABLE, now_s=self._context.now_s())
            text = f"{self._context.peer.name} announced {self._n_barren_ids} events and sent none of them"
            raise PeerRefusedError(text, "")
