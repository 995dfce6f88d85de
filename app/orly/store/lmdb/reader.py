"""Reading: from filters to positions, newest first, with everything a reader may not see left out."""

from collections.abc import Callable, Iterator
from functools import lru_cache
from heapq import merge
from itertools import chain, islice
from typing import Any, Final

from orly.nostr.event import PUBKEY_IN_JSON, Event, decode_stored
from orly.nostr.filter import Filter, matches
from orly.store.base import ReadScope
from orly.store.lmdb import keys
from orly.store.lmdb.environment import Environment
from orly.store.lmdb.planner import Plan, choose_plan
from orly.store.lmdb.scan import Scan

__all__ = ["ExpiredSerials", "Reader", "View"]

_ID_CHUNK: Final = 256
_MERGE_CHUNK: Final = 256
_SERIAL: Final = keys.SERIAL_SLICE
_KIND: Final = keys.KIND_SLICE


class ExpiredSerials:
    """Events that have expired but are not purged yet, kept between queries.

    Only the part of the index that has come due since the last query is read; who writes, or follows who does, says
    what is added to the part before (`added`), and does so before it looks (`at`) at a transaction that has it.
    """

    def __init__(self, tables: Environment) -> None:
        self._tables = tables
        self._until_s = -1
        self._serials: set[bytes] = set()

    def added(self, expires_s: int) -> None:
        """An event that expires at this second was committed; a slow disk, or a clock put back, makes that late.

        0 stands for any second.
        """
        if expires_s <= self._until_s:
            self._until_s = -1
            self._serials = set()

    def at(self, txn: Any, now_s: int) -> set[bytes]:
        """The serials (8 bytes) that no reader may see any more."""
        if now_s == self._until_s and not self._serials:
            return self._serials
        with txn.cursor(self._tables.expirations) as cursor:
            if not cursor.first() or cursor.key()[:8] > keys.time_bytes(now_s):
                self._serials = set()
            else:
                due = keys.time_bytes(now_s)
                may_go_on = self._serials and now_s >= self._until_s
                start = self._until_s if may_go_on else 0
                fresh = set() if start == 0 else self._serials
                if cursor.set_range(keys.time_bytes(start)):
                    for key in cursor.iternext(keys=True, values=False):
                        if key[:8] > due:
                            break
                        fresh.add(key[8:])
                self._serials = fresh
        self._until_s = now_s
        return self._serials


@lru_cache(maxsize=16)
def _packed(kinds: frozenset[int]) -> frozenset[bytes]:
    """Kinds as they stand in a position."""
    return frozenset(map(keys.kind_bytes, kinds))


class View:
    """One consistent view of the store, for the length of one read transaction.

    Attributes:
        txn: The transaction; whoever has the view ends it.
        tables: What it reads.
        scan: Its indexes.
        now_s: When it was made, for expiry.
        expired: The serials (8 bytes) of what had expired by then and is not purged yet.
        hidden: The serials of what only who sees everything may see.
    """

    __slots__ = ("expired", "hidden", "now_s", "scan", "tables", "txn")

    def __init__(
        self, txn: Any, tables: Environment, scan: Scan, *, now_s: int, expired: set[bytes], hidden: set[bytes]
    ) -> None:
        self.txn = txn
        self.scan = scan
        self.tables = tables
        self.now_s = now_s
        self.expired = expired
        self.hidden = hidden

    @property
    def through_serial(self) -> int:
        """The newest serial in it."""
        return int.from_bytes(self.scan.through, "big")

    def reader(self, scope: ReadScope) -> "Reader":
        """For someone who reads."""
        return Reader(
            self.txn, self.tables, self.scan, scope=scope, now_s=self.now_s, unseen=self.unseen(scope.sees_hidden)
        )

    def unseen(self, sees_hidden: bool) -> tuple[set[bytes], ...]:
        """Sets of serials that a reader must pass over; none of them is empty."""
        return tuple(serials for serials in (self.expired, () if sees_hidden else self.hidden) if serials)


class Reader:
    """What one may see in a view, filter by filter."""

    __slots__ = ("_now_s", "_private", "_scan", "_scope", "_tables", "_txn", "_unseen")

    def __init__(
        self,
        txn: Any,
        tables: Environment,
        scan: Scan,
        *,
        scope: ReadScope,
        now_s: int,
        unseen: tuple[set[bytes], ...],
    ) -> None:
        self._txn = txn
        self._scan = scan
        self._tables = tables
        self._scope = scope
        self._now_s = now_s
        self._unseen = unseen
        self._private = _packed(scope.private_kinds)

    def chunks(self, wanted: Filter, limit: int | None) -> Iterator[list[bytes]]:
        """The positions that a filter yields, newest first, at most `limit` of them.

        Chunks may be empty: they are where a long search can be interrupted.
        """
        if limit == 0 or wanted.matches_nothing():
            return
        left = limit
        for chunk in self._accepted(wanted, limit):
            if left is None:
                yield chunk
                continue
            yield chunk[:left]
            left -= len(chunk)
            if left <= 0:
                return

    def _accepted(self, wanted: Filter, limit: int | None) -> Iterator[list[bytes]]:
        if wanted.ids is not None:
            return self._by_id(wanted)
        plan = choose_plan(self._scan, wanted, self._now_s)
        first_chunk = max(2, min(512 if limit is None else limit, 512) // len(plan.prefixes))
        return map(self._keep(wanted, plan), self._rows(wanted, plan, first_chunk))

    def _rows(self, wanted: Filter, plan: Plan, first_chunk: int) -> Iterator[list[bytes]]:
        chunks, index, since, until = self._scan.chunks, plan.index, wanted.since, wanted.until
        scans = [chunks(index, prefix, since, until, first_chunk) for prefix in plan.prefixes]
        return scans[0] if len(scans) == 1 else _merged(scans)

    def _keep(self, wanted: Filter, plan: Plan) -> Callable[[list[bytes]], list[bytes]]:
        """What is left to check after the index, as one function over a chunk."""
        steps: list[Callable[[list[bytes]], list[bytes]]] = []
        if not plan.kinds_done and wanted.kinds is not None:
            kinds = _packed(wanted.kinds)
            steps.append(lambda chunk: [row for row in chunk if row[_KIND] in kinds])
        steps += map(_without, self._unseen)
        if self._private and (wanted.kinds is None or not wanted.kinds.isdisjoint(self._scope.private_kinds)):
            steps.append(self._readable)
        if plan.fetch:
            steps.append(self._matching(wanted))
        if not steps:
            return lambda chunk: chunk
        if len(steps) == 1:
            return steps[0]

        def keep(chunk: list[bytes]) -> list[bytes]:
            for step in steps:
                chunk = step(chunk)
            return chunk

        return keep

    def _is_unseen(self, serial: bytes) -> bool:
        return any(serial in serials for serials in self._unseen)

    def _readable(self, chunk: list[bytes]) -> list[bytes]:
        private = self._private
        if not self._scope.readers:
            return [row for row in chunk if row[_KIND] not in private]
        return [row for row in chunk if row[_KIND] not in private or self.may_read(row)]

    def may_read(self, row: bytes) -> bool:
        """Whether the event at a position, of a private kind, may be read."""
        event = self._event(row[_SERIAL])
        return event is not None and self._scope.may_read(event)

    def _event(self, serial: bytes) -> Event | None:
        raw = self._txn.get(serial, db=self._tables.events)
        return None if raw is None else decode_stored(raw)

    def _matching(self, wanted: Filter) -> Callable[[list[bytes]], list[bytes]]:
        get, events = self._txn.get, self._tables.events
        authors = None if wanted.authors is None else frozenset(author.encode() for author in wanted.authors)

        def keep(chunk: list[bytes]) -> list[bytes]:
            kept = []
            for row in chunk:
                raw = get(row[_SERIAL], db=events)
                if raw is None or (authors is not None and raw[PUBKEY_IN_JSON] not in authors):
                    continue
                if not wanted.tags or matches(wanted, decode_stored(raw)):
                    kept.append(row)
            return kept

        return keep

    def _by_id(self, wanted: Filter) -> Iterator[list[bytes]]:
        """Look the ids up one by one; few enough by the limits on filters to be sorted as a whole."""
        found: list[bytes] = []
        serial_of = self._scan.serial_of
        ids = iter(wanted.ids or ())
        while batch := list(islice(ids, _ID_CHUNK)):
            for text in batch:
                event_id = bytes.fromhex(text)
                serial = serial_of(event_id)
                if serial is None or self._is_unseen(serial):
                    continue
                event = self._event(serial)
                if event is not None and matches(wanted, event) and self._scope.may_read(event):
                    number = int.from_bytes(serial, "big")
                    found.append(keys.position(event.created_at, event_id, event.kind, number))
            yield []
        found.sort(reverse=True)
        yield found

    def kept_versions(self, wanted: Filter) -> Iterator[list[bytes]]:
        """The positions of superseded versions that match, in no order; chunks may be empty."""
        with self._txn.cursor(self._tables.versions) as cursor:
            rows = cursor.iternext(keys=True, values=False)
            while chunk := [key[-keys.POSITION_BYTES :] for key in islice(rows, _ID_CHUNK)]:
                yield [row for row in chunk if not self._is_unseen(row[_SERIAL]) and self._admits(wanted, row)]

    def _admits(self, wanted: Filter, row: bytes) -> bool:
        event = self._event(row[_SERIAL])
        return event is not None and matches(wanted, event) and self._scope.may_read(event)


def _without(serials: set[bytes]) -> Callable[[list[bytes]], list[bytes]]:
    return lambda chunk: [row for row in chunk if row[_SERIAL] not in serials]


def _merged(scans: list[Iterator[list[bytes]]]) -> Iterator[list[bytes]]:
    """Several scans as one, in order; an event that stands in more than one comes once."""
    rows = merge(*map(chain.from_iterable, scans), reverse=True)
    last = b""
    while batch := list(islice(rows, _MERGE_CHUNK)):
        distinct = []
        for row in batch:
            if row != last:
                distinct.append(row)
                last = row
        yield distinct
