"""Pings on connections that say nothing: a server puts up with those of our channels for as long as they come."""

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import grpc
import pytest
from tests.component.rpc_world import PROBE, called, serving_probe, until
from tests.transport import run_async

import orly
from orly.rpc import channel, server
from orly.rpc.options import CHANNEL_OPTIONS, SERVER_OPTIONS
from orly.settings import Settings

PLAIN: Final = Settings()

FASTER: Final = 40
"""How much shorter the times between pings are here. gRPC's clients send one a second at the most."""

PINGS: Final = 6
"""A server that thinks they come too early ends the connection at the fourth."""

_PREFACE_BYTES: Final = 24
_HEAD_BYTES: Final = 9
_PING: Final = 6


def faster(options: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
    """The options with shorter times between pings; for an answer there is as much time as ever."""
    hurried = ("grpc.keepalive_time_ms", "grpc.http2.min_ping_interval_without_data_ms")
    return [(name, value // FASTER if name in hurried else value) for name, value in options]


@dataclass(slots=True)
class Line:
    """A proxy before a server.

    Attributes:
        address: Where it listens.
        connections: How many callers have come.
        pings: How many of theirs have passed.
    """

    address: str = ""
    connections: int = 0
    pings: int = 0
    _writers: list[asyncio.StreamWriter] = field(default_factory=list)

    async def carry(self, target: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection until an end of it closes."""
        self.connections += 1
        host, _, port = target.rpartition(":")
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        self._writers += [writer, far_writer]
        with suppress(OSError, asyncio.IncompleteReadError):
            await asyncio.gather(self._out(reader, far_writer), self._back(far_reader, writer))

    async def _out(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(_PREFACE_BYTES))
        while True:
            head = await reader.readexactly(_HEAD_BYTES)
            writer.write(head + await reader.readexactly(int.from_bytes(head[:3])))
            kind, flags = head[3], head[4]
            self.pings += kind == _PING and not flags  # flagged are answers

    async def _back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
        writer.close()

    async def close(self) -> None:
        """End all connections."""
        for writer in self._writers:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


@asynccontextmanager
async def before(target: str) -> AsyncIterator[Line]:
    """Puts a proxy before a server."""
    line = Line()
    listener = await asyncio.start_server(lambda *streams: line.carry(target, *streams), "127.0.0.1", 0)
    async with listener:
        line.address = f"127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        try:
            yield line
        finally:
            await line.close()


async def idle_stream(address: str) -> None:
    """A stream on which nothing is said stays open through many pings."""
    async with before(address) as line, channel.channel_from_settings(PLAIN, line.address) as caller:
        call = caller.stream_stream(f"/{PROBE}/Chat")()
        await call.write(b"x")
        assert await call.read() == b"x"
        await until(lambda: call.done() or line.pings >= PINGS)
        assert not call.done(), await call.details()
        await call.write(b"y")
        assert await call.read() == b"y"
        call.cancel()
        assert line.connections == 1


async def idle_connection(address: str) -> None:
    """So does a connection without any call."""
    ready = grpc.ChannelConnectivity.READY
    async with before(address) as line, channel.channel_from_settings(PLAIN, line.address) as caller:
        assert await called(caller, "One") == [b"x"]
        await until(lambda: caller.get_state() is not ready or line.pings >= PINGS)
        assert caller.get_state() is ready
        assert await called(caller, "One") == [b"x"]
        assert line.connections == 1


def test_nobody_is_punished_for_pings(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with AsyncExitStack() as stack:
            served, _ = await stack.enter_async_context(serving_probe(PLAIN))
            await asyncio.gather(idle_stream(served.address), idle_connection(served.address))

    monkeypatch.setattr(server, "SERVER_OPTIONS", faster(SERVER_OPTIONS))
    monkeypatch.setattr(channel, "CHANNEL_OPTIONS", faster(CHANNEL_OPTIONS))
    run_async(main())


def test_our_channels_do_not_ping_more_often_than_our_servers_allow() -> None:
    allowed = dict(SERVER_OPTIONS)["grpc.http2.min_ping_interval_without_data_ms"]
    assert dict(CHANNEL_OPTIONS)["grpc.keepalive_time_ms"] >= 2 * allowed


def is_known(name: str) -> bool:
    """Whether the installed gRPC has such an option; it takes any other without a word."""
    spec = find_spec("grpc._cython.cygrpc")
    assert spec is not None
    assert spec.origin is not None
    return re.search(rb"(?<![a-z_.])%b\0" % re.escape(name.encode()), Path(spec.origin).read_bytes()) is not None


def test_every_option_that_is_set_exists() -> None:
    sources = Path(orly.__file__).parent.rglob("*.py")
    named = {name for path in sources for name in re.findall(r'\("(grpc\.[a-z0-9_.]+)", ', path.read_text())}
    assert {name for name, _ in (*SERVER_OPTIONS, *CHANNEL_OPTIONS)} < named
    assert [name for name in sorted(named) if not is_known(name)] == []
    assert not is_known("grpc.http2.min_recv_ping_interval_without_data_ms")
