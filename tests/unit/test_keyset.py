"""The compact set of keys against Python's own."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.strategies import QUICK

from orly.access.keyset import KEY_BYTES, KeySet

ALIKE = st.integers(0, 40).map(lambda n: n.to_bytes(KEY_BYTES, "big"))
"""Keys that differ in their last byte only."""
SPREAD = st.integers(0, 40).map(lambda n: n.to_bytes(1, "big") * KEY_BYTES)
KEYS = st.one_of(ALIKE, SPREAD)
CHANGES = st.lists(st.tuples(st.booleans(), KEYS), max_size=60)


@QUICK
@given(st.sets(KEYS), CHANGES)
def test_it_is_a_set(members: set[bytes], changes: list[tuple[bool, bytes]]) -> None:
    keys = KeySet.of(members)
    model = set(members)
    for is_added, key in changes:
        if is_added:
            keys.add(key)
            model.add(key)
        else:
            keys.discard(key)
            model.discard(key)
        assert (key in keys) is is_added
        assert len(keys) == len(model)
    assert list(keys) == sorted(model)
    for key in {key for _, key in changes} | members:
        assert (key in keys) is (key in model)
    assert keys == KeySet(b"".join(sorted(model)))
    model.add(b"\xee" * KEY_BYTES)
    assert keys != KeySet.of(model)


def test_an_empty_set() -> None:
    keys = KeySet()
    assert len(keys) == 0
    assert list(keys) == []
    assert bytes(KEY_BYTES) not in keys
    assert keys != 0


@pytest.mark.parametrize("n_bytes", [0, 31, 33, 64])
def test_what_is_no_key_is_not_taken(n_bytes: int) -> None:
    keys = KeySet.of([b"\x01" * KEY_BYTES])
    with pytest.raises(ValueError, match=f"a key has 32 bytes, not {n_bytes}"):
        keys.add(b"\x01" * n_bytes)
    assert b"\x01" * n_bytes not in keys
    keys.discard(b"\x01" * n_bytes)
    assert len(keys) == 1


@pytest.mark.parametrize(
    "rows",
    [
        b"\x01" * 32 + b"\x01" * 32,
        b"\x02" * 32 + b"\x01" * 32,
        b"\x01" * 32 + b"\x02" * 31 + b"\x02" + b"\x02" * 31 + b"\x01",
    ],
    ids=["twice", "descending", "descending in the last byte"],
)
def test_disorder_is_refused(rows: bytes) -> None:
    with pytest.raises(ValueError, match="not in ascending order"):
        KeySet(rows)


def test_half_a_key_is_refused() -> None:
    with pytest.raises(ValueError, match="33 bytes are no whole number of keys"):
        KeySet(bytes(33))
