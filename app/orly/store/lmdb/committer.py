"""The writer thread: everything that queued up becomes one transaction, one sync, one answer.

The event loop waits while the thread changes the tables and goes on while it commits. LMDB gives up the
interpreter lock at every single put; a busy loop would take it each time and hold it for milliseconds, which
made a batch a thousand times slower when measured. The wait is short and bounded, the sync is not: where one event
has much to remove, the loop goes on after a while and the batch takes its time.
"""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Final, Generic, TypeVar

import lmdb

from orly.store.base import StoreError
from orly.store.lmdb.environment import Environment, translate_error
from orly.store.lmdb.transaction import Transaction

__all__ = ["MAX_BATCH_EVENTS", "Committer", "Work"]

MAX_BATCH_EVENTS: Final = 512
"""Events in one transaction; at about 20 us each the loop waits about 10 ms."""

MAX_WAIT_S: Final = 0.05
"""The loop waits no longer: a request to vanish (NIP-62) may remove a hundred thousand events."""

T = TypeVar("T")
log = logging.getLogger(__name__)


class Work(Generic[T]):
    """A change to be made in the next transaction that has room for it."""

    __slots__ = ("apply", "future", "outcome", "size")

    def __init__(self, apply: Callable[[Transaction], T], future: asyncio.Future[T], size: int) -> None:
        self.apply = apply
        self.future = future
        self.size = size
        self.outcome: T | None = None


class Committer:
    """Runs transactions on a thread of its own, one at a time; used from one event loop."""

    def __init__(
        self,
        tables: Environment,
        *,
        begin: Callable[[Any], Transaction],
        committed: Callable[[Transaction], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._tables = tables
        self._begin = begin
        self._committed = committed
        self._loop = loop
        self._queue: deque[Work[Any]] = deque()
        self._jobs: SimpleQueue[tuple[list[Work[Any]], threading.Lock] | None] = SimpleQueue()
        self._busy = False
        self._kick_scheduled = False
        self._closed = False
        self._idle: asyncio.Future[None] | None = None
        self._thread = threading.Thread(target=self._run, name="orly-writer", daemon=True)
        self._thread.start()

    def submit(self, apply: Callable[[Transaction], T], size: int) -> asyncio.Future[T]:
        """Queue a change of about `size` events; the future gets what `apply` returned, once it is on disk.

        The future gets a `StoreError` if the transaction failed; then nothing of it was written.
        """
        future: asyncio.Future[T] = self._loop.create_future()
        if self._closed:
            future.set_exception(StoreError("the store is closed"))
            return future
        self._queue.append(Work(apply, future, size))
        if not self._busy and not self._kick_scheduled:
            self._kick_scheduled = True
            self._loop.call_soon(self._kick)
        return future

    async def close(self) -> None:
        """Finish what was submitted, then end the thread."""
        self._closed = True
        if self._busy or self._queue:
            self._idle = self._loop.create_future()
            await self._idle
        self._jobs.put(None)
        await self._loop.run_in_executor(None, self._thread.join)

    def _kick(self) -> None:
        """Hand the next batch to the thread, and wait until the tables are changed, within bounds."""
        self._kick_scheduled = False
        if self._busy or not self._queue:
            return
        batch: list[Work[Any]] = []
        size = 0
        while self._queue and (not batch or size + self._queue[0].size <= MAX_BATCH_EVENTS):
            work = self._queue.popleft()
            size += work.size
            batch.append(work)
        self._busy = True
        applying = threading.Lock()
        applying.acquire()
        self._jobs.put((batch, applying))
        applying.acquire(timeout=MAX_WAIT_S)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            batch, applying = job
            transaction, error = self._transact(batch, applying)
            try:
                self._loop.call_soon_threadsafe(self._finish, batch, transaction, error)
            except RuntimeError:
                return  # the loop was closed without waiting for us: nobody is left to tell

    def _transact(
        self, batch: list[Work[Any]], applying: threading.Lock
    ) -> tuple[Transaction | None, StoreError | None]:
        """Change the tables, release `applying`, commit; a transaction beside an error must be rolled back."""
        transaction: Transaction | None = None
        try:
            txn = self._tables.env.begin(write=True)
            try:
                transaction = self._begin(txn)
                for work in batch:
                    work.outcome = work.apply(transaction)
                transaction.finish()
            except BaseException:
                txn.abort()
                raise
            applying.release()
            txn.commit()
        except lmdb.Error as error:
            return transaction, translate_error(error, self._tables.directory)
        except BaseException as error:
            # A defect, not a condition: the callers hear of it and the thread lives on.
            log.exception("a write transaction failed")
            return transaction, StoreError(f"internal error: {error!r}")
        finally:
            if applying.locked():
                applying.release()
        return transaction, None

    def _finish(self, batch: list[Work[Any]], transaction: Transaction | None, error: StoreError | None) -> None:
        self._busy = False
        if transaction is not None:
            if error is None:
                transaction.confirm()
                self._committed(transaction)
            else:
                transaction.roll_back()
        for work in batch:
            if work.future.done():
                continue
            if error is not None:
                work.future.set_exception(error)
            else:
                work.future.set_result(work.outcome)
        if self._queue:
            self._kick()
        elif self._idle is not None and not self._idle.done():
            self._idle.set_result(None)
