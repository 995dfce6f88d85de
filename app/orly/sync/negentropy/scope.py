"""Which events are synced in the background, from the settings."""

from typing import TYPE_CHECKING, Final

import msgspec

from orly.nostr.filter import Filter, FilterLimits, parse_filter

if TYPE_CHECKING:
    from orly.settings import Settings

__all__ = ["narrowed", "scope_from_settings"]

_LIMITS: Final = FilterLimits(max_values=100_000)


def scope_from_settings(settings: "Settings") -> Filter:
    """`ORLY_SYNC_NEGENTROPY_FILTER`, with the keys that its four single variables override."""
    text = settings.sync_negentropy_filter
    wanted = parse_filter(msgspec.json.decode(text), _LIMITS) if text else Filter()
    if settings.sync_negentropy_filter_kinds:
        wanted = msgspec.structs.replace(wanted, kinds=frozenset(settings.sync_negentropy_filter_kinds))
    if settings.sync_negentropy_filter_authors:
        wanted = msgspec.structs.replace(wanted, authors=frozenset(settings.sync_negentropy_filter_authors))
    if settings.sync_negentropy_filter_since is not None:
        wanted = msgspec.structs.replace(wanted, since=settings.sync_negentropy_filter_since)
    if settings.sync_negentropy_filter_until is not None:
        wanted = msgspec.structs.replace(wanted, until=settings.sync_negentropy_filter_until)
    return wanted


def narrowed(wanted: Filter, *, since_s: int | None = None, until_s: int | None = None) -> Filter:
    """The filter with tighter times: of two lower bounds the later holds, of two upper ones the earlier."""
    return msgspec.structs.replace(
        wanted,
        since=wanted.since if since_s is None else max(wanted.since, since_s),
        until=wanted.until if until_s is None else min(wanted.until, until_s),
    )
