"""What hides events from most readers: their authors, or their ids."""

from collections.abc import Sequence
from typing import Final

import msgspec

__all__ = ["MAX_HIDDEN_KEYS", "HiddenKey", "check_hidden_keys"]

MAX_HIDDEN_KEYS: Final = 10_000
"""Hidden authors and ids told, or changed, at once."""


class HiddenKey(msgspec.Struct, frozen=True, gc=False):
    """What hides events.

    Attributes:
        key: 32 bytes: an author, all whose events are hidden, or the id of a single event.
        is_author: Which of the two.
    """

    key: bytes
    is_author: bool


def check_hidden_keys(wanted: Sequence[HiddenKey]) -> None:
    """Refuse keys that no store takes.

    Raises:
        ValueError: One has another length, or there are too many.
    """
    if len(wanted) > MAX_HIDDEN_KEYS:
        raise ValueError(f"{len(wanted)} keys are more than the {MAX_HIDDEN_KEYS} that may be changed at once")
    for each in wanted:
        if len(each.key) != 32:
            raise ValueError(f"an author, or an id, has 32 bytes, not {len(each.key)}")
