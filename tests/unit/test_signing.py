"""BIP-340: the official vectors, and signing and verifying events."""

import csv
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.factory import KEYS, NOW_S, SECRETS, event_json, fake_event, make_event
from tests.strategies import QUICK, signed_events

from orly.nostr.event import EncodedEvent, decode_event
from orly.nostr.signing import public_key, sign_event, verify, verify_event, verify_events

with (Path(__file__).parents[1] / "vectors" / "bip340.csv").open(newline="") as _file:
    _VECTORS: Final = list(csv.DictReader(_file))
_CASES: Final = pytest.mark.parametrize("case", _VECTORS, ids=lambda case: case["index"])

_ORDER: Final = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


def test_all_official_vectors_are_here() -> None:
    assert [int(case["index"]) for case in _VECTORS] == list(range(19))
    assert {case["verification result"] for case in _VECTORS} == {"TRUE", "FALSE"}
    assert sorted({len(case["message"]) // 2 for case in _VECTORS}) == [0, 1, 17, 32, 100]


@_CASES
def test_verification_agrees_with_the_official_vectors(case: dict[str, str]) -> None:
    """Messages of other lengths than 32 bytes are no event ids: their valid signatures are refused on purpose."""
    pubkey, message, sig = (bytes.fromhex(case[name]) for name in ("public key", "message", "signature"))
    expected = case["verification result"] == "TRUE" and len(message) == 32
    assert verify(pubkey, message, sig) is expected
    assert verify(pubkey, message, sig) is expected


@_CASES
def test_public_keys_agree_with_the_official_vectors(case: dict[str, str]) -> None:
    if case["secret key"]:
        assert public_key(bytes.fromhex(case["secret key"])) == case["public key"].lower()
    else:
        assert int(case["index"]) in range(4, 15)


@pytest.mark.parametrize(
    ("pubkey_bytes", "message_bytes", "sig_bytes"),
    [(32, 32, 64), (31, 32, 64), (33, 32, 64), (0, 32, 64), (32, 31, 64), (32, 33, 64), (32, 0, 64), (32, 32, 63),
     (32, 32, 65), (32, 32, 0)],
)  # fmt: skip
def test_only_the_right_lengths_can_verify(pubkey_bytes: int, message_bytes: int, sig_bytes: int) -> None:
    event = make_event()
    pubkey, message, sig = (value.ljust(100, b"\0") for value in (event.pubkey, event.id, event.sig))
    right = (pubkey_bytes, message_bytes, sig_bytes) == (32, 32, 64)
    assert verify(pubkey[:pubkey_bytes], message[:message_bytes], sig[:sig_bytes]) is right


def test_a_signed_event_is_well_formed_and_verifies() -> None:
    event = sign_event(SECRETS[0], created_at=NOW_S, kind=1, tags=[["t", "x"]], content="é\n\x7f")
    assert decode_event(event.raw) == event
    assert event.event.pubkey == KEYS[0]
    assert verify_event(event)
    assert verify(event.pubkey, event.id, event.sig)


def test_signing_is_deterministic_unless_other_randomness_is_given() -> None:
    def sign(aux_randomness: bytes) -> EncodedEvent:
        return sign_event(SECRETS[0], created_at=NOW_S, kind=1, aux_randomness=aux_randomness)

    plain, other = sign(bytes(32)), sign(b"\1" * 32)
    assert plain == sign(bytes(32)) == sign_event(SECRETS[0], created_at=NOW_S, kind=1)
    assert other.id == plain.id
    assert other.sig != plain.sig
    assert verify_event(other)


@pytest.mark.parametrize("secret", [b"", bytes(32), _ORDER.to_bytes(32, "big"), b"\xff" * 32, b"\1" * 33])
def test_a_number_outside_the_group_is_no_secret(secret: bytes) -> None:
    with pytest.raises(ValueError, match=r"(?i)secret"):
        public_key(secret)
    with pytest.raises(ValueError, match=r"(?i)secret"):
        sign_event(secret, created_at=NOW_S, kind=1)


def test_the_largest_secret_signs() -> None:
    assert verify_event(sign_event((_ORDER - 1).to_bytes(32, "big"), created_at=NOW_S, kind=1))


def test_a_well_formed_event_with_a_wrong_signature_does_not_verify() -> None:
    assert not verify_event(fake_event())
    other_author = event_json(make_event(), sig=make_event(content="x").event.sig)
    assert not verify_event(decode_event(other_author))


def test_a_key_that_is_not_on_the_curve_signs_nothing() -> None:
    bad_key = bytes.fromhex(_VECTORS[5]["public key"])
    assert not verify_event(msgspec.structs.replace(make_event(), pubkey=bad_key))


def test_a_batch_is_answered_one_by_one_and_in_order() -> None:
    batch = [make_event(), fake_event(), make_event(key=1), fake_event(key=1)]
    assert verify_events(batch) == [True, False, True, False]
    assert verify_events([]) == []


@QUICK
@given(signed_events(), st.integers(0, 127), st.integers(0, 7))
def test_no_other_bits_verify(event: EncodedEvent, at: int, bit: int) -> None:
    fields: Any = {"pubkey": event.pubkey, "id": event.id, "sig": event.sig}
    name, offset = ("pubkey", at) if at < 32 else ("id", at - 32) if at < 64 else ("sig", at - 64)
    changed = bytearray(fields[name])
    changed[offset] ^= 1 << bit
    assert verify_event(event)
    assert not verify_event(msgspec.structs.replace(event, **{name: bytes(changed)}))
