"""Opening the store that the settings name, to serve from or to work on."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from orly.settings import Settings
from orly.store.base import EventStore
from orly.store.lmdb.opening import store_from_settings

__all__ = ["OpenedStore", "open_store"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedStore:
    """A store to serve from.

    Attributes:
        store: The store.
        where: What the log says of it.
        health: None while it can be written to, else why not.
        close: Closes it and what it works on.
    """

    store: EventStore
    where: str
    health: Callable[[], str | None]
    close: Callable[[], Awaitable[None]]


async def open_store(settings: Settings, *, stop: asyncio.Event) -> OpenedStore | None:
    """The store that ORLY_DB_TYPE names, to serve from; None if `stop` was set before it was there.

    Raises:
        StoreUnavailableError: It cannot be used; the text says why.
        ServiceError: The store's service never came.
    """
    if settings.db_type == "grpc":
        from orly.opening.service import open_service  # what gRPC needs is for those who use it

        return await open_service(settings, stop=stop)
    store = await store_from_settings(settings)
    return OpenedStore(store=store, where=f"data in {settings.data_dir}", health=_is_well, close=store.close)


def _is_well() -> None:
    """A store in this process is never away: when it breaks, the process ends."""
