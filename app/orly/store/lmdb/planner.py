"""Choosing the index for a filter, and what of the filter is still to be checked on what it yields."""

from collections.abc import Container
from itertools import chain, islice
from typing import Final

import msgspec

from orly.nostr.filter import Filter
from orly.store.lmdb import keys
from orly.store.lmdb.scan import Scan

__all__ = ["MAX_PREFIXES", "Plan", "choose_plan", "is_common"]

MAX_PREFIXES: Final = 4096
"""More authors x kinds than this are not scanned one by one if another index will do."""

_COMMON: Final = 4
"""One in so many events is common: passing over the others costs less than looking each one up."""

_SAMPLE_EVENTS: Final = 128
_SAMPLE_ROWS: Final = 32
_SAMPLE_PREFIXES: Final = 4


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """One index and the parts of it to read.

    Attributes:
        index: The name of the table; `times` for all events.
        prefixes: What the keys start with; the parts are merged, newest first.
        kinds_done: Whether the index already guarantees the filter's kinds.
        fetch: Whether authors or tags remain, for which the event must be fetched.
    """

    index: str
    prefixes: list[bytes]
    kinds_done: bool
    fetch: bool


_ALL: Final = Plan(index="times", prefixes=[b""], kinds_done=True, fetch=False)


def _tag_plan(wanted: Filter, letter: str) -> Plan:
    prefixes = [keys.tag_prefix(letter, value) for value in wanted.tags[letter]]
    fetch = wanted.authors is not None or len(wanted.tags) > 1
    return Plan(index="tags", prefixes=prefixes, kinds_done=wanted.kinds is None, fetch=fetch)


def _author_plan(wanted: Filter) -> Plan:
    authors = [bytes.fromhex(author) for author in wanted.authors or ()]
    kinds = wanted.kinds
    if kinds is not None and len(authors) * len(kinds) <= MAX_PREFIXES:
        prefixes = [keys.author_kind_prefix(author, kind) for author in authors for kind in kinds]
        return Plan(index="author_kinds", prefixes=prefixes, kinds_done=True, fetch=bool(wanted.tags))
    return Plan(index="authors", prefixes=authors, kinds_done=kinds is None, fetch=bool(wanted.tags))


def _kind_plan(wanted: Filter) -> Plan:
    prefixes = [keys.kind_bytes(kind) for kind in wanted.kinds or ()]
    fetch = bool(wanted.tags) or wanted.authors is not None
    return Plan(index="kinds", prefixes=prefixes, kinds_done=True, fetch=fetch)


def choose_plan(scan: Scan, wanted: Filter, now_s: int) -> Plan:
    """The index that is likely to yield the fewest rows for a filter without ids.

    With several to choose from, a few rows of each are read: the one whose rows lie furthest apart in time has
    the fewest to offer.
    """
    candidates: list[Plan] = []
    if wanted.authors is not None:
        candidates.append(_author_plan(wanted))
    candidates.extend(_tag_plan(wanted, letter) for letter in wanted.tags)
    if wanted.kinds is not None and (wanted.authors is None or len(wanted.authors) > MAX_PREFIXES):
        candidates.append(_kind_plan(wanted))
    if not candidates:
        return _ALL
    if len(candidates) == 1:
        return candidates[0]
    return min(candidates, key=lambda plan: _rows_per_second(scan, plan, wanted, now_s))


def is_common(scan: Scan, kinds: Container[bytes], since: int, until: int) -> bool:
    """Whether many events of a time have one of some kinds (2 bytes each), as far as the newest of them tell."""
    chunks = scan.chunks("times", b"", since, until, _SAMPLE_EVENTS)
    rows = list(islice(chain.from_iterable(chunks), _SAMPLE_EVENTS))
    return sum(row[keys.KIND_SLICE] in kinds for row in rows) * _COMMON >= len(rows)


def _rows_per_second(scan: Scan, plan: Plan, wanted: Filter, now_s: int) -> float:
    """How densely the rows of a plan lie in time, from a small sample."""
    newest_s = min(wanted.until, max(now_s, wanted.since))
    sample = plan.prefixes[:: max(1, len(plan.prefixes) // _SAMPLE_PREFIXES)][:_SAMPLE_PREFIXES]
    density = 0.0
    for prefix in sample:
        chunks = scan.chunks(plan.index, prefix, wanted.since, wanted.until, _SAMPLE_ROWS)
        rows = list(islice(chain.from_iterable(chunks), _SAMPLE_ROWS))
        oldest_s = int.from_bytes(rows[-1][:8], "big") if len(rows) == _SAMPLE_ROWS else wanted.since
        density += len(rows) / max(newest_s - oldest_s, 1)
    return density * len(plan.prefixes) / max(len(sample), 1)
