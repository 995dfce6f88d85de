"""The seam between a connection and its session: what each of them sees of the other."""

from collections.abc import Sequence
from typing import Protocol

__all__ = ["Peer", "Session"]


class Session(Protocol):
    """What understands the messages of one connection."""

    def receive(self, messages: list[bytes]) -> None:
        """Takes the text messages that arrived together, in order, each checked to be UTF-8."""

    def writable(self) -> None:
        """The reader has taken what was waiting for it: `Peer.can_write` is true again."""

    def closed(self) -> None:
        """The connection is gone; the last call."""

    @property
    def is_idle(self) -> bool:
        """True when there is no subscription and nothing under way, so that an idle connection may be closed."""


class Peer(Protocol):
    """What a session sees of its connection.

    Attributes:
        number: Names the connection in logs; unique in this process.
        remote_ip: Address of the client, seen through trusted proxies.
        host: Host the client asked for, with its port if it named one: a claim, not a proof.
        secure: Whether a trusted proxy says that the client uses TLS.
        opened_at: When the connection was made, in monotonic seconds.
        can_write: False while the reader is behind; `Session.writable` follows.
    """

    number: int
    remote_ip: str
    host: str
    secure: bool
    opened_at: float
    can_write: bool

    def send(self, payload: bytes) -> None:
        """Sends one text message (UTF-8 JSON)."""

    def send_frames(self, frames: Sequence[bytes]) -> None:
        """Sends text frames that are already framed and may be shared between connections."""

    def pause_reading(self) -> None:
        """Stops taking messages from the client; those already handed over stay with the session."""

    def resume_reading(self) -> None:
        """Takes messages again."""

    def close(self, code: int, reason: str) -> None:
        """Sends what is queued, then a close frame. Nothing can be sent afterwards."""
