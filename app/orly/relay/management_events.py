"""Management methods (NIP-86) about events and their authors: what was reported, what a key has here, deleting it."""

import asyncio
from collections.abc import Iterator, Sequence
from re import compile as compile_re
from typing import Final

import msgspec

from orly.access.commands import MAX_REASON_CHARACTERS, CommandError
from orly.access.curating import CONFIG_D, CONFIG_KIND, CuratingConfig, is_config, refuse_config
from orly.access.levels import Mode
from orly.access.snapshot import ListName, Snapshot
from orly.nostr.event import ID_IN_JSON, Event, decode_stored
from orly.nostr.filter import Filter
from orly.relay.management_lists import Asked
from orly.store.base import READ_ALL, EventStore, Query, ReadScope, StoreError

__all__ = [
    "MAX_REPORTED",
    "MAX_REPORTS",
    "curating_config",
    "delete_event",
    "delete_events_of",
    "events_of",
    "is_configured",
    "needing_moderation",
    "unclassified",
]

REPORT: Final = 1984
"""Kind of a report (NIP-56)."""

MAX_REPORTS: Final = 500
"""The newest reports that are looked at."""

MAX_REPORTED: Final = 1000
"""Reported events that are told at once."""

DELETE_PAGE: Final = 500

QUERY_TIMEOUT_S: Final = 60.0

_DAY_S: Final = 24 * 60 * 60
_ID: Final = compile_re("[0-9a-f]{64}")
_OF_ANYBODY: Final = ReadScope(private_kinds=frozenset())
"""Reports by those who are banned are hidden, and do not count."""


async def needing_moderation(asked: Asked) -> list[dict[str, str]]:
    """Events that reports name and that nothing was decided about, with what the newest report says."""
    wanted = Filter(kinds=frozenset({REPORT}), limit=MAX_REPORTS)
    raws = await asked.store.fetch(Query(filters=(wanted,), scope=_OF_ANYBODY, timeout_s=QUERY_TIMEOUT_S))
    found: dict[str, str] = {}
    for raw in raws:
        for event_id, reason in _reported(decode_stored(raw)):
            if len(found) < MAX_REPORTED and not _is_decided(asked.snapshot, bytes.fromhex(event_id)):
                found.setdefault(event_id, reason)
    return [{"id": event_id, "reason": reason} for event_id, reason in found.items()]


def _reported(report: Event) -> Iterator[tuple[str, str]]:
    for tag in report.tags:
        if tag[0] == "e" and len(tag) > 1 and _ID.fullmatch(tag[1]) is not None:
            words = [tag[2] if len(tag) > 2 else "", report.content]
            yield tag[1], ": ".join(filter(None, words))[:MAX_REASON_CHARACTERS]


def _is_decided(snapshot: Snapshot, event_id: bytes) -> bool:
    names = [ListName.BANNED_EVENTS, ListName.ALLOWED_EVENTS]
    if snapshot.rules.mode is Mode.CURATING:
        names.append(ListName.SPAM_EVENTS)
    return any(event_id in snapshot.keys[name] for name in names)


async def delete_event(asked: Asked, event_id: bytes) -> bool:
    """Remove an event for good; one that is not there is no error."""
    await asked.store.delete([event_id])
    return True


async def events_of(asked: Asked, pubkey: bytes, limit: int, offset: int) -> dict[str, object]:
    """A page of a key's events, newest first, and how many there are."""
    authors = frozenset({pubkey.hex()})
    page = await _page(asked.store, Filter(authors=authors, limit=offset + limit), offset)
    total = await asked.store.count(Query(filters=(Filter(authors=authors),), timeout_s=QUERY_TIMEOUT_S))
    return {"events": [msgspec.Raw(raw) for raw in page], "total": total}


async def delete_events_of(asked: Asked, pubkey: bytes) -> int:
    """Remove all that a banned key has here; returns how many events that were.

    Raises:
        CommandError: The key is not banned.
    """
    snapshot = asked.snapshot
    names = [ListName.BANNED_PUBKEYS]
    if snapshot.rules.mode is Mode.CURATING:
        names.append(ListName.BLACKLISTED_PUBKEYS)
    if pubkey in snapshot.rules.owners or pubkey in snapshot.rules.admins:
        raise CommandError("the events of owners and admins are not deleted")
    if not any(pubkey in snapshot.keys[name] for name in names):
        raise CommandError(f"this key is not on any of: {', '.join(name.value for name in names)}; its events stay")
    wanted = Query(filters=(Filter(authors=frozenset({pubkey.hex()}), limit=DELETE_PAGE),), timeout_s=QUERY_TIMEOUT_S)
    deleted = 0
    while raws := await asked.store.fetch(wanted):
        removed = await asked.store.delete([bytes.fromhex(raw[ID_IN_JSON].decode()) for raw in raws])
        if not removed:  # somebody else deletes them as well
            break
        deleted += removed
    return deleted


async def unclassified(asked: Asked, limit: int) -> list[dict[str, object]]:
    """Keys about which nothing was decided and that have published today, those with the most events first."""
    snapshot = asked.snapshot
    decided = [snapshot.keys[ListName.TRUSTED_PUBKEYS], snapshot.keys[ListName.BLACKLISTED_PUBKEYS]]
    if snapshot.day != asked.now_s // _DAY_S:
        return []
    counts = [
        (-count, who.hex())
        for who, count in snapshot.used.items()
        if isinstance(who, bytes) and not any(who in keys for keys in decided)
    ]
    return [{"pubkey": pubkey, "events": -count} for count, pubkey in sorted(counts)[:limit]]


async def curating_config(asked: Asked) -> dict[str, object]:
    """The configuration of the mode `curating`; some of it has the names that web pages for ORLY know as well."""
    config = asked.snapshot.curating or CuratingConfig()
    ranges = [f"{first}-{last}" for first, last in config.ranges]
    return {
        "is_configured": asked.snapshot.curating is not None,
        "daily_limit": config.daily_limit,
        "ip_daily_limit": config.ip_daily_limit,
        "first_ban_hours": config.first_ban_hours,
        "second_ban_hours": config.second_ban_hours,
        "kind_categories": config.categories,
        "allowed_kinds": config.kinds,
        "allowed_ranges": ranges,
        "categories": config.categories,
        "custom_kinds": config.kinds,
        "kind_ranges": ranges,
        "problems": await _unreadable_configs(asked),
    }


async def _unreadable_configs(asked: Asked) -> list[str]:
    """What is wrong with those that are passed over: they are newer than the one that holds, but cannot be read."""
    rules = asked.snapshot.rules
    wanted = Filter(
        kinds=frozenset({CONFIG_KIND}),
        authors=frozenset(map(bytes.hex, rules.owners | rules.admins)),
        tags={"d": frozenset({CONFIG_D})},
    )
    found: list[str] = []
    for raw in await asked.store.fetch(Query(filters=(wanted,), timeout_s=QUERY_TIMEOUT_S)):
        event = decode_stored(raw)
        if not is_config(event):
            continue
        if (refusal := refuse_config(event)) is None:
            break
        found.append(f"event {event.id} of {event.pubkey}: {refusal.detail}")
    return found


async def is_configured(asked: Asked) -> bool:
    """Whether the mode `curating` has a configuration."""
    return asked.snapshot.curating is not None


async def _page(store: EventStore, wanted: Filter, skipped: int) -> list[bytes]:
    """An answer without its first events, which are not kept in memory."""
    sink = _Page(skipped)
    handle = store.query(Query(filters=(wanted,), scope=READ_ALL, timeout_s=QUERY_TIMEOUT_S), sink)
    try:
        return await sink.result
    finally:
        handle.cancel()


class _Page:
    def __init__(self, skipped: int) -> None:
        self.result: asyncio.Future[list[bytes]] = asyncio.get_running_loop().create_future()
        self._left = skipped
        self._kept: list[bytes] = []

    def rows(self, events: Sequence[bytes]) -> bool:
        self._kept += events[self._left :]
        self._left = max(self._left - len(events), 0)
        return True

    def done(self, through_serial: int) -> None:
        if not self.result.done():
            self.result.set_result(self._kept)

    def failed(self, error: StoreError) -> None:
        if not self.result.done():
            self.result.set_exception(error)
