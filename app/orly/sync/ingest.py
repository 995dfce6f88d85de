"""The one door for events that are pulled from other relays: decode, check, verify and save; in batches."""

import asyncio
from collections.abc import Callable, MutableSet, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol, assert_never

from msgspec import structs

from orly.access.decide import ANYBODY, NO_SNAPSHOT, refuse_write
from orly.access.snapshot import Snapshot
from orly.intake.plugin import WritePlugin
from orly.intake.plugin_lines import Asked, Ruling, SourceType
from orly.intake.policy import WritePolicy
from orly.intake.verdict import BAD_SIGNATURE
from orly.intake.verify import Verifier
from orly.nostr.event import EncodedEvent, EventError, decode_event
from orly.nostr.filter import Filter, matches
from orly.nostr.kinds import is_ephemeral
from orly.nostr.reason import Prefix, Refusal
from orly.store.base import EventStore, SaveResult, SaveStatus, StoreError

__all__ = ["SLICE_EVENTS", "Checked", "Deferral", "Door", "HasSnapshot", "OfferResult"]

SLICE_EVENTS: Final = 128
"""Events decoded and verified at a stretch, about 4 ms; then others on the event loop have their turn."""

_PASSING: Final = frozenset({Prefix.ERROR, Prefix.RATE_LIMITED})
"""Refusals that say nothing about the event."""

_OUTSIDE: Final = "invalid: it does not match the filter that was asked for"
_NOT_FROM_AUTHOR: Final = Refusal(Prefix.BLOCKED, "a protected event is taken from its author only")


@dataclass(frozen=True, slots=True)
class Deferral:
    """An event that is refused for now.

    Attributes:
        event_id: Which.
        reason: Why, as it would be given to a client.
        until_s: From when on it is not refused for that reason, in Unix seconds; None = that may be any time.
    """

    event_id: bytes
    reason: str
    until_s: int | None = None


@dataclass(slots=True)
class OfferResult:
    """What became of the events that were offered; ids are 32 bytes.

    Attributes:
        stored: New here.
        known: Here already.
        unwanted: Not to be kept: replaced, deleted, vanished, expired or ephemeral.
        refused: Against our rules, with the reason as it would be given to a client.
        deferred: Refused too, but not for good.
        n_unasked: Events that nobody asked for, and what is no event at all.
    """

    stored: list[bytes] = field(default_factory=list)
    known: list[bytes] = field(default_factory=list)
    unwanted: list[bytes] = field(default_factory=list)
    refused: list[tuple[bytes, str]] = field(default_factory=list)
    deferred: list[Deferral] = field(default_factory=list)
    n_unasked: int = 0


@dataclass(slots=True)
class Checked:
    """Events that are fit to be stored, and what became of those that are not."""

    events: list[EncodedEvent] = field(default_factory=list)
    result: OfferResult = field(default_factory=OfferResult)


class HasSnapshot(Protocol):
    """As much of `AccessControl` as the door asks."""

    @property
    def snapshot(self) -> Snapshot | None:
        """See `AccessControl`."""


class Door:
    """Takes events from other relays under the rules that clients face; used from one event loop.

    Nobody is authenticated here: an operator chose the peer, so the demand to authenticate before writing does not
    apply, and a protected event (NIP-70) is refused, for the peer is not its author. Nothing ephemeral is stored.
    What is stored reaches live subscribers by the feed of the store.
    """

    def __init__(
        self,
        store: EventStore,
        policy: WritePolicy,
        verifier: Verifier,
        now_s: Callable[[], int],
        access: HasSnapshot | None = None,
        plugin: WritePlugin | None = None,
    ) -> None:
        """Make one.

        Args:
            store: Where events go.
            policy: The limits on them.
            verifier: Checks signatures; closed by the caller.
            now_s: The clock that decides how old events are.
            access: Knows whose events may be stored; None = anybody's. How many somebody may publish is not asked.
            plugin: A program that judges every event; None = there is none.
        """
        self._plugin = plugin
        self._access = access
        self._store = store
        self._policy = structs.replace(policy, auth_to_write=False)
        self._verifier = verifier
        self._now_s = now_s

    async def offer(
        self,
        raws: Sequence[bytes],
        wanted: MutableSet[bytes] | None,
        *,
        matching: Filter | None = None,
        source: str = "",
    ) -> OfferResult:
        """Check events and store them; see `check` and `save`."""
        return await self.save(await self.check(raws, wanted, matching=matching, source=source))

    async def check(
        self,
        raws: Sequence[bytes],
        wanted: MutableSet[bytes] | None,
        *,
        matching: Filter | None = None,
        source: str = "",
    ) -> Checked:
        """Find out which events may be stored.

        Args:
            raws: Events as JSON, as they came.
            wanted: The ids that were asked for; those that came, in whatever state, are taken out. None = any.
            matching: What else was asked; None = nothing.
            source: The URL of the relay that they come from.
        """
        checked = Checked()
        for start in range(0, len(raws), SLICE_EVENTS):
            if start:
                await asyncio.sleep(0)
            self._check_slice(raws[start : start + SLICE_EVENTS], wanted, matching, checked)
        if self._plugin is not None and checked.events:
            await self._judge(self._plugin, checked, source)
        return checked

    async def _judge(self, plugin: WritePlugin, checked: Checked, source: str) -> None:
        """Leave out what the operator's program does not want."""
        now_s = self._now_s()
        events, checked.events = checked.events, []
        judgements = await plugin.judge(
            [
                Asked(event=event, received_at_s=now_s, source_type=SourceType.SYNC, source_info=source)
                for event in events
            ]
        )
        for event, judgement in zip(events, judgements, strict=True):
            match judgement:
                case Ruling.ACCEPTED:
                    checked.events.append(event)
                case Ruling.SHADOWED:
                    checked.result.unwanted.append(event.id)
                case Refusal():
                    _refuse(checked.result, event.id, judgement)
                case _:
                    assert_never(judgement)

    async def save(self, checked: Checked) -> OfferResult:
        """Store what was found fit.

        Raises:
            StoreError: The store did not take it; nothing of it was stored.
        """
        if checked.events:
            results = await self._store.save(checked.events)
            for event, outcome in zip(checked.events, results, strict=True):
                _settle(checked.result, event.id, outcome)
        return checked.result

    def _check_slice(
        self, raws: Sequence[bytes], wanted: MutableSet[bytes] | None, matching: Filter | None, checked: Checked
    ) -> None:
        result = checked.result
        events = self._decode(raws, wanted, result)
        if events:
            known = self._store.known([event.id for event in events])
            if any(known):
                result.known += [event.id for event, seen in zip(events, known, strict=True) if seen]
                events = [event for event, seen in zip(events, known, strict=True) if not seen]
        events = self._allowed(events, matching, result)
        for event, is_valid in zip(events, self._verifier.verify(events), strict=True):
            if is_valid:
                checked.events.append(event)
            else:
                result.refused.append((event.id, str(BAD_SIGNATURE)))

    def _decode(
        self, raws: Sequence[bytes], wanted: MutableSet[bytes] | None, result: OfferResult
    ) -> list[EncodedEvent]:
        events = []
        for raw in raws:
            try:
                event = decode_event(raw)
            except EventError as error:
                _refuse_unreadable(error, wanted, result)
                continue
            if wanted is None:
                events.append(event)
            elif event.id in wanted:
                wanted.discard(event.id)
                events.append(event)
            else:
                result.n_unasked += 1
        return events

    def _allowed(
        self, events: Sequence[EncodedEvent], matching: Filter | None, result: OfferResult
    ) -> list[EncodedEvent]:
        now_s = self._now_s()
        allowed = []
        for event in events:
            refusal = self._policy.check(event, now_s=now_s, authenticated=()) or self._refuse_author(event)
            if refusal is not None:
                if refusal.prefix is Prefix.AUTH_REQUIRED:
                    refusal = _NOT_FROM_AUTHOR
                _refuse(result, event.id, refusal, self._policy.too_early_until_s(event, now_s=now_s))
            elif is_ephemeral(event.event.kind):
                result.unwanted.append(event.id)
            elif matching is not None and not matches(matching, event.event):
                result.refused.append((event.id, _OUTSIDE))
            else:
                allowed.append(event)
        return allowed

    def _refuse_author(self, event: EncodedEvent) -> Refusal | None:
        if self._access is None:
            return None
        snapshot = self._access.snapshot
        return NO_SNAPSHOT if snapshot is None else refuse_write(snapshot, event, ANYBODY)


def _refuse(result: OfferResult, event_id: bytes, refusal: Refusal, until_s: int | None = None) -> None:
    """Note a refusal; with `until_s` it holds until then only."""
    if until_s is not None or refusal.prefix in _PASSING:
        result.deferred.append(Deferral(event_id, str(refusal), until_s))
    else:
        result.refused.append((event_id, str(refusal)))


def _refuse_unreadable(error: EventError, wanted: MutableSet[bytes] | None, result: OfferResult) -> None:
    """Count something that is no event; it stands for the one whose id it gives, if that one was asked for."""
    try:
        event_id = bytes.fromhex(error.event_id or "")
    except ValueError:
        event_id = b""
    if len(event_id) == 32 and (wanted is None or event_id in wanted):
        if wanted is not None:
            wanted.discard(event_id)
        result.refused.append((event_id, f"{Prefix.INVALID.value}: {error}"))
    else:
        result.n_unasked += 1


def _settle(result: OfferResult, event_id: bytes, outcome: SaveResult) -> None:
    match outcome.status:
        case SaveStatus.STORED:
            result.stored.append(event_id)
        case SaveStatus.DUPLICATE:
            result.known.append(event_id)
        case SaveStatus.SUPERSEDED | SaveStatus.DELETED | SaveStatus.VANISHED | SaveStatus.EXPIRED:
            result.unwanted.append(event_id)
        case SaveStatus.FAILED:
            raise StoreError(outcome.detail)
        case SaveStatus.DELIVERED:
            raise AssertionError("ephemeral events are not saved from here")
        case _:
            assert_never(outcome.status)
