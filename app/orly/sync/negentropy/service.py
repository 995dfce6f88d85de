"""The NegentropyService: every call of `orlysync.negentropy.v1`."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, Final

import grpc

from orly import clock
from orly.nostr.reason import Prefix, Refusal
from orly.pb.orlysync.common.v1 import types_pb2 as common_pb2
from orly.pb.orlysync.negentropy.v1 import service_pb2, service_pb2_grpc, types_pb2
from orly.rpc.status import RefusedError, answering
from orly.settings_types import read_relay_url
from orly.store.base import EventStore, StoreError
from orly.sync.negentropy.manager import PeerStatus, SyncManager, TooManyError, UnknownPeerError
from orly.sync.negentropy.messages import (
    filter_from_message,
    ids_in_parts,
    progress_to_pb,
    request_from_pb,
    result_to_pb,
)
from orly.sync.negentropy.peer_loop import SyncOptions
from orly.sync.negentropy.peers import PeerBookError
from orly.sync.negentropy.request import SyncFailedError, SyncProgress, SyncResult
from orly.sync.negentropy.session_service import ReconcileServicer
from orly.sync.negentropy.sessions import LocalSets

__all__ = ["ADMINISTRATIVE", "FOR_CLIENTS", "PROGRESS_INTERVAL_S", "SERVICE_NAME", "NegentropyService"]

SERVICE_NAME: Final = service_pb2.DESCRIPTOR.services_by_name["NegentropyService"].full_name

ADMINISTRATIVE: Final = frozenset(
    f"{SERVICE_NAME}/{method}"
    for method in ("Start", "Stop", "SyncWithPeer", "AddPeer", "RemovePeer", "TriggerSync", "CloseSession")
)
"""Calls that leave a line in the audit log; what clients of the relay send is not among them."""

FOR_CLIENTS: Final = frozenset(
    f"{SERVICE_NAME}/{method}" for method in ("HandleNegOpen", "HandleNegMsg", "HandleNegClose")
)
"""What relays pass on for their clients: one reconciliation may take a thousand of these a second."""

PROGRESS_INTERVAL_S: Final = 0.2
"""Progress is told at most this often; the end is told at once."""

_Context = grpc.aio.ServicerContext[Any, Any]
_EMPTY: Final = common_pb2.Empty()


class NegentropyService(ReconcileServicer, service_pb2_grpc.NegentropyServiceServicer):
    """Serves one manager and the sets of one store.

    Args:
        manager: Syncs with peers; stays the caller's.
        options: What a caller of SyncWithPeer leaves open.
        sets: What clients of the relay reconcile with.
        store: Is asked whether it answers.
        monotonic_s: Steady seconds.
    """

    def __init__(
        self,
        manager: SyncManager,
        options: SyncOptions,
        sets: LocalSets,
        store: EventStore,
        *,
        monotonic_s: Callable[[], float] = clock.monotonic_s,
    ) -> None:
        super().__init__(sets)
        self._manager = manager
        self._options = options
        self._store = store
        self._monotonic_s = monotonic_s
        self._running: set[asyncio.Task[SyncResult]] = set()

    def stop(self) -> None:
        """Break off the syncs that callers watch; they are told."""
        for running in self._running:
            running.cancel()

    async def Ready(self, request: common_pb2.Empty, context: _Context) -> common_pb2.ReadyResponse:
        """Whether the store answers now."""
        try:
            await self._store.last_serial()
        except StoreError:
            return common_pb2.ReadyResponse(ready=False)
        return common_pb2.ReadyResponse(ready=True)

    async def Start(self, request: common_pb2.Empty, context: _Context) -> common_pb2.Empty:
        """Begin rounds with all peers."""
        self._manager.start()
        return _EMPTY

    async def Stop(self, request: common_pb2.Empty, context: _Context) -> common_pb2.Empty:
        """End them; syncs by SyncWithPeer go on."""
        self._manager.stop()
        return _EMPTY

    async def SyncWithPeer(self, request: types_pb2.SyncPeerRequest, context: _Context) -> None:
        """One sync, told while it runs; a caller that goes away ends it."""
        async with _refusing(context):
            url = _url(request.peer_url)
            wanted = request_from_pb(request, url, self._options)
            latest = _Latest()
            running = asyncio.create_task(self._manager.sync(wanted, latest.put))
            self._running.add(running)
            running.add_done_callback(lambda _: latest.wake())
            try:
                async for progress in self._throttled(latest, running):
                    await context.write(progress_to_pb(url, progress))
                for message in _ending(url, running, latest.progress):
                    await context.write(message)
            finally:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)
                self._running.discard(running)

    async def _throttled(self, latest: "_Latest", running: "asyncio.Task[SyncResult]") -> AsyncIterator[SyncProgress]:
        while not running.done():
            await latest.changed()
            if running.done():
                return
            told_s = self._monotonic_s()
            yield latest.progress
            left_s = PROGRESS_INTERVAL_S - (self._monotonic_s() - told_s)
            if left_s > 0:
                await asyncio.wait([running], timeout=left_s)

    async def GetSyncStatus(self, request: common_pb2.Empty, context: _Context) -> types_pb2.SyncStatusResponse:
        """Whether there are rounds, and how they went."""
        peers = self._manager.peers()
        return types_pb2.SyncStatusResponse(
            active=self._manager.is_active,
            last_sync=max((peer.state.last_sync_s for peer in peers), default=0),
            peer_count=len(peers),
            peer_states=map(_state_to_pb, peers),
        )

    async def GetPeers(self, request: common_pb2.Empty, context: _Context) -> types_pb2.PeersResponse:
        """The URLs of all peers."""
        return types_pb2.PeersResponse(peers=[peer.state.url for peer in self._manager.peers()])

    async def GetPeerSyncState(
        self, request: types_pb2.PeerSyncStateRequest, context: _Context
    ) -> types_pb2.PeerSyncStateResponse:
        """How the rounds with one peer went."""
        async with _refusing(context):
            peer = self._manager.peer(_url(request.peer_url))
            if peer is None:
                return types_pb2.PeerSyncStateResponse(found=False)
            return types_pb2.PeerSyncStateResponse(state=_state_to_pb(peer), found=True)

    async def AddPeer(self, request: types_pb2.AddPeerRequest, context: _Context) -> common_pb2.Empty:
        """Sync with one more relay, also after a restart."""
        async with _refusing(context):
            await self._manager.add(_url(request.peer_url))
            return _EMPTY

    async def RemovePeer(self, request: types_pb2.RemovePeerRequest, context: _Context) -> common_pb2.Empty:
        """No more syncing with a relay."""
        async with _refusing(context):
            await self._manager.remove(_url(request.peer_url))
            return _EMPTY

    async def TriggerSync(self, request: types_pb2.TriggerSyncRequest, context: _Context) -> common_pb2.Empty:
        """A round with one peer or with all, soon."""
        async with _refusing(context):
            wanted = filter_from_message(request.filter) if request.HasField("filter") else None
            self._manager.trigger(_url(request.peer_url) if request.peer_url else "", wanted)
            return _EMPTY


class _Latest:
    """The last progress that was told, for who looks at it now and then."""

    def __init__(self) -> None:
        self.progress = SyncProgress()
        self._changed = asyncio.Event()

    def put(self, progress: SyncProgress) -> None:
        self.progress = progress
        self._changed.set()

    def wake(self) -> None:
        self._changed.set()

    async def changed(self) -> None:
        await self._changed.wait()
        self._changed.clear()


def _ending(url: str, ended: "asyncio.Task[SyncResult]", reached: SyncProgress) -> Iterator[types_pb2.SyncProgress]:
    """The last messages: the ids that were asked for, then how it ended.

    Raises:
        TooManyError: It was not even begun.
    """
    if ended.cancelled():
        yield progress_to_pb(url, reached, error="the service is stopping")
        return
    try:
        result = ended.result()
    except SyncFailedError as error:
        yield progress_to_pb(url, error.progress, error=str(error))
        return
    except StoreError as error:
        yield progress_to_pb(url, reached, error=f"the store failed: {error}")
        return
    for have_ids, need_ids in ids_in_parts(result):
        message = progress_to_pb(url, result.progress)
        message.have_ids.extend(have_ids)
        message.need_ids.extend(need_ids)
        yield message
    yield result_to_pb(url, result)


def _state_to_pb(peer: PeerStatus) -> types_pb2.PeerSyncState:
    return types_pb2.PeerSyncState(
        peer_url=peer.state.url,
        last_sync=peer.state.last_sync_s,
        events_synced=peer.state.events_synced,
        status=peer.status,
        last_error=peer.state.last_error,
        consecutive_failures=peer.state.consecutive_failures,
    )


def _url(text: str) -> str:
    """A relay's URL, in the form in which peers are known.

    Raises:
        RefusedError: It is none.
    """
    try:
        url = read_relay_url(text.strip())
    except ValueError as error:
        raise RefusedError(Refusal(Prefix.INVALID, f"peer_url {text[:200]!r}: {error}")) from None
    if not url:
        raise RefusedError(Refusal(Prefix.INVALID, "peer_url is empty"))
    return url


@asynccontextmanager
async def _refusing(context: _Context) -> AsyncIterator[None]:
    """End the call with a status for what the manager refuses."""
    async with answering(context):
        try:
            yield
        except SyncFailedError as error:
            raise RefusedError(Refusal(Prefix.INVALID, str(error))) from error
        except UnknownPeerError as error:
            raise RefusedError(Refusal(Prefix.INVALID, str(error)), grpc.StatusCode.NOT_FOUND) from error
        except TooManyError as error:
            raise RefusedError(Refusal(Prefix.RATE_LIMITED, str(error))) from error
        except PeerBookError as error:
            raise RefusedError(Refusal(Prefix.ERROR, str(error))) from error
