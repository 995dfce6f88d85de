"""Points in time as `orly sync` takes them: seconds since 1970, or an age such as `2M`."""

import re
from fractions import Fraction
from typing import Final

__all__ = ["parse_age", "parse_range", "parse_time"]

_DAY_S: Final = 86_400
_SECONDS_PER_UNIT: Final = {
    "s": Fraction(1),
    "m": Fraction(60),
    "h": Fraction(3_600),
    "d": Fraction(_DAY_S),
    "w": Fraction(7 * _DAY_S),
    "M": Fraction(305, 10) * _DAY_S,
    "Y": Fraction(3_652_425, 10_000) * _DAY_S,
}
_AGE: Final = re.compile(r"([0-9]{1,18}(?:\.[0-9]{0,18})?|\.[0-9]{1,18})([smhdwMY])")
_SECONDS: Final = re.compile(r"[0-9]{1,18}")
_UNITS: Final = "a number with s, m, h, d, w, M (30.5 days) or Y"


def parse_age(text: str, now_s: int) -> int:
    """The time that lies so far back, in whole seconds since 1970; never before 1970.

    Args:
        text: A number with a unit, as strfry writes it: s, m, h, d, w, M (30.5 days), Y (365.2425 days).
        now_s: Unix time.

    Raises:
        ValueError: It is no age.
    """
    match = _AGE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not an age: write {_UNITS}")
    return max(0, now_s - int(Fraction(match[1]) * _SECONDS_PER_UNIT[match[2]]))


def parse_time(text: str, now_s: int) -> int:
    """Seconds since 1970, or an age.

    Raises:
        ValueError: It is neither.
    """
    if _SECONDS.fullmatch(text):
        return int(text)
    try:
        return parse_age(text, now_s)
    except ValueError:
        raise ValueError(f"{text!r} is not a time: write seconds since 1970, or how long ago as {_UNITS}") from None


def parse_range(text: str, now_s: int) -> tuple[int | None, int | None]:
    """The first and the last second of `START-END`, as strfry has it: two ages, each of which may be left out.

    Raises:
        ValueError: It is no range, or ends before it starts.
    """
    start, dash, end = text.partition("-")
    if not dash:
        raise ValueError(f"{text!r} has no dash: write START-END such as 2M- or 1Y-3w")
    since = parse_age(start, now_s) if start else None
    until = parse_age(end, now_s) if end else None
    if since is not None and until is not None and since > until:
        raise ValueError(f"{text!r} ends before it starts")
    return since, until
