"""Export over HTTP: the answer of one query as JSONL, read from the store as fast as the client takes it."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Final, Self

from starlette.requests import ClientDisconnect, Request
from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from orly.relay.http_endpoint import PATIENCE_S
from orly.store.base import EventStore, Query, StoreError

__all__ = ["HIGH_BYTES", "JSONL_TYPE", "ExportReply", "ExportRows"]

JSONL_TYPE: Final = "application/x-ndjson"

HIGH_BYTES: Final = 256 * 1024
"""What waits for the client at most before the query is held back; the store hands over a quarter of it at once."""

log = logging.getLogger(__name__)


class ExportRows:
    """What a query finds, as fast as it is taken: by `take`, or as an asynchronous iterator in pieces of JSONL."""

    def __init__(self, store: EventStore, query: Query) -> None:
        """Start the query.

        Raises:
            StoreError: It cannot be asked.
        """
        self._waiting: list[bytes] = []
        self._n_bytes = 0
        self._is_held = False
        self._is_over = False
        self._error: StoreError | None = None
        self._changed = asyncio.Event()
        self._handle = store.query(query, self)

    def rows(self, events: Sequence[bytes]) -> bool:
        """See `QuerySink`."""
        self._waiting += events
        self._n_bytes += sum(map(len, events))
        self._is_held = self._n_bytes >= HIGH_BYTES
        self._changed.set()
        return not self._is_held

    def done(self, through_serial: int) -> None:
        """See `QuerySink`."""
        self._is_over = True
        self._changed.set()

    def failed(self, error: StoreError) -> None:
        """See `QuerySink`."""
        self._error = error
        self.done(0)

    async def begin(self) -> None:
        """Wait for the first events, or for the end.

        Raises:
            StoreError: The query failed before it found any.
        """
        while not self._waiting and not self._is_over:
            self._changed.clear()
            await self._changed.wait()
        if not self._waiting and self._error is not None:
            raise self._error

    async def begin_for(self, request: Request) -> None:
        """The same, while the client is there; otherwise the query ends.

        Args:
            request: Its body has been read.

        Raises:
            ClientDisconnect: The client has gone.
            StoreError: The query failed before it found any.
        """
        begun, gone = asyncio.create_task(self.begin()), asyncio.create_task(_gone(request))
        try:
            await asyncio.wait({begun, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not begun.done():
                raise ClientDisconnect
            begun.result()
        except BaseException:
            self.close()
            raise
        finally:
            begun.cancel()
            gone.cancel()
            await asyncio.wait({begun, gone})

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        """The next piece.

        Raises:
            StoreError: The query failed.
        """
        events = await self.take()
        if not events:
            raise StopAsyncIteration
        events.append(b"")
        return b"\n".join(events)

    async def take(self) -> list[bytes]:
        """The next events; none at the end.

        Raises:
            StoreError: The query failed.
        """
        await self.begin()
        events, self._waiting = self._waiting, []
        self._n_bytes = 0
        if self._is_held:
            self._is_held = False
            self._handle.resume()
        return events

    def close(self) -> None:
        """End the query."""
        self._handle.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class ExportReply(StreamingResponse):
    """The answer; the query ends with it, or with the client that goes away or takes nothing for `patience_s`.

    An answer that is broken off has no end, so that the client sees it.
    """

    def __init__(self, rows: ExportRows, headers: Mapping[str, str], *, patience_s: float = PATIENCE_S) -> None:
        super().__init__(rows, headers=headers, media_type=JSONL_TYPE)
        self._rows = rows
        self._patience_s = patience_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        except StoreError as error:
            log.warning("an export was broken off: %s", error)
        except TimeoutError:
            log.info("an export was broken off: its reader took nothing for %g s", self._patience_s)
        finally:
            self._rows.close()

    async def stream_response(self, send: Send) -> None:
        """Send all pieces, each within its time."""

        async def send_in_time(message: Message) -> None:
            async with asyncio.timeout(self._patience_s):
                await send(message)

        await super().stream_response(send_in_time)
