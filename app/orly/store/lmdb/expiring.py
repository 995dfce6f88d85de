"""What expires, and when: the expiry index, for who keeps a set of events in memory."""

from collections.abc import Iterator
from itertools import islice
from struct import Struct
from typing import Final

from orly.nostr.event import ID_IN_JSON, MAX_CREATED_AT, decode_stored
from orly.store.lmdb import keys
from orly.store.lmdb.reader import View

__all__ = ["expiring"]

_CHUNK: Final = 256
_ROW: Final = Struct(">8sQ32s")


def expiring(view: View, after_s: int) -> Iterator[list[bytes]]:
    """The visible events that expire after a second, as rows of `EXPIRATION_BYTES` in ascending order.

    Chunks may be empty: they are where a long search can be interrupted. Rows of this index never wait in memory.
    """
    txn, tables = view.txn, view.tables
    first_s = max(after_s, view.now_s) + 1
    if first_s > MAX_CREATED_AT:
        return
    get, events, versions = txn.get, tables.events, tables.version_ids
    has_versions = bool(txn.stat(versions)["entries"])
    same_second: list[bytes] = []
    with txn.cursor(tables.expirations) as cursor:
        if not cursor.set_range(keys.time_bytes(first_s)):
            return
        index = cursor.iternext(keys=True, values=False)
        while chunk := list(islice(index, _CHUNK)):
            done: list[bytes] = []
            for key in chunk:
                serial = key[8:]
                raw = get(serial, None, events)
                if raw is None:
                    continue
                event_id = bytes.fromhex(raw[ID_IN_JSON].decode())
                kept = get(event_id, None, versions) if has_versions else None
                if kept is not None and kept[-8:] == serial:
                    continue
                row = _ROW.pack(key[:8], decode_stored(raw).created_at, event_id)
                if same_second and same_second[0][:8] != key[:8]:
                    same_second.sort()
                    done += same_second
                    same_second = []
                same_second.append(row)
            yield done
    same_second.sort()
    yield same_second
