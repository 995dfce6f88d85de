"""One sync with a relay that behaves well: every direction, exact ids, numbers that add up, nothing twice."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from msgspec import structs
from tests.component.async_test import async_test
from tests.component.fake_peer import FakeRelay, PeerSide, scripted_peer
from tests.component.sync_side import POLICY, hex_ids, notes, side
from tests.factory import (
    KEYS,
    NOW_S,
    delete_event,
    expiring_event,
    gift_wrap,
    make_event,
)

from orly.access.decide import NO_SNAPSHOT
from orly.intake.plugin import CANNOT_ASK, WritePlugin
from orly.intake.plugin_lines import Asked, Judgement
from orly.nostr.filter import Filter
from orly.nostr.reason import Prefix, Refusal
from orly.store.base import HiddenKey
from orly.sync.negentropy.request import Direction, Phase, SyncProgress

OURS = notes(*range(1200))
THEIRS = notes(*range(600, 2000))


def assert_adds_up(progress: SyncProgress, direction: Direction) -> None:
    """Every difference is accounted for."""
    if direction.pulls:
        settled = progress.fetched + progress.known + progress.unwanted + progress.refused + progress.unavailable
        assert settled == progress.need
    if direction.pushes:
        assert progress.sent + progress.unneeded + progress.rejected == progress.have


def kinds_of(log: list[list[Any]], start: int = 0) -> list[str]:
    """The types of the messages that a relay got."""
    return [message[0] for message in log[start:]]


@pytest.mark.parametrize("direction", list(Direction))
@async_test
async def test_each_direction_moves_what_it_says(direction: Direction, tmp_path: Path) -> None:
    relay = FakeRelay(THEIRS)
    async with side(tmp_path, OURS) as own, scripted_peer(relay.serve) as url:
        result = await own.sync(url, direction)
        both = hex_ids(OURS) | hex_ids(THEIRS)
        assert await own.ids() == (both if direction.pulls else hex_ids(OURS))
        assert set(relay.events) == (both if direction.pushes else hex_ids(THEIRS))
        progress = result.progress
        assert (progress.have, progress.need) == (600, 800)
        assert progress.fetched == (800 if direction.pulls else 0)
        assert progress.sent == (600 if direction.pushes else 0)
        assert_adds_up(progress, direction)
        assert result.is_complete
        assert result.problems == ()
        assert (result.have_ids, result.need_ids) == ((), ())
        phases = [each.phase for each in own.progress]
        assert phases[0] is Phase.CONNECTING
        assert phases == sorted(phases, key=list(Phase).index)
        assert own.progress[-1] == progress
        assert progress.bytes_sent > 0 < progress.bytes_received


@async_test
async def test_a_second_sync_carries_nothing(tmp_path: Path) -> None:
    relay = FakeRelay(THEIRS)
    async with side(tmp_path, OURS) as own, scripted_peer(relay.serve) as url:
        await own.sync(url)
        n_messages = len(relay.log)
        again = await own.sync(url)
        assert (again.progress.have, again.progress.need, again.progress.round) == (0, 0, 1)
        assert kinds_of(relay.log, n_messages) == ["NEG-OPEN", "NEG-CLOSE"]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [([], []), (OURS, []), ([], THEIRS), (OURS, OURS), (notes(1), notes(2))],
    ids=["both empty", "they are empty", "we are empty", "equal", "one each"],
)
@async_test
async def test_edges(ours: list[Any], theirs: list[Any], tmp_path: Path) -> None:
    relay = FakeRelay(theirs)
    async with side(tmp_path, ours) as own, scripted_peer(relay.serve) as url:
        result = await own.sync(url)
        assert await own.ids() == set(relay.events) == hex_ids(ours) | hex_ids(theirs)
        assert result.is_complete


@pytest.mark.parametrize("batch_events", [1, 7, 500])
@async_test
async def test_a_req_asks_for_no_more_ids_than_wanted(batch_events: int, tmp_path: Path) -> None:
    relay = FakeRelay(notes(*range(60)))
    async with side(tmp_path) as own, scripted_peer(relay.serve) as url:
        result = await own.sync(url, Direction.DOWN, batch_events=batch_events)
        assert result.progress.fetched == 60
        asked = [len(message[2]["ids"]) for message in relay.log if message[0] == "REQ"]
        assert max(asked) == min(batch_events, 60)
        assert sum(asked) == 60


@pytest.mark.parametrize(
    "wanted",
    [
        Filter(kinds=frozenset({7})),
        Filter(since=NOW_S - 9_500, until=NOW_S - 9_000),
        Filter(kinds=frozenset({1}), since=NOW_S - 9_500),
        Filter(kinds=frozenset()),
        Filter(since=10, until=9),
    ],
)
@async_test
async def test_a_filter_bounds_what_moves(wanted: Filter, tmp_path: Path) -> None:
    reactions = [make_event(1, kind=7, created_at=NOW_S - 9_400 + number) for number in range(600)]
    ours, theirs = [*OURS, *reactions[:300]], [*THEIRS, *reactions[200:]]

    def inside(events: list[Any]) -> set[str]:
        kinds = wanted.kinds
        return {
            each.event.id
            for each in events
            if (kinds is None or each.event.kind in kinds) and wanted.since <= each.event.created_at <= wanted.until
        }

    relay = FakeRelay(theirs)
    async with side(tmp_path, ours) as own, scripted_peer(relay.serve) as url:
        result = await own.sync(url, Direction.BOTH, wanted)
        assert await own.ids() == hex_ids(ours) | inside(theirs)
        assert set(relay.events) == hex_ids(theirs) | inside(ours)
        assert result.is_complete


@async_test
async def test_ids_are_listed_on_demand(tmp_path: Path) -> None:
    secret = gift_wrap(KEYS[1], signed=True)
    relay = FakeRelay([*THEIRS, secret])
    async with side(tmp_path, [*OURS, secret]) as own, scripted_peer(relay.serve) as url:
        for direction in (Direction.NONE, Direction.BOTH):
            result = await own.sync(url, direction, list_ids=True)
            assert {each.hex() for each in result.have_ids} == hex_ids(OURS) - hex_ids(THEIRS)
            assert {each.hex() for each in result.need_ids} == hex_ids(THEIRS) - hex_ids(OURS)
            assert result.progress.known == 1


@pytest.mark.parametrize("private_kinds", [False, True])
@async_test
async def test_hidden_events_stay_here_and_are_not_fetched_again(private_kinds: bool, tmp_path: Path) -> None:
    banned = notes(*range(50), key=3)
    relay = FakeRelay([*THEIRS, *banned[:20]])
    async with side(tmp_path, [*OURS, *banned]) as own, scripted_peer(relay.serve) as url:
        await own.store.hide([HiddenKey(banned[0].pubkey, True)])
        result = await own.sync(url, private_kinds=private_kinds)
        assert set(relay.events) == hex_ids(OURS) | hex_ids(THEIRS) | hex_ids(banned[:20])
        progress = result.progress
        assert (progress.have, progress.need, progress.known, progress.fetched) == (600, 820, 20, 800)
        assert_adds_up(progress, Direction.BOTH)
        again = (await own.sync(url, private_kinds=private_kinds)).progress
        assert (again.have, again.need, again.known, again.fetched) == (0, 20, 20, 0)


@async_test
async def test_private_kinds_stay_here_unless_asked_for(tmp_path: Path) -> None:
    ours = [gift_wrap(KEYS[1], created_at=NOW_S - number, signed=True) for number in range(3)]
    relay = FakeRelay([ours[0]])
    async with side(tmp_path, ours) as own, scripted_peer(relay.serve) as url:
        result = await own.sync(url)
        assert set(relay.events) == {ours[0].event.id}
        assert (result.progress.have, result.progress.need, result.progress.known) == (0, 1, 1)
        assert "REQ" not in kinds_of(relay.log)
        result = await own.sync(url, private_kinds=True)
        assert set(relay.events) == hex_ids(ours)
        assert result.progress.sent == 2


@async_test
async def test_protected_events_are_left_to_their_authors(tmp_path: Path) -> None:
    own_one = make_event(created_at=NOW_S - 5, tags=[["-"]])
    other_one = make_event(1, created_at=NOW_S - 6, tags=[["-"]])
    relay = FakeRelay([other_one])
    async with side(tmp_path, [own_one]) as own, scripted_peer(relay.serve) as url:
        result = await own.sync(url)
        assert set(relay.events) == {other_one.event.id}
        assert await own.ids() == {own_one.event.id}
        assert (result.progress.unneeded, result.progress.refused) == (1, 1)
        assert result.problems == (
            "1 event refused by us: blocked: a protected event is taken from its author only (1)",
        )
        assert not result.is_complete


class ReplacingRelay(FakeRelay):
    """Keeps the newest profile of an author only."""

    async def on_event(self, peer: PeerSide, event: dict[str, Any]) -> None:
        old = {
            each["id"]
            for each in map(json.loads, self.events.values())
            if each["kind"] == event["kind"] == 0 and each["pubkey"] == event["pubkey"]
        }
        if any(json.loads(self.events[each])["created_at"] > event["created_at"] for each in old):
            await peer.send("OK", event["id"], False, "replaced: have newer event")
            return
        for each in old:
            del self.events[each]
        await super().on_event(peer, event)


@async_test
async def test_replaced_events_are_missing_on_neither_side(tmp_path: Path) -> None:
    old = [make_event(key, kind=0, created_at=NOW_S - 100) for key in range(8)]
    new = [make_event(key, kind=0, created_at=NOW_S - 50) for key in range(8)]
    relay = ReplacingRelay([*new[:4], *old[4:]])
    async with side(tmp_path, [*old[:4], *new[4:]]) as own, scripted_peer(relay.serve) as url:
        result = await own.sync(url)
        assert await own.ids() == set(relay.events) == hex_ids(new)
        assert_adds_up(result.progress, Direction.BOTH)
        assert result.is_complete, result.problems


@pytest.mark.parametrize("reason", ["blocked: this event is gone", "error: try again"])
@async_test
async def test_a_deletion_from_the_peer_takes_its_target_here(reason: str, tmp_path: Path) -> None:
    target = notes(1)[0]
    deletion = delete_event(target, created_at=NOW_S - 1, signed=True)

    class Deleting(FakeRelay):
        async def on_event(self, peer: PeerSide, event: dict[str, Any]) -> None:
            await peer.send("OK", event["id"], False, reason)

    relay = Deleting([deletion])
    async with side(tmp_path, [target]) as own, scripted_peer(relay.serve) as url:
        result = await own.sync(url)
        assert await own.ids() == set(relay.events) == {deletion.event.id}
        assert result.is_complete, result.problems
        assert result.is_settled
        assert result.progress.unneeded == 1


@async_test
async def test_what_is_not_to_be_kept_is_no_loss_and_is_not_fetched_again(tmp_path: Path) -> None:
    deleted = notes(1)[0]
    expired = expiring_event(NOW_S - 10, created_at=NOW_S - 20, signed=True)
    ephemeral = make_event(kind=20_001, created_at=NOW_S - 3)
    relay = FakeRelay([deleted, expired, ephemeral])
    ours = [delete_event(deleted, created_at=NOW_S - 1, signed=True)]
    async with side(tmp_path, ours) as own, scripted_peer(relay.serve) as url:
        first = await own.sync(url, Direction.DOWN)
        n_messages = len(relay.log)
        again = await own.sync(url, Direction.DOWN)
        for result in (first, again):
            assert result.progress.unwanted == 3
            assert result.is_complete
            assert result.problems == ("3 events not kept here: replaced, deleted, expired or ephemeral",)
        assert await own.ids() == hex_ids(ours)
        assert "REQ" not in kinds_of(relay.log, n_messages)


@async_test
async def test_what_our_rules_refuse_is_said_and_not_fetched_again(tmp_path: Path) -> None:
    long = make_event(content="x" * 2000)
    relay = FakeRelay([long, *notes(1)])
    async with side(tmp_path) as own, scripted_peer(relay.serve) as url:
        own.policy = structs.replace(POLICY, max_event_bytes=1000)
        first = await own.sync(url, Direction.DOWN)
        assert not first.is_complete
        assert first.problems[0].startswith("1 event refused by us: invalid: event has ")
        assert (first.progress.fetched, first.progress.refused) == (1, 1)
        n_messages = len(relay.log)
        again = await own.sync(url, Direction.DOWN)
        assert again.problems == ("1 event refused by us: refused in an earlier sync (1)",)
        assert "REQ" not in kinds_of(relay.log, n_messages)
        own.time[0] += 86_400
        own.policy = POLICY
        assert (await own.sync(url, Direction.DOWN)).progress.fetched == 1


class Judge:
    """A write policy that says the same of every event."""

    def __init__(self, judgement: Judgement) -> None:
        self.judgement = judgement

    async def judge(self, asked: Sequence[Asked]) -> list[Judgement]:
        return [self.judgement] * len(asked)


@pytest.mark.parametrize(
    ("refusal", "is_for_good"),
    [
        (CANNOT_ASK, False),
        (NO_SNAPSHOT, False),
        (Refusal(Prefix.RATE_LIMITED, "not so fast"), False),
        (Refusal(Prefix.BLOCKED, "no"), True),
        (Refusal(Prefix.POW, "no"), True),
    ],
    ids=str,
)
@async_test
async def test_what_is_refused_for_now_is_fetched_again(refusal: Refusal, is_for_good: bool, tmp_path: Path) -> None:
    relay = FakeRelay(notes(*range(20)))
    async with side(tmp_path) as own, scripted_peer(relay.serve) as url:
        own.plugin = cast(WritePlugin, Judge(refusal))
        first = await own.sync(url, Direction.DOWN)
        assert not first.is_complete
        assert first.problems == (f"20 events refused by us: {refusal} (20)",)
        assert first.progress.refused == 20
        assert first.is_settled == is_for_good
        own.plugin = None
        again = await own.sync(url, Direction.DOWN)
        assert again.progress.fetched == (0 if is_for_good else 20)
        assert again.is_complete != is_for_good


@pytest.mark.parametrize(("ahead_s", "wait_s"), [(1000, 100), (86_400 + 901, 86_400)])
@async_test
async def test_what_is_ahead_of_our_clock_is_fetched_when_it_is_not(ahead_s: int, wait_s: int, tmp_path: Path) -> None:
    relay = FakeRelay([make_event(created_at=NOW_S + ahead_s)])
    async with side(tmp_path) as own, scripted_peer(relay.serve) as url:
        refused = "1 event refused by us: invalid: created_at is more than 900 s in the future (1)"
        first = await own.sync(url, Direction.DOWN)
        assert (first.problems, first.is_settled) == ((refused,), True)
        n_messages = len(relay.log)
        own.time[0] += wait_s - 1
        assert not (await own.sync(url, Direction.DOWN)).is_complete
        assert "REQ" not in kinds_of(relay.log, n_messages)
        own.time[0] += 1
        again = await own.sync(url, Direction.DOWN)
        assert again.progress.fetched == (ahead_s - wait_s <= 900)
        assert "REQ" in kinds_of(relay.log, n_messages)
