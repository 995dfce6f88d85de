"""Child processes of the fault tests: one that meets a limit on file sizes, one that holds or reads a directory.

Every answer is one line of JSON on standard output.
"""

import asyncio
import json
import resource
import sys
from pathlib import Path
from typing import Any

from tests.component.lmdb_backend import MAX_BYTES
from tests.component.store_world import ids_of
from tests.factory import fake_event

from orly.nostr.filter import Filter
from orly.store.base import Query
from orly.store.lmdb.store import LmdbStore


def answer(**found: Any) -> None:
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()


async def limited(directory: Path, max_file_bytes: int) -> None:
    """Save until the file may not grow any more, then lift the limit and save on."""
    store = await LmdbStore.open(directory, max_bytes=MAX_BYTES)
    resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_bytes, resource.RLIM_INFINITY))
    stored = 0
    for n in range(1_000):
        results = await store.save([fake_event(created_at=n * 10 + i, content="x" * 5_000) for i in range(10)])
        if results[0].serial == 0:
            break
        stored += 10
    visible = len(await store.fetch(Query(filters=(Filter(),))))
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    again = (await store.save([fake_event(1)]))[0]
    answer(
        stored=stored,
        visible=visible,
        statuses=sorted({result.status.name for result in results}),
        detail=results[0].detail,
        again=again.status.name,
        again_serial=again.serial,
    )
    await store.close()


async def hold(directory: Path, *, read_only: bool) -> None:
    """Open the directory; answer each line of standard input with all ids, until it ends."""
    store = await LmdbStore.open(directory, max_bytes=MAX_BYTES, read_only=read_only)
    answer(ids=[])
    loop = asyncio.get_running_loop()
    while await loop.run_in_executor(None, sys.stdin.readline):
        answer(ids=ids_of(await store.fetch(Query(filters=(Filter(),)))), serial=await store.last_serial())
    await store.close()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["limited", path, size]:
            asyncio.run(limited(Path(path), int(size)))
        case ["hold", path]:
            asyncio.run(hold(Path(path), read_only=False))
        case ["read", path]:
            asyncio.run(hold(Path(path), read_only=True))
        case _:
            sys.exit("usage: fault_child limited DIRECTORY BYTES | hold DIRECTORY | read DIRECTORY")
