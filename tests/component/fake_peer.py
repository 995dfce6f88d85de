"""Another relay for tests, which says and does exactly what a script tells it; and a script that behaves well.

    async def script(peer: PeerSide) -> None:
        _, sub_id, _ = await peer.expect("REQ")
        await peer.send("EOSE", sub_id)

    async with scripted_peer(script) as url: ...

The script runs once for each connection. When it returns, the connection is closed with code 1000; when it raises, the
test fails, but not because the client has left. `FakeRelay(...).serve` is a script that keeps events, answers REQs by
ids and reconciles; override a method of it to misbehave in one point.
"""

import asyncio
import base64
import hashlib
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from struct import pack, unpack
from typing import Any, Final

from tests.wsclient import BINARY, CLOSE, CONTINUATION, DEADLINE_S, PING, PONG, TEXT

from orly.negentropy import ItemSet, Responder
from orly.nostr.event import EncodedEvent

__all__ = [
    "BINARY",
    "CLOSE",
    "CONTINUATION",
    "PING",
    "PONG",
    "TEXT",
    "ClientLeftError",
    "FakeRelay",
    "PeerSide",
    "Script",
    "event_frame",
    "frame",
    "scripted_peer",
    "text_frame",
]

_ACCEPT_SALT: Final = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_READ_LIMIT_BYTES: Final = 64 * 1024


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, masked: bool = False, reserved: int = 0) -> bytes:
    """One frame as a server sends it, or as none should."""
    head = (0x80 if fin else 0) | reserved | opcode
    mask_bit = 0x80 if masked else 0
    length = len(payload)
    if length < 126:
        header = pack("!BB", head, mask_bit | length)
    elif length < 1 << 16:
        header = pack("!BBH", head, mask_bit | 126, length)
    else:
        header = pack("!BBQ", head, mask_bit | 127, length)
    return header + (bytes(4) if masked else b"") + payload


def text_frame(*message: Any) -> bytes:
    """The frame of a message, given by its elements."""
    return frame(TEXT, json.dumps(message, separators=(",", ":"), ensure_ascii=False).encode())


def event_frame(sub_id: str, row: bytes) -> bytes:
    """The frame of an EVENT, given by its JSON."""
    return frame(TEXT, b'["EVENT",%b,%b]' % (json.dumps(sub_id).encode(), row))


class ClientLeftError(ConnectionError):
    """The client said goodbye; nothing is wrong with that."""


class PeerSide:
    """The server's end of one connection.

    Attributes:
        headers: Of the handshake request; names in lower case.
        path: Of the handshake request, with its query.
        log: Every text message received.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.headers: dict[str, str] = {}
        self.path = ""
        self.log: list[list[Any]] = []

    async def shake_hands(self, *, after: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        """Accepts the WebSocket; `after` goes out in the same write."""
        await self.read_request()
        key = self.headers["sec-websocket-key"]
        accept = base64.b64encode(hashlib.sha1((key + _ACCEPT_SALT).encode()).digest()).decode()
        lines = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Accept": accept, **(headers or {})}
        text = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        self.write(f"HTTP/1.1 101 Switching Protocols\r\n{text}\r\n".encode() + after)

    async def read_request(self) -> None:
        """Reads the handshake request and answers nothing."""
        async with asyncio.timeout(DEADLINE_S):
            head = await self._reader.readuntil(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        self.path = lines[0].split(" ")[1]
        for line in filter(None, lines[1:]):
            name, _, value = line.partition(":")
            self.headers[name.lower()] = value.strip()

    # What the client sends.

    async def receive_frame(self) -> tuple[int, bytes]:
        """Opcode and payload of the next frame, which must be masked, whole and shorter than any limit."""
        async with asyncio.timeout(DEADLINE_S):
            first, second = await self._reader.readexactly(2)
            assert first & 0xF0 == 0x80, "a whole frame without reserved bits was due"
            assert second & 0x80, "a client masks"
            length = second & 0x7F
            if length == 126:
                (length,) = unpack("!H", await self._reader.readexactly(2))
            elif length == 127:
                (length,) = unpack("!Q", await self._reader.readexactly(8))
            key = await self._reader.readexactly(4)
            payload = await self._reader.readexactly(length)
        whole_key = int.from_bytes((key * (length // 4 + 1))[:length])
        return first & 0x0F, (int.from_bytes(payload) ^ whole_key).to_bytes(length)

    async def receive(self) -> list[Any]:
        """The next message. Pings and a close frame are answered, pongs skipped.

        Raises:
            ClientLeftError: It was a close frame.
        """
        while True:
            opcode, payload = await self.receive_frame()
            if opcode == PING:
                self.write(frame(PONG, payload))
            elif opcode == CLOSE:
                self.write(frame(CLOSE, payload))
                raise ClientLeftError
            elif opcode != PONG:
                assert opcode == TEXT, f"a message was due, not opcode {opcode}: {payload!r}"
                message = json.loads(payload)
                assert isinstance(message, list)
                self.log.append(message)
                return message

    async def expect(self, kind: str) -> list[Any]:
        """The next message, which must be of that kind."""
        message = await self.receive()
        assert message[0] == kind, f"{kind} was due: {message!r:.200}"
        return message

    async def closed(self) -> int | None:
        """Skips messages up to the close frame of the client and answers it; its code, None if the socket ended."""
        try:
            while True:
                opcode, payload = await self.receive_frame()
                if opcode == CLOSE:
                    self.write(frame(CLOSE, payload))
                    return int.from_bytes(payload[:2]) if payload else None
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    async def ended(self) -> None:
        """Returns when the client has closed the socket."""
        try:
            async with asyncio.timeout(DEADLINE_S):
                while await self._reader.read(1 << 20):
                    pass
        except ConnectionError:
            pass

    # What the client gets.

    async def send(self, *message: Any) -> None:
        """Sends one message, given by its elements."""
        self.write(text_frame(*message))
        await self.drained()

    async def send_text(self, text: bytes) -> None:
        """Sends anything as one text message."""
        self.write(frame(TEXT, text))
        await self.drained()

    def write(self, data: bytes) -> None:
        """Queues bytes as they are."""
        self._writer.write(data)

    async def drained(self) -> None:
        """Returns when the client has taken nearly all."""
        async with asyncio.timeout(DEADLINE_S):
            await self._writer.drain()

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Sends a close frame and waits for the end."""
        self.write(frame(CLOSE, pack("!H", code) + reason.encode()))
        await self.closed()
        self._writer.close()

    def abort(self) -> None:
        """Cuts the connection."""
        self._writer.transport.abort()


Script = Callable[[PeerSide], Awaitable[None]]


@asynccontextmanager
async def scripted_peer(
    script: Script, *, shakes_hands: bool = True, tls: ssl.SSLContext | None = None
) -> AsyncIterator[str]:
    """Runs a peer on a free port of the loopback address; gives its URL.

    Args:
        script: What it does on each connection.
        shakes_hands: The script starts after the handshake.
        tls: Serves `wss`.
    """
    failures: list[BaseException] = []
    tasks: set[asyncio.Task[None]] = set()

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = PeerSide(reader, writer)
        try:
            if shakes_hands:
                await peer.shake_hands()
            await script(peer)
            if not writer.is_closing():
                await peer.close()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client has left
        except Exception as error:
            failures.append(error)
            writer.transport.abort()
        finally:
            writer.close()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.create_task(play(reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0, limit=_READ_LIMIT_BYTES, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    try:
        yield f"{'ws' if tls is None else 'wss'}://{'127.0.0.1' if tls is None else 'localhost'}:{port}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if failures:
            raise failures[0]


class FakeRelay:
    """A relay that behaves well, and keeps what it is sent.

    Attributes:
        events: JSON by id (hex).
        log: Every message received, of all connections.
        connections: Those that are open.
    """

    def __init__(self, events: Iterable[EncodedEvent] = ()) -> None:
        self.events = {event.event.id: event.raw for event in events}
        self.log: list[list[Any]] = []
        self.connections: list[PeerSide] = []
        self._sessions: dict[str, Responder] = {}

    async def serve(self, peer: PeerSide) -> None:
        """The script."""
        self.connections.append(peer)
        try:
            while True:
                message = await peer.receive()
                self.log.append(message)
                await self.handle(peer, message)
        finally:
            self.connections.remove(peer)

    async def handle(self, peer: PeerSide, message: list[Any]) -> None:
        """Answers one message."""
        match message:
            case ["REQ", str(sub_id), *filters]:
                await self.on_req(peer, sub_id, filters)
            case ["EVENT", dict(event)]:
                await self.on_event(peer, event)
            case ["NEG-OPEN", str(sub_id), dict(filter_), str(payload)]:
                await self.on_neg_open(peer, sub_id, filter_, bytes.fromhex(payload))
            case ["NEG-MSG", str(sub_id), str(payload)]:
                await self.on_neg_msg(peer, sub_id, bytes.fromhex(payload))
            case ["CLOSE" | "NEG-CLOSE", str()]:
                pass
            case _:
                raise AssertionError(f"unexpected message: {message!r:.200}")

    async def on_req(self, peer: PeerSide, sub_id: str, filters: list[Any]) -> None:
        """REQ: events by `ids` (all without), up to `until`, newest first, at most `limit`, then EOSE."""
        for row in self.matching(filters):
            peer.write(event_frame(sub_id, row))
            await peer.drained()
        await peer.send("EOSE", sub_id)

    def matching(self, filters: list[Any]) -> list[bytes]:
        """What a REQ finds: `ids`, `kinds`, `since`, `until` and `limit` are honoured, nothing else."""
        found: dict[str, bytes] = {}
        by_age = sorted(
            ((event, row) for row in self.events.values() for event in [json.loads(row)]),
            key=lambda pair: (-pair[0]["created_at"], pair[0]["id"]),
        )
        for filter_ in filters:
            ids = set(filter_.get("ids", self.events))
            hits = [
                (event["id"], row)
                for event, row in by_age
                if event["id"] in ids
                and ("kinds" not in filter_ or event["kind"] in filter_["kinds"])
                and filter_.get("since", 0) <= event["created_at"] <= filter_.get("until", 2**63)
            ]
            found.update(hits[: filter_.get("limit", len(hits))])
        return list(found.values())

    async def on_event(self, peer: PeerSide, event: dict[str, Any]) -> None:
        """EVENT: kept, then OK."""
        self.events[event["id"]] = json.dumps(event, separators=(",", ":"), ensure_ascii=False).encode()
        await peer.send("OK", event["id"], True, "")

    async def on_neg_open(self, peer: PeerSide, sub_id: str, filter_: dict[str, Any], message: bytes) -> None:
        """NEG-OPEN: a session over the set of that filter."""
        rows = [json.loads(row) for row in self.matching([filter_])]
        packed = b"".join(row["created_at"].to_bytes(8) + bytes.fromhex(row["id"]) for row in rows)
        self._sessions[sub_id] = self.responder(ItemSet.from_rows(packed))
        await self.on_neg_msg(peer, sub_id, message)

    def responder(self, items: ItemSet) -> Responder:
        """What answers a session over a set."""
        return Responder(items)

    async def on_neg_msg(self, peer: PeerSide, sub_id: str, message: bytes) -> None:
        """NEG-MSG: the answer of the session."""
        await peer.send("NEG-MSG", sub_id, self._sessions[sub_id].answer(message).hex())
