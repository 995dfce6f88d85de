"""One write transaction: what saving, replacing, deleting and expiring do to the tables.

New events are collected and put when the transaction ends or an effect needs to see them; their index rows wait in
memory (see `Tail`). Everything else reads and writes the tables directly.
"""

from collections.abc import Sequence
from struct import Struct
from typing import Any, Final

from orly.nostr.event import EncodedEvent, decode_event, decode_stored
from orly.nostr.kinds import DELETION, GIFT_WRAP, VANISH, is_ephemeral
from orly.nostr.nip42 import targets_relay
from orly.nostr.tags import expiration, parse_address, values
from orly.store.base import SaveResult, SaveStatus, StoredEvent, StoreError
from orly.store.lmdb import keys
from orly.store.lmdb.environment import Environment
from orly.store.lmdb.tail import INDEXES, Generation, Tail

__all__ = ["MIN_ROWS_WRITTEN", "ROWS_WRITTEN_PER_EVENT", "Transaction", "indexed_through", "last_serial"]

MIN_ROWS_WRITTEN: Final = 512
"""Waiting index rows that every transaction takes along."""

ROWS_WRITTEN_PER_EVENT: Final = 20
"""And for each new event: twice what one has, so that a generation is written before the next is full."""

_U64: Final = Struct(">Q")
_DELIVERED: Final = SaveResult(SaveStatus.DELIVERED)
_DUPLICATE: Final = SaveResult(SaveStatus.DUPLICATE)
_SUPERSEDED: Final = SaveResult(SaveStatus.SUPERSEDED)
_EXPIRED: Final = SaveResult(SaveStatus.EXPIRED)


def last_serial(txn: Any, tables: Environment) -> int:
    """The newest serial ever given, as a transaction sees it."""
    found = txn.get(b"last_serial", db=tables.meta)
    return 0 if found is None else int(_U64.unpack(found)[0])


def indexed_through(txn: Any, tables: Environment) -> int:
    """The serial up to which every index row is in the tables."""
    found = txn.get(b"indexed_through", db=tables.meta)
    return 0 if found is None else int(_U64.unpack(found)[0])


class Transaction:
    """The changes of one commit.

    Attributes:
        stored: New events in serial order, to be told on the feed.
        ephemeral: Events to be told only.
        removed: Ids that left the visible set.
        first_expiry_s: The earliest second at which one of `stored` expires; None if none does.
    """

    def __init__(
        self, tables: Environment, txn: Any, tail: Tail, *, now_s: int, own_urls: Sequence[str], keep_versions: bool
    ) -> None:
        self.stored: list[StoredEvent] = []
        self.ephemeral: list[EncodedEvent] = []
        self.removed: list[bytes] = []
        self.first_expiry_s: int | None = None
        self._tables = tables
        self._txn = txn
        self._tail = tail
        self._now_s = now_s
        self._own_urls = own_urls
        self._keep_versions = keep_versions
        self._first_serial = self._serial = last_serial(txn, tables)
        self._pending: list[tuple[bytes, bytes]] = []
        self._wrote_rows = False
        self._is_settled = False
        self._undo: list[tuple[EncodedEvent, int, Generation | None]] = []
        self._has_deleted_ids = self._any(tables.deleted_ids)
        self._has_deleted_addresses = self._any(tables.deleted_addresses)
        self._has_vanished = self._any(tables.vanished)
        self._has_versions = self._any(tables.versions)

    def _any(self, table: Any) -> bool:
        return bool(self._txn.stat(table)["entries"])

    @property
    def serial(self) -> int:
        """The newest serial given so far."""
        return self._serial

    def finish(self) -> None:
        """Write what was collected; the caller commits, then calls `confirm` or `roll_back` on the event loop."""
        self._flush()
        self._write_rows()
        if self._serial != self._first_serial:
            self._txn.put(b"last_serial", _U64.pack(self._serial), db=self._tables.meta)

    def _write_rows(self) -> None:
        """Put a slice of the rows that waited in memory, more of them when more events come in."""
        flush = self._tail.flush
        if flush is None or self._is_settled:
            return
        self._wrote_rows = True
        table, rows, is_last = flush.slice(MIN_ROWS_WRITTEN + ROWS_WRITTEN_PER_EVENT * len(self.stored))
        self._put(getattr(self._tables, table), rows)
        if is_last:
            through = _U64.pack(flush.generation.last_serial)
            self._txn.put(b"indexed_through", through, db=self._tables.meta)

    def settle(self) -> None:
        """Write all rows that wait, so that whoever opens the database next has nothing to read again."""
        for generation in self._tail.generations():
            for table in ("ids", *INDEXES):
                self._put(getattr(self._tables, table), generation.rows(table))
        self._txn.put(b"indexed_through", _U64.pack(self._serial), db=self._tables.meta)
        self._is_settled = True

    def confirm(self) -> None:
        """Everything is on disk."""
        self._tail.ended()
        if self._is_settled:
            self._tail.clear()
        elif self._wrote_rows:
            self._tail.written()

    def roll_back(self) -> None:
        """Nothing was written: take it back in memory too."""
        self._tail.ended()
        for event, serial, generation in reversed(self._undo):
            if generation is None:
                self._tail.remove(event)
            else:
                self._tail.restore(event, serial, generation)

    def _serial_of(self, event_id: bytes) -> bytes | None:
        """The serial of a stored event that is not superseded."""
        position = self._tail.position_of(event_id)
        if position is not None:
            return position[keys.SERIAL_SLICE]
        found: bytes | None = self._txn.get(event_id, db=self._tables.ids)
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
        status = self.deleted(event)
        if status is not None:
            return SaveResult(status)
        address = keys.address_of(event)
        if address is None:
            if self._serial_of(event.id) is not None:
                return _DUPLICATE
        else:
            refused = self._take_address(address, event)
            if refused is not None:
                return refused
        self._serial += 1
        serial = _U64.pack(self._serial)
        self._pending.append((serial, event.raw))
        self._tail.add(event, self._serial)
        self._undo.append((event, self._serial, None))
        if expires_at is not None:
            self._txn.put(keys.expiration_key(expires_at, self._serial), b"", db=self._tables.expirations)
        self.stored.append(StoredEvent(self._serial, event))
        if expires_at is not None and (self.first_expiry_s is None or expires_at < self.first_expiry_s):
            self.first_expiry_s = expires_at
        if fields.kind == DELETION:
            self._apply_deletion(event)
        elif fields.kind == VANISH:
            self._apply_vanish(event)
        return SaveResult(SaveStatus.STORED, self._serial)

    def deleted(self, event: EncodedEvent) -> SaveStatus | None:
        """Why a deletion or vanish request forbids this event; None if nothing does."""
        fields = event.event
        if self._has_vanished and self._is_vanished(event):
            return SaveStatus.VANISHED
        if fields.kind in (DELETION, VANISH):
            return None
        if self._has_deleted_ids:
            get, table = self._txn.get, self._tables.deleted_ids
            if get(event.id + event.pubkey, db=table) is not None:
                return SaveStatus.DELETED
            if fields.kind == GIFT_WRAP and any(
                get(event.id + recipient, db=table) is not None for recipient in _recipients(event)
            ):
                return SaveStatus.DELETED
        if self._has_deleted_addresses:
            address = keys.address_of(event)
            if address is not None:
                found = self._txn.get(address, db=self._tables.deleted_addresses)
                if found is not None and fields.created_at <= _U64.unpack_from(found)[0]:
                    return SaveStatus.DELETED
        return None

    def _is_vanished(self, event: EncodedEvent) -> bool:
        created_at = _U64.pack(event.event.created_at)
        get, table = self._txn.get, self._tables.vanished
        found = get(event.pubkey, db=table)
        if found is not None and created_at <= found:
            # The request itself is kept, for bookkeeping: sent again, it is a duplicate.
            return not (event.event.kind == VANISH and self._serial_of(event.id) is not None)
        if event.event.kind != GIFT_WRAP:
            return False
        return any(
            (until := get(recipient, db=table)) is not None and created_at <= until for recipient in _recipients(event)
        )

    def _take_address(self, address: bytes, event: EncodedEvent) -> SaveResult | None:
        """Make the event the current version of its address, unless that is newer or the same."""
        tables, txn = self._tables, self._txn
        mine = _U64.pack(event.event.created_at) + keys.invert(event.id)
        current = txn.get(address, db=tables.addresses)
        if current is not None:
            theirs = current[:8] + keys.invert(current[8:40])
            if mine == theirs:
                return _DUPLICATE
            is_newer = mine > theirs
            if not is_newer and not self._is_expired(current[40:48]):
                return _SUPERSEDED
            self._flush()
            self._remove(current[40:48], keep_version=is_newer and self._keep_versions)
        if self._has_versions:
            self._remove_version(event.id)  # what had replaced it is gone, so it is current again
        serial = _U64.pack(self._serial + 1)
        txn.put(address, mine[:8] + event.id + serial, db=tables.addresses)
        return None

    def _is_expired(self, serial: bytes) -> bool:
        """Whether a stored event has expired and only waits to be purged."""
        raw = self._txn.get(serial, db=self._tables.events)
        expires_at = None if raw is None else expiration(decode_stored(raw))
        return expires_at is not None and expires_at <= self._now_s

    def remove(self, event_id: bytes) -> bool:
        """Remove a stored event, a kept version included; False if there is none."""
        self._flush()
        serial = self._serial_of(event_id)
        if serial is not None:
            return self._remove(serial)
        return self._remove_version(event_id)

    def remove_expired(self, limit: int) -> int:
        """Remove up to `limit` events whose expiration has passed; returns how many there were."""
        self._flush()
        with self._txn.cursor(self._tables.expirations) as cursor:
            due: list[bytes] = []
            for key in cursor.iternext(keys=True, values=False):
                if len(due) == limit or key[:8] > _U64.pack(self._now_s):
                    break
                due.append(key)
        for key in due:
            if not self._remove(key[8:]):
                self._txn.delete(key, db=self._tables.expirations)
        return len(due)

    def _flush(self) -> None:
        """Put the events that were collected; effects read them from the table."""
        if self._pending:
            rows, self._pending = self._pending, []
            self._put(self._tables.events, rows, append=True)

    def _put(self, table: Any, rows: Sequence[tuple[bytes, bytes]], *, append: bool = False) -> None:
        if rows:
            with self._txn.cursor(table) as cursor:
                _, added = cursor.putmulti(rows, append=append)
            if added != len(rows):  # appending skips what is out of order, without an error
                raise StoreError("the serials in the database run ahead of its counter: run orly check")

    def _remove(self, serial: bytes, *, keep_version: bool = False) -> bool:
        """Take an event out of every index; its JSON stays only as a kept version."""
        tables, delete = self._tables, self._txn.delete
        raw = self._txn.get(serial, db=tables.events)
        if raw is None:
            return False
        event = decode_event(raw)
        if self._serial_of(event.id) != serial:
            return self._remove_version(event.id)
        rows = keys.IndexRows(event, _U64.unpack(serial)[0])
        self._remove_rows(event, rows)
        address = keys.address_of(event)
        if keep_version and address is not None:
            ending = rows.author[32:]
            self._txn.put(address + ending, b"", db=tables.versions)
            self._txn.put(event.id, address + ending, db=tables.version_ids)
            self._has_versions = True
        else:
            delete(serial, db=tables.events)
            if rows.expiration is not None:
                delete(rows.expiration, db=tables.expirations)
            if address is not None:
                current = self._txn.get(address, db=tables.addresses)
                if current is not None and current[40:48] == serial:
                    delete(address, db=tables.addresses)
        self.removed.append(event.id)
        return True

    def _remove_rows(self, event: EncodedEvent, rows: keys.IndexRows) -> None:
        """Take an event out of the indexes, wherever its rows are: in memory, in the tables, or in both."""
        tables, delete = self._tables, self._txn.delete
        serial = _U64.unpack(rows.serial)[0]
        generation = self._tail.leave(event, serial)
        if generation is not None:
            self._undo.append((event, serial, generation))
            if generation is self._tail.active and serial > self._tail.reread_through:
                return
        delete(event.id, db=tables.ids)
        delete(rows.time, db=tables.times)
        delete(rows.author, db=tables.authors)
        delete(rows.author_kind, db=tables.author_kinds)
        delete(rows.kind, db=tables.kinds)
        for tag in rows.tags:
            delete(tag, db=tables.tags)

    def _remove_version(self, event_id: bytes) -> bool:
        tables, delete = self._tables, self._txn.delete
        key = self._txn.get(event_id, db=tables.version_ids)
        if key is None:
            return False
        serial = key[-8:]
        raw = self._txn.get(serial, db=tables.events)
        if raw is not None:
            rows = keys.IndexRows(decode_event(raw), _U64.unpack(serial)[0])
            if rows.expiration is not None:
                delete(rows.expiration, db=tables.expirations)
        delete(serial, db=tables.events)
        delete(key, db=tables.versions)
        delete(event_id, db=tables.version_ids)
        return True

    def _apply_deletion(self, event: EncodedEvent) -> None:
        """NIP-09: leave tombstones, and remove what they cover."""
        self._flush()
        for value in values(event.event, "e"):
            target = _id_bytes(value)
            if target is not None:
                self._delete_id(target, event)
        for value in values(event.event, "a"):
            address = parse_address(value)
            if address is not None and address[1] == event.event.pubkey:
                self._delete_address(keys.address_key(address[0], event.pubkey, address[2]), event)

    def _delete_id(self, target: bytes, deletion: EncodedEvent) -> None:
        self._txn.put(target + deletion.pubkey, deletion.id, db=self._tables.deleted_ids, overwrite=False)
        self._has_deleted_ids = True
        serial = self._serial_of(target)
        if serial is None:
            key = self._txn.get(target, db=self._tables.version_ids)
            serial = None if key is None else key[-8:]
        raw = None if serial is None else self._txn.get(serial, db=self._tables.events)
        if raw is None:
            return
        found = decode_event(raw)
        if found.event.kind in (DELETION, VANISH):
            return
        is_recipient = found.event.kind == GIFT_WRAP and deletion.pubkey in _recipients(found)
        if found.pubkey == deletion.pubkey or is_recipient:
            self.remove(target)

    def _delete_address(self, address: bytes, deletion: EncodedEvent) -> None:
        tables, txn = self._tables, self._txn
        until = _U64.pack(deletion.event.created_at)
        before = txn.get(address, db=tables.deleted_addresses)
        if before is None or before[:8] < until:
            txn.put(address, until + deletion.id, db=tables.deleted_addresses)
        self._has_deleted_addresses = True
        current = txn.get(address, db=tables.addresses)
        if current is not None and current[:8] <= until:
            self._remove(current[40:48])
        with txn.cursor(tables.versions) as cursor:
            kept = _keys_under(cursor, address, until)
        for key in kept:
            raw = txn.get(key[-8:], db=tables.events)
            if raw is not None:
                self._remove_version(decode_event(raw).id)

    def _apply_vanish(self, request: EncodedEvent) -> None:
        """NIP-62: remove what the author wrote and what was wrapped for them, up to the request's time."""
        targets = list(values(request.event, "relay"))
        if "ALL_RELAYS" not in targets and not targets_relay(targets, self._own_urls):
            return
        self._flush()
        tables, txn = self._tables, self._txn
        until = _U64.pack(request.event.created_at)
        txn.put(request.pubkey, until, db=tables.vanished)
        self._has_vanished = True
        own = self._serials_under("authors", request.pubkey, until)
        gift_wrap = keys.kind_bytes(GIFT_WRAP)
        wrapped = self._serials_under("tags", keys.tag_prefix("p", request.pubkey.hex()), until, kind=gift_wrap)
        own.discard(_U64.pack(self._serial))
        for serial in sorted(own | wrapped):
            self._remove(serial)
        self._remove_versions_of(request.pubkey, until)

    def _serials_under(self, table: str, prefix: bytes, until: bytes, *, kind: bytes | None = None) -> set[bytes]:
        """The serials of the events under a prefix that are not later than `until` (8 bytes)."""
        with self._txn.cursor(getattr(self._tables, table)) as cursor:
            positions = [key[len(prefix) :] for key in _keys_under(cursor, prefix, until)]
        for generation in self._tail.generations():
            rows = generation.tables[table].get(prefix, ())
            positions.extend(position for position in rows if position[:8] <= until)
        return {
            position[keys.SERIAL_SLICE] for position in positions if kind is None or position[keys.KIND_SLICE] == kind
        }

    def _remove_versions_of(self, pubkey: bytes, until: bytes) -> None:
        if not self._any(self._tables.versions):
            return
        with self._txn.cursor(self._tables.versions) as cursor:
            kept = [
                key for key in cursor.iternext(keys=True, values=False) if key[2:34] == pubkey and key[66:74] <= until
            ]
        for key in kept:
            raw = self._txn.get(key[-8:], db=self._tables.events)
            if raw is not None:
                self._remove_version(decode_event(raw).id)


def _keys_under(cursor: Any, prefix: bytes, until: bytes) -> list[bytes]:
    """The keys with a prefix whose position is not later than `until` (8 bytes)."""
    found: list[bytes] = []
    if not cursor.set_range(prefix):
        return found
    end = len(prefix)
    for key in cursor.iternext(keys=True, values=False):
        if not key.startswith(prefix) or key[end : end + 8] > until:
            break
        found.append(key)
    return found


def _id_bytes(text: str) -> bytes | None:
    try:
        value = bytes.fromhex(text)
    except ValueError:
        return None
    return value if len(value) == 32 and value.hex() == text else None


def _recipients(event: EncodedEvent) -> list[bytes]:
    return [key for value in values(event.event, "p") if (key := _id_bytes(value)) is not None]
