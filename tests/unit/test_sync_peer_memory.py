"""What is remembered of a peer: bounded, for a day, kept as bytes."""

import pytest

from orly.sync.negentropy.peer_memory import REMEMBERED_S, PeerMemory, Why

NOW_S = 1_700_000_000
PULLED = (Why.UNAVAILABLE, Why.REFUSED, Why.UNWANTED)
PUSHED = (Why.REJECTED, Why.UNNEEDED)


def an_id(number: int) -> bytes:
    return number.to_bytes(32)


@pytest.mark.parametrize("why", list(Why))
def test_each_reason_concerns_one_direction(why: Why) -> None:
    memory = PeerMemory()
    memory.note(an_id(1), why, now_s=NOW_S)
    assert memory.why_not_pull(an_id(1), now_s=NOW_S) is (why if why in PULLED else None)
    assert memory.why_not_push(an_id(1), now_s=NOW_S) is (why if why in PUSHED else None)
    assert memory.why_not_pull(an_id(2), now_s=NOW_S) is None


def test_it_is_forgotten_at_the_second() -> None:
    memory = PeerMemory()
    memory.note(an_id(1), Why.REFUSED, now_s=NOW_S)
    assert memory.why_not_pull(an_id(1), now_s=NOW_S + REMEMBERED_S - 1) is Why.REFUSED
    assert memory.why_not_pull(an_id(1), now_s=NOW_S + REMEMBERED_S) is None
    assert len(memory) == 0


@pytest.mark.parametrize(("until_s", "kept_s"), [(5, 5), (0, 0), (-5, 0), (REMEMBERED_S + 5, REMEMBERED_S)])
def test_some_are_remembered_for_less_than_a_day(until_s: int, kept_s: int) -> None:
    memory = PeerMemory()
    memory.note(an_id(1), Why.REFUSED, now_s=NOW_S, until_s=NOW_S + until_s)
    found = [memory.why_not_pull(an_id(1), now_s=NOW_S + after_s) for after_s in (max(kept_s - 1, 0), kept_s)]
    assert found == [Why.REFUSED if kept_s else None, None]


def test_another_is_taken_in() -> None:
    memory, other = PeerMemory(max_ids=2), PeerMemory()
    for number in (1, 2):
        memory.note(an_id(number), Why.REFUSED, now_s=NOW_S)
    for number in (2, 3):
        other.note(an_id(number), Why.REJECTED, now_s=NOW_S + 5)
    memory.take_in(other)
    assert [memory.why_not_pull(an_id(number), now_s=NOW_S) for number in (1, 2, 3)] == [None, None, None]
    assert [memory.why_not_push(an_id(number), now_s=NOW_S) for number in (1, 2, 3)] == [
        None,
        Why.REJECTED,
        Why.REJECTED,
    ]
    assert memory.why_not_push(an_id(2), now_s=NOW_S + REMEMBERED_S + 4) is Why.REJECTED


def test_the_oldest_goes_first() -> None:
    memory = PeerMemory(max_ids=3)
    for number in (1, 2, 3):
        memory.note(an_id(number), Why.REFUSED, now_s=NOW_S)
    memory.note(an_id(1), Why.UNWANTED, now_s=NOW_S + 1)
    assert len(memory) == 3
    memory.note(an_id(4), Why.REFUSED, now_s=NOW_S + 1)
    assert len(memory) == 3
    assert [memory.why_not_pull(an_id(number), now_s=NOW_S + 1) for number in (1, 2, 3, 4)] == [
        Why.UNWANTED,
        None,
        Why.REFUSED,
        Why.REFUSED,
    ]


def test_it_is_kept_and_restored() -> None:
    memory = PeerMemory()
    for number, why in enumerate(Why):
        memory.note(an_id(number), why, now_s=NOW_S + number)
    again = PeerMemory()
    again.restore(memory.to_bytes(), now_s=NOW_S + 10)
    assert again.to_bytes() == memory.to_bytes()
    late = PeerMemory()
    late.restore(memory.to_bytes(), now_s=NOW_S + REMEMBERED_S + 2)
    assert len(late) == 2
    early = PeerMemory()  # a clock that was set back must not make it last for years
    early.restore(memory.to_bytes(), now_s=NOW_S - 1_000_000)
    assert len(early) == 0
    small = PeerMemory(max_ids=2)
    small.restore(memory.to_bytes(), now_s=NOW_S + 10)
    assert len(small) == 2


@pytest.mark.parametrize("data", [b"x", bytes(40), bytes(7) + b"\xff" * 34])
def test_something_else_is_not_restored(data: bytes) -> None:
    memory = PeerMemory()
    with pytest.raises(ValueError, match="remembered of a peer"):
        memory.restore(data, now_s=0)
    assert len(memory) == 0


def test_forgetting_is_no_error() -> None:
    memory = PeerMemory()
    memory.note(an_id(1), Why.REFUSED, now_s=NOW_S)
    memory.forget(an_id(1))
    memory.forget(an_id(1))
    assert len(memory) == 0
