"""Hypothesis strategies that tests share: events, filters that are likely to hit them, and broken input."""

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from tests.factory import KEYS, fake_event, make_event

from orly.nostr.event import MAX_CREATED_AT, EncodedEvent
from orly.nostr.filter import Filter
from orly.nostr.kinds import MAX_KIND

__all__ = [
    "KINDS",
    "QUICK",
    "SOME_KEYS",
    "TAG_VALUES",
    "contents",
    "created_ats",
    "events",
    "filters",
    "junk_json",
    "kinds",
    "mutated",
    "respelled",
    "signed_events",
    "tag_lists",
    "tag_values",
    "texts",
    "to_json",
]

_T = TypeVar("_T")

QUICK: Final = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""For the unit tier. No deadline: the machine may be busy."""

SOME_KEYS: Final = range(3)
"""Few authors, kinds, times and tag values, so that events collide and filters hit."""
KINDS: Final = (0, 1, 3, 7, 1059, 10_002, 20_001, 30_023)
TAG_VALUES: Final = ("", "x", "y", "xy", KEYS[0], KEYS[1], f"30023:{KEYS[0]}:x")
_TIMES: Final = 12
_LETTERS: Final = "deptX"
_ODD_CHARACTERS: Final = '\x00\x01\x08\t\n\x0b\x0c\r\x1f "\\/\x7f\x80é\u2028\u2029\ufeff\ufffd😀\U0010ffff'


def texts(max_size: int = 20) -> SearchStrategy[str]:
    """Text that can be encoded, in which the characters with an escape are frequent."""
    any_character = st.characters(exclude_categories=["Cs"])
    return st.text(st.one_of(st.sampled_from(_ODD_CHARACTERS), any_character), max_size=max_size)


contents = texts


def kinds() -> SearchStrategy[int]:
    """Mostly one of `KINDS`."""
    return st.one_of(st.sampled_from(KINDS), st.sampled_from(KINDS), st.integers(0, MAX_KIND))


def created_ats() -> SearchStrategy[int]:
    """Mostly a few close ones, sometimes the ends of the range."""
    return st.one_of(
        st.integers(0, _TIMES), st.integers(0, _TIMES), st.sampled_from([MAX_CREATED_AT - 1, MAX_CREATED_AT])
    )


def tag_values() -> SearchStrategy[str]:
    """Mostly one of `TAG_VALUES`."""
    return st.one_of(st.sampled_from(TAG_VALUES), st.sampled_from(TAG_VALUES), texts(6))


def tag_lists(max_size: int = 4) -> SearchStrategy[list[list[str]]]:
    """Tags of events: bare ones, longer ones, and names of more than one letter too."""
    names = st.sampled_from([*_LETTERS, "long", "é", ""])
    tag = st.builds(lambda name, rest: [name, *rest], names, st.lists(tag_values(), max_size=2))
    return st.lists(tag, max_size=max_size)


def events(
    *,
    keys: Sequence[int] = SOME_KEYS,
    kind: SearchStrategy[int] | None = None,
    created_at: SearchStrategy[int] | None = None,
) -> SearchStrategy[EncodedEvent]:
    """Events with a right id and a constant, wrong signature: for stores and filters.

    Args:
        keys: Numbers of the authors in `KEYS`.
        kind: Other kinds than `kinds()`.
        created_at: Other times than `created_ats()`.
    """
    return st.builds(
        fake_event,
        st.sampled_from(keys),
        kinds() if kind is None else kind,
        created_ats() if created_at is None else created_at,
        tag_lists(),
        texts(8),
    )


@lru_cache(maxsize=1)
def _signed_pool() -> list[EncodedEvent]:
    return [
        make_event(n % 3, KINDS[n % len(KINDS)], n, [[_LETTERS[n % 5], value]], f"content {value} {odd}")
        for n, (value, odd) in enumerate(zip(TAG_VALUES * 3, _ODD_CHARACTERS, strict=False))
    ]


def signed_events() -> SearchStrategy[EncodedEvent]:
    """Events that verify, out of a small pool that is signed once."""
    return st.deferred(lambda: st.sampled_from(_signed_pool()))


def filters(
    known: Sequence[EncodedEvent] = (), *, limits: SearchStrategy[int | None] | None = None
) -> SearchStrategy[Filter]:
    """Filters that are biased to match some, but not all, of what `events()` makes.

    Args:
        known: Events whose ids the filters may name.
        limits: None = mostly without, sometimes small.
    """
    ids = st.sampled_from([*(event.event.id for event in known), "0" * 64])
    some_keys = st.sampled_from([KEYS[n] for n in SOME_KEYS] + ["f" * 64])
    since_until = st.tuples(st.integers(0, _TIMES), st.integers(0, _TIMES)).map(sorted)
    window = st.one_of(
        st.just([0, MAX_CREATED_AT]), since_until, st.tuples(st.integers(0, _TIMES), st.integers(-1, _TIMES))
    )
    few_limits = st.one_of(st.none(), st.none(), st.integers(0, 6)) if limits is None else limits

    def build(window: Sequence[int], **rest: Any) -> Filter:
        return Filter(since=window[0], until=window[1], **rest)

    return st.builds(
        build,
        window=window,
        ids=_rarely(st.frozensets(ids, max_size=4)),
        authors=_rarely(st.frozensets(some_keys, max_size=3)),
        kinds=_rarely(st.frozensets(kinds(), max_size=5)),
        tags=st.dictionaries(st.sampled_from(_LETTERS), st.frozensets(tag_values(), max_size=4), max_size=2),
        limit=few_limits,
    )


def _rarely(wanted: SearchStrategy[_T]) -> SearchStrategy[_T | None]:
    return st.one_of(st.none(), st.none(), wanted)


def to_json(wanted: Filter) -> dict[str, Any]:
    """The filter as a client would write it; conditions that ask for nothing are left out."""
    found: dict[str, Any] = {f"#{letter}": sorted(choices) for letter, choices in wanted.tags.items()}
    for name in ("ids", "authors", "kinds"):
        if (values := getattr(wanted, name)) is not None:
            found[name] = sorted(values)
    if wanted.since != 0:
        found["since"] = wanted.since
    if wanted.until != MAX_CREATED_AT:
        found["until"] = wanted.until
    if wanted.limit is not None:
        found["limit"] = wanted.limit
    return found


def junk_json(max_leaves: int = 12) -> SearchStrategy[Any]:
    """Any JSON value; object keys are often ones that mean something in an event or a filter."""
    leaves = st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**70), 2**70),
        st.floats(allow_nan=False, allow_infinity=False),
        texts(8),
        st.sampled_from(TAG_VALUES),
    )
    names = st.one_of(
        st.sampled_from(["id", "ids", "authors", "kind", "kinds", "tags", "#e", "#ee", "since", "limit", "sig"]),
        texts(4),
    )
    return st.recursive(
        leaves,
        lambda inner: st.one_of(st.lists(inner, max_size=5), st.dictionaries(names, inner, max_size=5)),
        max_leaves=max_leaves,
    )


@st.composite
def respelled(draw: st.DrawFn, fields: dict[str, object]) -> bytes:
    """The same JSON object in other words: another order of keys, white space, escapes, and unknown keys."""
    names = draw(st.permutations([*fields, "unknown"]))
    space = st.text(" \t\r\n", max_size=2)
    members = []
    for name in names:
        value = json.dumps(fields.get(name, {"nested": [1.5, None]}), ensure_ascii=draw(st.booleans()))
        spelled = _escape(name, draw(st.integers(0, len(name))))
        members.append(f"{draw(space)}{spelled}{draw(space)}:{draw(space)}{value}{draw(space)}")
    return f"{draw(space)}{{{','.join(members)}}}{draw(space)}".encode()


def _escape(name: str, first: int) -> str:
    return '"' + name[:first] + "".join(f"\\u{ord(character):04X}" for character in name[first:]) + '"'


@st.composite
def mutated(draw: st.DrawFn, sources: SearchStrategy[bytes]) -> bytes:
    """Valid bytes with one to three accidents: a flipped bit, a cut, a repeat, a splice with other bytes."""
    data = draw(sources)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        to = draw(st.integers(at, len(data)))
        match draw(st.sampled_from(["flip", "cut", "remove", "repeat", "insert"])):
            case "flip" if at < len(data):
                flipped = data[at] ^ (1 << draw(st.integers(0, 7)))
                data = data[:at] + bytes([flipped]) + data[at + 1 :]
            case "cut":
                data = data[:at]
            case "remove":
                data = data[:at] + data[to:]
            case "repeat":
                data = data[:to] + data[at:]
            case _:
                data = data[:at] + draw(st.one_of(sources, st.binary(max_size=6))) + data[at:]
    return data
