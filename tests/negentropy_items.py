"""Items for tests of reconciliation: rows that are made from numbers, and runs between two sides in one process."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from orly.negentropy import ITEM_BYTES, Initiator, ItemSet, Responder

__all__ = [
    "FIRST_S",
    "Run",
    "fingerprint_of",
    "ids_of",
    "item_set",
    "packed",
    "reconcile",
    "row",
    "row_lists",
    "rows_of",
]

FIRST_S: Final = 1_700_000_000
_MAX_ROUNDS: Final = 5000


def row(number: int, per_second: int = 1, first_s: int = FIRST_S) -> bytes:
    """The row of an item; ascending in `number` as far as seconds go, and no further."""
    return (first_s + number // per_second).to_bytes(8, "big") + sha256(number.to_bytes(8, "big")).digest()


def rows_of(numbers: Iterable[int], per_second: int = 1) -> list[bytes]:
    """Rows by number."""
    return [row(number, per_second) for number in numbers]


def item_set(rows: Iterable[bytes]) -> ItemSet:
    """A set of rows in any order."""
    return ItemSet.from_rows(b"".join(rows))


def ids_of(rows: Iterable[bytes]) -> set[bytes]:
    """The ids of rows."""
    return {one[8:] for one in rows}


def fingerprint_of(rows: Iterable[bytes]) -> bytes:
    """The fingerprint of fewer than 128 rows, as the protocol defines it and as slow as that is."""
    ids = [int.from_bytes(one[8:], "little") for one in rows]
    return sha256((sum(ids) % 2**256).to_bytes(32, "little") + bytes((len(ids),))).digest()[:16]


def row_lists(max_size: int = 60) -> SearchStrategy[list[bytes]]:
    """Rows that are close to each other in time and in id, so that every kind of bound is needed."""
    ids = st.one_of(
        st.binary(min_size=32, max_size=32),
        st.integers(0, 300).map(lambda number: bytes(28) + number.to_bytes(4, "big")),
        st.integers(0, 255).map(lambda number: bytes((number,)) * 32),
    )
    times = st.one_of(st.integers(0, 3), st.integers(0, 2**64 - 2), st.just(FIRST_S))
    one = st.builds(lambda time_s, event_id: time_s.to_bytes(8, "big") + event_id, times, ids)
    return st.lists(one, max_size=max_size)


@dataclass(slots=True)
class Run:
    """What a reconciliation came to.

    Attributes:
        have: What the initiator said that only it has, in order.
        need: What it said that only the other side has.
        asked: Its messages.
        answered: The answers.
    """

    have: list[bytes] = field(default_factory=list)
    need: list[bytes] = field(default_factory=list)
    asked: list[bytes] = field(default_factory=list)
    answered: list[bytes] = field(default_factory=list)


def reconcile(
    ours: ItemSet,
    theirs: ItemSet | Callable[[int], ItemSet],
    *,
    max_asked_bytes: int = 0,
    max_answered_bytes: int = 0,
) -> Run:
    """Reconcile two sets; `theirs` may also give the set of each round."""
    run = Run()
    initiator = Initiator(ours, max_frame_bytes=max_asked_bytes)
    message: bytes | None = initiator.initiate()
    while message is not None:
        assert len(run.asked) < _MAX_ROUNDS, "the reconciliation does not end"
        present = theirs if isinstance(theirs, ItemSet) else theirs(len(run.asked))
        run.asked.append(message)
        run.answered.append(Responder(present, max_frame_bytes=max_answered_bytes).answer(message))
        step = initiator.reconcile(run.answered[-1])
        run.have += step.have
        run.need += step.need
        message = step.next
    return run


def packed(rows: Iterable[bytes]) -> bytes:
    """Rows as a set gives them out: sorted, each once."""
    found = b"".join(sorted(set(rows)))
    assert len(found) % ITEM_BYTES == 0
    return found
