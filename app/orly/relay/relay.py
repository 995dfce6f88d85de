"""One relay: a store, and everything between it and its clients, put together from the settings."""

import asyncio
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from orly import __version__, clock
from orly.nostr.filter import FilterLimits
from orly.nostr.message import RequestLimits
from orly.relay import info
from orly.relay.connection import Connection
from orly.relay.context import SessionContext, SessionRules
from orly.relay.ingest import Ingest
from orly.relay.live import LiveFeed
from orly.relay.policy import WritePolicy
from orly.relay.server import serve
from orly.relay.session import RelaySession
from orly.store.base import EventStore

if TYPE_CHECKING:
    from orly.settings import Settings

__all__ = ["make_context", "policy_from_settings", "run_relay"]

log = logging.getLogger(__name__)


def policy_from_settings(settings: "Settings") -> WritePolicy:
    """The limits on events."""
    return WritePolicy(
        max_event_bytes=settings.max_event_bytes,
        max_event_tags=settings.max_event_tags,
        max_created_at_past_s=settings.max_created_at_past_s,
        max_created_at_future_s=settings.max_created_at_future_s,
        min_pow_difficulty=settings.min_pow_difficulty,
        auth_to_write=settings.auth_to_write or settings.auth_required,
        nip46_bypass_auth=settings.nip46_bypass_auth,
    )


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
    )


def make_context(
    settings: "Settings",
    store: EventStore,
    *,
    now_s: Callable[[], int] = clock.now_s,
    monotonic_s: Callable[[], float] = clock.monotonic_s,
) -> SessionContext:
    """What sessions share; must be called on the event loop that runs the relay."""
    loop = asyncio.get_running_loop()
    return SessionContext(
        rules=_rules(settings),
        store=store,
        ingest=Ingest(
            store,
            policy_from_settings(settings),
            now_s=now_s,
            loop=loop,
            share_verification=(os.cpu_count() or 1) > 1,
        ),
        live=LiveFeed(store),
        loop=loop,
        now_s=now_s,
        monotonic_s=monotonic_s,
    )


async def run_relay(
    settings: "Settings",
    store: EventStore,
    *,
    stop: asyncio.Event,
    on_listening: Callable[[str], None],
    context: SessionContext | None = None,
) -> None:
    """Serve clients until `stop` is set; the store stays open.

    Args:
        settings: Limits and addresses.
        store: Where events go.
        stop: Set by the caller to end the relay.
        on_listening: Gets the WebSocket URL once clients can connect.
        context: From `make_context` for the same settings and store; made here if it is None.

    Raises:
        ServeError: The relay cannot listen.
        StoreError: The store's feed broke; the process should end and be started again.
    """
    shared = make_context(settings, store) if context is None else context
    document = info.document(settings, __version__)

    def make_session(connection: Connection) -> RelaySession:
        return RelaySession(connection, shared)

    feed = asyncio.create_task(shared.live.run())
    feed.add_done_callback(lambda _: stop.set())
    try:
        await serve(
            settings,
            make_session,
            info=lambda: document,
            health=lambda: "the event feed has ended" if feed.done() else None,
            drain=shared.ingest.drain,
            on_listening=on_listening,
            stop=stop,
        )
    finally:
        feed.cancel()
        with suppress(asyncio.CancelledError):
            await feed
