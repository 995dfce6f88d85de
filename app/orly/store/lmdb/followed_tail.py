"""The index rows that wait in another process's memory, made again from the file that it writes.

The writer keeps the rows of its newest events to itself (see `Tail`). Whoever reads beside it builds the same rows:
of every event above `indexed_through`, read once when it is new. Events that were removed meanwhile are named by the
removal journal (see `removals`); their rows stay, marked, since nothing tells any more under which tags they stand.

Generations end where the writer's do (`flush_through`), so that each is dropped as a whole once the tables have its
rows. A search under way keeps those it began with, and sees by serials and by journal numbers what was there then.
"""

from collections.abc import Callable
from itertools import islice
from struct import Struct
from typing import Any, Final

from orly.nostr.event import EncodedEvent, decode_verified
from orly.nostr.tags import expiration
from orly.store.lmdb import keys
from orly.store.lmdb.environment import Environment
from orly.store.lmdb.meta import flush_through, indexed_through, last_serial
from orly.store.lmdb.recent import RecentEvents
from orly.store.lmdb.removals import newest_removal, removed_between
from orly.store.lmdb.tail import Generation

__all__ = ["FollowedGeneration", "FollowedTail", "newest_in_tables"]

EVENTS_AT_ONCE: Final = 32
"""Events that are read between two looks at the clock; about 0.5 ms."""

_U64: Final = Struct(">Q")
_SERIAL: Final = keys.SERIAL_SLICE


def newest_in_tables(txn: Any, tables: Environment) -> int:
    """The latest created_at of which the tables have index rows; -1 if they have none."""
    with txn.cursor(tables.times) as cursor:
        return _U64.unpack(cursor.key()[:8])[0] if cursor.last() else -1


class FollowedGeneration(Generation):
    """Rows that only grow in number; what was removed is marked in `gone`."""

    __slots__ = ("_earlier",)

    def __init__(self) -> None:
        super().__init__()
        self._earlier: dict[bytes, list[bytes]] = {}

    def add(self, event: EncodedEvent, serial: int) -> None:
        before = self.positions.get(event.id)
        if before is not None:  # removed, and stored again
            self._earlier.setdefault(event.id, []).append(before)
        super().add(event, serial)

    def serial_of(self, event_id: bytes, through: bytes, removals: int) -> bytes | None:
        position = self.positions.get(event_id)
        if position is None:
            return None
        for each in (position, *self._earlier.get(event_id, ())):
            serial: bytes = each[_SERIAL]
            number = self.gone.get(serial)
            if serial <= through and (number is None or number > removals):
                return serial
        return None

    def items_at(self, through: bytes, removals: int) -> list[tuple[bytes, bytes]]:
        found = super().items_at(through, removals)
        found += [(event_id, position) for event_id, earlier in self._earlier.items() for position in earlier]
        gone = self.gone
        if not gone:
            return found
        return [
            (event_id, position)
            for event_id, position in found
            if position[_SERIAL] <= through and ((number := gone.get(position[_SERIAL])) is None or number > removals)
        ]

    def newest(self) -> int:
        """The latest created_at in here; -1 if there is none."""
        times = self.tables["times"].get(b"")
        return int.from_bytes(times[-1][:8], "big") if times else -1


class FollowedTail:
    """The waiting rows as they were at one moment, brought forward by `advance`.

    Attributes:
        active: Takes new events.
        newest_before: No event outside the active generation has a later created_at.
        removals: The newest number of the removal journal that is taken into account.
    """

    __slots__ = (
        "_border",
        "_expires",
        "_indexed",
        "_last",
        "_older",
        "_recent",
        "_seen",
        "_tables",
        "_txn_id",
        "active",
        "newest_before",
        "removals",
    )

    def __init__(
        self, tables: Environment, *, recent: RecentEvents | None = None, expires: Callable[[int], None]
    ) -> None:
        """Begin empty, at no moment.

        Args:
            tables: What is followed.
            recent: Spares decoding what it holds, and is given what had to be decoded; None = nothing of the kind.
            expires: Told the second at which a new event expires; 0 when events were passed over unseen.
        """
        self._tables = tables
        self._recent = recent
        self._expires = expires
        self._older: tuple[FollowedGeneration, ...] = ()
        self.active = FollowedGeneration()
        self.newest_before = -1
        self.removals = 0
        self._txn_id = -1
        self._indexed = -1
        self._border = 0
        self._seen = 0
        self._last = 0

    @property
    def seen(self) -> int:
        """The serial up to which events were taken in."""
        return self._seen

    def is_at(self, txn: Any) -> bool:
        """Whether this is what a read transaction needs, neither older nor newer."""
        return self._seen == self._last and bool(txn.id() == self._txn_id)

    def generations(self) -> tuple[Generation, ...]:
        """All of them, the newest first."""
        return (self.active, *self._older)

    def leaving_before(self, txn_id: int) -> Generation | None:
        """Nothing: removals are known by their number (see `Tail.leaving_before`)."""
        return None

    def advance(self, txn: Any, is_time_up: Callable[[], bool] | None = None) -> bool:
        """Go on to what a read transaction sees, which must not be older than the last.

        Args:
            txn: The transaction.
            is_time_up: Asked every `EVENTS_AT_ONCE` events whether to leave the rest for another call.

        Returns:
            Whether all is done; if not, call again with the same or a newer transaction.

        Raises:
            EventError: An event in the file cannot be read.
        """
        if txn.id() != self._txn_id:
            self._begin(txn)
        while self._seen < self._last:
            self._add_next(txn)
            if is_time_up is not None and self._seen < self._last and is_time_up():
                return False
        return True

    def _begin(self, txn: Any) -> None:
        """Everything but the new events."""
        self._txn_id = -1
        if not self._take_removals(txn):
            self._older = ()
            self.active = FollowedGeneration()
            self._indexed = -1
            self._seen = 0
        through = indexed_through(txn, self._tables)
        if through != self._indexed:
            self._drop_indexed(txn, through)
        self._border = flush_through(txn, self._tables)
        self._last = last_serial(txn, self._tables)
        self._txn_id = txn.id()

    def _take_removals(self, txn: Any) -> bool:
        """Mark what was removed; False if that is not known any more."""
        if self._tables.removals is None:
            return False
        newest = newest_removal(txn, self._tables)
        if newest == self.removals:
            return True
        rows = removed_between(txn, self._tables, self.removals, newest) if self._seen else None
        self.removals = newest
        if rows is None:
            return False
        for number, serials in rows:
            for serial in serials:
                self._mark(serial, number)
        return True

    def _mark(self, serial: bytes, number: int) -> None:
        wanted = _U64.unpack(serial)[0]
        if wanted > self._seen:
            return  # it is not in the file any more, so it will never be added
        for generation in reversed(self._older):
            if wanted <= generation.last_serial:
                generation.gone[serial] = number
                return
        self.active.gone[serial] = number

    def _drop_indexed(self, txn: Any, through: int) -> None:
        """Forget what the tables have by now."""
        self._indexed = through
        self._older = tuple(generation for generation in self._older if generation.last_serial > through)
        if self.active.last_serial <= through:
            self.active = FollowedGeneration()
        if self._seen < through:
            self._seen = through
            self._expires(0)
        newest = max((generation.newest() for generation in self._older), default=-1)
        self.newest_before = max(newest, newest_in_tables(txn, self._tables))

    def _add_next(self, txn: Any) -> None:
        """Add the next few events."""
        kept = self._tables.version_ids
        has_kept = bool(txn.stat(kept)["entries"])
        seen = self._seen
        with txn.cursor(self._tables.events) as cursor:
            found = cursor.iternext(keys=True, values=False) if cursor.set_range(_U64.pack(seen + 1)) else iter(())
            count = 0
            for key in islice(found, EVENTS_AT_ONCE):
                count += 1
                seen = _U64.unpack(key)[0]
                event = self._event(seen, cursor)
                version = txn.get(event.id, None, kept) if has_kept else None
                if version is None or version[-8:] != key:
                    self._add(event, seen)
                self._seen = seen
        if count < EVENTS_AT_ONCE:
            self._seen = self._last

    def _event(self, serial: int, cursor: Any) -> EncodedEvent:
        recent = self._recent
        if recent is None:
            return decode_verified(cursor.value())
        event = recent.get(serial)
        if event is None:
            raw = cursor.value()
            event = recent.take(raw) or decode_verified(raw)
            recent.add(serial, event)
        return event

    def _add(self, event: EncodedEvent, serial: int) -> None:
        if serial > self._border >= self.active.last_serial > 0:
            self.newest_before = max(self.newest_before, self.active.newest())
            self._older = (self.active, *self._older)
            self.active = FollowedGeneration()
        self.active.add(event, serial)
        if event.event.tags:
            expires_s = expiration(event.event)
            if expires_s is not None:
                self._expires(expires_s)
