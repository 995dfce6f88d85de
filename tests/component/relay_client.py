"""A Nostr client for tests: sends messages, sorts what comes, and waits for a kind of message by name."""

from collections.abc import Callable
from typing import Any, Final

from tests.factory import auth_event
from tests.wsclient import Client

from orly.nostr.event import EncodedEvent

__all__ = ["Message", "NostrClient"]

Message = list[Any]

_FENCE: Final = "fence"


class NostrClient:
    """Keeps what it did not ask for in `inbox`, in the order it came."""

    def __init__(self, client: Client) -> None:
        self.socket = client
        self.inbox: list[Message] = []

    async def send(self, *message: Any) -> None:
        """Sends one message, given by its elements."""
        await self.socket.send(*message)

    async def send_text(self, text: str) -> None:
        """Sends anything."""
        await self.socket.connection.send(text)

    async def next(self, kind: str, *, of: str | None = None) -> Message:
        """The first message of that kind (and, with `of`, with that second element) not taken yet."""
        return await self.take(lambda message: message[0] == kind and (of is None or message[1] == of))

    async def take(self, wanted: Callable[[Message], bool]) -> Message:
        """The first message that `wanted` accepts; what comes before it stays in the inbox."""
        for index, message in enumerate(self.inbox):
            if wanted(message):
                return self.inbox.pop(index)
        while True:
            message = await self.socket.receive()
            if wanted(message):
                return message
            self.inbox.append(message)

    async def publish(self, *events: EncodedEvent) -> list[Message]:
        """Publishes events one after the other without waiting; their OKs, in the order they came."""
        for event in events:
            await self.send_text(f'["EVENT",{event.raw.decode()}]')
        return [await self.next("OK") for _ in events]

    async def accept(self, *events: EncodedEvent) -> None:
        """Publishes what must be taken."""
        answers = await self.publish(*events)
        assert [(ok[1], ok[2]) for ok in answers] == [(event.event.id, True) for event in events], answers

    async def refusal(self, event: EncodedEvent) -> str:
        """Publishes what must be refused; why it was."""
        (ok,) = await self.publish(event)
        assert ok[:3] == ["OK", event.event.id, False], ok
        reason = ok[3]
        assert isinstance(reason, str)
        return reason

    async def request(self, sub_id: str, *filters: dict[str, Any]) -> list[str]:
        """Subscribes; the ids of the stored answer, in order."""
        await self.send("REQ", sub_id, *filters)
        return await self.answer(sub_id)

    async def answer(self, sub_id: str) -> list[str]:
        """The ids that come for a subscription up to its EOSE."""
        ids: list[str] = []
        while True:
            message = await self.take(
                lambda message: message[0] in ("EVENT", "EOSE", "CLOSED") and message[1] == sub_id
            )
            if message[0] == "EOSE":
                return ids
            assert message[0] == "EVENT", message
            ids.append(message[2]["id"])

    async def next_event(self, sub_id: str) -> str:
        """The id of the next event of a subscription."""
        message = await self.next("EVENT", of=sub_id)
        assert isinstance(message[2], dict)
        return str(message[2]["id"])

    async def closed_reason(self, sub_id: str) -> str:
        """Why the relay ended or refused a subscription."""
        message = await self.next("CLOSED", of=sub_id)
        assert len(message) == 3
        return str(message[2])

    async def count(self, query_id: str, *filters: dict[str, Any]) -> int:
        """Counts what is stored."""
        await self.send("COUNT", query_id, *filters)
        message = await self.next("COUNT", of=query_id)
        assert set(message[2]) == {"count"}
        return int(message[2]["count"])

    async def fence(self) -> None:
        """Returns when everything sent before was handled and its immediate answers are in the inbox."""
        await self.send("REQ", _FENCE, {"limit": 0})
        await self.next("EOSE", of=_FENCE)
        await self.send("CLOSE", _FENCE)

    async def authenticate(self, relay_url: str, *, key: int, challenge: str | None = None, at_s: int) -> Message:
        """Answers a challenge (the one that was sent, or must come now); the OK."""
        sent = (await self.next("AUTH"))[1] if challenge is None else challenge
        event = auth_event(sent, relay_url, key=key, created_at=at_s)
        await self.send_text(f'["AUTH",{event.raw.decode()}]')
        return await self.next("OK", of=event.event.id)
