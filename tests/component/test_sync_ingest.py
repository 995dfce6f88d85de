"""The door for pulled events: the rules that clients face, in batches, into the store and its feed."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs
from tests.component.async_test import async_test
from tests.component.store_proxy import StoreProxy
from tests.component.sync_side import POLICY, Side, hex_ids, notes, side
from tests.factory import (
    FAKE_SIG,
    KEYS,
    NOW_S,
    delete_event,
    event_json,
    expiring_event,
    fake_event,
    make_event,
    vanish_event,
)

from orly.access.decide import NO_SNAPSHOT
from orly.access.levels import Mode
from orly.access.snapshot import KeyChange, KindChange, ListName, Rules, Snapshot
from orly.nostr.event import EncodedEvent
from orly.nostr.filter import Filter
from orly.store.base import SaveResult, SaveStatus, StoreError
from orly.sync.ingest import SLICE_EVENTS, Deferral, Door, OfferResult


def door_of(own: Side, **limits: Any) -> Door:
    return Door(own.store, structs.replace(POLICY, **limits), own.verifier, own.now_s)


async def offer(own: Side, *events: EncodedEvent, **limits: Any) -> OfferResult:
    """Offer events that were all asked for."""
    wanted = {event.id for event in events}
    result = await door_of(own, **limits).offer([event.raw for event in events], wanted)
    assert wanted == set()
    assert result.n_unasked == 0
    return result


@async_test
async def test_good_events_are_stored_and_told_on_the_feed(tmp_path: Path) -> None:
    events = notes(*range(3 * SLICE_EVENTS + 1))
    async with side(tmp_path) as own:
        feed = own.store.feed(None)
        result = await offer(own, *events)
        assert result.stored == [event.id for event in events]
        assert await own.ids() == hex_ids(events)
        told: list[bytes] = []
        while len(told) < len(events):
            told += [item.event.id for item in (await anext(feed)).stored]
        assert told == result.stored
        again = await offer(own, *events)
        assert (again.stored, again.known) == ([], result.stored)


@pytest.mark.parametrize(
    ("make", "limits", "reason"),
    [
        (lambda: make_event(content="x" * 500), {"max_event_bytes": 500}, "invalid: event has .* bytes"),
        (lambda: make_event(tags=[["t", "a"]] * 3), {"max_event_tags": 2}, "invalid: event has 3 tags"),
        (lambda: make_event(created_at=NOW_S - 101), {"max_created_at_past_s": 100.0}, "invalid: created_at is more"),
        (lambda: make_event(), {"min_pow_difficulty": 40}, "pow: "),
        (lambda: make_event(kind=22_242), {}, "invalid: kind 22242 is a credential"),
        (lambda: make_event(tags=[["-"]]), {}, "blocked: a protected event is taken from its author only"),
        (lambda: make_event(kind=6, content=event_json(make_event(tags=[["-"]])).decode()), {}, "blocked: a repost"),
        (lambda: fake_event(), {}, "invalid: the signature does not match"),
    ],
)
@async_test
async def test_the_rules_for_clients_hold(
    make: Callable[[], EncodedEvent], limits: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    event, good = make(), notes(1)[0]
    async with side(tmp_path) as own:
        await own.fill([good])
        result = await offer(own, good, event, **limits)
        assert result.known == [good.id]
        assert [each for each, _ in result.refused] == [event.id]
        assert re.match(reason, result.refused[0][1])
        assert await own.ids() == {good.event.id}


@pytest.mark.parametrize(("ahead_s", "future_s"), [(901, 900.0), (86_400, 0.0), (2, 1.5)])
@async_test
async def test_what_is_ahead_of_our_clock_is_refused_until_it_is_not(
    ahead_s: int, future_s: float, tmp_path: Path
) -> None:
    event = make_event(created_at=NOW_S + ahead_s)
    async with side(tmp_path) as own:
        result = await offer(own, event, max_created_at_future_s=future_s)
        (deferral,) = result.deferred
        assert result.refused == []
        assert deferral.reason == f"invalid: created_at is more than {future_s:g} s in the future"
        assert deferral.until_s is not None
        own.time[0] = deferral.until_s - 1
        assert (await offer(own, event, max_created_at_future_s=future_s)).deferred == [deferral]
        own.time[0] = deferral.until_s
        assert (await offer(own, event, max_created_at_future_s=future_s)).stored == [event.id]


@async_test
async def test_nobody_has_to_authenticate(tmp_path: Path) -> None:
    async with side(tmp_path) as own:
        assert (await offer(own, *notes(1), auth_to_write=True)).stored == [notes(1)[0].id]


@async_test
async def test_what_the_store_does_not_keep_is_unwanted(tmp_path: Path) -> None:
    target, gone = notes(1)[0], make_event(2, created_at=NOW_S - 50)
    old, new = (make_event(3, kind=0, created_at=NOW_S - age) for age in (20, 10))
    before = [
        delete_event(target, created_at=NOW_S - 1, signed=True),
        vanish_event(key=2, created_at=NOW_S - 5, signed=True),
        new,
    ]
    async with side(tmp_path, before) as own:
        expired = expiring_event(NOW_S - 1, created_at=NOW_S - 9, signed=True)
        ephemeral = make_event(kind=20_000)
        result = await offer(own, target, gone, old, expired, ephemeral)
        assert set(result.unwanted) == {each.id for each in (target, gone, old, expired, ephemeral)}
        assert (result.stored, result.refused) == ([], [])


@async_test
async def test_ephemeral_events_are_not_even_told(tmp_path: Path) -> None:
    async with side(tmp_path) as own:
        feed = own.store.feed(None)
        await offer(own, make_event(kind=20_000))
        await offer(own, *notes(1))
        batch = await anext(feed)
        assert batch.ephemeral == ()


@async_test
async def test_only_what_was_asked_for_is_taken_and_only_once(tmp_path: Path) -> None:
    asked, other = notes(1, 2)
    async with side(tmp_path) as own:
        wanted = {asked.id, bytes(32)}
        junk = [b"", b"[]", b"{", b"\xff", b'{"id":"zz"}', event_json(other, id="00" * 31), b"[" * 10_000]
        result = await door_of(own).offer([asked.raw, asked.raw, other.raw, *junk], wanted)
        assert result.stored == [asked.id]
        assert result.n_unasked == 2 + len(junk)
        assert wanted == {bytes(32)}
        assert await own.ids() == {asked.event.id}


@async_test
async def test_a_broken_copy_stands_for_the_event(tmp_path: Path) -> None:
    one, two = notes(1, 2)
    async with side(tmp_path) as own:
        wanted = {one.id, two.id}
        broken = [event_json(one, content="changed"), event_json(two, sig=FAKE_SIG)]
        result = await door_of(own).offer(broken, wanted)
        assert dict(result.refused) == {
            one.id: "invalid: id does not match the event",
            two.id: "invalid: the signature does not match",
        }
        assert wanted == set()


@async_test
async def test_without_a_list_anything_good_is_taken(tmp_path: Path) -> None:
    async with side(tmp_path) as own:
        result = await door_of(own).offer([event.raw for event in notes(1, 2)], None)
        assert len(result.stored) == 2


@async_test
async def test_what_is_outside_the_filter_is_refused(tmp_path: Path) -> None:
    one, seven = make_event(kind=1), make_event(kind=7)
    async with side(tmp_path) as own:
        matching = Filter(kinds=frozenset({7}))
        result = await door_of(own).offer([one.raw, seven.raw], {one.id, seven.id}, matching=matching)
        assert result.stored == [seven.id]
        assert result.refused == [(one.id, "invalid: it does not match the filter that was asked for")]


@async_test
async def test_a_store_that_fails_is_an_error(tmp_path: Path) -> None:
    class Failing(StoreProxy):
        async def save(self, events: Any) -> list[SaveResult]:
            return [SaveResult(SaveStatus.FAILED, detail="no room is left")] * len(events)

    async with side(tmp_path) as own:
        door = Door(Failing(own.store), POLICY, own.verifier, own.now_s)
        with pytest.raises(StoreError, match="no room is left"):
            await door.offer([notes(1)[0].raw], None)
        result = await door.offer([], None)
        assert result.stored == []


# Access control


class _Lists:
    """As much of access control as the door asks."""

    def __init__(self, snapshot: Snapshot | None) -> None:
        self.snapshot = snapshot


@async_test
async def test_whose_events_may_be_stored_is_asked(tmp_path: Path) -> None:
    lists = Snapshot(Rules(mode=Mode.MANAGED, owners=frozenset({bytes.fromhex(KEYS[0])})))
    lists.apply(KeyChange(ListName.ALLOWED_PUBKEYS, bytes.fromhex(KEYS[1]), True))
    lists.apply(KeyChange(ListName.BANNED_PUBKEYS, bytes.fromhex(KEYS[2]), True))
    lists.apply(KindChange(ListName.DISALLOWED_KINDS, 7, True))
    access = _Lists(None)
    events = [make_event(key) for key in range(4)] + [make_event(0, kind=7)]
    raws = [event.raw for event in events]
    async with side(tmp_path) as own:
        door = Door(own.store, POLICY, own.verifier, own.now_s, access)
        unknown = await door.offer(raws, None)
        assert unknown.deferred == [Deferral(event.id, str(NO_SNAPSHOT)) for event in events]
        assert unknown.refused == []
        access.snapshot = lists
        result = await door.offer(raws, None)
    assert result.stored == [events[0].id, events[1].id]
    assert result.refused == [
        (events[2].id, "blocked: its author is banned on this relay"),
        (events[3].id, "restricted: its author is not on the list of those who may write to this relay"),
        (events[4].id, "blocked: kind 7 is not taken on this relay"),
    ]
