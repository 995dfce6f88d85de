"""The HTTP request that opens a WebSocket, and its answer (RFC 6455 section 4). Pure but for the random key."""

import logging
from collections.abc import Iterable
from typing import Final

from websockets.client import ClientProtocol
from websockets.exceptions import InvalidURI
from websockets.protocol import State
from websockets.uri import WebSocketURI, parse_uri

from orly.sync.peer_errors import PeerRefusedError, PeerUnreachableError

__all__ = ["Handshake", "because"]

_library_log = logging.getLogger("orly.sync.websocket")
_library_log.setLevel(logging.WARNING)  # it would write a line per header

_MAX_HEAD_BYTES: Final = 64 * 1024
_HEAD_END: Final = b"\r\n\r\n"
_MAX_SHOWN_CHARACTERS: Final = 200


class Handshake:
    """One handshake.

    Attributes:
        name: The URL without what may be secret in it: user, password and query.
        host: Where to connect to.
        port: Where to connect to.
        is_secure: TLS comes first.
    """

    __slots__ = ("_head", "_protocol", "host", "is_secure", "name", "port")

    def __init__(self, url: str) -> None:
        """Reads the URL.

        Raises:
            PeerUnreachableError: It is none of a relay.
        """
        try:
            uri = parse_uri(url)
        except (InvalidURI, ValueError) as error:
            raise PeerUnreachableError("this is no URL of a relay: it must look like wss://host/") from error
        self.name = _name(uri)
        self.host, self.port, self.is_secure = uri.host, uri.port, uri.secure
        self._protocol = ClientProtocol(uri, max_size=None, logger=_library_log)
        self._head = b""

    def request(self, user_agent: str, headers: Iterable[tuple[str, str]]) -> bytes:
        """What to send. No extension is offered."""
        request = self._protocol.connect()
        request.headers["User-Agent"] = user_agent
        for name, value in headers:
            request.headers[name] = value
        self._protocol.send_request(request)
        return b"".join(self._protocol.data_to_send())

    def take(self, data: bytes) -> bytes | None:
        """Takes what was read; returns what came after the answer, None while it is not complete.

        Raises:
            PeerRefusedError: It is no WebSocket.
        """
        self._head += data
        end = self._head.find(_HEAD_END)
        if end < 0 and len(self._head) <= _MAX_HEAD_BYTES:
            return None
        if end < 0 or end > _MAX_HEAD_BYTES:
            raise self._refused(f"its answer has more than {_MAX_HEAD_BYTES} bytes of headers")
        head, rest = self._head[: end + len(_HEAD_END)], self._head[end + len(_HEAD_END) :]
        version, _, status = head.split(b"\r\n", 1)[0].decode(errors="replace").partition(" ")
        if version.startswith("HTTP/") and not status.startswith("101"):
            page = b"" if rest.lstrip().startswith(b"<") else rest  # nobody reads HTML in a log line
            raise self._refused(f"HTTP {_shown(status)}{because(page.decode(errors='replace'))}")
        self._protocol.receive_data(head)
        if self._protocol.state is not State.OPEN:
            raise self._refused(f"its answer is no WebSocket handshake{because(self._protocol.handshake_exc)}")
        return rest

    def _refused(self, reason: str) -> PeerRefusedError:
        return PeerRefusedError(f"{self.name} refused the WebSocket: {reason}", reason)


def _name(uri: WebSocketURI) -> str:
    host = f"[{uri.host}]" if ":" in uri.host else uri.host
    port = "" if uri.port == (443 if uri.secure else 80) else f":{uri.port}"
    return f"{'wss' if uri.secure else 'ws'}://{host}{port}{uri.path.rstrip('/')}"


def because(cause: object) -> str:
    """`: <cause>` as it may stand in a log line, empty if there is nothing to say; causes may be another's words."""
    text = _shown(str(cause)) if cause else ""
    return f": {text}" if text else ""


def _shown(text: str) -> str:
    line = " ".join(text.split())
    return "".join(character for character in line if character.isprintable())[:_MAX_SHOWN_CHARACTERS]
