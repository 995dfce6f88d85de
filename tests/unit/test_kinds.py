"""Kind numbers at the borders of every range."""

import pytest

from orly.nostr.kinds import (
    EPHEMERAL_RANGE,
    MAX_KIND,
    PRIVATE_KINDS,
    UNPUBLISHABLE_KINDS,
    KindClass,
    classify,
    is_ephemeral,
)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (0, KindClass.REPLACEABLE),
        (1, KindClass.REGULAR),
        (2, KindClass.REGULAR),
        (3, KindClass.REPLACEABLE),
        (4, KindClass.REGULAR),
        (5, KindClass.REGULAR),
        (41, KindClass.REGULAR),
        (9_999, KindClass.REGULAR),
        (10_000, KindClass.REPLACEABLE),
        (19_999, KindClass.REPLACEABLE),
        (20_000, KindClass.EPHEMERAL),
        (29_999, KindClass.EPHEMERAL),
        (30_000, KindClass.ADDRESSABLE),
        (39_999, KindClass.ADDRESSABLE),
        (40_000, KindClass.REGULAR),
        (MAX_KIND, KindClass.REGULAR),
    ],
)
def test_the_border_of_a_range_belongs_to_it(kind: int, expected: KindClass) -> None:
    assert classify(kind) is expected


def test_ephemeral_is_told_the_same_way_everywhere() -> None:
    for kind in range(MAX_KIND + 1):
        assert is_ephemeral(kind) == (kind in EPHEMERAL_RANGE) == (classify(kind) is KindClass.EPHEMERAL)


def test_direct_messages_and_gift_wraps_are_private() -> None:
    assert {4, 13, 14, 15, 1059, 1060} <= PRIVATE_KINDS
    assert not PRIVATE_KINDS & {0, 1, 3, 5, 62, 10_002}


def test_credentials_are_never_published() -> None:
    assert {22_242, 27_235} == UNPUBLISHABLE_KINDS
    assert all(is_ephemeral(kind) for kind in UNPUBLISHABLE_KINDS)
