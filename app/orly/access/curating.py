"""The configuration of the mode `curating`: an event of kind 30078 with the `d` tag `curating-config`.

Its tags are those of ORLY's curation document; where it has none of them, its content may hold the same as JSON.
"""

from re import compile as compile_re
from typing import Final

import msgspec

from orly.nostr.event import Event
from orly.nostr.kinds import MAX_KIND
from orly.nostr.reason import Prefix, Refusal
from orly.nostr.tags import d_value, values

__all__ = [
    "A_DAY",
    "CATEGORIES",
    "CONFIG_D",
    "CONFIG_KIND",
    "CuratingConfig",
    "CuratingConfigError",
    "is_config",
    "parse_config",
    "refuse_config",
    "refuse_over",
]

A_DAY: Final = "events a day are taken"
"""Part of a refusal with the prefix `rate-limited`: no more will be taken today."""

CONFIG_KIND: Final = 30_078
CONFIG_D: Final = "curating-config"

MAX_LIMIT: Final = 1_000_000_000
MAX_BAN_HOURS: Final = 24 * 365 * 100

CATEGORIES: Final[dict[str, frozenset[int]]] = {
    "social": frozenset({0, 1, 3, 6, 7, 10_002}),
    "dm": frozenset({4, 14, 1059}),
    "longform": frozenset({30_023, 30_024}),
    "media": frozenset({1063, 20, 21, 22}),
    "lists": frozenset({10_000, 10_001, 10_003, 30_000, 30_001, 30_003}),
    "groups_nip29": frozenset({9, 10, 11, 12, 9000, 9001, 9002, 39_000, 39_001, 39_002}),
    "groups_nip72": frozenset({34_550, 1111, 4550}),
    "marketplace_nip15": frozenset({30_017, 30_018, 30_019, 30_020, 1021, 1022}),
    "marketplace": frozenset({30_017, 30_018, 30_019, 30_020, 1021, 1022}),
    "marketplace_nip99": frozenset({30_402, 30_403, 30_405, 30_406, 31_555}),
    "order_communication": frozenset({16, 17}),
}
"""Kinds by the names that a configuration may use for them."""

_COUNT: Final = compile_re(r"[0-9]{1,10}")
_RANGE: Final = compile_re(r"([0-9]{1,5})-([0-9]{1,5})")
_CONFIG_TAGS: Final = frozenset(
    {"daily_limit", "ip_daily_limit", "first_ban_hours", "second_ban_hours", "kind_category", "kind", "kind_range"}
)


class CuratingConfigError(ValueError):
    """An event is no configuration; the text says what is wrong with it."""


class CuratingConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What the mode `curating` decides by.

    Attributes:
        daily_limit: Events that a key which is not trusted may publish on a day (UTC).
        ip_daily_limit: The same for an address, over all such keys.
        first_ban_hours: How long an address is blocked that went over a limit.
        second_ban_hours: How long each further time.
        categories: Names of groups of kinds, see `CATEGORIES`.
        kinds: Further kinds.
        ranges: Further kinds, from the first to the last of each pair.
    """

    daily_limit: int = 50
    ip_daily_limit: int = 500
    first_ban_hours: int = 1
    second_ban_hours: int = 168
    categories: tuple[str, ...] = ()
    kinds: tuple[int, ...] = ()
    ranges: tuple[tuple[int, int], ...] = ()

    def takes_kind(self, kind: int) -> bool:
        """Whether a kind may be published; where no kinds are named, every kind may."""
        if not (self.categories or self.kinds or self.ranges):
            return True
        return (
            kind in self.kinds
            or any(kind in CATEGORIES[name] for name in self.categories)
            or any(first <= kind <= last for first, last in self.ranges)
        )


class _Content(msgspec.Struct, frozen=True):
    """The JSON form."""

    dailyLimit: int = 50
    ipDailyLimit: int = 500
    firstBanHours: int = 1
    secondBanHours: int = 168
    kindCategories: tuple[str, ...] = ()
    allowedKinds: tuple[int, ...] = ()
    allowedRanges: tuple[str, ...] = ()


def is_config(event: Event) -> bool:
    """Whether an event wants to be the configuration; whose word counts is decided elsewhere."""
    return event.kind == CONFIG_KIND and d_value(event) == CONFIG_D


def parse_config(event: Event) -> CuratingConfig:
    """Read a configuration.

    Raises:
        CuratingConfigError: Names the tag, or the key of the JSON, that cannot be read.
    """
    if any(tag[0] in _CONFIG_TAGS for tag in event.tags):
        return _from_tags(event)
    return _from_content(event.content)


def refuse_config(event: Event) -> Refusal | None:
    """Why an event of an owner or admin must not replace the configuration; None if it may, or is none.

    It would take the place of the one before in the store, and the relay would have none that it can read.
    """
    if not is_config(event):
        return None
    try:
        parse_config(event)
    except CuratingConfigError as error:
        return Refusal(Prefix.INVALID, str(error))
    return None


def _from_tags(event: Event) -> CuratingConfig:
    return _checked(
        daily_limit=_count(event, "daily_limit", 50),
        ip_daily_limit=_count(event, "ip_daily_limit", 500),
        first_ban_hours=_count(event, "first_ban_hours", 1),
        second_ban_hours=_count(event, "second_ban_hours", 168),
        categories=tuple(values(event, "kind_category")),
        kinds=tuple(_number("kind", text) for text in values(event, "kind")),
        ranges=tuple(values(event, "kind_range")),
    )


def _count(event: Event, name: str, default: int) -> int:
    texts = list(values(event, name))
    if not texts:
        return default
    if len(texts) > 1:
        raise CuratingConfigError(f"{name} is there more than once")
    return _number(name, texts[0])


def _number(name: str, text: str) -> int:
    if not _COUNT.fullmatch(text):
        raise CuratingConfigError(f"{name} must be a whole number, not {text[:40]!r}")
    return int(text)


def _from_content(content: str) -> CuratingConfig:
    try:
        found = msgspec.json.decode(content or "{}", type=_Content)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise CuratingConfigError(f"its content is no configuration: {error}") from None
    return _checked(
        daily_limit=found.dailyLimit,
        ip_daily_limit=found.ipDailyLimit,
        first_ban_hours=found.firstBanHours,
        second_ban_hours=found.secondBanHours,
        categories=found.kindCategories,
        kinds=found.allowedKinds,
        ranges=found.allowedRanges,
    )


def _checked(
    *,
    daily_limit: int,
    ip_daily_limit: int,
    first_ban_hours: int,
    second_ban_hours: int,
    categories: tuple[str, ...],
    kinds: tuple[int, ...],
    ranges: tuple[str, ...],
) -> CuratingConfig:
    for name, value, most in (
        ("daily_limit", daily_limit, MAX_LIMIT),
        ("ip_daily_limit", ip_daily_limit, MAX_LIMIT),
        ("first_ban_hours", first_ban_hours, MAX_BAN_HOURS),
        ("second_ban_hours", second_ban_hours, MAX_BAN_HOURS),
    ):
        if not 0 <= value <= most:
            raise CuratingConfigError(f"{name} must be from 0 to {most}, not {value}")
    for category in categories:
        if category not in CATEGORIES:
            raise CuratingConfigError(f"kind_category {category[:40]!r} is none of {', '.join(CATEGORIES)}")
    for kind in kinds:
        if not 0 <= kind <= MAX_KIND:
            raise CuratingConfigError(f"kind {kind} is not from 0 to {MAX_KIND}")
    return CuratingConfig(
        daily_limit=daily_limit,
        ip_daily_limit=ip_daily_limit,
        first_ban_hours=first_ban_hours,
        second_ban_hours=second_ban_hours,
        categories=categories,
        kinds=kinds,
        ranges=tuple(_range(text) for text in ranges),
    )


def _range(text: str) -> tuple[int, int]:
    found = _RANGE.fullmatch(text)
    first, last = (int(found[1]), int(found[2])) if found else (1, 0)
    if not first <= last <= MAX_KIND:
        raise CuratingConfigError(f"kind_range must be two kinds with - between them, not {text[:40]!r}")
    return first, last


def refuse_over(config: CuratingConfig, n_of_author: int, n_from_place: int | None) -> Refusal | None:
    """Why no more events of an author who is not trusted are taken today; None if they are.

    Args:
        config: Has the limits.
        n_of_author: That many were today.
        n_from_place: That many came from the same place; None if that does not count.
    """
    if n_of_author >= config.daily_limit:
        most, who = config.daily_limit, "an author who is not trusted"
    elif n_from_place is not None and n_from_place >= config.ip_daily_limit:
        most, who = config.ip_daily_limit, "one address"
    else:
        return None
    return Refusal(Prefix.RATE_LIMITED, f"{most} {A_DAY} of {who}")
