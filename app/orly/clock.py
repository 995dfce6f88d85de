"""The one place that reads a clock; everything else is given the time."""

import time


def now_s() -> int:
    """Unix time in whole seconds, the unit of `created_at`."""
    return int(time.time())


def now() -> float:
    """Unix time in seconds with a fraction, for records and reports."""
    return time.time()


monotonic_s = time.monotonic
"""Seconds from an arbitrary point that never run backwards, for deadlines and intervals.

The function itself, not one around it: a request looks at it several times.
"""
