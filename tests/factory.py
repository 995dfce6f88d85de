"""Deterministic events for tests: signed ones, and cheap ones with a right id and a constant, wrong signature."""

import json
from collections.abc import Sequence
from functools import lru_cache
from itertools import count
from typing import Final

import msgspec

from orly.nostr.event import EncodedEvent, Event, compute_id, encode_event
from orly.nostr.kinds import AUTH, DELETION, GIFT_WRAP, VANISH
from orly.nostr.pow import leading_zero_bits
from orly.nostr.signing import public_key, sign_event

__all__ = [
    "FAKE_SIG",
    "KEYS",
    "NOW_S",
    "SECRETS",
    "address_of",
    "auth_event",
    "delete_event",
    "event_fields",
    "event_json",
    "expiring_event",
    "fake_event",
    "gift_wrap",
    "make_event",
    "mined_event",
    "vanish_event",
]

Tags = Sequence[Sequence[str]]

NOW_S: Final = 1_700_000_000
SECRETS: Final = tuple((n + 1).to_bytes(32, "big") for n in range(8))
KEYS: Final = tuple(public_key(secret) for secret in SECRETS)
"""Public keys in hex; `key=n` of every function below means `KEYS[n]`."""
FAKE_SIG: Final = "ab" * 64


def make_event(
    key: int = 0, kind: int = 1, created_at: int = NOW_S, tags: Tags = (), content: str = ""
) -> EncodedEvent:
    """A signed event; the same arguments give the same bytes."""
    return _signed(key, kind, created_at, tuple(tuple(tag) for tag in tags), content)


@lru_cache(maxsize=4096)
def _signed(key: int, kind: int, created_at: int, tags: tuple[tuple[str, ...], ...], content: str) -> EncodedEvent:
    as_lists = [list(tag) for tag in tags]
    return sign_event(SECRETS[key], created_at=created_at, kind=kind, tags=as_lists, content=content)


def fake_event(
    key: int = 0, kind: int = 1, created_at: int = NOW_S, tags: Tags = (), content: str = ""
) -> EncodedEvent:
    """An event with a right id whose signature is `FAKE_SIG`: fast, for what never verifies."""
    as_lists = [list(tag) for tag in tags]
    event_id = compute_id(KEYS[key], created_at, kind, as_lists, content)
    event = Event(event_id, KEYS[key], created_at, kind, as_lists, content, FAKE_SIG)
    return EncodedEvent(
        event, encode_event(event), bytes.fromhex(event_id), bytes.fromhex(KEYS[key]), bytes.fromhex(FAKE_SIG)
    )


def _event(signed: bool, key: int, kind: int, created_at: int, tags: Tags, content: str = "") -> EncodedEvent:
    return (make_event if signed else fake_event)(key, kind, created_at, tags, content)


def address_of(event: EncodedEvent) -> str:
    """`<kind>:<pubkey>:<d>` as it stands in an `a` tag."""
    d = next((tag[1] for tag in event.event.tags if tag[0] == "d" and len(tag) > 1), "")
    return f"{event.event.kind}:{event.event.pubkey}:{d}"


def delete_event(
    *targets: EncodedEvent,
    key: int = 0,
    created_at: int = NOW_S,
    addresses: Sequence[str] = (),
    signed: bool = False,
) -> EncodedEvent:
    """A deletion request (NIP-09) for events by id and for addresses."""
    by_id = [("e", target.event.id) for target in targets]
    by_address = [("a", address) for address in addresses]
    return _event(signed, key, DELETION, created_at, by_id + by_address)


def vanish_event(*relays: str, key: int = 0, created_at: int = NOW_S, signed: bool = False) -> EncodedEvent:
    """A request to vanish (NIP-62) from the relays named, or from all of them."""
    return _event(signed, key, VANISH, created_at, [("relay", url) for url in relays or ("ALL_RELAYS",)])


def gift_wrap(
    recipient: str, *, key: int = 0, created_at: int = NOW_S, content: str = "sealed", signed: bool = False
) -> EncodedEvent:
    """A gift wrap (NIP-59) for a public key (hex); `key` stands for the one-time key."""
    return _event(signed, key, GIFT_WRAP, created_at, [("p", recipient)], content)


def expiring_event(
    expires_s: int, *, key: int = 0, kind: int = 1, created_at: int = NOW_S, signed: bool = False
) -> EncodedEvent:
    """An event that stops existing at a second (NIP-40)."""
    return _event(signed, key, kind, created_at, [("expiration", str(expires_s))])


def auth_event(challenge: str, relay: str, *, key: int = 0, created_at: int = NOW_S) -> EncodedEvent:
    """A signed authentication event (NIP-42)."""
    return make_event(key, AUTH, created_at, [("relay", relay), ("challenge", challenge)])


def mined_event(bits: int, *, target: int | None = None, key: int = 0, signed: bool = False) -> EncodedEvent:
    """An event with exactly `bits` of work (NIP-13) and a committed target; keep `bits` small.

    Args:
        bits: Leading zero bits of the id.
        target: What the `nonce` tag commits to; None = `bits`.
        key: Whose event.
        signed: Sign it.
    """
    for nonce in count():
        tags = [["nonce", str(nonce), str(bits if target is None else target)]]
        if leading_zero_bits(bytes.fromhex(compute_id(KEYS[key], NOW_S, 1, tags, ""))) == bits:
            return _event(signed, key, 1, NOW_S, tags)
    raise AssertionError("an endless count ended")


def event_fields(event: EncodedEvent) -> dict[str, object]:
    """The seven fields by name, to be changed at will."""
    return msgspec.structs.asdict(event.event)


def event_json(event: EncodedEvent, **changes: object) -> bytes:
    """The event as JSON with fields replaced or added; nothing makes the result valid."""
    return json.dumps(event_fields(event) | changes).encode()
