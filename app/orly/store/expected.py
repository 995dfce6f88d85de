"""Events on their way to a store in another process: what comes back of them need not be decoded again."""

from collections import OrderedDict
from collections.abc import Iterable

from orly.nostr.event import ID_IN_JSON, EncodedEvent

__all__ = ["ExpectedEvents"]


class ExpectedEvents:
    """Events by their canonical JSON, for as long as their serials are not known.

    Args:
        max_events: Beyond it, those that were added first are forgotten.
        max_event_bytes: Larger events are decoded again rather than kept.
    """

    __slots__ = ("_events", "_max_event_bytes", "_max_events")

    def __init__(self, max_events: int, max_event_bytes: int) -> None:
        self._events: OrderedDict[bytes, EncodedEvent] = OrderedDict()
        self._max_events = max_events
        self._max_event_bytes = max_event_bytes

    def add(self, events: Iterable[EncodedEvent]) -> None:
        """Keep events that are about to be stored."""
        expected = self._events
        for event in events:
            if len(event.raw) <= self._max_event_bytes:
                expected[event.raw[ID_IN_JSON]] = event
        while len(expected) > self._max_events:
            expected.popitem(last=False)

    def take(self, raw: bytes) -> EncodedEvent | None:
        """The event of which this is the canonical JSON; it is expected no longer."""
        event = self._events.pop(raw[ID_IN_JSON], None)
        return event if event is not None and event.raw == raw else None
