"""Messages of a stranger: only the documented error, work and memory that follow the bytes, and frames that hold."""

import re
import tracemalloc
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.negentropy_items import FIRST_S, item_set, reconcile, rows_of
from tests.strategies import QUICK

from orly.negentropy import Initiator, ItemSet, NegentropyError, Responder, is_complete
from orly.negentropy.encoding import varint

ITEMS = item_set(rows_of(range(3000), per_second=40))
_RUN = reconcile(ITEMS, item_set(rows_of(range(500, 3500, 2), per_second=40)), max_answered_bytes=4096)
MESSAGES = [*_RUN.asked, *_RUN.answered]

MALFORMED = (
    ("", "the message is empty"),
    ("00", "the message begins with 0x00, which is no version of the protocol"),
    ("5f", "the message begins with 0x5f, which is no version of the protocol"),
    ("70", "the message begins with 0x70, which is no version of the protocol"),
    ("61 80", "the message ends inside the number at byte 1"),
    ("61 00", "the message ends inside the number at byte 2"),
    ("61 00 05 0102", "the message ends inside the id of the bound at byte 2"),
    ("61 00 21" + "00" * 33, "the bound has 33 bytes of an id at byte 2; an id has 32"),
    ("61 00 00", "the message ends inside the number at byte 3"),
    ("61 00 00 03", "the range before byte 4 has the unknown mode 3"),
    ("61 00 00 01" + "00" * 15, "the message ends inside the fingerprint at byte 4"),
    ("61 00 00 02", "the message ends inside the number at byte 4"),
    ("61 00 00 02 01" + "00" * 31, "the list at byte 4 announces 1 ids; the message ends before"),
    ("61 00 00 02 8280808080808000", "the list at byte 4 announces 1125899906842624"),  # 2^50
    ("61 82808080808080808000 00 00", "the number at byte 1 has more than 64 bits"),
    ("61 00 82808080808080808000", "the number at byte 2 has more than 64 bits"),
    ("61 05 02 ab02 00 01 02 ab01 00", "the bound at byte 6 lies below the one before"),
    ("61 05 01 ab 00 01 00 00", "the bound at byte 5 lies below the one before"),
    ("61 00 00 00 05", "the message ends inside the number at byte 5"),  # bytes behind the last range
)


def sides() -> list[Initiator | Responder]:
    """Both roles, with and without a limit."""
    return [role(ITEMS, max_frame_bytes=limit) for role in (Initiator, Responder) for limit in (0, 4096)]


def give(side: Initiator | Responder, message: bytes) -> bytes | None:
    """Let a side take a message; returns what it would send."""
    return side.reconcile(message).next if isinstance(side, Initiator) else side.answer(message)


@pytest.mark.parametrize(("message", "reason"), MALFORMED)
def test_what_is_wrong_is_said(message: str, reason: str) -> None:
    for side in sides():
        with pytest.raises(NegentropyError, match=re.escape(reason)):
            give(side, bytes.fromhex(message))
    with pytest.raises(NegentropyError, match=re.escape(reason)):
        is_complete(bytes.fromhex(message))


@pytest.mark.parametrize(
    "message",
    [
        "61 00 20" + "ff" * 32 + "00",  # infinity and an id
        "61 05 02 ab01 00 01 02 ab01 00",  # an empty range
        "61 00 00 00 00 00 01" + "00" * 16,  # as the reference ends a full frame whose last range was complete
        "61 81ffffffffffffffff7f 00 00 ff7f 00 00",  # times beyond 64 bits are infinity
        "61 8000 00 00",  # a number with a leading zero
    ],
)
def test_what_the_reference_takes_is_taken(message: str) -> None:
    for side in sides():
        give(side, bytes.fromhex(message))


@given(st.binary(max_size=300))
@settings(QUICK, max_examples=300)
def test_random_bytes_raise_only_the_one_error(body: bytes) -> None:
    for message in (body, b"\x61" + body):
        for side in sides():
            with suppress(NegentropyError):
                give(side, message)


@given(st.sampled_from(MESSAGES), st.data())
@settings(QUICK, max_examples=300)
def test_mutated_messages_raise_only_the_one_error(message: bytes, data: st.DataObject) -> None:
    mutated = bytearray(message)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(mutated) - 1))
        match data.draw(st.sampled_from(["change", "cut", "insert", "repeat"])):
            case "change":
                mutated[at] = data.draw(st.integers(0, 255))
            case "cut":
                del mutated[at : at + data.draw(st.integers(1, 40))]
            case "insert":
                mutated[at:at] = data.draw(st.binary(min_size=1, max_size=12))
            case _:
                mutated[at:at] = mutated[at : at + 100]
        if not mutated:
            break
    for side in sides():
        with suppress(NegentropyError):
            give(side, bytes(mutated))
    with suppress(NegentropyError):
        assert len(Responder(ITEMS, max_frame_bytes=4096).answer(bytes(mutated))) <= 4096


def test_an_answer_stops_at_the_frame_and_so_does_the_work() -> None:
    """Behind what filled the frame the message is not even read: what is malformed there is not noticed."""
    ranges = b"".join(varint(2) + b"\0\1" + bytes(16) for _ in range(1000))
    message = b"\x61" + varint(FIRST_S) + b"\0\0" + ranges
    answer = Responder(ITEMS, max_frame_bytes=4096).answer(message + b"\xff" * 20)
    assert 4096 - 200 - 32 * 40 < len(answer) <= 4096
    with pytest.raises(NegentropyError, match="more than 64 bits"):
        Responder(ITEMS).answer(message + b"\xff" * 20)


@pytest.mark.parametrize("mode", [b"\0", b"\1" + bytes(16), b"\2\0"])
def test_memory_follows_the_bytes_of_a_message_of_tiny_ranges(mode: bytes) -> None:
    few, many = (b"\x61" + varint(FIRST_S) + b"\0\0" + total * (b"\1\0" + mode) for total in (1000, 50_000))
    responder = Responder(ITEMS, max_frame_bytes=60_000)
    responder.answer(few)
    tracemalloc.start()
    try:
        answer = responder.answer(many)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(answer) <= 60_000
    assert peak_bytes < 4_000_000


def test_ids_nobody_has_are_reported_once_however_often_they_come() -> None:
    stranger = bytes(31) + b"\7"
    initiator = Initiator(ItemSet.from_rows(b""))
    step = initiator.reconcile(bytes.fromhex("610000020a") + 10 * stranger)
    assert step.need == [stranger]
    assert initiator.reconcile(bytes.fromhex("6100000201") + stranger).need == []
