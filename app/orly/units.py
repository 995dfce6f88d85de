"""Durations, sizes, switches and whole numbers as people write them, and back.

Parsers take the text of a setting or an option and raise `ValueError` with a message that says which forms are
accepted; the caller adds the name and the value. For every parser, parsing what its formatter wrote gives the
same value.
"""

import re
from decimal import Decimal
from fractions import Fraction
from typing import Final

KIB: Final = 1024
MIB: Final = 1024**2
GIB: Final = 1024**3
TIB: Final = 1024**4

MAX_DURATION_S: Final = 2**63 // 10**9
"""About 292 years, the longest duration that Go's notation can hold."""

MAX_SIZE_BYTES: Final = 2**63 - 1

_TRUE: Final = frozenset({"1", "t", "true", "y", "yes", "on"})
_FALSE: Final = frozenset({"0", "f", "false", "n", "no", "off"})

_NS_PER_UNIT: Final = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,  # U+00B5, what Go prints
    "μs": 10**3,  # U+03BC, what some keyboards type
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}
_NUMBER: Final = r"[0-9]{1,20}(?:\.[0-9]{0,20})?|\.[0-9]{1,20}"
_DURATION_PART: Final = re.compile(rf"({_NUMBER})(ns|us|µs|μs|ms|s|m|h)")
_DURATION: Final = re.compile(rf"(?:{_DURATION_PART.pattern}){{1,16}}")
_PLAIN: Final = re.compile(r"[0-9]{1,20}")

_BYTES_PER_UNIT: Final = {
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": KIB,
    "mib": MIB,
    "gib": GIB,
    "tib": TIB,
}
_SIZE: Final = re.compile(rf"({_NUMBER}) ?([kmgt]?i?b)", re.IGNORECASE)


def parse_bool(text: str) -> bool:
    """A switch in Go's spellings (1, t, true, 0, f, false), or yes, no, on, off; any case."""
    word = text.lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise ValueError("not true or false")


def format_bool(value: bool) -> str:
    """`true` or `false`."""
    return "true" if value else "false"


def parse_int(text: str) -> int:
    """A whole number in plain decimal digits, with a sign at most."""
    if re.fullmatch(r"[+-]?[0-9]{1,20}", text) is None:
        raise ValueError("not a whole number")
    return int(text)


def parse_duration(text: str) -> float:
    """A duration in Go's notation (25ms, 5m, 1h30m), or whole seconds without a unit; returns seconds."""
    if _PLAIN.fullmatch(text):
        total_ns = Fraction(int(text) * 10**9)
    elif _DURATION.fullmatch(text):
        parts = _DURATION_PART.findall(text)
        total_ns = sum((Fraction(number) * _NS_PER_UNIT[unit] for number, unit in parts), Fraction(0))
    elif text.startswith("-"):
        raise ValueError("a duration cannot be negative")
    else:
        raise ValueError("not a duration: write 25ms, 30s, 5m, 1h30m or whole seconds")
    if total_ns > MAX_DURATION_S * 10**9:
        raise ValueError("longer than 292 years")
    return float(total_ns / 10**9)


def format_duration(seconds: float) -> str:
    """Seconds (>= 0, to the nanosecond) in the notation that `parse_duration` reads: `1h30m`, `2.5s`, `25ms`."""
    total_ns = int((Decimal(repr(float(seconds))) * 10**9).to_integral_value())
    if 0 < total_ns < 10**9:
        unit = next(unit for unit in ("ms", "us", "ns") if total_ns % _NS_PER_UNIT[unit] == 0)
        return f"{total_ns // _NS_PER_UNIT[unit]}{unit}"
    minutes, rest_ns = divmod(total_ns, _NS_PER_UNIT["m"])
    hours, minutes = divmod(minutes, 60)
    whole, fraction = divmod(rest_ns, 10**9)
    rest = f"{whole}.{fraction:09}".rstrip("0").rstrip(".")
    parts = [f"{hours}h" if hours else "", f"{minutes}m" if minutes else "", f"{rest}s" if rest_ns else ""]
    return "".join(parts) or "0s"


def parse_size(text: str) -> int:
    """A size such as 512MiB, 64KiB or 10MB, or plain bytes without a unit; returns bytes."""
    if _PLAIN.fullmatch(text):
        size = Fraction(int(text))
    elif match := _SIZE.fullmatch(text):
        if match[2].lower() not in _BYTES_PER_UNIT:
            raise ValueError(f"no such unit as {match[2]}: write KiB, MiB, GiB, TiB, KB, MB, GB or TB")
        size = Fraction(match[1]) * _BYTES_PER_UNIT[match[2].lower()]
    else:
        raise ValueError("not a size: write 64KiB, 512MiB, 1TiB, 10MB or plain bytes")
    if size.denominator != 1:
        raise ValueError("not a whole number of bytes")
    if size > MAX_SIZE_BYTES:
        raise ValueError("more than 2^63 bytes")
    return int(size)


def format_size(size_bytes: int) -> str:
    """Bytes (>= 0) in the largest unit that divides them exactly, binary units first: `512MiB`, `10MB`, `1500B`."""
    for unit in ("TiB", "GiB", "MiB", "KiB", "TB", "GB", "MB", "KB"):
        count, rest = divmod(size_bytes, _BYTES_PER_UNIT[unit.lower()])
        if count and not rest:
            return f"{count}{unit}"
    return f"{size_bytes}B"
