"""Who may read what: `ReadScope`."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.factory import KEYS, fake_event, gift_wrap
from tests.strategies import QUICK, events

from orly.nostr.event import EncodedEvent
from orly.nostr.kinds import PRIVATE_KINDS
from orly.store.base import READ_ALL, ReadScope

_STRANGER = ReadScope()
_PRIVATE = sorted(PRIVATE_KINDS)


def _reader(*keys: int) -> ReadScope:
    return ReadScope(readers=frozenset(KEYS[key] for key in keys))


@pytest.mark.parametrize("kind", _PRIVATE)
def test_a_private_event_is_for_its_author_and_its_p_keys(kind: int) -> None:
    event = fake_event(0, kind, tags=[["p", KEYS[1]], ["p", KEYS[2], "wss://x"]]).event
    assert [_reader(key).may_read(event) for key in range(4)] == [True, True, True, False]
    assert not _STRANGER.may_read(event)
    assert READ_ALL.may_read(event)


@pytest.mark.parametrize("kind", [0, 1, 3, 5, 7, 5_999, 10_002, 30_023])
def test_a_public_event_is_for_everyone(kind: int) -> None:
    assert _STRANGER.may_read(fake_event(kind=kind).event)


@pytest.mark.parametrize(
    "tag",
    [["p"], ["P", KEYS[1]], ["e", KEYS[1]], ["p", "", KEYS[1]], ["p", KEYS[1].upper()], ["p", KEYS[1][:-1]],
     ["p ", KEYS[1]], ["pp", KEYS[1]]],
)  # fmt: skip
def test_only_the_value_of_a_p_tag_names_a_party(tag: list[str]) -> None:
    assert not _reader(1).may_read(fake_event(0, 4, tags=[tag]).event)


def test_one_of_several_proven_keys_is_enough() -> None:
    wrap = gift_wrap(KEYS[2], key=5).event
    assert _reader(1, 2).may_read(wrap)
    assert _reader(5, 1).may_read(wrap)
    assert not _reader(1, 3).may_read(wrap)


def test_the_private_kinds_are_a_setting() -> None:
    event = fake_event(0, 1).event
    scope = ReadScope(private_kinds=frozenset({1}))
    assert not scope.may_read(event)
    assert scope.may_read(fake_event(0, 4).event)


@QUICK
@given(events(kind=st.sampled_from([1, *_PRIVATE])), st.frozensets(st.sampled_from(KEYS), max_size=3))
def test_reading_agrees_with_the_rule(event: EncodedEvent, readers: frozenset[str]) -> None:
    parties = {event.event.pubkey} | {tag[1] for tag in event.event.tags if tag[0] == "p" and len(tag) > 1}
    expected = event.event.kind not in PRIVATE_KINDS or bool(parties & readers)
    assert ReadScope(readers=readers).may_read(event.event) == expected
    assert READ_ALL.may_read(event.event)
