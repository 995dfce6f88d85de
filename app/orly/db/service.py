"""The DatabaseService: every call of `orlydb.v1`, each handed to the part that does it."""

from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import grpc

from orly import clock
from orly.db.deletions import Deletions
from orly.db.exporting import Exporting
from orly.db.hiding import Hiding
from orly.db.importing import Importing
from orly.db.markers import Markers
from orly.db.querying import Querying
from orly.db.reading import Reading
from orly.db.save_one import SaveOne
from orly.db.saving import Saving
from orly.db.watching import Watching
from orly.intake.jsonl import longest_line_bytes
from orly.intake.policy import WritePolicy
from orly.intake.verify import Verifier
from orly.pb.orlydb.v1 import service_pb2, service_pb2_grpc, streams_pb2, types_pb2
from orly.rpc.status import answering
from orly.store.base import StoreError
from orly.store.lmdb.store import LmdbStore

__all__ = ["SERVICE_NAME", "DatabaseService", "probe"]

SERVICE_NAME: Final = service_pb2.DESCRIPTOR.services_by_name["DatabaseService"].full_name

_Context = grpc.aio.ServicerContext[Any, Any]


async def probe(store: LmdbStore) -> None:
    """Read as any call would.

    Raises:
        StoreError: Calls would fail.
    """
    await store.last_serial()
    store.known([bytes(32)])


class DatabaseService(service_pb2_grpc.DatabaseServiceServicer):
    """Serves one store; must be made on the event loop that uses it.

    Args:
        store: What is served; stays the caller's.
        policy: The limits on events.
        verifier: Checks signatures.
        max_concurrent_queries: Queries of one stream worked on at once.
        now_s: The time by which limits are judged.
    """

    def __init__(
        self,
        store: LmdbStore,
        policy: WritePolicy,
        verifier: Verifier,
        *,
        max_concurrent_queries: int,
        now_s: Callable[[], int] = clock.now_s,
    ) -> None:
        self._store = store
        self._reading = Reading(store)
        self._save_one = SaveOne(store, policy, verifier, now_s)
        self._deletions = Deletions(store)
        self._markers = Markers(store)
        self._hiding = Hiding(store)
        self._exporting = Exporting(store)
        self._importing = Importing(
            store, policy, verifier, max_line_bytes=longest_line_bytes(policy.max_event_bytes), now_s=now_s
        )
        self._saving = Saving(store, policy, verifier, now_s)
        self._querying = Querying(store, max_concurrent_queries)
        self._watching = Watching(store)

    def stop(self) -> None:
        """End the calls that would last as long as their callers like; what they were given is answered."""
        self._importing.stop()
        self._saving.stop()
        self._querying.stop()
        self._watching.stop()

    async def Ready(self, request: types_pb2.Empty, context: _Context) -> types_pb2.ReadyResponse:
        """Whether a call that reads would succeed now."""
        try:
            await probe(self._store)
        except StoreError:
            return types_pb2.ReadyResponse(ready=False)
        return types_pb2.ReadyResponse(ready=True)

    async def SaveEvent(
        self, request: service_pb2.SaveEventRequest, context: _Context
    ) -> service_pb2.SaveEventResponse:
        """See `SaveOne`."""
        async with answering(context):
            return await self._save_one.save(request)

    async def QueryEvents(
        self, request: service_pb2.QueryEventsRequest, context: _Context
    ) -> service_pb2.QueryEventsResponse:
        """See `Reading`."""
        async with answering(context):
            return await self._reading.events(request, context)

    async def QueryAllVersions(
        self, request: service_pb2.QueryEventsRequest, context: _Context
    ) -> service_pb2.QueryEventsResponse:
        """See `Reading`."""
        async with answering(context):
            return await self._reading.versions(request, context)

    async def CountEvents(
        self, request: service_pb2.QueryEventsRequest, context: _Context
    ) -> service_pb2.CountEventsResponse:
        """See `Reading`."""
        async with answering(context):
            return await self._reading.count(request, context)

    async def GetSerials(
        self, request: service_pb2.GetSerialsRequest, context: _Context
    ) -> service_pb2.GetSerialsResponse:
        """See `Reading`."""
        async with answering(context):
            return await self._reading.serials(request, context)

    async def GetLastSerial(self, request: types_pb2.Empty, context: _Context) -> service_pb2.GetLastSerialResponse:
        """The serial of the newest commit; 0 when nothing was ever stored."""
        async with answering(context):
            return service_pb2.GetLastSerialResponse(serial=await self._store.last_serial())

    async def DeleteEvent(
        self, request: service_pb2.DeleteEventRequest, context: _Context
    ) -> service_pb2.DeleteEventResponse:
        """See `Deletions`."""
        async with answering(context):
            return await self._deletions.delete(request)

    async def CheckForDeleted(
        self, request: service_pb2.CheckDeletedRequest, context: _Context
    ) -> service_pb2.CheckDeletedResponse:
        """See `Deletions`."""
        async with answering(context):
            return await self._deletions.check(request)

    async def SetMarker(self, request: service_pb2.SetMarkerRequest, context: _Context) -> types_pb2.Empty:
        """See `Markers`."""
        async with answering(context):
            return await self._markers.set(request)

    async def GetMarker(self, request: service_pb2.MarkerRequest, context: _Context) -> service_pb2.GetMarkerResponse:
        """See `Markers`."""
        async with answering(context):
            return await self._markers.get(request)

    async def HasMarker(self, request: service_pb2.MarkerRequest, context: _Context) -> service_pb2.HasMarkerResponse:
        """See `Markers`."""
        async with answering(context):
            return await self._markers.has(request)

    async def DeleteMarker(self, request: service_pb2.MarkerRequest, context: _Context) -> types_pb2.Empty:
        """See `Markers`."""
        async with answering(context):
            return await self._markers.delete(request)

    async def ListMarkers(
        self, request: service_pb2.ListMarkersRequest, context: _Context
    ) -> service_pb2.ListMarkersResponse:
        """See `Markers`."""
        async with answering(context):
            return await self._markers.list(request)

    async def ChangeMarkers(self, request: service_pb2.ChangeMarkersRequest, context: _Context) -> types_pb2.Empty:
        """See `Markers`."""
        async with answering(context):
            return await self._markers.change(request)

    async def HideEvents(self, request: service_pb2.HiddenKeys, context: _Context) -> None:
        """See `Hiding`."""
        async with answering(context):
            async for message in self._hiding.hide(request):
                await context.write(message)

    async def ShowEvents(self, request: service_pb2.HiddenKeys, context: _Context) -> None:
        """See `Hiding`."""
        async with answering(context):
            async for message in self._hiding.show(request):
                await context.write(message)

    async def ListHidden(
        self, request: service_pb2.ListHiddenRequest, context: _Context
    ) -> service_pb2.ListHiddenResponse:
        """See `Hiding`."""
        async with answering(context):
            return await self._hiding.list(request)

    async def Export(self, request: service_pb2.ExportRequest, context: _Context) -> None:
        """See `Exporting`."""
        async with answering(context):
            await self._exporting.run(request, context)

    async def Import(
        self, request_iterator: AsyncIterator[service_pb2.ImportRequest], context: _Context
    ) -> service_pb2.ImportResponse:
        """See `Importing`."""
        async with answering(context):
            return await self._importing.run(request_iterator)

    async def SaveEvents(self, request_iterator: AsyncIterator[streams_pb2.SaveBatch], context: _Context) -> None:
        """See `Saving`."""
        await self._saving.SaveEvents(request_iterator, context)

    async def StreamQueries(
        self, request_iterator: AsyncIterator[streams_pb2.QueryRequests], context: _Context
    ) -> None:
        """See `Querying`."""
        await self._querying.StreamQueries(request_iterator, context)

    async def WatchEvents(self, request: streams_pb2.WatchRequest, context: _Context) -> None:
        """See `Watching`."""
        await self._watching.WatchEvents(request, context)
