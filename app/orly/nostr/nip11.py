"""The relay information document of NIP-11."""

from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec import UNSET, UnsetType

__all__ = ["MAX_SUBID_LENGTH", "SOFTWARE_URL", "Limitation", "RelayInfo", "encode", "supported_nips"]

SOFTWARE_URL: Final = "https://github.com/orly-relay/orly"

MAX_SUBID_LENGTH: Final = 64
"""Characters in a subscription id (NIP-01)."""

_ALWAYS_SUPPORTED: Final = (1, 9, 11, 40, 42, 45, 62, 70)
_PROOF_OF_WORK: Final = 13
_NEGENTROPY: Final = 77


class Limitation(msgspec.Struct, frozen=True, kw_only=True):
    """What the relay imposes on clients (NIP-11, "Server Limitations").

    Attributes:
        max_message_length: Bytes in one WebSocket message.
        max_subscriptions: Subscriptions open at once on one connection.
        max_filters: Filters in one REQ.
        max_limit: The largest `limit` of a filter; a larger one is cut to it.
        default_limit: Events returned for a filter without `limit`.
        max_subid_length: Characters in a subscription id.
        max_event_tags: Tags in one event.
        max_content_length: Characters in `content`.
        min_pow_difficulty: Leading zero bits an event id needs (NIP-13).
        auth_required: NIP-42 before anything else.
        payment_required: Whether the relay takes money.
        restricted_writes: Whether events are accepted under some condition only.
        created_at_upper_limit: Seconds that `created_at` may lie in the future.
        created_at_lower_limit: Seconds that `created_at` may lie in the past; unset when any age is accepted.
    """

    max_message_length: int
    max_subscriptions: int
    max_filters: int
    max_limit: int
    default_limit: int
    max_event_tags: int
    max_content_length: int
    min_pow_difficulty: int
    auth_required: bool
    restricted_writes: bool
    created_at_upper_limit: int
    created_at_lower_limit: int | UnsetType = UNSET
    max_subid_length: int = MAX_SUBID_LENGTH
    payment_required: bool = False


class RelayInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename={"own_pubkey": "self"}):
    """The document itself; an empty field is left out of it.

    Attributes:
        pubkey: Hex key of the operator.
        own_pubkey: Hex key of the relay itself, published as `self`.
        supported_nips: In ascending order.
        limitation: See `Limitation`.
        negentropy: Version of the reconciliation protocol (NIP-77); 0 = not offered, and left out.
    """

    name: str = ""
    description: str = ""
    banner: str = ""
    icon: str = ""
    pubkey: str = ""
    own_pubkey: str = ""
    contact: str = ""
    supported_nips: tuple[int, ...]
    software: str
    version: str
    limitation: Limitation
    relay_countries: tuple[str, ...] = ()
    language_tags: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    posting_policy: str = ""
    privacy_policy: str = ""
    terms_of_service: str = ""
    negentropy: int = 0


def supported_nips(
    *, min_pow_difficulty: int, has_negentropy: bool = False, others: Sequence[int] = ()
) -> tuple[int, ...]:
    """The NIPs to announce: those always active, those that a setting turns on, and `others`; ascending."""
    proof_of_work = (_PROOF_OF_WORK,) if min_pow_difficulty > 0 else ()
    negentropy = (_NEGENTROPY,) if has_negentropy else ()
    return tuple(sorted({*_ALWAYS_SUPPORTED, *proof_of_work, *negentropy, *others}))


def encode(info: RelayInfo) -> bytes:
    """The document as JSON."""
    return msgspec.json.encode(info)
