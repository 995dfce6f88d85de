"""A child process for the crash test: saves an endless, repeatable sequence of events until it is killed.

Run with a data directory and the number of the first event. For each acknowledged event it writes one line to
standard output: its number and its serial (0 if it was not stored).
"""

import asyncio
import os
import sys
from itertools import count
from pathlib import Path
from random import Random
from typing import Final

from tests.factory import KEYS, NOW_S, fake_event

from orly.nostr.event import EncodedEvent
from orly.store.lmdb.store import LmdbStore

__all__ = ["KEEP_VERSIONS", "MAX_BYTES", "event_number"]

MAX_BYTES: Final = 1 << 30
KEEP_VERSIONS: Final = True
LANES: Final = 4
"""Saves under way at once, so that transactions hold more than one."""


def event_number(n: int) -> EncodedEvent:
    """The n-th event: notes, versions of a few addresses, deletions of recent ones, requests to vanish."""
    random = Random(n)
    key, created_at = n % 4, NOW_S + n
    match random.randrange(20):
        case 0:
            targets = [["e", event_number(n - back).event.id] for back in (1, 4, 8) if n >= back and n % 3 == 0]
            return fake_event(key, 5, created_at, [*targets, ["a", f"30023:{KEYS[key]}:{n % 2}"]])
        case 1 if n % 7 == 0:
            return fake_event(key, 62, created_at, [["relay", "ALL_RELAYS"]])
        case 2 | 3 | 4:
            return fake_event(key, 30_023, created_at - random.randrange(30), [["d", f"{n % 2}"]])
        case 5 | 6:
            return fake_event(key, 0, created_at - random.randrange(30))
        case _:
            size = random.choice([0, 10, 300, 300, 5_000])
            return fake_event(key, 1, created_at, [["t", f"{n % 10}"], ["p", KEYS[n % 5]]], "x" * size)


async def write(directory: Path, first: int) -> None:
    store = await LmdbStore.open(
        directory,
        max_bytes=MAX_BYTES,
        keep_versions=KEEP_VERSIONS,
        now_s=lambda: NOW_S,
        generation_events=Random(first).choice([5, 300, 16_384]),
    )
    numbers = count(first)

    async def lane() -> None:
        while True:
            start = next(numbers)
            batch = [start, *(next(numbers) for _ in range(Random(start).choice([0, 0, 1, 8])))]
            results = await store.save([event_number(n) for n in batch])
            lines = [f"{n} {result.serial}\n" for n, result in zip(batch, results, strict=True)]
            os.write(1, "".join(lines).encode())

    await asyncio.gather(*(lane() for _ in range(LANES)))


if __name__ == "__main__":
    asyncio.run(write(Path(sys.argv[1]), int(sys.argv[2])))
