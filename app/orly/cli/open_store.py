"""Opening the store that the settings name."""

from orly.settings import Settings
from orly.store.lmdb.bulk import BulkLmdbStore
from orly.store.lmdb.environment import open_environment
from orly.store.lmdb.store import LmdbStore

__all__ = ["open_bulk_store", "open_store"]


async def open_store(settings: Settings) -> LmdbStore:
    """The embedded store in ORLY_DATA_DIR, to serve from.

    Raises:
        StoreUnavailableError: It cannot be used; the text says why.
    """
    return await LmdbStore.open(
        settings.data_dir,
        max_bytes=settings.db_max_bytes,
        own_urls=_own_urls(settings),
        keep_versions=settings.keep_versions,
        sweep_interval_s=settings.expiration_cleanup_interval_s,
    )


async def open_bulk_store(settings: Settings, *, read_only: bool = False) -> BulkLmdbStore:
    """The same store for an import or, to be read only, for an export.

    Raises:
        StoreUnavailableError: It cannot be used; the text says why.
    """
    return BulkLmdbStore(
        open_environment(settings.data_dir, max_bytes=settings.db_max_bytes, read_only=read_only),
        own_urls=_own_urls(settings),
        keep_versions=settings.keep_versions,
    )


def _own_urls(settings: Settings) -> tuple[str, ...]:
    return (settings.relay_url,) if settings.relay_url else ()
