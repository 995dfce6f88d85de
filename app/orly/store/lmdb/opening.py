"""The embedded store as the settings want it."""

from typing import TYPE_CHECKING

from orly.store.lmdb.store import LmdbStore

if TYPE_CHECKING:
    from orly.settings import Settings

__all__ = ["own_urls", "store_from_settings"]


async def store_from_settings(settings: "Settings") -> LmdbStore:
    """The store in ORLY_DATA_DIR, to serve from.

    Raises:
        StoreUnavailableError: It cannot be used; the text says why.
    """
    return await LmdbStore.open(
        settings.data_dir,
        max_bytes=settings.db_max_bytes,
        own_urls=own_urls(settings),
        keep_versions=settings.keep_versions,
        sweep_interval_s=settings.expiration_cleanup_interval_s,
    )


def own_urls(settings: "Settings") -> tuple[str, ...]:
    """The URLs under which requests to vanish (NIP-62) may name this relay."""
    return (settings.relay_url,) if settings.relay_url else ()
