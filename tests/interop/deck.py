"""Signed events for syncs: the same for the same seed and time, and dated so that every relay takes them."""

import hashlib
import json
from collections.abc import Sequence
from typing import Final

from tests.interop.expected import JsonEvent

from orly.nostr.signing import public_key, sign_event

__all__ = ["DAY_S", "Deck", "address"]

DAY_S: Final = 24 * 60 * 60


class Deck:
    """Events of authors whom nobody else's events are by.

    Attributes:
        base_s: The time of the first event: about a day ago, far from every limit on age, and another for each seed.
        authors: Their public keys, in hex.
    """

    def __init__(self, seed: str, now_s: int, *, authors: int = 3) -> None:
        self.base_s = now_s - DAY_S - int.from_bytes(hashlib.sha256(seed.encode()).digest()[:4]) % DAY_S
        self._secrets = [hashlib.sha256(f"{seed}/{number}".encode()).digest() for number in range(authors)]
        self.authors = [public_key(secret) for secret in self._secrets]
        self._made = 0

    def event(
        self,
        *,
        author: int = 0,
        kind: int = 1,
        at_s: int | None = None,
        tags: Sequence[Sequence[str]] = (),
        content: str | None = None,
    ) -> JsonEvent:
        """One more event, a second after the one before.

        Args:
            author: Whose.
            kind: Its kind.
            at_s: Seconds after `base_s`, instead.
            tags: Its tags.
            content: Its content; something of its own unless given.
        """
        self._made += 1
        made = sign_event(
            self._secrets[author],
            created_at=self.base_s + (self._made if at_s is None else at_s),
            kind=kind,
            tags=[list(tag) for tag in tags],
            content=f'number {self._made}: \t"quoted" \\ Grüße 漢字 \U0001f980' if content is None else content,
        )
        event = json.loads(made.raw)
        assert isinstance(event, dict)
        return event

    def notes(self, count: int, *, kind: int = 1, tags: Sequence[Sequence[str]] = ()) -> list[JsonEvent]:
        """Notes by all authors in turn."""
        return [self.event(author=number % len(self.authors), kind=kind, tags=tags) for number in range(count)]

    def mixed(self, count: int) -> list[JsonEvent]:
        """Mostly notes, and of each class of events some."""
        made = []
        for number in range(count):
            author = number % len(self.authors)
            match number % 10:
                case 7:
                    made.append(self.event(author=author, kind=(0, 3, 10_002)[number % 3]))
                case 8:
                    made.append(self.event(author=author, kind=30_023, tags=[["d", f"article {number % 7}"]]))
                case 9:
                    made.append(self.event(author=author, kind=7, content="+", tags=[["e", made[-1]["id"]]]))
                case _:
                    made.append(self.event(author=author, tags=[["t", f"topic{number % 4}"]]))
        return made

    def deletion(self, *targets: JsonEvent, author: int = 0) -> JsonEvent:
        """A deletion request (NIP-09) of its author's events."""
        return self.event(author=author, kind=5, tags=[["e", target["id"]] for target in targets], content="")


def address(event: JsonEvent) -> str:
    """`<kind>:<pubkey>:<d>`, as it stands in an `a` tag."""
    d_value = next((tag[1] for tag in event["tags"] if tag[0] == "d"), "")
    return f"{event['kind']}:{event['pubkey']}:{d_value}"
