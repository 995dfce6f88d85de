"""The socket's own sense of time, on a transport whose buffer a test fills and empties."""

import asyncio
from base64 import b64encode
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha1
from re import search

import pytest
from tests.component.peer_sink import QUICK
from tests.transport import run_async
from tests.wsclient import DEADLINE_S, until

from orly.sync.peer import PeerClosedError, PeerError, PeerSilentError, PeerUnreachableError
from orly.sync.peer_socket import PeerSocket

OPTIONS = replace(QUICK, answer_timeout_s=DEADLINE_S)


class FakeTransport(asyncio.Transport):
    """Keeps what is written; `unsent` is what it says is still in its buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.unsent = 0
        self.aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        del high, low

    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        self.aborted = True

    def close(self) -> None:
        self.aborted = True

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


class User:
    """Awaits something for ever."""

    def __init__(self) -> None:
        self.errors: list[PeerError] = []

    def receive(self, messages: list[bytes]) -> None:
        raise AssertionError(messages)

    def awaited(self) -> str:
        return "nothing in particular"

    def overdue(self, now_s: float) -> str | None:
        del now_s
        return None

    def reading_resumed(self, now_s: float) -> None:
        del now_s

    def connection_lost(self, error: PeerError) -> None:
        self.errors.append(error)


def open_socket() -> tuple[PeerSocket, FakeTransport, User]:
    """A socket after the handshake."""
    user, transport = User(), FakeTransport()
    socket = PeerSocket("ws://peer.invalid", OPTIONS, user)
    socket.connection_made(transport)
    shake_hands(socket, transport)
    assert socket.is_open
    return socket, transport, user


def shake_hands(socket: PeerSocket, transport: FakeTransport) -> None:
    found = search(rb"Sec-WebSocket-Key: (\S+)", transport.written)
    assert found is not None
    accept = b64encode(sha1(found[1] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    socket.data_received(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n")
    assert not socket.is_open
    socket.data_received(b"Sec-WebSocket-Accept: %b\r\n\r\n" % accept)


@pytest.mark.parametrize("how", ["cancelled before", "cancelled after", "too late"])
def test_nothing_is_left_of_a_connection_that_is_given_up_when_it_opens(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        transport, loop = FakeTransport(), asyncio.get_running_loop()
        timeout_s = 0.01 if how == "too late" else DEADLINE_S
        socket = PeerSocket("ws://peer.invalid", replace(OPTIONS, connect_timeout_s=timeout_s), User())

        async def create(factory: Callable[[], PeerSocket], *address: object, ssl: None) -> object:
            factory().connection_made(transport)
            return transport, socket

        monkeypatch.setattr(loop, "create_connection", create)
        socket._opened.add_done_callback(lambda _: None if socket.is_open else shake_hands(socket, transport))
        connecting = asyncio.create_task(socket.connect())
        await until(lambda: transport.written)
        match how:
            case "cancelled before":
                connecting.cancel()
            case "cancelled after":
                shake_hands(socket, transport)
                connecting.cancel()
        (error,) = await asyncio.gather(connecting, return_exceptions=True)
        assert isinstance(error, PeerUnreachableError if how == "too late" else asyncio.CancelledError)
        assert transport.aborted
        socket.connection_lost(None)

    run_async(main())


def test_a_peer_that_reads_but_says_nothing_is_alive() -> None:
    async def main() -> None:
        socket, transport, user = open_socket()
        loop = asyncio.get_running_loop()
        began_at_s = loop.time()

        def still_reading() -> bool:
            transport.unsent = 1 + int((loop.time() - began_at_s) * 1000) % 1000
            return loop.time() - began_at_s < 3 * OPTIONS.silence_timeout_s

        await until(lambda: not still_reading())
        assert not user.errors
        await until(lambda: user.errors, "the end, since nothing is taken any more")
        assert isinstance(user.errors[0], PeerSilentError)
        assert transport.aborted
        socket.connection_lost(None)

    run_async(main())


def test_time_in_which_nothing_is_read_does_not_count() -> None:
    async def main() -> None:
        socket, transport, user = open_socket()
        loop = asyncio.get_running_loop()
        transport.unsent = 1000
        socket.pause_reading()
        began_at_s = loop.time()
        await until(lambda: loop.time() - began_at_s > 3 * OPTIONS.silence_timeout_s)
        assert not user.errors
        socket.resume_reading()
        resumed_at_s = loop.time()
        await until(lambda: user.errors)
        assert loop.time() - resumed_at_s >= OPTIONS.silence_timeout_s
        socket.connection_lost(None)

    run_async(main())


def test_the_end_is_told_once() -> None:
    async def main() -> None:
        socket, transport, user = open_socket()
        closing = asyncio.create_task(socket.close())
        await until(lambda: user.errors)
        assert not closing.done()
        socket.send(b"too late")
        socket.flush()
        sent = transport.written
        socket.connection_lost(ConnectionResetError())
        await closing
        await socket.close()
        assert transport.written == sent
        (error,) = user.errors
        assert isinstance(error, PeerClosedError)
        assert "by us" in str(error)

    run_async(main())
