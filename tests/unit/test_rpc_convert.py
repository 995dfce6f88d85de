import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.strategies import QUICK, filters, junk_json, mutated, to_json

from orly.nostr.event import MAX_CREATED_AT
from orly.nostr.filter import MAX_LIMIT, Filter, FilterError
from orly.pb.orlydb.v1 import streams_pb2
from orly.rpc.convert import (
    STREAM_OPEN,
    QueryStartError,
    error_from_pb,
    error_to_pb,
    filter_from_json,
    filter_to_json,
    is_stream_open,
    outcomes_of,
    query_from_pb,
    query_to_pb,
    results_of,
)
from orly.store.base import CountTooLargeError, Query, QueryTimeoutError, ReadScope, SaveResult, SaveStatus, StoreError

EXTREMES = [
    Filter(),
    Filter(since=MAX_CREATED_AT + 1, until=-1),
    Filter(since=MAX_CREATED_AT, until=MAX_CREATED_AT - 1),
    Filter(since=1, until=0, limit=0),
    Filter(limit=MAX_LIMIT),
    Filter(ids=frozenset(), authors=frozenset(), kinds=frozenset(), tags={"e": frozenset()}),
    Filter(ids=frozenset({"0" * 64, "f" * 64}), kinds=frozenset({0, 65_535})),
    Filter(tags={"a": frozenset({"", "\x00", "\u2028", "é", "😀"}), "Z": frozenset({"x" * 10_000})}),
]

scopes = st.builds(
    ReadScope,
    private_kinds=st.frozensets(st.integers(0, 65_535), max_size=4),
    readers=st.frozensets(st.sampled_from(["0" * 64, "ab" * 32, "f" * 64])),
)
limits = st.one_of(st.none(), st.integers(0, 2**32 - 1))
queries = st.builds(
    Query,
    filters=st.lists(filters(limits=st.one_of(st.none(), st.integers(0, MAX_LIMIT))), min_size=1, max_size=3).map(
        tuple
    ),
    scope=scopes,
    default_limit=limits,
    max_limit=limits,
    timeout_s=st.one_of(st.none(), st.floats(0, 1e6)),
)


@pytest.mark.parametrize("wanted", EXTREMES)
def test_extreme_filters_come_out_as_they_went_in(wanted: Filter) -> None:
    assert filter_from_json(filter_to_json(wanted)) == wanted


@pytest.mark.parametrize("n_bytes", [512, 513])
def test_a_filter_that_is_asked_again_is_read_again_only_if_it_is_long(n_bytes: int) -> None:
    raw = filter_to_json(Filter(tags={"t": frozenset({"x" * (n_bytes - len('{"#t":[""]}'))})}))
    assert len(raw) == n_bytes
    assert filter_from_json(raw) == filter_from_json(bytes(bytearray(raw)))
    assert (filter_from_json(raw) is filter_from_json(bytes(bytearray(raw)))) == (n_bytes == 512)


@QUICK
@given(filters())
def test_filters_come_out_as_they_went_in_and_are_those_of_nip_01(wanted: Filter) -> None:
    raw = filter_to_json(wanted)
    assert filter_from_json(raw) == wanted
    found = {
        key: sorted(value) if isinstance(value, list) else value for key, value in msgspec.json.decode(raw).items()
    }
    assert found == to_json(wanted)


@QUICK
@given(mutated(filters().map(filter_to_json)) | junk_json().map(msgspec.json.encode))
def test_junk_is_refused_by_its_own_error(raw: bytes) -> None:
    try:
        filter_from_json(raw)
    except FilterError as error:
        assert str(error)  # noqa: PT017 - it may also be a filter


@QUICK
@given(queries)
def test_queries_come_out_as_they_went_in(query: Query) -> None:
    start = streams_pb2.QueryStart()
    query_to_pb(start, query, map(filter_to_json, query.filters))
    assert query_from_pb(streams_pb2.QueryStart.FromString(start.SerializeToString())) == query


@pytest.mark.parametrize(
    ("start", "text"),
    [
        (streams_pb2.QueryStart(), "needs a filter"),
        (streams_pb2.QueryStart(filters=[b"{"]), "must be a JSON object"),
        (streams_pb2.QueryStart(filters=[b"[1]"]), "must be an object"),
        (streams_pb2.QueryStart(filters=[b"{}", b'{"ids":["AB"]}']), "filter ids must hold 64"),
        (streams_pb2.QueryStart(filters=[b"{}"], timeout_s=-1), "timeout_s"),
        (streams_pb2.QueryStart(filters=[b"{}"], timeout_s=float("nan")), "timeout_s"),
        (streams_pb2.QueryStart(filters=[b"{}"], scope=streams_pb2.ReadScope(readers=[b"x"])), "1 bytes, not 32"),
        (streams_pb2.QueryStart(filters=[b"{}"], scope=streams_pb2.ReadScope(private_kinds=[65_536])), "kind 65536"),
    ],
)
def test_what_cannot_be_asked_is_named(start: streams_pb2.QueryStart, text: str) -> None:
    with pytest.raises(QueryStartError, match=text):
        query_from_pb(start)


@pytest.mark.parametrize("status", SaveStatus)
def test_every_status_has_an_outcome(status: SaveStatus) -> None:
    result = SaveResult(status, 5 if status is SaveStatus.STORED else 0, "why" if status is SaveStatus.FAILED else "")
    results = [result, SaveResult(SaveStatus.STORED, 7), result]
    outcomes, serials, reasons = outcomes_of(results)
    answer = streams_pb2.SaveBatchResult(outcomes=outcomes, serials=serials, reasons=reasons)
    assert results_of(answer, 3) == results
    assert streams_pb2.SaveOutcome.Name(outcomes[0]) == status.name


def test_a_refusal_is_a_failure_with_its_reason() -> None:
    outcomes, serials, reasons = outcomes_of(["invalid: x", SaveResult(SaveStatus.FAILED, detail="y")])
    answer = streams_pb2.SaveBatchResult(outcomes=outcomes, serials=serials, reasons=reasons)
    assert list(outcomes) == [streams_pb2.REFUSED, streams_pb2.FAILED]
    assert [result.detail for result in results_of(answer, 2)] == ["invalid: x", "y"]


@pytest.mark.parametrize("error", [StoreError("a"), QueryTimeoutError("b"), CountTooLargeError("c")])
def test_errors_keep_their_kind_and_text(error: StoreError) -> None:
    found = error_from_pb(error_to_pb(error))
    assert (type(found), str(found)) == (type(error), str(error))


def test_a_stream_that_was_taken_says_so() -> None:
    assert is_stream_open([("other", "x"), *STREAM_OPEN])
    assert not is_stream_open([])
    assert not is_stream_open([("orly-stream", "closed")])
