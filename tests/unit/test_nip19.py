import nostr_sdk
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orly.nostr.nip19 import MAX_SECRET, Nip19Error, decode_key, parse_public_key, parse_secret_key

# the examples of NIP-19
NPUB = "npub10elfcs4fr0l0r8af98jlmgdh9c8tcxjvz9qkw038js35mp4dma8qzvjptg"
NPUB_HEX = "7e7e9c42a91bfef19fa929e5fda1b72e0ebc1a4c1141673e2794234d86addf4e"
NSEC = "nsec1vl029mgpspedva04g90vltkh6fvh240zqtv9k0t9af8935ke9laqsnlfe5"
NSEC_HEX = "67dea2ed018072d675f5415ecfaed7d2597555e202d85b3d65ea4e58d2d92ffa"
ALPHABET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"


def test_examples_of_the_nip() -> None:
    assert parse_public_key(NPUB) == NPUB_HEX
    assert parse_secret_key(NSEC) == NSEC_HEX


def test_hex_and_upper_case_are_accepted() -> None:
    assert parse_public_key(NPUB_HEX.upper()) == NPUB_HEX
    assert parse_secret_key(NSEC_HEX) == NSEC_HEX
    assert parse_public_key(NPUB.upper()) == NPUB_HEX


@given(st.integers(1, MAX_SECRET))
def test_keys_of_another_implementation(secret: int) -> None:
    keys = nostr_sdk.Keys.parse(f"{secret:064x}")
    assert parse_secret_key(keys.secret_key().to_bech32()) == f"{secret:064x}"
    assert parse_public_key(keys.public_key().to_bech32()) == keys.public_key().to_hex()


@given(st.integers(5, 62), st.sampled_from(ALPHABET))
def test_any_mistyped_character_is_noticed(position: int, character: str) -> None:
    mistyped = NPUB[:position] + character + NPUB[position + 1 :]
    if mistyped == NPUB:
        assert parse_public_key(mistyped) == NPUB_HEX
        return
    with pytest.raises(Nip19Error, match="checksum"):
        parse_public_key(mistyped)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (NSEC, "this is a secret key"),
        (NPUB[:-1], "has 62 characters, a key has 63"),
        (NPUB + "q", "has 64 characters"),
        (NPUB[:-1] + "b", "a character that bech32 does not use"),
        (NPUB[:-1] + "G", "mixes upper and lower case"),
        ("npub1", "has 5 characters"),
        ("nprofile1qqs", "neither npub1... nor 64 hex digits"),
        (NPUB_HEX[:-1], "neither npub1... nor 64 hex digits"),
        (NPUB_HEX + "0", "neither npub1... nor 64 hex digits"),
        ("g" * 64, "neither npub1... nor 64 hex digits"),
        ("١" * 64, "neither npub1... nor 64 hex digits"),
        ("", "neither npub1... nor 64 hex digits"),
    ],
)
def test_what_is_wrong_with_a_public_key(text: str, message: str) -> None:
    with pytest.raises(Nip19Error, match=message):
        parse_public_key(text)


def test_the_prefix_must_be_the_one_asked_for() -> None:
    with pytest.raises(Nip19Error, match="does not start with nsec1"):
        decode_key(NPUB, "nsec")
    with pytest.raises(Nip19Error, match="this is a public key"):
        parse_secret_key(NPUB)


def test_padding_must_be_zero() -> None:
    # 32 zero bytes with one padding bit set and a checksum that is right for it
    with pytest.raises(Nip19Error, match="padding"):
        decode_key(with_checksum("npub", [0] * 51 + [1]), "npub")
    assert decode_key(with_checksum("npub", [0] * 51 + [16]), "npub") == bytes(31) + b"\x01"


def test_the_range_of_secret_keys() -> None:
    assert parse_secret_key(f"{1:064x}") == f"{1:064x}"
    assert parse_secret_key(f"{MAX_SECRET:064x}") == f"{MAX_SECRET:064x}"
    for outside in (0, MAX_SECRET + 1):
        with pytest.raises(Nip19Error, match="zero or too large"):
            parse_secret_key(f"{outside:064x}")


@given(st.text(max_size=80) | st.text(alphabet=ALPHABET, min_size=58, max_size=58).map("nsec1".__add__))
def test_errors_never_repeat_the_text(text: str) -> None:
    with pytest.raises(Nip19Error) as caught:
        parse_secret_key(text)
    assert len(text) < 12 or text not in str(caught.value)


def with_checksum(prefix: str, groups: list[int]) -> str:
    """An independent bech32 encoder: the six groups that make the polynomial come out as one."""

    def polymod(values: list[int]) -> int:
        checksum = 1
        for value in values:
            top = checksum >> 25
            checksum = ((checksum & 0x1FFFFFF) << 5) ^ value
            for bit, term in enumerate((0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)):
                checksum ^= term if top >> bit & 1 else 0
        return checksum

    expanded = [ord(c) >> 5 for c in prefix] + [0] + [ord(c) & 31 for c in prefix]
    wanted = polymod(expanded + groups + [0] * 6) ^ 1
    return prefix + "1" + "".join(ALPHABET[v] for v in groups + [wanted >> 5 * (5 - i) & 31 for i in range(6)])
