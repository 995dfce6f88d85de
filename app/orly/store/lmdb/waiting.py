"""Reads that wait until the follower has caught up, and the one transaction that they then have together."""

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from orly.store.base import QuerySink, StoreError
from orly.store.lmdb.reader import View
from orly.store.lmdb.running_query import RunningQuery

__all__ = ["AwaitedView", "DeferredQuery", "SharedTransaction", "Waiter"]


class SharedTransaction:
    """A read transaction that is over when each of its users has said so."""

    __slots__ = ("_txn", "_users", "cursor", "get", "id", "stat")

    def __init__(self, txn: Any, users: int) -> None:
        self._txn = txn
        self._users = users
        self.get = txn.get
        self.cursor = txn.cursor
        self.id = txn.id
        self.stat = txn.stat

    def abort(self) -> None:
        """One user has done; called once by each."""
        self._users -= 1
        if self._users == 0:
            self._txn.abort()


class Waiter(Protocol):
    """Who waits for a view."""

    def ready(self, view: View) -> None:
        """Here it is; its transaction is to be ended once."""

    def failed(self, error: StoreError) -> None:
        """There will be none."""


class DeferredQuery:
    """A query that starts later; see `QueryHandle`.

    Args:
        start: Makes the query of a view.
        sink: Hears of a failure before that.
        loop: Where it runs.
    """

    __slots__ = ("_is_cancelled", "_loop", "_running", "_sink", "_start")

    def __init__(self, start: Callable[[View], RunningQuery], sink: QuerySink, loop: asyncio.AbstractEventLoop) -> None:
        self._start = start
        self._sink = sink
        self._loop = loop
        self._running: RunningQuery | None = None
        self._is_cancelled = False

    def ready(self, view: View) -> None:
        """See `Waiter.ready`."""
        if self._is_cancelled:
            view.txn.abort()
            return
        self._running = self._start(view)
        self._loop.call_soon(self._running.run)

    def failed(self, error: StoreError) -> None:
        """See `Waiter.failed`."""
        if not self._is_cancelled:
            self._is_cancelled = True
            self._sink.failed(error)

    def resume(self) -> None:
        """See `QueryHandle.resume`."""
        if self._running is not None:
            self._running.resume()

    def cancel(self) -> None:
        """See `QueryHandle.cancel`."""
        self._is_cancelled = True
        if self._running is not None:
            self._running.cancel()


class AwaitedView:
    """A view for one coroutine."""

    __slots__ = ("_future",)

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._future: asyncio.Future[View] = loop.create_future()

    def ready(self, view: View) -> None:
        """See `Waiter.ready`."""
        if self._future.done():
            view.txn.abort()
        else:
            self._future.set_result(view)

    def failed(self, error: StoreError) -> None:
        """See `Waiter.failed`."""
        if not self._future.done():
            self._future.set_exception(error)

    async def wait(self) -> View:
        """The view.

        Raises:
            StoreError: There is none.
        """
        try:
            return await self._future
        except asyncio.CancelledError:
            if self._future.done() and not self._future.cancelled() and self._future.exception() is None:
                self._future.result().txn.abort()
            raise
