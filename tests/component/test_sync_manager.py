"""Syncing in the background: when, with whom, what is kept of it. The syncs themselves are made up."""

import asyncio
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
from tests.component.async_test import async_test
from tests.component.managed_peers import DEADLINE_S, NEVER, NOW_S, QUICK, A, B, FakeRuns, done, managing, state, until

from orly import clock
from orly.nostr.filter import Filter
from orly.store.base import StoreUnavailableError
from orly.sync.negentropy import peer_loop
from orly.sync.negentropy.manager import MAX_AT_ONCE, MAX_BY_HAND, TooManyError, UnknownPeerError
from orly.sync.negentropy.own_address import OwnAddress
from orly.sync.negentropy.peer_loop import MAX_ASKED, MAX_ERROR_CHARACTERS
from orly.sync.negentropy.peer_memory import PeerMemory, Why
from orly.sync.negentropy.peers import MAX_PEERS, PeerBook, PeerBookError, PeerState
from orly.sync.negentropy.request import Direction, SyncFailedError, SyncProgress, SyncRequest
from orly.sync.negentropy.schedule import OVERLAP_S


@async_test
async def test_rounds_come_again_and_are_as_the_settings_say(tmp_path: Path) -> None:
    runs = FakeRuns()
    options = replace(
        QUICK,
        direction=Direction.UP,
        filter=Filter(kinds=frozenset({1})),
        frame_bytes=2048,
        timeout_s=7,
        auth_key=b"k" * 32,
        private_kinds=True,
    )
    async with managing(tmp_path, runs, options):
        await until(lambda: len(runs.requests) >= 3)
    assert runs.requests[0] == SyncRequest(
        url=A,
        filter=Filter(kinds=frozenset({1})),
        direction=Direction.UP,
        frame_bytes=2048,
        timeout_s=7,
        auth_key=b"k" * 32,
        private_kinds=True,
    )
    assert runs.requests[1] == runs.requests[0]


def long_rounds() -> Callable[[], float]:
    """A steady clock by which everything takes long."""
    seconds = count(step=5)
    return lambda: float(next(seconds))


@async_test
async def test_a_peer_that_takes_long_is_asked_for_new_events_only(tmp_path: Path) -> None:
    runs = FakeRuns()
    async with managing(tmp_path, runs, monotonic_s=long_rounds()):
        await until(lambda: len(runs.requests) >= 3)
    assert [request.filter.since for request in runs.requests[:3]] == [0, NOW_S - OVERLAP_S, NOW_S - OVERLAP_S]


@pytest.mark.parametrize(("is_settled", "since_s"), [(True, NOW_S - OVERLAP_S), (False, 0)])
@async_test
async def test_what_no_round_would_bring_does_not_make_the_next_a_full_one(
    is_settled: bool, since_s: int, tmp_path: Path
) -> None:
    runs = FakeRuns()
    runs.end = done(problems=("2 events rejected by the peer: blocked: no",), is_settled=is_settled)
    async with managing(tmp_path, runs, monotonic_s=long_rounds()) as manager:
        await until(lambda: len(runs.requests) >= 2)
        assert state(manager).last_error == "2 events rejected by the peer: blocked: no"
    assert runs.requests[1].filter.since == since_s


@async_test
async def test_a_filter_with_a_limit_is_never_narrowed(tmp_path: Path) -> None:
    runs = FakeRuns()
    async with managing(tmp_path, runs, replace(QUICK, filter=Filter(limit=5)), monotonic_s=long_rounds()):
        await until(lambda: len(runs.requests) >= 3)
    assert {request.filter.since for request in runs.requests} == {0}


@async_test
async def test_what_moved_is_added_up_and_kept(tmp_path: Path) -> None:
    runs = FakeRuns()
    runs.end = done(fetched=3, sent=2)
    async with managing(tmp_path, runs, NEVER) as manager:
        await until(lambda: state(manager).events_synced == 5)
        await until(lambda: PeerBook(tmp_path).load())
        manager.trigger(A, None)
        await until(lambda: state(manager).events_synced == 10)
        await until(lambda: PeerBook(tmp_path).load()[0].events_synced == 10)
    async with managing(tmp_path, FakeRuns(), NEVER, start=False) as again:
        assert again.peers()[0].state == PeerState(url=A, last_sync_s=NOW_S, events_synced=10)
        assert again.peers()[0].status == "idle"


@async_test
async def test_a_failure_is_told(tmp_path: Path) -> None:
    runs = FakeRuns()
    runs.end = SyncFailedError("it hung up", SyncProgress(fetched=2))
    async with managing(tmp_path, runs) as manager:
        await until(lambda: state(manager).consecutive_failures >= 14)  # where nothing moves, after 1.5 minutes
        runs.hold.clear()
        found = manager.peer(A)
        assert found is not None
        assert found.status in ("error", "syncing")
        assert found.state.last_error == "it hung up"
        assert found.state.last_sync_s == 0
        assert found.state.events_synced == 2 * found.state.consecutive_failures
        runs.end = done()
        runs.hold.set()
        await until(lambda: not state(manager).consecutive_failures)
        assert (state(manager).last_error, state(manager).last_sync_s) == ("", NOW_S)


@async_test
async def test_the_pause_grows_where_nothing_moves(tmp_path: Path) -> None:
    runs = FakeRuns()
    runs.end = SyncFailedError("it hung up", SyncProgress())
    async with managing(tmp_path, runs) as manager:
        await until(lambda: state(manager).consecutive_failures >= 7)
        await until(lambda: manager._loops[A]._due_s > clock.monotonic_s() + 50 * QUICK.interval_s)


@async_test
async def test_what_a_round_left_out_is_told(tmp_path: Path) -> None:
    runs = FakeRuns()
    runs.end = done(problems=("2 events refused by the peer: blocked: no",))
    async with managing(tmp_path, runs) as manager:
        await until(lambda: len(runs.requests) >= 2)
        assert state(manager).last_error == "2 events refused by the peer: blocked: no"
        assert state(manager).consecutive_failures == 0
    assert runs.requests[1].filter == Filter()  # nothing was settled, so nothing is left out


@async_test
async def test_what_a_peer_says_is_kept_up_to_a_bound(tmp_path: Path) -> None:
    runs = FakeRuns()
    runs.end = SyncFailedError("x" * (MAX_ERROR_CHARACTERS + 1), SyncProgress())
    async with managing(tmp_path, runs) as manager:
        await until(lambda: state(manager).consecutive_failures)
        assert state(manager).last_error == "x" * MAX_ERROR_CHARACTERS


@async_test
async def test_a_store_that_fails_is_a_failure_of_the_round(tmp_path: Path) -> None:
    runs = FakeRuns()
    runs.end = StoreUnavailableError("orly-db is away")
    async with managing(tmp_path, runs) as manager:
        await until(lambda: state(manager).consecutive_failures >= 2)
        assert state(manager).last_error == "the store failed: orly-db is away"


@async_test
async def test_a_round_that_ends_unexpectedly_does_not_end_the_rounds(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    runs = FakeRuns()
    runs.end = ZeroDivisionError("oops")
    async with managing(tmp_path, runs) as manager:
        await until(lambda: state(manager).consecutive_failures >= 2)
        assert state(manager).last_error == "unexpected ZeroDivisionError"
        runs.end = done()
        await until(lambda: not state(manager).consecutive_failures)
    assert "ZeroDivisionError: oops" in caplog.text


@async_test
async def test_start_and_stop_twice_are_no_error(tmp_path: Path) -> None:
    runs = FakeRuns()
    runs.hold.clear()
    async with managing(tmp_path, runs, start=False) as manager:
        are_active = [manager.is_active]
        manager.start()
        manager.start()
        are_active.append(manager.is_active)
        await until(lambda: runs.at_once)
        manager.stop()
        manager.stop()
        are_active.append(manager.is_active)
        assert are_active == [False, True, False]
        await until(lambda: runs.cancelled == 1)
        assert state(manager).last_error == ""
        runs.hold.set()
        manager.start()
        await until(lambda: state(manager).last_sync_s)


@async_test
async def test_nothing_happens_by_the_clock_before_a_start(tmp_path: Path) -> None:
    runs = FakeRuns()
    async with managing(tmp_path, runs, replace(QUICK, peers=(A, B)), start=False) as manager:
        manager.trigger(B, None)
        await until(lambda: state(manager, B).last_sync_s)
        assert runs.urls == [B]


@async_test
async def test_a_round_that_is_asked_for_is_full_and_has_its_filter(tmp_path: Path) -> None:
    runs = FakeRuns()
    async with managing(tmp_path, runs, replace(NEVER, peers=(A, B), filter=Filter(since=7))) as manager:
        await until(lambda: len(runs.requests) == 2)
        manager.trigger(A, Filter(kinds=frozenset({5})))
        manager.trigger("", None)
        await until(lambda: len(runs.requests) == 5)
        assert sorted(runs.urls[2:]) == [A, A, B]
        assert [request.filter for request in runs.requests if request.url == A] == [
            Filter(since=7),
            Filter(kinds=frozenset({5})),
            Filter(since=7),
        ]
        with pytest.raises(UnknownPeerError, match=r"wss://c\.invalid is not a peer"):
            manager.trigger("wss://c.invalid", None)


@async_test
async def test_rounds_with_a_filter_take_the_place_of_none_by_the_clock(tmp_path: Path) -> None:
    runs = FakeRuns()
    seconds = [0.0]
    async with managing(tmp_path, runs, NEVER, monotonic_s=lambda: seconds[0]) as manager:
        await until(lambda: manager._loops[A]._due_s)
        due_s = manager._loops[A]._due_s
        for wanted in (Filter(kinds=frozenset({5})), None):
            seconds[0] += 10
            n_requests = len(runs.requests)
            manager.trigger(A, wanted)
            await until(lambda: len(runs.requests) == n_requests + 1 and not manager._loops[A]._round)  # noqa: B023
            assert manager._loops[A]._due_s == due_s + (20 if wanted is None else 0)
        runs.hold.clear()
        manager.trigger(A, Filter(kinds=frozenset({5})))
        await until(lambda: runs.at_once)
        manager.trigger(A, Filter(kinds=frozenset({6})))
        seconds[0] = 10_000.0
        runs.hold.set()
        await until(lambda: len(runs.requests) == 6)
    assert [request.filter for request in runs.requests[-2:]] == [Filter(), Filter(kinds=frozenset({6}))]


@async_test
async def test_rounds_with_a_filter_do_not_hide_how_the_others_go(tmp_path: Path) -> None:
    runs = FakeRuns()
    runs.end = SyncFailedError("it hung up", SyncProgress())
    async with managing(tmp_path, runs, NEVER) as manager:
        await until(lambda: state(manager).consecutive_failures == 1)
        runs.end = done(fetched=3)
        manager.trigger(A, Filter(kinds=frozenset({5})))
        await until(lambda: state(manager).events_synced == 3)
        assert (state(manager).last_error, state(manager).consecutive_failures) == ("it hung up", 1)
        runs.end = SyncFailedError("it hung up again", SyncProgress())
        manager.trigger(A, Filter(kinds=frozenset({5})))
        await until(lambda: state(manager).last_error == "it hung up again")
        assert state(manager).consecutive_failures == 1
        runs.end = done(fetched=3)
        manager.trigger(A, None)
        await until(lambda: state(manager).events_synced == 6)
        assert (state(manager).last_error, state(manager).consecutive_failures) == ("", 0)


@async_test
async def test_rounds_that_wait_are_bounded(tmp_path: Path) -> None:
    runs = FakeRuns()
    runs.hold.clear()
    async with managing(tmp_path, runs) as manager:
        await until(lambda: runs.at_once)
        for _ in range(MAX_ASKED):
            manager.trigger(A, None)
        with pytest.raises(TooManyError, match=r"a\.invalid"):
            manager.trigger(A, None)


@async_test
async def test_several_peers_at_once_but_not_all(tmp_path: Path) -> None:
    runs = FakeRuns()
    runs.hold.clear()
    urls = tuple(f"wss://{number}.invalid" for number in range(MAX_AT_ONCE + 3))
    async with managing(tmp_path, runs, replace(NEVER, peers=urls)) as manager:
        await until(lambda: len(runs.at_once) == MAX_AT_ONCE)
        assert [peer.status for peer in manager.peers()].count("syncing") == MAX_AT_ONCE
        runs.hold.set()
        await until(lambda: all(peer.state.last_sync_s for peer in manager.peers()))
    assert runs.most == MAX_AT_ONCE
    assert sorted(runs.urls) == sorted(urls)


@async_test
async def test_peers_come_and_go_and_are_kept(tmp_path: Path) -> None:
    runs = FakeRuns()
    async with managing(tmp_path, runs) as manager:
        await manager.add(B)
        await manager.add(B)
        await until(lambda: B in runs.urls)
        assert [peer.state.url for peer in manager.peers()] == [A, B]
    async with managing(tmp_path, FakeRuns()) as again:
        assert [peer.state.url for peer in again.peers()] == [A, B]
        await again.remove(B)
        await again.remove(B)
        await again.remove(A)
        assert again.peers() == []
        assert again.peer(A) is None
    async with managing(tmp_path, FakeRuns()) as third:
        assert [peer.state.url for peer in third.peers()] == [A]  # the settings say so at each start


@async_test
async def test_a_peer_is_removed_while_it_is_synced_with(tmp_path: Path) -> None:
    runs = FakeRuns()
    runs.hold.clear()
    async with managing(tmp_path, runs) as manager:
        await until(lambda: runs.at_once)
        await manager.remove(A)
        assert runs.cancelled == 1
        assert runs.at_once == []


@async_test
async def test_what_is_remembered_of_events_outlives_a_restart_but_not_the_peer(tmp_path: Path) -> None:
    runs = FakeRuns()
    runs.note = b"i" * 32
    async with managing(tmp_path, runs, NEVER) as manager:
        await until(lambda: state(manager).last_sync_s)
        await until(lambda: list((tmp_path / "sync").glob("*.ids")))
    again = FakeRuns()
    async with managing(tmp_path, again, NEVER) as manager:
        await until(lambda: again.requests)
        assert again.memories[0].why_not_pull(b"i" * 32, now_s=NOW_S) is Why.REFUSED
        await manager.remove(A)
    assert list((tmp_path / "sync").glob("*.ids")) == []


@async_test
async def test_what_is_remembered_is_written_only_when_it_has_changed(tmp_path: Path) -> None:
    runs = FakeRuns()
    runs.note = b"1" * 32
    async with managing(tmp_path, runs, NEVER) as manager:
        await until(lambda: list((tmp_path / "sync").glob("*.ids")))
        (kept,) = (tmp_path / "sync").glob("*.ids")
        await until(lambda: not manager._loops[A].is_syncing)
        kept.unlink()
        runs.note = None
        manager.trigger(A, None)
        await until(lambda: len(runs.requests) == 2 and state(manager).last_sync_s)
        manager.trigger(A, None)
        await until(lambda: len(runs.requests) == 3)
        assert not kept.exists()
        runs.note = b"2" * 32
        manager.trigger(A, None)
        await until(kept.exists)


@async_test
async def test_by_hand_waits_for_the_round_under_way(tmp_path: Path) -> None:
    runs = FakeRuns()
    runs.hold.clear()
    request = SyncRequest(url=A, filter=Filter(), direction=Direction.DOWN)
    async with managing(tmp_path, runs, NEVER) as manager:
        await until(lambda: runs.at_once)
        told: list[SyncProgress] = []
        by_hand = asyncio.create_task(manager.sync(request, told.append))
        other = asyncio.create_task(manager.sync(replace(request, url=B), told.append))
        await until(lambda: runs.at_once == [A, B])
        runs.hold.set()
        assert (await by_hand, await other) == (done(), done())
        assert len(told) == 2
        assert runs.requests[2] == request


OTHERS = tuple(f"wss://{number}.invalid" for number in range(MAX_AT_ONCE))


@async_test
async def test_by_hand_does_not_wait_for_rounds_with_others(tmp_path: Path) -> None:
    runs = FakeRuns()
    runs.hold.clear()
    request = SyncRequest(url=A, filter=Filter(), direction=Direction.DOWN)
    async with managing(tmp_path, runs, replace(NEVER, peers=(*OTHERS, A)), start=False) as manager:
        for url in OTHERS:
            manager.trigger(url, None)
        await until(lambda: len(runs.at_once) == MAX_AT_ONCE)
        manager.trigger(A, None)
        await until(lambda: manager._context.turn._waiters)
        by_hand = asyncio.create_task(manager.sync(request, lambda _: None))
        await until(lambda: A in runs.at_once)
        runs.hold.set()
        assert await by_hand == done()
        await until(lambda: runs.urls.count(A) == 2)
    assert runs.most == MAX_AT_ONCE + 1


@async_test
async def test_rounds_with_others_do_not_wait_for_those_by_hand(tmp_path: Path) -> None:
    runs = FakeRuns()
    runs.hold.clear()
    request = SyncRequest(url=A, filter=Filter(), direction=Direction.DOWN)
    async with managing(tmp_path, runs, replace(NEVER, peers=(A, *OTHERS)), start=False) as manager:
        by_hand = asyncio.create_task(manager.sync(request, lambda _: None))
        await until(lambda: runs.at_once)
        manager.start()
        await until(lambda: len(runs.at_once) == 1 + MAX_AT_ONCE)
        runs.hold.set()
        assert await by_hand == done()
        await until(lambda: runs.urls.count(A) == 2)


@pytest.mark.parametrize("fetched", [0, 3])
@async_test
async def test_a_round_that_takes_too_long_gives_way_to_others(
    fetched: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer_loop, "MAX_ROUND_S", 0.05)
    runs = FakeRuns()
    runs.hold.clear()
    runs.steps = [SyncProgress(fetched=fetched)]
    async with managing(tmp_path, runs, replace(NEVER, peers=(*OTHERS, A))) as manager:
        await until(lambda: state(manager).last_error)
        found = state(manager)
        assert found.last_error.startswith("it took 0.05 s and was broken off")
        assert found.consecutive_failures == (0 if fetched else 1)
        assert (found.events_synced, found.last_sync_s) == (fetched, 0)
    assert runs.most == MAX_AT_ONCE


@async_test
async def test_of_relays_that_are_no_peers_nothing_is_left(tmp_path: Path) -> None:
    runs = FakeRuns()
    request = SyncRequest(url=B, filter=Filter(), direction=Direction.DOWN)
    async with managing(tmp_path, runs, replace(NEVER, peers=())) as manager:
        runs.hold.clear()
        tasks = [asyncio.create_task(manager.sync(request, lambda _: None)) for _ in range(3)]
        await until(lambda: runs.at_once)
        runs.hold.set()
        await asyncio.gather(*tasks)
        assert (len(runs.requests), runs.most) == (3, 1)
        assert manager._others == {}


@async_test
async def test_what_someone_asks_for_is_tried_again_and_remembered(tmp_path: Path) -> None:
    runs = FakeRuns()
    runs.note = b"1" * 32
    request = SyncRequest(url=A, filter=Filter(), direction=Direction.DOWN)
    async with managing(tmp_path, runs, replace(QUICK, interval_s=3600.0)) as manager:
        await until(lambda: state(manager).last_sync_s)
        runs.note = b"2" * 32
        await manager.sync(request, lambda _: None)
        manager.trigger(A, None)
        await until(lambda: len(runs.requests) == 3 and not runs.at_once)
        first, by_hand, asked = runs.memories
        assert by_hand.why_not_pull(b"1" * 32, now_s=NOW_S) is None
        assert asked.why_not_pull(b"1" * 32, now_s=NOW_S) is None
        assert first.why_not_pull(b"2" * 32, now_s=NOW_S) is Why.REFUSED, "rounds by the clock know of it"
        runs.note = b"3" * 32
        manager.trigger(A, None)
        await until(lambda: len(runs.requests) == 4 and not runs.at_once)
    again = FakeRuns()
    async with managing(tmp_path, again, NEVER):
        await until(lambda: again.requests)
        assert again.memories[0].why_not_pull(b"3" * 32, now_s=NOW_S) is Why.REFUSED, "and those after a restart"


@async_test
async def test_a_start_after_a_stop_is_at_once_also_while_a_round_is_broken_off(tmp_path: Path) -> None:
    runs = FakeRuns()
    runs.hold.clear()
    async with managing(tmp_path, runs, NEVER) as manager:
        await until(lambda: runs.at_once)
        manager.stop()
        manager.start()
        runs.hold.set()
        await until(lambda: len(runs.requests) == 2)


@async_test
async def test_peers_are_bounded(tmp_path: Path) -> None:
    urls = tuple(f"wss://{number}.invalid" for number in range(MAX_PEERS - 1))
    async with managing(tmp_path, FakeRuns(), replace(NEVER, peers=urls), start=False) as manager:
        await manager.add(A)
        with pytest.raises(TooManyError, match=str(MAX_PEERS)):
            await manager.add(B)
        await manager.add(A)
        await manager.remove(urls[0])
        await manager.add(B)
        assert len(manager.peers()) == MAX_PEERS


@async_test
async def test_there_is_one_sync_with_a_relay_also_when_it_is_no_peer_any_more(tmp_path: Path) -> None:
    runs = FakeRuns()
    request = SyncRequest(url=A, filter=Filter(), direction=Direction.DOWN)
    async with managing(tmp_path, runs, NEVER, start=False) as manager:
        runs.hold.clear()
        first = asyncio.create_task(manager.sync(request, lambda _: None))
        await until(lambda: runs.at_once)
        await manager.remove(A)
        second = asyncio.create_task(manager.sync(request, lambda _: None))
        await manager.add(A)
        manager.trigger(A, None)
        runs.hold.set()
        assert (await first, await second) == (done(), done())
        await until(lambda: state(manager).last_sync_s)
    assert runs.most == 1


@async_test
async def test_there_is_one_sync_with_a_relay_also_while_it_becomes_a_peer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_load = threading.Event()

    def load_late(book: PeerBook, url: str, *, now_s: int) -> PeerMemory:
        assert may_load.wait(DEADLINE_S)
        memory = PeerMemory()
        memory.note(b"1" * 32, Why.REFUSED, now_s=now_s)
        return memory

    monkeypatch.setattr(PeerBook, "load_memory", load_late)
    runs = FakeRuns()
    runs.note = b"2" * 32
    request = SyncRequest(url=A, filter=Filter(), direction=Direction.DOWN)
    async with managing(tmp_path, runs, replace(NEVER, peers=()), start=False) as manager:
        adding = asyncio.create_task(manager.add(A))
        await until(lambda: manager._changing.locked())
        assert await manager.sync(request, lambda _: None) == done()
        runs.hold.clear()
        by_hand = asyncio.create_task(manager.sync(request, lambda _: None))
        await until(lambda: runs.at_once)
        may_load.set()
        await adding
        manager.trigger(A, None)
        runs.hold.set()
        assert await by_hand == done()
        await until(lambda: state(manager).last_sync_s or state(manager).last_error)
        assert state(manager).last_error == ""
        memory = manager._loops[A].line.memory
        assert [memory.why_not_pull(each * 32, now_s=NOW_S) for each in (b"1", b"2")] == [Why.REFUSED] * 2
        assert manager._others == {}
    assert (len(runs.requests), runs.most) == (3, 1)


@async_test
async def test_there_is_one_sync_with_a_relay_also_while_it_ceases_to_be_a_peer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_save, save = threading.Event(), PeerBook.save

    def save_late(book: PeerBook, states: Iterable[PeerState]) -> None:
        assert may_save.wait(DEADLINE_S)
        save(book, states)

    monkeypatch.setattr(PeerBook, "save", save_late)
    runs = FakeRuns()
    request = SyncRequest(url=A, filter=Filter(), direction=Direction.DOWN)
    async with managing(tmp_path, runs, NEVER) as manager:
        await until(lambda: runs.requests and not runs.at_once)  # the round is over, and its state is being kept
        line = manager._loops[A].line
        removing = asyncio.create_task(manager.remove(A))
        await until(lambda: A not in manager._loops)
        by_hand = asyncio.create_task(manager.sync(request, lambda _: None))
        await until(lambda: line.n_users == 3)
        assert runs.urls == [A]
        may_save.set()
        await removing
        assert await by_hand == done()
        assert manager._others == {}


@async_test
async def test_syncs_by_hand_go_on_after_a_stop_and_are_bounded(tmp_path: Path) -> None:
    runs = FakeRuns()
    runs.hold.clear()
    requests = [
        SyncRequest(url=f"wss://{number}.invalid", filter=Filter(), direction=Direction.DOWN)
        for number in range(MAX_BY_HAND + 1)
    ]
    async with managing(tmp_path, runs, replace(NEVER, peers=())) as manager:
        tasks = [asyncio.create_task(manager.sync(request, lambda _: None)) for request in requests[:-1]]
        await until(lambda: len(runs.at_once) == MAX_BY_HAND)
        with pytest.raises(TooManyError, match=f"{MAX_BY_HAND} syncs"):
            await manager.sync(requests[-1], lambda _: None)
        manager.stop()
        runs.hold.set()
        assert await asyncio.gather(*tasks) == [done()] * MAX_BY_HAND
        assert await manager.sync(requests[-1], lambda _: None) == done()


# Our own address


OWN = OwnAddress(relay_url="wss://relay.example.com/nostr", listen="0.0.0.0", port=3334)


@pytest.mark.parametrize(
    ("url", "setting"),
    [
        ("wss://relay.example.com/nostr", "ORLY_RELAY_URL"),
        ("ws://relay.example.com/nostr/", "ORLY_RELAY_URL"),
        ("wss://relay.example.com", None),
        ("ws://127.0.0.1:3334", "ORLY_LISTEN and ORLY_PORT"),
        ("ws://localhost:3334/x", "ORLY_LISTEN and ORLY_PORT"),
        ("ws://[::1]:3334", "ORLY_LISTEN and ORLY_PORT"),
        ("ws://127.0.0.1:3335", None),
        ("ws://192.0.2.1:3334", None),
        ("ws://nowhere.invalid:3334", None),
    ],
)
@async_test
async def test_our_own_address_is_known(url: str, setting: str | None) -> None:
    assert await OWN.why_own(url) == setting


@pytest.mark.parametrize(("listen", "is_own"), [("127.0.0.1", True), ("127.0.0.2", False)])
@async_test
async def test_another_relay_of_this_machine_is_not_us(listen: str, is_own: bool) -> None:
    address = OwnAddress(relay_url="", listen=listen, port=3334)
    assert (await address.why_own("ws://127.0.0.1:3334") is not None) == is_own


@async_test
async def test_we_do_not_sync_with_ourselves(tmp_path: Path) -> None:
    runs = FakeRuns()
    url = "ws://127.0.0.1:3334"
    async with managing(tmp_path, runs, replace(QUICK, peers=(url,)), address=OWN) as manager:
        await until(lambda: state(manager, url).consecutive_failures)
        assert state(manager, url).last_error == f"{url} is this relay itself, by ORLY_LISTEN and ORLY_PORT"
        with pytest.raises(SyncFailedError, match="this relay itself"):
            await manager.add("wss://relay.example.com/nostr")
        with pytest.raises(SyncFailedError, match="this relay itself"):
            await manager.sync(SyncRequest(url=url, filter=Filter(), direction=Direction.BOTH), lambda _: None)
    assert runs.requests == []


# The files


def test_a_book_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert PeerBook(tmp_path / "new").load() == ()


def test_a_book_is_read_as_it_was_written(tmp_path: Path) -> None:
    states = (
        PeerState(url=A, is_added=True),
        PeerState(url=B, last_sync_s=1, events_synced=2, last_error="x", consecutive_failures=3),
    )
    book = PeerBook(tmp_path)
    book.load()
    book.save(states)
    assert PeerBook(tmp_path).load() == states
    assert [path.name for path in (tmp_path / "sync").iterdir()] == ["negentropy.json"]


@pytest.mark.parametrize(
    ("content", "why"),
    [("{", "is damaged"), ('{"version":2,"peers":[]}', "has version 2"), ('{"version":1}', "is damaged")],
)
def test_a_book_that_cannot_be_read_is_refused_by_name(tmp_path: Path, content: str, why: str) -> None:
    path = tmp_path / "sync/negentropy.json"
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(PeerBookError, match=why) as caught:
        PeerBook(tmp_path).load()
    assert str(path) in str(caught.value)


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PeerBookError, match="file/sync"):
        PeerBook(tmp_path / "file").load()


def test_a_damaged_memory_counts_as_none(tmp_path: Path) -> None:
    book = PeerBook(tmp_path)
    book.load()
    book.save_memory(A, b"short")
    assert len(book.load_memory(A, now_s=NOW_S)) == 0
    book.save_memory(A, b"")
    assert list((tmp_path / "sync").iterdir()) == []


@async_test
async def test_a_peer_that_cannot_be_kept_is_not_added(tmp_path: Path) -> None:
    runs = FakeRuns()
    async with managing(tmp_path, runs, replace(NEVER, peers=())) as manager:
        (tmp_path / "sync").rmdir()
        with pytest.raises(PeerBookError, match="cannot be written"):
            await manager.add(A)
        assert manager.peers() == []


@async_test
async def test_rounds_go_on_when_their_state_cannot_be_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    runs = FakeRuns()
    async with managing(tmp_path, runs) as manager:
        (tmp_path / "sync/negentropy.json.d").mkdir()
        await until(lambda: runs.requests)
        (tmp_path / "sync").rename(tmp_path / "gone")
        count = len(runs.requests)
        await until(lambda: len(runs.requests) > count + 3)
        assert state(manager).consecutive_failures == 0
    assert len([record for record in caplog.records if "is not kept" in record.message]) == 1
