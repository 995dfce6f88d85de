"""Many cheap WebSocket connections for load tests, and a client that checks all the while that the relay answers."""

import asyncio
import resource
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from typing import Final, Self, cast
from urllib.parse import urlsplit

import pytest
from tests.factory import event_fields, make_event
from tests.wsclient import DEADLINE_S, TEXT, connect, frame, until

__all__ = ["ANSWER_S", "Crowd", "Member", "Probe", "gathered", "open_files", "probing", "text"]

ANSWER_S: Final = 5.0
"""How long the relay may take to answer one client while it is under attack by others, on a busy machine."""

_GROUP: Final = 50
_numbers: Final = count()
_REMOTE_SEGMENT_BYTES: Final = 1400
_REMOTE_BUFFER_BYTES: Final = 8 * 1024


def text(message: str) -> bytes:
    """A masked text frame."""
    return frame(TEXT, message.encode())


@contextmanager
def open_files(wanted: int) -> Iterator[None]:
    """Lets this process open that many files while the block runs, and the processes it starts in there too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.fail(f"{wanted} open files are needed and the system allows {hard}: raise the hard limit (ulimit -Hn)")
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        yield
        return
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Member(asyncio.Protocol):
    """One connection that says what it is told and counts what it hears.

    Attributes:
        status: Of the answer to the handshake; 0 until it is there.
        received_bytes: After the handshake.
        tail: The last bytes received, enough for a close frame.
        lost: The socket is closed.
    """

    def __init__(self, host: str) -> None:
        self._host = host
        self._head = b""
        self._transport: asyncio.Transport | None = None
        self.answered = asyncio.get_running_loop().create_future()
        self.status = 0
        self.received_bytes = 0
        self.tail = b""
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(
            f"GET / HTTP/1.1\r\nHost: {self._host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )

    def data_received(self, data: bytes) -> None:
        if not self.status:
            self._head += data
            head, found, data = self._head.partition(b"\r\n\r\n")
            if not found:
                return
            self.status = int(head.split(b" ")[1])
            self.answered.set_result(None)
        self.received_bytes += len(data)
        self.tail = (self.tail + data)[-200:]

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if not self.answered.done():
            self.answered.set_exception(exc or ConnectionError("the relay closed the socket without an answer"))

    def send(self, data: bytes) -> None:
        """Queues bytes; a socket that is closed by now takes nothing."""
        assert self._transport is not None
        self._transport.write(data)

    def stop_reading(self) -> None:
        """Takes nothing more from the socket."""
        assert self._transport is not None
        self._transport.pause_reading()

    def go_on_reading(self) -> None:
        """Ends `stop_reading`."""
        assert self._transport is not None
        if not self.lost:
            self._transport.resume_reading()

    def leave(self) -> None:
        """Cuts the socket without a word."""
        assert self._transport is not None
        self._transport.abort()


class Crowd:
    """Connections that are opened and closed together.

    Args:
        url: Of the relay.
        is_remote: Whether segments and buffers are as small as far away. Those of loopback are so large that the
            system would take megabytes for each connection before the relay notices that nobody reads.
    """

    def __init__(self, url: str, *, is_remote: bool = False) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        self._address = (parts.hostname, parts.port)
        self._is_remote = is_remote
        self.members: list[Member] = []

    async def grow(self, number: int) -> Self:
        """Opens more connections; `status` of each says whether the relay took it."""
        for start in range(0, number, _GROUP):
            group = [self._open() for _ in range(min(_GROUP, number - start))]
            async with asyncio.timeout(DEADLINE_S):
                self.members += await asyncio.gather(*group)
        return self

    async def _open(self) -> Member:
        loop = asyncio.get_running_loop()
        sock = socket.socket(socket.AF_INET)
        sock.setblocking(False)
        if self._is_remote:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _REMOTE_BUFFER_BYTES)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, _REMOTE_SEGMENT_BYTES)
        try:
            await loop.sock_connect(sock, self._address)
        except BaseException:
            sock.close()
            raise
        _, member = await loop.create_connection(lambda: Member(f"{self._address[0]}:{self._address[1]}"), sock=sock)
        await member.answered
        return member

    def tell(self, data: bytes) -> None:
        """Every connection says this."""
        for member in self.members:
            member.send(data)

    async def heard(self, n_bytes: int) -> None:
        """Waits until each has received that much after its handshake."""
        await until(lambda: all(member.received_bytes >= n_bytes for member in self.members), f"{n_bytes} bytes each")

    async def lost(self) -> None:
        """Waits until the relay has closed every connection."""
        await until(lambda: all(member.lost for member in self.members), "the relay to close the connections")

    def count(self, status: int) -> int:
        """How many were answered with that status."""
        return sum(member.status == status for member in self.members)

    async def disperse(self) -> None:
        """Cuts every connection."""
        members, self.members = self.members, []
        for member in members:
            member.leave()
        await until(lambda: all(member.lost for member in members), "sockets to be closed")


@asynccontextmanager
async def gathered(url: str, number: int, *, is_remote: bool = False) -> AsyncIterator[Crowd]:
    """A crowd of that size that is gone afterwards, whatever happens."""
    crowd = Crowd(url, is_remote=is_remote)
    try:
        yield await crowd.grow(number)
    finally:
        await crowd.disperse()


class Probe:
    """A client with honest business: publishes, queries, and hears its own events live.

    Attributes:
        rounds: Complete ones so far.
        slowest_s: The longest that one round took.
    """

    def __init__(self) -> None:
        self.rounds = 0
        self.slowest_s = 0.0

    async def run(self, url: str) -> None:
        """Goes on until it is cancelled.

        Raises:
            AssertionError: An answer was wrong.
            TimeoutError: An answer took longer than `ANSWER_S`.
        """
        loop = asyncio.get_running_loop()
        async with connect(url) as client:
            await client.send("REQ", "live", {"authors": [make_event(7).event.pubkey], "limit": 0})
            assert await client.receive() == ["EOSE", "live"]
            while True:
                event = event_fields(make_event(7, content=f"probe {next(_numbers)}"))
                started_s = loop.time()
                async with asyncio.timeout(ANSWER_S):
                    await client.send("EVENT", event)
                    first, second = await client.receive(), await client.receive()
                    assert sorted([first, second], key=len) == [
                        ["EVENT", "live", event],
                        ["OK", event["id"], True, ""],
                    ]
                    await client.send("REQ", "q", {"ids": [event["id"]]})
                    assert await client.receive() == ["EVENT", "q", event]
                    assert await client.receive() == ["EOSE", "q"]
                    await client.send("CLOSE", "q")
                self.slowest_s = max(self.slowest_s, loop.time() - started_s)
                self.rounds += 1
                await asyncio.sleep(0.02)

    async def goes_on(self, rounds: int = 3) -> None:
        """Waits for some more complete rounds."""
        wanted = self.rounds + rounds
        await until(lambda: self.rounds >= wanted, "an honest client to be served")


@asynccontextmanager
async def probing(url: str) -> AsyncIterator[Probe]:
    """Runs a probe beside the block; what it finds wrong fails the block at its end, or at once when it waits."""
    probe = Probe()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(probe.run(url))
        yield probe
        await probe.goes_on()
        task.cancel()
