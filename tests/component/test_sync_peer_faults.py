"""Peers that do everything wrong: each ends with the right error, and nothing hangs."""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest
from tests.component.fake_peer import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    PeerSide,
    Script,
    frame,
    scripted_peer,
    text_frame,
)
from tests.component.peer_sink import QUICK, Answers, Sink, connected, pairs, say_ok
from tests.factory import fake_event
from tests.transport import run_async
from tests.wsclient import DEADLINE_S, until

from orly import clock
from orly.rpc.certs import LOCAL_HOSTS, load_authority, make_authority
from orly.sync.peer import (
    PeerClosedError,
    PeerConnection,
    PeerError,
    PeerJunkError,
    PeerOptions,
    PeerRefusedError,
    PeerSilentError,
    PeerUnreachableError,
)

MAX_BYTES: Final = 1000
LIMITED: Final = replace(QUICK, silence_timeout_s=DEADLINE_S, answer_timeout_s=DEADLINE_S, max_message_bytes=MAX_BYTES)
NO_SILENCE: Final = replace(QUICK, answer_timeout_s=DEADLINE_S)
NO_DELAY: Final = replace(QUICK, silence_timeout_s=DEADLINE_S)
PATIENT: Final = replace(NO_DELAY, answer_timeout_s=DEADLINE_S)
UPGRADE: Final = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"


# No connection comes about


async def open_error(url: str, options: PeerOptions = QUICK) -> PeerError:
    with pytest.raises(PeerError) as caught:
        await PeerConnection.open(url, options)
    return caught.value


async def handshake_error(
    answer: Callable[[PeerSide], Awaitable[None]], connect_timeout_s: float = DEADLINE_S
) -> PeerError:
    async with scripted_peer(answer, shakes_hands=False) as url:
        return await open_error(url, replace(QUICK, connect_timeout_s=connect_timeout_s))


@pytest.mark.parametrize(
    "url", ["", "relay.example.com", "http://relay.example.com", "ws://", "ws://h:x/", "ws://h/#f"]
)
def test_no_url_of_a_relay(url: str) -> None:
    async def main() -> None:
        error = await open_error(url)
        assert isinstance(error, PeerUnreachableError)
        assert "no URL of a relay" in str(error)

    run_async(main())


def test_nobody_is_there() -> None:
    async def main() -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            url = f"ws://name:pass@127.0.0.1:{free.getsockname()[1]}/?token=secret"
            error = await open_error(url)
        assert isinstance(error, PeerUnreachableError)
        assert "cannot be reached" in str(error)
        assert "pass" not in str(error)
        assert "secret" not in str(error)

    run_async(main())


def test_a_name_without_an_address() -> None:
    async def main() -> None:
        error = await open_error("ws://relay.invalid/")
        assert isinstance(error, PeerUnreachableError)
        assert str(error).startswith("ws://relay.invalid cannot be reached: ")

    run_async(main())


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 101 Swi", UPGRADE])
def test_a_handshake_without_an_end(said: bytes) -> None:
    async def answer(peer: PeerSide) -> None:
        await peer.read_request()
        peer.write(said)
        await peer.ended()

    async def main() -> None:
        error = await handshake_error(answer, connect_timeout_s=0.2)
        assert isinstance(error, PeerUnreachableError)
        assert "did not answer within 0.2 s" in str(error)

    run_async(main())


def test_an_answer_with_endless_headers() -> None:
    async def answer(peer: PeerSide) -> None:
        await peer.read_request()
        peer.write(UPGRADE + b"X-More: more\r\n" * 10_000)
        await peer.ended()

    async def main() -> None:
        error = await handshake_error(answer)
        assert isinstance(error, PeerRefusedError)
        assert error.reason == "its answer has more than 65536 bytes of headers"

    run_async(main())


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"HTTP/1.1 403 Forbidden\r\n\r\nyou are\nbanned", "HTTP 403 Forbidden: you are banned"),
        (b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 5\r\n\r\n", "HTTP 503 Service Unavailable"),
        (b"HTTP/1.1 301 Moved\r\nLocation: /\r\n\r\n", "HTTP 301 Moved"),
        (b"HTTP/1.1 200 OK\r\n\r\n<!DOCTYPE html><p>welcome", "HTTP 200 OK"),
        (UPGRADE + b"\r\n", "no WebSocket handshake"),
        (UPGRADE + b"Sec-WebSocket-Accept: AAAA\r\n\r\n", "no WebSocket handshake"),
        (b"SSH-2.0-Server\r\n\r\n", "no WebSocket handshake"),
        (b"\xff\r\n\r\n", "no WebSocket handshake"),
    ],
)
def test_a_refused_handshake(said: bytes, reason: str) -> None:
    async def answer(peer: PeerSide) -> None:
        await peer.read_request()
        peer.write(said)
        await peer.ended()

    async def main() -> None:
        error = await handshake_error(answer)
        assert isinstance(error, PeerRefusedError)
        assert reason in error.reason
        assert "<" not in error.reason
        assert "refused the WebSocket" in str(error)

    run_async(main())


def test_an_extension_that_was_not_offered() -> None:
    async def answer(peer: PeerSide) -> None:
        await peer.shake_hands(headers={"Sec-WebSocket-Extensions": "permessage-deflate"})
        await peer.ended()

    async def main() -> None:
        assert isinstance(await handshake_error(answer), PeerRefusedError)

    run_async(main())


def test_the_socket_is_closed_during_the_handshake() -> None:
    async def answer(peer: PeerSide) -> None:
        await peer.read_request()
        peer.abort()

    async def main() -> None:
        error = await handshake_error(answer)
        assert isinstance(error, PeerUnreachableError)
        assert "closed the connection during the handshake" in str(error)

    run_async(main())


def test_tls(tmp_path: Path) -> None:
    made = make_authority(now_s=clock.now_s())
    issued = load_authority(made, clock.now_s()).issue_server(LOCAL_HOSTS, now_s=clock.now_s(), days=1)
    (tmp_path / "cert.pem").write_bytes(issued.certificate_pem + issued.key_pem)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "cert.pem")

    async def script(peer: PeerSide) -> None:
        sub_id = (await peer.expect("REQ"))[1]
        peer.write(b"".join(text_frame("EVENT", sub_id, {"id": str(number)}) for number in range(20_000)))
        await peer.send("EOSE", sub_id)
        await peer.closed()

    async def main() -> None:
        trusting = ssl.create_default_context(cadata=made.certificate_pem.decode())
        async with scripted_peer(script, tls=server) as url:
            patient = PeerOptions(tls=trusting)
            connection = await PeerConnection.open(url, patient)
            sink = Sink()
            await connection.fetch([b"{}"], sink).wait()
            assert len(sink.rows) == 20_000
            await connection.close()
            error = await open_error(url, replace(patient, tls=None))
        assert isinstance(error, PeerUnreachableError)
        assert "certificate" in str(error).lower()

    run_async(main())


# Silence


async def never(peer: PeerSide) -> None:
    await peer.ended()


async def pings_only(peer: PeerSide) -> None:
    for _ in range(10_000):
        peer.write(frame(PING, b"there?"))
        await peer.drained()
        await asyncio.sleep(0.01)


async def half_a_frame(peer: PeerSide) -> None:
    await peer.receive()
    peer.write(text_frame("NOTICE", "x" * 100)[:50])
    await peer.ended()


async def notices_only(peer: PeerSide) -> None:
    for _ in range(10_000):
        await peer.send("NOTICE", "please wait")
        await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("script", "options", "what"),
    [
        (never, NO_SILENCE, "said nothing for 0.2 s"),
        (half_a_frame, NO_SILENCE, "said nothing for 0.2 s"),
        (pings_only, NO_DELAY, "did not answer for 0.2 s"),
        (notices_only, NO_DELAY, "did not answer for 0.2 s"),
    ],
)
def test_an_answer_that_never_comes(script: Script, options: PeerOptions, what: str) -> None:
    async def reconcile(connection: PeerConnection) -> None:
        await connection.reconcile_open(b"{}", b"a")

    async def fetch(connection: PeerConnection) -> None:
        await connection.fetch([b"{}"], Sink()).wait()

    async def publish(connection: PeerConnection) -> None:
        connection.publish(pairs(fake_event()), Answers())
        raise await connection.lost()

    async def main() -> None:
        for ask, awaited in (
            (reconcile, "the answer to a NEG message"),
            (fetch, "the end of 1 REQs"),
            (publish, "OKs for 1 events"),
        ):
            async with connected(script, options) as connection:
                with pytest.raises(PeerSilentError, match=what) as caught:
                    await ask(connection)
                assert awaited in caught.value.awaited
                assert awaited in str(caught.value)

    run_async(main())


def test_each_kind_has_its_own_progress() -> None:
    async def script(peer: PeerSide) -> None:
        sub_id = None
        while sub_id is None:
            message = await peer.receive()
            sub_id = message[1] if message[0] == "REQ" else None
        for _ in range(10_000):
            await peer.send("EVENT", sub_id, {"id": "1"})
            await asyncio.sleep(0.01)

    async def main() -> None:
        async with connected(script, NO_DELAY) as connection:
            fetch = connection.fetch([b"{}"], Sink())
            with pytest.raises(PeerSilentError, match="NEG message and the end of 1 REQs"):
                await connection.reconcile_open(b"{}", b"a")
            with pytest.raises(PeerSilentError):
                await fetch.wait()

    run_async(main())


@pytest.mark.parametrize("kind", ["NEG-OPEN", "REQ"])
def test_a_question_waits_while_events_before_it_are_answered(kind: str) -> None:
    events = [fake_event(content=str(number)) for number in range(4)]
    peers: list[PeerSide] = []

    async def script(peer: PeerSide) -> None:
        for expected in ("EVENT", "EVENT", kind, "EVENT", "EVENT"):
            await peer.expect(expected)
        peers.append(peer)
        await peer.closed()

    async def ask(connection: PeerConnection) -> None:
        if kind == "REQ":
            await connection.fetch([b"{}"], Sink()).wait()
        else:
            await connection.reconcile_open(b"{}", b"a")

    async def main() -> None:
        async with connected(script, PATIENT) as connection:
            connection.publish(pairs(*events[:2]), Answers())
            asking = asyncio.create_task(ask(connection))
            await until(lambda: "REQs" in connection.awaited() or "NEG" in connection.awaited())
            connection.publish(pairs(*events[2:]), Answers())
            await until(lambda: peers)
            for event in (events[0], events[3], events[1]):
                said_s = await say_ok(peers[0], connection, event)
                assert connection.overdue(said_s + DEADLINE_S) is None, "the peer has not come to it yet"
            said_s = await say_ok(peers[0], connection, events[2])
            assert connection.overdue(said_s + DEADLINE_S), "it has"
        await asyncio.gather(asking, return_exceptions=True)

    run_async(main())


@pytest.mark.parametrize(("most", "n_taken"), [(3, 3), (None, 20)])
def test_more_events_than_were_asked_for_are_no_headway(most: int | None, n_taken: int) -> None:
    async def script(peer: PeerSide) -> None:
        sub_id = (await peer.expect("REQ"))[1]
        for _ in range(10_000):
            await peer.send("EVENT", sub_id, {"id": "1"})
            await asyncio.sleep(0.05)

    async def main() -> None:
        sink = Sink()
        async with connected(script, NO_DELAY) as connection:
            fetch = connection.fetch([b"{}"], sink, most=most)
            if most is None:
                await until(lambda: len(sink.rows) > n_taken)
                assert connection.error is None
                return
            with pytest.raises(PeerSilentError, match="the end of 1 REQs"):
                await fetch.wait()
        assert len(sink.rows) > n_taken

    run_async(main())


def test_a_quiet_connection_is_kept_by_pings() -> None:
    async def script(peer: PeerSide) -> None:
        for _ in range(4):
            opcode, payload = await peer.receive_frame()
            assert opcode == PING
            peer.write(frame(PONG, payload))
        await peer.send("NOTICE", "enough")
        await peer.closed()

    async def main() -> None:
        async with connected(script, replace(QUICK, silence_timeout_s=1.0)) as connection:
            await until(lambda: connection.notices)
            assert connection.error is None

    run_async(main())


def test_a_quiet_connection_without_pongs_is_given_up() -> None:
    async def main() -> None:
        async with connected(never, QUICK) as connection:
            error = await connection.lost()
            assert isinstance(error, PeerSilentError)
            assert error.awaited == "a pong"

    run_async(main())


def test_pings_are_answered() -> None:
    async def script(peer: PeerSide) -> None:
        peer.write(frame(PING, b"one") + frame(PING, b"two") + text_frame("NOTICE", "x"))
        assert await peer.receive_frame() == (PONG, b"two")
        await peer.send("NOTICE", "seen")
        await peer.closed()

    async def main() -> None:
        async with connected(script) as connection:
            await until(lambda: "seen" in connection.notices)

    run_async(main())


def test_a_peer_that_does_not_answer_a_close_frame() -> None:
    async def main() -> None:
        async with connected(never, NO_DELAY) as connection:
            await connection.close()  # `scripted_peer` would wait for it otherwise
            assert isinstance(connection.error, PeerClosedError)

    run_async(main())


# The connection breaks


@pytest.mark.parametrize("begun", [b"", text_frame("NOTICE", "x" * 100)[:50], frame(TEXT, b'["NOTICE"', fin=False)])
def test_the_socket_is_closed_without_a_close_frame(begun: bytes) -> None:
    async def script(peer: PeerSide) -> None:
        await peer.receive()
        peer.write(begun)
        await peer.drained()
        peer.abort()

    async def main() -> None:
        async with connected(script) as connection:
            fetch = connection.fetch([b"{}"], Sink())
            with pytest.raises(PeerClosedError, match="without a close frame") as caught:
                await fetch.wait()
            assert caught.value.code is None

    run_async(main())


def test_events_before_the_end_are_handed_over() -> None:
    async def script(peer: PeerSide) -> None:
        sub_id = (await peer.expect("REQ"))[1]
        frames = [text_frame("EVENT", sub_id, {"id": str(number)}) for number in range(100)]
        peer.write(b"".join(frames) + frame(CLOSE, b"\x03\xe9"))
        await peer.ended()

    async def main() -> None:
        sink = Sink()
        async with connected(script) as connection:
            fetch = connection.fetch([b"{}"], sink)
            with pytest.raises(PeerClosedError, match="code 1001"):
                await fetch.wait()
        assert (len(sink.rows), sink.ends) == (100, [])

    run_async(main())


@pytest.mark.parametrize("payload", [b"", b"\x03\xe8", b"\x0f\xa0bye"])
def test_a_close_frame_is_answered_with_its_code(payload: bytes) -> None:
    async def main() -> None:
        answered: list[tuple[int, bytes]] = []

        async def script(peer: PeerSide) -> None:
            peer.write(frame(CLOSE, payload))
            answered.append(await peer.receive_frame())
            await peer.ended()

        async with connected(script) as connection:
            assert isinstance(await connection.lost(), PeerClosedError)
            await until(lambda: answered)
        assert answered == [(CLOSE, payload[:2] or b"\x03\xe8")]

    run_async(main())


# Broken rules and nonsense


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (frame(BINARY, b"x"), 1003),
        (frame(TEXT, b'["NOTICE","x"]', masked=True), 1002),
        (frame(TEXT, b"x", reserved=0x40), 1002),
        (frame(CONTINUATION, b"x"), 1002),
        (frame(TEXT, b"\xff"), 1007),
        (frame(TEXT, b"x" * (MAX_BYTES + 1)), 1009),
    ],
)
def test_the_connection_is_failed_with_a_code(sent: bytes, code: int) -> None:
    async def main() -> None:
        codes: list[int | None] = []

        async def script(peer: PeerSide) -> None:
            peer.write(text_frame("NOTICE", "before") + sent)
            codes.append(await peer.closed())

        async with connected(script, LIMITED) as connection:
            assert isinstance(await connection.lost(), PeerJunkError)
            assert connection.notices == ("before",)
            await until(lambda: codes)
        assert codes == [code]

    run_async(main())


def test_a_message_at_the_limit() -> None:
    at_limit = b'["NOTICE","%b"]' % (b"x" * (MAX_BYTES - 13))
    assert len(at_limit) == MAX_BYTES

    async def script(peer: PeerSide) -> None:
        await peer.send_text(at_limit)
        await peer.closed()

    async def main() -> None:
        async with connected(script, LIMITED) as connection:
            await until(lambda: connection.notices)

    run_async(main())


@pytest.mark.parametrize("n_junk", [5, 6])
def test_junk_is_ignored_up_to_a_limit(n_junk: int) -> None:
    async def main() -> None:
        codes: list[int | None] = []

        async def script(peer: PeerSide) -> None:
            for number in range(n_junk):
                await peer.send_text([b"hello", b"{}", b'["WHAT"]', b"", b'["EVENT"]'][number % 5])
            await peer.send("NOTICE", "done")
            codes.append(await peer.closed())

        async with connected(script, replace(LIMITED, max_junk_messages=5)) as connection:
            if n_junk > 5:
                error = await connection.lost()
                assert isinstance(error, PeerJunkError)
                assert "no message of a relay, such as 'hello'" in str(error)
            else:
                await until(lambda: connection.notices)
                assert connection.error is None
            assert connection.counters().junk_messages == n_junk
        await until(lambda: codes)
        assert codes == [1008 if n_junk > 5 else 1000]

    run_async(main())


def test_only_the_last_notices_are_kept_and_cut() -> None:
    async def script(peer: PeerSide) -> None:
        for number in range(20):
            await peer.send("NOTICE", f"{number} " + "x" * 1000)
        await peer.closed()

    async def main() -> None:
        async with connected(script) as connection:
            await until(lambda: connection.counters().messages_received == 20)
            assert [text.split()[0] for text in connection.notices] == [str(number) for number in range(12, 20)]
            assert {len(text) for text in connection.notices} == {300}

    run_async(main())
