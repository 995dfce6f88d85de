"""The management method (NIP-86) about reports: events that were reported, and about which nothing was decided."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from re import compile as compile_re
from typing import Final

from orly.access.commands import MAX_REASON_CHARACTERS
from orly.access.levels import Mode
from orly.access.snapshot import ListName, Snapshot
from orly.nostr.event import PUBKEY_IN_JSON, Event, decode_stored
from orly.nostr.filter import Filter
from orly.relay.http_export import ExportRows
from orly.relay.management_lists import Asked
from orly.store.base import Query, ReadScope

__all__ = ["needing_moderation"]

REPORT: Final = 1984
"""Kind of a report (NIP-56)."""

MAX_REPORTED: Final = 1000
"""Reported events that are told at once."""

MAX_REPORTED_BY_ONE: Final = 100
"""Of them, those that one key has reported: a few keys that report much leave room for the others."""

MAX_REPORTS: Final = 20_000
"""The newest reports, of which no more are read."""

MAX_REPORTS_BY_ONE: Final = 500
"""Of them, those of one key that are looked into; the rest is passed over, which costs little."""

MAX_TAGS: Final = 100
"""Tags of one report that are looked at: a report names an event or two, and its author."""

SLICE_REPORTS: Final = 64
"""Reports looked into at a stretch; then others on the event loop have their turn."""

QUERY_TIMEOUT_S: Final = 60.0

_ID: Final = compile_re("[0-9a-f]{64}")
_OF_ANYBODY: Final = ReadScope(private_kinds=frozenset())
"""Reports by those who are banned are hidden, and do not count."""


async def needing_moderation(asked: Asked) -> list[dict[str, str]]:
    """Events that reports name and that nothing was decided about, with what the newest report says."""
    wanted = Filter(kinds=frozenset({REPORT}), limit=MAX_REPORTS)
    rows = ExportRows(asked.store, Query(filters=(wanted,), scope=_OF_ANYBODY, timeout_s=QUERY_TIMEOUT_S))
    reported = _Reported(asked.snapshot)
    try:
        while not reported.is_full and (raws := await rows.take()):
            for start in range(0, len(raws), SLICE_REPORTS):
                for raw in raws[start : start + SLICE_REPORTS]:
                    reported.add(raw)
                await asyncio.sleep(0)
    finally:
        rows.close()
    return [{"id": event_id, "reason": reason} for event_id, reason in reported.reasons.items()]


class _Reported:
    """Gathers what reports name; the newest report comes first.

    Attributes:
        reasons: By event id.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self.reasons: dict[str, str] = {}
        self._snapshot = snapshot
        self._n_reports: Counter[bytes] = Counter()
        self._n_reported: Counter[bytes] = Counter()

    @property
    def is_full(self) -> bool:
        """Whether no more events are told."""
        return len(self.reasons) >= MAX_REPORTED

    def add(self, raw: bytes) -> None:
        """Look into a report, unless enough is known, of all or of its author."""
        by = raw[PUBKEY_IN_JSON]
        if self.is_full or self._n_reports[by] >= MAX_REPORTS_BY_ONE or self._n_reported[by] >= MAX_REPORTED_BY_ONE:
            return
        self._n_reports[by] += 1
        for event_id, reason in _named(decode_stored(raw)):
            if event_id in self.reasons or _is_decided(self._snapshot, bytes.fromhex(event_id)):
                continue
            if self.is_full or self._n_reported[by] >= MAX_REPORTED_BY_ONE:
                return
            self.reasons[event_id] = reason
            self._n_reported[by] += 1


def _named(report: Event) -> Iterator[tuple[str, str]]:
    for tag in report.tags[:MAX_TAGS]:
        if tag[0] == "e" and len(tag) > 1 and _ID.fullmatch(tag[1]) is not None:
            words = [tag[2] if len(tag) > 2 else "", report.content]
            yield tag[1], ": ".join(each[:MAX_REASON_CHARACTERS] for each in words if each)[:MAX_REASON_CHARACTERS]


def _is_decided(snapshot: Snapshot, event_id: bytes) -> bool:
    names = [ListName.BANNED_EVENTS, ListName.ALLOWED_EVENTS]
    if snapshot.rules.mode is Mode.CURATING:
        names.append(ListName.SPAM_EVENTS)
    return any(event_id in snapshot.keys[name] for name in names)
