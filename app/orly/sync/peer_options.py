"""What a connection to another relay may take, and who we say we are."""

from dataclasses import dataclass, field
from ssl import SSLContext

__all__ = ["PeerCounters", "PeerOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerOptions:
    """Limits of one connection.

    Attributes:
        connect_timeout_s: From the look-up of the name to the end of the handshake.
        silence_timeout_s: No frame at all comes, or nothing that we send is taken. We ping after a third of it.
        answer_timeout_s: Frames come, but not what is awaited: a peer may need long to gather a large set.
        auth_timeout_s: From a refusal for want of authentication (NIP-42) to the challenge and the answer to ours.
        close_timeout_s: How long the other side may take over the close handshake.
        max_message_bytes: The largest message that is taken; one that is larger ends the connection.
        max_junk_messages: More messages than these that are none of NIP-01 end the connection.
        auth_key: Secret key (32 bytes) that answers challenges; None = they are not answered.
        user_agent: Who we say we are.
        headers: Sent with the handshake besides, for proxies that want them.
        tls: For `wss`; None = what the system trusts.
    """

    connect_timeout_s: float = 10.0
    silence_timeout_s: float = 60.0
    answer_timeout_s: float = 180.0
    auth_timeout_s: float = 10.0
    close_timeout_s: float = 3.0
    max_message_bytes: int = 9 * 1024 * 1024
    max_junk_messages: int = 100
    auth_key: bytes | None = field(default=None, repr=False)
    user_agent: str = "ORLY"
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    tls: SSLContext | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerCounters:
    """What one connection has done so far.

    Attributes:
        bytes_sent: Given to the socket, handshake included.
        bytes_received: Read from the socket, handshake included.
        messages_sent: Text messages.
        messages_received: Text messages, junk included.
        junk_messages: Messages that are none of NIP-01.
        unexpected_messages: Messages and events of subscriptions, and answers to events, that nobody awaited.
    """

    bytes_sent: int
    bytes_received: int
    messages_sent: int
    messages_received: int
    junk_messages: int
    unexpected_messages: int
