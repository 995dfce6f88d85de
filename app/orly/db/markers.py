"""The calls about markers: small named values that services keep beside the events."""

from collections.abc import Mapping

from orly.nostr.reason import Prefix, Refusal
from orly.pb.orlydb.v1 import service_pb2, types_pb2
from orly.rpc.status import RefusedError
from orly.store.base import MAX_MARKERS, EventStore

__all__ = ["Markers"]

_EMPTY = types_pb2.Empty()


class Markers:
    """Each call may raise `RefusedError`, naming what is wrong with a key or a value, and `StoreError`."""

    def __init__(self, store: EventStore) -> None:
        self._store = store

    async def set(self, request: service_pb2.SetMarkerRequest) -> types_pb2.Empty:
        """Set one."""
        return await self._change({request.key: request.value})

    async def get(self, request: service_pb2.MarkerRequest) -> service_pb2.GetMarkerResponse:
        """The value of one, and whether it is there."""
        value = await self._value(request.key)
        return service_pb2.GetMarkerResponse(value=value or b"", found=value is not None)

    async def has(self, request: service_pb2.MarkerRequest) -> service_pb2.HasMarkerResponse:
        """Whether one is there."""
        return service_pb2.HasMarkerResponse(exists=await self._value(request.key) is not None)

    async def delete(self, request: service_pb2.MarkerRequest) -> types_pb2.Empty:
        """Remove one; one that is not there is no error."""
        return await self._change({request.key: None})

    async def list(self, request: service_pb2.ListMarkersRequest) -> service_pb2.ListMarkersResponse:
        """A page."""
        limit = min(request.limit or MAX_MARKERS, MAX_MARKERS)
        try:
            found = await self._store.markers(request.prefix, after=request.after, limit=limit)
        except ValueError as error:
            raise _invalid(error) from None
        rows = [service_pb2.Marker(key=marker.key, value=marker.value) for marker in found]
        return service_pb2.ListMarkersResponse(markers=rows)

    async def change(self, request: service_pb2.ChangeMarkersRequest) -> types_pb2.Empty:
        """Set and remove many at once; of one that is named twice, the last counts."""
        return await self._change(
            {change.key: change.value if change.HasField("value") else None for change in request.changes}
        )

    async def _value(self, key: str) -> bytes | None:
        try:
            return await self._store.marker(key)
        except ValueError as error:
            raise _invalid(error) from None

    async def _change(self, changes: Mapping[str, bytes | None]) -> types_pb2.Empty:
        try:
            await self._store.change_markers(changes)
        except ValueError as error:
            raise _invalid(error) from None
        return _EMPTY


def _invalid(error: ValueError) -> RefusedError:
    return RefusedError(Refusal(Prefix.INVALID, str(error)))
