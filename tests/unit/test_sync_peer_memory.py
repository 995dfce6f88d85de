"""What is remembered of a peer: bounded, for a day, kept as bytes."""

from random import Random
from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orly.sync.negentropy.peer_memory import MAX_REMEMBERED_IDS, REMEMBERED_S, PeerMemory, Why

NOW_S = 1_700_000_000
PULLED = (Why.UNAVAILABLE, Why.REFUSED, Why.UNWANTED)
PUSHED = (Why.REJECTED, Why.UNNEEDED)


def an_id(number: int) -> bytes:
    return number.to_bytes(8) + bytes(24)


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


@pytest.mark.parametrize(("until_s", "kept_s"), [(5, 5), (0, 0), (-5, 0), (REMEMBERED_S + 5, REMEMBERED_S)])
def test_some_are_remembered_for_less_than_a_day(until_s: int, kept_s: int) -> None:
    memory = PeerMemory()
    memory.note(an_id(1), Why.REFUSED, now_s=NOW_S, until_s=NOW_S + until_s)
    found = [memory.why_not_pull(an_id(1), now_s=NOW_S + after_s) for after_s in (max(kept_s - 1, 0), kept_s)]
    assert found == [Why.REFUSED if kept_s else None, None]


def test_another_is_taken_in() -> None:
    memory, other = PeerMemory(max_ids=3), PeerMemory()
    for number in (1, 2):
        memory.note(an_id(number), Why.REFUSED, now_s=NOW_S)
    for number in (2, 3, 4):
        other.note(an_id(number), Why.REJECTED, now_s=NOW_S + 5)
    memory.take_in(other)
    assert len(memory) == 3
    assert [memory.why_not_pull(an_id(number), now_s=NOW_S) for number in (1, 2, 3)] == [Why.REFUSED, None, None]
    assert [memory.why_not_push(an_id(number), now_s=NOW_S) for number in (1, 2, 3, 4)] == [
        None,
        Why.REJECTED,
        Why.REJECTED,
        None,
    ]
    assert memory.why_not_push(an_id(2), now_s=NOW_S + REMEMBERED_S + 4) is Why.REJECTED
    memory.take_in(PeerMemory())
    assert len(memory) == 3


def test_what_is_remembered_stays_when_there_is_no_room_for_more() -> None:
    memory = PeerMemory(max_ids=3)
    for number in (1, 2, 3):
        memory.note(an_id(number), Why.REFUSED, now_s=NOW_S)
    memory.note(an_id(1), Why.UNWANTED, now_s=NOW_S + 1)
    memory.note(an_id(4), Why.REFUSED, now_s=NOW_S + 1)
    memory.note_all([an_id(5), an_id(3)], Why.UNAVAILABLE, now_s=NOW_S + 1)
    assert len(memory) == 3
    kept = [Why.UNWANTED, Why.REFUSED, Why.UNAVAILABLE, None, None]
    assert [memory.why_not_pull(an_id(number), now_s=NOW_S + 1) for number in range(1, 6)] == kept


@pytest.mark.parametrize("at_once", [False, True])
def test_what_is_out_of_date_makes_room(at_once: bool) -> None:
    memory = PeerMemory(max_ids=3)
    for number in (1, 2, 3):
        memory.note(an_id(number), Why.REFUSED, now_s=NOW_S + number)
    if at_once:
        memory.note_all([an_id(4), an_id(5)], Why.REFUSED, now_s=NOW_S + 2 + REMEMBERED_S)
    else:
        for number in (4, 5):
            memory.note(an_id(number), Why.REFUSED, now_s=NOW_S + 2 + REMEMBERED_S)
    assert len(memory) == 3
    found = [memory.why_not_pull(an_id(number), now_s=NOW_S + 2 + REMEMBERED_S) for number in range(1, 6)]
    assert found == [None, None, Why.REFUSED, Why.REFUSED, Why.REFUSED]


def test_going_through_more_than_fit_again_and_again_finds_all_that_fit() -> None:
    memory = PeerMemory(max_ids=40_000)
    for n_found in (0, 40_000, 40_000):
        unknown = [number for number in range(50_000) if memory.why_not_push(an_id(number), now_s=NOW_S) is None]
        assert len(unknown) == 50_000 - n_found
        for number in unknown:
            memory.note(an_id(number), Why.REJECTED, now_s=NOW_S)
    assert len(memory) == 40_000


def test_a_million_fit_and_take_16_bytes_each() -> None:
    memory, again = PeerMemory(), PeerMemory()
    memory.note_all([an_id(number) for number in range(MAX_REMEMBERED_IDS + 5)], Why.REJECTED, now_s=NOW_S)
    assert len(memory) == MAX_REMEMBERED_IDS == 1_000_000
    data = memory.to_bytes(now_s=NOW_S)
    assert len(data) == 8 + 16 * MAX_REMEMBERED_IDS
    again.restore(data, now_s=NOW_S)
    assert len(again) == MAX_REMEMBERED_IDS


STEPS = st.lists(
    st.tuples(st.sampled_from(("note", "note_all", "take_in", "keep", "look")), st.sets(st.integers(0, 12))),
    max_size=40,
)


@given(STEPS, st.randoms(use_true_random=False))
def test_it_says_what_a_simpler_one_would(steps: list[tuple[str, set[int]]], random: Random) -> None:
    memory, simple, now_s = PeerMemory(remembered_s=10), dict[int, tuple[int, Why]](), NOW_S
    for step, numbers in steps:
        why = random.choice(list(Why))
        ids = [an_id(number) for number in numbers]
        match step:
            case "note":
                for event_id in ids:
                    memory.note(event_id, why, now_s=now_s)
            case "note_all":
                memory.note_all(ids, why, now_s=now_s)
            case "take_in":
                other = PeerMemory(remembered_s=10)
                other.note_all(ids, why, now_s=now_s)
                memory.take_in(other)
            case "keep":
                data, memory = memory.to_bytes(now_s=now_s), PeerMemory(remembered_s=10)
                memory.restore(data, now_s=now_s)
        if step in ("note", "note_all", "take_in"):
            simple.update((number, (now_s + 10, why)) for number in numbers)
        now_s += random.randrange(4)
        for number in range(13):
            until_s, noted = simple.get(number, (0, Why.REFUSED))
            expected = noted if now_s < until_s else None
            found = (memory.why_not_pull(an_id(number), now_s=now_s), memory.why_not_push(an_id(number), now_s=now_s))
            assert found == ((expected, None) if expected in PULLED else (None, expected))


def remembering() -> PeerMemory:
    memory = PeerMemory()
    for number, why in enumerate(Why):
        memory.note(an_id(number), why, now_s=NOW_S + number)
    return memory


def test_it_is_kept_and_restored() -> None:
    data = remembering().to_bytes(now_s=NOW_S + 10)
    again = PeerMemory()
    again.restore(data, now_s=NOW_S + 10)
    assert again.to_bytes(now_s=NOW_S + 10) == data
    late = PeerMemory()
    late.restore(data, now_s=NOW_S + REMEMBERED_S + 2)
    assert len(late) == 2
    early = PeerMemory()  # a clock that was set back must not make it last for years
    early.restore(data, now_s=NOW_S - 1_000_000)
    assert len(early) == 0
    small = PeerMemory(max_ids=2)
    small.restore(data, now_s=NOW_S + 10)
    assert len(small) == 2
    assert remembering().to_bytes(now_s=NOW_S + REMEMBERED_S + 10) == b""


def test_what_an_earlier_version_kept_is_restored_with_its_times() -> None:
    ids = [bytes((9 - number,)) * 32 for number in range(5)]
    data = b"".join(
        pack(">QB32s", NOW_S + 10 * number, why.value, event_id)
        for number, (why, event_id) in enumerate(zip(Why, ids, strict=True))
    )
    memory = PeerMemory()
    memory.restore(data, now_s=NOW_S)
    for number, (why, event_id) in enumerate(zip(Why, ids, strict=True)):
        ask = memory.why_not_pull if why in PULLED else memory.why_not_push
        assert ask(event_id, now_s=NOW_S + 10 * number) is None
        if number:
            assert ask(event_id, now_s=NOW_S + 10 * number - 1) is why


GOOD = remembering().to_bytes(now_s=NOW_S)


@pytest.mark.parametrize(
    "data",
    [
        b"x",
        bytes(40),
        bytes(7) + b"\xff" * 34,
        b"\xff" * 8 + b"\x01" + bytes(32),
        GOOD[:-1],
        GOOD[:8] + bytes(80) + GOOD[88:],  # ids that are not ascending
        GOOD[:88] + bytes(80),  # reasons that do not exist
    ],
)
def test_something_else_is_not_restored(data: bytes) -> None:
    memory = PeerMemory()
    with pytest.raises(ValueError, match="remembered of a peer"):
        memory.restore(data, now_s=NOW_S)
    assert len(memory) == 0


def test_each_change_makes_another_version() -> None:
    memory = PeerMemory()
    versions = [memory.version]
    memory.note(an_id(1), Why.REFUSED, now_s=NOW_S)
    versions.append(memory.version)
    memory.note_all([an_id(1)], Why.REFUSED, now_s=NOW_S)
    versions.append(memory.version)
    memory.take_in(remembering())
    versions.append(memory.version)
    assert versions == sorted(set(versions))
    memory.note_all([], Why.REFUSED, now_s=NOW_S)
    memory.take_in(PeerMemory())
    memory.why_not_pull(an_id(1), now_s=NOW_S)
    assert memory.version == versions[-1]
