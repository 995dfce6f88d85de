"""SaveEvent: one event from a tool."""

from collections.abc import Callable
from typing import Final

from orly.intake.policy import WritePolicy
from orly.intake.verdict import BAD_SIGNATURE, verdict_of
from orly.intake.verify import Verifier
from orly.nostr.event import EncodedEvent, EventError, decode_event, encode_event
from orly.nostr.reason import Prefix, Refusal
from orly.pb.orlydb.v1 import service_pb2, streams_pb2
from orly.rpc.convert import outcomes_of
from orly.rpc.events import from_pb
from orly.rpc.status import RefusedError
from orly.store.base import EventStore, SaveResult, SaveStatus, StoreError

__all__ = ["SaveOne"]

_DUPLICATE: Final = SaveResult(SaveStatus.DUPLICATE)


class SaveOne:
    """The SaveEvent call.

    It is an administrator's door: the author of an event counts as authenticated, so that protected events (NIP-70)
    and a relay that wants authentication are no obstacle. All else is as for a client, the words of a refusal too.
    """

    def __init__(self, store: EventStore, policy: WritePolicy, verifier: Verifier, now_s: Callable[[], int]) -> None:
        self._store = store
        self._policy = policy
        self._verifier = verifier
        self._now_s = now_s

    async def save(self, request: service_pb2.SaveEventRequest) -> service_pb2.SaveEventResponse:
        """Check an event, and store it.

        Raises:
            RefusedError: It is not taken, and the request did not ask for a structured answer.
            StoreError: The store could not write it, likewise.
        """
        try:
            event = decode_event(encode_event(from_pb(request.event)))
        except EventError as error:
            return _refused(request, Refusal(Prefix.INVALID, str(error)))
        refusal = self._policy.check(event, now_s=self._now_s(), authenticated=(event.event.pubkey,))
        if refusal is not None:
            return _refused(request, refusal)
        if self._is_known(event):
            return _answer(request, _DUPLICATE)
        if not self._verifier.verify([event])[0]:
            return _refused(request, BAD_SIGNATURE)
        try:
            result = (await self._store.save([event]))[0]
        except StoreError as error:
            result = SaveResult(SaveStatus.FAILED, detail=str(error))
        return _answer(request, result)

    def _is_known(self, event: EncodedEvent) -> bool:
        try:
            return self._store.known([event.id])[0]
        except StoreError:
            return False  # only a hint: the save says what is wrong


def _answer(request: service_pb2.SaveEventRequest, result: SaveResult) -> service_pb2.SaveEventResponse:
    verdict = verdict_of(result)
    if not verdict.is_accepted and not request.structured:
        if result.status is SaveStatus.FAILED:
            raise StoreError(result.detail)
        assert verdict.refusal is not None
        raise RefusedError(verdict.refusal)
    return _response(result, "" if verdict.refusal is None else str(verdict.refusal))


def _refused(request: service_pb2.SaveEventRequest, refusal: Refusal) -> service_pb2.SaveEventResponse:
    """The answer to an event that the store is not asked about."""
    if not request.structured:
        raise RefusedError(refusal)
    return _response(str(refusal), str(refusal))


def _response(result: SaveResult | str, reason: str) -> service_pb2.SaveEventResponse:
    outcomes, serials, _ = outcomes_of([result])
    return service_pb2.SaveEventResponse(
        exists=isinstance(result, SaveResult) and result.status is SaveStatus.DUPLICATE,
        outcome=streams_pb2.SaveOutcome.Name(outcomes[0]),
        reason=reason,
        serial=serials[0] if serials else 0,
    )
