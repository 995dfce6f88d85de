"""Export: the store as JSONL, in chunks, at the pace of the reader."""

import asyncio
from collections.abc import Callable, Generator
from contextlib import closing
from typing import Any, Final, Protocol

import grpc
import msgspec

from orly import clock
from orly.db.pace import Pace
from orly.nostr.filter import Filter, FilterError
from orly.pb.orlydb.v1 import service_pb2
from orly.rpc.events import ID_BYTES, filter_from_pb

__all__ = ["CHUNK_BYTES", "READER_TIMEOUT_S", "Exportable", "Exporting"]

CHUNK_BYTES: Final = 64 * 1024
"""Longest piece of the answer."""

READER_TIMEOUT_S: Final = 60.0
"""A reader that takes nothing for so long is left: space that is freed meanwhile cannot be used until the end."""


class Exportable(Protocol):
    """A store that can read out one moment of itself."""

    def export(self, wanted: Filter) -> Generator[list[bytes | None], None, None]:
        """The visible events that match, as canonical JSON, newest first, as they were at the first step.

        Lists may be empty: they are where a long search can be interrupted. A None stands for an event that is lost.

        Raises:
            StoreError: The database cannot be read.
        """


class Exporting:
    """The Export call.

    Args:
        store: What is read.
        monotonic_s: A steady clock.
        reader_timeout_s: See `READER_TIMEOUT_S`.
    """

    def __init__(
        self,
        store: Exportable,
        *,
        monotonic_s: Callable[[], float] = clock.monotonic_s,
        reader_timeout_s: float = READER_TIMEOUT_S,
    ) -> None:
        self._store = store
        self._monotonic_s = monotonic_s
        self._reader_timeout_s = reader_timeout_s

    async def run(self, request: service_pb2.ExportRequest, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        """Write everything that matches; a database that lacks events ends the call with DATA_LOSS after the rest.

        Raises:
            FilterError: The filter or a key cannot be read.
            StoreError: The database cannot be read.
        """
        wanted = _wanted(request)
        missing = 0
        pace = Pace(self._monotonic_s)
        chunk = bytearray()
        with closing(self._store.export(wanted)) as found:
            for events in found:
                for raw in events:
                    if raw is None:
                        missing += 1
                        continue
                    chunk += raw
                    chunk += b"\n"
                while len(chunk) >= CHUNK_BYTES:
                    await self._write(bytes(chunk[:CHUNK_BYTES]), context)
                    del chunk[:CHUNK_BYTES]
                    pace.restart()
                await pace.rest()
        if chunk:
            await self._write(bytes(chunk), context)
        if missing:
            await context.abort(
                grpc.StatusCode.DATA_LOSS,
                f"error: the database is damaged, {missing} events are missing: run orly check",
            )

    async def _write(self, data: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        try:
            async with asyncio.timeout(self._reader_timeout_s):
                await context.write(service_pb2.ExportResponse(data=data))
        except TimeoutError:
            await context.abort(
                grpc.StatusCode.DEADLINE_EXCEEDED, f"error: nothing was read for {self._reader_timeout_s:g} s"
            )


def _wanted(request: service_pb2.ExportRequest) -> Filter:
    wanted = filter_from_pb(request.filter)
    if not request.pubkeys:
        return wanted
    for key in request.pubkeys:
        if len(key) != ID_BYTES:
            raise FilterError(f"pubkeys must hold {ID_BYTES} bytes each, not {len(key)}")
    authors = frozenset(key.hex() for key in request.pubkeys)
    return msgspec.structs.replace(wanted, authors=authors if wanted.authors is None else authors & wanted.authors)
