"""Connections over real sockets: what a client sees on the wire."""

import asyncio
import socket
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.transport import LIMITS, Echo, Serving, run_async, serving, serving_throughout
from tests.wsclient import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    RawClient,
    connect,
    frame,
    until,
)

from orly.relay.connection import Connection
from orly.relay.frames import text_frame

MAX = LIMITS.max_message_bytes
TOO_LARGE = f"message larger than the limit of {MAX} bytes"


async def upgraded(relay: Serving) -> RawClient:
    client = await RawClient.open(relay.url)
    reply = await client.upgrade()
    assert reply.status == 101
    return client


def test_messages_are_echoed_in_order() -> None:
    async def main() -> None:
        async with serving() as relay, connect(relay.url) as client:
            for number in range(200):
                await client.send("EVENT", number, "ünïcode 🎉")
            for number in range(200):
                assert await client.receive() == ["EVENT", number, "ünïcode 🎉"]

    run_async(main())


def test_the_session_learns_who_it_talks_to() -> None:
    async def main() -> None:
        async with serving() as relay:
            for expected in (1, 2):
                async with connect(relay.url):
                    peer = (await relay.session(expected - 1)).connection
                    assert (peer.number, peer.remote_ip, peer.secure) == (expected, "127.0.0.1", False)
                    assert f"ws://{peer.host}" == relay.url
                    assert peer.opened_at == relay.clock.now_s
                    assert peer.can_write

    run_async(main())


def test_compression_is_declined() -> None:
    async def main() -> None:
        async with serving() as relay, await RawClient.open(relay.url) as client:
            reply = await client.upgrade(["Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"])
            assert reply.status == 101
            assert "sec-websocket-extensions" not in reply.headers

    run_async(main())


@pytest.mark.parametrize("length", [0, 1, 125, 126, 65_535, 65_536, MAX])
def test_messages_of_every_header_size_up_to_the_limit(length: int) -> None:
    async def main() -> None:
        async with serving() as relay, await upgraded(relay) as client:
            client.send(frame(TEXT, b"x" * length))
            assert await client.receive_frame() == (TEXT, b"x" * length)

    run_async(main())


def test_a_message_over_the_limit_is_refused_with_1009() -> None:
    async def main() -> None:
        async with serving() as relay, await upgraded(relay) as client:
            client.send(frame(TEXT, b"x" * (MAX + 1)))
            assert await client.receive_close() == (1009, TOO_LARGE)
            assert (await relay.session()).messages == []

    run_async(main())


@pytest.mark.parametrize("over", [0, 1, 125, 126, MAX])
def test_the_limit_counts_all_fragments_of_a_message(over: int) -> None:
    async def main() -> None:
        async with serving() as relay, await upgraded(relay) as client:
            client.send(frame(TEXT, b"a" * 1000, fin=False) + frame(CONTINUATION, b"", fin=False))
            client.send(frame(CONTINUATION, b"b" * (MAX - 1001), fin=False) + frame(PING, b"still there?"))
            client.send(frame(CONTINUATION, b"c" * (1 + over)))
            answers = [await client.receive_frame(), await client.receive_frame()]
            assert (PONG, b"still there?") in answers
            if over:
                assert answers[1] == (CLOSE, (1009).to_bytes(2, "big") + TOO_LARGE.encode())
            else:
                assert (TEXT, b"a" * 1000 + b"b" * (MAX - 1001) + b"c") in answers

    run_async(main())


def test_empty_fragments_without_end_cost_no_memory() -> None:
    async def main() -> None:
        async with serving() as relay, await upgraded(relay) as client:
            client.send(frame(TEXT, b"x", fin=False) + frame(CONTINUATION, b"", fin=False) * 20_000)
            client.send(frame(CONTINUATION, b"y"))
            assert await client.receive_frame() == (TEXT, b"xy")

    run_async(main())


def test_any_cut_into_fragments_and_writes_gives_the_message() -> None:
    cuts = st.lists(st.integers(0, 240), max_size=6)
    with serving_throughout() as (relay, runner):

        @given(st.text(max_size=60), cuts, st.lists(st.integers(1, 400), max_size=6))
        @settings(deadline=None)
        def check(text: str, cuts: list[int], writes: list[int]) -> None:
            payload = text.encode()
            edges = sorted({0, len(payload), *(cut for cut in cuts if cut < len(payload))})
            parts = [payload[start:end] for start, end in pairwise(edges)] or [b""]
            last = len(parts) - 1
            stream = b"".join(
                frame(CONTINUATION if index else TEXT, part, fin=index == last) for index, part in enumerate(parts)
            )
            runner.run(send_in_pieces(stream, writes, payload))

        async def send_in_pieces(stream: bytes, writes: list[int], payload: bytes) -> None:
            async with await upgraded(relay) as client:
                start = 0
                for size in writes:
                    client.send(stream[start : start + size])
                    start += size
                    await client.writer.drain()
                client.send(stream[start:])
                assert await client.receive_frame() == (TEXT, payload)

        check()


@pytest.mark.parametrize(
    "payload", [b"\xff", b"ok \xc3(", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"cut \xe2\x82"], ids=repr
)
def test_text_that_is_not_utf_8_is_refused_with_1007(payload: bytes) -> None:
    async def main() -> None:
        async with serving() as relay, await upgraded(relay) as client:
            client.send(frame(TEXT, b"good") + frame(TEXT, payload) + frame(TEXT, b"never seen"))
            assert await client.receive_frame() == (TEXT, b"good")
            code, reason = await client.receive_close()
            assert code == 1007
            assert "not UTF-8 at byte" in reason
            assert (await relay.session()).messages == [b"good"]

    run_async(main())


def test_a_character_may_be_cut_by_fragments() -> None:
    async def main() -> None:
        async with serving() as relay, await upgraded(relay) as client:
            client.send(frame(TEXT, "€".encode()[:1], fin=False) + frame(CONTINUATION, "€".encode()[1:]))
            assert await client.receive_frame() == (TEXT, "€".encode())

    run_async(main())


def test_binary_messages_are_refused_with_1003() -> None:
    async def main() -> None:
        async with serving() as relay, await upgraded(relay) as client:
            client.send(frame(TEXT, b"before") + frame(BINARY, b"[]"))
            assert await client.receive_frame() == (TEXT, b"before")
            code, reason = await client.receive_close()
            assert code == 1003
            assert "binary" in reason

    run_async(main())


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        (frame(TEXT, b"[]", masked=False), "masking"),
        (frame(CONTINUATION, b"[]"), "unexpected continuation"),
        (frame(TEXT, b"[", fin=False) + frame(TEXT, b"]"), "expected a continuation"),
        (frame(0x3, b"[]"), "opcode"),
        (frame(PING, b"x" * 126), "control frame too long"),
        (frame(PING, b"x", fin=False), "fragmented control frame"),
        (bytes([0xC1]) + frame(TEXT, b"[]")[1:], "reserved bits"),
    ],
    ids=["unmasked", "lone continuation", "interrupted", "opcode", "long ping", "cut ping", "reserved bit"],
)
def test_frames_that_break_the_protocol_are_refused_with_1002(broken: bytes, why: str) -> None:
    async def main() -> None:
        async with serving() as relay, await upgraded(relay) as client:
            client.send(frame(TEXT, b"good") + broken)
            assert await client.receive_frame() == (TEXT, b"good")
            code, reason = await client.receive_close()
            assert code == 1002
            assert why in reason
            assert await client.ended() == b""

    run_async(main())


def test_the_reason_arrives_although_the_client_is_still_sending() -> None:
    async def main() -> None:
        async with serving() as relay, await upgraded(relay) as client:
            client.send(frame(TEXT, b"x" * (8 * MAX)))
            assert (await client.receive_close())[0] == 1009

    run_async(main())


def test_random_bytes_never_disturb_another_client() -> None:
    with serving_throughout() as (relay, runner):

        @given(st.binary(min_size=1, max_size=400))
        @settings(deadline=None)
        def check(data: bytes) -> None:
            runner.run(flood(data))

        async def flood(data: bytes) -> None:
            async with connect(relay.url) as neighbour:
                async with await upgraded(relay) as client:
                    client.send(data)
                    client.send(data)
                    client.writer.write_eof()
                    received = await client.ended()
                    assert not received or received[0] in (0x81, 0x88, 0x8A)
                await neighbour.send("still", "served")
                assert await neighbour.receive() == ["still", "served"]
            await until(lambda: relay.hub.gate.total == 0, "both clients to be gone")

        check()


def test_pings_are_answered_between_messages_in_order() -> None:
    async def main() -> None:
        async with serving() as relay, await upgraded(relay) as client:
            for number in range(50):
                client.send(frame(TEXT, b"m%d" % number) + frame(PING, b"p%d" % number))
            received = [await client.receive_frame() for _ in range(100)]
            assert [payload for opcode, payload in received if opcode == TEXT] == [b"m%d" % n for n in range(50)]
            assert [payload for opcode, payload in received if opcode == PONG] == [b"p%d" % n for n in range(50)]

    run_async(main())


def test_control_frames_stand_whole_among_a_large_answer() -> None:
    async def main() -> None:
        frames = [text_frame(b"%05d" % number + b"x" * 700) for number in range(2000)]
        limits = replace(LIMITS, max_send_backlog_bytes=8 << 20)
        async with serving(limits=limits) as relay, await upgraded(relay) as client:
            session = await relay.session()
            session.connection.send_frames(frames[:1000])
            client.send(frame(PING, b"in between") + frame(TEXT, b"after the ping"))
            await until(lambda: session.messages, "the ping and what follows it")
            session.connection.send_frames(frames[1000:])
            session.connection.close(4000, "done")
            texts: list[bytes] = []
            others: list[tuple[int, bytes]] = []
            while not others or others[-1][0] != CLOSE:
                opcode, payload = await client.receive_frame()
                if opcode == TEXT:
                    texts.append(payload)
                else:
                    others.append((opcode, payload))
            assert [text[:5] for text in texts if text != b"after the ping"] == [b"%05d" % n for n in range(2000)]
            assert texts.index(b"after the ping") == 1000
            assert others == [(PONG, b"in between"), (CLOSE, (4000).to_bytes(2, "big") + b"done")]

    run_async(main())


def test_a_close_from_the_client_is_echoed_after_the_answers() -> None:
    async def main() -> None:
        async with serving() as relay, await upgraded(relay) as client:
            client.send(frame(TEXT, b"last words") + frame(CLOSE, (1000).to_bytes(2, "big") + b"bye"))
            assert await client.receive_frame() == (TEXT, b"last words")
            assert await client.receive_close() == (1000, "bye")
            assert await client.ended() == b""
            session = await relay.session()
            await until(lambda: session.closed_calls == 1, "the session to be told")

    run_async(main())


def test_a_close_is_echoed_to_a_client_that_ends_its_stream_at_once() -> None:
    async def main() -> None:
        async with serving() as relay, await upgraded(relay) as client:
            client.send(frame(TEXT, b"last words") + frame(CLOSE, (1000).to_bytes(2, "big")))
            client.writer.write_eof()
            assert await client.receive_frame() == (TEXT, b"last words")
            assert await client.receive_close() == (1000, "")

    run_async(main())


@pytest.mark.parametrize("how", ["end", "reset"])
def test_a_client_that_just_goes_away_is_noticed(how: str) -> None:
    async def main() -> None:
        async with serving() as relay, await upgraded(relay) as client:
            session = await relay.session()
            if how == "end":
                client.writer.write_eof()
            else:
                raw = client.writer.get_extra_info("socket")
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                client.writer.transport.abort()
            await until(lambda: session.closed_calls == 1, "the session to be told")
            await until(lambda: relay.hub.gate.total == 0, "the connection to be forgotten")

    run_async(main())


def test_nothing_is_handed_over_after_the_relay_closed() -> None:
    class Closing(Echo):
        def receive(self, messages: list[bytes]) -> None:
            super().receive(messages)
            self.connection.close(4001, "enough")
            self.connection.send(b"not sent")

    async def main() -> None:
        async with serving(make_session=Closing) as relay, await upgraded(relay) as client:
            client.send(frame(TEXT, b"one"))
            assert await client.receive_frame() == (TEXT, b"one")
            assert await client.receive_close() == (4001, "enough")
            client.send(frame(TEXT, b"two") + frame(CLOSE, (4001).to_bytes(2, "big")))
            assert await client.ended() == b""
            assert (await relay.session()).messages == [b"one"]

    run_async(main())


def test_a_client_that_never_answers_a_close_is_cut_off() -> None:
    async def main() -> None:
        async with serving() as relay, await upgraded(relay) as client:
            session = await relay.session()
            session.connection.close(1000, "bye")
            assert await client.receive_close() == (1000, "bye")
            relay.clock.advance(LIMITS.close_timeout_s - 1)
            await relay.ticked()
            assert session.closed_calls == 0
            relay.clock.advance(1)
            await client.ended()
            await until(lambda: session.closed_calls == 1, "the session to be told")

    run_async(main())


def test_a_message_sent_while_the_session_is_made_follows_the_handshake() -> None:
    class Greeting(Echo):
        def __init__(self, connection: Connection) -> None:
            super().__init__(connection)
            connection.send(b"welcome")

    async def main() -> None:
        async with serving(make_session=Greeting) as relay, await upgraded(relay) as client:
            assert await client.receive_frame() == (TEXT, b"welcome")

    run_async(main())


def test_a_session_may_stop_reading_from_the_start() -> None:
    class Reluctant(Echo):
        def __init__(self, connection: Connection) -> None:
            super().__init__(connection)
            connection.pause_reading()

    async def main() -> None:
        async with serving(make_session=Reluctant) as relay, await upgraded(relay) as client:
            client.send(frame(TEXT, b"hello"))
            session = await relay.session()
            relay.clock.advance(5)
            await relay.ticked()
            assert session.messages == []
            session.connection.resume_reading()
            assert await client.receive_frame() == (TEXT, b"hello")

    run_async(main())


def test_a_session_that_stops_reading_stops_the_client_and_loses_nothing() -> None:
    class Slow(Echo):
        def receive(self, messages: list[bytes]) -> None:
            self.batches.append(messages)
            self.connection.pause_reading()

    async def main() -> None:
        async with serving(make_session=Slow) as relay, await upgraded(relay) as client:
            sent = [b"%06d" % number + b"x" * 1000 for number in range(20_000)]
            writing = asyncio.create_task(write_all(client, sent))
            session = await relay.session()
            await until(lambda: session.batches, "the first batch")
            while len(session.messages) < len(sent):
                got = len(session.batches)
                session.connection.resume_reading()
                await until(lambda got=got: len(session.batches) > got, "the next batch")  # type: ignore[misc]
                assert len(session.batches) <= got + 2
            await writing
            assert session.messages == sent

    async def write_all(client: RawClient, messages: list[bytes]) -> None:
        for message in messages:
            client.send(frame(TEXT, message))
            await client.writer.drain()

    run_async(main())


def test_a_slow_reader_is_bounded_told_and_dropped_while_others_are_served() -> None:
    async def main() -> None:
        async with serving() as relay, connect(relay.url) as other, await upgraded(relay) as slow:
            await until(lambda: len(relay.sessions) == 2, "both sessions")
            session = relay.sessions[1]
            peer, chunk = session.connection, [text_frame(b"x" * 8000)] * 4
            slow.reader._transport.pause_reading()  # type: ignore[attr-defined]
            highest = sent = 0
            while peer._open:
                peer.send_frames(chunk)
                sent += 1
                highest = max(highest, peer.backlog_bytes)
                if sent % 20 == 0:
                    await other.send("ping", sent)
                    assert await other.receive() == ["ping", sent]
                assert sent < 20_000, "the slow reader is never dropped"
            assert highest <= LIMITS.max_send_backlog_bytes
            assert not peer.can_write
            assert relay.hub.total_backlog_bytes < 256 * 1024, "its memory is freed at once"
            slow.reader._transport.resume_reading()  # type: ignore[attr-defined]
            seen = (await slow.receive_frame())[0]
            while seen == TEXT:
                opcode, payload = await slow.receive_frame()
                seen = opcode
            assert payload == (1008).to_bytes(2, "big") + b"reading too slowly"
            await other.send("still", "here")
            assert await other.receive() == ["still", "here"]

    run_async(main())


def test_a_reader_that_catches_up_gets_everything_and_its_session_hears_of_it() -> None:
    async def main() -> None:
        limits = replace(LIMITS, max_send_backlog_bytes=64 << 20)
        async with serving(limits=limits) as relay, await upgraded(relay) as client:
            session = await relay.session()
            client.reader._transport.pause_reading()  # type: ignore[attr-defined]
            sent = 0
            while session.connection.can_write:
                session.connection.send(b"%08d" % sent + b"x" * 20_000)
                sent += 1
            for _ in range(100):
                session.connection.send(b"%08d" % sent + b"x" * 20_000)
                sent += 1
            assert session.connection.backlog_bytes > 100 * 20_000
            assert session.writable_calls == 0
            client.reader._transport.resume_reading()  # type: ignore[attr-defined]
            for number in range(sent):
                assert (await client.receive_frame())[1][:8] == b"%08d" % number
            await until(lambda: session.writable_calls == 1, "the session to be told")
            assert (session.connection.can_write, relay.hub.total_backlog_bytes) == (True, 0)

    run_async(main())


def test_a_silent_client_is_pinged_and_dropped_over_real_sockets() -> None:
    async def main() -> None:
        async with serving() as relay, await upgraded(relay) as client:
            await relay.session()
            relay.clock.advance(LIMITS.ping_interval_s)
            assert await client.receive_frame() == (PING, b"")
            client.send(frame(PONG))
            client.send(frame(TEXT, b"alive"))
            assert await client.receive_frame() == (TEXT, b"alive")
            relay.clock.advance(LIMITS.ping_interval_s)
            assert await client.receive_frame() == (PING, b"")
            relay.clock.advance(LIMITS.pong_timeout_s)
            assert await client.receive_close() == (1011, "no answer to a ping within 20 s")

    run_async(main())


def test_the_library_client_answers_pings_and_is_closed_when_idle() -> None:
    async def main() -> None:
        async with serving() as relay, connect(relay.url) as client:
            await relay.session()
            for _ in range(int(LIMITS.idle_timeout_s / LIMITS.ping_interval_s) - 1):
                relay.clock.advance(LIMITS.ping_interval_s)
                await relay.ticked()
                await client.connection.ping()
            relay.clock.advance(LIMITS.ping_interval_s)
            assert await client.closed() == (1000, "idle")

    run_async(main())


def test_many_connections_share_one_flush_and_one_frame() -> None:
    async def main() -> None:
        async with serving() as relay:
            clients = [await upgraded(relay) for _ in range(50)]
            await until(lambda: len(relay.sessions) == 50, "all sessions")
            shared = [text_frame(b"to all of you")]
            for session in relay.sessions:
                session.connection.send_frames(shared)
            for client in clients:
                assert await client.receive_frame() == (TEXT, b"to all of you")
            for client in clients:
                await client.__aexit__(None, None, None)
            await until(lambda: relay.hub.gate.total == 0, "all to be gone")

    run_async(main())
