"""The newest events' index rows, kept in memory until enough have gathered to be written in order.

An index that is keyed by hashes takes every new row on another page, and a commit pays for pages, not for rows: at a
million events that was most of the cost of storing one. So a commit writes the event itself, which is what makes it
durable, and its index rows wait here. Once a generation is full, its rows go to the tables sorted, table by table, a
slice with each later commit. `indexed_through` in `meta` says up to which serial the tables are complete; what is
above it is read from `events` again when the store is opened.

Rows may stand here and in the tables at once while a generation is being written; readers drop such doubles.

Changed by the writer during a transaction, mostly while the event loop waits for it, and by the loop when that has
ended; never by both at once. Readers see no row of a transaction that is not committed, by its serial, and still see
what it takes out, in `Tail.leaving`.
"""

from bisect import bisect_left, bisect_right, insort
from operator import itemgetter
from typing import Final

from orly.nostr.event import EncodedEvent
from orly.nostr.tags import indexed
from orly.store.lmdb import keys

__all__ = ["GENERATION_EVENTS", "INDEXES", "Flush", "Generation", "Tail"]

GENERATION_EVENTS: Final = 16_384
"""Events whose rows are written together; at about 1 KB each, two generations are 32 MB at most."""

INDEXES: Final = ("authors", "author_kinds", "kinds", "tags", "times")
"""The tables that are read by prefix; `times` has the empty one."""

_SERIAL: Final = keys.SERIAL_SLICE


def _prefixes(event: EncodedEvent) -> list[tuple[str, bytes]]:
    """Where an event stands: (table, prefix)."""
    fields = event.event
    kind = keys.kind_bytes(fields.kind)
    found = [("authors", event.pubkey), ("author_kinds", event.pubkey + kind), ("kinds", kind), ("times", b"")]
    if fields.tags:
        found += [("tags", keys.tag_prefix(letter, value)) for letter, value in indexed(fields)]
    return found


class Generation:
    """Rows of a stretch of serials.

    Attributes:
        positions: id -> position.
        tables: For each of `INDEXES`, prefix -> positions in ascending order.
        last_serial: The highest serial that was ever added.
        gone: Serial (8 bytes) -> number in the removal journal, of rows that are still here although their events
            were removed; only who follows another process's writing has such (see `FollowedTail`).
    """

    __slots__ = ("gone", "last_serial", "positions", "tables")

    def __init__(self) -> None:
        self.gone: dict[bytes, int] = {}
        self.positions: dict[bytes, bytes] = {}
        self.tables: dict[str, dict[bytes, list[bytes]]] = {name: {} for name in INDEXES}
        self.last_serial = 0

    def add(self, event: EncodedEvent, serial: int) -> None:
        """Add the rows of a new event."""
        fields = event.event
        position = keys.position(fields.created_at, event.id, fields.kind, serial)
        self.positions[event.id] = position
        if serial > self.last_serial:
            self.last_serial = serial
        tables = self.tables
        for table, prefix in _prefixes(event):
            rows_under = tables[table]
            rows = rows_under.get(prefix)
            if rows is None:
                rows_under[prefix] = [position]
            elif position > rows[-1]:
                rows.append(position)
            else:
                insort(rows, position)

    def remove(self, event: EncodedEvent) -> bool:
        """Take an event's rows out; False if it is not in here."""
        position = self.positions.pop(event.id, None)
        if position is None:
            return False
        for table, prefix in _prefixes(event):
            rows = self.tables[table][prefix]
            del rows[bisect_left(rows, position)]
            if not rows:
                del self.tables[table][prefix]
        return True

    def serial_of(self, event_id: bytes, through: bytes, removals: int) -> bytes | None:
        """The serial (8 bytes) of an event in here.

        Args:
            event_id: Its id.
            through: The newest serial (8 bytes) that counts.
            removals: The newest number in the removal journal that counts.
        """
        position = self.positions.get(event_id)
        if position is None or position[_SERIAL] > through:
            return None
        return position[_SERIAL]

    def items_at(self, through: bytes, removals: int) -> list[tuple[bytes, bytes]]:
        """The (id, position) of every event in here that counts; see `serial_of`."""
        found = self.positions.copy()  # at one stroke: the writer, for whose long work nobody waits, may change it
        if self.last_serial <= int.from_bytes(through, "big"):
            return list(found.items())
        return [item for item in found.items() if item[1][_SERIAL] <= through]

    def rows(self, table: str) -> list[tuple[bytes, bytes]]:
        """Everything that goes into one table (an index, or `ids`), sorted."""
        match table:
            case "ids":
                found = [(event_id, position[_SERIAL]) for event_id, position in self.positions.items()]
            case "times":
                found = [
                    (keys.time_key(int.from_bytes(position[:8], "big"), event_id), position[16:])
                    for event_id, position in self.positions.items()
                ]
            case _:
                found = [
                    (prefix + position, b"")
                    for prefix, positions in self.tables[table].items()
                    for position in positions
                ]
        found.sort()
        return found


class Flush:
    """The way of one generation's rows to the tables: one table after the other, sorted, a slice at a time.

    Attributes:
        generation: What is being written.
    """

    __slots__ = ("_after", "_cached", "_gone", "_left", "_next", "_rows", "_staged", "generation")

    def __init__(self, generation: Generation) -> None:
        self.generation = generation
        self._left: list[str] = ["ids", *INDEXES]
        self._rows: list[tuple[bytes, bytes]] = []
        self._cached = ""
        self._after = b""
        self._next = 0
        self._staged = 0
        self._gone: set[bytes] = set()

    @property
    def is_done(self) -> bool:
        """Whether everything was written and confirmed."""
        return not self._left

    def slice(self, max_rows: int) -> tuple[str, list[tuple[bytes, bytes]], bool]:
        """The next rows of one table, and whether they are the last of all; the same again until `confirm`."""
        table = self._left[0]
        if self._cached != table:
            self._rows = self.generation.rows(table)
            self._next = bisect_right(self._rows, self._after, key=itemgetter(0)) if self._after else 0
            self._cached = table
        self._staged = min(self._next + max_rows, len(self._rows))
        rows = self._rows[self._next : self._staged]
        if self._gone:
            rows = [row for row in rows if (row[1] or row[0])[-8:] not in self._gone]
        return table, rows, self._staged == len(self._rows) and len(self._left) == 1

    def confirm(self) -> None:
        """The slice is committed."""
        if self._staged == len(self._rows):
            self._left.pop(0)
            self._rows = []
            self._cached = ""
            self._after = b""
            self._next = self._staged = 0
        else:
            self._after = self._rows[self._staged - 1][0] if self._staged else b""
            self._next = self._staged

    def removed(self, serial: bytes) -> None:
        """An event is gone: its rows must not be written any more."""
        self._gone.add(serial)

    def restored(self, serial: bytes) -> None:
        """It is not gone after all."""
        self._gone.discard(serial)
        self._cached = ""  # the rows may have been listed without it


class Tail:
    """The generation that is filling and, at times, the one before it on its way to the tables.

    Attributes:
        active: Takes new events.
        flush: What is being written; None most of the time.
        generation_events: How many events fill a generation.
        newest_before: No event outside the active generation has a later created_at.
        reread_through: Events up to this serial were read from the database when it was opened; a flush that was
            broken off may have left rows of them in the tables.
        leaving: What the transaction under way has taken out; None if it took nothing.
        writer_txn_id: LMDB's number of that transaction; readers with a lower one see what is leaving.
        removals: The removal journal says nothing that is not known here.
    """

    __slots__ = (
        "active",
        "flush",
        "generation_events",
        "leaving",
        "newest_before",
        "reread_through",
        "writer_txn_id",
    )

    removals: Final = 0

    def __init__(
        self, generation_events: int = GENERATION_EVENTS, newest_before: int = -1, reread_through: int = 0
    ) -> None:
        self.generation_events = generation_events
        self.newest_before = newest_before
        self.reread_through = reread_through
        self.leaving: Generation | None = None
        self.writer_txn_id = 0
        self.active = Generation()
        self.flush: Flush | None = None

    def begin(self, txn_id: int) -> None:
        """A write transaction begins."""
        self.writer_txn_id = txn_id
        self.rotate()

    def ended(self) -> None:
        """It was committed or rolled back, and the loop knows."""
        self.leaving = None

    def rotate(self) -> None:
        """Begin a new generation if the active one is full; only between transactions."""
        if self.flush is None and len(self.active.positions) >= self.generation_events:
            self.flush = Flush(self.active)
            self._renew()

    def written(self) -> None:
        """A slice was committed; forget the generation if it was the last."""
        if self.flush is not None:
            self.flush.confirm()
            if self.flush.is_done:
                self.flush = None

    def clear(self) -> None:
        """All rows are in the tables."""
        self._renew()
        self.flush = None

    def _renew(self) -> None:
        times = self.active.tables["times"].get(b"")
        if times:
            self.newest_before = max(self.newest_before, int.from_bytes(times[-1][:8], "big"))
        self.active = Generation()

    def add(self, event: EncodedEvent, serial: int) -> None:
        """Add a new event."""
        self.active.add(event, serial)

    def remove(self, event: EncodedEvent) -> Generation | None:
        """Take an event out; returns the generation it was in."""
        if self.active.remove(event):
            return self.active
        if self.flush is not None:
            position = self.flush.generation.positions.get(event.id)
            if position is not None:
                self.flush.generation.remove(event)
                self.flush.removed(position[_SERIAL])
                return self.flush.generation
        return None

    def leave(self, event: EncodedEvent, serial: int) -> Generation | None:
        """Like `remove`, but readers see the event until the transaction is committed."""
        if self.position_of(event.id) is None:
            return None
        if self.leaving is None:
            self.leaving = Generation()
        if event.id not in self.leaving.positions:  # what comes back and goes again was never committed
            self.leaving.add(event, serial)
        return self.remove(event)

    def restore(self, event: EncodedEvent, serial: int, generation: Generation) -> None:
        """Undo a removal."""
        generation.add(event, serial)
        if self.flush is not None and self.flush.generation is generation:
            self.flush.restored(keys.serial_bytes(serial))

    def generations(self) -> tuple[Generation, ...]:
        """What the writer reads beside the tables."""
        if self.flush is None:
            return (self.active,)
        return (self.active, self.flush.generation)

    def leaving_before(self, txn_id: int) -> Generation | None:
        """What a reader, by the number of its transaction, still has to see although it is being taken out."""
        return self.leaving if txn_id < self.writer_txn_id else None

    def position_of(self, event_id: bytes) -> bytes | None:
        """The position of an event in here."""
        found = self.active.positions.get(event_id)
        if found is None and self.flush is not None:
            found = self.flush.generation.positions.get(event_id)
        return found
