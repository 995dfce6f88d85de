"""`python -m tests.bench.access`: what access control costs with long lists: memory, and CPU time of a decision."""

import argparse
import gc
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from tests.bench.measure import machine_facts
from tests.bench.table import markdown
from tests.factory import KEYS, fake_event

from orly.access.decide import standing_of
from orly.access.keyset import KeySet
from orly.access.levels import Mode
from orly.access.snapshot import ListName, Rules, Snapshot
from orly.acl.wire import SnapshotReader, snapshot_parts
from orly.nostr.event import EncodedEvent
from orly.relay.visitor import Visitor

_CALLS: Final = 200_000
_REPEATS: Final = 7


class _Access:
    """Just a snapshot."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot


def _cpu_us(call: Callable[[], object]) -> float:
    """The least CPU time of one call, in microseconds."""
    found = []
    for _ in range(_REPEATS):
        begin = time.process_time()
        for _ in range(_CALLS):
            call()
        found.append(time.process_time() - begin)
    return min(found) / _CALLS * 1e6


def _memory_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def _event(pubkey: bytes) -> EncodedEvent:
    made = fake_event()
    return EncodedEvent(made.event, made.raw, made.id, pubkey, made.sig)


def _snapshot(mode: Mode, listed: ListName, keys: KeySet) -> Snapshot:
    snapshot = Snapshot(Rules(mode=mode, owners=frozenset({bytes.fromhex(KEYS[0])})))
    snapshot.put(listed, keys)
    return snapshot


def _rows(total: int) -> list[list[str]]:
    raw = sorted({os.urandom(32) for _ in range(total)})
    joined = b"".join(raw)
    listed, unknown, owner = raw[total // 2], os.urandom(32), bytes.fromhex(KEYS[0])
    del raw
    gc.collect()
    before = _memory_bytes()
    begin = time.process_time()
    keys = KeySet(joined)
    rows = [
        ["list of banned keys: make it", f"{(time.process_time() - begin) * 1e3:.0f} ms"],
        ["memory of the list, with its keys", f"{(_memory_bytes() - before + len(joined)) / 2**20:.0f} MiB"],
    ]
    for mode, name in ((Mode.NONE, ListName.BANNED_PUBKEYS), (Mode.MANAGED, ListName.ALLOWED_PUBKEYS)):
        snapshot = _snapshot(mode, name, keys)
        visitor = Visitor(_Access(snapshot), "192.0.2.1")  # type: ignore[arg-type]
        for what, author in (("on it", listed), ("not on it", unknown), ("an owner", owner)):
            event = _event(author)
            cost = _cpu_us(lambda visitor=visitor, event=event: visitor.refuse_write(event))  # type: ignore[misc]
            rows.append([f"decide about an event, {mode.value}, {name.value}, author {what}", f"{cost:.2f} us"])
    snapshot = Snapshot(Rules())
    visitor = Visitor(_Access(snapshot), "192.0.2.1")  # type: ignore[arg-type]
    event = _event(unknown)
    rows.append(["decide about an event, none, empty lists", f"{_cpu_us(lambda: visitor.refuse_write(event)):.2f} us"])
    snapshot = _snapshot(Mode.NONE, ListName.BANNED_PUBKEYS, keys)
    cost = _cpu_us(lambda: standing_of(snapshot, [unknown], "192.0.2.1"))
    rows.append(["look again at a connection after a change", f"{cost:.2f} us"])
    begin = time.process_time()
    parts = list(snapshot_parts(snapshot))
    sent = time.process_time() - begin
    begin = time.process_time()
    reader = SnapshotReader(0)
    for part in parts:
        reader.take(part)
    rows.append(
        [
            "hand the lists to a worker: sender, receiver",
            f"{sent * 1e3:.0f} ms, {(time.process_time() - begin) * 1e3:.0f} ms",
        ]
    )
    return rows


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.access", description=__doc__)
    parser.add_argument("--keys", type=int, default=1_000_000, help="on the list")
    options = parser.parse_args(arguments)
    for name, value in machine_facts(("orly", "msgspec")).items():
        print(f"{name}: {value}")
    print(markdown(["", f"{options.keys:,} keys"], _rows(options.keys), {1}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
