"""Proof of work (NIP-13)."""

from typing import Final

from orly.nostr.event import EncodedEvent

__all__ = ["ID_BITS", "check_work", "leading_zero_bits"]

ID_BITS: Final = 256


def leading_zero_bits(event_id: bytes) -> int:
    """The difficulty of an id: how many zero bits it starts with (0..256)."""
    return len(event_id) * 8 - int.from_bytes(event_id, "big").bit_length()


def check_work(event: EncodedEvent, required_bits: int) -> str | None:
    """What is wrong with the event's proof of work; None if it is enough.

    A committed target below the required one is refused even when the id happens to be good enough, since
    otherwise a spammer could aim low and keep what comes out well (NIP-13).

    Args:
        event: Any event.
        required_bits: 0 asks for nothing, so that no target is too low.
    """
    if required_bits <= 0:
        return None
    bits = leading_zero_bits(event.id)
    if bits < required_bits:
        return f"difficulty {bits} is less than {required_bits}"
    for tag in event.event.tags:
        if tag[0] == "nonce" and len(tag) > 2 and not required_bits <= _target(tag[2]) <= ID_BITS:
            return f"the committed target {tag[2][:20]!r} is not a number from {required_bits} to {ID_BITS}"
    return None


def _target(text: str) -> int:
    """The number in a `nonce` tag; 0 if it is none."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 4 else 0
