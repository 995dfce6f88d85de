"""The calls of the NegentropyService that are about clients' reconciliations."""

from typing import Any

import grpc

from orly.negentropy import is_complete
from orly.nostr.filter import FilterError
from orly.pb.orlysync.common.v1 import types_pb2 as common_pb2
from orly.pb.orlysync.negentropy.v1 import types_pb2
from orly.reconciling import NegRefusedError
from orly.rpc.status import RefusedError
from orly.store.base import Query
from orly.sync.negentropy.remote_messages import query_of, refusal_to_pb
from orly.sync.negentropy.sessions import LocalSets

__all__ = ["ReconcileServicer"]

_Context = grpc.aio.ServicerContext[Any, Any]


class ReconcileServicer:
    """The part of the service that answers clients of the relay; a refusal is an answer, not a status.

    Args:
        sets: Their sessions; stay the caller's.
    """

    def __init__(self, sets: LocalSets) -> None:
        self._sets = sets

    async def HandleNegOpen(self, request: types_pb2.NegOpenRequest, context: _Context) -> types_pb2.NegOpenResponse:
        """Fix the set for a filter, and answer the first message."""
        answer = types_pb2.NegOpenResponse()
        try:
            if not request.subscription_id:
                raise NegRefusedError("invalid", "a subscription id is needed")
            if not request.initial_message:
                raise NegRefusedError("blocked", "an initial message is needed: this side only answers")
            answer.message = await self._sets.open(
                request.connection_id, request.subscription_id, _query_of(request), request.initial_message
            )
        except NegRefusedError as refusal:
            refusal_to_pb(refusal, answer)
        else:
            answer.complete = is_complete(answer.message)
        return answer

    async def HandleNegMsg(self, request: types_pb2.NegMsgRequest, context: _Context) -> types_pb2.NegMsgResponse:
        """Answer the next message."""
        answer = types_pb2.NegMsgResponse()
        try:
            answer.message = await self._sets.go_on(request.connection_id, request.subscription_id, request.message)
        except NegRefusedError as refusal:
            refusal_to_pb(refusal, answer)
        else:
            answer.complete = is_complete(answer.message)
        return answer

    async def HandleNegClose(self, request: types_pb2.NegCloseRequest, context: _Context) -> common_pb2.Empty:
        """Forget a session, or with an empty subscription id all of a connection."""
        if request.subscription_id:
            self._sets.close(request.connection_id, request.subscription_id)
        else:
            self._sets.gone(request.connection_id)
        return common_pb2.Empty()

    async def ListSessions(self, request: common_pb2.Empty, context: _Context) -> types_pb2.ListSessionsResponse:
        """What clients have open."""
        return types_pb2.ListSessionsResponse(
            sessions=[
                types_pb2.ClientSession(
                    subscription_id=session.sub_id,
                    connection_id=session.connection_id,
                    created_at=session.created_at,
                    last_activity=session.last_activity,
                    round_count=session.rounds,
                )
                for session in self._sets.sessions()
            ]
        )

    async def CloseSession(self, request: types_pb2.CloseSessionRequest, context: _Context) -> common_pb2.Empty:
        """End a session, or without a connection id all with that subscription id; its client hears of it next time."""
        self._sets.close_all(request.subscription_id, request.connection_id)
        return common_pb2.Empty()


def _query_of(request: types_pb2.NegOpenRequest) -> Query:
    try:
        return query_of(request)
    except FilterError as error:
        raise NegRefusedError("unsupported" if error.unsupported else "invalid", str(error)) from None
    except RefusedError as error:
        word, _, detail = str(error).partition(": ")
        raise NegRefusedError(word, detail) from None
