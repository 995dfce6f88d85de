"""What the image tests say to a relay, over plain WebSockets."""

import asyncio
import json
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any

from tests.factory import make_event
from tests.wsclient import Client, connect

from orly.nostr.event import EncodedEvent

__all__ = ["information", "notes", "publish", "stored_ids"]


def notes(count: int, *, key: int = 0) -> list[EncodedEvent]:
    """Signed events of one author, one a second."""
    return [make_event(key=key, created_at=1_700_000_000 + number) for number in range(count)]


async def send_all(client: Client, events: Sequence[EncodedEvent]) -> None:
    """Publishes on an open connection and checks that every event was taken."""
    for event in events:
        await client.send("EVENT", json.loads(event.raw))
    for _ in events:
        kind, _, accepted, message = await client.receive()
        assert (kind, accepted) == ("OK", True), message


def publish(url: str, events: Sequence[EncodedEvent]) -> list[str]:
    """Publishes and checks that every event was taken; their ids, sorted."""

    async def main() -> None:
        async with connect(url) as client:
            await send_all(client, events)

    asyncio.run(main())
    return sorted(event.event.id for event in events)


def stored_ids(url: str, wanted: Mapping[str, Any] | None = None) -> list[str]:
    """The ids of all stored events for a filter, sorted."""

    async def main() -> list[str]:
        async with connect(url) as client:
            await client.send("REQ", "all", dict(wanted or {}))
            *events, end = await client.receive_until("EOSE")
            assert end == ["EOSE", "all"]
            return sorted(event[2]["id"] for event in events)

    return asyncio.run(main())


def information(port: int) -> dict[str, Any]:
    """What the relay says of itself (NIP-11)."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}/", headers={"Accept": "application/nostr+json"})
    with urllib.request.urlopen(request, timeout=20) as response:
        document = json.load(response)
    assert isinstance(document, dict)
    return document
