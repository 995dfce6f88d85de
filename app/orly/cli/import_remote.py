"""`orly import --server`: JSONL into the store of a running `orly-db`."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, BinaryIO, Final

import grpc

from orly.cli.files import opened_input, read_from
from orly.cli.progress import byte_progress, size_of, tell
from orly.cli.remote import connected, status_error
from orly.cli.server_option import RemoteError
from orly.intake.jsonl import ImportReport, refuse_compressed
from orly.pb.orlydb.v1 import service_pb2
from orly.process.exit_codes import ExitCode
from orly.process.stop_signals import on_stop
from orly.rpc.ending import CallEnding
from orly.settings import Settings

__all__ = ["import_remotely"]

CHUNK_BYTES: Final = 64 * 1024
"""Bytes in one message."""


def import_remotely(settings: Settings, address: str, file: Path, *, verify: bool) -> tuple[ImportReport, bool]:
    """Import a file through the service.

    Returns:
        What became of the lines; and whether we were told to stop, and the file was not read to its end.

    Raises:
        FileError: The file cannot be read.
        CompressedError: It is no text.
        RemoteError: The service cannot be reached, or did not take it.
    """
    with opened_input(file) as stream:
        response, was_stopped = asyncio.run(_send(settings, address, stream, file, verify=verify))
    for problem in response.problems:
        tell(problem)
    return _report(response), was_stopped


async def _send(
    settings: Settings, address: str, stream: BinaryIO, file: Path, *, verify: bool
) -> tuple[service_pb2.ImportResponse, bool]:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    on_stop(lambda _: loop.call_soon_threadsafe(stop.set))
    async with connected(settings, address) as calls:
        call = calls.Import()
        ending = CallEnding(call)
        try:
            with byte_progress("import", total_bytes=size_of(stream)) as progress:
                await call.write(service_pb2.ImportRequest(skip_signatures=not verify))
                is_first = True
                async for data in _chunks(stream, file, stop):
                    if is_first:
                        refuse_compressed(data)
                        is_first = False
                    await call.write(service_pb2.ImportRequest(data=data))
                    progress.advance(len(data))
                await call.done_writing()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            pass  # it has answered before the end, as it does when its store is full
        except BaseException:
            call.cancel()
            raise
        return await _answer(call, ending, address), stop.is_set()


async def _answer(call: Any, ending: CallEnding, address: str) -> service_pb2.ImportResponse:
    try:
        response: service_pb2.ImportResponse = await call
    except grpc.aio.AioRpcError as error:
        code, why = ending.status(error)
        if code is grpc.StatusCode.UNAVAILABLE:
            text = (
                f"the connection to {address} was lost; what was stored so far stays, and the import can be run again"
            )
            raise RemoteError(ExitCode.FAILED, text) from None
        raise status_error(code, why, address) from None
    return response


async def _chunks(stream: BinaryIO, file: Path, stop: asyncio.Event) -> AsyncIterator[bytes]:
    """The bytes of an input as they come, until its end or a stop."""
    while not stop.is_set():
        await _await_input(stream, stop)
        if stop.is_set():
            return
        data = read_from(stream, file, CHUNK_BYTES)
        if not data:
            return
        yield data


async def _await_input(stream: BinaryIO, stop: asyncio.Event) -> None:
    """Until there is something to read, or we are told to stop; what cannot be waited for, as a file, is there."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    try:
        loop.add_reader(stream.fileno(), ready.set)
    except PermissionError:
        return
    waits = [asyncio.create_task(event.wait()) for event in (ready, stop)]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        loop.remove_reader(stream.fileno())
        for wait in waits:
            wait.cancel()


def _report(response: service_pb2.ImportResponse) -> ImportReport:
    return ImportReport(
        lines=response.events_imported + response.events_skipped,
        stored=response.events_imported,
        duplicates=response.duplicates,
        unwanted=response.unwanted,
        refused=response.refused,
        unsaved=response.unsaved,
        failed=response.failure,
    )
