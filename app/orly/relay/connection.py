"""One WebSocket connection: handshake, messages in, back-pressure and close. It knows nothing of Nostr."""

import asyncio
import logging
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from websockets.frames import BINARY, CONT, TEXT, CloseCode, Frame
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.server import ServerProtocol

from orly.relay.gate import Address, parse_address
from orly.relay.hub import Hub
from orly.relay.keepalive import Watched
from orly.relay.peer import Peer, Session

if TYPE_CHECKING:
    from uvicorn import Config
    from uvicorn.server import ServerState

__all__ = ["Connection", "Peer", "Session", "connection_class"]

_log = logging.getLogger(__name__)
_protocol_log = logging.getLogger("orly.relay.websocket")
_protocol_log.setLevel(logging.WARNING)  # it would write a line per frame, with the frame's content

_MAX_CONTROL_BYTES: Final = 125
_MAX_REASON_BYTES: Final = 123
_PIECE_BYTES: Final = 16 * 1024
_MAX_FRAMES_PER_TURN: Final = 1024
_SMALL_UNFINISHED_BYTES: Final = 64 * 1024

# Why reading is held: bits, since each is ended by whoever set it.
_BY_SESSION: Final = 1
_BY_BACKLOG: Final = 2
_BY_UNREAD: Final = 4
_BY_STOP: Final = 8


class _WebSocket(ServerProtocol):
    """The library's protocol with the message limit left to us.

    The library counts a ping inside a fragmented message towards that message, so its own limit has room for one.
    """

    def __init__(self, max_message_bytes: int) -> None:
        super().__init__(max_size=max_message_bytes + _MAX_CONTROL_BYTES, logger=_protocol_log)
        self.max_message_bytes = max_message_bytes

    def fail(self, code: CloseCode | int, reason: str = "") -> None:
        if code == CloseCode.MESSAGE_TOO_BIG:
            reason = f"message larger than the limit of {self.max_message_bytes} bytes"
        super().fail(code, reason)


class Connection(Watched):
    """The protocol class that uvicorn hands an upgraded socket to; use `connection_class` to bind it to a hub.

    `websockets` parses, unmasks and answers control frames without touching the socket; this class moves bytes between
    it and the transport, assembles messages, and enforces what the library leaves open: UTF-8, text only, back-pressure
    and every time limit.
    """

    __slots__ = (
        "_address",
        "_holds",
        "_message",
        "_server_state",
        "_session",
        "_unread",
        "_ws",
        "host",
        "number",
        "opened_at",
        "remote_ip",
        "secure",
        "unfinished_bytes",
    )

    def __init__(self, config: "Config", server_state: "ServerState", app_state: dict[str, Any]) -> None:
        super().__init__()
        self._server_state = server_state
        self._ws = _WebSocket(self.hub.limits.max_message_bytes)
        self._session: Session | None = None
        self._address: Address | None = None
        self._message: bytearray | None = None
        self._unread: bytes = b""
        self._holds = 0
        self.unfinished_bytes = 0
        self.number = 0
        self.remote_ip = self.host = ""
        self.secure = False
        self.opened_at = self.hub.clock()

    # The socket opens and closes.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called with the socket of the HTTP protocol, before the handshake request."""
        super().connection_made(transport)
        self.number = self.hub.add(self)
        self._server_state.connections.add(self)  # type: ignore[arg-type]  # uvicorn lists its own classes only

    def connection_lost(self, exc: Exception | None) -> None:
        """Called once the socket is closed, by whichever side."""
        self._open = False
        self._discard_queue()
        self._unread = b""
        self._message = None
        self.hub.count_backlog(self, 0)
        self.hub.count_unfinished(self, 0)
        self.hub.discard(self)
        self._server_state.connections.discard(self)
        # The library's object refers to itself, by its parser and by the tracebacks of what it caught; without this
        # only the garbage collector frees it, with all the input it holds.
        self._ws.parser.close()
        self._ws.parser_exc = self._ws.handshake_exc = None
        if self._address is not None:
            self.hub.gate.release(self._address)
            self._address = None
        session, self._session = self._session, None
        if session is not None:
            _log.debug("connection %d from %s is closed", self.number, self.remote_ip)
            session.closed()

    def eof_received(self) -> None:
        """The client will send nothing more: what is queued is written, then the transport closes itself."""
        self._ws.receive_eof()
        self._send_control(self._ws.data_to_send())
        self.flush()

    # Handshake.

    def _shake_hands(self, head: bytes) -> None:
        ws = self._ws
        ws.receive_data(head)
        events = ws.events_received()
        if events and isinstance(events[0], Request):
            ws.send_response(self._answer(events[0]))
        reply = ws.data_to_send()
        if ws.handshake_exc is not None and reply == [b""]:
            # The library ends the stream without a word when it cannot read the request at all.
            cause = ws.handshake_exc.__cause__ or ws.handshake_exc
            refusal = ws.reject(HTTPStatus.BAD_REQUEST, f"This is no WebSocket handshake: {cause}.\n")
            reply = [refusal.serialize(), b""]
        self._send_control(reply)
        if ws.state is not State.OPEN:
            self._set_close_deadline()
            return
        self._open = True
        _log.debug("connection %d from %s is open", self.number, self.remote_ip)
        try:
            self._session = self.hub.make_session(self)
        except BaseException:
            self.connection_lost(None)  # the loop still knows the HTTP protocol only and would not call this
            raise

    def _answer(self, request: Request) -> Response:
        ws, gate = self._ws, self.hub.gate
        peername = self._transport.get_extra_info("peername")
        peer = parse_address(peername[0]) if peername else None
        if peer is None:
            return ws.reject(HTTPStatus.BAD_REQUEST, "The address of this socket is unknown.\n")
        if len(request.headers.get_all("Host")) != 1:
            return ws.reject(HTTPStatus.BAD_REQUEST, "A request needs exactly one Host header.\n")
        if request.path.partition("?")[0] != "/":
            return ws.reject(HTTPStatus.NOT_FOUND, "The relay answers on / only.\n")
        if self.hub.stopping:
            return ws.reject(HTTPStatus.SERVICE_UNAVAILABLE, "This relay is stopping.\n")
        response = ws.accept(request)
        if response.status_code != HTTPStatus.SWITCHING_PROTOCOLS:
            return response
        caller = gate.identify(peer, request.headers.get_all)
        refusal = gate.admit(caller.address)
        if refusal is not None:
            _log.debug("connection %d from %s is refused: %s", self.number, caller.address, refusal.reason)
            return ws.reject(refusal.status, f"{refusal.reason}\n")
        self._address = caller.address
        self.remote_ip, self.host, self.secure = str(caller.address), caller.host, caller.secure
        return response

    # Inbound.

    def data_received(self, data: bytes) -> None:
        """Called by the loop with what the socket gave; by uvicorn with the request head first."""
        self._heard_at_s = self.hub.now_s
        if self._session is None:
            if self._ws.state is State.CONNECTING and not self._ends:
                self._shake_hands(data)
            return
        if self._ends:
            return  # the stream has ended for us; the client is only given time to read why
        messages: list[bytes] = []
        if len(data) <= _PIECE_BYTES:
            refusal, _ = self._take(data, messages)
        else:
            refusal = self._take_pieces(data, messages)
        self._deliver(messages, refusal)

    def _take_pieces(self, data: bytes, messages: list[bytes]) -> tuple[int, str] | None:
        """Feeds a large read in pieces and leaves the rest for the next turn when it holds very many frames.

        A read of 256 KiB can be 43,000 empty frames; parsed in one go they would stop every other client meanwhile.
        """
        frames = 0
        for start in range(0, len(data), _PIECE_BYTES):
            refusal, seen = self._take(data[start : start + _PIECE_BYTES], messages)
            if refusal is not None or self._ends:
                return refusal
            frames += seen
            if frames >= _MAX_FRAMES_PER_TURN and start + _PIECE_BYTES < len(data):
                self._unread = data[start + _PIECE_BYTES :]
                self._hold(_BY_UNREAD)
                self.hub.call_soon(self._take_unread)
                break
        return None

    def _take_unread(self) -> None:
        if self._holds == _BY_UNREAD:
            data, self._unread = self._unread, b""
            self._release(_BY_UNREAD)
            if self._session is not None:
                self.data_received(data)

    def _take(self, data: bytes, messages: list[bytes]) -> tuple[tuple[int, str] | None, int]:
        """Parses bytes and appends the finished messages.

        Returns:
            Close code and reason when the connection must fail, else None; and how many frames were seen.
        """
        ws = self._ws
        ws.receive_data(data)
        events = ws.events_received()
        for frame in events:
            if not isinstance(frame, Frame):
                continue
            if frame.opcode is TEXT and frame.fin:
                payload = bytes(frame.data)
            elif frame.opcode is TEXT:
                self._message = bytearray(frame.data)
                continue
            elif frame.opcode is CONT and self._message is not None:
                self._message += frame.data
                if not frame.fin and len(self._message) <= ws.max_message_bytes:
                    continue
                payload, self._message = bytes(self._message), None
            elif frame.opcode is BINARY:
                return (CloseCode.UNSUPPORTED_DATA, "binary messages are not understood, send text"), len(events)
            else:
                continue
            if len(payload) > ws.max_message_bytes:
                return (CloseCode.MESSAGE_TOO_BIG, ""), len(events)
            if not payload.isascii():
                try:
                    payload.decode()
                except UnicodeDecodeError as error:
                    return (CloseCode.INVALID_DATA, f"not UTF-8 at byte {error.start} of the message"), len(events)
            messages.append(payload)
        unfinished = len(ws.reader.buffer) + (0 if self._message is None else len(self._message))
        if unfinished > _SMALL_UNFINISHED_BYTES or self.unfinished_bytes:
            self.hub.count_unfinished(self, unfinished if unfinished > _SMALL_UNFINISHED_BYTES else 0)
        return None, len(events)

    def _deliver(self, messages: list[bytes], refusal: tuple[int, str] | None) -> None:
        """Hands messages over before anything the parser has to say, so that replies precede a close frame."""
        if messages and self._open and self._session is not None:
            self.message_at_s = self.hub.now_s
            self._session.receive(messages)
        if refusal is not None and self._ws.state is State.OPEN:
            self._ws.fail(*refusal)
        if self._open and self._ws.state is not State.OPEN:
            self._start_close()
        elif control := self._ws.data_to_send():
            self._send_control(control)

    def pause_reading(self) -> None:
        """Stops reading for the session; see `Peer`."""
        self._hold(_BY_SESSION)

    def resume_reading(self) -> None:
        """Ends `pause_reading`."""
        self._release(_BY_SESSION)

    def _hold(self, why: int) -> None:
        if not self._holds:
            self._transport.pause_reading()
        self._holds |= why

    def _release(self, why: int) -> None:
        if self._holds & why:
            self._holds &= ~why
            self._heard_at_s = self.hub.now_s
            if self._holds == _BY_UNREAD:
                self.hub.call_soon(self._take_unread)
            elif not self._holds and not self._transport.is_closing():
                self._transport.resume_reading()

    # Outbound; the rest is in Outbox.

    def _on_backlog(self, pending_bytes: int) -> None:
        limit = self.hub.limits.max_send_backlog_bytes
        if pending_bytes > limit:
            self._drop_slow_reader(pending_bytes)
        elif pending_bytes > limit // 2:
            # Requests whose answers are not read need not be taken: the client waits instead of being dropped.
            self._hold(_BY_BACKLOG)
        elif pending_bytes < limit // 4:
            self._release(_BY_BACKLOG)

    def _drop_slow_reader(self, pending_bytes: int) -> None:
        if not self._open:
            return
        _log.info("connection %d from %s reads too slowly: %d bytes wait", self.number, self.remote_ip, pending_bytes)
        self._discard_queue()
        self.close(CloseCode.POLICY_VIOLATION, "reading too slowly")

    def _on_writable(self) -> None:
        if self.can_write and self._open and self._session is not None:
            self._session.writable()

    # Closing.

    def close(self, code: int, reason: str) -> None:
        """Sends what is queued, then a close frame; the socket is cut if that takes too long."""
        if self._open and self._ws.state is State.OPEN:
            self._ws.send_close(code, _shortened(reason))
            self._start_close()

    def stop_reading(self) -> None:
        """Takes no more messages for good, so that the work under way comes to an end; `shutdown` follows."""
        if self._open:
            self._hold(_BY_STOP)

    def shutdown(self) -> None:
        """Called when the server stops."""
        self.close(CloseCode.GOING_AWAY, "relay is stopping")

    def refuse_unfinished(self) -> None:
        """Ends a connection whose unfinished message is the largest when all of them together hold too much."""
        if self._ws.state is State.OPEN:
            self._message = None
            self._ws.fail(CloseCode.TRY_AGAIN_LATER, "too many large messages are arriving at once")
            self._start_close()
        self.hub.count_unfinished(self, 0)

    def _start_close(self) -> None:
        """Queues what the library has to say last, stops everything else, and reads on to see the client's answer."""
        self._open = False
        self._send_control(self._ws.data_to_send())
        self._set_close_deadline()
        for why in (_BY_BACKLOG, _BY_SESSION, _BY_STOP):
            self._release(why)

    def _on_end(self) -> None:
        """Ends the stream after the last byte is written.

        After a complete close handshake, or a refused one, nothing can be on its way to us and the socket is closed.
        Otherwise it is only half-closed: closing with unread input would reset the connection, and the reset could
        overtake the close frame that says why.
        """
        if self._ws.close_rcvd is not None or self._session is None:
            self._transport.close()
        else:
            self._transport.write_eof()

    # What the keep-alive asks.

    def _listens(self) -> bool:
        return not self._holds

    def _is_idle(self) -> bool:
        return self._session is not None and self._session.is_idle

    def _on_stuck(self) -> None:
        _log.info("connection %d from %s reads nothing: cut off", self.number, self.remote_ip)

    def _ping(self) -> None:
        self._ws.send_ping(b"")
        self._send_control(self._ws.data_to_send())


def connection_class(hub: Hub) -> type[Connection]:
    """The class to give to uvicorn: connections that belong to `hub`."""

    class BoundConnection(Connection):
        __slots__ = ()

    BoundConnection.hub = hub
    return BoundConnection


def _shortened(reason: str) -> str:
    """A close reason cut to what a close frame can carry, between characters."""
    return reason.encode()[:_MAX_REASON_BYTES].decode(errors="ignore")
