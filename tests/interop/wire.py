"""What the sync tests say to a relay, over plain WebSockets: publish everything, read everything."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from tests.interop.expected import JsonEvent
from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

__all__ = ["ANSWER_S", "PAGE_EVENTS", "Answer", "await_relay", "count", "opened", "publish", "read", "receive"]

ANSWER_S: Final = 30.0
"""How long a relay may take for its next message."""

PAGE_EVENTS: Final = 500
"""Events asked for at once: what many relays answer at most."""

_WINDOW: Final = 200
_POLL_S: Final = 0.02

Answer = tuple[str, bool, str]
"""Event id, whether it was taken, and the relay's words."""


@contextmanager
def opened(url: str) -> Iterator[ClientConnection]:
    """A connection to a relay."""
    with connect(
        url, compression=None, max_size=None, open_timeout=ANSWER_S, ping_interval=None, proxy=None
    ) as connection:
        yield connection


def receive(connection: ClientConnection) -> list[Any]:
    """The next message that is no AUTH."""
    while True:
        message = json.loads(connection.recv(ANSWER_S))
        assert isinstance(message, list)
        if message[0] != "AUTH":
            return message


def await_relay(url: str, *, within_s: float) -> None:
    """Waits until a relay answers a REQ."""
    end_s = time.monotonic() + within_s
    while True:
        try:
            with opened(url) as connection:
                connection.send('["REQ","up",{"limit":1,"kinds":[1]}]')
                while receive(connection)[0] != "EOSE":
                    pass
                return
        except (OSError, WebSocketException) as error:
            if time.monotonic() > end_s:
                raise AssertionError(f"{url} did not answer within {within_s:g} s") from error
            time.sleep(_POLL_S)


def publish(url: str, events: Sequence[JsonEvent]) -> list[Answer]:
    """Publishes events in this order, many in flight; the relay's answers in the order of the events."""
    answers: dict[str, Answer] = {}
    with opened(url) as connection:
        for start in range(0, len(events), _WINDOW):
            batch = events[start : start + _WINDOW]
            for event in batch:
                connection.send(json.dumps(["EVENT", event], ensure_ascii=False, separators=(",", ":")))
            for _ in batch:
                kind, *rest = receive(connection)
                assert kind == "OK", f"{kind} instead of OK: {rest}"
                event_id, accepted, words = rest
                assert event_id not in answers, f"two OKs for {event_id}"
                answers[event_id] = (event_id, accepted, words)
    return [answers[event["id"]] for event in events]


def read(url: str, wanted: Mapping[str, Any] | None = None) -> dict[str, JsonEvent]:
    """Every event that a stranger may read, by id, in pages until one adds nothing."""
    found: dict[str, JsonEvent] = {}
    page = {**(wanted or {}), "limit": PAGE_EVENTS}
    with opened(url) as connection:
        while True:
            batch = _page(connection, page)
            new = [event for event in batch if event["id"] not in found]
            if not new:
                break
            found.update((event["id"], event) for event in new)
            oldest_s = min(event["created_at"] for event in batch)
            ties = sum(event["created_at"] == oldest_s for event in batch)
            assert ties < PAGE_EVENTS, f"{ties} events of one second cannot be read in pages of {PAGE_EVENTS}"
            page["until"] = oldest_s
    return found


def _page(connection: ClientConnection, wanted: Mapping[str, Any]) -> list[JsonEvent]:
    connection.send(json.dumps(["REQ", "page", wanted]))
    events: list[JsonEvent] = []
    while True:
        message = receive(connection)
        match message:
            case ["EVENT", "page", event]:
                events.append(event)
            case ["EOSE", "page"]:
                connection.send('["CLOSE","page"]')
                return events
            case ["NOTICE", *_] | ["CLOSED", *_]:
                raise AssertionError(f"instead of a page: {message}")


def count(url: str, wanted: Mapping[str, Any] | None = None) -> int:
    """What the relay counts (NIP-45)."""
    with opened(url) as connection:
        connection.send(json.dumps(["COUNT", "all", dict(wanted or {})]))
        message = receive(connection)
        assert message[:2] == ["COUNT", "all"], message
        return int(message[2]["count"])
