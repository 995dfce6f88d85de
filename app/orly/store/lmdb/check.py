"""Whether the tables of a database agree with each other: what `orly check` runs, and every crash test.

One pass over the events proves that each is sound and stands in every index it belongs to. All those index rows
are distinct, so an index that has more rows than were proven has rows without an event; only then are its rows
read, to name them. The rows of the newest events may still wait in memory (see `Tail`) and need not be there.
Nothing is kept but counts, the first problems, and the ids of those newest events.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct
from typing import Any, Final

import lmdb

from orly.nostr.event import EncodedEvent, EventError, decode_event
from orly.nostr.kinds import DELETION, GIFT_WRAP, VANISH
from orly.nostr.signing import verify_event
from orly.store.lmdb import keys
from orly.store.lmdb.environment import Environment, translate_error
from orly.store.lmdb.meta import indexed_through, last_serial
from orly.store.lmdb.tombstones import recipients

__all__ = ["MAX_PROBLEMS", "CheckReport", "check"]

MAX_PROBLEMS: Final = 100
"""Problems that are described; the rest is counted."""

_U64: Final = Struct(">Q")
_TOMBSTONE_BYTES: Final = {"deleted_ids": (64, 32), "deleted_addresses": (66, 40), "vanished": (32, 8)}
"""Length of key and value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """What a check found.

    Attributes:
        events: Visible events.
        versions: Superseded versions that were kept.
        index_rows: Rows in all indexes.
        tombstones: Deletions and requests to vanish that are remembered.
        last_serial: The newest serial ever given.
        problems: The first `MAX_PROBLEMS`, a sentence each.
        problem_count: How many there are in all.
    """

    events: int
    versions: int
    index_rows: int
    tombstones: int
    last_serial: int
    problems: tuple[str, ...]
    problem_count: int

    @property
    def is_clean(self) -> bool:
        """Whether nothing is wrong."""
        return self.problem_count == 0


def check(environment: Environment, *, verify_signatures: bool = False) -> CheckReport:
    """Check a database, in one consistent view; blocks for about 40 us an event.

    Args:
        environment: From `open_environment`; a relay may be writing meanwhile.
        verify_signatures: Check every signature too, which takes as long again.

    Raises:
        StoreError: The view could not be opened. Damage met on the way is a problem in the report.
    """
    try:
        with environment.env.begin() as txn:
            run = _Check(environment, txn, verify_signatures=verify_signatures)
            run.all()
            return run.report()
    except lmdb.Error as error:
        raise translate_error(error, environment.directory) from error


class _Check:
    def __init__(self, tables: Environment, txn: Any, *, verify_signatures: bool) -> None:
        self._tables = tables
        self._txn = txn
        self._verify_signatures = verify_signatures
        self._last_serial = last_serial(txn, tables)
        self._indexed_through = indexed_through(txn, tables)
        self._waiting_ids: set[bytes] = set()
        self._problems: list[str] = []
        self._problem_count = 0
        self._events = 0
        self._versions = 0
        self._proven = dict.fromkeys(_INDEXES, 0)

    def report(self) -> CheckReport:
        return CheckReport(
            events=self._events,
            versions=self._versions,
            index_rows=sum(self._entries(name) for name in _INDEXES),
            tombstones=sum(self._entries(name) for name in _TOMBSTONE_BYTES),
            last_serial=self._last_serial,
            problems=tuple(self._problems),
            problem_count=self._problem_count,
        )

    def all(self) -> None:
        steps = (
            self._check_events,
            self._check_indexes,
            self._check_tombstones,
            self._check_removals,
            self._check_hidden,
        )
        for step in steps:
            try:
                step()
            except lmdb.Error as error:
                self._problem(f"the file is damaged: {error}")

    def _problem(self, text: str) -> None:
        self._problem_count += 1
        if len(self._problems) < MAX_PROBLEMS:
            self._problems.append(text)

    def _table(self, name: str) -> Any:
        return getattr(self._tables, name)

    def _entries(self, name: str) -> int:
        return int(self._txn.stat(self._table(name))["entries"])

    def _get(self, name: str, key: bytes) -> bytes | None:
        found: bytes | None = self._txn.get(key, None, self._table(name))
        return found

    def _rows(self, name: str) -> Iterator[tuple[bytes, bytes]]:
        with self._txn.cursor(self._table(name)) as cursor:
            yield from cursor.iternext(keys=True, values=True)

    # Events

    def _check_events(self) -> None:
        for key, raw in self._rows("events"):
            if len(key) != 8:
                self._problem(f"events has a key of {len(key)} bytes: {key[:16].hex()}")
                continue
            serial = _U64.unpack(key)[0]
            if serial > self._last_serial:
                self._problem(f"event {serial} has a serial above the last one given, {self._last_serial}")
            event = self._decode(serial, raw)
            if event is not None:
                self._check_event(serial, event)

    def _decode(self, serial: int, raw: bytes) -> EncodedEvent | None:
        try:
            event = decode_event(raw)
        except EventError as error:
            self._problem(f"event {serial} is not valid: {error}")
            return None
        if event.raw != raw:
            self._problem(f"event {serial} is not in canonical form")
        if self._verify_signatures and not verify_event(event):
            self._problem(f"event {serial} has a wrong signature")
        return event

    def _check_event(self, serial: int, event: EncodedEvent) -> None:
        rows = keys.IndexRows(event, serial)
        version = self._get("version_ids", event.id)
        if self._is_current(event, rows.serial):
            self._events += 1
            if serial > self._indexed_through:
                if event.id in self._waiting_ids:
                    self._problem(f"event {serial} is stored twice: {event.event.id}")
                self._waiting_ids.add(event.id)
            if version is not None:
                self._problem(f"event {serial} is current and a kept version at once: {event.event.id}")
            for name, key, value in _live_rows(event, rows):
                self._require(serial, name, key, value, may_wait=serial > self._indexed_through)
            self._check_address(serial, event)
            self._check_not_deleted(serial, event)
        elif version is not None and version[-8:] == rows.serial:
            self._versions += 1
            self._check_version(serial, event, rows)
        else:
            self._problem(f"event {serial} is not the one that its id stands for: {event.event.id}")
        if rows.expiration is not None:
            self._require(serial, "expirations", rows.expiration, b"")

    def _is_current(self, event: EncodedEvent, serial: bytes) -> bool:
        found = self._get("ids", event.id)
        if found is None and _U64.unpack(serial)[0] > self._indexed_through:
            version = self._get("version_ids", event.id)
            return version is None or version[-8:] != serial
        return found == serial

    def _require(self, serial: int, name: str, key: bytes, value: bytes, *, may_wait: bool = False) -> None:
        found = self._get(name, key)
        if found == value:
            self._proven[name] += 1
        elif found is None and may_wait:
            return
        elif found is None:
            self._problem(f"event {serial} has no row in {name}: {key.hex()}")
        else:
            self._problem(f"event {serial} has a wrong row in {name}: {key.hex()} is {found.hex()}")

    def _check_address(self, serial: int, event: EncodedEvent) -> None:
        address = keys.address_of(event)
        if address is not None:
            current = keys.time_bytes(event.event.created_at) + event.id + keys.serial_bytes(serial)
            self._require(serial, "addresses", address, current)

    def _check_version(self, serial: int, event: EncodedEvent, rows: keys.IndexRows) -> None:
        address = keys.address_of(event)
        if address is None:
            self._problem(f"event {serial} is kept as a version, but has no address")
            return
        ending = rows.author[32:]
        self._require(serial, "versions", address + ending, b"")
        self._require(serial, "version_ids", event.id, address + ending)
        self._check_not_deleted(serial, event)

    def _check_not_deleted(self, serial: int, event: EncodedEvent) -> None:
        fields = event.event
        created_at = keys.time_bytes(fields.created_at)
        wrapped_for = recipients(event) if fields.kind == GIFT_WRAP else []
        for key in [event.pubkey, *wrapped_for]:
            until = self._get("vanished", key)
            is_request = fields.kind == VANISH and until == created_at
            if until is not None and created_at <= until and not is_request:
                self._problem(f"event {serial} should have vanished: {fields.id}")
        if fields.kind in (DELETION, VANISH):
            return
        if any(self._get("deleted_ids", event.id + key) is not None for key in [event.pubkey, *wrapped_for]):
            self._problem(f"event {serial} was deleted by its id: {fields.id}")
        address = keys.address_of(event)
        deleted = None if address is None else self._get("deleted_addresses", address)
        if deleted is not None and created_at <= deleted[:8]:
            self._problem(f"event {serial} was deleted by its address: {fields.id}")

    # Indexes

    def _check_indexes(self) -> None:
        for name in _INDEXES:
            if self._entries(name) != self._proven[name]:
                self._name_extra_rows(name)

    def _name_extra_rows(self, name: str) -> None:
        extra = 0
        for key, value in self._rows(name):
            if not self._belongs(name, key, value):
                extra += 1
                self._problem(f"{name} has a row without its event: {key.hex()}")
        count = self._entries(name)
        if extra == 0 and count < self._proven[name]:
            self._problem(f"{name} says it has {count} rows, but {self._proven[name]} were found")

    def _belongs(self, name: str, key: bytes, value: bytes) -> bool:
        serial = _SERIAL_OF[name](key, value)
        raw = self._get("events", serial) if len(serial) == 8 else None
        if raw is None:
            return False
        try:
            event = decode_event(raw)
        except EventError:
            return False
        return (name, key, value) in self._all_rows(event, _U64.unpack(serial)[0])

    def _all_rows(self, event: EncodedEvent, serial: int) -> Iterator[tuple[str, bytes, bytes]]:
        """Every row that an event may have, as it is current or a kept version."""
        rows = keys.IndexRows(event, serial)
        address = keys.address_of(event)
        if rows.expiration is not None:
            yield "expirations", rows.expiration, b""
        if self._is_current(event, rows.serial):
            yield from _live_rows(event, rows)
            if address is not None:
                yield "addresses", address, keys.time_bytes(event.event.created_at) + event.id + rows.serial
        elif address is not None:
            ending = rows.author[32:]
            yield "versions", address + ending, b""
            yield "version_ids", event.id, address + ending

    def _check_tombstones(self) -> None:
        for name, lengths in _TOMBSTONE_BYTES.items():
            for key, value in self._rows(name):
                if (len(key), len(value)) != lengths:
                    self._problem(f"{name} has a row of a wrong length: {key.hex()}")

    def _check_removals(self) -> None:
        if self._tables.removals is None:
            return
        for key, value in self._rows("removals"):
            if len(key) != 8 or not value or len(value) % 8:
                self._problem(f"removals has a row of a wrong length: {key.hex()}")

    def _check_hidden(self) -> None:
        if self._tables.hidden is None or self._tables.hidden_keys is None:
            return
        n_rows = 0
        for key, value in self._rows("hidden"):
            n_rows += 1
            if key != _U64.pack(n_rows) or value[:1] not in (b"+", b"-") or len(value) % 8 != 1:
                self._problem(f"hidden has a row that is none: {key.hex()}")
        state = self._get("meta", b"hidden")
        if (0 if state is None else _U64.unpack(state[8:])[0]) != n_rows:
            self._problem(f"hidden has {n_rows} rows, and meta says something else")
        for key, value in self._rows("hidden_keys"):
            if len(key) != 33 or key[:1] not in (b"a", b"e") or value not in (b"\x00", b"\x01", b"\x02"):
                self._problem(f"hidden_keys has a row that is none: {key.hex()}")


def _live_rows(event: EncodedEvent, rows: keys.IndexRows) -> Iterator[tuple[str, bytes, bytes]]:
    """Table, key and value of what every visible event has."""
    yield "ids", event.id, rows.serial
    yield "times", rows.time, rows.time_value
    yield "authors", rows.author, b""
    yield "author_kinds", rows.author_kind, b""
    yield "kinds", rows.kind, b""
    for tag in rows.tags:
        yield "tags", tag, b""


def _end_of_key(key: bytes, value: bytes) -> bytes:
    return key[-8:]


def _end_of_value(key: bytes, value: bytes) -> bytes:
    return value[-8:]


_SERIAL_OF: Final = {
    "ids": _end_of_value,
    "times": _end_of_value,
    "authors": _end_of_key,
    "author_kinds": _end_of_key,
    "kinds": _end_of_key,
    "tags": _end_of_key,
    "addresses": _end_of_value,
    "versions": _end_of_key,
    "version_ids": _end_of_value,
    "expirations": _end_of_key,
}
"""Where a row of each index has the serial of its event."""

_INDEXES: Final = tuple(_SERIAL_OF)
