"""Has the store hide what is banned, and show what is not any more, in the background."""

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Final

from orly.store.base import MAX_HIDDEN_KEYS, EventStore, HiddenKey, StoreError

__all__ = ["Hider"]

FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 10.0
"""Between attempts while the store fails."""

log = logging.getLogger(__name__)


class Hider:
    """Brings what the store hides to what is wanted, key by key; used from one event loop.

    Args:
        store: Whose events.
        is_wanted: Whether what a key stands for is to be hidden; asked when it is its turn.
    """

    def __init__(self, store: EventStore, is_wanted: Callable[[HiddenKey], bool]) -> None:
        self._store = store
        self._is_wanted = is_wanted
        self._waiting: dict[HiddenKey, None] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self._task: asyncio.Task[None] | None = None

    def settle(self, keys: Iterable[HiddenKey]) -> None:
        """Look at these keys soon."""
        for key in keys:
            self._waiting.pop(key, None)
            self._waiting[key] = None
        if self._waiting:
            self._idle.clear()
            self._begin()

    def _begin(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._work())
            self._task.add_done_callback(self._worked)

    async def settled(self, timeout_s: float) -> bool:
        """Wait until nothing is left to be done; False if that takes longer."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        """Leave the rest; it is found again by who compares what is hidden with what is wanted."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))

    def _worked(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if not task.cancelled() and task.exception() is not None:
            log.error("hiding has stopped", exc_info=task.exception())
        elif not task.cancelled() and self._waiting:  # these came when it had just finished
            self._begin()
            return
        self._idle.set()

    async def _work(self) -> None:
        pause_s = FIRST_PAUSE_S
        while self._waiting:
            # The newest first: whoever bans waits for it, and a start with other rules may leave a million before.
            chosen = [key for key, _ in zip(reversed(self._waiting), range(MAX_HIDDEN_KEYS), strict=False)]
            hidden = [key for key in chosen if self._is_wanted(key)]
            shown = [key for key in chosen if not self._is_wanted(key)]
            try:
                if hidden:
                    await self._store.hide(hidden)
                if shown:
                    await self._store.show(shown)
            except StoreError as error:
                log.warning("%d banned or unbanned keys wait for the store: %s", len(self._waiting), error)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
                continue
            pause_s = FIRST_PAUSE_S
            changed = {key for key in hidden if not self._is_wanted(key)} | {
                key for key in shown if self._is_wanted(key)
            }
            for key in chosen:
                if key not in changed:  # else it was banned or unbanned meanwhile
                    self._waiting.pop(key, None)
