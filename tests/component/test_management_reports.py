"""Reported events (NIP-56) in a real store: whose reports are told, and what many or large ones cost."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.component.api_world import ApiWorld, api_world
from tests.component.async_test import Stretches, async_test
from tests.factory import NOW_S, fake_event

from orly.nostr.event import EncodedEvent, Event, decode_stored
from orly.relay import management_reports
from orly.relay.management_reports import MAX_REPORTED_BY_ONE, MAX_REPORTS_BY_ONE, MAX_TAGS, SLICE_REPORTS

NOISY, USELESS, CAREFUL = 2, 3, 4
"""Reporters."""


def report(key: int, at: int, *ids: str) -> EncodedEvent:
    return fake_event(key, 1984, at, [("e", each, "spam") for each in ids])


def numbers(first: int, last: int) -> list[str]:
    """Event ids, which `told` reads as numbers again."""
    return [f"{number:064x}" for number in range(first, last)]


async def told(world: ApiWorld) -> list[int]:
    return [int(each["id"], 16) for each in await world.call("listeventsneedingmoderation")]


async def told_and_decoded(world: ApiWorld, patch: pytest.MonkeyPatch) -> tuple[list[int], Stretches[[bytes], Event]]:
    decoded = Stretches(decode_stored)
    patch.setattr(management_reports, "decode_stored", decoded)
    return await told(world), decoded


def junk(key: int, count: int, ids: Sequence[str]) -> list[EncodedEvent]:
    """Newer reports than those of anybody else."""
    return [report(key, NOW_S + number, *ids[number : number + 1]) for number in range(count)]


@async_test
async def test_who_reports_much_leaves_room_for_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with api_world(tmp_path) as world:
        await world.store.save(junk(NOISY, 700, numbers(1000, 1700)))
        await world.store.save(junk(USELESS, 700, ()))
        await world.store.save([report(CAREFUL, NOW_S - 1, *numbers(0, 2)), report(CAREFUL, NOW_S - 2, "f" * 64)])
        found, decoded = await told_and_decoded(world, monkeypatch)
        assert found == [*range(1699, 1699 - MAX_REPORTED_BY_ONE, -1), 0, 1, 2**256 - 1]
        assert decoded.n_all == MAX_REPORTED_BY_ONE + MAX_REPORTS_BY_ONE + 2


@async_test
async def test_what_was_decided_makes_room(tmp_path: Path) -> None:
    async with api_world(tmp_path) as world:
        await world.store.save(junk(NOISY, MAX_REPORTED_BY_ONE + 2, numbers(0, MAX_REPORTED_BY_ONE + 2)))
        assert await told(world) == list(range(MAX_REPORTED_BY_ONE + 1, 1, -1))
        for event_id in numbers(MAX_REPORTED_BY_ONE, MAX_REPORTED_BY_ONE + 2):
            await world.call("banevent", event_id)
        assert await told(world) == list(range(MAX_REPORTED_BY_ONE - 1, -1, -1))


@async_test
async def test_few_tags_of_a_report_are_looked_at(tmp_path: Path) -> None:
    async with api_world(tmp_path) as world:
        tags = [*[("p", "ab" * 32)] * (MAX_TAGS - 3), *(("e", each) for each in numbers(0, 2000))]
        await world.store.save([fake_event(NOISY, 1984, NOW_S, tags)])
        assert await told(world) == [0, 1, 2]
        await world.store.save([report(USELESS, NOW_S - 1, *numbers(10, 2000))])
        assert await told(world) == [0, 1, 2, *range(10, 10 + MAX_TAGS)]


@async_test
async def test_no_more_is_read_than_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(management_reports, "MAX_REPORTED", 5)
    async with api_world(tmp_path) as world:
        await world.store.save([report(2 + n % 5, NOW_S - n, *numbers(2 * n, 2 * n + 2)) for n in range(200)])
        found, decoded = await told_and_decoded(world, monkeypatch)
        assert found == [0, 1, 2, 3, 4]
        assert decoded.n_all == 3


@async_test
async def test_many_reports_keep_nobody_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with api_world(tmp_path) as world:
        events = [report(2 + n % 5, NOW_S - n, f"{n % 5:064x}") for n in range(1500)]
        await world.store.save(events)
        found, decoded = await told_and_decoded(world, monkeypatch)
        assert found == [0, 1, 2, 3, 4]
        assert decoded.n_all == len(events)
        assert decoded.n_most <= SLICE_REPORTS <= 100
