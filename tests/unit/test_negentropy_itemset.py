"""Sets of items: sorting, windows, changes that share, and the sums of any range."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.negentropy_items import FIRST_S, fingerprint_of, item_set, packed, row, row_lists, rows_of
from tests.strategies import QUICK

from orly.negentropy import INFINITY_S, ITEM_BYTES, ItemSet, NegentropyError
from orly.negentropy.pages import PAGE_ROWS


def fingerprint_at_every_edge(items: ItemSet) -> list[bytes]:
    """The fingerprints of ranges that begin and end around pages, blocks and the set itself."""
    edges = [0, 1, 15, 16, 17, PAGE_ROWS - 1, PAGE_ROWS, PAGE_ROWS + 1, 2 * PAGE_ROWS, len(items) - 1, len(items)]
    inside = sorted({edge for edge in edges if 0 <= edge <= len(items)})
    return [items.fingerprint(lower, upper) for lower in inside for upper in inside if lower <= upper]


@given(row_lists())
@QUICK
def test_a_set_is_sorted_and_has_each_row_once(rows: list[bytes]) -> None:
    items = item_set(rows)
    assert items.rows() == packed(rows)
    assert len(items) == len(set(rows))
    assert all(one in items for one in rows)
    assert ItemSet.from_rows(items.rows(), is_sorted=True).rows() == items.rows()
    assert ItemSet.from_rows(memoryview(bytearray(b"".join(rows)))).rows() == items.rows()


@given(row_lists(), row_lists())
@QUICK
def test_which_rows_are_held_is_found_for_many_at_once(rows: list[bytes], others: list[bytes]) -> None:
    items = item_set(rows)
    for part in (items, items.between(FIRST_S + 1, FIRST_S + 2), item_set([])):
        asked = sorted([*rows, *others, *rows[:3]])
        assert part.holds(b"".join(asked)) == [one in part for one in asked]
    assert items.holds(b"") == []


def test_ids_of_one_second_that_begin_alike_are_sorted_to_the_end() -> None:
    rows = [bytes(8) + b"\xaa" * 8 + bytes((number,)) * 24 for number in (7, 200, 3, 7, 255, 0)]
    assert item_set(rows).rows() == packed(rows)


@given(row_lists(), row_lists(), row_lists(max_size=10))
@QUICK
def test_a_changed_set_is_the_set_made_afresh(before: list[bytes], added: list[bytes], others: list[bytes]) -> None:
    removed = [*before[::3], *added[::5], *others]
    items = item_set(before)
    changed = items.changed(added=b"".join(added), removed=b"".join(removed))
    expected = item_set((set(before) - set(removed)) | set(added))
    assert changed.rows() == expected.rows()
    assert fingerprint_at_every_edge(changed) == fingerprint_at_every_edge(expected)
    assert items.rows() == packed(before)


@given(st.data())
@QUICK
def test_many_changes_over_many_pages(data: st.DataObject) -> None:
    present = set(rows_of(range(0, 3 * PAGE_ROWS, 2), per_second=7))
    items = item_set(present)
    numbers = st.integers(0, 4 * PAGE_ROWS)
    for _ in range(data.draw(st.integers(1, 4))):
        first = data.draw(numbers)
        added = rows_of(range(first, first + data.draw(st.sampled_from([0, 1, 40, 3 * PAGE_ROWS]))), per_second=7)
        first = data.draw(numbers)
        removed = rows_of(range(first, first + data.draw(st.sampled_from([0, 1, 40, 2 * PAGE_ROWS]))), per_second=7)
        items = items.changed(added=b"".join(added), removed=b"".join(removed))
        present = (present - set(removed)) | set(added)
        assert items.rows() == packed(present)
        assert fingerprint_at_every_edge(items) == fingerprint_at_every_edge(item_set(present))


def test_a_change_at_the_tail_shares_all_pages_but_the_last() -> None:
    items = item_set(rows_of(range(5 * PAGE_ROWS)))
    changed = items.changed(added=row(5 * PAGE_ROWS))
    assert [one is other for one, other in zip(items._pages, changed._pages, strict=True)] == [True] * 4 + [False]
    assert len(changed) == len(items) + 1


def test_a_change_of_nothing_is_the_same_set() -> None:
    items = item_set(rows_of(range(10)))
    assert items.changed() is items
    known = items.changed(added=row(3), removed=row(99))
    assert known._pages == items._pages


def test_one_row_at_a_time_leaves_no_page_too_large() -> None:
    items = item_set([])
    for number in range(2 * PAGE_ROWS + 10):
        items = items.changed(added=row(number))
    assert items.rows() == packed(rows_of(range(2 * PAGE_ROWS + 10)))
    assert max(map(len, items._pages)) < 2 * PAGE_ROWS


def test_removals_leave_no_crowd_of_small_pages() -> None:
    total = 64 * PAGE_ROWS
    items = item_set(rows_of(range(total)))
    kept = set(range(0, total, PAGE_ROWS // 2))
    items = items.changed(removed=b"".join(rows_of(number for number in range(total) if number not in kept)))
    assert items.rows() == packed(rows_of(kept))
    assert len(items._pages) == 1


@given(row_lists(), st.integers(-1, 5), st.integers(-1, 5))
@QUICK
def test_a_time_range_has_both_ends(rows: list[bytes], since_s: int, until_s: int) -> None:
    inside = [one for one in rows if since_s <= int.from_bytes(one[:8], "big") <= until_s]
    window = item_set(rows).between(since_s, until_s)
    assert window.rows() == packed(inside)
    assert len(window) == len(set(inside))
    assert [one in window for one in rows] == [one in inside for one in rows]
    assert window.fingerprint(0, len(window)) == fingerprint_of(set(inside))


def test_a_time_range_of_a_time_range_and_its_changes() -> None:
    items = item_set(rows_of(range(4 * PAGE_ROWS)))
    window = items.between(FIRST_S + 100, FIRST_S + 3 * PAGE_ROWS).between(0, FIRST_S + 2 * PAGE_ROWS)
    assert window.rows() == packed(rows_of(range(100, 2 * PAGE_ROWS + 1)))
    changed = window.changed(added=row(7), removed=row(100) + row(99))
    assert changed.rows() == packed(rows_of([7, *range(101, 2 * PAGE_ROWS + 1)]))
    assert any(page in items._pages for page in changed._pages)
    assert items.between(FIRST_S + 5, FIRST_S + 4).rows() == b""
    assert items.between(0, INFINITY_S).rows() == items.rows()
    assert items.between(FIRST_S + 5, FIRST_S + 4).changed(added=row(1)).rows() == row(1)


def test_items_are_removed_by_their_ids() -> None:
    items = item_set(rows_of(range(2 * PAGE_ROWS)))
    gone = {3, 4000, 2 * PAGE_ROWS - 1}
    smaller = items.without_ids([row(number)[8:] for number in (*gone, 999_999)])
    assert smaller.rows() == packed(rows_of(number for number in range(2 * PAGE_ROWS) if number not in gone))
    assert items.without_ids([]) is items
    alike = row(5)[8:16] + bytes(24)
    assert items.without_ids([alike]).rows() == items.rows()
    with pytest.raises(NegentropyError, match="an id has 31 bytes instead of 32"):
        items.without_ids([bytes(31)])


@given(row_lists(max_size=100))
@QUICK
def test_fingerprints_of_all_ranges(rows: list[bytes]) -> None:
    items = item_set(rows)
    ordered = sorted(set(rows))
    for lower, upper in pairwise([0, 0, 1, 15, 16, 17, 31, 40, len(ordered)]):
        if lower <= upper <= len(ordered):
            assert items.fingerprint(lower, upper) == fingerprint_of(ordered[lower:upper])


def test_rows_that_are_no_items_are_refused() -> None:
    with pytest.raises(NegentropyError, match=f"41 bytes are no whole number of items of {ITEM_BYTES} bytes"):
        ItemSet.from_rows(bytes(41))
    with pytest.raises(NegentropyError, match="stands for infinity"):
        ItemSet.from_rows(b"\xff" * 8 + bytes(32))
    with pytest.raises(NegentropyError, match="stands for infinity"):
        ItemSet.from_rows(bytes(40) + b"\xff" * 8 + bytes(32), is_sorted=True)
    with pytest.raises(NegentropyError, match="stands for infinity"):
        item_set([row(1)]).changed(added=b"\xff" * 40)
    assert len(ItemSet.from_rows((INFINITY_S - 1).to_bytes(8, "big") + b"\xff" * 32)) == 1


@pytest.mark.parametrize("size", [0, 39, 41, 80])
def test_what_is_no_row_cannot_be_looked_for(size: int) -> None:
    with pytest.raises(NegentropyError, match=f"a row has {size} bytes instead of 40"):
        assert bytes(size) not in item_set([row(1)])


@pytest.mark.parametrize("last", [row(1), row(0)])
def test_rows_that_should_be_sorted_and_are_not_are_refused(last: bytes) -> None:
    with pytest.raises(NegentropyError, match="row 2 is not above the row before"):
        ItemSet.from_rows(row(0) + row(1) + last, is_sorted=True)
