"""What a test gives a `PeerConnection` to answer into, and how it opens one."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from tests.component.fake_peer import PeerSide, Script, scripted_peer
from tests.factory import NOW_S
from tests.wsclient import until

from orly.nostr.event import EncodedEvent
from orly.sync.peer import PeerConnection, PeerOptions

__all__ = ["QUICK", "Answers", "Sink", "connected", "pairs", "say_ok"]

QUICK: Final = PeerOptions(silence_timeout_s=0.2, answer_timeout_s=0.2, auth_timeout_s=0.2, close_timeout_s=0.2)
"""Limits for tests in which one of them ends the wait. A connection has its usual time to come about."""


class Sink:
    """Keeps what a REQ brings.

    Attributes:
        calls: How many events each call brought.
    """

    def __init__(self) -> None:
        self.rows: list[bytes] = []
        self.calls: list[int] = []
        self.ends: list[str | None] = []

    def events(self, rows: list[bytes]) -> None:
        self.rows += rows
        self.calls.append(len(rows))

    def ended(self, reason: str | None) -> None:
        self.ends.append(reason)


class Answers:
    """Keeps what became of published events."""

    def __init__(self) -> None:
        self.all: list[tuple[bytes, bool, str]] = []
        self.calls = 0

    def __call__(self, answers: Sequence[tuple[bytes, bool, str]]) -> None:
        self.all += answers
        self.calls += 1


def pairs(*events: EncodedEvent) -> list[tuple[bytes, bytes]]:
    """Events as `publish` takes them."""
    return [(event.id, event.raw) for event in events]


async def say_ok(peer: PeerSide, connection: PeerConnection, event: EncodedEvent, *, refusal: str = "") -> float:
    """Answers an event and returns once that has arrived, with a time of the loop before it."""
    loop, n_received = asyncio.get_running_loop(), connection.counters().messages_received
    before_s = loop.time()
    await until(lambda: loop.time() > before_s)
    await peer.send("OK", event.event.id, not refusal, refusal)
    await until(lambda: connection.counters().messages_received > n_received)
    return before_s


@asynccontextmanager
async def connected(script: Script, options: PeerOptions | None = None) -> AsyncIterator[PeerConnection]:
    """A connection to a scripted peer; closed at the end."""
    async with scripted_peer(script) as url:
        connection = await PeerConnection.open(url, options or PeerOptions(), now_s=lambda: NOW_S)
        try:
            yield connection
        finally:
            await connection.close()
