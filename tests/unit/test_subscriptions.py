"""The subscription index finds exactly what asking every subscription would find, and forgets without a trace."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule
from tests.factory import KEYS, fake_event
from tests.strategies import QUICK, events, filters
from tests.subscription_index import index_is_empty

from orly.nostr.event import EncodedEvent, Event
from orly.nostr.filter import Filter, matches
from orly.relay.subscriptions import SubscriptionIndex


class Sub:
    def __init__(self, wanted: Sequence[Filter]) -> None:
        self.filters = tuple(wanted)
        self.stamp = 0


KNOWN = [fake_event(n % 3, 1 + 2 * (n % 2), n, [["t", "x"]], str(n)) for n in range(6)]


def wants(sub: Sub, event: Event) -> bool:
    return any(matches(wanted, event) for wanted in sub.filters)


def assert_same(index: SubscriptionIndex[Sub], subs: Sequence[Sub], event: EncodedEvent) -> None:
    found = index.match(event.event)
    assert len(found) == len(set(map(id, found))), "a subscription was found twice"
    assert set(map(id, found)) == {id(sub) for sub in subs if wants(sub, event.event)}


def many_filters() -> st.SearchStrategy[list[Filter]]:
    return st.lists(filters(KNOWN), min_size=1, max_size=4)


def some_events() -> st.SearchStrategy[EncodedEvent]:
    return st.one_of(st.sampled_from(KNOWN), events())


@given(st.lists(many_filters(), max_size=12), st.lists(some_events(), min_size=1, max_size=8))
@QUICK
def test_finds_what_brute_force_finds(wanted: list[list[Filter]], published: list[EncodedEvent]) -> None:
    index: SubscriptionIndex[Sub] = SubscriptionIndex()
    subs = [Sub(each) for each in wanted]
    for sub in subs:
        index.add(sub)
    for event in published:
        assert_same(index, subs, event)
    for sub in subs:
        index.remove(sub)
    assert index_is_empty(index)


class IndexMachine(RuleBasedStateMachine):
    """Subscriptions come and go in any order while events pass."""

    subs: Bundle[Sub] = Bundle("subs")

    def __init__(self) -> None:
        super().__init__()
        self.index: SubscriptionIndex[Sub] = SubscriptionIndex()
        self.open: list[Sub] = []

    @rule(target=subs, wanted=many_filters())
    def add(self, wanted: list[Filter]) -> Sub:
        sub = Sub(wanted)
        self.index.add(sub)
        self.open.append(sub)
        return sub

    @rule(sub=consumes(subs))
    def remove(self, sub: Sub) -> None:
        self.index.remove(sub)
        self.open.remove(sub)

    @rule(wanted=many_filters())
    def remove_stranger(self, wanted: list[Filter]) -> None:
        self.index.remove(Sub(wanted))

    @rule(event=some_events())
    def publish(self, event: EncodedEvent) -> None:
        assert_same(self.index, self.open, event)

    @invariant()
    def counts(self) -> None:
        assert len(self.index) == len(self.open)

    def teardown(self) -> None:
        for sub in self.open:
            self.index.remove(sub)
        assert index_is_empty(self.index)


IndexMachine.TestCase.settings = settings(QUICK, max_examples=20, stateful_step_count=25)
TestIndexMachine = IndexMachine.TestCase


@pytest.mark.parametrize(
    "wanted",
    [
        Filter(),
        Filter(since=5),
        Filter(ids=frozenset({KNOWN[0].event.id}), kinds=frozenset({1})),
        Filter(authors=frozenset(KEYS[:3])),
        Filter(kinds=frozenset({1, 3}), tags={"t": frozenset({"x", "y"}), "p": frozenset({KEYS[0]})}),
        Filter(kinds=frozenset({1, 3})),
        Filter(ids=frozenset()),
        Filter(since=2, until=1),
    ],
    ids=["all", "since", "ids", "authors", "tags", "kinds", "nothing", "no time"],
)
def test_removal_leaves_no_container(wanted: Filter) -> None:
    index: SubscriptionIndex[Sub] = SubscriptionIndex()
    first, second = Sub([wanted, wanted]), Sub([wanted])
    index.add(first)
    index.add(second)
    index.remove(first)
    assert_same(index, [second], KNOWN[0])
    index.remove(second)
    assert index_is_empty(index)
    index.remove(second)


def test_subscription_with_overlapping_filters_is_found_once() -> None:
    index: SubscriptionIndex[Sub] = SubscriptionIndex()
    event = fake_event(tags=[["t", "x"], ["t", "y"], ["t", "x"]])
    sub = Sub(
        [
            Filter(),
            Filter(kinds=frozenset({1})),
            Filter(authors=frozenset({KEYS[0]})),
            Filter(ids=frozenset({event.event.id})),
            Filter(tags={"t": frozenset({"x", "y"})}),
        ]
    )
    index.add(sub)
    assert index.match(event.event) == [sub]
    assert index.match(event.event) == [sub], "also the second time"


def test_live_matching_ignores_the_limit() -> None:
    index: SubscriptionIndex[Sub] = SubscriptionIndex()
    sub = Sub([Filter(kinds=frozenset({1}), limit=0)])
    index.add(sub)
    assert index.match(fake_event().event) == [sub]
