"""The messages of the three hot streams, and the data of `orly.store.base` that they carry."""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, Final

import msgspec

from orly.nostr.event import MAX_CREATED_AT
from orly.nostr.filter import Filter, FilterError, FilterLimits, parse_filter
from orly.nostr.kinds import MAX_KIND
from orly.pb.orlydb.v1 import streams_pb2
from orly.store.base import CountTooLargeError, Query, QueryTimeoutError, ReadScope, SaveResult, SaveStatus, StoreError

__all__ = [
    "MAX_EVENT_BYTES",
    "STREAM_OPEN",
    "QueryStartError",
    "error_from_pb",
    "error_to_pb",
    "filter_from_json",
    "filter_to_json",
    "is_stream_open",
    "outcomes_of",
    "query_from_pb",
    "query_to_pb",
    "results_of",
]

MAX_EVENT_BYTES: Final = 60 * 1024 * 1024
"""A larger event does not fit into a message."""

STREAM_OPEN: Final = (("orly-stream", "open"),)
"""Initial metadata of a stream that was taken: a refused one has none, so its caller can tell them apart at once."""

_MAX_VALUES: Final = 1_000_000
"""In one condition of a filter. The relay's own limit is far lower; this one keeps foreign callers in bounds."""

_FILTER_LIMITS: Final = FilterLimits(max_values=_MAX_VALUES)

_OUTCOMES: Final = {
    SaveStatus.STORED: streams_pb2.STORED,
    SaveStatus.DELIVERED: streams_pb2.DELIVERED,
    SaveStatus.DUPLICATE: streams_pb2.DUPLICATE,
    SaveStatus.SUPERSEDED: streams_pb2.SUPERSEDED,
    SaveStatus.DELETED: streams_pb2.DELETED,
    SaveStatus.VANISHED: streams_pb2.VANISHED,
    SaveStatus.EXPIRED: streams_pb2.EXPIRED,
    SaveStatus.FAILED: streams_pb2.FAILED,
}
_STATUSES: Final[dict[int, SaveStatus]] = {int(outcome): status for status, outcome in _OUTCOMES.items()} | {
    streams_pb2.REFUSED: SaveStatus.FAILED  # who has verified its events is not refused, unless something is broken
}
_STORED: Final = bytes([streams_pb2.STORED])


class QueryStartError(ValueError):
    """A query cannot be read; the text says why."""


def is_stream_open(metadata: Iterable[tuple[str, str | bytes]]) -> bool:
    """Whether a service has taken a stream, from its initial metadata."""
    return any(pair == STREAM_OPEN[0] for pair in metadata)


# Saving


def outcomes_of(results: Sequence[SaveResult | str]) -> tuple[bytes, list[int], list[str]]:
    """`outcomes`, `serials` and `reasons` of a `SaveBatchResult`; a text in place of a result is a refusal."""
    outcomes = bytearray()
    serials: list[int] = []
    reasons: list[str] = []
    for result in results:
        if isinstance(result, str):
            outcomes.append(streams_pb2.REFUSED)
            reasons.append(result)
        elif result.status is SaveStatus.STORED:
            outcomes.append(streams_pb2.STORED)
            serials.append(result.serial)
        else:
            outcomes.append(_OUTCOMES[result.status])
            if result.status is SaveStatus.FAILED:
                reasons.append(result.detail)
    return bytes(outcomes), serials, reasons


def results_of(answer: streams_pb2.SaveBatchResult, count: int) -> list[SaveResult]:
    """The results of `count` events, in their order.

    Raises:
        ValueError: The answer does not fit that many events, or holds an unknown outcome.
    """
    outcomes = answer.outcomes
    if len(outcomes) != count:
        raise ValueError(f"{len(outcomes)} outcomes for {count} events")
    serials = list(answer.serials)
    if outcomes == _STORED * count and len(serials) == count:
        stored = SaveStatus.STORED
        return [SaveResult(stored, serial) for serial in serials]
    next_serial, next_reason = iter(serials), iter(answer.reasons)
    results: list[SaveResult] = []
    try:
        for outcome in outcomes:
            status = _STATUSES[outcome]
            if status is SaveStatus.STORED:
                results.append(SaveResult(status, next(next_serial)))
            elif status is SaveStatus.FAILED:
                results.append(SaveResult(status, detail=next(next_reason)))
            else:
                results.append(SaveResult(status))
    except KeyError as error:
        raise ValueError(f"unknown outcome {error}") from None
    except StopIteration:
        raise ValueError("serials or reasons are missing") from None
    return results


# Queries


def filter_to_json(wanted: Filter) -> bytes:
    """The filter as a client would write it; what does not limit is left out."""
    found: dict[str, Any] = {}
    if wanted.ids is not None:
        found["ids"] = wanted.ids
    if wanted.authors is not None:
        found["authors"] = wanted.authors
    if wanted.kinds is not None:
        found["kinds"] = wanted.kinds
    for letter, choices in wanted.tags.items():
        found[f"#{letter}"] = choices
    if wanted.since != 0:
        found["since"] = wanted.since
    if wanted.until != MAX_CREATED_AT:
        found["until"] = wanted.until
    if wanted.limit is not None:
        found["limit"] = wanted.limit
    return _encode(found)


_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder().decode


def filter_from_json(raw: bytes) -> Filter:
    """Read one filter, strictly.

    Raises:
        FilterError: It is no filter of NIP-01; the text says where.
    """
    return _read_filter(raw) if len(raw) > _SHORT_BYTES else _read_short_filter(raw)


def _read_filter(raw: bytes) -> Filter:
    try:
        data = _decode(raw)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise FilterError("a filter must be a JSON object") from None
    return parse_filter(data, _FILTER_LIMITS)


_SHORT_BYTES: Final = 512
"""Filters up to this length are remembered, for clients ask the same again and again."""

_read_short_filter: Final = lru_cache(maxsize=4096)(_read_filter)


def query_to_pb(start: streams_pb2.QueryStart, query: Query, filters: Iterable[bytes]) -> None:
    """Say in a message what is asked; written in place, for a copy costs more than all the rest.

    Args:
        start: Where to.
        query: What is asked.
        filters: Those of the query, by `filter_to_json`.
    """
    start.filters.extend(filters)
    start.MergeFromString(_terms(query.scope, query.default_limit, query.max_limit, query.timeout_s))


@lru_cache(maxsize=1024)
def _terms(scope: ReadScope, default_limit: int | None, max_limit: int | None, timeout_s: float | None) -> bytes:
    """What most queries have in common, ready to be put into a `QueryStart`."""
    return streams_pb2.QueryStart(
        scope=streams_pb2.ReadScope(
            private_kinds=sorted(scope.private_kinds),
            readers=sorted(map(bytes.fromhex, scope.readers)),
            sees_hidden=scope.sees_hidden,
        ),
        default_limit=default_limit,
        max_limit=max_limit,
        timeout_s=timeout_s,
    ).SerializeToString()


def query_from_pb(start: streams_pb2.QueryStart) -> Query:
    """The query that a message starts; without a scope its reader may see everything.

    Raises:
        QueryStartError: A filter, the scope or a limit cannot be read; the text names it.
    """
    try:
        filters = tuple(map(filter_from_json, start.filters))
    except FilterError as error:
        raise QueryStartError(str(error)) from None
    if not filters:
        raise QueryStartError("a query needs a filter")
    timeout_s = start.timeout_s if start.HasField("timeout_s") else None
    if timeout_s is not None and not timeout_s >= 0:
        raise QueryStartError(f"timeout_s is {timeout_s}")
    return Query(
        filters=filters,
        scope=_scope_from_bytes(start.scope.SerializeToString()),
        default_limit=start.default_limit if start.HasField("default_limit") else None,
        max_limit=start.max_limit if start.HasField("max_limit") else None,
        timeout_s=timeout_s,
    )


@lru_cache(maxsize=1024)
def _scope_from_bytes(raw: bytes) -> ReadScope:
    """Most queries have the same few scopes, and comparing bytes is cheap."""
    scope = streams_pb2.ReadScope.FromString(raw)
    for key in scope.readers:
        if len(key) != 32:
            raise QueryStartError(f"scope: a reader has {len(key)} bytes, not 32")
    for kind in scope.private_kinds:
        if kind > MAX_KIND:
            raise QueryStartError(f"scope: kind {kind} is outside 0..{MAX_KIND}")
    return ReadScope(
        private_kinds=frozenset(scope.private_kinds),
        readers=frozenset(key.hex() for key in scope.readers),
        sees_hidden=scope.sees_hidden,
    )


def error_to_pb(error: StoreError) -> streams_pb2.QueryError:
    """Why a query ended early."""
    match error:
        case QueryTimeoutError():
            kind = streams_pb2.QueryError.TIMEOUT
        case CountTooLargeError():
            kind = streams_pb2.QueryError.TOO_LARGE
        case _:
            kind = streams_pb2.QueryError.STORE
    return streams_pb2.QueryError(kind=kind, detail=str(error))


def error_from_pb(error: streams_pb2.QueryError) -> StoreError:
    """The error that `error_to_pb` was given, as far as callers tell them apart."""
    match error.kind:
        case streams_pb2.QueryError.TIMEOUT:
            return QueryTimeoutError(error.detail)
        case streams_pb2.QueryError.TOO_LARGE:
            return CountTooLargeError(error.detail)
        case _:
            return StoreError(error.detail)
