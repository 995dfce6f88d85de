"""One relay: a store, and everything between it and its clients, put together from the settings."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from starlette.routing import Route

from orly import __version__, clock
from orly.access.control import AccessControl
from orly.intake.plugin import WritePlugin
from orly.intake.policy import policy_from_settings
from orly.nostr.filter import FilterLimits
from orly.nostr.message import RequestLimits
from orly.process.cores import has_second_core
from orly.reconciling import SetServer
from orly.relay import info
from orly.relay.api import Vitals, api_routes
from orly.relay.connection import Connection
from orly.relay.context import SessionContext, SessionRules
from orly.relay.gate import Gate
from orly.relay.ingest import Ingest
from orly.relay.live import LiveFeed
from orly.relay.rates import Rates
from orly.relay.revising import Revising
from orly.relay.server import serve
from orly.relay.session import RelaySession
from orly.relay.stranger_limits import StrangerLimits
from orly.store.base import EventStore

if TYPE_CHECKING:
    from orly.settings import Settings

__all__ = ["make_context", "run_relay"]

log = logging.getLogger(__name__)


def _rules(settings: "Settings") -> SessionRules:
    return SessionRules(
        request_limits=RequestLimits(
            max_filters=settings.max_filters, filter_limits=FilterLimits(max_values=settings.max_filter_values)
        ),
        default_limit=settings.default_limit,
        max_limit=settings.max_limit,
        query_timeout_s=settings.query_timeout_s,
        max_subscriptions=settings.max_subscriptions_per_connection,
        max_total_subscriptions=settings.max_subscriptions,
        max_events_per_second=settings.max_events_per_second,
        max_events_burst=settings.max_events_burst,
        auth_required=settings.auth_required,
        auth_on_connect=settings.auth_on_connect,
        auth_time_window_s=settings.auth_time_window_s,
        relay_url=settings.relay_url,
        privileged_open=settings.privileged_open,
        nip46_bypass_auth=settings.nip46_bypass_auth,
        full_sync_pubkeys=frozenset(settings.negentropy_full_sync_pubkeys),
        max_reconciliations=settings.negentropy_max_sessions_per_connection,
        reconciliation_timeout_s=settings.sync_negentropy_session_timeout_s,
    )


def _processes(settings: "Settings") -> int:
    """How many relays share this machine's cores; `orly-launcher` tells its workers."""
    return max(1, settings.relay_workers) if settings.db_type == "grpc" else 1


def make_context(
    settings: "Settings",
    store: EventStore,
    *,
    store_health: Callable[[], str | None] = lambda: None,
    sets: SetServer | None = None,
    access: AccessControl | None = None,
    plugin: WritePlugin | None = None,
    now_s: Callable[[], int] = clock.now_s,
    monotonic_s: Callable[[], float] = clock.monotonic_s,
) -> SessionContext:
    """What sessions share; must be called on the event loop that runs the relay.

    Args:
        settings: Limits.
        store: Where events go.
        store_health: None while the store can be written to, else why not.
        sets: Who reconciles with clients (NIP-77); None = that is not offered.
        access: Knows who may do what; None = everybody everything.
        plugin: A program that judges every event; None = there is none.
        now_s: Unix time.
        monotonic_s: Steady seconds.
    """
    loop = asyncio.get_running_loop()
    rates = Rates.from_settings(settings, monotonic_s)
    ingest = Ingest(
        store,
        policy_from_settings(settings),
        now_s=now_s,
        loop=loop,
        share_verification=has_second_core(_processes(settings)),
        store_health=store_health,
        rates=rates,
        plugin=plugin,
        limits=None if access is None else StrangerLimits(access, loop, now_s=now_s, monotonic_s=monotonic_s),
    )
    return SessionContext(
        rules=_rules(settings),
        store=store,
        ingest=ingest,
        live=LiveFeed(store, ingest.told_ephemeral),
        loop=loop,
        now_s=now_s,
        monotonic_s=monotonic_s,
        sets=sets,
        access=access,
        rates=rates,
    )


def _api(settings: "Settings", shared: SessionContext, gate: Gate) -> Sequence[Route]:
    """The HTTP API, where there is access control."""
    if shared.access is None:
        return ()
    started_s = shared.monotonic_s()
    return api_routes(
        access=shared.access,
        store=shared.store,
        gate=gate,
        policy=policy_from_settings(settings),
        vitals=Vitals(
            uptime_s=lambda: shared.monotonic_s() - started_s,
            connections=lambda: gate.total,
            subscriptions=lambda: len(shared.live.index),
        ),
        now_s=shared.now_s,
        relay_url=settings.relay_url,
        rates=shared.rates,
    )


async def run_relay(
    settings: "Settings",
    store: EventStore,
    *,
    stop: asyncio.Event,
    on_listening: Callable[[str], None],
    store_health: Callable[[], str | None] = lambda: None,
    context: SessionContext | None = None,
    sets: SetServer | None = None,
    access: AccessControl | None = None,
    plugin: WritePlugin | None = None,
) -> None:
    """Serve clients until `stop` is set; the store stays open.

    Args:
        settings: Limits and addresses.
        store: Where events go.
        stop: Set by the caller to end the relay.
        on_listening: Gets the WebSocket URL once clients can connect.
        store_health: None while the store can be written to, else why not; `/health` shows it.
        context: From `make_context` for the same settings and store; made here if it is None.
        sets: See `make_context`; plays no part beside a context.
        access: Likewise.
        plugin: Likewise.

    Raises:
        ServeError: The relay cannot listen.
        StoreError: The store's feed broke; the process should end and be started again.
    """
    shared = context or make_context(
        settings, store, store_health=store_health, sets=sets, access=access, plugin=plugin
    )
    document = info.Document(settings, __version__, has_negentropy=shared.sets is not None, access=shared.access)

    def make_session(connection: Connection) -> RelaySession:
        return RelaySession(connection, shared)

    revising = Revising(shared)
    feed = asyncio.create_task(shared.live.run())
    feed.add_done_callback(lambda _: stop.set())
    try:
        await serve(
            settings,
            make_session,
            info=document,
            health=lambda: "the event feed has ended" if feed.done() else store_health(),
            drain=shared.ingest.drain,
            on_listening=on_listening,
            stop=stop,
            routes=lambda gate: _api(settings, shared, gate),
        )
    finally:
        revising.close()
        feed.cancel()
        with suppress(asyncio.CancelledError):
            await feed
