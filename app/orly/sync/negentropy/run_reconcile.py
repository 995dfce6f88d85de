"""Finding the differences with a peer by negentropy, in as many spans of time as it takes."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from functools import partial
from typing import Final, TypeVar, assert_never

from orly.negentropy import PROTOCOL_VERSION, Initiator, ItemSet, NegentropyError, Step
from orly.store.base import Query
from orly.sync.negentropy.download import Downloads
from orly.sync.negentropy.fallback import Paging
from orly.sync.negentropy.request import Direction, SetSource
from orly.sync.negentropy.run_context import SyncContext, key_hint
from orly.sync.negentropy.state import Refused, Span, SpanPlan, encode_filter, is_about_size, narrowed, read_refusal
from orly.sync.negentropy.upload import Uploads
from orly.sync.peer import PeerRefusedError, ReconcileRefusedError

__all__ = ["FIRST_ANSWER_S", "MAX_BARREN_ROUNDS", "MAX_LACKING", "Differences"]

FIRST_ANSWER_S: Final = 20.0
"""A peer that says nothing at all to the first NEG-OPEN for so long does not know the message."""

_FIRST_SHARE: Final = 0.75
"""Of the silence that is borne, where that is shorter: afterwards the connection would be given up."""

MAX_BARREN_ROUNDS: Final = 1000
"""Answers at a stretch without a new difference; a peer that goes on for longer makes them up."""

MAX_LACKING: Final = 10_000_000
"""Events of the peer that may be lacking here in one sync; each takes some 110 bytes until the end, fetched or not."""

_TIME_BYTES: Final = 8
_MAX_LOST: Final = 3
_LARGE_SET_ITEMS: Final = 50_000
"""From here on a message takes long enough to be made on another thread."""

T = TypeVar("T")
log = logging.getLogger(__name__)


class _EnoughError(Exception):
    """So many events are lacking that the rest is left to the next sync."""


class Differences:
    """Reconciles one filter with a peer, and passes on what differs while it goes on."""

    def __init__(self, context: SyncContext, sets: SetSource, downloads: Downloads, uploads: Uploads) -> None:
        self._context = context
        self._sets = sets
        self._downloads = downloads
        self._uploads = uploads
        self._items = ItemSet.from_rows(b"")
        self._speaks_negentropy = False
        self._seen: set[bytes] = set()
        self._n_lost = 0

    @property
    def by_negentropy(self) -> bool:
        """Whether the peer has answered a negentropy message."""
        return self._speaks_negentropy

    async def find(self) -> None:
        """Find all of them.

        Raises:
            PeerError: The peer does not want to, or is gone.
            StoreError: Our set cannot be had.
            NegentropyError: What the peer says makes no sense.
        """
        wanted = self._context.request.filter
        if wanted.matches_nothing():
            return
        plan = await self._plan()
        while (span := plan.next()) is not None:
            part = self._items.between(span.since_s, span.until_s)
            paged: Span | None = None
            try:
                await self._reconcile(span, part, self._pass_on)
                plan.done()
            except _EnoughError:
                self._leave_rest()
                return
            except TimeoutError:
                self._context.peer.reconcile_close()
                paged = plan.rest(span)
                log.info("%s does not answer NEG-OPEN: reading its events instead", self._context.peer.name)
            except ReconcileRefusedError as refusal:
                paged = self._refused(plan, span, part, refusal)
                if paged is not None:
                    log.info("%s: reading its events instead", refusal)
            if paged is not None:
                part = self._items.between(paged.since_s, paged.until_s)
                await Paging(self._context, self._downloads, self._uploads, self._seen).compare(paged, part)

    async def still_needed(self, ids: Collection[bytes]) -> set[bytes]:
        """Which of the ids the peer has and we have not, found out once more from the start; nothing is passed on.

        Raises:
            PeerError: It does not answer any more.
            StoreError: Our set cannot be had.
        """
        needed: set[bytes] = set()
        n_lacking = 0
        plan = await self._plan()

        async def collect(step: Step) -> None:
            nonlocal n_lacking
            n_lacking += len(step.need)
            if n_lacking > MAX_LACKING:
                raise self._too_many()
            needed.update(event_id for event_id in step.need if event_id in ids)

        while (span := plan.next()) is not None:
            part = self._items.between(span.since_s, span.until_s)
            try:
                await self._reconcile(span, part, collect)
                plan.done()
            except ReconcileRefusedError as refusal:
                if self._refused(plan, span, part, refusal) is not None:
                    raise
        return needed

    async def _plan(self) -> SpanPlan:
        wanted = self._context.request.filter
        await self._refresh()
        return SpanPlan(Span(wanted.since, wanted.until), now_s=self._context.now_s())

    async def _refresh(self) -> None:
        """Take our set as it is now."""
        context = self._context
        query = Query(filters=(context.request.filter,), scope=context.scope)
        self._items = await self._sets.snapshot(query)

    async def _reconcile(self, span: Span, items: ItemSet, take: Callable[[Step], Awaitable[None]]) -> None:
        """One session, from its NEG-OPEN to the last answer.

        Raises:
            ReconcileRefusedError: The peer ended it.
            TimeoutError: The peer has never said anything about any.
        """
        initiator = Initiator(items, max_frame_bytes=self._context.request.frame_bytes)
        try:
            await self._converse(initiator, span, items, take)
        except ReconcileRefusedError:
            if reported := initiator.reported():
                self._seen |= reported  # they are on their way, and come up again in what takes the place of this
                await self._refresh()
            raise

    async def _converse(
        self, initiator: Initiator, span: Span, items: ItemSet, take: Callable[[Step], Awaitable[None]]
    ) -> None:
        peer, tally = self._context.peer, self._context.tally
        opening = encode_filter(narrowed(self._context.request.filter, span))
        first = await _made(initiator.initiate, items)
        first_s = min(FIRST_ANSWER_S, self._context.request.timeout_s * _FIRST_SHARE)
        async with asyncio.timeout(None if self._speaks_negentropy else first_s):
            answer = await peer.reconcile_open(opening, first)
        self._speaks_negentropy = True
        n_barren = 0
        while True:
            tally.round += 1
            if len(answer) == 1 and answer[0] != PROTOCOL_VERSION:
                text = f"{peer.name} speaks another version of negentropy (0x{answer[0]:02x})"
                raise ReconcileRefusedError(text, "unsupported: version")
            step = await _made(partial(initiator.reconcile, answer), items)
            n_barren = 0 if step.need or step.have else n_barren + 1
            await take(step)
            if step.next is None:
                break
            if n_barren > MAX_BARREN_ROUNDS:
                raise NegentropyError(f"{n_barren} answers at a stretch brought nothing new")
            answer = await peer.reconcile_next(step.next)
        peer.reconcile_close()

    async def _pass_on(self, step: Step) -> None:
        """Hand the differences of one answer to those who carry the events, and wait while they have plenty."""
        context = self._context
        need, have = step.need, step.have
        if self._seen:
            need = [event_id for event_id in need if event_id not in self._seen]
            have = [event_id for event_id in have if event_id not in self._seen]
        if need or have:
            self._n_lost = 0
        direction = context.request.direction
        context.tally.found(have=have, need=need)
        has_enough = context.tally.need > MAX_LACKING
        if has_enough and not direction.pulls:
            raise self._too_many()
        if direction.pushes:
            self._uploads.add(have)
        if direction is Direction.UP:
            context.tally.list_need(need)
        else:
            self._downloads.add(need)
        context.tally.tell()
        await context.room.free()
        if has_enough and step.next is not None:
            raise _EnoughError

    def _leave_rest(self) -> None:
        self._context.peer.reconcile_close()
        text = f"{MAX_LACKING} events of the peer were not here, the most for one sync: the next one goes on"
        self._context.tally.gaps.append(text)

    def _too_many(self) -> PeerRefusedError:
        name = self._context.peer.name
        return PeerRefusedError(
            f"{name} has more than {MAX_LACKING} events that are not here: compare less at a time", ""
        )

    def _refused(self, plan: SpanPlan, span: Span, items: ItemSet, refusal: ReconcileRefusedError) -> Span | None:
        """Change the plan after a refusal; gives what is to be compared in another way.

        Raises:
            PeerRefusedError: There is nothing to be done.
        """
        kind = read_refusal(refusal.reason, refusal.max_items)
        match kind:
            case Refused.TOO_LARGE:
                if self._context.request.filter.limit is not None:  # it would mean something else in halves
                    return span
                is_sized = is_about_size(refusal.reason, refusal.max_items)
                if plan.halve(span, median_s=_median_s(items), is_sized=is_sized):
                    return None
                return plan.rest(span) if plan.is_hopeless else span
            case Refused.LOST:
                self._n_lost += 1
                if self._n_lost > _MAX_LOST:
                    raise refusal
                plan.again(span)
                return None
            case Refused.LACKING:
                return plan.rest(span)
            case Refused.AUTH:
                raise PeerRefusedError(f"{refusal}{key_hint(self._context.request, refusal.reason)}", refusal.reason)
            case Refused.FAILED:
                raise refusal
            case _:
                assert_never(kind)


def _median_s(items: ItemSet) -> int | None:
    """created_at of the middle item; None if there is none."""
    if not len(items):
        return None
    middle = len(items) // 2
    return int.from_bytes(items.rows_between(middle, middle + 1)[:_TIME_BYTES], "big")


async def _made(work: Callable[[], T], items: ItemSet) -> T:
    """The work's result; on another thread if the set is so large that others would have to wait."""
    return await asyncio.to_thread(work) if len(items) > _LARGE_SET_ITEMS else work()
