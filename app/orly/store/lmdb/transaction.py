"""One write transaction: what saving, replacing, deleting and expiring do to the tables.

New events are collected and put when the transaction ends or an effect needs to see them; their index rows wait in
memory (see `Tail`). Everything else reads and writes the tables directly.
"""

from collections.abc import Sequence
from struct import Struct
from typing import Any, Final

from orly.nostr.event import EncodedEvent, decode_stored, decode_verified
from orly.nostr.kinds import DELETION, VANISH, is_ephemeral
from orly.nostr.tags import expiration
from orly.store.base import SaveResult, SaveStatus, StoredEvent, StoreError
from orly.store.lmdb import keys
from orly.store.lmdb.environment import Environment
from orly.store.lmdb.erasing import apply_deletion, apply_vanish
from orly.store.lmdb.hiding import HiddenKeys, hide_serials
from orly.store.lmdb.meta import last_serial, set_flush_through
from orly.store.lmdb.removals import write_removals
from orly.store.lmdb.tail import INDEXES, Generation, Tail
from orly.store.lmdb.tombstones import Tombstones

__all__ = ["MIN_ROWS_WRITTEN", "ROWS_WRITTEN_PER_EVENT", "Transaction"]

MIN_ROWS_WRITTEN: Final = 512
"""Waiting index rows that every transaction takes along."""

ROWS_WRITTEN_PER_EVENT: Final = 20
"""And for each new event: twice what one has, so that a generation is written before the next is full."""

_U64: Final = Struct(">Q")
_DELIVERED: Final = SaveResult(SaveStatus.DELIVERED)
_DUPLICATE: Final = SaveResult(SaveStatus.DUPLICATE)
_SUPERSEDED: Final = SaveResult(SaveStatus.SUPERSEDED)
_EXPIRED: Final = SaveResult(SaveStatus.EXPIRED)


class Transaction:
    """The changes of one commit.

    Attributes:
        stored: New events in serial order, to be told on the feed.
        ephemeral: Events to be told only.
        hidden: Ids that only who sees everything may see from now on.
        shows: Whether events that were hidden are shown again.
        removed: Ids that left the visible set, and did not come back.
        first_expiry_s: The earliest second at which one of `stored` expires; None if none does.
        tables: What is changed.
        txn: LMDB's write transaction.
        tail: The rows that wait in memory.
        tombstones: What must not be stored.
        hidden_keys: What hides events.
    """

    def __init__(
        self,
        tables: Environment,
        txn: Any,
        tail: Tail,
        *,
        now_s: int,
        own_urls: Sequence[str],
        keep_versions: bool,
        shown_authors: set[bytes],
    ) -> None:
        self.stored: list[StoredEvent] = []
        self.ephemeral: list[EncodedEvent] = []
        self.removed: dict[bytes, None] = {}
        self.hidden: list[bytes] = []
        self.shows = False
        self.first_expiry_s: int | None = None
        self.tables = tables
        self.txn = txn
        self.tail = tail
        self._now_s = now_s
        self._own_urls = own_urls
        self._keep_versions = keep_versions
        self._first_serial = self._serial = last_serial(txn, tables)
        self._pending: list[tuple[bytes, bytes]] = []
        self._wrote_rows = False
        self._is_settled = False
        self._undo: list[tuple[EncodedEvent, int, Generation | None]] = []
        self._removed_waiting: list[bytes] = []
        self.tombstones = Tombstones(tables, txn)
        self.hidden_keys = HiddenKeys(tables, txn, shown_authors)
        self._born_hidden: list[bytes] = []
        self._has_versions = bool(txn.stat(tables.versions)["entries"])

    @property
    def serial(self) -> int:
        """The newest serial given so far."""
        return self._serial

    def finish(self) -> None:
        """Write what was collected; the caller commits, then calls `confirm` or `roll_back` on the event loop."""
        self.flush()
        if self._born_hidden:
            hide_serials(self, self._born_hidden)
        self._write_rows()
        if self._removed_waiting and self.tables.removals is not None:
            write_removals(self.txn, self.tables, self._removed_waiting)
        if self._serial != self._first_serial:
            self.txn.put(b"last_serial", _U64.pack(self._serial), db=self.tables.meta)

    def _write_rows(self) -> None:
        """Put a slice of the rows that waited in memory, more of them when more events come in."""
        flush = self.tail.flush
        if flush is None or self._is_settled:
            return
        self._wrote_rows = True
        set_flush_through(self.txn, self.tables, flush.generation.last_serial)
        table, rows, is_last = flush.slice(MIN_ROWS_WRITTEN + ROWS_WRITTEN_PER_EVENT * len(self.stored))
        self._put(getattr(self.tables, table), rows)
        if is_last:
            through = _U64.pack(flush.generation.last_serial)
            self.txn.put(b"indexed_through", through, db=self.tables.meta)

    def settle(self) -> None:
        """Write all rows that wait, so that whoever opens the database next has nothing to read again."""
        for generation in self.tail.generations():
            for table in ("ids", *INDEXES):
                self._put(getattr(self.tables, table), generation.rows(table))
        self.txn.put(b"indexed_through", _U64.pack(self._serial), db=self.tables.meta)
        self._is_settled = True

    def confirm(self) -> None:
        """Everything is on disk."""
        self.tail.ended()
        if self._is_settled:
            self.tail.clear()
        elif self._wrote_rows:
            self.tail.written()

    def roll_back(self) -> None:
        """Nothing was written: take it back in memory too."""
        self.tail.ended()
        self.tail.active.last_serial = min(self.tail.active.last_serial, self._first_serial)
        for event, serial, generation in reversed(self._undo):
            if generation is None:
                self.tail.remove(event)
            else:
                self.tail.restore(event, serial, generation)

    def serial_of(self, event_id: bytes) -> bytes | None:
        """The serial of a stored event that is not superseded."""
        position = self.tail.position_of(event_id)
        if position is not None:
            return position[keys.SERIAL_SLICE]
        found: bytes | None = self.txn.get(event_id, db=self.tables.ids)
        return found

    def save(self, event: EncodedEvent) -> SaveResult:
        """Store one event, with every effect it has on others."""
        fields = event.event
        expires_at = expiration(fields) if fields.tags else None
        if expires_at is not None and expires_at <= self._now_s:
            return _EXPIRED
        if is_ephemeral(fields.kind):
            self.ephemeral.append(event)
            return _DELIVERED
        status = self.tombstones.forbids(event, self.serial_of)
        if status is not None:
            return SaveResult(status)
        address = keys.address_of(event)
        if address is None:
            if self.serial_of(event.id) is not None:
                return _DUPLICATE
        else:
            refused = self._take_address(address, event)
            if refused is not None:
                return refused
        self._serial += 1
        serial = _U64.pack(self._serial)
        self._pending.append((serial, event.raw))
        self.tail.add(event, self._serial)
        self._undo.append((event, self._serial, None))
        if expires_at is not None:
            self.txn.put(keys.expiration_key(expires_at, self._serial), b"", db=self.tables.expirations)
        self.stored.append(StoredEvent(self._serial, event))
        self.removed.pop(event.id, None)
        if self.hidden_keys.cover(event):
            self._born_hidden.append(serial)
        if expires_at is not None and (self.first_expiry_s is None or expires_at < self.first_expiry_s):
            self.first_expiry_s = expires_at
        if fields.kind == DELETION:
            apply_deletion(self, event)
        elif fields.kind == VANISH:
            apply_vanish(self, event, self._own_urls)
        return SaveResult(SaveStatus.STORED, self._serial)

    def _take_address(self, address: bytes, event: EncodedEvent) -> SaveResult | None:
        """Make the event the current version of its address, unless that is newer or the same."""
        tables, txn = self.tables, self.txn
        mine = _U64.pack(event.event.created_at) + keys.invert(event.id)
        current = txn.get(address, db=tables.addresses)
        if current is not None:
            theirs = current[:8] + keys.invert(current[8:40])
            if mine == theirs:
                return _DUPLICATE
            is_newer = mine > theirs
            if not is_newer and not self._is_expired(current[40:48]):
                return _SUPERSEDED
            self.flush()
            self.remove_serial(current[40:48], keep_version=is_newer and self._keep_versions)
        if self._has_versions:
            self.remove_version(event.id)  # what had replaced it is gone, so it is current again
        serial = _U64.pack(self._serial + 1)
        txn.put(address, mine[:8] + event.id + serial, db=tables.addresses)
        return None

    def _is_expired(self, serial: bytes) -> bool:
        """Whether a stored event has expired and only waits to be purged."""
        raw = self.txn.get(serial, db=self.tables.events)
        expires_at = None if raw is None else expiration(decode_stored(raw))
        return expires_at is not None and expires_at <= self._now_s

    def remove(self, event_id: bytes) -> bool:
        """Remove a stored event, a kept version included; False if there is none."""
        self.flush()
        serial = self.serial_of(event_id)
        if serial is not None:
            return self.remove_serial(serial)
        return self.remove_version(event_id)

    def remove_expired(self, limit: int) -> int:
        """Remove up to `limit` events whose expiration has passed; returns how many there were."""
        self.flush()
        with self.txn.cursor(self.tables.expirations) as cursor:
            due: list[bytes] = []
            for key in cursor.iternext(keys=True, values=False):
                if len(due) == limit or key[:8] > _U64.pack(self._now_s):
                    break
                due.append(key)
        for key in due:
            if not self.remove_serial(key[8:]):
                self.txn.delete(key, db=self.tables.expirations)
        return len(due)

    def flush(self) -> None:
        """Put the events that were collected; effects read them from the table."""
        if self._pending:
            rows, self._pending = self._pending, []
            self._put(self.tables.events, rows, append=True)

    def _put(self, table: Any, rows: Sequence[tuple[bytes, bytes]], *, append: bool = False) -> None:
        if rows:
            with self.txn.cursor(table) as cursor:
                _, added = cursor.putmulti(rows, append=append)
            if added != len(rows):  # appending skips what is out of order, without an error
                raise StoreError("the serials in the database run ahead of its counter: run orly check")

    def remove_serial(self, serial: bytes, *, keep_version: bool = False) -> bool:
        """Take an event out of every index; its JSON stays only as a kept version."""
        tables, delete = self.tables, self.txn.delete
        raw = self.txn.get(serial, db=tables.events)
        if raw is None:
            return False
        event = decode_verified(raw)
        if self.serial_of(event.id) != serial:
            return self.remove_version(event.id)
        rows = keys.IndexRows(event, _U64.unpack(serial)[0])
        self._remove_rows(event, rows)
        address = keys.address_of(event)
        if keep_version and address is not None:
            ending = rows.author[32:]
            self.txn.put(address + ending, b"", db=tables.versions)
            self.txn.put(event.id, address + ending, db=tables.version_ids)
            self._has_versions = True
        else:
            delete(serial, db=tables.events)
            if rows.expiration is not None:
                delete(rows.expiration, db=tables.expirations)
            if address is not None:
                current = self.txn.get(address, db=tables.addresses)
                if current is not None and current[40:48] == serial:
                    delete(address, db=tables.addresses)
        self.removed[event.id] = None
        return True

    def _remove_rows(self, event: EncodedEvent, rows: keys.IndexRows) -> None:
        """Take an event out of the indexes, wherever its rows are: in memory, in the tables, or in both."""
        tables, delete = self.tables, self.txn.delete
        serial = _U64.unpack(rows.serial)[0]
        generation = self.tail.leave(event, serial)
        if generation is not None:
            self._undo.append((event, serial, generation))
            if serial <= self._first_serial:  # else nobody else has ever seen it
                self._removed_waiting.append(rows.serial)
            if generation is self.tail.active and serial > self.tail.reread_through:
                return
        delete(event.id, db=tables.ids)
        delete(rows.time, db=tables.times)
        delete(rows.author, db=tables.authors)
        delete(rows.author_kind, db=tables.author_kinds)
        delete(rows.kind, db=tables.kinds)
        for tag in rows.tags:
            delete(tag, db=tables.tags)

    def remove_version(self, event_id: bytes) -> bool:
        """Remove a kept version of an event; False if there is none."""
        tables, delete = self.tables, self.txn.delete
        key = self.txn.get(event_id, db=tables.version_ids)
        if key is None:
            return False
        serial = key[-8:]
        raw = self.txn.get(serial, db=tables.events)
        if raw is not None:
            rows = keys.IndexRows(decode_verified(raw), _U64.unpack(serial)[0])
            if rows.expiration is not None:
                delete(rows.expiration, db=tables.expirations)
        delete(serial, db=tables.events)
        delete(key, db=tables.versions)
        delete(event_id, db=tables.version_ids)
        return True
