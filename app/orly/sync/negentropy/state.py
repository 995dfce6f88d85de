"""What to reconcile next and what a refusal means: the decisions of a sync, without I/O and without a clock."""

import re
from enum import Enum, auto
from typing import Final

import msgspec

from orly.nostr.event import MAX_CREATED_AT
from orly.nostr.filter import Filter

__all__ = [
    "MAX_REFUSALS_AT_A_STRETCH",
    "Refused",
    "Span",
    "SpanPlan",
    "encode_filter",
    "is_about_size",
    "narrowed",
    "read_refusal",
    "wants_key",
]

MAX_REFUSALS_AT_A_STRETCH: Final = 100
"""Halving all of time down to one second takes 63 steps and a set of a million 20; a peer that has refused more
often than both is not refusing because of the size."""

_MAX_BARE_REFUSALS: Final = 4
"""The same for a peer that refuses without a word of a limit."""

_TOO_LARGE: Final = re.compile(
    r"too (?:many|big|large|broad)|max(?:imum)? (?:records|events|results|items)", re.IGNORECASE
)
_TOO_BUSY: Final = re.compile(
    r"concurrent|sessions?\b|connections?\b|subscriptions\b|reconciliations\b|rate-limited|too fast|try again",
    re.IGNORECASE,
)
_LACKING: Final = re.compile(
    r"disabled|unsupported|unknown (?:cmd|command|message|type|envelope|verb)|unrecogni[sz]ed|could not parse"
    r"|not (?:supported|enabled|offered|available|implemented|allowed)|invalid (?:message|command|cmd|type)",
    re.IGNORECASE,
)


class Span(msgspec.Struct, frozen=True, gc=False):
    """A range of created_at, both ends included, in Unix seconds."""

    since_s: int
    until_s: int


class Refused(Enum):
    """What to do about a peer that does not reconcile."""

    TOO_LARGE = auto()
    """Ask for less at a time."""
    LACKING = auto()
    """It does not speak negentropy, or not with us: ask for the events themselves."""
    LOST = auto()
    """The session is gone: begin again."""
    AUTH = auto()
    """It wants another key than ours, or one at all."""
    FAILED = auto()
    """Nothing of that can be mended now."""


def read_refusal(reason: str, max_items: int | None) -> Refused:
    """What the words of a NEG-ERR, a CLOSED or a NOTICE mean; `max_items` is the fourth element of NEG-ERR."""
    word, colon, _ = reason.partition(":")
    if not colon:
        word = ""
    if colon and wants_key(reason):
        return Refused.AUTH
    if max_items is not None:
        return Refused.TOO_LARGE
    if _LACKING.search(reason):
        return Refused.LACKING
    if word == "closed":
        return Refused.LOST
    if _TOO_BUSY.search(reason):
        return Refused.FAILED
    if _TOO_LARGE.search(reason) or word == "blocked":
        return Refused.TOO_LARGE
    if word in ("error", "invalid") or reason == "PROTOCOL-ERROR":
        return Refused.FAILED
    return Refused.LACKING


def wants_key(reason: str) -> bool:
    """Whether a refusal is for want of the right key."""
    return reason.partition(":")[0] in ("auth-required", "restricted")


def is_about_size(reason: str, max_items: int | None) -> bool:
    """Whether a refusal says that less at a time would be answered."""
    return max_items is not None or _TOO_LARGE.search(reason) is not None


class SpanPlan:
    """The spans that are still to be reconciled, newest first.

    Together with those that were done they always cover the first one exactly.

    Args:
        whole: What is to be reconciled.
        now_s: Where events thin out: a span that goes on for ever after it is not halved in the middle.
    """

    __slots__ = ("_n_bare", "_n_refusals", "_now_s", "_spans")

    def __init__(self, whole: Span, *, now_s: int) -> None:
        self._spans = [whole] if whole.since_s <= whole.until_s else []
        self._now_s = now_s
        self._n_refusals = 0
        self._n_bare = 0

    def next(self) -> Span | None:
        """The span to reconcile now; None when all are done. It is taken out."""
        return self._spans.pop() if self._spans else None

    def done(self) -> None:
        """The last span was reconciled."""
        self._n_refusals = self._n_bare = 0

    def again(self, span: Span) -> None:
        """The span is to be reconciled once more."""
        self._spans.append(span)

    @property
    def is_hopeless(self) -> bool:
        """Whether the peer has refused so often that it will go on."""
        return self._n_refusals > MAX_REFUSALS_AT_A_STRETCH or self._n_bare > _MAX_BARE_REFUSALS

    def rest(self, span: Span) -> Span:
        """The last span and all that follow it, as one; nothing is left in the plan."""
        oldest = self._spans[0] if self._spans else span
        self._spans.clear()
        return Span(oldest.since_s, span.until_s)

    def halve(self, span: Span, *, median_s: int | None, is_sized: bool) -> bool:
        """The peer refused the span for its size: put both halves in its place.

        Args:
            span: What was refused.
            median_s: The middle one of our own events in it, in Unix seconds; None = we have none there.
            is_sized: Whether the peer spoke of a size at all.

        Returns:
            False if there is no use in it: the span is one second long, or the peer refuses whatever it is asked.
        """
        self._n_refusals += 1
        self._n_bare += not is_sized
        if self.is_hopeless or span.since_s == span.until_s:
            return False
        middle = self._middle(span, median_s)
        self._spans.append(Span(span.since_s, middle))
        self._spans.append(Span(middle + 1, span.until_s))
        return True

    def _middle(self, span: Span, median_s: int | None) -> int:
        """The last second of the older half."""
        if median_s is None:
            has_long_future = span.since_s <= self._now_s < span.until_s - (self._now_s - span.since_s)
            median_s = self._now_s if has_long_future else (span.since_s + span.until_s) // 2
        return min(max(median_s, span.since_s), span.until_s - 1)


def narrowed(wanted: Filter, span: Span) -> Filter:
    """The filter for one span of its time."""
    return msgspec.structs.replace(wanted, since=max(wanted.since, span.since_s), until=min(wanted.until, span.until_s))


def encode_filter(wanted: Filter) -> bytes:
    """A filter as JSON (NIP-01); times that exclude nothing are left out, which lets a peer see that it may use what
    it keeps ready."""
    found: dict[str, object] = {}
    if wanted.ids is not None:
        found["ids"] = sorted(wanted.ids)
    if wanted.authors is not None:
        found["authors"] = sorted(wanted.authors)
    if wanted.kinds is not None:
        found["kinds"] = sorted(wanted.kinds)
    for letter in sorted(wanted.tags):
        found[f"#{letter}"] = sorted(wanted.tags[letter])
    if wanted.since > 0:
        found["since"] = wanted.since
    if wanted.until < MAX_CREATED_AT:
        found["until"] = wanted.until
    if wanted.limit is not None:
        found["limit"] = wanted.limit
    return msgspec.json.encode(found)
