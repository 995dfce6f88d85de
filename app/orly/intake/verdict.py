"""What a publisher is told of its event: one table for every door, so that the same outcome has the same words."""

from typing import Final, assert_never

import msgspec

from orly.access.curating import A_DAY
from orly.nostr.reason import Prefix, Refusal
from orly.store.base import SaveResult, SaveStatus

__all__ = [
    "BAD_SIGNATURE",
    "FULL_TODAY",
    "TAKEN_BACK",
    "TOO_MANY_OF_AUTHOR",
    "Verdict",
    "is_for_later",
    "verdict_of",
]

BAD_SIGNATURE: Final = Refusal(Prefix.INVALID, "the signature does not match")
TOO_MANY_OF_AUTHOR: Final = Refusal(Prefix.RATE_LIMITED, "too many events of this author, slow down")

FULL_TODAY: Final = Refusal(
    Prefix.RATE_LIMITED, "too many authors and addresses have written today, come back tomorrow"
)


class Verdict(msgspec.Struct, frozen=True):
    """The outcome for one event, as in an OK message (NIP-01).

    Attributes:
        is_accepted: Whether the event is where its publisher wants it.
        refusal: What there is to say; None if nothing.
    """

    is_accepted: bool
    refusal: Refusal | None = None


_ACCEPTED: Final = Verdict(True)
_DUPLICATE: Final = Verdict(True, Refusal(Prefix.DUPLICATE, "already have this event"))
_SUPERSEDED: Final = Verdict(False, Refusal(Prefix.DUPLICATE, "a newer version of this event is stored"))
_DELETED: Final = Verdict(False, Refusal(Prefix.BLOCKED, "this event was deleted"))
_VANISHED: Final = Verdict(False, Refusal(Prefix.BLOCKED, "its author, or recipient, asked to vanish"))
_EXPIRED: Final = Verdict(False, Refusal(Prefix.INVALID, "event has expired"))

TAKEN_BACK: Final = frozenset(str(verdict.refusal) for verdict in (_DELETED, _VANISHED))
"""What is said of an event that was taken back. Relays that push know it by these words, also older ones than this."""


def verdict_of(result: SaveResult) -> Verdict:
    """What the store's answer means to the publisher."""
    match result.status:
        case SaveStatus.STORED | SaveStatus.DELIVERED:
            return _ACCEPTED
        case SaveStatus.DUPLICATE:
            return _DUPLICATE
        case SaveStatus.SUPERSEDED:
            return _SUPERSEDED
        case SaveStatus.DELETED:
            return _DELETED
        case SaveStatus.VANISHED:
            return _VANISHED
        case SaveStatus.EXPIRED:
            return _EXPIRED
        case SaveStatus.FAILED:
            return Verdict(False, Refusal(Prefix.ERROR, result.detail))
        case _:
            assert_never(result.status)


def is_for_later(reason: str) -> bool:
    """Whether an event was refused by a limit that it is no use to slow down for: that of its author, or of the day."""
    return reason in (str(TOO_MANY_OF_AUTHOR), str(FULL_TODAY)) or A_DAY in reason
