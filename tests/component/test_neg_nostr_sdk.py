"""rust-nostr's client reconciles with the relay: exact ids on both sides."""

import asyncio
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from nostr_sdk import (
    ClientBuilder,
    Event,
    Filter,
    Kind,
    NostrLmdb,
    RelayUrl,
    SyncDirection,
    SyncOptions,
    uniffi_set_event_loop,
)
from tests.component.neg_world import ids_of, remote_sets
from tests.component.relay_server import FakeTime, local_sets, running_relay
from tests.factory import make_event

from orly.nostr.event import EncodedEvent
from orly.nostr.filter import Filter as OwnFilter
from orly.store.base import EventStore, Query

WAIT: Final = timedelta(seconds=20)
NOW_S: Final = int(time.time())
COMMON: Final = [make_event(created_at=NOW_S - 2 * n, content="common") for n in range(200)]
OURS: Final = [make_event(created_at=NOW_S - 3 * n, content="ours", kind=1 + n % 2) for n in range(60)]
THEIRS: Final = [make_event(created_at=NOW_S - 5 * n, content="theirs", kind=1 + n % 2) for n in range(70)]


async def stored(store: EventStore) -> list[str]:
    rows = (await store.items(Query(filters=(OwnFilter(),)))).rows
    return sorted(rows[start + 8 : start + 40].hex() for start in range(0, len(rows), 40))


async def sync(
    directory: Path, relay_url: str, events: Sequence[EncodedEvent], direction: SyncDirection, wanted: Filter
) -> list[str]:
    """Reconcile a database with these events; the sorted ids it holds afterwards."""
    database = await NostrLmdb.open(str(directory))
    for event in events:
        await database.save_event(Event.from_json(event.raw.decode()))
    client = ClientBuilder().database(database).build()
    url = RelayUrl.parse(relay_url)
    await client.add_relay(url)
    await client.connect()
    try:
        output = await client.sync(wanted, [url], SyncOptions().direction(direction).initial_timeout(WAIT))
        assert output.failed == {}
        assert not any(output.report.send_failures.values())
        return sorted(event.id().to_hex() for event in await database.query(Filter()))
    finally:
        await client.shutdown()


@pytest.mark.parametrize("sets_of", [local_sets, remote_sets], ids=["local", "remote"])
@pytest.mark.parametrize("direction", [SyncDirection.UP, SyncDirection.DOWN, SyncDirection.BOTH])
def test_rust_nostr_syncs_with_the_relay(tmp_path: Path, direction: SyncDirection, sets_of: Any) -> None:
    async def play() -> None:
        uniffi_set_event_loop(asyncio.get_running_loop())
        clocks = FakeTime(now=NOW_S)
        async with running_relay(
            tmp_path / "relay", time=clocks, sets_of=sets_of, negentropy_enabled=True, query_timeout_s=20.0
        ) as relay:
            await relay.fill([*COMMON, *OURS])
            there = await sync(tmp_path / "client", relay.url, [*COMMON, *THEIRS], direction, Filter())
            goes_up, goes_down = direction != SyncDirection.DOWN, direction != SyncDirection.UP
            assert await stored(relay.store) == ids_of(*COMMON, *OURS, *(THEIRS if goes_up else []))
            assert there == ids_of(*COMMON, *THEIRS, *(OURS if goes_down else []))

    asyncio.run(play())


def test_rust_nostr_syncs_a_filter(tmp_path: Path) -> None:
    async def play() -> None:
        uniffi_set_event_loop(asyncio.get_running_loop())
        async with running_relay(tmp_path / "relay", time=FakeTime(now=NOW_S), negentropy_enabled=True) as relay:
            await relay.fill([*COMMON, *OURS])
            wanted = Filter().kind(Kind(2))
            there = await sync(tmp_path / "client", relay.url, [*COMMON, *THEIRS], SyncDirection.BOTH, wanted)
            assert await stored(relay.store) == ids_of(*COMMON, *OURS, *THEIRS[1::2])
            assert there == ids_of(*COMMON, *THEIRS, *OURS[1::2])

    asyncio.run(play())
