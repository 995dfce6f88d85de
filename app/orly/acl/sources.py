"""What access control learns from stored events: whom owners and admins follow, and the configuration of `curating`.

Only what is stored counts, and nothing is stored whose signature was not verified.
"""

import logging
from collections.abc import Collection
from typing import Final

from orly.access.curating import CONFIG_D, CONFIG_KIND, CuratingConfig, CuratingConfigError, is_config, parse_config
from orly.nostr.event import Event, decode_stored
from orly.nostr.filter import Filter
from orly.nostr.tags import values
from orly.store.base import EventStore, Query

__all__ = ["FOLLOW_LIST", "RELAY_LIST", "followed_by", "newest_config", "relays_of"]

FOLLOW_LIST: Final = 3
RELAY_LIST: Final = 10_002

MAX_FOLLOWED: Final = 1_000_000
"""Keys followed by all together; further ones are left out."""

_KEY_CHARACTERS: Final = 64
_HEX: Final = frozenset("0123456789abcdef")

log = logging.getLogger(__name__)


async def _events(store: EventStore, kind: int, authors: Collection[bytes], **tags: frozenset[str]) -> list[Event]:
    if not authors:
        return []
    wanted = Filter(kinds=frozenset({kind}), authors=frozenset(map(bytes.hex, authors)), tags=dict(tags))
    return [decode_stored(raw) for raw in await store.fetch(Query(filters=(wanted,)))]


async def followed_by(store: EventStore, authors: Collection[bytes]) -> tuple[set[bytes], set[bytes]]:
    """The keys in the newest follow list of each author (NIP-02), and the ids of these lists; all of 32 bytes.

    Raises:
        StoreError: They cannot be read.
    """
    lists = await _events(store, FOLLOW_LIST, authors)
    found: set[bytes] = set()
    for value in (value for event in lists for value in values(event, "p")):
        if len(value) == _KEY_CHARACTERS and _HEX.issuperset(value):
            found.add(bytes.fromhex(value))
            if len(found) >= MAX_FOLLOWED:
                log.warning("more than %d keys are followed: the rest is left out", MAX_FOLLOWED)
                break
    return found, {bytes.fromhex(event.id) for event in lists}


async def relays_of(store: EventStore, authors: Collection[bytes]) -> list[str]:
    """The relays that the authors say they use (NIP-65), each once.

    Raises:
        StoreError: They cannot be read.
    """
    return list(dict.fromkeys(url for event in await _events(store, RELAY_LIST, authors) for url in values(event, "r")))


async def newest_config(store: EventStore, authors: Collection[bytes]) -> tuple[Event, CuratingConfig] | None:
    """The newest readable configuration of one of the authors; None if there is none.

    Raises:
        StoreError: They cannot be read.
    """
    for event in await _events(store, CONFIG_KIND, authors, d=frozenset({CONFIG_D})):
        if not is_config(event):  # only its first `d` tag says what it is
            continue
        try:
            return event, parse_config(event)
        except CuratingConfigError as error:
            log.warning("the curating configuration %s of %s is passed over: %s", event.id, event.pubkey, error)
    return None
