"""Our client with our relay: whole answers, many at once, and no subscription left behind."""

import asyncio
import json

from tests.component.peer_sink import Answers, Sink, pairs
from tests.component.relay_server import TestedRelay, on_relay
from tests.factory import NOW_S, make_event
from tests.wsclient import until

from orly.sync.peer import PeerConnection, PeerOptions

EVENTS = [make_event(key=number % 4, created_at=NOW_S - number, content=f"{number} ä\n") for number in range(300)]


@on_relay()
async def test_publish_and_fetch(relay: TestedRelay) -> None:
    connection = await PeerConnection.open(relay.url, PeerOptions())
    answers = Answers()
    for start in range(0, len(EVENTS), 100):
        connection.publish(pairs(*EVENTS[start : start + 100]), answers)
        await connection.drained()
    await until(lambda: not connection.unanswered)
    assert {event_id for event_id, accepted, _ in answers.all if accepted} == {event.id for event in EVENTS}
    assert answers.calls < len(EVENTS)

    sinks = [Sink() for _ in range(6)]
    ids = [[event.event.id for event in EVENTS[number::6]] for number in range(6)]
    fetches = [
        connection.fetch([json.dumps({"ids": wanted}).encode()], sink) for wanted, sink in zip(ids, sinks, strict=True)
    ]
    assert await asyncio.gather(*(fetch.wait() for fetch in fetches)) == [None] * 6
    for number, sink in enumerate(sinks):
        assert sorted(sink.rows) == sorted(event.raw for event in EVENTS[number::6])
    await until(lambda: not relay.n_subscriptions)
    await connection.close()
    assert connection.counters().junk_messages == connection.counters().unexpected_messages == 0


@on_relay()
async def test_duplicates_and_refusals(relay: TestedRelay) -> None:
    good, bad = EVENTS[0], make_event(created_at=NOW_S + 10**8)
    connection = await PeerConnection.open(relay.url, PeerOptions())
    answers = Answers()
    connection.publish(pairs(good), answers)
    await until(lambda: not connection.unanswered)
    connection.publish(pairs(good, bad), answers)
    await until(lambda: not connection.unanswered)
    (first, *rest) = answers.all
    assert first == (good.id, True, "")
    assert [(event_id, accepted, reason.split(":")[0]) for event_id, accepted, reason in sorted(rest)] == sorted(
        [(good.id, True, "duplicate"), (bad.id, False, "invalid")]
    )
    await connection.close()


@on_relay()
async def test_a_refused_filter(relay: TestedRelay) -> None:
    connection = await PeerConnection.open(relay.url, PeerOptions())
    reason = await connection.fetch([b'{"ids":["zz"]}'], Sink()).wait()
    assert reason is not None
    assert reason.startswith("invalid: ")
    await connection.close()


@on_relay()
async def test_the_relay_stops(relay: TestedRelay) -> None:
    connection = await PeerConnection.open(relay.url, PeerOptions())
    relay.stop.set()
    assert "code 1001: relay is stopping" in str(await connection.lost())
    await connection.close()
