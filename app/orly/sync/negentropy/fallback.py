"""Comparing sets with a peer that lacks negentropy: page through its events, newest first."""

import asyncio
from collections.abc import Collection, Sequence
from typing import Final

import msgspec

from orly.negentropy import ItemSet
from orly.sync.negentropy.download import Downloads
from orly.sync.negentropy.run_context import SyncContext, key_hint, stored_ids
from orly.sync.negentropy.state import Span, encode_filter, narrowed
from orly.sync.negentropy.upload import Uploads
from orly.sync.peer import Fetch, PeerRefusedError

__all__ = ["MAX_PAGE_BYTES", "Paging"]

MAX_PAGE_BYTES: Final = 16 * 1024 * 1024
"""A page that grows beyond this is asked for again with half as many events."""

_ID_BYTES: Final = 32
_HAVE_ITEMS: Final = 4096


class _Head(msgspec.Struct, frozen=True, gc=False):
    """As much of an event as paging needs; the door checks the rest of what is taken."""

    id: str
    created_at: int


_head_decoder: Final = msgspec.json.Decoder(_Head)


class _Page:
    """The answer to one REQ."""

    __slots__ = ("_fetch", "is_too_large", "n_bytes", "over", "rows")

    def __init__(self) -> None:
        self.rows: list[bytes] = []
        self.n_bytes = 0
        self.is_too_large = False
        self.over: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._fetch: Fetch | None = None

    def started(self, fetch: Fetch) -> None:
        self._fetch = fetch

    def events(self, rows: list[bytes]) -> None:
        """See `FetchSink`."""
        self.rows += rows
        self.n_bytes += sum(map(len, rows))
        if self.n_bytes > MAX_PAGE_BYTES and len(self.rows) > 1 and self._fetch is not None:
            self.is_too_large = True
            self._fetch.stop()
            self.ended(None)

    def ended(self, reason: str | None) -> None:
        """See `FetchSink`."""
        if not self.over.done():
            self.over.set_result(reason)


class Paging:
    """Finds the differences of one span by reading the peer's events of it, with what it needs of them kept.

    Args:
        context: The sync.
        downloads: Takes the events that are not here.
        uploads: Gets the ids that the peer did not show.
        seen: Ids that are on their way already.
    """

    def __init__(self, context: SyncContext, downloads: Downloads, uploads: Uploads, seen: Collection[bytes]) -> None:
        self._context = context
        self._downloads = downloads
        self._uploads = uploads
        self._seen = seen

    async def compare(self, span: Span, items: ItemSet) -> None:
        """Work through a span.

        Args:
            span: Its time.
            items: Our set for it.

        Raises:
            PeerError: The peer refuses, or is gone.
            StoreError: Ours cannot be read.
        """
        self._page_events = self._context.request.batch_events
        left = self._context.request.filter.limit
        until_s = top_s = span.until_s
        shown: dict[bytes, int] = {}
        cut_at_s: int | None = None
        while until_s >= span.since_s and left != 0:
            heads = await self._read_page(Span(span.since_s, until_s), None if left is None else left + len(shown))
            if not heads:
                break
            if cut_at_s is not None:
                self._note_gap(cut_at_s)
            cut_at_s = None
            fresh = {event_id: head for event_id, head in heads.items() if event_id not in shown}
            left = None if left is None else max(0, left - len(fresh))
            await self._need(fresh, items)
            shown.update((event_id, created_at) for event_id, (created_at, _) in fresh.items())
            oldest_s = min(created_at for created_at, _ in heads.values())
            if oldest_s < until_s:
                until_s = oldest_s  # more of this second may follow
            else:
                # One second fills the page. There is no asking for the rest of it, if there is one: older events show.
                cut_at_s = oldest_s if len(heads) > 1 else None
                until_s = oldest_s - 1
            await self._have(items.between(until_s + 1, top_s), shown)
            shown = {event_id: created_at for event_id, created_at in shown.items() if created_at <= until_s}
            top_s = until_s
            if len(heads) >= self._page_events and cut_at_s is not None:
                self._note_gap(cut_at_s)
                cut_at_s = None
        await self._have(items.between(span.since_s, top_s), shown)

    async def _read_page(self, span: Span, left: int | None) -> dict[bytes, tuple[int, bytes]]:
        """created_at and JSON by id of the newest events of a span; at most `left`."""
        context = self._context
        while True:
            limit = self._page_events if left is None else min(self._page_events, left)
            asked = msgspec.structs.replace(narrowed(context.request.filter, span), limit=limit)
            page = _Page()
            page.started(context.peer.fetch([encode_filter(asked)], page, most=limit))
            reason = await page.over
            if page.is_too_large:
                if limit == 1:
                    raise PeerRefusedError(f"{context.peer.name} sends more events than a limit allows", "")
                self._page_events = max(1, min(limit, len(page.rows)) // 2)
                continue
            if reason is not None and not page.rows:
                why = reason or "it gave no reason"
                raise PeerRefusedError(
                    f"{context.peer.name} does not send events: {why}{key_hint(context.request, reason)}", reason
                )
            context.tally.round += 1
            context.tally.tell()
            return _heads(page.rows, span)

    async def _need(self, fresh: dict[bytes, tuple[int, bytes]], items: ItemSet) -> None:
        """Find out which events of a page are not here, and take them."""
        context = self._context
        lacking = [
            event_id
            for event_id, (created_at, _) in fresh.items()
            if event_id not in self._seen and created_at.to_bytes(8, "big") + event_id not in items
        ]
        if not lacking:
            return
        here = await stored_ids(context.store, lacking)  # private ones, or older than the newest of a limit
        lacking = [event_id for event_id in lacking if event_id not in here]
        context.tally.found(need=lacking)
        context.tally.list_need(lacking)
        if context.request.direction.pulls:
            chosen = self._downloads.hopeful(lacking)
            self._downloads.take(chosen, [fresh[event_id][1] for event_id in chosen])
            await self._downloads.drained()

    async def _have(self, items: ItemSet, shown: dict[bytes, int]) -> None:
        """Send what is ours in a time that the peer has shown all of."""
        for start in range(0, len(items), _HAVE_ITEMS):
            packed = items.ids_between(start, min(start + _HAVE_ITEMS, len(items)))
            ids = [packed[at : at + _ID_BYTES] for at in range(0, len(packed), _ID_BYTES)]
            self._found_have([each for each in ids if each not in shown and each not in self._seen])
            await self._context.room.free()

    def _found_have(self, ids: Sequence[bytes]) -> None:
        self._context.tally.found(have=ids)
        if self._context.request.direction.pushes:
            self._uploads.add(ids)

    def _note_gap(self, at_s: int) -> None:
        self._context.tally.gaps.append(
            f"the peer lacks negentropy and shows only some of its events of one second (created_at {at_s})"
        )


def _heads(rows: Sequence[bytes], span: Span) -> dict[bytes, tuple[int, bytes]]:
    """created_at and JSON by id, of what is in the time asked for; what cannot be read is left out."""
    heads: dict[bytes, tuple[int, bytes]] = {}
    for row in rows:
        try:
            head = _head_decoder.decode(row)
            event_id = bytes.fromhex(head.id)
        except (msgspec.DecodeError, UnicodeError, RecursionError, ValueError):
            continue
        if len(event_id) == _ID_BYTES and span.since_s <= head.created_at <= span.until_s:
            heads[event_id] = (head.created_at, row)
    return heads
