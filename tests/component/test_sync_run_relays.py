"""One sync with a relay of our own: both sides end with the same ids, whatever they had and however it caps."""

import asyncio
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.component.async_test import async_test
from tests.component.relay_server import FakeTime, TestedRelay, running_relay
from tests.component.sync_side import POLICY, hex_ids, notes, side
from tests.factory import KEYS, NOW_S, SECRETS, delete_event, gift_wrap, make_event, vanish_event
from tests.transport import run_async

from orly.nostr.filter import Filter
from orly.store.base import Query
from orly.sync.ingest import Door
from orly.sync.negentropy.peer_memory import PeerMemory
from orly.sync.negentropy.request import Direction, SyncFailedError, SyncRequest
from orly.sync.negentropy.run import sync_with_peer
from orly.sync.negentropy.sets import SetKeeper

OURS = notes(*range(700))
THEIRS = notes(*range(300, 1500), key=0)
REACTIONS = [make_event(1, kind=7, created_at=NOW_S - 9_900 + number) for number in range(300)]


async def ids_of(relay: TestedRelay) -> set[str]:
    """Everything a relay holds, private events too."""
    rows = (await relay.store.inner.items(Query(filters=(Filter(),)))).rows
    return {rows[at + 8 : at + 40].hex() for at in range(0, len(rows), 40)}


@pytest.mark.parametrize("is_offered", [True, False], ids=["negentropy", "pages"])
@pytest.mark.parametrize("direction", list(Direction))
@async_test
async def test_each_direction_moves_what_it_says(direction: Direction, is_offered: bool, tmp_path: Path) -> None:
    async with (
        running_relay(tmp_path / "relay", negentropy_enabled=is_offered) as relay,
        side(tmp_path / "own", OURS) as own,
    ):
        await relay.fill(THEIRS)
        result = await own.sync(relay.url, direction)
        both = hex_ids(OURS) | hex_ids(THEIRS)
        assert await own.ids() == (both if direction.pulls else hex_ids(OURS))
        assert await ids_of(relay) == (both if direction.pushes else hex_ids(THEIRS))
        assert (result.progress.have, result.progress.need) == (300, 800)
        assert result.is_complete


@pytest.mark.parametrize(
    "wanted",
    [
        Filter(kinds=frozenset({7})),
        Filter(authors=frozenset({KEYS[1]})),
        Filter(since=NOW_S - 9_800, until=NOW_S - 9_500),
        Filter(tags={"t": frozenset({"even"})}),
        Filter(ids=frozenset(event.event.id for event in (*OURS[:3], *THEIRS[-3:]))),
    ],
)
@async_test
async def test_a_filter_bounds_what_moves(wanted: Filter, tmp_path: Path) -> None:
    tagged = [
        make_event(2, created_at=NOW_S - 9_000 + number, tags=[["t", "odd" if number % 2 else "even"]])
        for number in range(60)
    ]
    ours, theirs = [*OURS, *REACTIONS[:200], *tagged[:40]], [*THEIRS, *REACTIONS[100:], *tagged[20:]]
    async with running_relay(tmp_path / "relay", negentropy_enabled=True) as relay, side(tmp_path / "own", ours) as own:
        await relay.fill(theirs)
        ours_inside = await own.ids(wanted)
        async with side(tmp_path / "theirs", theirs) as copy:
            theirs_inside = await copy.ids(wanted)
        result = await own.sync(relay.url, Direction.BOTH, wanted)
        assert result.is_complete, result.problems
        assert await own.ids() == hex_ids(ours) | theirs_inside
        assert await ids_of(relay) == hex_ids(theirs) | ours_inside
        assert (result.progress.have, result.progress.need) == (
            len(ours_inside - theirs_inside),
            len(theirs_inside - ours_inside),
        )


@pytest.mark.parametrize("key", [5, 4, None], ids=["a key that sees all", "another", "none"])
@async_test
async def test_a_relay_of_the_same_operator_gives_private_events_too(key: int | None, tmp_path: Path) -> None:
    private = [
        make_event(2, kind=1059, created_at=NOW_S - 60, tags=[["p", KEYS[1]]]),
        make_event(1, kind=4, created_at=NOW_S - 50),
    ]
    async with (
        running_relay(tmp_path / "relay", negentropy_enabled=True, negentropy_full_sync_pubkeys=(KEYS[5],)) as relay,
        side(tmp_path / "own", OURS) as own,
    ):
        await relay.fill([*THEIRS, *private])
        result = await own.sync(relay.url, auth_key=None if key is None else SECRETS[key])
        assert result.is_complete, result.problems
        assert await own.ids() == hex_ids([*OURS, *THEIRS, *(private if key == 5 else ())])
        assert await ids_of(relay) == hex_ids([*OURS, *THEIRS, *private])


@async_test
async def test_a_cap_is_got_around(tmp_path: Path) -> None:
    wanted = Filter(kinds=frozenset({1}))
    async with (
        running_relay(tmp_path / "relay", negentropy_enabled=True, negentropy_max_items=100) as relay,
        side(tmp_path / "own", OURS) as own,
    ):
        await relay.fill(THEIRS)
        result = await own.sync(relay.url, Direction.BOTH, wanted)
        assert result.is_complete, result.problems
        assert await own.ids() == await ids_of(relay) == hex_ids(OURS) | hex_ids(THEIRS)


class RunningTime(FakeTime):
    """A clock that goes on while events are counted by it."""

    def monotonic_s(self) -> float:
        return asyncio.get_running_loop().time()


@async_test
async def test_a_limit_on_rates_is_kept(tmp_path: Path) -> None:
    limits: dict[str, Any] = {"max_events_per_second": 500, "max_events_burst": 100}
    async with (
        running_relay(tmp_path / "relay", time=RunningTime(), negentropy_enabled=True, **limits) as relay,
        side(tmp_path / "own", OURS) as own,
    ):
        result = await own.sync(relay.url)
        assert result.is_complete, result.problems
        assert await ids_of(relay) == hex_ids(OURS)


@async_test
async def test_deletions_and_replacements_meet(tmp_path: Path) -> None:
    gone_here, gone_there = notes(1, 2)
    old = [make_event(key, kind=30_023, created_at=NOW_S - 90, tags=[["d", "x"]]) for key in range(6)]
    new = [make_event(key, kind=30_023, created_at=NOW_S - 80, tags=[["d", "x"]]) for key in range(6)]
    here = delete_event(gone_here, created_at=NOW_S - 1, signed=True)
    there = delete_event(gone_there, created_at=NOW_S - 2, signed=True)
    async with (
        running_relay(tmp_path / "relay", negentropy_enabled=True) as relay,
        side(tmp_path / "own", [gone_there, here, *new[:3], *old[3:]]) as own,
    ):
        await relay.fill([gone_here, there, *old[:3], *new[3:]])
        result = await own.sync(relay.url)
        assert await own.ids() == await ids_of(relay) == hex_ids([here, there, *new])
        assert result.is_complete, result.problems
        again = await own.sync(relay.url)
        assert (again.progress.have, again.progress.need) == (0, 0)


@async_test
async def test_what_was_taken_back_there_is_not_missing(tmp_path: Path) -> None:
    deleted, wrapped = notes(1, key=1)[0], gift_wrap(KEYS[2], key=5, created_at=NOW_S - 90, signed=True)
    deletion = delete_event(deleted, key=1, created_at=NOW_S - 10, signed=True)
    vanished = vanish_event(key=2, created_at=NOW_S - 5, signed=True)
    async with (
        running_relay(tmp_path / "relay", negentropy_enabled=True) as relay,
        side(tmp_path / "own", [deleted, wrapped, *notes(2, key=2), *notes(3)]) as own,
    ):
        await relay.fill([deletion, vanished])
        for n_sent in (1, 0):
            result = await own.sync(relay.url, Direction.UP, private_kinds=True)
            assert result.is_complete, result.problems
            assert (result.progress.sent, result.progress.unneeded) == (n_sent, 3)
        assert await ids_of(relay) == hex_ids([deletion, vanished, *notes(3)])


@async_test
async def test_private_events_by_key(tmp_path: Path) -> None:
    wrapped = gift_wrap(KEYS[3], key=5, created_at=NOW_S - 7, signed=True)
    async with running_relay(tmp_path / "relay", negentropy_enabled=True) as relay, side(tmp_path / "own") as own:
        await relay.fill([wrapped, *notes(1)])
        result = await own.sync(relay.url, Direction.DOWN)
        assert result.is_complete
        assert await own.ids() == hex_ids(notes(1))
        await own.sync(relay.url, Direction.DOWN, Filter(kinds=frozenset({1059})), auth_key=SECRETS[3])
        assert await own.ids() == hex_ids([wrapped, *notes(1)])


@pytest.mark.parametrize("auth_key", [None, SECRETS[0]])
@async_test
async def test_a_relay_that_wants_authentication(auth_key: bytes | None, tmp_path: Path) -> None:
    options: dict[str, Any] = {"negentropy_enabled": True, "auth_required": True}
    async with running_relay(tmp_path / "relay", **options) as relay, side(tmp_path / "own", OURS) as own:
        await relay.fill(THEIRS)
        if auth_key is None:
            with pytest.raises(SyncFailedError, match="auth-required"):
                await own.sync(relay.url)
        else:
            assert (await own.sync(relay.url, auth_key=auth_key)).is_complete
            assert await own.ids() == await ids_of(relay) == hex_ids(OURS) | hex_ids(THEIRS)


@async_test
async def test_pulled_events_reach_live_subscribers(tmp_path: Path) -> None:
    """Two relays in one process: what one pulls into its store, its clients are told."""
    async with (
        running_relay(tmp_path / "two", negentropy_enabled=True) as two,
        running_relay(tmp_path / "one", negentropy_enabled=True) as one,
        side(tmp_path / "own") as own,
        two.client() as client,
    ):
        await one.fill(THEIRS[:50])
        await client.request("live", {"limit": 0})
        keeper = SetKeeper(two.store, max_items=1000, max_sets_bytes=1 << 20, now_s=own.now_s)
        await sync_with_peer(
            SyncRequest(url=one.url, filter=Filter(), direction=Direction.DOWN),
            store=two.store,
            sets=keeper,
            door=Door(two.store, POLICY, own.verifier, own.now_s),
            memory=PeerMemory(),
            now_s=own.now_s,
        )
        await keeper.close()
        told = {await client.next_event("live") for _ in range(50)}
        assert told == hex_ids(THEIRS[:50])


POOL = [
    make_event(
        number % 3, kind=(1, 7, 30_000)[number % 3], created_at=NOW_S - number // 4, tags=[["d", str(number % 5)]]
    )
    for number in range(120)
]


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    ours=st.sets(st.integers(0, len(POOL) - 1)),
    theirs=st.sets(st.integers(0, len(POOL) - 1)),
    cap=st.sampled_from([1, 3, 10, 1000]),
    frame_bytes=st.sampled_from([0, 512, 4096]),
    batch_events=st.integers(1, 40),
    wanted=st.sampled_from([Filter(), Filter(kinds=frozenset({1, 30_000})), Filter(since=NOW_S - 20)]),
)
def test_any_two_sets_end_equal(
    ours: set[int], theirs: set[int], cap: int, frame_bytes: int, batch_events: int, wanted: Filter
) -> None:
    async def main() -> None:
        with tempfile.TemporaryDirectory() as home:
            async with (
                running_relay(Path(home) / "relay", negentropy_enabled=True, negentropy_max_items=cap) as relay,
                side(Path(home) / "own", [POOL[number] for number in sorted(ours)]) as own,
            ):
                await relay.fill([POOL[number] for number in sorted(theirs)])
                result = await own.sync(
                    relay.url, Direction.BOTH, wanted, frame_bytes=frame_bytes, batch_events=batch_events
                )
                query = Query(filters=(wanted,))
                assert await own.ids(wanted) == {
                    row.hex() for row in _ids((await relay.store.inner.items(query)).rows)
                }, result.problems
                assert result.is_complete, result.problems
                again = await own.sync(relay.url, Direction.BOTH, wanted)
                assert (again.progress.have, again.progress.need) == (0, 0)

    run_async(main())


def _ids(rows: bytes) -> list[bytes]:
    return [rows[at + 8 : at + 40] for at in range(0, len(rows), 40)]
