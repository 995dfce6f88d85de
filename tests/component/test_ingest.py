"""The way of events into the store: batches, order, back-pressure, failures, and the drain before a stop."""

import asyncio
import json
import logging
from collections.abc import Collection, Sequence
from typing import Any, Final, cast

import pytest
from tests.component.relay_server import TestedRelay, on_relay, read_messages, running_relay, send_at_once
from tests.component.store_proxy import StoreProxy
from tests.factory import KEYS, NOW_S, fake_event, make_event
from tests.transport import run_async
from tests.wsclient import CLOSE, DEADLINE_S, until

from orly.access.control import AccessControl
from orly.access.levels import Mode
from orly.access.snapshot import Rules, Snapshot
from orly.acl.board import Board
from orly.intake.policy import WritePolicy
from orly.nostr.event import EncodedEvent
from orly.nostr.filter import Filter
from orly.nostr.reason import Refusal
from orly.relay import ingest as ingest_module
from orly.relay.ingest import BATCH_EVENTS, MAX_SAVES, Ingest
from orly.relay.session import FEW_UNANSWERED_EVENTS, MAX_UNANSWERED_EVENTS, MESSAGES_PER_TURN
from orly.relay.stranger_limits import StrangerLimits
from orly.relay.visitor import Visitor
from orly.store.base import Query, StoreError
from orly.store.lmdb.store import LmdbStore

POLICY: Final = WritePolicy(
    max_event_bytes=100_000, max_event_tags=10, max_created_at_past_s=0, max_created_at_future_s=900
)
EVERYTHING: Final = Query(filters=(Filter(),))


class Publisher:
    """Remembers the answers it got."""

    def __init__(self) -> None:
        self.authenticated: Collection[str] = frozenset()
        self.visitor = Visitor(None, "192.0.2.1")
        self.answers: list[list[Any]] = []
        self.submitted: list[str] = []

    def refuse_event(self) -> Refusal | None:
        return None

    def answered(self, payloads: Sequence[bytes], count: int) -> None:
        assert len(payloads) == count
        self.answers += map(json.loads, payloads)

    def challenge(self) -> None:
        raise AssertionError("nothing here needs authentication")

    def submit(self, ingest: Ingest, *events: EncodedEvent) -> None:
        for event in events:
            self.submitted.append(event.event.id)
            ingest.submit(self, event.raw)

    async def all_answered(self) -> list[list[Any]]:
        """Every answer, one for each event and in the same order."""
        await until(lambda: len(self.answers) >= len(self.submitted), "the answers")
        assert [answer[1] for answer in self.answers] == self.submitted
        assert all(answer[0] == "OK" and len(answer) == 4 for answer in self.answers)
        return self.answers


def notes(count: int, start: int = 0, key: int = 0) -> list[EncodedEvent]:
    return [make_event(key, content=str(n)) for n in range(start, start + count)]


def new_ingest(store: StoreProxy, *, share: bool = False, limits: StrangerLimits | None = None) -> Ingest:
    loop = asyncio.get_running_loop()
    return Ingest(store, POLICY, now_s=lambda: NOW_S, loop=loop, share_verification=share, limits=limits)


def slow_strangers(increment_s: float) -> tuple[StrangerLimits, Publisher]:
    """Limits by which everybody waits, and a publisher whom they concern; the clock stands still."""
    board = Board()
    board.snapshot = Snapshot(Rules(mode=Mode.FOLLOWS, throttles=True, throttle_increment_s=increment_s))
    access = cast(AccessControl, board)
    loop = asyncio.get_running_loop()
    publisher = Publisher()
    publisher.visitor = Visitor(access, "192.0.2.1")
    return StrangerLimits(access, loop, now_s=lambda: NOW_S, monotonic_s=lambda: 0.0), publisher


def on_store(body: Any) -> Any:
    """A test on a store of its own, without any socket."""

    def test(tmp_path: Any) -> None:
        async def main() -> None:
            store = StoreProxy(await LmdbStore.open(tmp_path, max_bytes=1 << 26, now_s=lambda: NOW_S))
            try:
                await body(store)
            finally:
                store.release()
                await store.close()

        run_async(main())

    test.__name__ = test.__qualname__ = body.__name__
    return test


@on_store
async def test_what_queues_up_in_a_turn_is_one_batch(store: StoreProxy) -> None:
    ingest = new_ingest(store)
    publishers = [Publisher() for _ in range(4)]
    for number, publisher in enumerate(publishers):
        publisher.submit(ingest, *notes(BATCH_EVENTS // 4, key=number))
    publishers[0].submit(ingest, *notes(1, start=BATCH_EVENTS))
    for publisher in publishers:
        assert all(answer[2] for answer in await publisher.all_answered())
    assert [len(batch) for batch in store.saved] == [BATCH_EVENTS, 1]
    await ingest.drain()


@pytest.mark.parametrize("share", [True, False])
def test_verification_with_and_without_a_second_thread(share: bool, tmp_path: Any) -> None:
    @on_store
    async def scene(store: StoreProxy) -> None:
        ingest, publisher = new_ingest(store, share=share), Publisher()
        good, bad = notes(40), [fake_event(content=str(n)) for n in range(40)]
        mixed = [event for pair in zip(good, bad, strict=True) for event in pair]
        publisher.submit(ingest, *mixed)
        answers = await publisher.all_answered()
        assert [answer[2] for answer in answers] == [True, False] * 40
        assert {answer[3] for answer in answers[1::2]} == {"invalid: the signature does not match"}
        await ingest.drain()

    scene(tmp_path)


@on_store
async def test_batches_on_their_way_are_bounded(store: StoreProxy) -> None:
    ingest, publisher = new_ingest(store), Publisher()
    store.hold_saves()
    publisher.submit(ingest, *notes(BATCH_EVENTS * (MAX_SAVES + 2)))
    await until(lambda: len(store.saved) == MAX_SAVES, "the batches")
    await asyncio.sleep(0)
    assert len(store.saved) == MAX_SAVES
    assert not publisher.answers
    store.release()
    assert all(answer[2] for answer in await publisher.all_answered())
    assert len(store.saved) == MAX_SAVES + 2
    await ingest.drain()


@on_store
async def test_answers_of_a_batch_without_a_save_wait_for_those_before(store: StoreProxy) -> None:
    ingest, first, second = new_ingest(store), Publisher(), Publisher()
    store.hold_saves()
    first.submit(ingest, *notes(BATCH_EVENTS))
    refused = [fake_event(created_at=NOW_S + 10_000, content=str(n)) for n in range(BATCH_EVENTS)]
    first.submit(ingest, *refused[:5])
    second.submit(ingest, *refused[5:])
    await until(lambda: not ingest._queue, "the second batch")
    assert not first.answers
    store.release()
    assert [answer[2] for answer in await first.all_answered()] == [True] * BATCH_EVENTS + [False] * 5
    assert not any(answer[2] for answer in await second.all_answered())
    await ingest.drain()


@on_store
async def test_hint_that_fails_is_done_without(store: StoreProxy) -> None:
    ingest, publisher = new_ingest(store), Publisher()
    store.known_error = StoreError("no reader is free")
    publisher.submit(ingest, *notes(3), *notes(3))
    assert [answer[3] for answer in await publisher.all_answered()] == [""] * 3 + [
        "duplicate: already have this event"
    ] * 3
    await ingest.drain()


def test_defect_of_the_store_loses_no_answer(tmp_path: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Even what no store should raise ends in an answer for every event, and the next batch works."""

    @on_store
    async def scene(store: StoreProxy) -> None:
        ingest, publisher = new_ingest(store), Publisher()
        for error in (RuntimeError("a defect"), asyncio.CancelledError()):
            store.save_error = error
            publisher.submit(ingest, *notes(3), fake_event())
            answers = await publisher.all_answered()
            assert [answer[2:] for answer in answers[-4:]] == [
                *[[False, "error: internal error"]] * 3,
                [False, "invalid: the signature does not match"],
            ]
        store.save_error = None
        publisher.submit(ingest, *notes(3))
        assert all(answer[2] for answer in (await publisher.all_answered())[-3:])
        await ingest.drain()

    with caplog.at_level(logging.ERROR, logger="orly.relay.ingest"):
        scene(tmp_path)
    assert "a batch of events was lost on its way to the store" in caplog.text


def test_failures_are_logged_once_a_batch(tmp_path: Any, caplog: pytest.LogCaptureFixture) -> None:
    @on_store
    async def scene(store: StoreProxy) -> None:
        ingest, publisher = new_ingest(store), Publisher()
        store.save_error = StoreError("no room is left")
        publisher.submit(ingest, *notes(20))
        await publisher.all_answered()
        await ingest.drain()

    with caplog.at_level(logging.ERROR, logger="orly.relay.ingest"):
        scene(tmp_path)
    assert [record.getMessage() for record in caplog.records] == ["20 events could not be stored: no room is left"]


@on_store
async def test_drain_takes_what_came_before_and_refuses_what_comes_after(store: StoreProxy) -> None:
    ingest, publisher = new_ingest(store), Publisher()
    store.hold_saves()
    before, after = notes(BATCH_EVENTS * (MAX_SAVES + 1) + 5), notes(BATCH_EVENTS, key=1)
    publisher.submit(ingest, *before)
    await until(lambda: len(store.saved) == MAX_SAVES, "the saves")
    draining = asyncio.create_task(ingest.drain())
    await asyncio.sleep(0)
    publisher.submit(ingest, *after)
    assert not draining.done()
    store.release()
    await draining
    assert len(publisher.answers) == len(publisher.submitted), "all are answered when the drain ends"
    answers = await publisher.all_answered()
    assert [answer[2:] for answer in answers] == [
        *[[True, ""]] * len(before),
        *[[False, "error: the relay is stopping"]] * len(after),
    ]
    stored = {json.loads(raw)["id"] for raw in await store.fetch(EVERYTHING)}
    assert stored == {event.event.id for event in before}


@on_store
async def test_drain_of_nothing_ends_at_once(store: StoreProxy) -> None:
    ingest, publisher = new_ingest(store, share=True), Publisher()
    async with asyncio.timeout(5):
        await ingest.drain()
    publisher.submit(ingest, *notes(20))
    assert {answer[3] for answer in await publisher.all_answered()} == {"error: the relay is stopping"}


@on_store
async def test_what_others_send_again_makes_nobody_wait(store: StoreProxy) -> None:
    limits, publisher = slow_strangers(0.001)
    ingest = new_ingest(store, limits=limits)
    profile = make_event(0, kind=0, created_at=NOW_S)
    publisher.submit(ingest, profile)
    await publisher.all_answered()
    publisher.submit(ingest, profile, *(make_event(0, kind=0, created_at=NOW_S - n) for n in range(1, 9)))
    await until(lambda: len(publisher.answers) == 10, "the answers")
    assert all(answer[3].startswith("duplicate: ") for answer in publisher.answers[1:])
    twice = make_event(0, content="twice")
    publisher.submit(ingest, twice, twice)
    await until(lambda: len(publisher.answers) == 12, "the answers")
    assert limits.delay_s(twice, "") == pytest.approx(0.003), "of two that are stored, and this"
    await ingest.drain()


@on_store
async def test_events_that_wait_are_bounded(store: StoreProxy) -> None:
    assert ingest_module.MAX_DELAYED_BYTES == 16 * 1024 * 1024
    events = notes(3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ingest_module, "MAX_DELAYED_BYTES", 2 * len(events[0].raw))
        await too_many_wait(store, events)


async def too_many_wait(store: StoreProxy, events: Sequence[EncodedEvent]) -> None:
    limits, publisher = slow_strangers(DEADLINE_S)
    ingest = new_ingest(store, limits=limits)
    publisher.submit(ingest, *events)
    await until(lambda: len(publisher.answers) == 1, "a refusal")
    (refused,) = publisher.answers
    assert refused[1:] == [
        events[2].event.id,
        False,
        "rate-limited: too many events of strangers wait already, try again later",
    ]
    await ingest.drain()
    assert sorted(answer[1] for answer in publisher.answers[1:]) == sorted(each.event.id for each in events[:2])
    assert {answer[3] for answer in publisher.answers[1:]} == {"error: the relay is stopping"}
    assert ingest._delayed_bytes == 0


@on_store
async def test_memory_of_ephemeral_events_is_bounded(store: StoreProxy) -> None:
    ingest, publisher = new_ingest(store), Publisher()
    limit = ingest_module.RECENT_EPHEMERAL_IDS
    ingest._ephemeral_ids.update((n.to_bytes(32, "big"), None) for n in range(limit))
    first, second = make_event(kind=20_001), make_event(kind=20_002)
    publisher.submit(ingest, first, second, first)
    assert [answer[3] for answer in await publisher.all_answered()] == ["", "", "duplicate: already have this event"]
    assert len(ingest._ephemeral_ids) == limit
    assert bytes(32) not in ingest._ephemeral_ids, "the oldest is forgotten"
    await ingest.drain()


# Over sockets


@on_relay()
async def test_socket_is_not_read_while_too_many_events_are_unanswered(relay: TestedRelay) -> None:
    events = notes(20)
    many = [events[n % 20] for n in range(MAX_UNANSWERED_EVENTS + 500)]
    async with relay.raw_client() as client:
        relay.store.hold_saves()
        send_at_once(client, *(b'["EVENT",' + event.raw + b"]" for event in many))
        sessions: list[Any] = []
        await until(lambda: relay.store.saved, "the first batch")
        sessions += {id(publisher): publisher for publisher, *_ in relay.context.ingest._queue}.values()
        (own,) = sessions
        await until(lambda: own._unanswered == MAX_UNANSWERED_EVENTS and own._backlog, "the bound")
        assert not own._is_reading
        send_at_once(client, ["REQ", "s", {"ids": [events[0].event.id]}])
        relay.store.release()
        answers = await read_messages(client, len(many) + 2)
        assert own._unanswered == 0
        assert own._is_reading
    assert [answer[1] for answer in answers[:-2]] == [event.event.id for event in many]
    assert all(answer[2] for answer in answers[:-2])
    assert [answer[0] for answer in answers[-2:]] == ["EVENT", "EOSE"]


def test_events_behind_those_that_a_store_that_is_away_did_not_take_fail_with_them(tmp_path: Any) -> None:
    """Otherwise each batch would wait for as long as the one before it."""
    events = notes((MAX_SAVES + 3) * BATCH_EVENTS)
    trouble: list[str] = []

    @on_store
    async def play(store: StoreProxy) -> None:
        loop = asyncio.get_running_loop()
        ingest = Ingest(
            store,
            POLICY,
            now_s=lambda: NOW_S,
            loop=loop,
            share_verification=False,
            store_health=lambda: trouble[0] if trouble else None,
        )
        publisher = Publisher()
        store.hold_saves()
        store.save_error = StoreError("the store did not answer within 10 s")
        publisher.submit(ingest, *events)
        await until(lambda: len(store.saved) == MAX_SAVES, "the batches under way")
        trouble.append("the store is away")
        store.release()
        answers = await publisher.all_answered()
        assert {(answer[2], answer[3]) for answer in answers} == {
            (False, "error: the store did not answer within 10 s")
        }
        assert len(store.saved) == MAX_SAVES, "the others were not even offered"
        store.save_error = None
        trouble.clear()
        publisher.submit(ingest, *events)
        assert all(answer[2] for answer in (await publisher.all_answered())[len(events) :])
        await ingest.drain()

    play(tmp_path)


def test_a_failure_while_the_store_is_there_is_nobody_elses(tmp_path: Any) -> None:
    events = notes((MAX_SAVES + 1) * BATCH_EVENTS)

    @on_store
    async def play(store: StoreProxy) -> None:
        ingest, publisher = new_ingest(store), Publisher()
        store.save_error = StoreError("no")
        publisher.submit(ingest, *events)
        await publisher.all_answered()
        assert len(store.saved) == MAX_SAVES + 1
        await ingest.drain()

    play(tmp_path)


@on_store
async def test_an_ephemeral_event_that_another_process_took_is_known(store: StoreProxy) -> None:
    ingest, publisher = new_ingest(store), Publisher()
    told, fresh = make_event(kind=20_001, content="told"), make_event(kind=20_001, content="fresh")
    ingest.told_ephemeral([told])
    publisher.submit(ingest, told, fresh)
    answers = await publisher.all_answered()
    assert [answer[2:] for answer in answers] == [[True, "duplicate: already have this event"], [True, ""]]
    assert [event.id for batch in store.saved for event in batch] == [fresh.id]
    await ingest.drain()


def test_what_waits_for_answers_is_counted(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    events = notes(BATCH_EVENTS + 10)

    @on_store
    async def play(store: StoreProxy) -> None:
        ingest, publisher = new_ingest(store), Publisher()
        store.hold_saves()
        publisher.submit(ingest, *events)
        assert not ingest.is_full
        await until(lambda: store.saved, "the first batch")
        for most, is_full in ((waiting_bytes, False), (waiting_bytes - 1, True)):
            monkeypatch.setattr(ingest_module, "MAX_WAITING_BYTES", most)
            assert ingest.is_full is is_full
        monkeypatch.setattr(ingest_module, "MAX_WAITING_BYTES", 0)
        store.release()
        await publisher.all_answered()
        assert not ingest.is_full
        await ingest.drain()

    waiting_bytes = sum(len(event.raw) for event in events)
    monkeypatch.setattr(ingest_module, "MAX_WAITING_BYTES", waiting_bytes)
    play(tmp_path)


def test_every_connection_is_held_to_a_few_events_while_too_much_waits(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest_module, "MAX_WAITING_BYTES", 0)
    firsts, seconds = notes(MESSAGES_PER_TURN + 200), notes(200, key=1)

    async def main() -> None:
        async with running_relay(tmp_path) as relay, relay.raw_client() as first, relay.raw_client() as second:
            ingest = relay.context.ingest
            relay.store.hold_saves()
            send_at_once(first, *(b'["EVENT",' + event.raw + b"]" for event in firsts))
            await until(lambda: relay.store.saved, "the first batch")
            send_at_once(second, *(b'["EVENT",' + event.raw + b"]" for event in seconds))
            await until(lambda: relay.store.saved[-1][-1].event.pubkey == KEYS[1], "the second")
            own: Any = ingest._unanswered[-1].publishers[-1]
            await until(lambda: own._backlog, "the bound")
            assert own._unanswered == FEW_UNANSWERED_EVENTS
            assert not own._is_reading
            relay.store.release()
            for client, events in ((first, firsts), (second, seconds)):
                answers = await read_messages(client, len(events))
                assert [(answer[1], answer[2]) for answer in answers] == [(event.event.id, True) for event in events]
            assert not ingest.is_full

    run_async(main())


@on_relay()
async def test_one_connection_does_not_hold_up_the_others(relay: TestedRelay) -> None:
    async with relay.raw_client() as flood, relay.client() as client:
        send_at_once(flood, *(b'["EVENT",' + event.raw + b"]" for event in notes(1500)))
        await client.accept(make_event(3))
        assert await client.request("s", {"authors": [make_event(3).event.pubkey]}) == [make_event(3).event.id]
        assert all(answer[2] for answer in await read_messages(flood, 1500))


@on_relay()
async def test_answers_to_who_is_gone_hurt_nobody(relay: TestedRelay) -> None:
    async with relay.client() as other:
        async with relay.raw_client() as client:
            relay.store.hold_saves()
            send_at_once(client, *(b'["EVENT",' + event.raw + b"]" for event in notes(200)))
            await until(lambda: relay.store.saved, "the save")
        relay.store.release()
        await other.accept(make_event(3))
        assert await other.count("c", {}) == 201


def test_stop_answers_and_keeps_what_was_read(tmp_path: Any) -> None:
    """A stop in the middle of a flood: every OK true is stored, every event that was taken has its OK."""
    events = notes(1000)

    async def main() -> None:
        accepted: set[str] = set()
        async with running_relay(tmp_path, stop_timeout_s=20) as relay, relay.raw_client() as client:
            send_at_once(client, *(b'["EVENT",' + event.raw + b"]" for event in events))
            (first,) = await read_messages(client, 1)
            assert first[2] is True
            relay.stop.set()
            answered = [first[1]]
            accepted.add(first[1])
            while True:
                opcode, payload = await client.receive_frame()
                if opcode == CLOSE:
                    assert payload == b"\x03\xe9relay is stopping"
                    client.send(b"\x88\x82\x00\x00\x00\x00\x03\xe9")
                    break
                ok = json.loads(payload)
                answered.append(ok[1])
                if ok[2]:
                    accepted.add(ok[1])
                else:
                    assert ok[3] == "error: the relay is stopping"
            await relay.task
            stored = {json.loads(raw)["id"] for raw in await relay.store.fetch(EVERYTHING)}
        assert answered == [event.event.id for event in events[: len(answered)]]
        assert stored == accepted

    run_async(main())
