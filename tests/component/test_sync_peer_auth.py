"""AUTH (NIP-42) as a client: challenges are answered, what was refused for want of it is asked again, once."""

import json
from dataclasses import replace
from typing import Any, Final

import pytest
from tests.component.fake_peer import PeerSide, scripted_peer
from tests.component.peer_sink import Answers, Sink, connected, pairs, say_ok
from tests.component.relay_server import TestedRelay, on_relay
from tests.factory import KEYS, NOW_S, SECRETS, gift_wrap, make_event
from tests.transport import run_async
from tests.wsclient import DEADLINE_S, until

from orly.nostr.event import decode_event
from orly.nostr.nip42 import check_auth
from orly.nostr.signing import verify_event
from orly.sync.peer import PeerConnection, PeerJunkError, PeerOptions, ReconcileRefusedError
from orly.sync.peer_auth import MAX_CHALLENGES

EVENT: Final = make_event(key=1)
OPTIONS: Final = PeerOptions(auth_key=SECRETS[2])


async def take_auth(peer: PeerSide, *, challenge: str = "c") -> str:
    """Receives an AUTH and checks it; its id."""
    event = (await peer.expect("AUTH"))[1]
    encoded = decode_event(json.dumps(event).encode())
    assert verify_event(encoded)
    assert encoded.event.pubkey == KEYS[2]
    url = f"ws://{peer.headers['host']}"
    assert check_auth(encoded.event, challenge=challenge, own_urls=[url], now_s=NOW_S, window_s=0) is None
    return str(event["id"])


async def authenticate(peer: PeerSide) -> None:
    await peer.send("AUTH", "c")
    await peer.send("OK", await take_auth(peer), True, "")


def test_a_challenge_with_the_handshake_is_answered_at_once() -> None:
    async def main() -> None:
        async def script(peer: PeerSide) -> None:
            await authenticate(peer)
            await peer.send("EOSE", (await peer.expect("REQ"))[1])
            await peer.closed()

        async with connected(script, OPTIONS) as connection:
            assert await connection.fetch([b"{}"], Sink()).wait() is None
            assert connection.counters().unexpected_messages == 0

    run_async(main())


@pytest.mark.parametrize("prefix", ["", "ERROR: "])
@pytest.mark.parametrize("is_late", [False, True])
def test_a_req_is_asked_again(prefix: str, is_late: bool) -> None:
    async def main() -> None:
        async def script(peer: PeerSide) -> None:
            _, sub_id, filter_ = await peer.expect("REQ")
            if not is_late:
                await peer.send("AUTH", "c")
            await peer.send("CLOSED", sub_id, f"{prefix}auth-required: who are you?")
            if is_late:
                await peer.send("AUTH", "c")
            await peer.send("OK", await take_auth(peer), True, "")
            _, second, again = await peer.expect("REQ")
            assert (again, second != sub_id) == (filter_, True)
            await peer.send("EVENT", second, {"id": "1"})
            await peer.send("EOSE", second)
            await peer.closed()

        sink = Sink()
        async with connected(script, OPTIONS) as connection:
            assert await connection.fetch([b'{"kinds":[4]}'], sink).wait() is None
        assert (len(sink.rows), sink.ends) == (1, [None])

    run_async(main())


def test_a_session_is_opened_again() -> None:
    async def main() -> None:
        async def script(peer: PeerSide) -> None:
            _, sub_id, *rest = await peer.expect("NEG-OPEN")
            await peer.send("AUTH", "c")
            await peer.send("NEG-ERR", sub_id, "auth-required: x")
            await peer.send("OK", await take_auth(peer), True, "")
            _, second, *again = await peer.expect("NEG-OPEN")
            assert (again, second != sub_id) == (rest, True)
            await peer.send("NEG-MSG", second, "61")
            await peer.closed()

        async with connected(script, OPTIONS) as connection:
            assert await connection.reconcile_open(b"{}", b"\x61\x00") == b"\x61"

    run_async(main())


def test_an_event_is_sent_again() -> None:
    async def main() -> None:
        async def script(peer: PeerSide) -> None:
            sent = await peer.expect("EVENT")
            await peer.send("AUTH", "c")
            await peer.send("OK", EVENT.event.id, False, "auth-required: x")
            await peer.send("OK", await take_auth(peer), True, "")
            assert await peer.expect("EVENT") == sent
            await peer.send("OK", EVENT.event.id, True, "")
            await peer.closed()

        answers = Answers()
        async with connected(script, OPTIONS) as connection:
            connection.publish(pairs(EVENT), answers)
            await until(lambda: not connection.unanswered)
        assert answers.all == [(EVENT.id, True, "")]

    run_async(main())


def test_an_event_that_is_sent_again_is_behind_what_was_asked_meanwhile() -> None:
    peers: list[PeerSide] = []
    before, after = make_event(content="before"), make_event(content="after")

    async def script(peer: PeerSide) -> None:
        for expected in ("EVENT", "EVENT", "REQ"):
            await peer.expect(expected)
        peers.append(peer)
        await peer.send("OK", await take_auth(peer), True, "")
        await peer.expect("EVENT")
        peers.append(peer)
        await peer.closed()

    async def main() -> None:
        patient = replace(OPTIONS, silence_timeout_s=DEADLINE_S, answer_timeout_s=DEADLINE_S, auth_timeout_s=DEADLINE_S)
        async with connected(script, patient) as connection:
            connection.publish(pairs(EVENT, before), Answers())
            connection.fetch([b"{}"], Sink())
            await until(lambda: peers)
            said_s = await say_ok(peers[0], connection, EVENT, refusal="auth-required: x")
            assert connection.overdue(said_s + DEADLINE_S) is None, "also an answer like this takes time"
            await peers[0].send("AUTH", "c")
            await until(lambda: len(peers) == 2)
            connection.publish(pairs(after), Answers())
            said_s = await say_ok(peers[0], connection, before)
            assert connection.overdue(said_s + DEADLINE_S) is None
            said_s = await say_ok(peers[0], connection, EVENT)
            assert connection.overdue(said_s + DEADLINE_S), "the REQ is not behind it any more"

    run_async(main())


async def refuse_all(peer: PeerSide) -> None:
    """Refuses a REQ, an EVENT and a NEG-OPEN, in the order they come."""
    for _ in range(3):
        match await peer.receive():
            case ["REQ", sub_id, *_]:
                await peer.send("CLOSED", sub_id, "auth-required: req")
            case ["EVENT", event]:
                await peer.send("OK", event["id"], False, "auth-required: event")
            case ["NEG-OPEN", sub_id, *_]:
                await peer.send("NEG-ERR", sub_id, "auth-required: neg")
            case message:
                raise AssertionError(message)


async def outcomes(connection: PeerConnection) -> list[Any]:
    """What becomes of a REQ, an EVENT and a NEG-OPEN."""
    answers = Answers()
    fetch = connection.fetch([b"{}"], Sink())
    connection.publish(pairs(EVENT), answers)
    with pytest.raises(ReconcileRefusedError) as caught:
        await connection.reconcile_open(b"{}", b"a")
    await until(lambda: not connection.unanswered)
    return [await fetch.wait(), answers.all, caught.value.reason]


def expected(end: str) -> list[Any]:
    return [f"auth-required: req{end}", [(EVENT.id, False, f"auth-required: event{end}")], f"auth-required: neg{end}"]


def test_without_a_key_a_refusal_is_one() -> None:
    async def main() -> None:
        async def script(peer: PeerSide) -> None:
            await peer.send("AUTH", "c")
            await refuse_all(peer)
            await peer.closed()

        async with connected(script) as connection:
            assert await outcomes(connection) == expected("")

    run_async(main())


def test_nothing_is_asked_a_third_time() -> None:
    async def main() -> None:
        async def script(peer: PeerSide) -> None:
            await authenticate(peer)
            await refuse_all(peer)
            await refuse_all(peer)
            await peer.closed()

        async with connected(script, OPTIONS) as connection:
            assert await outcomes(connection) == expected("")

    run_async(main())


def test_a_refused_key_is_an_end() -> None:
    async def main() -> None:
        async def script(peer: PeerSide) -> None:
            await peer.send("AUTH", "c")
            auth_id = await take_auth(peer)
            await refuse_all(peer)
            await peer.send("OK", auth_id, False, "restricted: not you")
            await peer.closed()

        async with connected(script, OPTIONS) as connection:
            assert await outcomes(connection) == expected(" (AUTH failed: restricted: not you)")

    run_async(main())


def test_a_challenge_that_never_comes_is_not_awaited_for_ever() -> None:
    async def main() -> None:
        async def script(peer: PeerSide) -> None:
            await refuse_all(peer)
            await peer.closed()

        async with connected(script, replace(OPTIONS, auth_timeout_s=0.05)) as connection:
            assert await outcomes(connection) == expected(" (AUTH failed: no challenge came)")

    run_async(main())


def test_a_peer_that_says_no_ok_to_an_auth_is_asked_again() -> None:
    async def main() -> None:
        async def script(peer: PeerSide) -> None:
            await peer.send("AUTH", "c")
            await take_auth(peer)
            await peer.send("CLOSED", (await peer.expect("REQ"))[1], "auth-required: x")
            await peer.send("EOSE", (await peer.expect("REQ"))[1])
            await peer.closed()

        async with connected(script, replace(OPTIONS, auth_timeout_s=0.05)) as connection:
            assert await connection.fetch([b"{}"], Sink()).wait() is None

    run_async(main())


def test_what_waits_for_auth_ends_with_the_connection() -> None:
    async def main() -> None:
        async def script(peer: PeerSide) -> None:
            await refuse_all(peer)

        async with connected(script, OPTIONS) as connection:
            fetch = connection.fetch([b"{}"], Sink())
            connection.publish(pairs(EVENT), Answers())
            with pytest.raises(Exception, match="closed the connection") as caught:
                await connection.reconcile_open(b"{}", b"a")
            with pytest.raises(type(caught.value), match="closed the connection"):
                await fetch.wait()

    run_async(main())


def test_no_password_goes_into_an_auth_event() -> None:
    async def main() -> None:
        tags: list[list[str]] = []

        async def script(peer: PeerSide) -> None:
            assert peer.headers["authorization"].startswith("Basic ")
            await peer.send("AUTH", "c")
            tags.extend((await peer.expect("AUTH"))[1]["tags"])
            await peer.closed()

        async with scripted_peer(script) as url:
            connection = await PeerConnection.open(url.replace("//", "//name:password@"), OPTIONS)
            await until(lambda: tags)
            await connection.close()
        assert tags == [["relay", url], ["challenge", "c"]]

    run_async(main())


@pytest.mark.parametrize("n_challenges", [MAX_CHALLENGES, MAX_CHALLENGES + 1])
def test_the_number_of_challenges_is_limited(n_challenges: int) -> None:
    async def main() -> None:
        async def script(peer: PeerSide) -> None:
            for number in range(n_challenges):
                await peer.send("AUTH", str(number))
            await peer.closed()

        async with scripted_peer(script) as url:
            connection = await PeerConnection.open(url, PeerOptions(auth_key=SECRETS[0]), now_s=lambda: NOW_S)
            if n_challenges > MAX_CHALLENGES:
                error = await connection.lost()
                assert isinstance(error, PeerJunkError)
                assert "too many AUTH challenges" in str(error)
            else:
                await until(lambda: connection.counters().messages_sent == n_challenges)
                assert connection.error is None
            await connection.close()

    run_async(main())


def test_a_challenge_that_is_repeated_is_answered_once() -> None:
    async def main() -> None:
        async def script(peer: PeerSide) -> None:
            for _ in range(10 * MAX_CHALLENGES):
                await peer.send("AUTH", "the same")
            event_id = await take_auth(peer, challenge="the same")
            await peer.send("OK", event_id, True, "")
            await peer.send("AUTH", "the same")
            await peer.send("AUTH", "another")
            await take_auth(peer, challenge="another")
            await peer.closed()

        async with scripted_peer(script) as url:
            connection = await PeerConnection.open(url, OPTIONS, now_s=lambda: NOW_S)
            await until(lambda: connection.counters().messages_sent == 2)
            await connection.close()

    run_async(main())


# Our own relay


@on_relay()
async def test_private_events_of_our_relay(relay: TestedRelay) -> None:
    wrap = gift_wrap(KEYS[2], signed=True)
    sink, answers = Sink(), Answers()
    connection = await PeerConnection.open(relay.url, OPTIONS, now_s=relay.time.now_s)
    connection.publish(pairs(wrap), answers)
    await until(lambda: not connection.unanswered)
    assert answers.all == [(wrap.id, True, "")]
    assert await connection.fetch([b'{"kinds":[1059]}'], sink).wait() is None
    assert sink.rows == [wrap.raw]
    await connection.close()


@on_relay(auth_required=True)
async def test_our_relay_when_it_wants_auth_for_everything(relay: TestedRelay) -> None:
    sink, answers = Sink(), Answers()
    connection = await PeerConnection.open(relay.url, OPTIONS, now_s=relay.time.now_s)
    connection.publish(pairs(EVENT), answers)
    await until(lambda: not connection.unanswered)
    assert answers.all == [(EVENT.id, True, "")]
    assert await connection.fetch([b"{}"], sink).wait() is None
    assert sink.rows == [EVENT.raw]
    await connection.close()
