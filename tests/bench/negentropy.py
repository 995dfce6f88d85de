"""`python -m tests.bench.negentropy`: what reconciling large sets costs in CPU time, bytes and memory.

Both sides run in this process; each one's CPU time is taken by itself. Bytes are those of the messages; NIP-77 sends
them as hex, which is twice as many. There are no sockets.
"""

import argparse
import gc
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from tests.bench.measure import machine_facts
from tests.bench.table import markdown

from orly.negentropy import ITEM_BYTES, Initiator, ItemSet, Responder

_FIRST_S: Final = 1_600_000_000
_SPAN_S: Final = 100_000_000
_SEED: Final = 77
_REPEATS: Final = 9
_LIMITS: Final = ((0, 0), (60_000, 500_000), (60_000, 60_000), (4096, 4096))
"""Frame limits of who asks and who answers: none, strfry's, rust-nostr's, and the least of the reference."""


def _random_rows(total: int, chance: np.random.Generator, first_s: int = _FIRST_S, span_s: int = _SPAN_S) -> bytes:
    rows = chance.integers(0, 256, (total, ITEM_BYTES), dtype=np.uint8)
    rows[:, :8] = chance.integers(first_s, first_s + span_s, total).astype(">u8").view(np.uint8).reshape(total, 8)
    return rows.tobytes()


def _cpu_s(call: Callable[[], object], repeats: int = _REPEATS) -> float:
    """The median CPU time of a call."""
    found = []
    for _ in range(repeats):
        begin = time.process_time()
        call()
        found.append(time.process_time() - begin)
    return sorted(found)[repeats // 2]


def _memory_bytes() -> int:
    """What this process has in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def _reconcile(ours: ItemSet, theirs: ItemSet, max_asked_bytes: int, max_answered_bytes: int) -> list[str]:
    """A row of the table: reconcile, and measure each side."""
    gc.collect()
    before = peak = _memory_bytes()
    spent_s = [0.0, 0.0]
    wire = rounds = have = need = 0
    begin = time.process_time()
    initiator = Initiator(ours, max_frame_bytes=max_asked_bytes)
    responder = Responder(theirs, max_frame_bytes=max_answered_bytes)
    message: bytes | None = initiator.initiate()
    spent_s[0] += time.process_time() - begin
    while message is not None:
        rounds += 1
        begin = time.process_time()
        answer = responder.answer(message)
        between = time.process_time()
        step = initiator.reconcile(answer)
        end = time.process_time()
        spent_s[1] += between - begin
        spent_s[0] += end - between
        wire += len(message) + len(answer)
        have, need = have + len(step.have), need + len(step.need)
        message = step.next
        if rounds % 8 == 1 or message is None:
            peak = max(peak, _memory_bytes())
    limits = "none" if not max_asked_bytes else f"{max_asked_bytes:,} / {max_answered_bytes:,}"
    difference = f"{have:,} / {need:,}"
    asked_s, answered_s = (f"{one:.3f}" for one in spent_s)
    return [difference, limits, str(rounds), asked_s, answered_s, f"{wire / 1e6:.2f}", f"{(peak - before) / 1e6:.0f}"]


def _reconciliations(total: int, chance: np.random.Generator, small: int) -> str:
    common = _random_rows(total, chance)
    ours, theirs = ItemSet.from_rows(common), ItemSet.from_rows(common)
    rows = [_reconcile(ours, theirs, 0, 0)]
    for differing in (10, 1000, small):
        half = differing // 2
        one, other = (items.changed(added=_random_rows(half, chance)) for items in (ours, theirs))
        rows += [_reconcile(one, other, *limits) for limits in (_LIMITS if differing == small else _LIMITS[:2])]
    few = ItemSet.from_rows(_random_rows(100, chance))
    rows += [_reconcile(few, theirs, 60_000, 500_000), _reconcile(ours, few, 60_000, 500_000)]
    head = [
        "only here / only there",
        "frames asked / answered",
        "rounds",
        "CPU s asking",
        "CPU s answering",
        "MB",
        "MB more memory",
    ]
    return markdown(head, rows, set(range(2, len(head))))


def _operations(total: int, chance: np.random.Generator) -> str:
    picked = random.Random(_SEED)
    rows = _random_rows(total, chance)
    items = ItemSet.from_rows(rows)
    ordered = items.rows()
    last_s = _FIRST_S + _SPAN_S
    first = Initiator(items).initiate()
    ids = [rows[at + 8 : at + ITEM_BYTES] for at in range(0, len(rows), len(rows) // 100 // ITEM_BYTES * ITEM_BYTES)]
    tail, anywhere = _random_rows(100, chance, last_s, 60), _random_rows(100, chance)
    ranges = [sorted((picked.randrange(total), picked.randrange(total))) for _ in range(1000)]
    measured: list[tuple[str, float]] = [
        ("make of sorted rows", _cpu_s(lambda: ItemSet.from_rows(ordered, is_sorted=True))),
        ("make of rows in any order", _cpu_s(lambda: ItemSet.from_rows(rows), 3)),
        ("first message", _cpu_s(lambda: Initiator(items).initiate())),
        ("answer to the same set", _cpu_s(lambda: Responder(items).answer(first))),
        ("fingerprint of a random range", _cpu_s(lambda: [items.fingerprint(*one) for one in ranges]) / len(ranges)),
        ("add 100 at the tail", _cpu_s(lambda: items.changed(added=tail))),
        ("add 100 at random places", _cpu_s(lambda: items.changed(added=anywhere))),
        ("remove 100 by their ids", _cpu_s(lambda: items.without_ids(ids))),
        ("a window of time", _cpu_s(lambda: items.between(_FIRST_S + _SPAN_S // 3, _FIRST_S + _SPAN_S // 2))),
    ]
    return markdown(["operation", "CPU ms"], [[name, f"{cpu_s * 1e3:.3f}"] for name, cpu_s in measured], {1})


def main(arguments: Sequence[str]) -> int:
    """Measure and print; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.negentropy", description=__doc__)
    parser.add_argument("--items", type=int, default=1_000_000, help="items each side has (default: %(default)s)")
    parser.add_argument("--differing", type=int, default=10_000, help="the largest difference (default: %(default)s)")
    options = parser.parse_args(arguments)
    chance = np.random.default_rng(_SEED)
    for name, fact in machine_facts(("orly", "numpy")).items():
        print(f"{name}: {fact}")
    print(f"\nReconciling, {options.items:,} items on each side where nothing else is said\n")
    print(_reconciliations(options.items, chance, options.differing))
    print(f"\nOperations on a set of {options.items:,} items\n")
    print(_operations(options.items, chance))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
