"""The way of a client's event into the store: decode, check, verify, save, answer; in batches, never one by one."""

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from orly.access.decide import Treatment
from orly.intake.plugin import WritePlugin
from orly.intake.plugin_lines import Ruling
from orly.intake.policy import WritePolicy
from orly.intake.verdict import BAD_SIGNATURE, TOO_MANY_OF_AUTHOR
from orly.intake.verify import Verifier
from orly.nostr.event import EncodedEvent, EventError, decode_event
from orly.nostr.kinds import is_ephemeral
from orly.nostr.message import ok_text
from orly.nostr.reason import Prefix, Refusal
from orly.relay.batch import (
    DUPLICATE,
    LATER,
    TOO_MANY_WAIT,
    Batch,
    Publisher,
    asked_of,
    ok_for,
    unreadable_answer,
)
from orly.relay.rates import Rates
from orly.relay.stranger_limits import StrangerLimits
from orly.store.base import EventStore, SaveResult, SaveStatus, StoreError

__all__ = ["Ingest", "Publisher", "ok_for"]

BATCH_EVENTS: Final = 128
"""Events decoded and verified at a stretch: about 4 ms of the loop."""

MAX_SAVES: Final = 4
"""Batches on their way to the disk at once; the next is prepared meanwhile."""

MAX_WAITING_BYTES: Final = 64 * 1024 * 1024
"""Events of all connections that may wait for their answers before every connection is held to a few; a store that
stands still must not fill the memory."""

MAX_DELAYED_BYTES: Final = 16 * 1024 * 1024
"""Events of strangers that may wait for their time at once (mode `follows`)."""

RECENT_EPHEMERAL_IDS: Final = 10_000
"""Ephemeral events are remembered this long, so that two relays forwarding to each other do not loop."""

log = logging.getLogger(__name__)


class Ingest:
    """One per process; batches the events of all its connections."""

    def __init__(
        self,
        store: EventStore,
        policy: WritePolicy,
        *,
        now_s: Callable[[], int],
        loop: asyncio.AbstractEventLoop,
        share_verification: bool,
        store_health: Callable[[], str | None] = lambda: None,
        limits: StrangerLimits | None = None,
        rates: Rates | None = None,
        plugin: WritePlugin | None = None,
    ) -> None:
        """Must be made on the event loop that uses it.

        Args:
            store: Where events go.
            policy: The limits on them.
            now_s: The clock that decides their age.
            loop: The event loop.
            share_verification: See `Verifier`.
            store_health: None while the store can be written to, else why not.
            limits: On those who may publish only so much; None = nobody is limited.
            rates: How many events of an author are taken; None = any number.
            plugin: A program that judges every event; None = there is none.
        """
        self._store = store
        self._limits = limits
        self._plugin = plugin
        self._rates = rates if rates is not None and rates.limit_authors else None
        self._policy = policy
        self._now_s = now_s
        self._loop = loop
        self._store_health = store_health
        self._verifier = Verifier(share=share_verification)
        self._queue: deque[tuple[Publisher, bytes, bool]] = deque()
        self._waiting: dict[object, tuple[asyncio.TimerHandle, Publisher, bytes]] = {}
        self._waiting_bytes = 0
        self._delayed_bytes = 0
        self._saves: set[asyncio.Task[None]] = set()
        self._unanswered: deque[Batch] = deque()
        self._scheduled = False
        self._still_taken: int | None = None
        self._hopeless = 0
        self._failure = ""
        self._idle = asyncio.Event()
        self._idle.set()
        self._ephemeral_ids: OrderedDict[bytes, None] = OrderedDict()

    @property
    def is_full(self) -> bool:
        """Whether as much waits for its answers as should: who has some under way sends no more for now."""
        return self._waiting_bytes > MAX_WAITING_BYTES

    def submit(self, publisher: Publisher, raw: bytes) -> None:
        """Take one event, as it came; the publisher is answered later."""
        self._enqueue(publisher, raw, has_waited=False)

    def _enqueue(self, publisher: Publisher, raw: bytes, *, has_waited: bool) -> None:
        self._queue.append((publisher, raw, has_waited))
        self._waiting_bytes += len(raw)
        if not self._scheduled and len(self._saves) < MAX_SAVES:
            self._schedule()

    async def drain(self) -> None:
        """Refuse what comes from now on, and return when everything that came before is answered."""
        self._still_taken = len(self._queue)
        for key in tuple(self._waiting):
            self._has_waited(key)
        await self._idle.wait()
        self._verifier.close()
        if self._limits is not None:
            await self._limits.close()

    def _schedule(self) -> None:
        self._scheduled = True
        self._idle.clear()
        self._loop.call_soon(self._work)

    def _work(self) -> None:
        """Take what queued up as far as it can be decided at once; hand the rest to the store."""
        self._scheduled = False
        is_hopeless = self._hopeless > 0
        batch = self._next_batch()
        if batch.events and is_hopeless:
            self._give_up(batch)
        elif batch.events:
            self._drop_known(batch)
            self._drop_unsigned(batch)
            self._drop_echoes(batch)
            self._limit_authors(batch)
            self._limit_strangers(batch)
        self._unanswered.append(batch)
        if batch.events:
            save = self._loop.create_task(self._save(batch))
            self._saves.add(save)
            save.add_done_callback(partial(self._saved, batch))
        else:
            self._complete(batch)
        self._continue()

    def _continue(self) -> None:
        if self._queue:
            if not self._scheduled and len(self._saves) < MAX_SAVES:
                self._schedule()
        elif not self._saves and not self._scheduled and not self._waiting:
            self._idle.set()

    def _saved(self, batch: Batch, save: asyncio.Task[None]) -> None:
        self._saves.discard(save)
        error = asyncio.CancelledError() if save.cancelled() else save.exception()
        if error is not None:
            log.error("a batch of events was lost on its way to the store", exc_info=error)
            self._settle(batch, [SaveResult(SaveStatus.FAILED, detail="internal error")] * len(batch.events))
        self._complete(batch)
        self._continue()

    def _next_batch(self) -> Batch:
        size = min(self._hopeless or len(self._queue), BATCH_EVENTS)
        self._hopeless -= min(size, self._hopeless)
        batch = Batch(size)
        now_s = self._now_s()
        for slot in range(size):
            publisher, raw, has_waited = self._queue.popleft()
            batch.publishers.append(publisher)
            if has_waited:
                batch.waited.add(slot)
            batch.n_bytes += len(raw)
            if self._still_taken is not None:
                self._still_taken -= 1
            try:
                event = decode_event(raw)
            except EventError as error:
                batch.answers[slot] = unreadable_answer(error)
                continue
            refusal = self._refuse(event, publisher, now_s, has_waited=has_waited)
            if refusal is None:
                batch.events.append(event)
                batch.slots.append(slot)
            else:
                batch.answers[slot] = ok_text(event.event.id, refusal)
        return batch

    def _refuse(self, event: EncodedEvent, publisher: Publisher, now_s: int, *, has_waited: bool) -> Refusal | None:
        if self._still_taken is not None and self._still_taken < 0:
            return Refusal(Prefix.ERROR, "the relay is stopping")
        if not has_waited and (too_many := publisher.refuse_event()) is not None:
            return too_many
        refusal = self._policy.check(event, now_s=now_s, authenticated=publisher.authenticated)
        if refusal is None:
            return publisher.visitor.refuse_write(event)
        if refusal.prefix is Prefix.AUTH_REQUIRED:
            publisher.challenge()
        return refusal

    def _drop_known(self, batch: Batch) -> None:
        """Answer duplicates before their signatures are checked: a look-up costs a thirtieth of that."""
        try:
            known = self._store.known([event.id for event in batch.events])
        except StoreError:
            return  # only a hint: the save decides, and says what is wrong
        if self._ephemeral_ids:
            known = [seen or event.id in self._ephemeral_ids for seen, event in zip(known, batch.events, strict=True)]
        if any(known):
            for seen, slot, event in zip(known, batch.slots, batch.events, strict=True):
                if seen:
                    batch.answers[slot] = ok_for(event, DUPLICATE)
                    self._give_back(batch, slot, event)
            batch.keep([not seen for seen in known])

    def _drop_unsigned(self, batch: Batch) -> None:
        valid = self._verifier.verify(batch.events)
        if not all(valid):
            for good, slot, event in zip(valid, batch.slots, batch.events, strict=True):
                if not good:
                    batch.answers[slot] = ok_text(event.event.id, BAD_SIGNATURE)
            batch.keep(valid)

    def _drop_echoes(self, batch: Batch) -> None:
        """Answer ephemeral events that came before, and remember the others.

        No store would know them. They are remembered once they are verified, lest a forged copy keep out the real one,
        and before they are delivered, since the second copy may be in the same batch.
        """
        if not any(is_ephemeral(event.event.kind) for event in batch.events):
            return
        fresh = [not is_ephemeral(event.event.kind) or self._remember(event.id) for event in batch.events]
        if not all(fresh):
            for new, slot, event in zip(fresh, batch.slots, batch.events, strict=True):
                if not new:
                    batch.answers[slot] = ok_for(event, DUPLICATE)
            batch.keep(fresh)

    def _limit_authors(self, batch: Batch) -> None:
        """Refuse events of authors who publish too much; what is not stored after all is given back to them.

        Else anybody could use up what they may, with old events of theirs.
        """
        rates = self._rates
        if rates is None:
            return
        kept = []
        for slot, event in zip(batch.slots, batch.events, strict=True):
            is_free = slot in batch.waited or batch.publishers[slot].visitor.standing.moderates
            is_kept = is_free or rates.take_event_of(event.pubkey)
            if is_kept and not is_free:
                batch.charged.add(slot)
            kept.append(is_kept)
        if not all(kept):
            for is_kept, slot, event in zip(kept, batch.slots, batch.events, strict=True):
                if not is_kept:
                    batch.answers[slot] = ok_text(event.event.id, TOO_MANY_OF_AUTHOR)
            batch.keep(kept)

    def _limit_strangers(self, batch: Batch) -> None:
        """Have events wait, or refuse them, whose authors may publish only so much; their signatures are valid."""
        if self._limits is None or not self._limits.are_on:
            return
        kept = []
        for slot, event in zip(batch.slots, batch.events, strict=True):
            visitor = batch.publishers[slot].visitor
            match visitor.treatment(event):
                case Treatment.FREE:
                    kept.append(True)
                case Treatment.COUNTED:
                    refusal = self._limits.take(event, visitor.place)
                    if refusal is None:
                        batch.counted.add(slot)
                    else:
                        batch.answers[slot] = ok_text(event.event.id, refusal)
                    kept.append(refusal is None)
                case Treatment.THROTTLED:
                    kept.append(slot in batch.waited)
                    if slot not in batch.waited:
                        self._delay(self._limits, batch, slot, event)
        if not all(kept):
            batch.keep(kept)

    def _delay(self, limits: StrangerLimits, batch: Batch, slot: int, event: EncodedEvent) -> None:
        """Take an event again after a time; nobody else waits for it."""
        if self._delayed_bytes + len(event.raw) > MAX_DELAYED_BYTES:
            batch.answers[slot] = ok_text(event.event.id, TOO_MANY_WAIT)
            self._give_back(batch, slot, event)
            return
        delay_s = limits.delay_s(event, batch.publishers[slot].visitor.place)
        batch.answers[slot] = LATER
        self._delayed_bytes += len(event.raw)
        key = object()
        self._waiting[key] = (
            self._loop.call_later(delay_s, self._has_waited, key),
            batch.publishers[slot],
            event.raw,
        )
        self._waiting_bytes += len(event.raw)

    def _has_waited(self, key: object) -> None:
        handle, publisher, raw = self._waiting.pop(key)
        handle.cancel()
        self._delayed_bytes -= len(raw)
        self._waiting_bytes -= len(raw)
        self._enqueue(publisher, raw, has_waited=True)

    def told_ephemeral(self, events: Sequence[EncodedEvent]) -> None:
        """Remember what was delivered, also by other processes."""
        for event in events:
            self._remember(event.id)

    def _give_up(self, batch: Batch) -> None:
        """Answer events that waited behind others which the store did not take."""
        failed = SaveResult(SaveStatus.FAILED, detail=self._failure)
        for slot, event in zip(batch.slots, batch.events, strict=True):
            batch.answers[slot] = ok_for(event, failed)
        batch.keep([False] * len(batch.events))

    def _remember(self, event_id: bytes) -> bool:
        if event_id in self._ephemeral_ids:
            return False
        self._ephemeral_ids[event_id] = None
        if len(self._ephemeral_ids) > RECENT_EPHEMERAL_IDS:
            self._ephemeral_ids.popitem(last=False)
        return True

    async def _save(self, batch: Batch) -> None:
        if self._plugin is not None:
            await self._drop_judged(self._plugin, batch)
        try:
            results = await self._store.save(batch.events)
        except StoreError as error:
            results = [SaveResult(SaveStatus.FAILED, detail=str(error))] * len(batch.events)
        self._settle(batch, results)

    async def _drop_judged(self, plugin: WritePlugin, batch: Batch) -> None:
        """Answer events that the operator's program does not want."""
        now_s = self._now_s()
        asked = [
            asked_of(event, batch.publishers[slot], now_s)
            for slot, event in zip(batch.slots, batch.events, strict=True)
        ]
        judgements = await plugin.judge(asked)
        kept = [judgement is Ruling.ACCEPTED for judgement in judgements]
        for judgement, slot, event in zip(judgements, batch.slots, batch.events, strict=True):
            if judgement is not Ruling.ACCEPTED:
                refusal = None if isinstance(judgement, Ruling) else judgement
                batch.answers[slot] = ok_text(event.event.id, refusal)
                self._not_stored(batch, slot, event)
        batch.keep(kept)

    def _not_stored(self, batch: Batch, slot: int, event: EncodedEvent) -> None:
        """Take back what was noted of an event that is not stored after all."""
        self._give_back(batch, slot, event)
        self._ephemeral_ids.pop(event.id, None)

    def _give_back(self, batch: Batch, slot: int, event: EncodedEvent) -> None:
        """Take back what an event has cost its author, and the place it came from."""
        has_waited = slot in batch.waited
        if self._rates is not None and (slot in batch.charged or has_waited):
            self._rates.give_back_event_of(event.pubkey)
        if self._limits is None:
            return
        if slot in batch.counted:
            self._limits.settle(event, batch.publishers[slot].visitor.place, is_stored=False)
        elif has_waited:
            self._limits.take_back(event)

    def _settle(self, batch: Batch, results: Sequence[SaveResult]) -> None:
        """Note what the store said."""
        failures = [result.detail for result in results if result.status is SaveStatus.FAILED]
        if failures:
            log.error("%d events could not be stored: %s", len(failures), failures[0])
            if len(failures) == len(results) and self._store_health() is not None:
                # The store is away. What queued up meanwhile has waited as well, and each has a right to its answer
                # within the time that one event may wait.
                self._failure = failures[0]
                self._hopeless = len(self._queue)
                if self._hopeless:
                    log.error("%d events that wait behind them fail as well", self._hopeless)
        for slot, event, result in zip(batch.slots, batch.events, results, strict=True):
            batch.answers[slot] = ok_for(event, result)
            if result.status not in (SaveStatus.STORED, SaveStatus.DELIVERED):
                self._not_stored(batch, slot, event)
            elif slot in batch.counted and self._limits is not None:
                self._limits.settle(event, batch.publishers[slot].visitor.place, is_stored=True)

    def _complete(self, batch: Batch) -> None:
        """Answer a batch once all before it are answered: a client hears of its events in the order it sent them."""
        batch.is_complete = True
        while self._unanswered and self._unanswered[0].is_complete:
            self._answer(self._unanswered.popleft())

    def _answer(self, batch: Batch) -> None:
        self._waiting_bytes -= batch.n_bytes
        by_publisher: dict[int, tuple[Publisher, list[bytes]]] = {}
        for publisher, answer in zip(batch.publishers, batch.answers, strict=True):
            assert answer is not None
            if answer is LATER:
                continue
            by_publisher.setdefault(id(publisher), (publisher, []))[1].append(answer)
        for publisher, answers in by_publisher.values():
            publisher.answered(answers, len(answers))
