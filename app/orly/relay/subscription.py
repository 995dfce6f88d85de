"""One subscription: its stored answer first, then its live tail, joined at a serial without gap or repeat."""

from collections.abc import Callable, Sequence
from enum import Enum, auto
from typing import Final, Protocol

from orly.nostr.event import EncodedEvent
from orly.nostr.filter import Filter
from orly.nostr.message import closed_text, eose_text, event_prefix
from orly.nostr.reason import Prefix, Refusal
from orly.relay.frames import event_frames
from orly.relay.peer import Peer
from orly.store.base import EventStore, Query, QueryHandle, ReadScope, StoreError

__all__ = ["MAX_HELD_BYTES", "Reader", "Subscription"]

MAX_HELD_BYTES: Final = 4 * 1024 * 1024
"""Live events of one connection that may wait for the ends of its stored answers."""

_HELD_OVERHEAD_BYTES: Final = 100


class Reader(Protocol):
    """Whose subscription it is.

    Attributes:
        peer: Where the frames go.
        scope: What the reader may see now.
        held_bytes: What all its subscriptions hold back at the moment.
    """

    peer: Peer
    scope: ReadScope
    held_bytes: int

    def loaded(self, subscription: "Subscription") -> None:
        """The stored answer is complete."""

    def ended(self, subscription: "Subscription") -> None:
        """The relay has ended the subscription; the client was told."""


class _Phase(Enum):
    WAITING = auto()
    """For its turn to query. What is stored meanwhile will be in the answer."""
    LOADING = auto()
    """Stored events are being sent; live ones are held."""
    LIVE = auto()
    OVER = auto()


class Subscription:
    """Is on the feed's index before its query starts, so that no event can fall between the two.

    Attributes:
        n_values: Ids, authors, kinds and tag values in all filters.
    """

    __slots__ = (
        "_after_serial",
        "_handle",
        "_held",
        "_held_bytes",
        "_phase",
        "_reader",
        "filters",
        "n_values",
        "prefix",
        "stamp",
        "sub_id",
    )

    def __init__(self, reader: Reader, sub_id: str, filters: tuple[Filter, ...]) -> None:
        self.filters = filters
        self.n_values = sum(map(_n_values, filters))
        self.stamp = 0
        self.sub_id = sub_id
        self.prefix = event_prefix(sub_id)
        self._reader = reader
        self._phase = _Phase.WAITING
        self._handle: QueryHandle | None = None
        self._held: list[tuple[int, EncodedEvent]] = []
        self._held_bytes = 0
        self._after_serial = 0

    def load(self, store: EventStore, make_query: Callable[[tuple[Filter, ...], ReadScope], Query]) -> None:
        """Start to send the stored answer."""
        self._phase = _Phase.LOADING
        try:
            handle = store.query(make_query(self.filters, self._reader.scope), self)
        except StoreError as error:
            self.failed(error)
            return
        if self._phase is _Phase.LOADING:
            self._handle = handle
        else:
            handle.cancel()

    def resume(self) -> None:
        """The connection takes more."""
        if self._handle is not None:
            self._handle.resume()

    def cancel(self) -> None:
        """The client closed it, or is gone; nothing more is sent."""
        self._phase = _Phase.OVER
        self._release()
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    # The store's answer (QuerySink)

    def rows(self, events: Sequence[bytes]) -> bool:
        """Send stored events."""
        peer = self._reader.peer
        peer.send_frames((event_frames(self.prefix, events, b"]"),))
        return peer.can_write

    def done(self, through_serial: int) -> None:
        """Send EOSE, then what came meanwhile and is not covered by the answer."""
        if self._phase is _Phase.OVER:
            return
        self._handle = None
        self._phase = _Phase.LIVE
        self._after_serial = through_serial
        peer = self._reader.peer
        peer.send(eose_text(self.sub_id))
        if self._held:
            fresh = [event.raw for serial, event in self._held if not serial or serial > through_serial]
            self._release()
            if fresh:
                peer.send_frames((event_frames(self.prefix, fresh, b"]"),))
        self._reader.loaded(self)

    def failed(self, error: StoreError) -> None:
        """End the subscription with the store's reason."""
        if self._phase is not _Phase.OVER:
            self._end(Refusal(Prefix.ERROR, str(error)))

    # The live tail (Subscriber)

    def deliver(self, serial: int, event: EncodedEvent, frame: bytes, *, is_hidden: bool) -> None:
        """Send a new event, or hold it while stored ones are still being sent."""
        reader = self._reader
        if is_hidden and not reader.scope.sees_hidden:
            return
        if event.event.kind in reader.scope.private_kinds and not reader.scope.may_read(event.event):
            return
        phase = self._phase
        if phase is _Phase.LIVE:
            if serial > self._after_serial or not serial:
                reader.peer.send_frames((frame,))
        elif phase is _Phase.LOADING or (phase is _Phase.WAITING and not serial):
            self._hold(serial, event)

    def _hold(self, serial: int, event: EncodedEvent) -> None:
        """Keep an event, which all subscriptions share, rather than a frame of its own."""
        size = len(event.raw) + _HELD_OVERHEAD_BYTES
        self._held.append((serial, event))
        self._held_bytes += size
        self._reader.held_bytes += size
        if self._reader.held_bytes > MAX_HELD_BYTES:
            self._end(Refusal(Prefix.ERROR, "too much happened before the stored events were read"))

    def _release(self) -> None:
        self._reader.held_bytes -= self._held_bytes
        self._held = []
        self._held_bytes = 0

    def _end(self, refusal: Refusal) -> None:
        self.cancel()
        self._reader.peer.send(closed_text(self.sub_id, refusal))
        self._reader.ended(self)


def _n_values(wanted: Filter) -> int:
    total = sum(map(len, wanted.tags.values())) if wanted.tags else 0
    for condition in (wanted.ids, wanted.authors, wanted.kinds):
        if condition is not None:
            total += len(condition)
    return total
