"""`orly export --server`: the store of a running `orly-db` as JSONL."""

import asyncio
from pathlib import Path
from typing import BinaryIO

import grpc

from orly.cli.files import opened_output
from orly.cli.progress import ByteProgress, byte_progress
from orly.cli.remote import connected, status_error
from orly.nostr.filter import Filter
from orly.pb.orlydb.v1 import service_pb2
from orly.process.stop_signals import StopFlag
from orly.rpc.events import filter_to_pb
from orly.settings import Settings

__all__ = ["export_remotely"]


def export_remotely(
    settings: Settings, address: str, file: Path, wanted: Filter, stop: StopFlag, *, shown: bool
) -> tuple[int, str]:
    """Write what matches to a file.

    Returns:
        How many events that were, and what the service says is missing.

    Raises:
        FileError: The file cannot be written.
        RemoteError: The service cannot be reached, or broke off.
        KeyboardInterrupt: We were told to stop.
    """
    with (
        opened_output(file) as stream,
        byte_progress("export", total_bytes=None, shown=shown) as progress,
        asyncio.Runner() as runner,
        stop.interrupting(),
    ):
        return runner.run(_fetch(settings, address, stream, wanted, progress))


async def _fetch(
    settings: Settings, address: str, stream: BinaryIO, wanted: Filter, progress: ByteProgress
) -> tuple[int, str]:
    count = 0
    async with connected(settings, address) as calls:
        try:
            async for chunk in calls.Export(service_pb2.ExportRequest(filter=filter_to_pb(wanted))):
                stream.write(chunk.data)
                count += chunk.data.count(b"\n")
                progress.advance(len(chunk.data))
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.DATA_LOSS:
                return count, (error.details() or "events are missing").removeprefix("error: ")
            raise status_error(error.code(), error.details(), address) from None
    return count, ""
