"""What all sessions of a process share: the rules from the settings, and the parts they work with."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from orly.access.control import AccessControl
from orly.nostr.message import RequestLimits
from orly.reconciling import SetServer
from orly.relay.ingest import Ingest
from orly.relay.live import LiveFeed
from orly.relay.rates import Rates
from orly.store.base import EventStore

__all__ = ["Revisable", "SessionContext", "SessionRules"]

_LARGEST_FILTERS: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRules:
    """What sessions need of the settings.

    Attributes:
        request_limits: On REQ and COUNT.
        default_limit: Events for a filter without a limit.
        max_limit: Events for any filter.
        query_timeout_s: Searching longer than this is given up.
        max_subscriptions: Per connection.
        max_total_subscriptions: In this process.
        max_events_per_second: Per connection; 0 = no limit.
        max_events_burst: Per connection.
        auth_required: Whether anything but AUTH needs an authenticated connection.
        auth_on_connect: Whether the challenge is sent unasked.
        auth_time_window_s: How far an AUTH event may be from our clock.
        relay_url: Our public URL; without it the Host a client asked for is believed.
        privileged_open: Whether everybody may read private kinds.
        nip46_bypass_auth: Whether remote signing messages pass without AUTH.
        full_sync_pubkeys: Keys (hex) that, once proven, may read private kinds.
        max_reconciliations: Open ones of a connection.
        reconciliation_timeout_s: How long one may be idle.
    """

    request_limits: RequestLimits
    default_limit: int
    max_limit: int
    query_timeout_s: float
    max_subscriptions: int
    max_total_subscriptions: int
    max_events_per_second: float
    max_events_burst: float
    auth_required: bool
    auth_on_connect: bool
    auth_time_window_s: float
    relay_url: str
    privileged_open: bool
    nip46_bypass_auth: bool
    full_sync_pubkeys: frozenset[str]
    max_reconciliations: int
    reconciliation_timeout_s: float

    @property
    def max_open_values(self) -> int:
        """Values in the filters of all open subscriptions of a connection: each costs some 300 bytes while it is."""
        return _LARGEST_FILTERS * self.request_limits.filter_limits.max_values


class Revisable(Protocol):
    """What must look again at what it may do when the lists have changed."""

    def revise(self) -> None:
        """Look again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionContext:
    """What all sessions of a process share; the clocks are Unix seconds and steady seconds.

    Attributes:
        sets: Who reconciles (NIP-77); None if that is not offered.
        access: Knows who may do what; None = everybody everything.
        sessions: Those that are open.
        rates: How much anybody may do; None = there are no limits.
    """

    rules: SessionRules
    store: EventStore
    ingest: Ingest
    live: LiveFeed
    loop: asyncio.AbstractEventLoop
    now_s: Callable[[], int]
    monotonic_s: Callable[[], float]
    sets: SetServer | None = None
    access: AccessControl | None = None
    rates: Rates | None = None
    sessions: set["Revisable"] = field(default_factory=set)
