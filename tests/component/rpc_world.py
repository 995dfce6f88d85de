"""A gRPC service of four methods, one of each kind, on our server; and certificates for it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc

from orly import clock
from orly.rpc.certs import Authority, Issued, load_authority, make_authority
from orly.rpc.channel import ServiceChannel, channel_from_settings
from orly.rpc.server import RpcServer, server_from_settings
from orly.settings import Settings

__all__ = [
    "ABORT",
    "ANSWERS",
    "DAY_S",
    "DEADLINE_S",
    "KINDS",
    "PROBE",
    "TOKEN",
    "Certificates",
    "Probe",
    "add_probe",
    "called",
    "refusal",
    "serving_probe",
    "until",
]

PROBE: Final = "probe.v1.Probe"
TOKEN: Final = "correct-horse-battery"
DAY_S: Final = 24 * 60 * 60
DEADLINE_S: Final = 20.0
KINDS: Final = ("One", "Many", "Gather", "Chat")
"""The methods: unary, answers streamed, requests streamed, both."""
ABORT: Final = (grpc.StatusCode.NOT_FOUND, "as asked for")
"""How a call ends that sends `abort`, if its answers are not streamed."""

_Context = grpc.aio.ServicerContext[Any, Any]


class Probe:
    """Answers with what it was sent; counts the calls that reached it."""

    def __init__(self) -> None:
        self.calls = 0
        self.hold = asyncio.Event()
        self.hold.set()

    async def one(self, request: bytes, context: _Context) -> bytes:
        self.calls += 1
        if request == b"abort":
            await context.abort(*ABORT)
        if request == b"raise":
            raise RuntimeError("as asked for")
        await self.hold.wait()
        return request

    async def many(self, request: bytes, context: _Context) -> AsyncIterator[bytes]:
        self.calls += 1
        for number in range(3):
            await self.hold.wait()
            yield request + bytes([number])

    async def gather(self, requests: AsyncIterator[bytes], context: _Context) -> bytes:
        self.calls += 1
        parts = []
        async for request in requests:
            if request == b"abort":
                await context.abort(*ABORT)
            parts.append(request)
        return b"".join(parts)

    async def chat(self, requests: AsyncIterator[bytes], context: _Context) -> None:
        """By reading and writing, not as a generator."""
        self.calls += 1
        async for request in requests:
            await context.write(request)


def add_probe(probe: Probe, server: grpc.aio.Server) -> None:
    """What protoc would generate."""
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(
                PROBE,
                {
                    "One": grpc.unary_unary_rpc_method_handler(probe.one),
                    "Many": grpc.unary_stream_rpc_method_handler(probe.many),
                    "Gather": grpc.stream_unary_rpc_method_handler(probe.gather),
                    "Chat": grpc.stream_stream_rpc_method_handler(probe.chat),
                },
            ),
        )
    )


@asynccontextmanager
async def serving_probe(
    settings: Settings, listen: str = "127.0.0.1:0", *, audited: Collection[str] = (), max_concurrent: int | None = None
) -> AsyncIterator[tuple[RpcServer, Probe]]:
    """A server with the settings' safety that says SERVING."""
    probe = Probe()
    server = server_from_settings(settings, listen, audited=audited, max_concurrent=max_concurrent)
    server.add(add_probe, probe, PROBE)
    await server.start()
    try:
        server.set_serving(True)
        yield server, probe
    finally:
        probe.hold.set()
        await server.stop(0)


async def called(channel: ServiceChannel, kind: str, request: bytes = b"x") -> list[bytes]:
    """The answers to one call of a kind."""
    path = f"/{PROBE}/{kind}"
    match kind:
        case "One":
            return [await channel.unary_unary(path)(request)]
        case "Many":
            return [answer async for answer in channel.unary_stream(path)(request)]
        case "Gather":
            return [await channel.stream_unary(path)(iter((request, request)))]
        case _:
            return [answer async for answer in channel.stream_stream(path)(iter((request, request)))]


ANSWERS: Final = {"One": [b"x"], "Many": [b"x\0", b"x\1", b"x\2"], "Gather": [b"xx"], "Chat": [b"x", b"x"]}


async def refusal(settings: Settings, address: str, kind: str = "One") -> tuple[grpc.StatusCode, str] | None:
    """Status and text with which a call fails; None if it succeeds.

    A stream of requests is opened and nothing is written: when a write meets the end of the stream, gRPC reports its
    failure in place of the status that the server gave.
    """
    async with channel_from_settings(settings, address) as channel, asyncio.timeout(DEADLINE_S):
        if kind in ("Gather", "Chat"):
            await channel.channel_ready()
            make = channel.stream_unary if kind == "Gather" else channel.stream_stream
            call = make(f"/{PROBE}/{kind}")()
            return await call.code(), await call.details()
        try:
            assert await called(channel, kind) == ANSWERS[kind]
        except grpc.aio.AioRpcError as error:
            return error.code(), error.details() or ""
    return None


async def until(condition: Callable[[], bool]) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.01)


@dataclass(frozen=True, slots=True)
class Certificates:
    """An authority in a directory, and the settings for what it signs."""

    directory: Path
    authority: Authority

    @classmethod
    def make(cls, directory: Path, *, days_ago: int = 30) -> "Certificates":
        """A new one, which has been valid for some days."""
        directory.mkdir()
        now_s = clock.now_s() - days_ago * DAY_S
        issued = make_authority(now_s=now_s)
        (directory / "ca.pem").write_bytes(issued.certificate_pem)
        return cls(directory, load_authority(issued, now_s))

    def server(self, name: str = "server", hosts: Sequence[str] = (), *, now_s: int | None = None) -> dict[str, Any]:
        """Variables for a service with a certificate that is valid for one day from `now_s`."""
        return self._write(name, "", self.authority.issue_server(hosts, now_s=now_s or clock.now_s(), days=1))

    def client(self, name: str = "client", *, now_s: int | None = None) -> dict[str, Any]:
        """The same for a caller."""
        return self._write(name, "client_", self.authority.issue_client(name, now_s=now_s or clock.now_s(), days=1))

    def trust(self) -> dict[str, Any]:
        """Variables that trust this authority."""
        return {"grpc_tls_ca": str(self.directory / "ca.pem")}

    def _write(self, name: str, which: str, issued: Issued) -> dict[str, Any]:
        certificate, key = self.directory / f"{name}.pem", self.directory / f"{name}.key"
        certificate.write_bytes(issued.certificate_pem)
        key.write_bytes(issued.key_pem)
        return {f"grpc_tls_{which}cert": str(certificate), f"grpc_tls_{which}key": str(key)}
