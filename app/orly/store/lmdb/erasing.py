"""What a stored request erases: deletions (NIP-09) by id and by address, and requests to vanish (NIP-62)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from orly.nostr.event import EncodedEvent, decode_verified
from orly.nostr.kinds import DELETION, GIFT_WRAP, VANISH
from orly.nostr.nip42 import targets_relay
from orly.nostr.tags import parse_address, values
from orly.store.lmdb import keys
from orly.store.lmdb.tombstones import id_bytes, recipients

if TYPE_CHECKING:
    from orly.store.lmdb.transaction import Transaction

__all__ = ["apply_deletion", "apply_vanish"]


def apply_deletion(transaction: "Transaction", deletion: EncodedEvent) -> None:
    """NIP-09: leave tombstones, and remove what they cover."""
    transaction.flush()
    for value in values(deletion.event, "e"):
        target = id_bytes(value)
        if target is not None:
            _delete_id(transaction, target, deletion)
    for value in values(deletion.event, "a"):
        address = parse_address(value)
        if address is not None and address[1] == deletion.event.pubkey:
            _delete_address(transaction, keys.address_key(address[0], deletion.pubkey, address[2]), deletion)


def _delete_id(transaction: "Transaction", target: bytes, deletion: EncodedEvent) -> None:
    transaction.tombstones.add_id(target, deletion)
    txn, tables = transaction.txn, transaction.tables
    serial = transaction.serial_of(target)
    if serial is None:
        key = txn.get(target, db=tables.version_ids)
        serial = None if key is None else key[-8:]
    raw = None if serial is None else txn.get(serial, db=tables.events)
    if raw is None:
        return
    found = decode_verified(raw)
    if found.event.kind in (DELETION, VANISH):
        return
    is_recipient = found.event.kind == GIFT_WRAP and deletion.pubkey in recipients(found)
    if found.pubkey == deletion.pubkey or is_recipient:
        transaction.remove(target)


def _delete_address(transaction: "Transaction", address: bytes, deletion: EncodedEvent) -> None:
    transaction.tombstones.add_address(address, deletion)
    txn, tables = transaction.txn, transaction.tables
    until = keys.time_bytes(deletion.event.created_at)
    current = txn.get(address, db=tables.addresses)
    if current is not None and current[:8] <= until:
        transaction.remove_serial(current[40:48])
    with txn.cursor(tables.versions) as cursor:
        kept = _keys_under(cursor, address, until)
    _remove_versions(transaction, kept)


def apply_vanish(transaction: "Transaction", request: EncodedEvent, own_urls: Sequence[str]) -> None:
    """NIP-62: remove what the author wrote and what was wrapped for them, up to the request's time."""
    targets = list(values(request.event, "relay"))
    if "ALL_RELAYS" not in targets and not targets_relay(targets, own_urls):
        return
    transaction.flush()
    transaction.tombstones.add_vanished(request)
    until = keys.time_bytes(request.event.created_at)
    own = _serials_under(transaction, "authors", request.pubkey, until)
    gift_wrap = keys.kind_bytes(GIFT_WRAP)
    wrapped = _serials_under(transaction, "tags", keys.tag_prefix("p", request.pubkey.hex()), until, kind=gift_wrap)
    own.discard(keys.serial_bytes(transaction.serial))
    for serial in sorted(own | wrapped):
        transaction.remove_serial(serial)
    _remove_versions_of(transaction, request.pubkey, until)


def _serials_under(
    transaction: "Transaction", table: str, prefix: bytes, until: bytes, *, kind: bytes | None = None
) -> set[bytes]:
    """The serials of the events under a prefix that are not later than `until` (8 bytes)."""
    with transaction.txn.cursor(getattr(transaction.tables, table)) as cursor:
        positions = [key[len(prefix) :] for key in _keys_under(cursor, prefix, until)]
    for generation in transaction.tail.generations():
        rows = generation.tables[table].get(prefix, ())
        positions.extend(position for position in rows if position[:8] <= until)
    return {position[keys.SERIAL_SLICE] for position in positions if kind is None or position[keys.KIND_SLICE] == kind}


def _remove_versions_of(transaction: "Transaction", pubkey: bytes, until: bytes) -> None:
    with transaction.txn.cursor(transaction.tables.versions) as cursor:
        kept = [key for key in cursor.iternext(keys=True, values=False) if key[2:34] == pubkey and key[66:74] <= until]
    _remove_versions(transaction, kept)


def _remove_versions(transaction: "Transaction", kept: Sequence[bytes]) -> None:
    for key in kept:
        raw = transaction.txn.get(key[-8:], db=transaction.tables.events)
        if raw is not None:
            transaction.remove_version(decode_verified(raw).id)


def _keys_under(cursor: Any, prefix: bytes, until: bytes) -> list[bytes]:
    """The keys with a prefix whose position is not later than `until` (8 bytes)."""
    found: list[bytes] = []
    if not cursor.set_range(prefix):
        return found
    end = len(prefix)
    for key in cursor.iternext(keys=True, values=False):
        if not key.startswith(prefix) or key[end : end + 8] > until:
            break
        found.append(key)
    return found
