"""What a sync may be asked for."""

from typing import Any

import pytest

from orly.nostr.filter import Filter
from orly.sync.negentropy.request import MAX_BATCH_EVENTS, MIN_FRAME_BYTES, Direction, SyncRequest


def request(**options: Any) -> SyncRequest:
    return SyncRequest(url="ws://127.0.0.1:1", filter=Filter(), direction=Direction.BOTH, **options)


def test_the_edges_are_taken() -> None:
    for options in (
        {"batch_events": 1},
        {"batch_events": MAX_BATCH_EVENTS},
        {"frame_bytes": 0},
        {"frame_bytes": MIN_FRAME_BYTES},
        {"timeout_s": 0.001},
        {"auth_key": bytes(32)},
    ):
        request(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"batch_events": 0},
        {"batch_events": MAX_BATCH_EVENTS + 1},
        {"frame_bytes": MIN_FRAME_BYTES - 1},
        {"frame_bytes": -1},
        {"timeout_s": 0.0},
        {"timeout_s": float("nan")},
        {"auth_key": bytes(31)},
    ],
)
def test_what_is_out_of_range_is_named(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        request(**options)


def test_directions() -> None:
    assert [(each.pulls, each.pushes) for each in Direction] == [
        (True, False),
        (False, True),
        (True, True),
        (False, False),
    ]
    assert Direction("both") is Direction.BOTH
