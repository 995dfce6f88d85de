"""`LmdbFollower`: reading a data directory that another process writes, at that process's pace.

What the writer keeps in memory is made again from the file (see `FollowedTail`): as it is told of, while somebody
reads, else when somebody reads again. A reader that finds itself far behind, at its start or after a long pause,
catches up in slices of loop time; what is asked meanwhile waits for that.
"""

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from struct import Struct
from typing import Any, Final

from orly import clock
from orly.nostr.event import EncodedEvent
from orly.store.base import Query, QueryHandle, QuerySink, StoredEvent, StoreError, StoreUnavailableError
from orly.store.lmdb.environment import Environment, open_environment, translate_error
from orly.store.lmdb.followed_tail import FollowedTail
from orly.store.lmdb.meta import last_serial
from orly.store.lmdb.reader import View
from orly.store.lmdb.reads import LmdbReads
from orly.store.lmdb.recent import RecentEvents
from orly.store.lmdb.running_query import READ_ERRORS, SLICE_S
from orly.store.lmdb.scan import Scan
from orly.store.lmdb.waiting import AwaitedView, DeferredQuery, SharedTransaction, Waiter

__all__ = ["LmdbFollower"]

UNREAD_S: Final = 10.0
"""When nobody has read for so long, new events are not taken in until somebody reads again. It halves what an event
costs in a process that only writes; the first answer then waits for up to two of the writer's generations, which take
about 0.2 s."""

_U64: Final = Struct(">Q")

log = logging.getLogger(__name__)


class LmdbFollower(LmdbReads):
    """The reading methods of `EventStore` beside a writer; nothing that is not committed is ever seen.

    Every answer has at least what was committed before it was asked for.
    """

    def __init__(
        self,
        tables: Environment,
        *,
        now_s: Callable[[], int] = clock.now_s,
        monotonic_s: Callable[[], float] = clock.monotonic_s,
    ) -> None:
        """Use an environment; must be called on the event loop that will use the follower.

        Args:
            tables: From `open_environment`, read-only; closed by `close`.
            now_s: The clock that decides expiry.
            monotonic_s: The clock that measures how long things take.
        """
        super().__init__(tables, now_s=now_s, monotonic_s=monotonic_s)
        self._recent = RecentEvents()
        self._tail = FollowedTail(tables, recent=self._recent, expires=self._expired.added)
        self._target: Any = None
        self._waiting: list[Waiter] = []
        self._later: list[Waiter] = []
        self._goes_on = False
        self._read_s = monotonic_s()

    @classmethod
    async def open(
        cls,
        directory: Path,
        *,
        max_bytes: int,
        now_s: Callable[[], int] = clock.now_s,
        monotonic_s: Callable[[], float] = clock.monotonic_s,
    ) -> "LmdbFollower":
        """Open a data directory, and catch up with its writer.

        Args:
            directory: Where the writer's database lies.
            max_bytes: How large the file may grow; as for the writer.
            now_s: The clock that decides expiry.
            monotonic_s: The clock that measures how long things take.

        Raises:
            StoreMissingError: There is no database yet; wait for its writer.
            StoreUnavailableError: It cannot be used; the text says why.
        """
        follower = cls(
            open_environment(directory, max_bytes=max_bytes, read_only=True), now_s=now_s, monotonic_s=monotonic_s
        )
        try:
            (await follower._await_view()).txn.abort()
            follower._read_s = -math.inf  # nobody has asked yet
        except BaseException as error:
            await follower.close()
            if isinstance(error, StoreError):
                raise StoreUnavailableError(str(error)) from None
            raise
        return follower

    # What the process knows besides

    def told(self, events: Iterable[StoredEvent]) -> None:
        """Committed events that were decoded already, from the feed or own saves: they need no decoding here."""
        for item in events:
            if item.serial > self._tail.seen:
                self._recent.add(item.serial, item.event)

    def expect(self, events: Iterable[EncodedEvent]) -> None:
        """Events that are about to be stored: their commit may be seen here before its serials are told."""
        self._recent.expect(events)

    def event_of(self, serial: int) -> EncodedEvent | None:
        """A recent event, if it was told or decoded here not long ago; it may have been removed since."""
        return self._recent.get(serial)

    def refresh(self) -> None:
        """Bring what is kept in memory up to the newest commit, so that the next read finds little to do.

        Nothing is done while nobody reads.

        Raises:
            StoreError: The database cannot be read.
        """
        if self._target is not None:
            self._goes_on = True
            return
        if not self._is_read():
            return
        txn = self._reach()
        if txn is not None:
            txn.abort()

    # Catching up

    def _is_read(self) -> bool:
        return self._monotonic_s() - self._read_s < UNREAD_S

    def _is_time_up(self) -> Callable[[], bool]:
        monotonic_s = self._monotonic_s
        until_s = monotonic_s() + SLICE_S
        return lambda: monotonic_s() >= until_s

    def _reach(self) -> Any:
        """A new read transaction, and the rows in memory brought to it.

        None if that takes longer than a slice: then it has become the target, and the rest is under way.
        """
        txn = self._begin_read()
        try:
            if self._tail.is_at(txn) or self._tail.advance(txn, self._is_time_up()):
                return txn
        except BaseException as error:
            txn.abort()
            if isinstance(error, READ_ERRORS):
                raise translate_error(error, self._tables.directory) from error
            raise
        self._target = txn
        self._loop.call_soon(self._catch_up)
        return None

    def _catch_up(self) -> None:
        """Another slice on the way to the target; then whoever waits for it is served."""
        txn = self._target
        if txn is None:
            return  # closed meanwhile
        try:
            if not self._tail.advance(txn, self._is_time_up()):
                self._loop.call_soon(self._catch_up)
                return
        except READ_ERRORS as error:
            self._target = None
            txn.abort()
            self._fail(translate_error(error, self._tables.directory))
            return
        self._target = None
        self._serve(txn)

    def _serve(self, txn: Any) -> None:
        """Hand a transaction that the rows in memory are at to all who wait for it; those who came later go on."""
        waiting, self._waiting, self._later = self._waiting, self._later, []
        shared = SharedTransaction(txn, len(waiting) + 1)
        if waiting:
            try:
                view = self._view(shared)
            except READ_ERRORS as error:
                self._waiting += waiting
                txn.abort()
                self._fail(translate_error(error, self._tables.directory))
                return
            for each in waiting:
                each.ready(view)
        shared.abort()
        if self._waiting or self._goes_on:
            self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        """Reach what was committed since the last target was taken."""
        if self._closed or self._target is not None:
            return
        self._goes_on = False
        try:
            txn = self._reach()
        except StoreError as error:
            self._fail(error)
            return
        if txn is not None:
            self._serve(txn)

    def _fail(self, error: StoreError) -> None:
        waiting = self._waiting + self._later
        self._waiting, self._later = [], []
        if not waiting:
            log.warning("%s", error)
        for each in waiting:
            each.failed(error)

    def _wait(self, waiter: Waiter, *, was_behind: bool) -> None:
        """Queue for the target, or for the one after it if that was there already and may be too old."""
        (self._later if was_behind else self._waiting).append(waiter)

    # Reading

    def _scan(self, txn: Any) -> Scan:
        if not self._tail.is_at(txn):
            raise StoreError(f"{self._tables.directory} is still being caught up with: try again")
        return self._scan_as_it_is(txn)

    def _scan_as_it_is(self, txn: Any) -> Scan:
        """The rows in memory may be those of an earlier moment."""
        return Scan(txn, self._tables, self._tail, _U64.pack(last_serial(txn, self._tables)))

    def _view_if_near(self) -> View | None:
        """A view, if it can be had at once."""
        self._read_s = self._monotonic_s()
        txn = None if self._target is not None else self._reach()
        if txn is None:
            return None
        try:
            return self._view(txn)
        except BaseException as error:
            txn.abort()
            if isinstance(error, READ_ERRORS):
                raise translate_error(error, self._tables.directory) from error
            raise

    async def _await_view(self) -> View:
        was_behind = self._target is not None
        view = self._view_if_near()
        if view is not None:
            return view
        awaited = AwaitedView(self._loop)
        self._wait(awaited, was_behind=was_behind)
        return await awaited.wait()

    def query(self, query: Query, sink: QuerySink) -> QueryHandle:
        """See `EventStore.query`; far behind the writer, it starts when that is over."""
        was_behind = self._target is not None
        view = self._view_if_near()
        if view is not None:
            running = self._start(view, query, sink)
            running.run()
            return running
        deferred = DeferredQuery(lambda view: self._start(view, query, sink), sink, self._loop)
        self._wait(deferred, was_behind=was_behind)
        return deferred

    def known(self, ids: Sequence[bytes]) -> list[bool]:
        """See `EventStore.known`; behind the writer, not all that is stored may be known."""
        with self._read() as txn:
            if self._target is None and (
                self._tail.is_at(txn) or (self._is_read() and self._tail.advance(txn, self._is_time_up()))
            ):
                serial_of = self._scan(txn).serial_of
                return [serial_of(event_id) is not None for event_id in ids]
            scan = self._scan_as_it_is(txn)
            return [self._is_surely_stored(txn, scan, event_id) for event_id in ids]

    def _is_surely_stored(self, txn: Any, scan: Scan, event_id: bytes) -> bool:
        """What is known of an earlier moment, checked against this one."""
        serial = scan.serial_of(event_id)
        if serial is None:
            recent = self._recent.serial_of(event_id)
            serial = None if recent is None else _U64.pack(recent)
        if serial is None or txn.get(serial, None, self._tables.events) is None:
            return False
        kept = txn.get(event_id, None, self._tables.version_ids)
        return kept is None or kept[-8:] != serial

    async def close(self) -> None:
        """End what is under way, and close the database."""
        if self._closed:
            return
        self._closed = True
        for query in tuple(self._queries):
            query.cancel()
        if self._target is not None:
            self._target.abort()
            self._target = None
        if self._waiting or self._later:
            self._fail(StoreError("the store is closed"))
        self._tables.close()
