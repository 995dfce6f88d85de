"""Events of many publishers on their way to the store together, and what each publisher is told."""

from collections.abc import Collection, Sequence
from typing import Final, Protocol

from orly.intake.plugin_lines import Asked, SourceType
from orly.intake.verdict import verdict_of
from orly.nostr.event import EncodedEvent, EventError
from orly.nostr.message import notice_text, ok_text
from orly.nostr.reason import Prefix, Refusal
from orly.relay.visitor import Visitor
from orly.store.base import SaveResult, SaveStatus

__all__ = [
    "DUPLICATE",
    "LATER",
    "TOO_MANY_WAIT",
    "Batch",
    "Publisher",
    "asked_of",
    "ok_for",
    "unreadable_answer",
]


class Publisher(Protocol):
    """Who sent an event and gets the answer."""

    @property
    def authenticated(self) -> Collection[str]:
        """The keys (hex) it has proven."""

    def refuse_event(self) -> Refusal | None:
        """Why its rates do not allow one more event; None if they do, and it is counted."""

    def answered(self, payloads: Sequence[bytes], count: int) -> None:
        """The answers to `count` of its events, in the order they came."""

    def challenge(self) -> None:
        """Ask it to authenticate (NIP-42)."""

    @property
    def visitor(self) -> Visitor:
        """What it may do."""


def ok_for(event: EncodedEvent, result: SaveResult) -> bytes:
    """The OK message for what the store said."""
    verdict = verdict_of(result)
    if verdict.refusal is None:
        return b'["OK","%s",true,""]' % event.event.id.encode()
    return ok_text(event.event.id, verdict.refusal, accepted=verdict.is_accepted)


DUPLICATE: Final = SaveResult(SaveStatus.DUPLICATE)
TOO_MANY_WAIT: Final = Refusal(Prefix.RATE_LIMITED, "too many events of strangers wait already, try again later")
LATER: Final = b""
"""Stands for the answer to an event that waits, and gets its answer then."""


class Batch:
    """Events of many publishers with the answers they have so far."""

    __slots__ = ("answers", "charged", "counted", "events", "is_complete", "n_bytes", "publishers", "slots", "waited")

    def __init__(self, size: int) -> None:
        self.publishers: list[Publisher] = []
        self.answers: list[bytes | None] = [None] * size
        self.events: list[EncodedEvent] = []
        self.slots: list[int] = []
        self.waited: set[int] = set()
        self.counted: set[int] = set()
        self.charged: set[int] = set()
        self.is_complete = False
        self.n_bytes = 0

    def keep(self, chosen: Sequence[bool]) -> None:
        """Drop the events that are not chosen from what is still to be saved."""
        self.events = [event for event, keep in zip(self.events, chosen, strict=True) if keep]
        self.slots = [slot for slot, keep in zip(self.slots, chosen, strict=True) if keep]


def asked_of(event: EncodedEvent, publisher: Publisher, now_s: int) -> Asked:
    """What a program is told of an event that is to be stored."""
    address = publisher.visitor.address
    return Asked(
        event=event,
        received_at_s=now_s,
        source_type=SourceType.IP6 if ":" in address else SourceType.IP4,
        source_info=address,
        authed=min(publisher.authenticated, default=None),
    )


def unreadable_answer(error: EventError) -> bytes:
    """The answer to something that is not an event: an OK if it says which id it means, else a NOTICE."""
    refusal = Refusal(Prefix.INVALID, str(error))
    if error.event_id is None:
        return notice_text(str(refusal))
    return ok_text(error.event_id, refusal)
