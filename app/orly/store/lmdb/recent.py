"""Decoded events by serial, the newest within bounds: what one part of a process has decoded, others need not."""

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

from orly.nostr.event import EncodedEvent
from orly.store.expected import ExpectedEvents

__all__ = ["MAX_EXPECTED_EVENT_BYTES", "MAX_RECENT_BYTES", "MAX_RECENT_EVENTS", "RecentEvents"]

MAX_RECENT_EVENTS: Final = 4_096
MAX_RECENT_BYTES: Final = 8 << 20
"""Their canonical JSON; decoded they take about twice as much again."""

MAX_EXPECTED_EVENT_BYTES: Final = 4 * 1024
"""Larger events are decoded again rather than kept until they are committed."""


class RecentEvents:
    """Events by serial; beyond the bounds, those that were added first are forgotten."""

    __slots__ = ("_bytes", "_events", "_expected", "_serials")

    def __init__(self) -> None:
        self._events: OrderedDict[int, EncodedEvent] = OrderedDict()
        self._serials: dict[bytes, int] = {}
        self._bytes = 0
        self._expected = ExpectedEvents(MAX_RECENT_EVENTS, MAX_EXPECTED_EVENT_BYTES)

    def expect(self, events: Iterable[EncodedEvent]) -> None:
        """Keep events whose serials are not known yet, at most `MAX_RECENT_EVENTS` of them."""
        self._expected.add(events)

    def take(self, raw: bytes) -> EncodedEvent | None:
        """The expected event of which this is the canonical JSON; it is expected no longer."""
        return self._expected.take(raw)

    def get(self, serial: int) -> EncodedEvent | None:
        """The event with a serial."""
        return self._events.get(serial)

    def serial_of(self, event_id: bytes) -> int | None:
        """The serial of an event in here; it may have been removed since."""
        return self._serials.get(event_id)

    def add(self, serial: int, event: EncodedEvent) -> None:
        """Keep an event for a while."""
        if serial in self._events:
            return
        self._events[serial] = event
        self._serials[event.id] = serial
        self._bytes += len(event.raw)
        while len(self._events) > MAX_RECENT_EVENTS or self._bytes > MAX_RECENT_BYTES:
            oldest_serial, oldest = self._events.popitem(last=False)
            self._bytes -= len(oldest.raw)
            if self._serials[oldest.id] == oldest_serial:  # else it was stored again
                del self._serials[oldest.id]
