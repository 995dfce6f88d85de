"""`orly sync --server`: let an `orly-sync-negentropy` do it, and show what it tells."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import grpc
from pydantic import TypeAdapter, ValidationError

from orly.cli.server_option import RemoteError, server_address
from orly.cli.sync_options import OptionError, SyncOptions
from orly.cli.sync_report import SyncReport
from orly.cli.sync_request import MAX_FRAME_BYTES, read_secret_file
from orly.cli.sync_runner import RunError, Runner, until_stopped
from orly.pb.orlysync.negentropy.v1 import service_pb2_grpc, types_pb2
from orly.process.exit_codes import ExitCode
from orly.rpc.channel import NotReadyError, ServiceChannel, channel_from_settings, wait_ready
from orly.rpc.credentials import CredentialsError
from orly.rpc.events import filter_to_pb
from orly.services import SYNC_NEGENTROPY
from orly.settings import Settings
from orly.settings_service_types import Token
from orly.sync.negentropy.request import Phase, SyncFailedError, SyncProgress, SyncRequest, SyncResult

__all__ = ["remote_runner"]

_SERVICE: Final = "orlysync.negentropy.v1.NegentropyService"
_NAME: Final = SYNC_NEGENTROPY.name
_QUIET_S: Final = 1.0
"""A wait that is over sooner is not worth a word."""

_PHASES: Final = {phase.name.lower(): phase for phase in Phase}
_make_stub: Final[Callable[[grpc.aio.Channel], Any]] = service_pb2_grpc.NegentropyServiceStub

log = logging.getLogger(__name__)


def remote_runner(options: SyncOptions, settings: Settings) -> Runner:
    """What has the service that the options name do it.

    Raises:
        OptionError: An option has no effect there, or cannot be used.
        RunError: The service may not be called in this way.
    """
    if options.data_dir is not None:
        raise OptionError("--data-dir has no effect with --server: the service has a store of its own")
    update: dict[str, Any] = {}
    if options.token_file is not None:
        update["grpc_token"] = _token(options.token_file)
    if options.tls_ca is not None:
        update["grpc_tls_ca"] = options.tls_ca.absolute()
        update["grpc_tls"] = "tls" if settings.grpc_tls == "off" else settings.grpc_tls
    settings = settings.model_copy(update=update)
    try:
        address = server_address(settings, options.server)
    except RemoteError as error:
        raise RunError(error.code, str(error).replace("ORLY_GRPC_SERVER=", "--server ")) from None
    assert address is not None  # one was given
    return _RemoteRunner(settings, address, leaves_timeout=options.timeout is None)


def _token(file: Path) -> Any:
    text = read_secret_file("--token-file", file)
    try:
        return TypeAdapter[object](Token).validate_python(text)
    except ValidationError as error:
        why = error.errors()[0].get("ctx", {}).get("error", "it holds no token")
        raise OptionError(f"--token-file {file}: {why}") from None


class _RemoteRunner:
    """Has a service do it; with `leaves_timeout`, the silence that is borne is that of its settings."""

    def __init__(self, settings: Settings, address: str, *, leaves_timeout: bool) -> None:
        self._settings = settings
        self._address = address
        self._leaves_timeout = leaves_timeout

    async def __call__(self, request: SyncRequest, report: SyncReport, stop: asyncio.Event) -> SyncResult:
        """See `Runner`."""
        async with self._connected() as channel:
            await until_stopped(self._wait(channel, report), stop)
            return await until_stopped(self._call(channel, request, report), stop)

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[ServiceChannel]:
        try:
            channel = channel_from_settings(self._settings, self._address)
        except CredentialsError as error:
            raise RunError(ExitCode.SETTINGS, str(error)) from None
        async with channel:
            yield channel

    async def _wait(self, channel: ServiceChannel, report: SyncReport) -> None:
        """Until the service can work.

        Raises:
            RunError: It never could, or does not let us in.
        """
        loop = asyncio.get_running_loop()
        word = loop.call_later(_QUIET_S, report.say, f"waiting for {_NAME} at {self._address}")
        timeout_s = self._settings.launcher_sync_ready_timeout_s
        try:
            await wait_ready(channel, service=_SERVICE, timeout_s=timeout_s, program=_NAME)
        except NotReadyError as error:
            raise RunError(ExitCode.FAILED, str(error)) from None
        finally:
            word.cancel()

    async def _call(self, channel: ServiceChannel, request: SyncRequest, report: SyncReport) -> SyncResult:
        """The sync itself.

        Raises:
            SyncFailedError: The service says so, or was lost.
            RunError: It does not take the request.
        """
        log.debug("%s with %s by %s at %s", request.direction, request.url, _NAME, self._address)
        call = _make_stub(channel).SyncWithPeer(_to_pb(request, leaves_timeout=self._leaves_timeout))
        progress = SyncProgress()
        have_ids: list[bytes] = []
        need_ids: list[bytes] = []
        try:
            async for message in call:
                progress = _progress(message)
                have_ids += message.have_ids
                need_ids += message.need_ids
                if message.error:
                    raise SyncFailedError(message.error, progress)
                report.progress(progress)
                if message.complete:
                    return SyncResult(
                        progress=progress,
                        is_complete=not message.incomplete,
                        problems=tuple(message.problems),
                        have_ids=tuple(have_ids),
                        need_ids=tuple(need_ids),
                    )
        except grpc.aio.AioRpcError as error:
            raise self._failure(error, progress) from None
        finally:
            call.cancel()
        raise SyncFailedError(f"{_NAME} at {self._address} ended the call without a result", progress)

    def _failure(self, error: grpc.aio.AioRpcError, progress: SyncProgress) -> Exception:
        """What it means that the call failed."""
        where = f"{_NAME} at {self._address}"
        why = error.details() or error.code().name
        match error.code():
            case grpc.StatusCode.UNAVAILABLE:
                return SyncFailedError(f"the connection to {where} was lost: {why}", progress)
            case grpc.StatusCode.INVALID_ARGUMENT:
                return RunError(ExitCode.USAGE, f"{where}: {why}")
            case grpc.StatusCode.UNAUTHENTICATED | grpc.StatusCode.PERMISSION_DENIED:
                return RunError(ExitCode.FAILED, f"{where} refuses the call: {why}")
            case _:
                return SyncFailedError(f"{where}: {why}", progress)


def _to_pb(request: SyncRequest, *, leaves_timeout: bool) -> types_pb2.SyncPeerRequest:
    message = types_pb2.SyncPeerRequest(
        peer_url=request.url,
        direction=request.direction.value,
        list_ids=request.list_ids,
        timeout_ms=0 if leaves_timeout else round(request.timeout_s * 1000),
        batch=request.batch_events,
        frame_bytes=request.frame_bytes or MAX_FRAME_BYTES,
    )
    if request.private_kinds:
        message.private_kinds = True
    message.filter.MergeFromString(
        filter_to_pb(request.filter).SerializeToString()
    )  # the same fields, by their numbers
    return message


def _progress(message: types_pb2.SyncProgress) -> SyncProgress:
    return SyncProgress(
        phase=_PHASES.get(message.phase, Phase.DONE if message.complete else Phase.RECONCILING),
        round=message.round,
        have=message.have_count,
        need=message.need_count,
        fetched=message.fetched_count,
        known=message.known,
        unwanted=message.unwanted,
        refused=message.refused,
        unavailable=message.unavailable,
        sent=message.sent_count,
        unneeded=message.unneeded,
        rejected=message.rejected,
        bytes_sent=message.bytes_sent,
        bytes_received=message.bytes_received,
    )
