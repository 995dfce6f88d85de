"""The messages of a caller, which can be made to end before it has said its last."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Generic, TypeVar

__all__ = ["Requests"]

T = TypeVar("T")


class Requests(Generic[T]):
    """An iterator over messages that a stop of the service can end.

    Attributes:
        is_cut: Whether it was ended so.
    """

    __slots__ = ("_messages", "_reader", "is_cut")

    def __init__(self, messages: AsyncIterator[T]) -> None:
        self._messages = messages
        self._reader: asyncio.Task[Any] | None = None
        self.is_cut = False

    def __aiter__(self) -> "Requests[T]":
        return self

    async def __anext__(self) -> T:
        if self.is_cut:
            raise StopAsyncIteration
        reader = self._reader = asyncio.current_task()
        try:
            return await anext(self._messages)
        except asyncio.CancelledError:
            if self._is_cut_off(reader):
                raise StopAsyncIteration from None
            raise
        finally:
            self._reader = None

    def _is_cut_off(self, reader: asyncio.Task[Any] | None) -> bool:
        """Whether it was `cut` alone that cancelled the reader; if not, the caller has gone."""
        return self.is_cut and reader is not None and reader.uncancel() == 0

    def cut(self) -> None:
        """End here: what the caller sends from now on is not read."""
        if not self.is_cut:
            self.is_cut = True
            if self._reader is not None:
                self._reader.cancel()
