"""Markers: small named values that services keep beside the events."""

from collections.abc import Mapping
from typing import Final

import msgspec

__all__ = [
    "MAX_MARKERS",
    "MAX_MARKERS_BYTES",
    "MAX_MARKER_BYTES",
    "MAX_MARKER_KEY_BYTES",
    "Marker",
    "check_marker_changes",
    "check_marker_range",
]

MAX_MARKER_KEY_BYTES: Final = 400
"""The name of a marker in UTF-8; an index key of the store has no room for much more."""

MAX_MARKER_BYTES: Final = 64 * 1024
"""The value of one marker."""

MAX_MARKERS: Final = 1_000
"""Markers told, or changed, at once."""

MAX_MARKERS_BYTES: Final = 4 * 1024 * 1024
"""Their keys and values together."""


class Marker(msgspec.Struct, frozen=True, gc=False):
    """A small value that a service keeps beside the events, under a name of its own."""

    key: str
    value: bytes


def check_marker_changes(changes: Mapping[str, bytes | None]) -> None:
    """Refuse markers that no store takes.

    Raises:
        ValueError: Names the marker and its limit.
    """
    if len(changes) > MAX_MARKERS:
        raise ValueError(f"{len(changes)} markers are more than the {MAX_MARKERS} that may be changed at once")
    for key, value in changes.items():
        if not 0 < len(key.encode()) <= MAX_MARKER_KEY_BYTES:
            raise ValueError(f"the key of a marker must have 1 to {MAX_MARKER_KEY_BYTES} bytes: {key[:80]!r}")
        if value is not None and len(value) > MAX_MARKER_BYTES:
            raise ValueError(f"the marker {key!r} has {len(value)} bytes, the maximum is {MAX_MARKER_BYTES}")
    n_bytes = sum(len(key.encode()) + len(value or b"") for key, value in changes.items())
    if n_bytes > MAX_MARKERS_BYTES:
        raise ValueError(f"markers of {n_bytes} bytes are more than the {MAX_MARKERS_BYTES} that are changed at once")


def check_marker_range(prefix: str, after: str) -> None:
    """Refuse to look for markers that cannot be there.

    Raises:
        ValueError: Names what is too long.
    """
    for name, text in (("prefix", prefix), ("after", after)):
        if len(text.encode()) > MAX_MARKER_KEY_BYTES:
            raise ValueError(f"{name} is longer than a marker's key may be, {MAX_MARKER_KEY_BYTES} bytes")
