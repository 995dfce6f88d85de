"""Index keys: golden bytes for each, and that they sort as the values do."""

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.factory import KEYS, fake_event
from tests.strategies import QUICK, events, texts

from orly.nostr.event import MAX_CREATED_AT, EncodedEvent, Event
from orly.nostr.kinds import MAX_KIND
from orly.store.lmdb import keys

PUBKEY = bytes.fromhex("79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798")
EVENT_ID = bytes.fromhex("00ff" + "01" * 29 + "fe")
TARGET = "c0ffee" + "00" * 28 + "aa"

ids = st.binary(min_size=32, max_size=32)
times = st.integers(0, MAX_CREATED_AT)
serials = st.integers(1, 2**63)


def golden_event() -> EncodedEvent:
    """Fixed fields; the id is not the hash of them, which no key depends on."""
    tags = [
        ["d", "x"], ["e", TARGET, "wss://relay.example.com"], ["t", "nostr"], ["t", "nostr", "again"], ["T", "nostr"],
        ["bare"], ["p"], ["long", "x"], ["1", "x"], ["expiration", "1700000060"],
    ]  # fmt: skip
    event = Event(EVENT_ID.hex(), PUBKEY.hex(), 1_700_000_000, 30_023, tags, "", "00" * 64)
    return EncodedEvent(event, b"", EVENT_ID, PUBKEY, bytes(64))


def test_golden_rows_of_every_index() -> None:
    rows = keys.index_rows(golden_event(), 0x0102030405060708)
    ending = "000000006553f100ff00fefefefefefe75470102030405060708"
    assert rows.serial.hex() == "0102030405060708"
    assert rows.time.hex() == "000000006553f100ff00" + "fe" * 29 + "01"
    assert rows.time_value.hex() == "75470102030405060708"
    assert rows.author.hex() == PUBKEY.hex() + ending
    assert rows.author_kind.hex() == PUBKEY.hex() + "7547" + ending
    assert rows.kind.hex() == "7547" + ending
    assert rows.expiration is not None
    assert rows.expiration.hex() == "000000006553f13c0102030405060708"
    assert sorted(tag.hex() for tag in rows.tags) == sorted(
        [
            "6401" + sha256(b"x").hexdigest() + ending,
            "6500" + TARGET + ending,
            "7401" + sha256(b"nostr").hexdigest() + ending,
            "5401" + sha256(b"nostr").hexdigest() + ending,
        ]
    )


def test_golden_bytes_of_the_other_keys() -> None:
    x = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert keys.address_key(30_023, PUBKEY, "x").hex() == "7547" + PUBKEY.hex() + x
    assert keys.address_key(0, PUBKEY, "").hex() == "0000" + PUBKEY.hex() + empty
    assert keys.address_of(golden_event()) == keys.address_key(30_023, PUBKEY, "x")
    assert keys.tag_prefix("t", "x").hex() == "7401" + x
    assert keys.tag_prefix("p", TARGET).hex() == "7000" + TARGET
    assert keys.author_kind_prefix(PUBKEY, 1).hex() == PUBKEY.hex() + "0001"
    assert keys.kind_bytes(65_535).hex() == "ffff"
    assert keys.time_bytes(MAX_CREATED_AT + 1).hex() == "8000000000000000"
    assert keys.serial_bytes(258).hex() == "0000000000000102"
    assert keys.time_key(1, EVENT_ID).hex() == "0000000000000001ff00" + "fe" * 29 + "01"
    assert keys.expiration_key(1, 2).hex() == "00000000000000010000000000000002"
    assert keys.invert(b"\x00\x0f\xff").hex() == "fff000"
    assert keys.position(1, EVENT_ID, 2, 3).hex() == "0000000000000001ff00fefefefefefe00020000000000000003"


def test_kinds_of_which_all_are_kept_have_no_address() -> None:
    assert keys.address_of(fake_event(kind=1)) is None
    assert keys.address_of(fake_event(kind=20_000)) is None
    assert keys.address_of(fake_event(kind=3, tags=[["d", "x"]])) == keys.address_key(3, bytes.fromhex(KEYS[0]), "")


@pytest.mark.parametrize(
    "value", ["AB" * 32, "0" * 63, "0" * 65, "g" * 64, " " * 64, "é" * 64, "0" * 62 + " 0", "１" * 64]
)
def test_only_canonical_hex_is_packed(value: str) -> None:
    assert keys.tag_prefix("e", value) == b"e\x01" + sha256(value.encode()).digest()


def test_a_text_is_not_mistaken_for_the_hash_of_another() -> None:
    assert keys.tag_prefix("t", sha256(b"x").hexdigest()) != keys.tag_prefix("t", "x")


@QUICK
@given(st.tuples(times, ids, serials), st.tuples(times, ids, serials), st.integers(0, MAX_KIND))
def test_positions_sort_by_time_then_by_descending_id(
    one: tuple[int, bytes, int], other: tuple[int, bytes, int], kind: int
) -> None:
    def order(event: tuple[int, bytes, int]) -> tuple[int, bytes, int]:
        return event[0], keys.invert(event[1][:8]), event[2]

    packed = [keys.position(created_at, event_id, kind, serial) for created_at, event_id, serial in (one, other)]
    assert (packed[0] < packed[1]) == (order(one) < order(other))
    assert all(len(position) == keys.POSITION_BYTES for position in packed)
    if one[0] == other[0] and one[1][:8] != other[1][:8]:
        assert (packed[0] > packed[1]) == (one[1] < other[1])


@QUICK
@given(times, times, ids, ids)
def test_time_keys_sort_by_time_then_by_descending_id(t1: int, t2: int, id1: bytes, id2: bytes) -> None:
    newer_or_lower = (t1, [-byte for byte in id1]) > (t2, [-byte for byte in id2])
    assert (keys.time_key(t1, id1) > keys.time_key(t2, id2)) == newer_or_lower


@QUICK
@given(st.tuples(times, serials), st.tuples(times, serials))
def test_expirations_sort_by_second_then_serial(one: tuple[int, int], other: tuple[int, int]) -> None:
    assert (keys.expiration_key(*one) < keys.expiration_key(*other)) == (one < other)


@QUICK
@given(st.integers(0, MAX_KIND), st.integers(0, MAX_KIND), times, times)
def test_kinds_sort_as_numbers(kind1: int, kind2: int, t1: int, t2: int) -> None:
    one, other = (keys.kind_bytes(kind) + keys.time_bytes(t) for kind, t in ((kind1, t1), (kind2, t2)))
    assert (one < other) == ((kind1, t1) < (kind2, t2))


@QUICK
@given(st.binary(max_size=40))
def test_inverting_twice_changes_nothing(data: bytes) -> None:
    assert keys.invert(keys.invert(data)) == data


@QUICK
@given(texts(70), texts(70))
def test_tag_values_have_one_prefix_each(one: str, other: str) -> None:
    prefixes = keys.tag_prefix("t", one), keys.tag_prefix("t", other)
    assert (prefixes[0] == prefixes[1]) == (one == other)
    assert {len(prefix) for prefix in prefixes} == {34}


@QUICK
@given(events(), serials)
def test_rows_carry_kind_and_serial_where_readers_look(event: EncodedEvent, serial: int) -> None:
    rows = keys.index_rows(event, serial)
    position = keys.position(event.event.created_at, event.id, event.event.kind, serial)
    assert position[keys.KIND_SLICE] == keys.kind_bytes(event.event.kind)
    assert position[keys.SERIAL_SLICE] == rows.serial == keys.serial_bytes(serial)
    assert rows.time[:16] + rows.time_value == position
    for key in (rows.author, rows.author_kind, rows.kind, *rows.tags):
        assert key.endswith(position)
        assert len(key) <= 511, "longer than LMDB allows"
    assert len(set(rows.tags)) == len(rows.tags)
