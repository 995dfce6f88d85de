"""What a kind number means for storage and visibility (NIP-01, NIP-09, NIP-42, NIP-62)."""

from enum import Enum, auto
from typing import Final

__all__ = [
    "AUTH",
    "DELETION",
    "EPHEMERAL_RANGE",
    "GIFT_WRAP",
    "HTTP_AUTH",
    "MAX_KIND",
    "NOSTR_CONNECT",
    "PRIVATE_KINDS",
    "UNPUBLISHABLE_KINDS",
    "VANISH",
    "KindClass",
    "classify",
    "is_ephemeral",
]

MAX_KIND: Final = 65_535

DELETION: Final = 5
VANISH: Final = 62
GIFT_WRAP: Final = 1059
AUTH: Final = 22_242
NOSTR_CONNECT: Final = 24_133
HTTP_AUTH: Final = 27_235

PRIVATE_KINDS: Final = frozenset({4, 13, 14, 15, 443, 1059, 1060, 10_051, 13_004, 30_078})
"""Kinds that only their author and the keys in their `p` tags may read."""

UNPUBLISHABLE_KINDS: Final = frozenset({AUTH, HTTP_AUTH})
"""Credentials: never stored and never forwarded (NIP-42, NIP-98)."""

EPHEMERAL_RANGE: Final = range(20_000, 30_000)


class KindClass(Enum):
    """How many events of a kind are kept (NIP-01)."""

    REGULAR = auto()
    REPLACEABLE = auto()
    """One per author."""
    EPHEMERAL = auto()
    """None: delivered to open subscriptions only."""
    ADDRESSABLE = auto()
    """One per author and `d` tag."""


def classify(kind: int) -> KindClass:
    """The NIP-01 class of a kind; numbers outside every special range are regular."""
    if kind in (0, 3) or 10_000 <= kind < 20_000:
        return KindClass.REPLACEABLE
    if 20_000 <= kind < 30_000:
        return KindClass.EPHEMERAL
    if 30_000 <= kind < 40_000:
        return KindClass.ADDRESSABLE
    return KindClass.REGULAR


def is_ephemeral(kind: int) -> bool:
    """Whether a kind is delivered but never stored."""
    return 20_000 <= kind < 30_000
