"""The HTTP protocol on a fake transport: bounds on a request head, and when its deadline starts again."""

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest
from tests.transport import rules
from tests.wsclient import until
from uvicorn import Config
from uvicorn.server import ServerState

from orly.relay.gate import Gate
from orly.relay.http_protocol import MAX_HEAD_BYTES, HttpProtocol, http_class

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n"


class FakeTransport:
    def __init__(self) -> None:
        self.written = b""
        self._closing = False

    def get_extra_info(self, name: str) -> Any:
        return {"peername": ("192.0.2.1", 5000), "sockname": ("192.0.2.2", 80)}.get(name)

    def write(self, data: bytes) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        self._closing = True

    def abort(self) -> None:
        self._closing = True

    def resume_reading(self) -> None:
        pass


async def answer(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


def on_loop(body: Callable[[HttpProtocol, FakeTransport], None], sockets: Gate | None = None) -> None:
    async def main() -> None:
        protocol, transport = connect(sockets or Gate(rules()))
        body(protocol, transport)
        protocol.connection_lost(None)

    asyncio.run(main())


def connect(sockets: Gate) -> tuple[HttpProtocol, FakeTransport]:
    transport = FakeTransport()
    config = Config(answer, ws="none", lifespan="off", log_config=None)
    protocol = http_class(sockets, 10.0)(config, ServerState(), {})
    protocol.connection_made(cast(asyncio.Transport, transport))
    return protocol, transport


@pytest.mark.parametrize("over", [0, 1])
def test_an_unfinished_head_at_the_bound(over: int) -> None:
    def body(protocol: HttpProtocol, transport: FakeTransport) -> None:
        protocol.data_received(REQUEST + b"X-Filler: ")
        missing = MAX_HEAD_BYTES - len(REQUEST + b"X-Filler: ") + over
        while missing:
            part = min(missing, 1000)
            assert transport.written == b""
            protocol.data_received(b"y" * part)
            missing -= part
        assert transport.is_closing() is bool(over)
        assert transport.written.startswith(b"HTTP/1.1 400") is bool(over)
        assert (b"larger than 65536 bytes" in transport.written) is bool(over)

    on_loop(body)


def test_what_waits_for_a_request_is_counted_until_the_socket_is_gone() -> None:
    sockets = Gate(rules(max_connections=1))

    def body(protocol: HttpProtocol, transport: FakeTransport) -> None:
        assert sockets.total == 1
        refused, refused_transport = connect(sockets)
        assert refused_transport.is_closing()
        refused.connection_lost(None)
        assert (sockets.total, transport.is_closing()) == (1, False)

    on_loop(body, sockets)
    assert sockets.total == 0


def test_the_deadline_starts_with_the_socket_and_again_after_each_answer() -> None:
    async def main() -> None:
        protocol, transport = connect(Gate(rules()))
        first = protocol._deadline
        assert first is not None
        protocol.data_received(REQUEST)
        assert protocol._deadline is first
        protocol.data_received(b"\r\n")
        await until(lambda: transport.written.endswith(b"ok"), "the answer")
        second = protocol._deadline
        assert second is not None
        assert second is not first
        assert (first.cancelled(), second.cancelled()) == (True, False)
        assert second.when() >= first.when()
        protocol.connection_lost(None)
        assert second.cancelled()

    asyncio.run(main())
