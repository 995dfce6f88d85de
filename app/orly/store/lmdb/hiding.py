"""What is hidden: all events of some authors, and single events, which only who sees everything may see.

A hidden event stays in every index. Its serial stands in the journal `hidden`, from which every reader, in whatever
process, keeps the set of those it must pass over; `meta` says how long the journal is, so that a look at one row tells
whether there is something new. Authors and ids stand in `hidden_keys`, so that what is stored later is hidden too.
"""

import logging
from collections.abc import Iterator, Sequence
from struct import Struct
from typing import TYPE_CHECKING, Any, Final

import lmdb

from orly.nostr.event import ID_IN_JSON, PUBKEY_IN_JSON, EncodedEvent
from orly.store.base import HiddenKey
from orly.store.lmdb import keys
from orly.store.lmdb.environment import Environment, translate_error

if TYPE_CHECKING:
    from orly.store.lmdb.transaction import Transaction

__all__ = [
    "AUTHOR",
    "EVENT",
    "HIDE_EVENTS",
    "HiddenKeys",
    "HiddenSerials",
    "HidingJob",
    "compact_if_long",
    "hide_serials",
    "packed_key",
    "read_keys",
]

AUTHOR: Final = b"a"
EVENT: Final = b"e"
"""What a key in `hidden_keys` begins with; 32 bytes follow."""

HIDE_EVENTS: Final = 2_000
"""Events hidden, or shown again, in one transaction, and keys looked at."""

MAX_ROWS: Final = 1_000
"""Rows of the journal that a writer leaves as they are when it starts."""

MIN_GROWTH: Final = 2
"""The journal is written anew when it has so many times the rows that were left the last time: where millions are
hidden more than `MAX_ROWS` are needed, and each start would take seconds to write the same."""

_HIDING, _HIDDEN, _SHOWING = b"\x00", b"\x01", b"\x02"
"""How far a key has got: in the first state its later events are hidden already, in the last they are not any more."""

_PUT: Final = b"+"
_TAKE: Final = b"-"
_STATE: Final = Struct(">QQ")
_U64: Final = Struct(">Q")

log = logging.getLogger(__name__)


class HiddenSerials:
    """The serials that a reader must pass over, kept between queries."""

    def __init__(self, tables: Environment) -> None:
        self._tables = tables
        self._state = (0, 0)
        self._serials: set[bytes] = set()

    def at(self, txn: Any) -> set[bytes]:
        """The serials (8 bytes) that are hidden, as a transaction sees it or a little later."""
        found = txn.get(b"hidden", db=self._tables.meta)
        if found is None or self._tables.hidden is None:
            return self._serials
        epoch, newest = _STATE.unpack(found)
        known_epoch, known = self._state
        if epoch > known_epoch:
            self._serials, known = set(), 0
        elif epoch < known_epoch or newest <= known:
            return self._serials
        for sign, serials in _journal(txn, self._tables, known):
            if sign == _PUT:
                self._serials |= serials
            else:
                self._serials -= serials
        self._state = (epoch, newest)
        return self._serials


def _journal(txn: Any, tables: Environment, after: int) -> Iterator[tuple[bytes, set[bytes]]]:
    """The rows after a number, in order: whether serials come or go, and which."""
    with txn.cursor(tables.hidden) as cursor:
        if not cursor.set_range(_U64.pack(after + 1)):
            return
        for value in cursor.iternext(keys=False, values=True):
            yield value[:1], {value[start : start + 8] for start in range(1, len(value), 8)}


def _append(txn: Any, tables: Environment, sign: bytes, serials: Sequence[bytes]) -> None:
    found = txn.get(b"hidden", db=tables.meta)
    epoch, newest = (1, 0) if found is None else _STATE.unpack(found)
    txn.put(_U64.pack(newest + 1), sign + b"".join(serials), db=tables.hidden, append=True)
    txn.put(b"hidden", _STATE.pack(epoch, newest + 1), db=tables.meta)


def compact(txn: Any, tables: Environment) -> None:
    """Write the journal anew: only what is hidden and still there; readers begin again."""
    epoch, _ = _STATE.unpack(txn.get(b"hidden", db=tables.meta))
    hidden: set[bytes] = set()
    for sign, serials in _journal(txn, tables, 0):
        if sign == _PUT:
            hidden |= serials
        else:
            hidden -= serials
    with txn.cursor(tables.events) as cursor:
        kept = [serial for serial in sorted(hidden) if cursor.set_key(serial)]
    txn.drop(tables.hidden, delete=False)
    txn.put(b"hidden", _STATE.pack(epoch + 1, 0), db=tables.meta)
    for start in range(0, len(kept), HIDE_EVENTS):
        _append(txn, tables, _PUT, kept[start : start + HIDE_EVENTS])
    _, n_rows = _STATE.unpack(txn.get(b"hidden", db=tables.meta))
    txn.put(b"hidden_rows_left", _U64.pack(n_rows), db=tables.meta)


def _is_long(txn: Any, tables: Environment) -> bool:
    found, left = txn.get(b"hidden", db=tables.meta), txn.get(b"hidden_rows_left", db=tables.meta)
    if found is None:
        return False
    _, n_rows = _STATE.unpack(found)
    return bool(n_rows > MAX_ROWS and (left is None or n_rows >= MIN_GROWTH * _U64.unpack(left)[0]))


def compact_if_long(tables: Environment) -> None:
    """See `compact`; without room for that the journal stays as it is."""
    with tables.env.begin() as txn:
        if not _is_long(txn, tables):
            return
    try:
        with tables.env.begin(write=True) as txn:
            compact(txn, tables)
    except lmdb.Error as error:
        log.warning("the journal of what is hidden stays long: %s", translate_error(error, tables.directory))


MAX_SHOWN: Final = 20_000
"""Authors that need not be looked up, about 2 MB: among a million hidden keys that would cost microseconds an event."""


class HiddenKeys:
    """The keys as one transaction sees and changes them.

    Args:
        tables: Where they are.
        txn: The transaction.
        shown: Authors of whom it is known that they are not hidden; handed on from one transaction to the next.
    """

    __slots__ = ("_changed", "_has_authors", "_has_events", "_shown", "_tables", "_txn")

    def __init__(self, tables: Environment, txn: Any, shown: set[bytes]) -> None:
        self._tables = tables
        self._txn = txn
        self._shown = shown
        self._changed = False
        self._has_authors = self._has_events = False
        table = tables.hidden_keys
        if table is not None and txn.stat(table)["entries"]:
            with txn.cursor(table) as cursor:  # authors come first
                self._has_authors = cursor.first() and cursor.key().startswith(AUTHOR)
                self._has_events = cursor.last() and cursor.key().startswith(EVENT)

    def cover(self, event: EncodedEvent) -> bool:
        """Whether an event that is stored now is hidden from the start."""
        if self._has_authors and event.pubkey not in self._shown:
            if self.covers(AUTHOR + event.pubkey):
                return True
            self._remember(event.pubkey)
        return self._has_events and self.covers(EVENT + event.id)

    def covers(self, key: bytes) -> bool:
        """Whether what the key stands for is hidden."""
        return self._txn.get(key, db=self._tables.hidden_keys) in (_HIDING, _HIDDEN)

    def set(self, key: bytes, state: bytes) -> None:
        """Note how far a key has got."""
        self._txn.put(key, state, db=self._tables.hidden_keys)
        self._forget()
        self._has_authors |= key.startswith(AUTHOR)
        self._has_events |= key.startswith(EVENT)

    def drop(self, key: bytes) -> None:
        """Forget a key."""
        self._forget()
        self._txn.delete(key, db=self._tables.hidden_keys)

    def _remember(self, author: bytes) -> None:
        if not self._changed:  # what is committed, and stays so if this transaction is not
            if len(self._shown) >= MAX_SHOWN:
                self._shown.clear()
            self._shown.add(author)

    def _forget(self) -> None:
        self._changed = True
        self._shown.clear()


def packed_key(wanted: HiddenKey) -> bytes:
    """As it stands in `hidden_keys`."""
    return (AUTHOR if wanted.is_author else EVENT) + wanted.key


def read_keys(txn: Any, tables: Environment, after: HiddenKey | None, limit: int) -> list[tuple[HiddenKey, bool]]:
    """See `EventStore.hidden`."""
    found: list[tuple[HiddenKey, bool]] = []
    if tables.hidden_keys is None:
        return found
    with txn.cursor(tables.hidden_keys) as cursor:
        if not (cursor.first() if after is None else cursor.set_range(packed_key(after) + b"\x00")):
            return found
        for key, state in cursor.iternext(keys=True, values=True):
            if len(found) >= limit:
                break
            found.append((HiddenKey(key[1:], key[:1] == AUTHOR), state == _HIDDEN))
    return found


class HidingJob:
    """Hides, or shows again, what some keys stand for; in as many transactions as that takes.

    Args:
        wanted: Keys as in `hidden_keys`.
        is_hidden: What shall become of them.
    """

    def __init__(self, wanted: Sequence[bytes], *, is_hidden: bool) -> None:
        self._wanted = list(reversed(wanted))
        self._is_hidden = is_hidden
        self._position: bytes | None = None

    @property
    def is_done(self) -> bool:
        """Whether nothing is left."""
        return not self._wanted

    def step(self, transaction: "Transaction") -> None:
        """What one transaction does of it."""
        room = HIDE_EVENTS
        serials: list[bytes] = []
        while self._wanted and room > 0:
            room -= 1
            key = self._wanted[-1]
            if self._position is None:
                transaction.hidden_keys.set(key, _HIDING if self._is_hidden else _SHOWING)
            found, self._position = self._next_serials(transaction, key, room)
            serials += found
            room -= len(found)
            if self._position is None:
                self._wanted.pop()
                if self._is_hidden:
                    transaction.hidden_keys.set(key, _HIDDEN)
                else:
                    transaction.hidden_keys.drop(key)
        if self._is_hidden:
            hide_serials(transaction, serials)
        else:
            _show_serials(transaction, serials)

    def _next_serials(self, transaction: "Transaction", key: bytes, room: int) -> tuple[list[bytes], bytes | None]:
        """The serials of events that a key stands for, and where to go on; None = there are no more."""
        if key[:1] == EVENT:
            serial = transaction.serial_of(key[1:])
            return ([] if serial is None else [serial]), None
        author, found = key[1:], []
        if self._position is None:
            for generation in transaction.tail.generations():
                found += [position[keys.SERIAL_SLICE] for position in generation.tables["authors"].get(author, ())]
        with transaction.txn.cursor(transaction.tables.authors) as cursor:
            if not cursor.set_range(author + (self._position or b"")):
                return found, None
            for row in cursor.iternext(keys=True, values=False):
                if not row.startswith(author):
                    break
                if len(found) >= room:
                    return found, row[len(author) :]
                found.append(row[-8:])
        return found, None


def hide_serials(transaction: "Transaction", serials: Sequence[bytes]) -> None:
    """Have readers pass over events, and the feed tell of it."""
    get, events = transaction.txn.get, transaction.tables.events
    there = [(serial, raw) for serial in serials if (raw := get(serial, None, events)) is not None]
    if there:
        _append(transaction.txn, transaction.tables, _PUT, [serial for serial, _ in there])
        transaction.hidden += [bytes.fromhex(raw[ID_IN_JSON].decode()) for _, raw in there]


def _show_serials(transaction: "Transaction", serials: Sequence[bytes]) -> None:
    """Have readers see events again, unless another key hides them as well."""
    get, events = transaction.txn.get, transaction.tables.events
    shown = []
    for serial in serials:
        raw = get(serial, None, events)
        if raw is None or _is_covered(transaction, raw):
            continue
        shown.append(serial)
    if shown:
        _append(transaction.txn, transaction.tables, _TAKE, shown)
        transaction.shows = True


def _is_covered(transaction: "Transaction", raw: bytes) -> bool:
    covers = transaction.hidden_keys.covers
    author = bytes.fromhex(raw[PUBKEY_IN_JSON].decode())
    return covers(AUTHOR + author) or covers(EVENT + bytes.fromhex(raw[ID_IN_JSON].decode()))
