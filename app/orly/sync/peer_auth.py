"""Our answer to a peer that wants to know who we are (NIP-42)."""

import asyncio
from collections.abc import Callable
from enum import Enum, auto
from typing import Final

from orly.nostr.kinds import AUTH
from orly.nostr.reason import Prefix
from orly.nostr.signing import sign_event

__all__ = ["Authentication", "wants_auth"]

MAX_CHALLENGES: Final = 20
"""Answered on one connection: each costs a signature."""


class _State(Enum):
    UNASKED = auto()
    ANSWERED = auto()
    ACCEPTED = auto()
    REFUSED = auto()


class Authentication:
    """Answers challenges as they come, and tells what waited for it how it went.

    Attributes:
        challenge: The last one; None if none came.
        n_answered: How many were answered, the last time perhaps without an OK so far.
    """

    __slots__ = (
        "_event_id",
        "_key",
        "_now_s",
        "_reason",
        "_send",
        "_state",
        "_timeout_s",
        "_timer",
        "_url",
        "_waiting",
        "challenge",
        "n_answered",
    )

    def __init__(
        self, url: str, *, key: bytes | None, timeout_s: float, now_s: Callable[[], int], send: Callable[[bytes], None]
    ) -> None:
        self.challenge: str | None = None
        self._url = url
        self._key = key
        self._timeout_s = timeout_s
        self._now_s = now_s
        self._send = send
        self._state = _State.UNASKED
        self._event_id = self._reason = ""
        self.n_answered = 0
        self._waiting: list[Callable[[str | None], None]] = []
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_possible(self) -> bool:
        """Whether there is a key to answer with."""
        return self._key is not None

    @property
    def is_waiting(self) -> bool:
        """Whether anything waits for the outcome."""
        return bool(self._waiting)

    def challenged(self, challenge: str) -> bool:
        """Takes a challenge and answers it; false if there have been too many.

        Some relays repeat theirs with every refusal, before they have read our answer.
        """
        if challenge == self.challenge and self._state in (_State.ANSWERED, _State.ACCEPTED):
            return True
        self.challenge = challenge
        if self._key is None:
            return True
        self.n_answered += 1
        if self.n_answered > MAX_CHALLENGES:
            return False
        tags = [["relay", self._url], ["challenge", challenge]]
        event = sign_event(self._key, created_at=self._now_s(), kind=AUTH, tags=tags)
        self._event_id = event.event.id
        self._state = _State.ANSWERED
        self._send(b'["AUTH",' + event.raw + b"]")
        return True

    def answered(self, event_id: str, *, accepted: bool, reason: str) -> bool:
        """Takes an OK; false if it is of another event."""
        if self._state is not _State.ANSWERED or event_id != self._event_id:
            return False
        if accepted:
            self._state = _State.ACCEPTED
            self._settle(None)
        else:
            self._state = _State.REFUSED
            self._reason = reason
            self._settle(reason)
        return True

    def when_settled(self, then: Callable[[str | None], None]) -> None:
        """Calls `then` with None once it is worth asking again, or with why it is not.

        A peer that never says OK to an AUTH may have taken it all the same, so that is worth asking again.
        """
        if self._state is _State.ACCEPTED:
            then(None)
        elif self._state is _State.REFUSED:
            then(self._reason)
        else:
            self._waiting.append(then)
            if self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(self._timeout_s, self._give_up)

    def _give_up(self) -> None:
        self._timer = None
        self._settle("no challenge came" if self._state is _State.UNASKED else None)

    def _settle(self, reason: str | None) -> None:
        self.stop()
        waiting, self._waiting = self._waiting, []
        for then in waiting:
            then(reason)

    def stop(self) -> None:
        """Waits no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def wants_auth(reason: str) -> bool:
    """Whether a refusal says that the peer wants to know who asks; `ERROR: ` is already stripped from it."""
    return reason.startswith(f"{Prefix.AUTH_REQUIRED}:")
