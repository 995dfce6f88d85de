"""BIP-340 signatures of events: verification with a cache of parsed keys, and signing for tools and tests."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from coincurve import PrivateKey, PublicKeyXOnly

from orly.nostr.event import EncodedEvent, Event, compute_id, decode_event, encode_event

__all__ = ["KEY_CACHE_SIZE", "public_key", "sign_event", "verify", "verify_event", "verify_events"]

KEY_CACHE_SIZE: Final = 16_384
"""Parsed keys kept: 4 us saved per event of a known author, about 300 bytes each."""


@lru_cache(maxsize=KEY_CACHE_SIZE)
def _parsed(pubkey: bytes) -> PublicKeyXOnly | None:
    try:
        return PublicKeyXOnly(pubkey)
    except ValueError:
        return None


def verify(pubkey: bytes, message: bytes, sig: bytes) -> bool:
    """Whether `sig` (64 bytes) is the BIP-340 signature of `message` (32 bytes) by `pubkey` (32 bytes).

    Anything of another length, or a key that is not on the curve, is simply not a valid signature.
    """
    if len(pubkey) != 32 or len(message) != 32 or len(sig) != 64:
        return False
    key = _parsed(pubkey)
    return key is not None and key.verify(sig, message)


def verify_event(event: EncodedEvent) -> bool:
    """Whether the event's author signed its id. The lengths were checked when it was decoded."""
    key = _parsed(event.pubkey)
    return key is not None and key.verify(event.sig, event.id)


def verify_events(events: Sequence[EncodedEvent]) -> list[bool]:
    """`verify_event` for each; the curve arithmetic runs without the interpreter lock."""
    return [verify_event(event) for event in events]


def public_key(secret: bytes) -> str:
    """The x-only public key of a 32-byte secret, in hex."""
    return PrivateKey(secret).public_key_xonly.format().hex()


def sign_event(
    secret: bytes,
    *,
    created_at: int,
    kind: int,
    tags: list[list[str]] | None = None,
    content: str = "",
    aux_randomness: bytes = bytes(32),
) -> EncodedEvent:
    """Make and sign an event; deterministic unless other `aux_randomness` (32 bytes) is given."""
    key = PrivateKey(secret)
    pubkey = key.public_key_xonly.format().hex()
    tags = tags or []
    event_id = compute_id(pubkey, created_at, kind, tags, content)
    sig = key.sign_schnorr(bytes.fromhex(event_id), aux_randomness).hex()
    return decode_event(encode_event(Event(event_id, pubkey, created_at, kind, tags, content, sig)))
