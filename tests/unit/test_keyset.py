"""The compact set of keys against Python's own."""

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.strategies import QUICK

from orly.access.keyset import KEY_BYTES, MAX_ANSWERS, KeySet

ALIKE = st.integers(0, 40).map(lambda n: n.to_bytes(KEY_BYTES, "big"))
"""Keys that differ in their last byte only."""
SPREAD = st.integers(0, 40).map(lambda n: n.to_bytes(1, "big") * KEY_BYTES)
KEYS = st.one_of(ALIKE, SPREAD)
CHANGES = st.lists(st.tuples(st.booleans(), KEYS), max_size=60)


@QUICK
@given(st.sets(KEYS), CHANGES, st.booleans())
def test_it_is_a_set(members: set[bytes], changes: list[tuple[bool, bytes]], keeps_answers: bool) -> None:
    keys = KeySet.of(members)
    if keeps_answers:
        keys.keep_answers()
    model = set(members)
    asked = {key for _, key in changes}
    for is_added, key in changes:
        if is_added:
            keys.add(key)
            model.add(key)
        else:
            keys.discard(key)
            model.discard(key)
        assert {key for key in asked if key in keys} == asked & model
        assert len(keys) == len(model)
    assert list(keys) == sorted(model)
    for key in asked | members:
        assert (key in keys) is (key in model)
    assert keys == KeySet(b"".join(sorted(model)))
    model.add(b"\xee" * KEY_BYTES)
    assert keys != KeySet.of(model)


def test_answers_that_are_kept_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    members = [n.to_bytes(KEY_BYTES, "big") for n in range(MAX_ANSWERS // 2)]
    strangers = [b"\xff" + n.to_bytes(KEY_BYTES - 1, "big") for n in range(MAX_ANSWERS // 2)]
    looked_up: list[bytes] = []
    look_up = KeySet._is_in_rows

    def counted(keys: KeySet, key: bytes) -> bool:
        looked_up.append(key)
        return look_up(keys, key)

    monkeypatch.setattr(KeySet, "_is_in_rows", counted)
    keys = KeySet.of(members)
    keys.keep_answers()
    for _ in range(2):
        assert all(key in keys for key in members)
        assert not any(key in keys for key in strangers)
    assert looked_up == members + strangers, "each is looked up once while there is room"
    tracemalloc.start()
    try:
        assert not any(b"\xee" + n.to_bytes(KEY_BYTES - 1, "big") in keys for n in range(5 * MAX_ANSWERS))
        looked_up.clear()
        kept_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept_bytes < 2_000_000


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
