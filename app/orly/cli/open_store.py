"""Opening the store that the settings name, for a command."""

from orly.opening.store import OpenedStore, open_store
from orly.settings import Settings
from orly.store.lmdb.bulk import BulkLmdbStore
from orly.store.lmdb.environment import open_environment
from orly.store.lmdb.opening import own_urls

__all__ = ["OpenedStore", "open_bulk_store", "open_store"]


async def open_bulk_store(settings: Settings, *, read_only: bool = False) -> BulkLmdbStore:
    """The same store for an import or, to be read only, for an export.

    Raises:
        StoreUnavailableError: It cannot be used; the text says why.
    """
    return BulkLmdbStore(
        open_environment(settings.data_dir, max_bytes=settings.db_max_bytes, read_only=read_only),
        own_urls=own_urls(settings),
        keep_versions=settings.keep_versions,
    )
