"""What is remembered of a peer's events between syncs, so that the next one does not carry them in vain."""

import struct
from collections import OrderedDict
from enum import Enum
from typing import Final

__all__ = ["MAX_REMEMBERED_IDS", "REMEMBERED_S", "PeerMemory", "Why"]

MAX_REMEMBERED_IDS: Final = 100_000
"""Ids per peer; about 20 MB. Beyond it the oldest are forgotten, and carried once more."""

REMEMBERED_S: Final = 86_400
"""For a day: settings and rules change on both sides."""

_ROW: Final = struct.Struct(">QB32s")


class Why(Enum):
    """Why an event is not carried again. The first three concern pulling, the others pushing."""

    UNAVAILABLE = 1
    """The peer announced it and never sent it."""
    REFUSED = 2
    """It is against the rules of this relay."""
    UNWANTED = 3
    """It is replaced, deleted, expired here, or ephemeral."""
    REJECTED = 4
    """The peer refused it."""
    UNNEEDED = 5
    """The peer has it, or a newer version or a deletion of it, though it does not say so in its set."""


_PUSHED: Final = frozenset({Why.REJECTED, Why.UNNEEDED})


class PeerMemory:
    """What is known of one peer's events; bounded in number and in time.

    Args:
        max_ids: How many ids are kept.
        remembered_s: For how long.
    """

    __slots__ = ("_entries", "_max_ids", "_remembered_s")

    def __init__(self, *, max_ids: int = MAX_REMEMBERED_IDS, remembered_s: int = REMEMBERED_S) -> None:
        self._entries: OrderedDict[bytes, tuple[int, Why]] = OrderedDict()
        self._max_ids = max_ids
        self._remembered_s = remembered_s

    def __len__(self) -> int:
        return len(self._entries)

    def note(self, event_id: bytes, why: Why, *, now_s: int) -> None:
        """Remember one id (32 bytes) from now on."""
        self._put(event_id, (now_s + self._remembered_s, why))

    def _put(self, event_id: bytes, entry: tuple[int, Why]) -> None:
        self._entries[event_id] = entry
        self._entries.move_to_end(event_id)
        if len(self._entries) > self._max_ids:
            self._entries.popitem(last=False)

    def take_in(self, other: "PeerMemory") -> None:
        """Remember what another one does; for the same ids, instead of what was remembered so far."""
        for event_id, entry in other._entries.items():
            self._put(event_id, entry)

    def forget(self, event_id: bytes) -> None:
        """Drop one id; one that is not remembered is no error."""
        self._entries.pop(event_id, None)

    def why_not_pull(self, event_id: bytes, *, now_s: int) -> Why | None:
        """Why the event should not be fetched; None if it should."""
        why = self._why(event_id, now_s)
        return None if why in _PUSHED else why

    def why_not_push(self, event_id: bytes, *, now_s: int) -> Why | None:
        """Why the event should not be sent; None if it should."""
        why = self._why(event_id, now_s)
        return why if why in _PUSHED else None

    def to_bytes(self) -> bytes:
        """Everything, to be kept on a disk."""
        return b"".join(_ROW.pack(until_s, why.value, event_id) for event_id, (until_s, why) in self._entries.items())

    def restore(self, data: bytes, *, now_s: int) -> None:
        """Take in what `to_bytes` gave, all but what is out of date by now.

        Raises:
            ValueError: It is something else.
        """
        if len(data) % _ROW.size:
            raise ValueError(f"what is remembered of a peer has {len(data)} bytes, not a multiple of {_ROW.size}")
        try:
            rows = [(event_id, (until_s, Why(why))) for until_s, why, event_id in _ROW.iter_unpack(data)]
        except ValueError as error:
            raise ValueError(f"what is remembered of a peer is something else: {error}") from None
        for event_id, entry in rows:
            if now_s < entry[0] <= now_s + self._remembered_s:
                self._entries[event_id] = entry
        while len(self._entries) > self._max_ids:
            self._entries.popitem(last=False)

    def _why(self, event_id: bytes, now_s: int) -> Why | None:
        entry = self._entries.get(event_id)
        if entry is None:
            return None
        if entry[0] <= now_s:
            del self._entries[event_id]
            return None
        return entry[1]
