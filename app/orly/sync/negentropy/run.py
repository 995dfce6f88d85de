"""One sync with a peer: connect, find the differences, carry the events meanwhile, and say what is missing."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from ssl import SSLContext
from typing import Final, NoReturn

from orly.negentropy import NegentropyError
from orly.store.base import EventStore, StoreError
from orly.sync.ingest import Door
from orly.sync.negentropy.download import Downloads
from orly.sync.negentropy.peer_memory import PeerMemory, Why
from orly.sync.negentropy.request import (
    Direction,
    Phase,
    SetSource,
    SyncFailedError,
    SyncProgress,
    SyncRequest,
    SyncResult,
)
from orly.sync.negentropy.run_context import Room, SyncContext, Tally, stored_ids
from orly.sync.negentropy.run_reconcile import Differences
from orly.sync.negentropy.upload import Uploads
from orly.sync.peer import PeerConnection, PeerError, PeerOptions, PeerRefusedError, PeerSilentError

__all__ = ["sync_with_peer"]

_CONNECT_TIMEOUT_S: Final = 10.0
_CHECKED_IDS: Final = 500
_MAX_CHECKED_IDS: Final = 20_000
"""Events that the peer rejected, of which it is looked up whether they are still here."""

log = logging.getLogger(__name__)


def _tell_nobody(progress: SyncProgress) -> None:
    del progress


async def sync_with_peer(
    request: SyncRequest,
    *,
    store: EventStore,
    sets: SetSource,
    door: Door,
    memory: PeerMemory,
    now_s: Callable[[], int],
    on_progress: Callable[[SyncProgress], None] = _tell_nobody,
    tls: SSLContext | None = None,
) -> SyncResult:
    """Make this store and a peer equal in the directions asked for.

    Cancelling it is safe at any time: what came is stored, and the next sync goes on from there.

    Args:
        request: With whom, what, and which way.
        store: Our events.
        sets: Knows the sets of them.
        door: Takes the events that come, into the same store.
        memory: Of this peer; what is found out is added to it.
        now_s: The clock, in Unix seconds.
        on_progress: Called after every message and batch, so often; must not wait.
        tls: For `wss`; None = what the system trusts.

    Raises:
        SyncFailedError: It did not come to an end.
    """
    on_progress(SyncProgress())
    options = PeerOptions(
        connect_timeout_s=min(_CONNECT_TIMEOUT_S, request.timeout_s),
        silence_timeout_s=request.timeout_s,
        answer_timeout_s=request.timeout_s,
        auth_key=request.auth_key,
        tls=tls,
    )
    try:
        peer = await PeerConnection.open(request.url, options, now_s=now_s)
    except PeerError as error:
        raise SyncFailedError(str(error), SyncProgress()) from error
    try:
        context = SyncContext(
            request=request,
            peer=peer,
            store=store,
            door=door,
            memory=memory,
            tally=Tally(peer, list_ids=request.list_ids, on_progress=on_progress),
            room=Room(),
            now_s=now_s,
        )
        return await _Run(context, sets).run()
    finally:
        await peer.close()


class _Run:
    """One sync on an open connection."""

    def __init__(self, context: SyncContext, sets: SetSource) -> None:
        self._context = context
        self._downloads = Downloads(context, is_dry=context.request.direction is Direction.NONE)
        self._uploads = Uploads(context)
        self._differences = Differences(context, sets, self._downloads, self._uploads)

    async def run(self) -> SyncResult:
        try:
            return await self._run()
        except asyncio.CancelledError:  # the next sync need not begin with the same ones
            self._remember_unavailable()
            self._remember_rejected()
            raise

    async def _run(self) -> SyncResult:
        tally = self._context.tally
        try:
            try:
                await self._transfer()
            except* PeerError as lost:
                await self._downloads.drain()
                was_silent = lost.subgroup(PeerSilentError) is not None
                if not (self._downloads.is_over and self._uploads.give_up(was_silent=was_silent)):
                    raise
                log.debug("only answers are missing: %s", lost.exceptions[0])
            await self._settle_up()
        except* (PeerError, StoreError, NegentropyError) as group:
            self._fail(group)
        tally.phase = Phase.DONE
        tally.tell()
        return SyncResult(
            progress=tally.progress(),
            is_complete=tally.is_complete,
            is_settled=tally.is_settled,
            problems=tally.problems(),
            have_ids=tuple(tally.have_ids),
            need_ids=tuple(tally.need_ids),
        )

    async def _transfer(self) -> None:
        """Find the differences and carry the events, all at once on one connection."""
        async with asyncio.TaskGroup() as parts:
            watch = parts.create_task(self._watch(), name="sync-watch")
            async with asyncio.TaskGroup() as work:
                work.create_task(self._pull(), name="sync-down")
                work.create_task(self._uploads.run(), name="sync-up")
                work.create_task(self._find(), name="sync-reconcile")
            watch.cancel()

    async def _watch(self) -> NoReturn:
        """Ends everything with the connection: nobody else hears of its end while only events are awaited."""
        raise await self._context.peer.lost()

    async def _find(self) -> None:
        self._context.tally.tell()
        await self._differences.find()
        self._context.tally.phase = Phase.TRANSFERRING
        self._downloads.finish()

    async def _pull(self) -> None:
        """Fetch; only when all is here may events be sent that could cost the connection."""
        await self._downloads.run()
        self._uploads.finish()

    async def _settle_up(self) -> None:
        """See which events are missing for no reason any more, and remember the others for the next sync."""
        await self._drop_gone()
        await self._drop_replaced()
        self._remember_unavailable()
        self._remember_rejected()

    def _remember_unavailable(self) -> None:
        context = self._context
        context.memory.note_all(context.tally.unavailable_ids, Why.UNAVAILABLE, now_s=context.now_s())

    def _remember_rejected(self) -> None:
        context = self._context
        rejected = [event_id for event_id, is_for_good in context.tally.rejected_ids.items() if is_for_good]
        context.memory.note_all(rejected, Why.REJECTED, now_s=context.now_s())

    async def _drop_gone(self) -> None:
        """What the peer rejected may be deleted or replaced here by what came from it meanwhile."""
        rejected = self._context.tally.rejected_ids
        if not self._context.request.direction.pulls or len(rejected) > _MAX_CHECKED_IDS:
            return
        ids = list(rejected)
        for start in range(0, len(ids), _CHECKED_IDS):
            part = ids[start : start + _CHECKED_IDS]
            here = await stored_ids(self._context.store, part)
            gone = [event_id for event_id in part if event_id not in here]
            passing = sum(not rejected.pop(event_id) for event_id in gone)
            self._context.tally.unreject(len(gone), passing=passing)

    async def _drop_replaced(self) -> None:
        """What the peer did not send may be replaced or deleted there by what it got from us meanwhile."""
        tally = self._context.tally
        if not tally.unavailable_ids or not self._differences.by_negentropy or self._context.peer.error is not None:
            return
        if tally.gaps:
            return  # not all of it was compared the first time
        try:
            needed = await self._differences.still_needed(tally.unavailable_ids)
        except (PeerError, NegentropyError) as error:
            log.debug("what is missing could not be looked at once more: %s", error)
            return  # then all of it counts as missing
        gone = tally.unavailable_ids - needed
        tally.unavailable_ids -= gone
        tally.unavailable -= len(gone)
        tally.unwanted += len(gone)

    def _fail(self, group: BaseExceptionGroup[BaseException]) -> NoReturn:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        text = str(error)
        if not isinstance(error, PeerRefusedError):
            self._remember_rejected()
        if isinstance(error, NegentropyError):
            text = f"{self._context.peer.name} sent a negentropy message that makes no sense: {text}"
        raise SyncFailedError(text, replace(self._context.tally.progress())) from error
