"""DeleteEvent and CheckForDeleted."""

from collections.abc import Iterable

from orly.intake.verdict import verdict_of
from orly.nostr.event import EncodedEvent, EventError, decode_event, encode_event
from orly.nostr.filter import Filter
from orly.nostr.kinds import DELETION
from orly.nostr.reason import Prefix, Refusal
from orly.nostr.tags import event_address
from orly.pb.orlydb.v1 import service_pb2
from orly.rpc.events import ID_BYTES, from_pb
from orly.store.base import EventStore, Query, SaveResult

__all__ = ["Deletions"]


class Deletions:
    """Removing an event for good, and asking whether one may not come back."""

    def __init__(self, store: EventStore) -> None:
        self._store = store

    async def delete(self, request: service_pb2.DeleteEventRequest) -> service_pb2.DeleteEventResponse:
        """Remove an event; it may be stored again.

        Raises:
            EventError: The id has a wrong length.
            StoreError: It could not be removed.
        """
        _check_length("event_id", request.event_id)
        return service_pb2.DeleteEventResponse(deleted=await self._store.delete([request.event_id]) > 0)

    async def check(self, request: service_pb2.CheckDeletedRequest) -> service_pb2.CheckDeletedResponse:
        """Whether the store would refuse an event because its author asked for that, or an administrator did.

        The store itself heeds authors, and recipients of gift wraps; deletions by the given `admins` are looked up
        among its events. The event's signature is not checked.

        Raises:
            EventError: The event or a key is not well-formed.
            StoreError: The store cannot be read.
        """
        event = decode_event(encode_event(from_pb(request.event)))
        for key in request.admins:
            _check_length("admins", key)
        status = await self._store.deleted(event)
        if status is not None:
            return service_pb2.CheckDeletedResponse(deleted=True, reason=str(verdict_of(SaveResult(status)).refusal))
        if request.admins and await self._store.count(_deletions_of(event, request.admins)):
            refusal = Refusal(Prefix.BLOCKED, "an administrator asked for its deletion")
            return service_pb2.CheckDeletedResponse(deleted=True, reason=str(refusal))
        return service_pb2.CheckDeletedResponse(deleted=False)


def _check_length(name: str, value: bytes) -> None:
    if len(value) != ID_BYTES:
        raise EventError(f"{name} has {len(value)} bytes, not {ID_BYTES}")


def _deletions_of(event: EncodedEvent, admins: Iterable[bytes]) -> Query:
    """What asks for an event's deletion by id, or by an address at its time or later (NIP-09)."""
    authors, kinds = frozenset(key.hex() for key in admins), frozenset({DELETION})
    fields = event.event
    filters = [Filter(authors=authors, kinds=kinds, tags={"e": frozenset({fields.id})})]
    address = event_address(fields)
    if address is not None:
        kind, author, d = address
        texts = {f"{kind}:{author}:{d}"} | (set() if d else {f"{kind}:{author}"})
        filters.append(Filter(authors=authors, kinds=kinds, tags={"a": frozenset(texts)}, since=fields.created_at))
    return Query(filters=tuple(filters))
