"""The decisions of a sync: which spans come next, what a refusal means, how a filter is written."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orly.nostr.event import MAX_CREATED_AT
from orly.nostr.filter import Filter, FilterLimits, parse_filter
from orly.sync.negentropy.state import (
    MAX_REFUSALS_AT_A_STRETCH,
    Refused,
    Span,
    SpanPlan,
    encode_filter,
    is_about_size,
    narrowed,
    read_refusal,
)

NOW_S = 1_700_000_000
KEY = "ab" * 32


@pytest.mark.parametrize(
    ("reason", "max_items", "meaning"),
    [
        ("blocked: too many query results", 1_000_000, Refused.TOO_LARGE),
        ("blocked: too many query results", None, Refused.TOO_LARGE),
        ("blocked: this query is too big", None, Refused.TOO_LARGE),
        ("blocked: 1200000 events match, 1000000 is the maximum", 1_000_000, Refused.TOO_LARGE),
        ("blocked: no", None, Refused.TOO_LARGE),
        ("error: max records exceeded", None, Refused.TOO_LARGE),
        ("bad msg: negentropy disabled", None, Refused.LACKING),
        ("blocked: negentropy is not offered by this relay", None, Refused.LACKING),
        ("negentropy error: negentropy filter must be an object", None, Refused.LACKING),
        ("unknown message type NEG-OPEN", None, Refused.LACKING),
        ("could not parse command", None, Refused.LACKING),
        ("error: unknown cmd", None, Refused.LACKING),
        ("unsupported: version", None, Refused.LACKING),
        ("", None, Refused.LACKING),
        ("closed: unknown subscription handle", None, Refused.LOST),
        ("closed: session timed out", None, Refused.LOST),
        ("auth-required: requested filter requires authentication", None, Refused.AUTH),
        ("restricted: members only", 500, Refused.AUTH),
        ("too many concurrent NEG requests", None, Refused.FAILED),
        ("blocked: 16 sessions are open on this connection, 16 is the maximum", None, Refused.FAILED),
        ("rate-limited: slow down", None, Refused.FAILED),
        ("blocked: this connection has 16 reconciliations open, the maximum", None, Refused.FAILED),
        ("blocked: the sets of all clients take 9 bytes, and 9 is the maximum; try again later", None, Refused.FAILED),
        ("error: the sync service is away", None, Refused.FAILED),
        ("PROTOCOL-ERROR", None, Refused.FAILED),
    ],
)
def test_what_refusals_mean(reason: str, max_items: int | None, meaning: Refused) -> None:
    assert read_refusal(reason, max_items) is meaning


def test_whether_a_refusal_speaks_of_a_size() -> None:
    assert is_about_size("blocked: whatever", 5)
    assert is_about_size("blocked: too many query results", None)
    assert not is_about_size("blocked: whatever", None)


@given(
    times=st.lists(st.integers(0, 400), max_size=200),
    own=st.lists(st.integers(0, 400), max_size=60),
    cap=st.integers(0, 30),
    since=st.integers(0, 300),
    length=st.integers(0, 400),
    now_s=st.integers(0, 500),
)
def test_the_spans_cover_everything_once_whatever_the_cap(
    times: list[int], own: list[int], cap: int, since: int, length: int, now_s: int
) -> None:
    """Every second is either reconciled within the cap, or alone and above it."""
    until = since + length
    plan = SpanPlan(Span(since, until), now_s=now_s)
    covered: list[Span] = []
    while (span := plan.next()) is not None:
        n_theirs = sum(span.since_s <= each <= span.until_s for each in times)
        ours = sorted(each for each in own if span.since_s <= each <= span.until_s)
        if n_theirs > cap and plan.halve(span, median_s=ours[len(ours) // 2] if ours else None, is_sized=True):
            continue
        if n_theirs > cap:
            assert span.since_s == span.until_s
        else:
            plan.done()
        covered.append(span)
    covered.sort(key=lambda each: each.since_s)
    assert [each.since_s for each in covered] == [since, *(each.until_s + 1 for each in covered[:-1])]
    assert covered[-1].until_s == until


def test_all_of_time_is_halved_down_to_a_second_in_bounds() -> None:
    """One second that holds too much is found in fewer steps than a peer may refuse at a stretch."""
    plan = SpanPlan(Span(0, MAX_CREATED_AT), now_s=NOW_S)
    crowded_s = NOW_S - 12_345
    n_refused = 0
    while (span := plan.next()) is not None:
        if not span.since_s <= crowded_s <= span.until_s:
            plan.done()
        elif span.since_s == span.until_s:
            assert not plan.halve(span, median_s=None, is_sized=True)
            assert not plan.is_hopeless
        else:
            n_refused += 1
            assert plan.halve(span, median_s=None, is_sized=True)
    assert n_refused < 40


def test_a_peer_that_always_refuses_is_hopeless_at_the_limit() -> None:
    plan = SpanPlan(Span(0, MAX_CREATED_AT), now_s=NOW_S)
    for _ in range(MAX_REFUSALS_AT_A_STRETCH):
        span = plan.next()
        assert span is not None
        plan.halve(span, median_s=None, is_sized=True)
        assert not plan.is_hopeless
    span = plan.next()
    assert span is not None
    assert not plan.halve(span, median_s=None, is_sized=True)
    assert plan.is_hopeless
    assert plan.rest(span) == Span(0, span.until_s)
    assert plan.next() is None


def test_bare_refusals_count_for_more_and_success_forgives() -> None:
    plan = SpanPlan(Span(0, 1000), now_s=NOW_S)
    for _ in range(4):
        span = plan.next()
        assert span is not None
        assert plan.halve(span, median_s=None, is_sized=False)
    plan.done()
    span = plan.next()
    assert span is not None
    assert plan.halve(span, median_s=None, is_sized=False)


def test_a_span_that_is_lost_comes_again() -> None:
    plan = SpanPlan(Span(5, 9), now_s=NOW_S)
    span = plan.next()
    assert span is not None
    plan.again(span)
    assert plan.next() == span
    assert plan.next() is None


@pytest.mark.parametrize("median_s", [None, 0, 5, 9, 10, 50])
def test_halves_are_never_empty(median_s: int | None) -> None:
    plan = SpanPlan(Span(5, 10), now_s=NOW_S)
    span = plan.next()
    assert span is not None
    assert plan.halve(span, median_s=median_s, is_sized=True)
    newer, older = plan.next(), plan.next()
    assert newer is not None
    assert older is not None
    assert (older.since_s, newer.until_s) == (5, 10)
    assert older.until_s + 1 == newer.since_s
    assert older.since_s <= older.until_s < newer.until_s


FILTERS = [
    Filter(),
    Filter(ids=frozenset({KEY}), authors=frozenset(), kinds=frozenset({7, 1})),
    Filter(tags={"t": frozenset({"b", "a"}), "p": frozenset({KEY})}, since=1, until=2, limit=0),
    Filter(since=MAX_CREATED_AT + 1, until=-1),
]


@pytest.mark.parametrize("wanted", FILTERS)
def test_a_filter_is_read_as_it_was_written(wanted: Filter) -> None:
    assert parse_filter(json.loads(encode_filter(wanted)), FilterLimits(max_values=10)) == wanted


def test_a_filter_that_wants_everything_is_empty() -> None:
    assert encode_filter(Filter()) == b"{}"
    assert encode_filter(narrowed(Filter(), Span(0, MAX_CREATED_AT))) == b"{}"
    assert encode_filter(Filter(kinds=frozenset({3, 1, 2}))) == b'{"kinds":[1,2,3]}'


def test_narrowing_never_widens() -> None:
    wanted = Filter(kinds=frozenset({1}), since=10, until=20, limit=3)
    assert narrowed(wanted, Span(0, 15)) == Filter(kinds=frozenset({1}), since=10, until=15, limit=3)
    assert narrowed(wanted, Span(12, 99)) == Filter(kinds=frozenset({1}), since=12, until=20, limit=3)
