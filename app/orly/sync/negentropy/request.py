"""What one sync with a peer is asked to do, what it tells while it runs, and what it ends with."""

from dataclasses import dataclass
from enum import Enum, StrEnum, auto
from typing import Final, Protocol

from orly.negentropy import ItemSet
from orly.nostr.filter import Filter
from orly.store.base import Query

__all__ = [
    "MAX_BATCH_EVENTS",
    "MIN_FRAME_BYTES",
    "Direction",
    "Phase",
    "SetSource",
    "SyncFailedError",
    "SyncProgress",
    "SyncRequest",
    "SyncResult",
]

MAX_BATCH_EVENTS: Final = 500
"""Ids in one REQ: what strfry and many others answer at most, silently."""

MIN_FRAME_BYTES: Final = 512
"""The smallest limit on our own negentropy messages, before their hex."""


class Direction(StrEnum):
    """Which way events go."""

    DOWN = "down"
    """From the peer to this store."""
    UP = "up"
    """From this store to the peer."""
    BOTH = "both"
    NONE = "none"
    """Reconcile and report only."""

    @property
    def pulls(self) -> bool:
        """Whether events come to this store."""
        return self in (Direction.DOWN, Direction.BOTH)

    @property
    def pushes(self) -> bool:
        """Whether events go to the peer."""
        return self in (Direction.UP, Direction.BOTH)


class Phase(Enum):
    """Where a sync is."""

    CONNECTING = auto()
    RECONCILING = auto()
    """Differences are being found; what is found already is on its way."""
    TRANSFERRING = auto()
    """All differences are known."""
    DONE = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncRequest:
    """One sync.

    Attributes:
        url: The peer, `ws://` or `wss://`.
        filter: Which events are compared; its `limit` holds for each side.
        direction: Which way events go.
        frame_bytes: How long our negentropy messages may be, before their hex; 0 = no limit.
        timeout_s: How long the peer may make no headway while something is awaited of it.
        batch_events: Ids in one REQ, at most `MAX_BATCH_EVENTS`.
        auth_key: The secret key (32 bytes) to authenticate with (NIP-42); None = none.
        private_kinds: Push events of kinds that only their parties may read, too.
        list_ids: Give the differing ids in the result; they are all held in memory then.

    Raises:
        ValueError: A number is out of its range; the text says which.
    """

    url: str
    filter: Filter
    direction: Direction
    frame_bytes: int = 60_000
    timeout_s: float = 60.0
    batch_events: int = MAX_BATCH_EVENTS
    auth_key: bytes | None = None
    private_kinds: bool = False
    list_ids: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.batch_events <= MAX_BATCH_EVENTS:
            raise ValueError(f"batch_events is {self.batch_events}, must be 1 to {MAX_BATCH_EVENTS}")
        if self.frame_bytes != 0 and self.frame_bytes < MIN_FRAME_BYTES:
            raise ValueError(f"frame_bytes is {self.frame_bytes}, must be 0 or at least {MIN_FRAME_BYTES}")
        if not self.timeout_s > 0:
            raise ValueError(f"timeout_s is {self.timeout_s:g}, must be above 0")
        if self.auth_key is not None and len(self.auth_key) != 32:
            raise ValueError(f"auth_key has {len(self.auth_key)} bytes, must be 32")


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncProgress:
    """Numbers of a sync so far.

    They grow, but for `unavailable` and `rejected`: at the end it may turn out that some of these events are gone, and
    that nothing is missing. When events are pulled and all is done, `need` is the sum of `fetched`, `known`,
    `unwanted`, `refused` and `unavailable`; when they are pushed, `have` is the sum of `sent`, `unneeded` and
    `rejected`.

    Attributes:
        phase: Where it is.
        round: Negentropy messages that the peer answered, or pages of events that it sent for want of negentropy.
        have: Events that only this store was found to have.
        need: Events that only the peer was found to have.
        fetched: Pulled and stored.
        known: Needed, and here already: private events, or stored by someone else meanwhile.
        unwanted: Needed, and not to be kept: a newer version is here, or they are deleted, vanished, expired,
            ephemeral; or they are gone from the peer meanwhile.
        refused: Needed, and against the rules of this relay.
        unavailable: Needed, and never sent by the peer.
        sent: Pushed and accepted.
        unneeded: Not sent, or sent in vain: the peer has them or a newer version, they are deleted there, they are
            gone from this store meanwhile, or only their author may publish them (NIP-70).
        rejected: Pushed, and refused or never answered by the peer.
        bytes_sent: To the peer, on the socket.
        bytes_received: From the peer, on the socket.
    """

    phase: Phase = Phase.CONNECTING
    round: int = 0
    have: int = 0
    need: int = 0
    fetched: int = 0
    known: int = 0
    unwanted: int = 0
    refused: int = 0
    unavailable: int = 0
    sent: int = 0
    unneeded: int = 0
    rejected: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncResult:
    """How a sync ended.

    Attributes:
        progress: The final numbers.
        is_complete: Both sides hold the same events in the directions asked for. What this store deleted, replaced or
            let expire is not missing.
        is_settled: What is missing, if anything, is refused for good or never sent: the next sync would not bring it.
        problems: What is missing and why, and what else an operator should know; lines for people, a few.
        have_ids: What only this store had, 32 bytes each; with `list_ids` only.
        need_ids: What only the peer had.
    """

    progress: SyncProgress
    is_complete: bool
    is_settled: bool = False
    problems: tuple[str, ...] = ()
    have_ids: tuple[bytes, ...] = ()
    need_ids: tuple[bytes, ...] = ()


class SyncFailedError(Exception):
    """A sync ended before its end; the text is fit for an operator. Another one goes on where it broke off.

    Attributes:
        progress: What was reached.
    """

    def __init__(self, detail: str, progress: SyncProgress) -> None:
        super().__init__(detail)
        self.progress = progress


class SetSource(Protocol):
    """Who knows the set of what a query matches; see `orly.sync.negentropy.sets`."""

    async def snapshot(self, query: Query, *, max_items: int | None = None) -> ItemSet:
        """The set of everything committed before the call.

        Raises:
            StoreError: It cannot be had.
        """
