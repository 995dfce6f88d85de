"""A search as an asynchronous iterator that lets the loop do other things."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from orly.store.base import QueryTimeoutError
from orly.store.lmdb.running_query import SLICE_S

__all__ = ["AsyncChunks"]

T = TypeVar("T")


class AsyncChunks(Generic[T]):
    """A search whose chunks come without keeping the loop for long."""

    def __init__(self, chunks: Iterator[T], monotonic_s: Callable[[], float], timeout_s: float | None) -> None:
        self._chunks = chunks
        self._monotonic_s = monotonic_s
        self._slice_end_s = monotonic_s() + SLICE_S
        self._deadline_s = None if timeout_s is None else monotonic_s() + timeout_s

    def __aiter__(self) -> "AsyncChunks[T]":
        return self

    async def __anext__(self) -> T:
        now_s = self._monotonic_s()
        if now_s > self._slice_end_s:
            if self._deadline_s is not None and now_s > self._deadline_s:
                raise QueryTimeoutError("the query took too long")
            await asyncio.sleep(0)
            self._slice_end_s = self._monotonic_s() + SLICE_S
        try:
            return next(self._chunks)
        except StopIteration:
            raise StopAsyncIteration from None
