"""What goes wrong with another relay. Every text is fit for an operator and names the relay."""

__all__ = [
    "PeerClosedError",
    "PeerError",
    "PeerJunkError",
    "PeerRefusedError",
    "PeerSilentError",
    "PeerUnreachableError",
    "ReconcileRefusedError",
]


class PeerError(Exception):
    """Something with another relay failed; the text says what."""


class PeerUnreachableError(PeerError):
    """No connection came about: a bad URL, no address, nobody there, no TLS, or no answer to the handshake."""


class PeerClosedError(PeerError):
    """The connection is closed, by the other relay, on the way, or by us.

    Attributes:
        code: Of the close frame (RFC 6455 section 7.4); None if there was none.
    """

    def __init__(self, text: str, code: int | None = None) -> None:
        super().__init__(text)
        self.code = code


class PeerSilentError(PeerError):
    """The other relay did not answer, or took nothing, for too long.

    Attributes:
        awaited: What was waited for.
    """

    def __init__(self, text: str, awaited: str) -> None:
        super().__init__(text)
        self.awaited = awaited


class PeerRefusedError(PeerError):
    """The other relay does not want to.

    Attributes:
        reason: Its own words, without a leading `ERROR: `.
    """

    def __init__(self, text: str, reason: str) -> None:
        super().__init__(text)
        self.reason = reason


class ReconcileRefusedError(PeerRefusedError):
    """The other relay ended a reconciliation, or never began it; the connection goes on.

    Attributes:
        max_items: How large a set it would reconcile, if it said so (the fourth element of NEG-ERR, NIP-77).
    """

    def __init__(self, text: str, reason: str, max_items: int | None = None) -> None:
        super().__init__(text, reason)
        self.max_items = max_items


class PeerJunkError(PeerError):
    """The other relay does not keep to WebSocket (RFC 6455), or sends too much that is no message of NIP-01."""
