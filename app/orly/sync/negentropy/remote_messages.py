"""What a relay worker and the service that reconciles for it say to each other."""

from orly.nostr.kinds import MAX_KIND
from orly.nostr.reason import Prefix, Refusal
from orly.pb.orlydb.v1 import types_pb2 as db_pb2
from orly.pb.orlysync.common.v1 import types_pb2 as common_pb2
from orly.pb.orlysync.negentropy.v1 import types_pb2
from orly.reconciling import NegRefusedError
from orly.rpc.events import ID_BYTES, filter_from_pb, filter_to_pb
from orly.rpc.status import RefusedError
from orly.store.base import Query, ReadScope

__all__ = ["open_request", "query_of", "refusal_of", "refusal_to_pb"]


def open_request(connection_id: str, sub_id: str, query: Query, message: bytes) -> types_pb2.NegOpenRequest:
    """The message for a query of one filter.

    Limits other than the filter's own, and the time it may take, are not the other side's business.
    """
    (wanted,) = query.filters
    scope = query.scope
    return types_pb2.NegOpenRequest(
        subscription_id=sub_id,
        filter=common_pb2.Filter.FromString(filter_to_pb(wanted).SerializeToString()),
        initial_message=message,
        connection_id=connection_id,
        scope=types_pb2.ReadScope(
            private_kinds=sorted(scope.private_kinds),
            readers=sorted(map(bytes.fromhex, scope.readers)),
            sees_hidden=scope.sees_hidden,
        ),
    )


def query_of(request: types_pb2.NegOpenRequest) -> Query:
    """The query that a message is about.

    Raises:
        FilterError: The filter cannot be read.
        RefusedError: The scope cannot.
    """
    wanted = filter_from_pb(db_pb2.Filter.FromString(request.filter.SerializeToString()))
    scope = _scope_of(request.scope) if request.HasField("scope") else ReadScope()
    return Query(filters=(wanted,), scope=scope)


def _scope_of(message: types_pb2.ReadScope) -> ReadScope:
    for key in message.readers:
        if len(key) != ID_BYTES:
            raise RefusedError(Refusal(Prefix.INVALID, f"scope: a reader has {len(key)} bytes instead of {ID_BYTES}"))
    for kind in message.private_kinds:
        if kind > MAX_KIND:
            raise RefusedError(Refusal(Prefix.INVALID, f"scope: kind {kind} is outside 0..{MAX_KIND}"))
    return ReadScope(
        private_kinds=frozenset(message.private_kinds),
        readers=frozenset(key.hex() for key in message.readers),
        sees_hidden=message.sees_hidden,
    )


def refusal_to_pb(refusal: NegRefusedError, answer: types_pb2.NegOpenResponse | types_pb2.NegMsgResponse) -> None:
    """Say in an answer that there is none, and why."""
    answer.error = str(refusal)
    if refusal.max_items is not None:
        answer.max_items = refusal.max_items


def refusal_of(answer: types_pb2.NegOpenResponse | types_pb2.NegMsgResponse) -> NegRefusedError | None:
    """The reason why there is no answer; None if there is one."""
    if not answer.error:
        return None
    word, colon, detail = answer.error.partition(": ")
    most = answer.max_items if answer.HasField("max_items") else None
    if not colon:
        return NegRefusedError("error", answer.error, most)
    return NegRefusedError(word, detail, most)
