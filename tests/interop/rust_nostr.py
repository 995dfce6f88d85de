"""rust-nostr's relay and client (`nostr-sdk`) behind the few commands of strfry's that a sync test needs.

    rust_nostr.py --config=FILE relay
    rust_nostr.py --config=FILE sync URL --dir=down|up|both --filter=JSON
    rust_nostr.py --config=FILE export

All of them work on one LMDB database, beside each other. Of the file `db`, `bind` and `port` count. Nothing of this
project is imported, so that it runs wherever nostr-sdk does.
"""

import asyncio
import os
import re
import sys
from collections.abc import Coroutine
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from nostr_sdk import (
    ClientBuilder,
    Filter,
    LocalRelayBuilder,
    NostrLmdb,
    RateLimit,
    RelayUrl,
    SyncDirection,
    SyncOptions,
    uniffi_set_event_loop,
)

__all__ = ["main"]

_WITHIN: Final = timedelta(seconds=20)
_UNLIMITED: Final = 2**31 - 1
_DIRECTIONS: Final = {"down": SyncDirection.DOWN, "up": SyncDirection.UP, "both": SyncDirection.BOTH}


def _configured(path: str) -> dict[str, str]:
    text = Path(path).read_text()
    return {name: value.strip('"') for name, value in re.findall(r"^\s*(db|bind|port) = (\S+)$", text, re.MULTILINE)}


async def _relay(configuration: dict[str, str]) -> int:
    relay = (
        LocalRelayBuilder()
        .addr(configuration["bind"])
        .port(int(configuration["port"]))
        .database(await NostrLmdb.open(configuration["db"]))
        .rate_limit(RateLimit(max_reqs=_UNLIMITED, notes_per_minute=_UNLIMITED))
        .build()
    )
    await relay.run()
    await asyncio.Event().wait()
    return 0


async def _sync(configuration: dict[str, str], url: str, direction: str, wanted: str) -> int:
    client = ClientBuilder().database(await NostrLmdb.open(configuration["db"])).build()
    relay = RelayUrl.parse(url)
    await client.add_relay(relay)
    await client.connect()
    options = SyncOptions().direction(_DIRECTIONS[direction]).initial_timeout(_WITHIN)
    output = await client.sync(Filter.from_json(wanted), [relay], options)
    report = output.report
    _say(f"Have {len(report.local)} need {len(report.remote)}")
    _say(f"sent {len(report.sent)} received {len(report.received)} failed {output.failed} {report.send_failures}")
    return 1 if output.failed else 0  # an event that the relay refused is no failure, as with strfry


async def _export(configuration: dict[str, str]) -> int:
    database = await NostrLmdb.open(configuration["db"])
    for event in await database.query(Filter()):
        _say(event.as_json())
    return 0


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


def main(arguments: list[str]) -> int:
    """Does what the arguments say; the exit status."""
    options = dict(word.removeprefix("--").split("=", 1) for word in arguments if word.startswith("--"))
    words = [word for word in arguments if not word.startswith("--")]
    configuration = _configured(options["config"])

    async def started(work: Coroutine[Any, Any, int]) -> int:
        uniffi_set_event_loop(asyncio.get_running_loop())
        return await work

    match words:
        case ["relay"]:
            return asyncio.run(started(_relay(configuration)))
        case ["sync", url]:
            return asyncio.run(started(_sync(configuration, url, options["dir"], options.get("filter", "{}"))))
        case ["export"]:
            return asyncio.run(started(_export(configuration)))
        case _:
            sys.stderr.write(f"unknown arguments: {arguments}\n")
            return 2


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(status)  # the library's threads may outlive the interpreter that they call into
