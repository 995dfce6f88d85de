"""HTTP/1.1 on the relay's port: uvicorn's protocol, with bounds on what a socket may cost before it asks anything."""

import asyncio
from typing import Any, ClassVar, Final, cast

from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from orly.relay.gate import Address, Gate, parse_address
from orly.relay.http_endpoint import PATIENCE

__all__ = ["MAX_HEAD_BYTES", "HttpProtocol", "http_class"]

MAX_HEAD_BYTES: Final = 64 * 1024
"""How much of a request head is read before the end of it must have been seen."""


class HttpProtocol(HttpToolsProtocol):
    """A socket before, and without, an upgrade to WebSocket.

    A socket must complete a request within `request_timeout_s`, counted from its opening or from the end of the
    last response, or it is cut; every answer of this server is immediate, so only a client that dawdles is hit. Sockets
    over the caps of `sockets` are cut without an answer, since answering would cost what the cap saves.
    """

    request_timeout_s: ClassVar[float]
    sockets: ClassVar[Gate]

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._address: Address | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._reads_head = False
        self._head_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Counts the socket and starts its deadline, or cuts it."""
        stream = cast(asyncio.Transport, transport)
        peername = stream.get_extra_info("peername")
        address = parse_address(peername[0]) if peername else None
        super().connection_made(stream)
        if address is None or self.sockets.admit(address) is not None:
            stream.abort()
            return
        self._address = address
        self._restart_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets the socket."""
        self._let_go()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Feeds the parser, which knows no bound on the size of a request head by itself."""
        super().data_received(data)
        if self._reads_head:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
                self.send_400_response(f"The request head is larger than {MAX_HEAD_BYTES} bytes.")

    def on_message_begin(self) -> None:
        """Called by the parser at the first byte of a request."""
        self._reads_head = True
        self._head_bytes = 0
        super().on_message_begin()
        self.scope["extensions"] = {PATIENCE: self._be_patient}  # type: ignore[dict-item]

    def on_headers_complete(self) -> None:
        """Called by the parser at the end of a request head."""
        self._reads_head = False
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        """Called when an answer is written; the next request has the full time again."""
        super().on_response_complete()
        if self._address is not None:
            self._restart_deadline()

    def handle_websocket_upgrade(self) -> None:
        """Hands the socket over, which from then on is the WebSocket connection's."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.send_400_response("An upgrade may not overtake the answer to an earlier request.")
            return
        self._let_go()
        super().handle_websocket_upgrade()
        # It holds this object, which holds the socket: a circle that only the garbage collector would open, long
        # after the client has gone, with everything that still waited in the socket.
        self.parser = None  # type: ignore[assignment]

    def _be_patient(self, is_patient: bool) -> None:
        """Called by who answers, and watches the client itself: no deadline holds until the answer is over."""
        if not is_patient:
            if self._deadline is None and self._address is not None:
                self._restart_deadline()
        elif self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _restart_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self.loop.call_later(self.request_timeout_s, self._on_deadline)

    def _on_deadline(self) -> None:
        self.transport.abort()

    def _let_go(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if self._address is not None:
            self.sockets.release(self._address)
            self._address = None


def http_class(sockets: Gate, request_timeout_s: float) -> type[HttpProtocol]:
    """The class to give to uvicorn.

    Args:
        sockets: Counts sockets that are not WebSocket connections, by the address of the socket itself.
        request_timeout_s: How long a socket may take to get one request answered.
    """

    class BoundHttpProtocol(HttpProtocol):
        pass

    BoundHttpProtocol.sockets = sockets
    BoundHttpProtocol.request_timeout_s = request_timeout_s
    return BoundHttpProtocol
