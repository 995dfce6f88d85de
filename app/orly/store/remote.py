"""`RemoteStore`: a store in another process, behind the interface of one that is here."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any, Final

import grpc

from orly.intake.verdict import verdict_of
from orly.nostr.event import MAX_CREATED_AT, EncodedEvent
from orly.nostr.filter import Filter
from orly.pb.orlydb.v1 import service_pb2, streams_pb2, types_pb2
from orly.rpc.events import to_pb
from orly.store.base import (
    MAX_HIDDEN_KEYS,
    MAX_MARKERS,
    EventStore,
    FeedBatch,
    HiddenKey,
    ItemRows,
    Marker,
    Query,
    QueryHandle,
    QuerySink,
    SaveResult,
    SaveStatus,
    StoreError,
    check_hidden_keys,
    check_marker_changes,
    check_marker_range,
)
from orly.store.expected import ExpectedEvents
from orly.store.remote_connection import CLOSED, Gate, StoreConnection
from orly.store.remote_feed import RemoteFeed
from orly.store.remote_queries import RemoteQueries
from orly.store.remote_saving import RemoteSaving

__all__ = ["RECENT_IDS", "RemoteStore"]

RECENT_IDS: Final = 20_000
"""Ids of the newest events on the feed, for `known`."""

_RECENT_EVENTS: Final = 2_048
_RECENT_EVENT_BYTES: Final = 8 * 1024
"""Larger events are decoded again when they come back on the feed."""

_FAREWELL_S: Final = 2.0
"""How long `close` waits for the feeds to tell what was saved here."""


_ALL: Final = Query(filters=(Filter(),))
_Kind = streams_pb2.QueryStart


class RemoteStore(EventStore):
    """See `EventStore`. All calls share one connection that heals itself.

    While the service is away, events and queries wait for it, at most `timeout_s`; then they fail, and say so. A query
    may take longer as long as the service shows that it is alive.

    Args:
        channel: To a `DatabaseService`; closed by `close`. Must be made on the event loop that uses the store.
        timeout_s: How long anything waits for a service that is away.
        event_of: (serial) -> an event that is at hand, so that the feed need not decode it.
        recent_ids: See `RECENT_IDS`; 0 turns `known` off.
    """

    ANSWERS_LATER = True

    def __init__(
        self,
        channel: grpc.aio.Channel,
        *,
        timeout_s: float,
        event_of: Callable[[int], EncodedEvent | None] | None = None,
        recent_ids: int = RECENT_IDS,
    ) -> None:
        self._connection = StoreConnection(channel, timeout_s=timeout_s)
        self._event_of = event_of
        self._max_known = recent_ids
        self._known: dict[bytes, None] = {}
        self._expected = ExpectedEvents(_RECENT_EVENTS, _RECENT_EVENT_BYTES)
        self._gate = Gate()
        self._saving = RemoteSaving(self._connection, self._gate, self._sent)
        self._queries = RemoteQueries(self._connection)
        self._feeds: set[RemoteFeed] = set()
        self._loop = asyncio.get_running_loop()
        self._closing: asyncio.Task[None] | None = None

    @property
    def trouble(self) -> str | None:
        """Why the service cannot be reached; None when nothing is known to be wrong."""
        return self._connection.trouble

    # Writing

    async def save(self, events: Sequence[EncodedEvent]) -> list[SaveResult]:
        return await self._saving.save(events)

    async def delete(self, ids: Sequence[bytes]) -> int:
        await self.feeds_have_begun()
        n_deleted = 0
        for event_id in ids:
            request = service_pb2.DeleteEventRequest(event_id=event_id)
            answer = await self._call("DeleteEvent", request)
            n_deleted += answer.deleted
        return n_deleted

    async def feeds_have_begun(self) -> None:
        try:
            async with asyncio.timeout(self._connection.timeout_s):
                await self._gate.passed()
        except TimeoutError:
            raise self._connection.no_answer() from None

    def _sent(self, events: Sequence[EncodedEvent]) -> None:
        """Keep what will come back on the feed."""
        if self._feeds:
            self._expected.add(events)

    # Reading

    def known(self, ids: Sequence[bytes]) -> list[bool]:
        known = self._known
        return [event_id in known for event_id in ids]

    def query(self, query: Query, sink: QuerySink) -> QueryHandle:
        return self._queries.query(query, sink)

    async def count(self, query: Query) -> int:
        return (await self._queries.gather(query, _Kind.COUNT)).count

    async def versions(self, query: Query) -> list[bytes]:
        return (await self._queries.gather(query, _Kind.VERSIONS)).events

    async def items(self, query: Query, *, max_items: int | None = None) -> ItemRows:
        await self.feeds_have_begun()
        answer = await self._queries.gather(query, _Kind.ITEMS, max_items=max_items)
        return ItemRows(bytes(answer.items), answer.through_serial)

    async def expirations(self, after_s: int) -> bytes:
        await self.feeds_have_begun()
        after_s = min(max(after_s, 0), MAX_CREATED_AT)
        return bytes((await self._queries.gather(_ALL, _Kind.EXPIRATIONS, after_s=after_s)).items)

    async def serials(self, query: Query) -> list[int]:
        return (await self._queries.gather(query, _Kind.SERIALS)).serials

    async def deleted(self, event: EncodedEvent) -> SaveStatus | None:
        answer = await self._call("CheckForDeleted", service_pb2.CheckDeletedRequest(event=to_pb(event.event)))
        if not answer.deleted:
            return None
        return SaveStatus.VANISHED if answer.reason == _VANISHED else SaveStatus.DELETED

    async def markers(self, prefix: str, *, after: str = "", limit: int = MAX_MARKERS) -> list[Marker]:
        check_marker_range(prefix, after)
        if limit <= 0:
            return []
        request = service_pb2.ListMarkersRequest(prefix=prefix, after=after, limit=min(limit, MAX_MARKERS))
        answer = await self._call("ListMarkers", request)
        return [Marker(row.key, row.value) for row in answer.markers]

    async def change_markers(self, changes: Mapping[str, bytes | None]) -> None:
        check_marker_changes(changes)
        rows = [service_pb2.MarkerChange(key=key, value=value) for key, value in changes.items()]
        await self._call("ChangeMarkers", service_pb2.ChangeMarkersRequest(changes=rows))

    async def hide(self, wanted: Sequence[HiddenKey]) -> None:
        await self._change_hidden("HideEvents", wanted)

    async def show(self, wanted: Sequence[HiddenKey]) -> None:
        await self._change_hidden("ShowEvents", wanted)

    async def _change_hidden(self, name: str, wanted: Sequence[HiddenKey]) -> None:
        check_hidden_keys(wanted)
        if self._closing is not None:
            raise StoreError(CLOSED)
        await self.feeds_have_begun()
        method = getattr(self._connection.stub, name)
        await self._connection.follow(method, service_pb2.HiddenKeys(keys=map(_hidden_key_to_pb, wanted)))

    async def hidden(
        self, after: HiddenKey | None = None, *, limit: int = MAX_HIDDEN_KEYS
    ) -> list[tuple[HiddenKey, bool]]:
        if limit <= 0:
            return []
        request = service_pb2.ListHiddenRequest(
            after=None if after is None else _hidden_key_to_pb(after), limit=min(limit, MAX_HIDDEN_KEYS)
        )
        answer = await self._call("ListHidden", request)
        return [(HiddenKey(row.key.key, row.key.is_author), row.is_done) for row in answer.keys]

    async def last_serial(self) -> int:
        serial: int = (await self._call("GetLastSerial", types_pb2.Empty())).serial
        return serial

    async def _call(self, name: str, request: Any) -> Any:
        if self._closing is not None:
            raise StoreError(CLOSED)
        method: Callable[..., Awaitable[Any]] = getattr(self._connection.stub, name)
        return await self._connection.ask(method, request)

    # The feed

    def feed(self, after_serial: int | None) -> RemoteFeed:
        if self._closing is not None:
            raise StoreError(CLOSED)
        feed = RemoteFeed(
            self._connection,
            after_serial,
            gate=self._gate,
            event_of=self._at_hand,
            told=self._told,
            interrupted=self._interrupted,
            left=self._left,
        )
        self._feeds.add(feed)
        return feed

    def _at_hand(self, serial: int, raw: bytes) -> EncodedEvent | None:
        event = self._expected.take(raw)
        if event is not None:
            return event
        return None if self._event_of is None or not serial else self._event_of(serial)

    def _told(self, batch: FeedBatch) -> None:
        if not self._max_known:
            return
        known = self._known
        for item in batch.stored:
            known[item.event.id] = None
        for event_id in batch.removed:
            known.pop(event_id, None)
        _trim(known, self._max_known)

    def _interrupted(self, feed: RemoteFeed) -> None:
        """Removals go unheard: an event that is known may be gone, and may have to be stored again."""
        del feed
        if not any(feed.is_connected for feed in self._feeds):
            self._known.clear()

    def _left(self, feed: RemoteFeed) -> None:
        self._feeds.discard(feed)
        self._interrupted(feed)

    async def close(self) -> None:
        if self._closing is None:
            self._closing = self._loop.create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        await self._saving.close()
        await self._queries.close()
        feeds = tuple(self._feeds)
        with suppress(TimeoutError):
            async with asyncio.timeout(_FAREWELL_S):
                for feed in feeds:
                    await feed.reached(self._saving.highest_serial)
        for feed in feeds:
            await feed.end()
        await self._connection.close()


def _hidden_key_to_pb(wanted: HiddenKey) -> service_pb2.HiddenKey:
    return service_pb2.HiddenKey(key=wanted.key, is_author=wanted.is_author)


def _trim(recent: dict[bytes, Any], size: int) -> None:
    """Forget the oldest beyond `size`."""
    if len(recent) > size:
        for key in list(islice(recent, len(recent) - size)):
            del recent[key]


_VANISHED: Final = str(verdict_of(SaveResult(SaveStatus.VANISHED)).refusal)
