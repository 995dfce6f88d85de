"""Reconciling, fetching and publishing with a scripted peer, all on one connection."""

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest
from tests.component.fake_peer import TEXT, FakeRelay, PeerSide, frame, scripted_peer, text_frame
from tests.component.peer_sink import QUICK, Answers, Sink, connected, pairs
from tests.factory import fake_event
from tests.transport import run_async
from tests.wsclient import DEADLINE_S, until

from orly.negentropy import Initiator, ItemSet
from orly.sync.peer import (
    PeerClosedError,
    PeerConnection,
    PeerOptions,
    PeerSilentError,
    ReconcileRefusedError,
)

EVENTS = [fake_event(content=f"{number} ä") for number in range(50)]


# Handshake and close


def test_handshake_and_goodbye() -> None:
    async def main() -> None:
        sides: list[PeerSide] = []
        codes: list[int | None] = []

        async def script(peer: PeerSide) -> None:
            sides.append(peer)
            codes.append(await peer.closed())

        async with scripted_peer(script) as url:
            options = PeerOptions(user_agent="test", headers=(("X-Extra", "1"),))
            connection = await PeerConnection.open(f"{url}/path?secret=1", options)
            assert connection.name == f"{url}/path"
            assert connection.error is None
            await connection.close()
            error = await connection.lost()
            assert isinstance(error, PeerClosedError)
            assert "by us" in str(error)
            await until(lambda: codes)
        assert codes == [1000]
        assert sides[0].path == "/path?secret=1"
        assert sides[0].headers["user-agent"] == "test"
        assert sides[0].headers["x-extra"] == "1"
        assert "sec-websocket-extensions" not in sides[0].headers

    run_async(main())


def test_everything_after_the_end_says_why() -> None:
    async def main() -> None:
        async def script(peer: PeerSide) -> None:
            await peer.expect("REQ")
            await peer.close(1013, "try\nlater")

        async with connected(script) as connection:
            fetch = connection.fetch([b"{}"], Sink())
            with pytest.raises(PeerClosedError, match="code 1013: try later") as caught:
                await fetch.wait()
            assert caught.value.code == 1013
            with pytest.raises(PeerClosedError):
                connection.fetch([b"{}"], Sink())
            with pytest.raises(PeerClosedError):
                connection.publish(pairs(EVENTS[0]), Answers())
            with pytest.raises(PeerClosedError):
                await connection.reconcile_open(b"{}", b"a")
            with pytest.raises(PeerClosedError):
                await connection.reconcile_next(b"a")
            with pytest.raises(PeerClosedError):
                await connection.drained()
            connection.reconcile_close()
            connection.pause_reading()
            connection.resume_reading()
            assert await connection.lost() is caught.value

    run_async(main())


def test_what_is_queued_goes_out_before_the_goodbye() -> None:
    async def main() -> None:
        relay = FakeRelay()
        async with scripted_peer(relay.serve) as url:
            connection = await PeerConnection.open(url, PeerOptions())
            connection.publish(pairs(*EVENTS), Answers())
            await connection.close()
            await until(lambda: not relay.connections)
        assert relay.events.keys() == {event.event.id for event in EVENTS}

    run_async(main())


# REQ


def test_fetch_ends_with_eose_and_closes() -> None:
    async def main() -> None:
        relay = FakeRelay(EVENTS)
        sink = Sink()
        async with connected(relay.serve) as connection:
            fetch = connection.fetch([b'{"limit":3}', json.dumps({"ids": [EVENTS[0].event.id]}).encode()], sink)
            assert await fetch.wait() is None
            await until(lambda: len(relay.log) == 2)
        assert {EVENTS[0].raw} < set(sink.rows) <= {event.raw for event in EVENTS}
        assert fetch.n_events == len(sink.rows) == 4
        assert sink.ends == [None]
        sub_id = relay.log[0][1]
        assert relay.log == [["REQ", sub_id, {"limit": 3}, {"ids": [EVENTS[0].event.id]}], ["CLOSE", sub_id]]

    run_async(main())


def test_events_come_as_they_were_sent() -> None:
    odd = [b'{ "id" : 1 }', b'{"a":"\xc3\xa4\\u0041"}', b"{}"]

    async def main() -> None:
        async def script(peer: PeerSide) -> None:
            sub_id = (await peer.expect("REQ"))[1].encode()
            for row in odd:
                peer.write(frame(TEXT, b'["EVENT","%b",%b]' % (sub_id, row)))
            peer.write(frame(TEXT, b' [ "EVENT" , "%b" , %b ] ' % (sub_id, odd[0])))
            await peer.send("EOSE", sub_id.decode())
            await peer.closed()

        sink = Sink()
        async with connected(script) as connection:
            await connection.fetch([b"{}"], sink).wait()
        assert sink.rows == [*odd, odd[0]]
        assert len(sink.calls) < len(sink.rows)

    run_async(main())


def test_several_fetches_at_once_with_interleaved_answers() -> None:
    async def main() -> None:
        async def script(peer: PeerSide) -> None:
            subs = [(await peer.expect("REQ"))[1] for _ in range(3)]
            assert len(set(subs)) == 3
            rows = [json.loads(event.raw) for event in EVENTS]
            peer.write(b"".join(text_frame("EVENT", subs[n % 3], row) for n, row in enumerate(rows)))
            for sub_id in reversed(subs):
                await peer.send("EOSE", sub_id)
            await peer.closed()

        sinks = [Sink() for _ in range(3)]
        async with connected(script) as connection:
            fetches = [connection.fetch([b"{}"], sink) for sink in sinks]
            await asyncio.gather(*(fetch.wait() for fetch in fetches))
        for number, sink in enumerate(sinks):
            assert [json.loads(row)["id"] for row in sink.rows] == [event.event.id for event in EVENTS[number::3]]

    run_async(main())


def test_closed_is_an_end_with_its_reason() -> None:
    async def main() -> None:
        async def script(peer: PeerSide) -> None:
            sub_id = (await peer.expect("REQ"))[1]
            await peer.send("EVENT", sub_id, {"id": "1"})
            await peer.send("CLOSED", sub_id, "ERROR: bad req: arr too big")
            assert (await peer.receive())[1] != sub_id, "a subscription that is closed needs no CLOSE"

        sink = Sink()
        async with connected(script) as connection:
            assert await connection.fetch([b"{}"], sink).wait() == "bad req: arr too big"
            assert sink.ends == ["bad req: arr too big"]
            assert len(sink.rows) == 1
            connection.fetch([b"{}"], Sink())
            await connection.lost()

    run_async(main())


def test_a_stopped_fetch_is_closed_and_its_sink_left_alone() -> None:
    async def main() -> None:
        async def script(peer: PeerSide) -> None:
            first = (await peer.expect("REQ"))[1]
            assert await peer.expect("CLOSE") == ["CLOSE", first]
            await peer.send("EVENT", first, {"id": "1"})
            await peer.send("EOSE", first)
            await peer.send("EOSE", (await peer.expect("REQ"))[1])
            await peer.closed()

        sink = Sink()
        async with connected(script) as connection:
            fetch = connection.fetch([b"{}"], sink)
            fetch.stop()
            fetch.stop()
            assert await fetch.wait() is None
            await connection.fetch([b"{}"], Sink()).wait()
            assert connection.counters().unexpected_messages == 2
        assert (sink.rows, sink.ends) == ([], [])

    run_async(main())


def test_unknown_subscriptions_and_ids_are_ignored_and_counted() -> None:
    async def main() -> None:
        async def script(peer: PeerSide) -> None:
            await peer.send("EVENT", "other", {"id": "1"})
            await peer.send("EOSE", "other")
            await peer.send("CLOSED", "other", "")
            await peer.send("OK", "ab" * 32, True, "")
            await peer.send("NEG-MSG", "other", "61")
            await peer.send("NEG-ERR", "other", "closed: x")
            await peer.send("EOSE", (await peer.expect("REQ"))[1])
            await peer.closed()

        async with connected(script) as connection:
            await connection.fetch([b"{}"], Sink()).wait()
            assert connection.counters().unexpected_messages == 6
            assert connection.counters().junk_messages == 0

    run_async(main())


# EVENT


def test_answers_are_matched_by_id() -> None:
    async def main() -> None:
        async def script(peer: PeerSide) -> None:
            ids = [(await peer.expect("EVENT"))[1]["id"] for _ in range(4)]
            assert ids == [event.event.id for event in EVENTS[:4]]
            frames = [text_frame("OK", ids[2], False, "blocked: no"), text_frame("OK", ids[0], True, "")]
            frames += [text_frame("OK", ids[0], True, ""), text_frame("OK", ids[3], True, "duplicate: have it")]
            peer.write(b"".join(frames))
            await peer.send("OK", ids[1].upper(), True, "")
            await peer.closed()

        first, second = Answers(), Answers()
        async with connected(script) as connection:
            connection.publish(pairs(*EVENTS[:2]), first)
            connection.publish(pairs(*EVENTS[2:4]), second)
            with pytest.raises(ValueError, match="twice"):
                connection.publish(pairs(EVENTS[0]), first)
            assert connection.unanswered == 4
            await until(lambda: not connection.unanswered)
            assert connection.counters().unexpected_messages == 1
        assert first.all == [(EVENTS[0].id, True, ""), (EVENTS[1].id, True, "")]
        assert second.all == [(EVENTS[2].id, False, "blocked: no"), (EVENTS[3].id, True, "duplicate: have it")]

    run_async(main())


def test_an_event_may_be_published_again_after_its_answer() -> None:
    async def main() -> None:
        relay = FakeRelay()
        answers = Answers()
        async with connected(relay.serve) as connection:
            for _ in range(2):
                connection.publish(pairs(EVENTS[0]), answers)
                await until(lambda: not connection.unanswered)
            with pytest.raises(ValueError, match="twice"):
                connection.publish(pairs(EVENTS[0], EVENTS[0]), answers)
            connection.publish([], answers)
        assert answers.all == [(EVENTS[0].id, True, "")] * 2

    run_async(main())


def test_many_events_go_out_in_few_writes_and_come_back_in_few_calls() -> None:
    async def main() -> None:
        async def script(peer: PeerSide) -> None:
            ids = [(await peer.expect("EVENT"))[1]["id"] for _ in EVENTS]
            peer.write(b"".join(text_frame("OK", event_id, True, "") for event_id in ids))
            await peer.closed()

        answers = Answers()
        async with connected(script) as connection:
            connection.publish(pairs(*EVENTS), answers)
            await until(lambda: len(answers.all) == len(EVENTS))
            assert connection.counters().messages_sent == len(EVENTS)
        assert answers.calls == 1

    run_async(main())


def test_answers_before_the_end_are_handed_over() -> None:
    async def main() -> None:
        async def script(peer: PeerSide) -> None:
            ids = [(await peer.expect("EVENT"))[1]["id"] for _ in range(2)]
            peer.write(text_frame("OK", ids[0], True, "") + frame(TEXT, b"junk"))
            await peer.closed()

        answers = Answers()
        async with connected(script, PeerOptions(max_junk_messages=0)) as connection:
            connection.publish(pairs(*EVENTS[:2]), answers)
            await connection.lost()
            assert connection.unanswered == 0
        assert answers.all == [(EVENTS[0].id, True, "")]

    run_async(main())


# NEG-OPEN


def test_a_whole_reconciliation() -> None:
    both, ours, theirs = EVENTS[:30], EVENTS[30:36], EVENTS[36:]
    rows = [event.event.created_at.to_bytes(8) + event.id for event in (*both, *ours)]

    async def main() -> None:
        relay = FakeRelay([*both, *theirs])
        have: list[bytes] = []
        need: list[bytes] = []
        async with connected(relay.serve) as connection:
            initiator = Initiator(ItemSet.from_rows(b"".join(rows)))
            answer = await connection.reconcile_open(b"{}", initiator.initiate())
            while True:
                step = initiator.reconcile(answer)
                have += step.have
                need += step.need
                if step.next is None:
                    break
                answer = await connection.reconcile_next(step.next)
            connection.reconcile_close()
        assert sorted(have) == sorted(event.id for event in ours)
        assert sorted(need) == sorted(event.id for event in theirs)
        assert relay.log[-1][0] == "NEG-CLOSE"

    run_async(main())


def test_reconciliation_goes_to_and_fro() -> None:
    async def main() -> None:
        async def script(peer: PeerSide) -> None:
            _, sub_id, filter_, payload = await peer.expect("NEG-OPEN")
            assert (filter_, payload) == ({"kinds": [1]}, "6100")
            await peer.send("NEG-MSG", sub_id, "6101")
            assert await peer.expect("NEG-MSG") == ["NEG-MSG", sub_id, "6102"]
            await peer.send("NOTICE", "an error happened elsewhere")
            await peer.send("NEG-MSG", sub_id, "6103")
            assert await peer.expect("NEG-CLOSE") == ["NEG-CLOSE", sub_id]
            second = (await peer.expect("NEG-OPEN"))[1]
            assert second != sub_id
            await peer.send("NEG-MSG", sub_id, "61ff")
            await peer.send("NEG-MSG", second, "61")
            await peer.closed()

        async with connected(script) as connection:
            assert await connection.reconcile_open(b'{"kinds":[1]}', b"\x61\x00") == b"\x61\x01"
            assert await connection.reconcile_next(b"\x61\x02") == b"\x61\x03"
            connection.reconcile_close()
            connection.reconcile_close()
            with pytest.raises(RuntimeError, match="no session"):
                await connection.reconcile_next(b"\x61")
            assert await connection.reconcile_open(b"{}", b"\x61") == b"\x61"
            assert connection.notices == ("an error happened elsewhere",)

    run_async(main())


@pytest.mark.parametrize(
    ("said", "reason", "max_items"),
    [
        (["NEG-ERR", "SUB", "blocked: too many query results", 1000000], "blocked: too many query results", 1000000),
        (["NEG-ERR", "SUB", "PROTOCOL-ERROR"], "PROTOCOL-ERROR", None),
        (["CLOSED", "SUB", "ERROR: unsupported: no"], "unsupported: no", None),
        (["NOTICE", "ERROR: bad msg: negentropy disabled"], "bad msg: negentropy disabled", None),
        (["NOTICE", "could not parse command"], "could not parse command", None),
        (["NOTICE", "Unrecognized message"], "Unrecognized message", None),
        (["NOTICE", "INVALID"], "INVALID", None),
    ],
)
def test_refusals_to_reconcile(said: list[Any], reason: str, max_items: int | None) -> None:
    async def main() -> None:
        async def script(peer: PeerSide) -> None:
            sub_id = (await peer.expect("NEG-OPEN"))[1]
            await peer.send(*(sub_id if part == "SUB" else part for part in said))
            await peer.send("NEG-MSG", (await peer.expect("NEG-OPEN"))[1], "61")
            await peer.closed()

        async with connected(script) as connection:
            with pytest.raises(ReconcileRefusedError) as caught:
                await connection.reconcile_open(b"{}", b"a")
            assert (caught.value.reason, caught.value.max_items) == (reason, max_items)
            assert reason in str(caught.value)
            with pytest.raises(ReconcileRefusedError):
                await connection.reconcile_next(b"a")
            assert await connection.reconcile_open(b"{}", b"a") == b"\x61"

    run_async(main())


def test_a_session_that_ends_between_two_messages() -> None:
    async def main() -> None:
        async def script(peer: PeerSide) -> None:
            sub_id = (await peer.expect("NEG-OPEN"))[1]
            await peer.send("NEG-MSG", sub_id, "61")
            await peer.send("NEG-ERR", sub_id, "closed: you took too long")
            await peer.send("EOSE", (await peer.expect("REQ"))[1])
            await peer.closed()

        async with connected(script) as connection:
            await connection.reconcile_open(b"{}", b"a")
            await connection.fetch([b"{}"], Sink()).wait()
            with pytest.raises(ReconcileRefusedError, match="you took too long"):
                await connection.reconcile_next(b"a")

    run_async(main())


def test_a_notice_while_something_else_is_awaited_is_ours_only_if_it_says_so() -> None:
    async def main() -> None:
        heard = asyncio.Event()

        async def script(peer: PeerSide) -> None:
            await peer.expect("REQ")
            sub_id = (await peer.expect("NEG-OPEN"))[1]
            await peer.send("NOTICE", "error: too many filters")
            await heard.wait()
            await peer.send("NEG-MSG", sub_id, "61")
            await peer.expect("NEG-MSG")
            await peer.send("NOTICE", "ERROR: negentropy error: bad message")
            await peer.closed()

        async with connected(script) as connection:
            connection.fetch([b"{}"], Sink())
            opening = asyncio.create_task(connection.reconcile_open(b"{}", b"a"))
            await until(lambda: connection.notices)
            assert not opening.done()
            heard.set()
            assert await opening == b"\x61"
            with pytest.raises(ReconcileRefusedError, match="negentropy error: bad message"):
                await connection.reconcile_next(b"a")

    run_async(main())


def test_a_cancelled_wait_leaves_the_connection_usable() -> None:
    async def main() -> None:
        async def script(peer: PeerSide) -> None:
            first = (await peer.expect("NEG-OPEN"))[1]
            assert await peer.expect("NEG-CLOSE") == ["NEG-CLOSE", first]
            second = (await peer.expect("NEG-OPEN"))[1]
            await peer.send("NEG-MSG", first, "61ff")
            await peer.send("NEG-MSG", second, "61")
            await peer.closed()

        async with connected(script) as connection:
            opening = asyncio.create_task(connection.reconcile_open(b"{}", b"a"))
            await until(lambda: connection.counters().messages_sent)
            with pytest.raises(RuntimeError, match="one message at a time"):
                await connection.reconcile_next(b"a")
            opening.cancel()
            with pytest.raises(asyncio.CancelledError):
                await opening
            assert await connection.reconcile_open(b"{}", b"a") == b"\x61"

    run_async(main())


# Back-pressure


def test_reading_stops_while_the_caller_is_full() -> None:
    row = json.loads(fake_event(content="x" * 60_000).raw)

    async def main() -> None:
        sent = [0]

        async def script(peer: PeerSide) -> None:
            sub_id = (await peer.expect("REQ"))[1]
            for _ in range(500):
                await peer.send("EVENT", sub_id, row)
                sent[0] += 1
            await peer.send("EOSE", sub_id)
            await peer.closed()

        class PausingSink(Sink):
            def events(self, rows: list[bytes]) -> None:
                super().events(rows)
                connection.pause_reading()

        sink = PausingSink()
        options = replace(QUICK, silence_timeout_s=1.0, answer_timeout_s=1.0)
        async with connected(script, options) as connection:
            fetch = connection.fetch([b"{}"], sink)
            await until(lambda: sink.calls)
            loop = asyncio.get_running_loop()
            paused_at_s, at_first = loop.time(), len(sink.rows)
            await until(lambda: loop.time() > paused_at_s + 2 * options.silence_timeout_s)
            assert len(sink.rows) == at_first
            assert sent[0] < 500
            assert connection.error is None, "nothing can be overdue while nothing is read"
            while not fetch.is_over:
                connection.resume_reading()
                await asyncio.sleep(0)
        assert len(sink.rows) == 500
        assert sink.ends == [None]

    run_async(main())


def test_writes_wait_for_a_slow_peer() -> None:
    events = [fake_event(content=f"{number}" + "x" * 60_000) for number in range(200)]

    async def main() -> None:
        reads = asyncio.Event()

        async def script(peer: PeerSide) -> None:
            await reads.wait()
            for _ in events:
                await peer.expect("EVENT")
            await peer.closed()

        async with connected(script) as connection:
            connection.publish(pairs(*events), Answers())
            draining = asyncio.create_task(connection.drained())
            await until(lambda: connection.counters().messages_sent)
            assert not draining.done()
            assert connection.counters().messages_sent < len(events)
            reads.set()
            async with asyncio.timeout(DEADLINE_S):
                await draining
            await until(lambda: connection.counters().messages_sent == len(events))

    run_async(main())


def test_a_peer_that_reads_nothing_is_given_up() -> None:
    events = [fake_event(content=f"{number}" + "x" * 60_000) for number in range(200)]

    async def main() -> None:
        over = asyncio.Event()

        async def script(peer: PeerSide) -> None:
            while not over.is_set():  # it says something all the time
                await peer.send("NOTICE", "still here")
                await asyncio.sleep(0.01)
            peer.abort()

        async with connected(script, replace(QUICK, answer_timeout_s=DEADLINE_S)) as connection:
            connection.publish(pairs(*events), Answers())
            with pytest.raises(PeerSilentError, match="took nothing") as caught:
                await connection.drained()
            assert caught.value.awaited == "the other side to read"
            over.set()

    run_async(main())
