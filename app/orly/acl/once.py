"""Which events have allowed an HTTP request (NIP-98): kept on disk, so that a restart makes none good again."""

from collections.abc import Callable
from typing import Final

from orly.access.control import ControlError
from orly.acl.kept import read_pages
from orly.nostr.nip98 import UsedEvents
from orly.store.base import MAX_MARKERS, EventStore, StoreError

__all__ = ["Once"]

_PREFIX: Final = "acl/once/"


class Once:
    """Used from one event loop.

    Args:
        store: Keeps one marker for each event, with the time until which it counts.
        now_s: Unix time.
    """

    def __init__(self, store: EventStore, now_s: Callable[[], int]) -> None:
        self._store = store
        self._now_s = now_s
        self._used = UsedEvents()

    async def load(self) -> None:
        """Read what was used before.

        Raises:
            StoreError: The store cannot be read.
        """
        kept: dict[bytes, int] = {}
        async for page in read_pages(self._store, _PREFIX):
            kept |= {bytes.fromhex(marker.key.removeprefix(_PREFIX)): int(marker.value) for marker in page}
        self._used.restore(kept)

    async def use(self, event_id: bytes) -> bool:
        """Note that an event (32 bytes) is used, on disk before it allows anything; False if it was used before.

        Raises:
            ControlError: The store did not take the note, and the event may be used later.
        """
        now_s = self._now_s()
        over = self._used.expire(now_s, MAX_MARKERS - 1)
        until_s = self._used.use(event_id, now_s)
        if until_s is None:
            return False
        markers: dict[str, bytes | None] = {_PREFIX + each.hex(): None for each in over}
        markers[_PREFIX + event_id.hex()] = b"%d" % until_s
        try:
            await self._store.change_markers(markers)
        except StoreError as error:
            self._used.forget(event_id)
            raise ControlError(f"the store did not note that the event is used: {error}") from error
        return True
