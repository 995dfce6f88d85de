"""Management methods (NIP-86) about events and their authors: what a key has here, deleting it, who is new."""

import asyncio
from collections.abc import Sequence
from heapq import heappush, heapreplace
from typing import Final

import msgspec

from orly.access.commands import AddKey, CommandError
from orly.access.curating import CONFIG_D, CONFIG_KIND, CuratingConfig, is_config, refuse_config
from orly.access.levels import Mode
from orly.access.snapshot import DAY_S, ListName
from orly.nostr.event import ID_IN_JSON, decode_stored
from orly.nostr.filter import Filter
from orly.relay.management_lists import Asked
from orly.store.base import READ_ALL, EventStore, Query, StoreError

__all__ = [
    "curating_config",
    "delete_event",
    "delete_events_of",
    "events_of",
    "is_configured",
    "unclassified",
]

DELETE_PAGE: Final = 500

DELETED: Final = "deleted"
"""Why an event is banned that nobody banned before."""

QUERY_TIMEOUT_S: Final = 60.0

SLICE_USES: Final = 1_000
"""Of those that have published today, looked at at a stretch, 2 ms; then others on the loop have their turn."""


async def delete_event(asked: Asked, event_id: bytes) -> bool:
    """Remove an event for good: it is banned as well, lest it comes again. One that is not there is no error."""
    if event_id not in asked.snapshot.keys[ListName.BANNED_EVENTS]:
        await asked.access.change([AddKey(ListName.BANNED_EVENTS, event_id, DELETED)], by=asked.by)
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
    snapshot, used = asked.snapshot, asked.snapshot.used
    trusted, blacklisted = snapshot.trusted_pubkeys, snapshot.blacklisted_pubkeys
    if snapshot.day != asked.now_s // DAY_S:
        return []
    most: list[tuple[int, bytes]] = []  # a heap
    everybody = list(used)
    for start in range(0, len(everybody), SLICE_USES):
        if start:
            await asyncio.sleep(0)
        for who in everybody[start : start + SLICE_USES]:
            if not isinstance(who, bytes) or (len(most) == limit and (used[who], who) < most[0]):
                continue
            if who not in trusted and who not in blacklisted:
                (heappush if len(most) < limit else heapreplace)(most, (used[who], who))
    return [{"pubkey": who.hex(), "events": count} for count, who in sorted(most, reverse=True)]


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
