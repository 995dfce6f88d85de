"""Blocks of keys: merged and turned into item rows, they are what sorting the items as a whole gives."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.strategies import QUICK

from orly.nostr.event import MAX_CREATED_AT
from orly.store.lmdb import keys
from orly.store.lmdb.item_blocks import NO_KEYS, Block, ItemGatherer, block_of, merged, rows_of_positions

Item = tuple[int, bytes]

ids = st.one_of(
    st.binary(min_size=32, max_size=32),
    st.builds(
        lambda first, last: bytes([first]) + b"\xff" * 30 + bytes([last]), st.integers(0, 2), st.integers(0, 255)
    ),
)
"""Random ones, and some whose keys end in zeros or share all but their ends."""

seconds = st.one_of(st.integers(0, 3), st.integers(0, MAX_CREATED_AT))
items = st.frozensets(st.tuples(seconds, ids), max_size=40)


def blocks(found: frozenset[Item], sizes: list[int]) -> list[Block]:
    """The keys of items in ascending order, cut into blocks of these sizes, the last taking the rest; 0 is empty."""
    ordered = sorted(keys.time_key(*item) for item in found)
    cut = []
    for size in sizes:
        cut.append(block_of(ordered[:size]))
        ordered = ordered[size:]
    return [*cut, block_of(ordered)]


def packed(found: frozenset[Item]) -> bytes:
    return b"".join(created_at.to_bytes(8, "big") + event_id for created_at, event_id in sorted(found))


def gathered(found: list[Block]) -> tuple[int, bytes]:
    gatherer = ItemGatherer()
    for block in found:
        gatherer.add(block)
    return gatherer.count, gatherer.rows()


sizes = st.lists(st.integers(0, 9), max_size=6)


@QUICK
@given(items, sizes)
def test_any_cutting_gives_the_same_rows(found: frozenset[Item], cuts: list[int]) -> None:
    assert gathered(blocks(found, cuts)) == (len(found), packed(found))


@QUICK
@given(st.lists(st.tuples(items, sizes), max_size=5))
def test_merged_sources_are_their_union(sources: list[tuple[frozenset[Item], list[int]]]) -> None:
    found = list(merged([iter(blocks(*source)) for source in sources]))
    union = frozenset[Item]().union(*(source for source, _ in sources))
    assert gathered(found) == (len(union), packed(union))


def test_a_second_that_goes_on_through_many_blocks() -> None:
    found = frozenset((7, n.to_bytes(32, "big")) for n in range(100)) | {(6, bytes(32)), (8, bytes(32))}
    assert gathered(blocks(found, [1] * 50 + [3] * 10)) == (102, packed(found))


def test_nothing_at_all() -> None:
    assert gathered([]) == (0, b"")
    assert gathered([NO_KEYS, NO_KEYS]) == (0, b"")
    assert list(merged([])) == []


@pytest.mark.parametrize("kind", [0, 1, 255, 256, 65_535])
def test_positions_become_rows_of_the_time_index(kind: int) -> None:
    events = [(2, b"\x01" * 32, 5), (2, b"\x02" * 32, 2**63), (1, b"\xff" * 32, 1), (MAX_CREATED_AT, bytes(32), 7)]
    rows = rows_of_positions(
        (event_id, keys.position(created_at, event_id, kind, serial)) for created_at, event_id, serial in events
    )
    ordered = sorted(
        (keys.time_key(created_at, event_id), created_at, serial) for created_at, event_id, serial in events
    )
    assert rows["key"].tobytes() == b"".join(key for key, _, _ in ordered)
    assert rows["created_at"].tolist() == [created_at for _, created_at, _ in ordered]
    assert rows["serial"].tolist() == [serial for _, _, serial in ordered]
    assert np.unique(rows["kind"]).tolist() == [kind]
