"""What the relay asks of whoever reconciles sets for its clients (NIP-77): this process, or a service.

The relay decides who may ask and hands over a query with that reader's scope; the set is what this query would be
answered with, without a limit of the relay's own.
"""

from typing import Protocol

from orly.store.base import Query

__all__ = ["NegRefusedError", "SetServer"]


class NegRefusedError(Exception):
    """A reconciliation cannot begin or go on; it is closed.

    Attributes:
        word: What NEG-ERR begins with: `blocked`, `closed`, or one of NIP-01's.
        max_items: How many events a set may have, when that was the reason (NIP-77: the fourth element).
    """

    def __init__(self, word: str, detail: str, max_items: int | None = None) -> None:
        super().__init__(f"{word}: {detail}")
        self.word = word
        self.max_items = max_items


class SetServer(Protocol):
    """Sessions by connection and subscription id; used from one event loop."""

    async def open(self, connection_id: str, sub_id: str, query: Query, message: bytes) -> bytes:
        """Begin: fix the set, and answer the first message. One that is open under the same ids is replaced.

        Raises:
            NegRefusedError: The set is too large, there are too many sessions, the message is malformed, or whoever
                is needed failed.
        """

    async def go_on(self, connection_id: str, sub_id: str, message: bytes) -> bytes:
        """Answer the next message.

        Raises:
            NegRefusedError: As `open`; also when no such session is open, or not any more.
        """

    def close(self, connection_id: str, sub_id: str) -> None:
        """End a session; one that is not open is no error."""

    def gone(self, connection_id: str) -> None:
        """End all sessions of a connection."""
