"""HideEvents, ShowEvents and ListHidden."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final

from orly.nostr.reason import Prefix, Refusal
from orly.pb.orlydb.v1 import service_pb2, types_pb2
from orly.rpc.status import RefusedError
from orly.store.base import MAX_HIDDEN_KEYS, EventStore, HiddenKey

__all__ = ["Hiding"]

SIGN_OF_LIFE_S: Final = 1.0
"""Hiding a million events takes minutes; the caller is told that it goes on."""


class Hiding:
    """Each call may raise `RefusedError`, naming what is wrong with a key, and `StoreError`."""

    def __init__(self, store: EventStore) -> None:
        self._store = store

    def hide(self, request: service_pb2.HiddenKeys) -> AsyncIterator[types_pb2.Empty]:
        """Hide; one message each second until it is done."""
        return self._change(self._store.hide, request)

    def show(self, request: service_pb2.HiddenKeys) -> AsyncIterator[types_pb2.Empty]:
        """Show again, likewise."""
        return self._change(self._store.show, request)

    async def list(self, request: service_pb2.ListHiddenRequest) -> service_pb2.ListHiddenResponse:
        """A page."""
        after = _key(request.after) if request.HasField("after") else None
        found = await self._store.hidden(after, limit=min(request.limit or MAX_HIDDEN_KEYS, MAX_HIDDEN_KEYS))
        rows = [
            service_pb2.ListedHiddenKey(
                key=service_pb2.HiddenKey(key=each.key, is_author=each.is_author), is_done=is_done
            )
            for each, is_done in found
        ]
        return service_pb2.ListHiddenResponse(keys=rows)

    async def _change(
        self, change: Callable[[Sequence[HiddenKey]], Awaitable[None]], request: service_pb2.HiddenKeys
    ) -> AsyncIterator[types_pb2.Empty]:
        work = asyncio.ensure_future(change([_key(each) for each in request.keys]))
        try:
            while not (await asyncio.wait((work,), timeout=SIGN_OF_LIFE_S))[0]:
                yield types_pb2.Empty()
            await work
        except ValueError as error:
            raise RefusedError(Refusal(Prefix.INVALID, str(error))) from None
        finally:
            work.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await work


def _key(message: service_pb2.HiddenKey) -> HiddenKey:
    return HiddenKey(message.key, message.is_author)
