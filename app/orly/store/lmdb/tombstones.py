"""What must not be stored (again): the marks that deletions (NIP-09) and requests to vanish (NIP-62) leave."""

from collections.abc import Callable
from typing import Any

from orly.nostr.event import EncodedEvent
from orly.nostr.kinds import DELETION, GIFT_WRAP, VANISH
from orly.nostr.tags import values
from orly.store.base import SaveStatus
from orly.store.lmdb import keys
from orly.store.lmdb.environment import Environment

__all__ = ["Tombstones", "id_bytes", "recipients"]


class Tombstones:
    """The marks as one transaction sees them, with those it adds."""

    __slots__ = ("_has_addresses", "_has_ids", "_has_vanished", "_tables", "_txn")

    def __init__(self, tables: Environment, txn: Any) -> None:
        """Look which kinds of marks there are at all."""
        self._tables = tables
        self._txn = txn
        self._has_ids = self._any(tables.deleted_ids)
        self._has_addresses = self._any(tables.deleted_addresses)
        self._has_vanished = self._any(tables.vanished)

    def _any(self, table: Any) -> bool:
        return bool(self._txn.stat(table)["entries"])

    def forbids(self, event: EncodedEvent, serial_of: Callable[[bytes], bytes | None]) -> SaveStatus | None:
        """Why a deletion or vanish request forbids this event; None if nothing does.

        Args:
            event: What would be stored.
            serial_of: Tells the serial (8 bytes) of a stored event by its id.
        """
        fields = event.event
        if self._has_vanished and self._is_vanished(event, serial_of):
            return SaveStatus.VANISHED
        if fields.kind in (DELETION, VANISH):
            return None
        if self._has_ids and self._is_deleted(event):
            return SaveStatus.DELETED
        if self._has_addresses:
            address = keys.address_of(event)
            if address is not None:
                found = self._txn.get(address, db=self._tables.deleted_addresses)
                if found is not None and keys.time_bytes(fields.created_at) <= found[:8]:
                    return SaveStatus.DELETED
        return None

    def _is_deleted(self, event: EncodedEvent) -> bool:
        """By its author; a gift wrap also by who it is for."""
        get, table = self._txn.get, self._tables.deleted_ids
        if get(event.id + event.pubkey, db=table) is not None:
            return True
        return event.event.kind == GIFT_WRAP and any(
            get(event.id + recipient, db=table) is not None for recipient in recipients(event)
        )

    def _is_vanished(self, event: EncodedEvent, serial_of: Callable[[bytes], bytes | None]) -> bool:
        created_at = keys.time_bytes(event.event.created_at)
        get, table = self._txn.get, self._tables.vanished
        found = get(event.pubkey, db=table)
        if found is not None and created_at <= found:
            # The request itself is kept, for bookkeeping: sent again, it is a duplicate.
            return not (event.event.kind == VANISH and serial_of(event.id) is not None)
        if event.event.kind != GIFT_WRAP:
            return False
        return any(
            (until := get(recipient, db=table)) is not None and created_at <= until for recipient in recipients(event)
        )

    def add_id(self, event_id: bytes, deletion: EncodedEvent) -> None:
        """Who signed the deletion does not want this event; it counts only if that may be said."""
        self._txn.put(event_id + deletion.pubkey, deletion.id, db=self._tables.deleted_ids, overwrite=False)
        self._has_ids = True

    def add_address(self, address: bytes, deletion: EncodedEvent) -> None:
        """Nothing at this address that is as old as the deletion."""
        until = keys.time_bytes(deletion.event.created_at)
        before = self._txn.get(address, db=self._tables.deleted_addresses)
        if before is None or before[:8] < until:
            self._txn.put(address, until + deletion.id, db=self._tables.deleted_addresses)
        self._has_addresses = True

    def add_vanished(self, request: EncodedEvent) -> None:
        """Nothing by or for this key that is as old as the request."""
        self._txn.put(request.pubkey, keys.time_bytes(request.event.created_at), db=self._tables.vanished)
        self._has_vanished = True


def id_bytes(text: str) -> bytes | None:
    """The 32 bytes of an id or key in lower-case hex; None for any other text."""
    try:
        value = bytes.fromhex(text)
    except ValueError:
        return None
    return value if len(value) == 32 and value.hex() == text else None


def recipients(event: EncodedEvent) -> list[bytes]:
    """Who a gift wrap is for: the keys in its `p` tags."""
    return [key for value in values(event.event, "p") if (key := id_bytes(value)) is not None]
