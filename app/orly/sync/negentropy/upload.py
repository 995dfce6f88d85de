"""Pushing events by their ids: read in batches, sent with a window on what is not answered yet."""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Final, assert_never

from orly.intake.verdict import TAKEN_BACK, is_for_later
from orly.nostr.event import ID_IN_JSON, decode_stored
from orly.nostr.filter import Filter
from orly.nostr.reason import Prefix
from orly.nostr.tags import is_protected
from orly.store.base import Query
from orly.sync.negentropy.pace import MAX_TRIES, Pace
from orly.sync.negentropy.peer_memory import MAX_REMEMBERED_IDS, Why
from orly.sync.negentropy.run_context import SyncContext, key_hint
from orly.sync.peer import PeerRefusedError

__all__ = ["MAX_UNANSWERED_BYTES", "Uploads"]

MAX_UNANSWERED_BYTES: Final = 4 * 1024 * 1024
"""What may be on its way without an answer, whatever the window for the number of events is."""

LARGE_EVENT_BYTES: Final = 64 * 1024
"""Larger events go last and one by one: some relays close the connection over them."""

_LOAD_EVENTS: Final = 128
_SEND_BYTES: Final = 256 * 1024
_MAX_USELESS: Final = 500
"""A peer that rejects so many at a stretch, and never took one, takes none from us."""

_PROTECTED_HINT: Final = b'["-"'

_HAS_IT: Final = frozenset({"duplicate", "replaced", "deleted"})
"""What the peer says when it has the event, or something that stands for it; the last two are strfry's words."""

_NOT_FOR_GOOD: Final = frozenset({"auth-required", "rate-limited", "error", "Write error"})
"""What it may take another time; the last is what strfry says when its disk is full."""


class Uploads:
    """Sends what is added until all of it is answered; run by one task."""

    def __init__(self, context: SyncContext) -> None:
        self._context = context
        self._queue: deque[bytes] = deque()
        self._large: list[tuple[int, bytes]] = []
        self._pace = Pace(context.request.timeout_s)
        self._monotonic_s = asyncio.get_running_loop().time
        self._unanswered: dict[bytes, tuple[int, float]] = {}
        self._unanswered_bytes = 0
        self._tries: dict[bytes, int] = {}
        self._why_stopped = ""
        self._changed = asyncio.Event()
        self._is_last = False
        self._n_useless = 0
        self._is_loading = False
        self._trouble: PeerRefusedError | None = None

    def add(self, ids: Sequence[bytes]) -> None:
        """Send these too."""
        if self._why_stopped:
            self._leave_out(ids)
        elif ids:
            self._queue.extend(ids)
            self._context.room.add(len(ids))
            self._changed.set()

    def finish(self) -> None:
        """Nothing more will be added."""
        self._is_last = True
        self._changed.set()

    async def run(self) -> None:
        """Work until `finish` was called and all is answered.

        Raises:
            PeerError: The peer takes nothing, or the connection is lost.
            StoreError: The events cannot be read.
        """
        while self._queue or self._large or self._unanswered or not self._is_last:
            if self._queue:
                await self._send_some()
            elif self._large and self._is_last and not self._unanswered:
                await self._send_large()
            else:
                await self._change()

    def give_up(self, *, was_silent: bool) -> bool:
        """Count what is not answered as rejected, now that the connection is over.

        Args:
            was_silent: The peer did not end it: it said nothing for too long.

        Returns:
            False if the sync has to fail, because more than answers is missing, or because the peer went away for
            another reason than a large event. Nothing is counted then.
        """
        event_id, (size, _) = next(iter(self._unanswered.items()), (b"", (0, 0.0)))
        is_large = size > LARGE_EVENT_BYTES
        if self._queue or self._is_loading or not self._is_last or not (is_large or (was_silent and self._unanswered)):
            return False
        tally = self._context.tally
        if is_large:
            self._context.memory.note(event_id, Why.REJECTED, now_s=self._context.now_s())
            tally.reject(f"the peer went away over an event of {size} bytes")
            del self._unanswered[event_id]
        for _ in range(len(self._large) + len(self._unanswered)):
            tally.reject("the peer did not answer", is_passing=True)
        return True

    async def _send_some(self) -> None:
        n_ids = min(len(self._queue), _LOAD_EVENTS)
        ids = [self._queue.popleft() for _ in range(n_ids)]
        self._context.room.add(-n_ids)
        self._is_loading = True
        events = await self._load(self._choose(ids))
        self._large += [(len(raw), event_id) for event_id, raw in events if len(raw) > LARGE_EVENT_BYTES]
        await self._send([(event_id, raw) for event_id, raw in events if len(raw) <= LARGE_EVENT_BYTES])
        self._is_loading = False

    async def _send_large(self) -> None:
        self._large.sort(reverse=True)
        _, event_id = self._large.pop()
        await self._send(await self._load([event_id]))

    def _choose(self, ids: Sequence[bytes]) -> list[bytes]:
        """Those that are not known to be sent in vain; the others are counted."""
        context = self._context
        tally, now_s = context.tally, context.now_s()
        chosen = []
        for event_id in ids:
            why = context.memory.why_not_push(event_id, now_s=now_s)
            match why:
                case None:
                    chosen.append(event_id)
                case Why.REJECTED:
                    tally.reject("rejected in an earlier sync")
                case Why.UNNEEDED:
                    tally.unneeded += 1
                case Why.UNAVAILABLE | Why.REFUSED | Why.UNWANTED:
                    raise AssertionError("these concern pulling")
                case _:
                    assert_never(why)
        return chosen

    async def _load(self, ids: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
        """Id and JSON of the events that are still here and that others than their authors may publish."""
        if not ids:
            return []
        context = self._context
        wanted = Filter(ids=frozenset(event_id.hex() for event_id in ids))
        raws = await context.store.fetch(Query(filters=(wanted,), scope=context.scope))
        found = [(bytes.fromhex(raw[ID_IN_JSON].decode()), raw) for raw in raws if not _is_protected(raw)]
        context.tally.unneeded += len(ids) - len(found)
        return found

    async def _send(self, events: Sequence[tuple[bytes, bytes]]) -> None:
        start = 0
        while start < len(events):
            pause_s = self._pace.wait_s(self._monotonic_s())
            if self._why_stopped:
                self._leave_out([event_id for event_id, _ in events[start:]])
                return
            if pause_s > 0:
                await asyncio.sleep(pause_s)
            elif part := self._part(events, start):
                await self._publish(part)
                start += len(part)
            else:
                await self._change()

    def _part(self, events: Sequence[tuple[bytes, bytes]], start: int) -> Sequence[tuple[bytes, bytes]]:
        """The next events that may be sent now; one at least if none is unanswered."""
        n_bytes, end = 0, start
        last = min(len(events), start + self._pace.window - len(self._unanswered))
        most_bytes = min(_SEND_BYTES, MAX_UNANSWERED_BYTES - self._unanswered_bytes)
        while end < last and n_bytes + len(events[end][1]) <= most_bytes:
            n_bytes += len(events[end][1])
            end += 1
        if not self._unanswered:
            end = max(end, start + 1)
        return events[start:end]

    async def _publish(self, events: Sequence[tuple[bytes, bytes]]) -> None:
        now_s = self._monotonic_s()
        self._unanswered.update((event_id, (len(raw), now_s)) for event_id, raw in events)
        self._unanswered_bytes += sum(len(raw) for _, raw in events)
        self._context.peer.publish(events, self._answered)
        await self._context.peer.drained()

    async def _change(self) -> None:
        """Wait until something was answered or added."""
        if self._trouble is None:
            self._changed.clear()
            await self._changed.wait()
        if self._trouble is not None:
            raise self._trouble

    def _answered(self, answers: Sequence[tuple[bytes, bool, str]]) -> None:
        """Count the OKs of one read; called by the connection."""
        tally, now_s = self._context.tally, self._monotonic_s()
        for event_id, is_accepted, reason in answers:
            size, sent_s = self._unanswered.pop(event_id, (0, now_s))
            if not size:
                continue
            self._unanswered_bytes -= size
            word = reason.partition(":")[0]
            if word == Prefix.RATE_LIMITED and not is_accepted and not is_for_later(reason):
                self._pace.limited(sent_s, now_s)
                self._put_back(event_id, reason)
                continue
            self._pace.answered(sent_s, now_s)
            if word in _HAS_IT or reason in TAKEN_BACK:
                tally.unneeded += 1
                self._context.memory.note(event_id, Why.UNNEEDED, now_s=self._context.now_s())
            elif is_accepted:
                tally.sent += 1
            else:
                self._reject(event_id, word, reason)
        tally.tell()
        self._changed.set()

    def _put_back(self, event_id: bytes, reason: str) -> None:
        """Send an event once more, unless that was tried often enough."""
        tries = self._tries[event_id] = self._tries.get(event_id, 0) + 1
        if self._pace.is_hopeless and not self._why_stopped:
            self._stop(reason)
        if self._why_stopped or tries >= MAX_TRIES:
            self._note_rejected(event_id, Prefix.RATE_LIMITED, reason)
        else:
            self.add([event_id])

    def _stop(self, reason: str) -> None:
        """Send nothing more."""
        self._why_stopped = f"not sent, as the peer took too few: {reason}"
        left = [*self._queue, *(event_id for _, event_id in self._large)]
        self._context.room.add(-len(self._queue))
        self._queue.clear()
        self._large.clear()
        self._leave_out(left)

    def _leave_out(self, ids: Sequence[bytes]) -> None:
        for event_id in ids:
            self._note_rejected(event_id, Prefix.RATE_LIMITED, self._why_stopped)

    def _reject(self, event_id: bytes, word: str, reason: str) -> None:
        self._note_rejected(event_id, word, reason)
        tally = self._context.tally
        if tally.sent or tally.unneeded:
            return
        self._n_useless += 1
        if self._n_useless > _MAX_USELESS:
            hint = key_hint(self._context.request, reason)
            self._trouble = PeerRefusedError(
                f"{self._context.peer.name} takes no events from us: {reason}{hint}", reason
            )

    def _note_rejected(self, event_id: bytes, word: str, reason: str) -> None:
        tally = self._context.tally
        tally.reject(reason, is_passing=word in _NOT_FOR_GOOD)
        if len(tally.rejected_ids) < MAX_REMEMBERED_IDS:
            tally.rejected_ids[event_id] = word not in _NOT_FOR_GOOD


def _is_protected(raw: bytes) -> bool:
    """Whether only the author may publish the event (NIP-70)."""
    return _PROTECTED_HINT in raw and is_protected(decode_stored(raw))
