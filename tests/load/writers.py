"""Clients that publish as fast as the relay answers, and remember what it promised to keep."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from tests.factory import delete_event, make_event
from tests.wsclient import Client, connect
from websockets.exceptions import ConnectionClosed

from orly.nostr.event import EncodedEvent

__all__ = ["Ledger", "fetch", "write"]

_WINDOW: Final = 64
_TIME_S: Final = 1_700_000_000


@dataclass(slots=True)
class Ledger:
    """What the relay has answered with OK true.

    Attributes:
        notes: Ids of events that nothing ever removes.
        deleted: Ids of events whose deletion was acknowledged.
        newest: By author, the time of the newest version of a replaceable event.
        acknowledged: How many answers there were.
        refusals: The reasons of answers with OK false.
        writers: How many clients are connected now.
    """

    notes: set[str] = field(default_factory=set)
    deleted: set[str] = field(default_factory=set)
    newest: dict[str, int] = field(default_factory=dict)
    acknowledged: int = 0
    refusals: list[str] = field(default_factory=list)
    writers: int = 0
    _serial: int = 0

    def next_number(self) -> int:
        """A number that was never given before."""
        self._serial += 1
        return self._serial

    def note(self, event: EncodedEvent) -> None:
        """The relay has acknowledged the event."""
        self.acknowledged += 1
        match event.event.kind:
            case 0:
                author, at_s = event.event.pubkey, event.event.created_at
                self.newest[author] = max(at_s, self.newest.get(author, 0))
            case 5:
                self.deleted.update(tag[1] for tag in event.event.tags)
            case 7:
                """A note that is about to be deleted: it may be there or not."""
            case _:
                self.notes.add(event.event.id)


def _events(key: int, ledger: Ledger) -> Iterator[EncodedEvent]:
    """Without end: notes, versions of a profile, and reactions that are deleted at once."""
    while True:
        number = ledger.next_number()
        at_s = _TIME_S + number
        yield make_event(key, 1, at_s, [("t", f"t{number % 10}")], f"note {number}")
        if number % 4 == 0:
            yield make_event(key, 0, at_s, (), f'{{"name":"{number}"}}')
        if number % 5 == 0:
            regretted = make_event(key, 7, at_s, (), f"regretted {number}")
            yield regretted
            yield delete_event(regretted, key=key, created_at=at_s, signed=True)


async def write(url: str, key: int, ledger: Ledger) -> int | None:
    """Publishes until the connection ends; the close code, None if it ended without one."""
    async with connect(url) as client:
        window = asyncio.Semaphore(_WINDOW)
        pending: dict[str, EncodedEvent] = {}
        sender = asyncio.create_task(_send(client, key, ledger, window, pending))
        ledger.writers += 1
        try:
            while True:
                kind, event_id, accepted, reason = json.loads(await client.receive_text())
                assert kind == "OK"
                event = pending.pop(event_id)
                window.release()
                if accepted:
                    ledger.note(event)
                else:
                    ledger.refusals.append(reason)
        except ConnectionClosed as error:
            return None if error.rcvd is None else int(error.rcvd.code)
        finally:
            ledger.writers -= 1
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)


async def _send(
    client: Client, key: int, ledger: Ledger, window: asyncio.Semaphore, pending: dict[str, EncodedEvent]
) -> None:
    for event in _events(key, ledger):
        await window.acquire()
        pending[event.event.id] = event
        await client.connection.send(b'["EVENT",%s]' % event.raw, text=True)


async def fetch(client: Client, wanted: dict[str, Any]) -> list[dict[str, Any]]:
    """The stored events for a filter."""
    await client.send("REQ", "q", wanted)
    *events, end = await client.receive_until("EOSE")
    assert end == ["EOSE", "q"], end
    await client.send("CLOSE", "q")
    return [message[2] for message in events]
