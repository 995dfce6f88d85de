"""Reconciliation: exact for any two sets and any frame limits, in both roles, with nothing reported twice."""

from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from tests.negentropy_items import FIRST_S, fingerprint_of, ids_of, item_set, reconcile, row, row_lists, rows_of
from tests.strategies import QUICK

from orly.negentropy import PROTOCOL_VERSION, Initiator, ItemSet, NegentropyError, Responder, is_complete
from orly.negentropy.encoding import varint
from orly.negentropy.fingerprints import EMPTY

EMPTY_SET = ItemSet.from_rows(b"")
NOTHING_ASKED = bytes.fromhex("6100000200")
"""The first message of who has nothing: a list of no ids, up to infinity."""


def limits() -> SearchStrategy[int]:
    """Frame limits: none, the least, small ones, those of other implementations."""
    return st.one_of(st.sampled_from([0, 512, 4096, 60_000]), st.integers(512, 1600))


def check(ours: set[bytes], theirs: set[bytes], max_asked_bytes: int, max_answered_bytes: int) -> None:
    run = reconcile(
        item_set(ours), item_set(theirs), max_asked_bytes=max_asked_bytes, max_answered_bytes=max_answered_bytes
    )
    assert sorted(run.have) == sorted(ids_of(ours - theirs))
    assert sorted(run.need) == sorted(ids_of(theirs - ours))
    assert not max_asked_bytes or max(map(len, run.asked)) <= max_asked_bytes
    assert not max_answered_bytes or max(map(len, run.answered)) <= max_answered_bytes


@given(row_lists(), row_lists(), row_lists(), limits(), limits())
@QUICK
def test_any_two_small_sets(
    ours: list[bytes], theirs: list[bytes], both: list[bytes], max_asked_bytes: int, max_answered_bytes: int
) -> None:
    by_id = {one[8:]: one for one in both + ours + theirs}  # an id has one time
    rows = {by_id[one[8:]] for one in ours + both}, {by_id[one[8:]] for one in theirs + both}
    check(*rows, max_asked_bytes, max_answered_bytes)


@given(st.data(), limits(), limits(), st.sampled_from([1, 3, 100, 100_000]))
@settings(QUICK, max_examples=60)
def test_any_two_sets_with_stretches_of_each(
    data: st.DataObject, max_asked_bytes: int, max_answered_bytes: int, per_second: int
) -> None:
    sides: tuple[set[bytes], set[bytes]] = set(), set()
    for number in range(data.draw(st.integers(0, 6))):
        stretch = rows_of(range(number * 1000, number * 1000 + data.draw(st.integers(0, 500))), per_second)
        for side in sides:
            lacks_every = data.draw(st.sampled_from([0, 0, 1, 2, 3, 10, 97]))
            side.update(one for at, one in enumerate(stretch) if not lacks_every or at % lacks_every)
    check(*sides, max_asked_bytes, max_answered_bytes)


@given(st.integers(0, 2**32), st.integers(0, 3000), limits(), limits())
@settings(QUICK, max_examples=40)
def test_nothing_twice_while_the_other_set_changes(
    seed: int, total: int, max_asked_bytes: int, max_answered_bytes: int
) -> None:
    everything = rows_of(range(total), per_second=2)

    def chosen(side: object) -> list[bytes]:
        return [one for one in everything if sha256(one + repr((seed, side)).encode()).digest()[0] < 200]

    ours = chosen("ours")
    rounds = [item_set(chosen(number)) for number in range(4)]
    run = reconcile(
        item_set(ours),
        lambda number: rounds[min(number, len(rounds) - 1)],
        max_asked_bytes=max_asked_bytes,
        max_answered_bytes=max_answered_bytes,
    )
    assert len(run.have) == len(set(run.have))
    assert len(run.need) == len(set(run.need))
    assert set(run.have) <= ids_of(ours)
    assert not set(run.need) & ids_of(ours)
    assert set(run.need) <= ids_of(everything)


def test_what_was_reported_is_known_at_any_time() -> None:
    initiator = Initiator(item_set(rows_of(range(0, 900, 3))), max_frame_bytes=1024)
    responder = Responder(item_set(rows_of(range(0, 900, 2))), max_frame_bytes=1024)
    reported: list[bytes] = []
    assert initiator.reported() == set()
    message: bytes | None = initiator.initiate()
    while message is not None:
        step = initiator.reconcile(responder.answer(message))
        message = step.next
        reported += step.have + step.need
        assert initiator.reported() == set(reported)
    assert len(reported) == 150 + 300


def test_the_messages_of_small_sets() -> None:
    ours, theirs = rows_of([1, 2]), rows_of([2, 3])
    first = Initiator(item_set(ours)).initiate()
    assert first == bytes.fromhex("6100000202") + ours[0][8:] + ours[1][8:]
    answer = Responder(item_set(theirs)).answer(first)
    assert answer == bytes.fromhex("6100000202") + theirs[0][8:] + theirs[1][8:]
    assert Responder(EMPTY_SET).answer(first) == NOTHING_ASKED == Initiator(EMPTY_SET).initiate()


def test_a_range_of_31_is_a_list_and_one_of_32_is_divided() -> None:
    rows = rows_of(range(32))
    assert Initiator(item_set(rows[:31])).initiate()[:5] == bytes.fromhex("610000021f")
    expected = bytes((PROTOCOL_VERSION,))
    for bucket in range(16):
        last = bucket == 15
        distance = 0 if last else FIRST_S + 2 + 1 if bucket == 0 else 3
        expected += varint(distance) + b"\0\1" + fingerprint_of(rows[2 * bucket : 2 * bucket + 2])
    assert Initiator(item_set(rows)).initiate() == expected


def test_a_bound_between_items_of_one_second_is_as_much_of_the_id_as_it_takes() -> None:
    rows = [bytes(8) + bytes((7, 7, number)) + bytes(29) for number in range(32)]
    first = Initiator(item_set(rows)).initiate()
    assert first[:6] == bytes.fromhex("610103070702")  # time 0, three bytes of the id


def test_equal_sets_need_one_answer_of_one_byte() -> None:
    items = item_set(rows_of(range(5000)))
    run = reconcile(items, items)
    assert run.answered == [bytes((PROTOCOL_VERSION,))]
    assert is_complete(run.answered[0])


def test_another_version_is_answered_with_ours() -> None:
    assert Responder(EMPTY_SET).answer(b"\x62whatever") == bytes((PROTOCOL_VERSION,))
    assert Responder(EMPTY_SET).answer(b"\x60") == bytes((PROTOCOL_VERSION,))
    with pytest.raises(NegentropyError, match=r"wants version 2 of the protocol \(0x62\); only version 1 is"):
        Initiator(EMPTY_SET).reconcile(b"\x62")


@pytest.mark.parametrize("max_frame_bytes", [1, 511, -1])
def test_a_frame_limit_that_is_too_small_is_refused(max_frame_bytes: int) -> None:
    for side in (Initiator, Responder):
        with pytest.raises(
            ValueError, match=f"a frame limit of {max_frame_bytes} bytes is too small; the least is 512"
        ):
            side(EMPTY_SET, max_frame_bytes=max_frame_bytes)


def test_the_least_frame_limit_gets_on_with_the_longest_bounds() -> None:
    first, second = (
        {bytes(8) + bytes(30) + number.to_bytes(2, "big") for number in range(start, 700)} for start in (0, 300)
    )
    check(first, second, 512, 512)
    check(second, first, 512, 512)


def test_an_answer_of_skips_is_complete() -> None:
    assert is_complete(bytes.fromhex("61"))
    assert is_complete(bytes.fromhex("61 0500 00 0000 00"))
    assert not is_complete(bytes.fromhex("61 0500 00 0000 02 00"))
    assert not is_complete(NOTHING_ASKED)
    with pytest.raises(NegentropyError, match="of version 0x62"):
        is_complete(b"\x62")
    with pytest.raises(NegentropyError, match="the message is empty"):
        is_complete(b"")


def test_items_that_do_not_fit_are_not_hidden_by_the_fingerprint_of_the_rest() -> None:
    """The other side has nothing; by the reference's rule we would say that we have nothing above what fitted."""
    rows = rows_of(range(150))
    initiator = Initiator(item_set(rows), max_frame_bytes=4096)
    message = bytes((PROTOCOL_VERSION,)) + varint(FIRST_S + 31) + b"\0\1" + EMPTY
    message += 3 * (varint(31) + b"\0\1" + EMPTY) + b"\0\0\1" + EMPTY
    asked = initiator.reconcile(message).next
    assert asked is not None
    assert asked.count(rows[119][8:]) == 1, "four lists of 30 fit"
    assert rows[120][8:] not in asked
    assert asked.endswith(b"\0\0\1" + fingerprint_of(rows[120:]))
    have: list[bytes] = []
    while asked is not None:
        step = initiator.reconcile(Responder(EMPTY_SET).answer(asked))
        have += step.have
        asked = step.next
    assert sorted(have) == sorted(ids_of(rows))


def test_the_fingerprint_of_the_rest_is_the_references_where_that_is_safe() -> None:
    """The other side has shown items in the range that did not fit, so the claim cannot be true for it."""
    rows = rows_of(range(150))
    message = bytes((PROTOCOL_VERSION,)) + varint(FIRST_S + 31) + b"\0\1" + EMPTY
    message += 3 * (varint(31) + b"\0\1" + EMPTY) + varint(11) + b"\0\1" + bytes(16) + b"\0\0\1" + EMPTY
    step = Initiator(item_set(rows), max_frame_bytes=4096).reconcile(message)
    assert step.next is not None
    assert step.next.endswith(b"\0\0\1" + fingerprint_of(rows[130:]))


def test_a_list_is_cut_where_the_frame_is_full() -> None:
    rows = rows_of(range(200))
    answer = Responder(item_set(rows), max_frame_bytes=4096).answer(NOTHING_ASKED)
    fitting = (4096 - 200 - 1) // 32 + 1
    bound = varint(FIRST_S + fitting + 1) + b"\x20" + rows[fitting][8:]
    ids = b"".join(one[8:] for one in rows[:fitting])
    rest = b"\0\0\1" + fingerprint_of(rows[fitting:])
    assert answer == bytes((PROTOCOL_VERSION,)) + bound + b"\2" + varint(fitting) + ids + rest


def test_a_window_is_reconciled_like_a_set() -> None:
    """A session on a window of a set sees nothing outside of it."""
    items = item_set(rows_of(range(1000)))
    window = items.between(FIRST_S + 100, FIRST_S + 899)
    run = reconcile(EMPTY_SET, window, max_answered_bytes=2048)
    assert sorted(run.need) == sorted(ids_of(rows_of(range(100, 900))))
    assert reconcile(window, item_set(rows_of(range(100, 900)))).answered == [bytes((PROTOCOL_VERSION,))]
    assert row(99)[8:] not in run.need
