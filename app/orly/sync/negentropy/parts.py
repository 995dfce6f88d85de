"""The manager of a process, put together from its settings."""

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from orly import clock
from orly.access.control import AccessControl
from orly.intake.plugin import WritePlugin
from orly.intake.policy import policy_from_settings
from orly.intake.verify import Verifier
from orly.store.base import EventStore
from orly.sync.ingest import Door
from orly.sync.negentropy.manager import SyncManager
from orly.sync.negentropy.own_address import OwnAddress
from orly.sync.negentropy.peer_loop import Runner, SyncOptions
from orly.sync.negentropy.peer_memory import PeerMemory
from orly.sync.negentropy.peers import PeerBook
from orly.sync.negentropy.request import Direction, SetSource, SyncProgress, SyncRequest, SyncResult
from orly.sync.negentropy.run import sync_with_peer
from orly.sync.negentropy.scope import scope_from_settings

if TYPE_CHECKING:
    from orly.settings import Settings

__all__ = ["make_manager", "options_from_settings"]

_USUAL_ID_BYTES: Final = 16
"""What other versions have by default."""

_REAL_ID_BYTES: Final = 32

log = logging.getLogger(__name__)


def options_from_settings(settings: "Settings") -> SyncOptions:
    """How peers are synced with."""
    key = settings.sync_negentropy_secret_key or settings.relay_secret_key
    return SyncOptions(
        peers=settings.sync_negentropy_peers,
        interval_s=settings.sync_negentropy_interval_s,
        direction=Direction(settings.sync_negentropy_direction),
        filter=scope_from_settings(settings),
        frame_bytes=settings.sync_negentropy_frame_bytes,
        timeout_s=settings.sync_negentropy_timeout_s,
        auth_key=None if key is None else bytes.fromhex(key.get_secret_value()),
        private_kinds=settings.sync_negentropy_private_kinds,
    )


def make_manager(
    settings: "Settings",
    store: EventStore,
    sets: SetSource,
    verifier: Verifier,
    access: AccessControl | None = None,
    plugin: WritePlugin | None = None,
) -> SyncManager:
    """A manager that syncs a store; it is not open yet.

    Args:
        settings: Peers, and limits on events.
        store: Where events go and come from.
        sets: Knows the sets of the store.
        verifier: Checks signatures; stays the caller's.
        access: Knows whose events may be stored; None = anybody's.
        plugin: A program that judges every event; None = there is none.
    """
    if settings.sync_negentropy_id_bytes not in (_USUAL_ID_BYTES, _REAL_ID_BYTES):
        log.info("ORLY_SYNC_NEGENTROPY_ID_SIZE has no effect: ids have %d bytes in this protocol", _REAL_ID_BYTES)
    return SyncManager(
        options_from_settings(settings),
        run=_runner(store, sets, Door(store, policy_from_settings(settings), verifier, clock.now_s, access, plugin)),
        book=PeerBook(settings.data_dir),
        address=OwnAddress(relay_url=settings.relay_url, listen=settings.listen, port=settings.port),
    )


def _runner(store: EventStore, sets: SetSource, door: Door) -> Runner:
    async def run(request: SyncRequest, memory: PeerMemory, on_progress: Callable[[SyncProgress], None]) -> SyncResult:
        return await sync_with_peer(
            request, store=store, sets=sets, door=door, memory=memory, on_progress=on_progress, now_s=clock.now_s
        )

    return run
