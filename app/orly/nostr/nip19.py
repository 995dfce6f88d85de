"""Keys as people pass them around: `npub1...` and `nsec1...` in bech32, or 64 hex digits (NIP-19, BIP-173)."""

from typing import Final, Literal

__all__ = ["MAX_SECRET", "Nip19Error", "decode_key", "parse_public_key", "parse_secret_key"]

MAX_SECRET: Final = 0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFE_BAAEDCE6_AF48A03B_BFD25E8C_D0364140
"""The largest secret key: the order of secp256k1 minus one (BIP-340)."""

_ALPHABET: Final = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_VALUES: Final = {character: value for value, character in enumerate(_ALPHABET)}
_GENERATOR: Final = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
_KEY_BYTES: Final = 32
_DATA_CHARACTERS: Final = 52  # 256 bits in groups of five, the last one padded
_CHECKSUM_CHARACTERS: Final = 6
_HEX_DIGITS: Final = frozenset("0123456789abcdef")


class Nip19Error(ValueError):
    """Text that is no key; the message never repeats the text, which may be a secret."""


def decode_key(text: str, prefix: Literal["npub", "nsec"]) -> bytes:
    """The 32 bytes of a bech32 key with the given prefix.

    Raises:
        Nip19Error: when the prefix, the length, a character, the checksum or the padding is wrong.
    """
    if text not in (text.lower(), text.upper()):
        raise Nip19Error("mixes upper and lower case")
    found, separator, data = text.lower().rpartition("1")
    if not separator or found != prefix:
        raise Nip19Error(f"does not start with {prefix}1")
    if len(data) != _DATA_CHARACTERS + _CHECKSUM_CHARACTERS:
        raise Nip19Error(f"has {len(text)} characters, a key has 63")
    if not all(character in _VALUES for character in data):
        raise Nip19Error("has a character that bech32 does not use")
    groups = [_VALUES[character] for character in data]
    if _polymod(_expand(prefix) + groups) != 1:
        raise Nip19Error("has a wrong checksum: a character is missing or mistyped")
    bits = 0
    for group in groups[:_DATA_CHARACTERS]:
        bits = bits << 5 | group
    padding = _DATA_CHARACTERS * 5 - _KEY_BYTES * 8
    if bits & ((1 << padding) - 1):
        raise Nip19Error("has padding that is not zero")
    return (bits >> padding).to_bytes(_KEY_BYTES, "big")


def parse_public_key(text: str) -> str:
    """A public key given as `npub1...` or 64 hex digits, as lower-case hex.

    Raises:
        Nip19Error: when it is neither; a secret key is named as such.
    """
    if text.lower().startswith("nsec1"):
        raise Nip19Error("this is a secret key, and a public key belongs here")
    return _parse(text, "npub").hex()


def parse_secret_key(text: str) -> str:
    """A secret key given as `nsec1...` or 64 hex digits, as lower-case hex.

    Raises:
        Nip19Error: when it is neither, or a number that is no secret key of secp256k1.
    """
    if text.lower().startswith("npub1"):
        raise Nip19Error("this is a public key, and a secret key belongs here")
    key = _parse(text, "nsec")
    if not 1 <= int.from_bytes(key, "big") <= MAX_SECRET:
        raise Nip19Error("is zero or too large for a secret key")
    return key.hex()


def _parse(text: str, prefix: Literal["npub", "nsec"]) -> bytes:
    if text.lower().startswith(f"{prefix}1"):
        return decode_key(text, prefix)
    if len(text) == 2 * _KEY_BYTES and _HEX_DIGITS.issuperset(text.lower()):
        return bytes.fromhex(text)
    raise Nip19Error(f"neither {prefix}1... nor 64 hex digits")


def _expand(prefix: str) -> list[int]:
    codes = prefix.encode("ascii")
    return [code >> 5 for code in codes] + [0] + [code & 31 for code in codes]


def _polymod(groups: list[int]) -> int:
    checksum = 1
    for group in groups:
        top = checksum >> 25
        checksum = (checksum & 0x1FFFFFF) << 5 ^ group
        for bit, term in enumerate(_GENERATOR):
            if top >> bit & 1:
                checksum ^= term
    return checksum
