"""A connection against a fake transport and a clock set by hand: what happens when, to the second."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest
from tests.transport import LIMITS, Echo, FakeClock, rules
from tests.wsclient import CLOSE, PING, PONG, TEXT, frame
from uvicorn import Config
from uvicorn.server import ServerState

from orly.relay.connection import Connection, connection_class
from orly.relay.frames import text_frame
from orly.relay.gate import Gate
from orly.relay.hub import ConnectionLimits, Hub
from orly.relay.outbox import HIGH_WATER_BYTES, SLICE_BYTES

HEAD = (
    b"GET / HTTP/1.1\r\nhost: relay.example\r\nconnection: Upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
)


class FakeTransport:
    """Takes what is written, or keeps it when it is told to be slow."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.unsent_bytes = 0
        self.slow_after_bytes: int | None = None
        self.protocol: Connection | None = None
        self._reading = True
        self.ended = self.closed = self._aborted = False

    def write(self, data: bytes) -> None:
        assert not self.ended, "written after the end of the stream"
        self.written.append(data)
        if self.slow_after_bytes is not None:
            self.unsent_bytes += len(data)
            if self.unsent_bytes > self.slow_after_bytes and self.protocol is not None and self.protocol.can_write:
                self.protocol.pause_writing()

    def take_all(self) -> None:
        """The reader wakes up and takes everything."""
        self.unsent_bytes = 0
        assert self.protocol is not None
        self.protocol.resume_writing()

    def get_write_buffer_size(self) -> int:
        return self.unsent_bytes

    def set_write_buffer_limits(self, high: int, low: int) -> None:
        assert low < high

    def get_extra_info(self, name: str) -> tuple[str, int]:
        assert name == "peername"
        return ("192.0.2.1", 5000)

    def is_closing(self) -> bool:
        return self.closed or self._aborted

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        self._reading = True

    def is_reading(self) -> bool:
        return self._reading

    def write_eof(self) -> None:
        self.ended = True

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self._aborted = True

    def was_aborted(self) -> bool:
        return self._aborted

    @property
    def stream(self) -> bytes:
        """Everything written since the handshake response."""
        return b"".join(self.written).partition(b"\r\n\r\n")[2]


class Bench:
    """One connection on a fake transport."""

    def __init__(self, limits: ConnectionLimits = LIMITS) -> None:
        self.clock = FakeClock()
        self.gate = Gate(rules())
        self.hub = Hub(limits=limits, gate=self.gate, make_session=Echo, clock=self.clock)
        self.state = ServerState()

    def connect(self) -> tuple[Connection, FakeTransport, Echo]:
        transport = FakeTransport()
        connection = connection_class(self.hub)(Config(_no_app), self.state, {})
        transport.protocol = connection
        connection.connection_made(cast(asyncio.Transport, transport))
        connection.data_received(HEAD)
        connection.flush()
        session = connection._session
        assert isinstance(session, Echo)
        return connection, transport, session

    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.hub.tick(self.clock())


async def _no_app(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError("a WebSocket connection never calls the HTTP application")


def is_open(connection: Connection) -> bool:
    return connection._open


def can_write(connection: Connection) -> bool:
    return connection.can_write


def on_loop(body: Callable[[Bench], None], limits: ConnectionLimits = LIMITS) -> None:
    """Runs a test body inside a loop, which a hub needs; nothing in it waits."""

    async def main() -> None:
        body(Bench(limits))

    asyncio.run(main())


async def turn() -> None:
    """Lets the loop go round twice: once for the flush, once for what it set off."""
    for _ in range(2):
        await asyncio.sleep(0)


def close_frame(code: int, reason: str) -> bytes:
    return frame(CLOSE, code.to_bytes(2, "big") + reason.encode(), masked=False)


def test_a_silent_client_is_pinged_after_the_interval_and_not_before() -> None:
    def body(bench: Bench) -> None:
        connection, transport, _ = bench.connect()
        bench.pass_time(LIMITS.ping_interval_s - 0.001)
        connection.flush()
        assert transport.stream == b""
        bench.pass_time(0.001)
        connection.flush()
        assert transport.stream == frame(PING, masked=False)

    on_loop(body)


def test_any_inbound_data_puts_the_ping_off() -> None:
    def body(bench: Bench) -> None:
        connection, transport, _ = bench.connect()
        bench.pass_time(LIMITS.ping_interval_s - 1)
        connection.data_received(frame(PONG))
        bench.pass_time(LIMITS.ping_interval_s - 1)
        connection.flush()
        assert transport.stream == b""
        bench.pass_time(1)
        connection.flush()
        assert transport.stream == frame(PING, masked=False)

    on_loop(body)


def test_an_unanswered_ping_ends_the_connection_at_the_timeout_and_not_before() -> None:
    def body(bench: Bench) -> None:
        connection, transport, _ = bench.connect()
        bench.pass_time(LIMITS.ping_interval_s)
        bench.pass_time(LIMITS.pong_timeout_s - 0.001)
        connection.flush()
        assert transport.stream == frame(PING, masked=False)
        bench.pass_time(0.001)
        connection.flush()
        assert transport.stream == frame(PING, masked=False) + close_frame(1011, "no answer to a ping within 20 s")
        bench.pass_time(LIMITS.close_timeout_s - 0.001)
        assert not transport.was_aborted()
        bench.pass_time(0.001)
        assert transport.was_aborted()

    on_loop(body)


@pytest.mark.parametrize("answer", [frame(PONG), frame(TEXT, b"[]")], ids=["pong", "message"])
def test_an_answered_ping_is_followed_by_another_interval(answer: bytes) -> None:
    def body(bench: Bench) -> None:
        connection, transport, session = bench.connect()
        session.is_idle = False
        for _ in range(5):
            bench.pass_time(LIMITS.ping_interval_s)
            connection.data_received(answer)
        connection.flush()
        assert transport.stream.count(frame(PING, masked=False)) == 5
        bench.pass_time(LIMITS.pong_timeout_s)
        connection.flush()
        assert not transport.is_closing()
        assert transport.stream.count(frame(PING, masked=False)) == 5

    on_loop(body)


def test_no_pings_when_they_are_switched_off() -> None:
    def body(bench: Bench) -> None:
        connection, transport, _ = bench.connect()
        bench.pass_time(1_000_000)
        connection.flush()
        assert transport.stream == b""

    on_loop(body, replace(LIMITS, ping_interval_s=0, idle_timeout_s=0))


def test_a_client_we_do_not_read_from_is_not_held_dead() -> None:
    def body(bench: Bench) -> None:
        connection, transport, _ = bench.connect()
        connection.pause_reading()
        assert not transport.is_reading()
        for _ in range(10):
            bench.pass_time(LIMITS.ping_interval_s)
        connection.flush()
        assert transport.stream == b""
        connection.resume_reading()
        assert transport.is_reading()
        bench.pass_time(LIMITS.ping_interval_s)
        connection.flush()
        assert transport.stream == frame(PING, masked=False)

    on_loop(body, replace(LIMITS, idle_timeout_s=0))


def test_an_idle_client_is_closed_at_the_timeout_and_not_before() -> None:
    def body(bench: Bench) -> None:
        connection, transport, _ = bench.connect()
        bench.pass_time(LIMITS.idle_timeout_s - 0.001)
        connection.flush()
        assert transport.stream == b""
        bench.pass_time(0.001)
        connection.flush()
        assert transport.stream == close_frame(1000, "idle")

    on_loop(body, replace(LIMITS, ping_interval_s=0))


def test_an_idle_client_that_does_not_answer_the_close_is_cut_off() -> None:
    def body(bench: Bench) -> None:
        _, transport, _ = bench.connect()
        bench.pass_time(LIMITS.idle_timeout_s)
        bench.pass_time(LIMITS.close_timeout_s - 0.001)
        assert not transport.was_aborted()
        bench.pass_time(0.001)
        assert transport.was_aborted()

    on_loop(body, replace(LIMITS, ping_interval_s=0))


def test_pings_do_not_make_a_client_busy() -> None:
    def body(bench: Bench) -> None:
        connection, transport, _ = bench.connect()
        for _ in range(int(LIMITS.idle_timeout_s / LIMITS.ping_interval_s)):
            bench.pass_time(LIMITS.ping_interval_s)
            connection.data_received(frame(PONG) + frame(PING))
        connection.flush()
        assert transport.stream.count(close_frame(1000, "idle")) == 1

    on_loop(body)


@pytest.mark.parametrize("direction", ["in", "out"])
def test_a_message_either_way_starts_the_idle_time_again(direction: str) -> None:
    def body(bench: Bench) -> None:
        connection, transport, _ = bench.connect()
        bench.pass_time(LIMITS.idle_timeout_s - 1)
        if direction == "in":
            connection.data_received(frame(TEXT, b"[1]"))
        else:
            connection.send(b"[1]")
        bench.pass_time(LIMITS.idle_timeout_s - 1)
        connection.flush()
        assert transport.stream == text_frame(b"[1]")
        bench.pass_time(1)
        connection.flush()
        assert transport.stream == text_frame(b"[1]") + close_frame(1000, "idle")

    on_loop(body, replace(LIMITS, ping_interval_s=0))


def test_a_client_with_something_under_way_is_never_idle() -> None:
    def body(bench: Bench) -> None:
        connection, transport, session = bench.connect()
        session.is_idle = False
        for _ in range(20):
            bench.pass_time(LIMITS.idle_timeout_s)
        connection.flush()
        assert transport.stream == b""
        session.is_idle = True
        bench.pass_time(LIMITS.idle_timeout_s)
        connection.flush()
        assert transport.stream == close_frame(1000, "idle")

    on_loop(body, replace(LIMITS, ping_interval_s=0))


def test_everything_of_a_turn_leaves_in_one_write_in_order() -> None:
    async def main() -> None:
        bench = Bench()
        connection, transport, _ = bench.connect()
        await turn()
        writes = len(transport.written)
        shared = [text_frame(b"a"), text_frame(b"b")]
        connection.send(b"1")
        connection.data_received(frame(PING, b"hi") + frame(TEXT, b"2"))
        connection.send_frames(shared)
        connection.close(1000, "bye")
        connection.send(b"too late")
        await turn()
        assert len(transport.written) == writes + 1
        expected = [text_frame(b"1"), text_frame(b"2"), frame(PONG, b"hi", masked=False), *shared]
        assert transport.stream == b"".join([*expected, close_frame(1000, "bye")])

    asyncio.run(main())


def test_a_large_answer_is_written_in_slices_of_whole_frames() -> None:
    def body(bench: Bench) -> None:
        connection, transport, _ = bench.connect()
        frames = [text_frame(bytes([65 + n % 26]) * 1000) for n in range(1000)]
        connection.send_frames(frames)
        connection.flush()
        assert transport.stream == b"".join(frames)
        assert max(map(len, transport.written)) < SLICE_BYTES + len(frames[0])

    on_loop(body, replace(LIMITS, max_send_backlog_bytes=8 << 20))


def test_a_paused_transport_gets_nothing_more_and_goes_on_where_it_stopped() -> None:
    async def main() -> None:
        bench = Bench()
        connection, transport, session = bench.connect()
        transport.slow_after_bytes = SLICE_BYTES
        frames = [text_frame(b"%04d" % n + b"x" * 996) for n in range(400)]
        connection.send_frames(frames)
        assert not can_write(connection)
        given = sum(map(len, transport.written))
        assert given <= 3 * SLICE_BYTES
        assert connection.backlog_bytes == bench.hub.total_backlog_bytes
        assert 0 <= connection.backlog_bytes - sum(map(len, frames)) < 1000  # the handshake response waits as well
        connection.send(b"last")
        connection.flush()
        assert sum(map(len, transport.written)) == given
        while not can_write(connection):
            assert session.writable_calls == 0
            transport.take_all()
        assert session.writable_calls == 0, "it is told in a turn of its own"
        await turn()
        assert session.writable_calls == 1
        assert transport.stream == b"".join([*frames, text_frame(b"last")])
        assert (connection.backlog_bytes, bench.hub.total_backlog_bytes) == (0, 0)

    asyncio.run(main())


def test_shared_frames_are_kept_as_references_while_they_wait() -> None:
    def body(bench: Bench) -> None:
        shared = text_frame(b"x" * 1000)
        waiting = []
        for _ in range(3):
            connection, transport, _ = bench.connect()
            transport.slow_after_bytes = 0
            connection.send(b"first")
            connection.flush()
            connection.send_frames((shared,))
            waiting.append(connection)
        assert all(any(each is shared for each in connection._queue) for connection in waiting)

    on_loop(body)


def stall(connection: Connection, transport: FakeTransport) -> None:
    """Makes the reader slow: the next write pauses the transport."""
    transport.unsent_bytes = 0
    transport.slow_after_bytes = 0
    connection.send(b"x")
    connection.flush()
    assert not can_write(connection)


def fill(connection: Connection, total_bytes: int) -> None:
    """Sends frames until exactly so much waits for the reader."""
    missing = total_bytes - connection.backlog_bytes
    while missing > 66_000:
        connection.send(b"x" * 60_000)
        missing = total_bytes - connection.backlog_bytes
    connection.send_frames((b"x" * missing,))
    assert connection.backlog_bytes in (total_bytes, 0) or not is_open(connection)


def test_the_backlog_of_a_slow_reader_at_its_edge() -> None:
    def body(bench: Bench) -> None:
        limit = LIMITS.max_send_backlog_bytes
        connection, transport, _ = bench.connect()
        stall(connection, transport)
        fill(connection, limit)
        assert is_open(connection)
        assert bench.hub.total_backlog_bytes == limit
        connection.send_frames((b"!",))
        assert not is_open(connection)
        assert connection.backlog_bytes < 100, "what waited is freed at once"
        assert bench.hub.total_backlog_bytes == connection.backlog_bytes
        connection.send(b"nothing is queued any more")
        transport.take_all()
        assert transport.stream == text_frame(b"x") + close_frame(1008, "reading too slowly")
        bench.pass_time(LIMITS.close_timeout_s)
        assert transport.was_aborted()

    on_loop(body)


def test_a_burst_the_reader_takes_is_no_backlog() -> None:
    def body(bench: Bench) -> None:
        connection, transport, _ = bench.connect()
        frames = [text_frame(b"x" * 1000)] * (3 * LIMITS.max_send_backlog_bytes // 1000)
        for start in range(0, len(frames), 200):
            connection.send_frames(frames[start : start + 200])
            assert connection._queued_bytes <= HIGH_WATER_BYTES
        assert can_write(connection)
        assert is_open(connection)
        connection.flush()
        assert transport.stream == b"".join(frames)

    on_loop(body)


def test_past_the_total_backlog_the_slowest_reader_goes() -> None:
    def body(bench: Bench) -> None:
        readers = [bench.connect() for _ in range(3)]
        for connection, transport, _ in readers:
            stall(connection, transport)
        total = bench.hub.limits.max_total_send_backlog_bytes
        (small, _, _), (large, cut, _), (last, _, _) = readers
        fill(small, total // 4)
        fill(large, total // 2)
        fill(last, total // 4)
        assert bench.hub.total_backlog_bytes == total
        assert not cut.was_aborted()
        small.send_frames((b"!",))
        assert cut.was_aborted()
        assert (large.backlog_bytes, large._queue) == (0, [])
        assert bench.hub.total_backlog_bytes == total // 2 + 1
        assert is_open(small)
        assert is_open(last)

    on_loop(body, replace(LIMITS, max_total_send_backlog_bytes=1 << 20))


def test_a_reader_that_takes_nothing_is_cut_off_at_the_timeout_and_not_before() -> None:
    def body(bench: Bench) -> None:
        connection, transport, session = bench.connect()
        session.is_idle = False
        stall(connection, transport)
        bench.pass_time(1)  # the first look notes what waits
        bench.pass_time(LIMITS.send_timeout_s - 0.001)
        assert not transport.was_aborted()
        bench.pass_time(0.001)
        assert transport.was_aborted()
        assert connection.backlog_bytes == 0

    on_loop(body)


def test_a_reader_that_stalls_is_looked_at_before_its_next_ping_is_due() -> None:
    def body(bench: Bench) -> None:
        connection, transport, _ = bench.connect()
        bench.pass_time(1)
        assert connection.check_at_s == bench.clock.now_s - 1 + LIMITS.ping_interval_s
        stall(connection, transport)
        bench.pass_time(1)
        bench.pass_time(5)
        assert transport.was_aborted()

    on_loop(body, replace(LIMITS, send_timeout_s=5))


def test_a_reader_that_takes_a_little_is_kept() -> None:
    def body(bench: Bench) -> None:
        connection, transport, session = bench.connect()
        session.is_idle = False
        stall(connection, transport)
        transport.unsent_bytes = 1000
        for _ in range(20):
            bench.pass_time(LIMITS.send_timeout_s - 1)
            transport.unsent_bytes -= 1
        assert not transport.was_aborted()
        assert is_open(connection)

    on_loop(body)


def test_requests_are_not_taken_from_a_client_that_does_not_read_the_answers() -> None:
    def body(bench: Bench) -> None:
        connection, transport, _ = bench.connect()
        stall(connection, transport)
        fill(connection, LIMITS.max_send_backlog_bytes // 2)
        assert transport.is_reading()
        connection.send_frames((b"!",))
        assert not transport.is_reading()
        transport.slow_after_bytes = None
        transport.take_all()
        assert transport.is_reading()

    on_loop(body)


def test_reading_resumes_only_when_nobody_holds_it() -> None:
    def body(bench: Bench) -> None:
        connection, transport, _ = bench.connect()
        stall(connection, transport)
        connection.pause_reading()
        fill(connection, LIMITS.max_send_backlog_bytes // 2 + 1)
        connection.resume_reading()
        assert not transport.is_reading()
        connection.pause_reading()
        transport.slow_after_bytes = None
        transport.take_all()
        assert not transport.is_reading()
        connection.resume_reading()
        assert transport.is_reading()
        connection.stop_reading()
        connection.resume_reading()
        assert not transport.is_reading()

    on_loop(body)


def test_a_close_reads_on_to_see_the_answer_whoever_held_the_reading() -> None:
    def body(bench: Bench) -> None:
        connection, transport, _ = bench.connect()
        connection.pause_reading()
        connection.stop_reading()
        assert not transport.is_reading()
        connection.shutdown()
        assert transport.is_reading()

    on_loop(body)


def test_a_flood_of_tiny_frames_is_spread_over_turns_in_order() -> None:
    async def main() -> None:
        bench = Bench()
        connection, transport, session = bench.connect()
        sent = [b"%d" % n for n in range(20_000)]
        connection.data_received(b"".join(frame(TEXT, text) for text in sent))
        assert len(session.batches) == 1
        assert len(session.batches[0]) < 5000
        assert not transport.is_reading()
        while len(session.messages) < len(sent):
            before = len(session.messages)
            await turn()
            assert len(session.messages) > before
        assert session.messages == sent
        assert transport.is_reading()

    asyncio.run(main())


def test_a_session_that_stops_reading_is_given_nothing_of_what_is_left_of_a_flood() -> None:
    async def main() -> None:
        bench = Bench()
        connection, transport, session = bench.connect()
        sent = [b"%d" % n for n in range(5_000)]
        connection.data_received(b"".join(frame(TEXT, text) for text in sent))
        connection.pause_reading()
        got = len(session.messages)
        assert got < len(sent)
        for _ in range(5):
            await turn()
        assert len(session.messages) == got
        connection.resume_reading()
        while len(session.messages) < len(sent):
            await turn()
        assert session.messages == sent
        assert transport.is_reading()

    asyncio.run(main())


def test_a_large_read_of_real_messages_is_one_call() -> None:
    def body(bench: Bench) -> None:
        connection, _, session = bench.connect()
        connection.data_received(frame(TEXT, b"x" * 733) * 300)
        assert [len(batch) for batch in session.batches] == [300]

    on_loop(body)


def test_unfinished_messages_of_all_connections_together_are_bounded() -> None:
    def body(bench: Bench) -> None:
        bench.hub.max_total_unfinished_bytes = 300_000
        half = frame(TEXT, b"x" * 200_000)
        first, first_transport, _ = bench.connect()
        second, second_transport, second_session = bench.connect()
        first.data_received(half[:180_000])
        second.data_received(half[:120_000])
        assert bench.hub.total_unfinished_bytes == first.unfinished_bytes + second.unfinished_bytes < 300_000
        second.data_received(half[120_000:125_000])
        first.flush()
        assert first_transport.stream == close_frame(1013, "too many large messages are arriving at once")
        assert bench.hub.total_unfinished_bytes == second.unfinished_bytes
        second.data_received(half[125_000:])
        assert second_session.messages == [b"x" * 200_000]
        assert (bench.hub.total_unfinished_bytes, second_transport.closed) == (0, False)

    on_loop(body, replace(LIMITS, max_message_bytes=1 << 20))


def test_a_failed_connection_is_only_half_closed_so_that_the_reason_is_not_lost_to_a_reset() -> None:
    def body(bench: Bench) -> None:
        connection, transport, _ = bench.connect()
        connection.data_received(frame(TEXT, b"\xff"))
        connection.flush()
        assert transport.stream == close_frame(1007, "not UTF-8 at byte 0 of the message")
        assert (transport.ended, transport.closed) == (True, False)
        connection.data_received(frame(TEXT, b"thrown away"))
        bench.pass_time(LIMITS.close_timeout_s)
        assert transport.was_aborted()

    on_loop(body)


def test_a_close_handshake_that_is_complete_closes_the_socket() -> None:
    def body(bench: Bench) -> None:
        connection, transport, _ = bench.connect()
        connection.close(1000, "bye")
        connection.flush()
        assert (transport.ended, transport.closed) == (False, False)
        connection.data_received(frame(CLOSE, (1000).to_bytes(2, "big")))
        connection.flush()
        assert (transport.ended, transport.closed) == (False, True)

    on_loop(body)


def test_the_end_of_the_stream_in_the_same_turn_does_not_swallow_the_answers() -> None:
    def body(bench: Bench) -> None:
        connection, transport, _ = bench.connect()
        connection.data_received(frame(TEXT, b"last words") + frame(CLOSE, (1000).to_bytes(2, "big")))
        connection.eof_received()
        assert transport.stream == text_frame(b"last words") + close_frame(1000, "")

    on_loop(body)


def test_a_lost_connection_is_forgotten_everywhere_and_its_session_is_told_once() -> None:
    def body(bench: Bench) -> None:
        connection, transport, session = bench.connect()
        stall(connection, transport)
        assert (bench.gate.total, len(bench.state.connections), len(bench.hub.connections)) == (1, 1, 1)
        connection.connection_lost(None)
        assert (bench.gate.total, len(bench.state.connections), len(bench.hub.connections)) == (0, 0, 0)
        assert bench.hub.total_backlog_bytes == 0
        assert session.closed_calls == 1
        connection.send(b"into the void")
        connection.close(1000, "twice")
        assert connection._queue == []

    on_loop(body)


def test_a_session_that_cannot_be_made_leaves_nothing_behind() -> None:
    def body(bench: Bench) -> None:
        def fail(connection: Connection) -> Echo:
            raise RuntimeError("no session today")

        bench.hub.make_session = fail
        with pytest.raises(RuntimeError, match="no session today"):
            bench.connect()
        assert (bench.gate.total, len(bench.state.connections), len(bench.hub.connections)) == (0, 0, 0)

    on_loop(body)


def test_a_long_reason_is_cut_between_characters() -> None:
    def body(bench: Bench) -> None:
        connection, transport, _ = bench.connect()
        connection.close(1008, "é" * 100)
        connection.flush()
        assert transport.stream == close_frame(1008, "é" * 61)

    on_loop(body)
