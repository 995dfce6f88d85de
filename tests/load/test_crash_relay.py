"""The relay process is killed, or stopped, while clients write: what was acknowledged is there afterwards."""

import asyncio
import random
import signal
from pathlib import Path
from typing import Final

from tests.load.writers import Ledger, fetch, write
from tests.process import RelayProcess, run_orly, running_relay
from tests.wsclient import connect, until

WRITERS: Final = 4
KILLS: Final = 12
STOPS: Final = 3
MOST_OKS: Final = 800
"""A process ends after a random number of answers up to this."""

ASKED: Final = 4000
"""Ids in one request."""


async def _kill(relay: RelayProcess, ledger: Ledger, oks: int) -> None:
    """Kills the relay once it has given that many more answers."""
    async with asyncio.TaskGroup() as group:
        writers = [group.create_task(write(relay.url, key, ledger)) for key in range(WRITERS)]
        await until(lambda: ledger.writers == WRITERS, "all writers")
        wanted = ledger.acknowledged + oks
        await until(lambda: ledger.acknowledged >= wanted, f"{oks} answers")
        await asyncio.to_thread(relay.kill)
    assert [writer.result() for writer in writers] == [None] * WRITERS, "a killed process says nothing"


async def _stop(relay: RelayProcess, ledger: Ledger, oks: int) -> None:
    """Stops the relay once it has given that many more answers; every client is told."""
    async with asyncio.TaskGroup() as group:
        writers = [group.create_task(write(relay.url, key, ledger)) for key in range(WRITERS)]
        await until(lambda: ledger.writers == WRITERS, "all writers")
        wanted = ledger.acknowledged + oks
        await until(lambda: ledger.acknowledged >= wanted, f"{oks} answers")
        relay.signal(signal.SIGTERM)
    assert [writer.result() for writer in writers] == [1001] * WRITERS
    assert await asyncio.to_thread(relay.child.wait, 10) == 0


async def _keeps(url: str, ledger: Ledger) -> None:
    """Everything in the ledger is as it was promised."""
    async with connect(url) as client:
        notes = sorted(ledger.notes)
        found: set[str] = set()
        for start in range(0, len(notes), ASKED):
            ids = notes[start : start + ASKED]
            found.update(event["id"] for event in await fetch(client, {"ids": ids, "limit": ASKED}))
        assert not ledger.notes - found, f"{len(ledger.notes - found)} acknowledged events are lost"
        for author, at_s in ledger.newest.items():
            (version,) = await fetch(client, {"authors": [author], "kinds": [0]})
            assert version["created_at"] >= at_s, "an acknowledged version was replaced by an older one"
        deleted = sorted(ledger.deleted)
        for start in range(0, len(deleted), ASKED):
            assert await fetch(client, {"ids": deleted[start : start + ASKED]}) == [], "a deletion was forgotten"


def _is_clean(data_dir: Path) -> None:
    checked = run_orly("check", data_dir=data_dir)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_nothing_acknowledged_is_lost_when_the_process_is_killed(tmp_path: Path) -> None:
    dice = random.Random()
    ledger = Ledger()
    kills = [0, *(dice.randrange(MOST_OKS) for _ in range(KILLS - 1))]
    for oks in kills:
        with running_relay(ORLY_DATA_DIR=str(tmp_path)) as relay:
            asyncio.run(_keeps(relay.url, ledger))
            asyncio.run(_kill(relay, ledger, oks))
        _is_clean(tmp_path)
    with running_relay(ORLY_DATA_DIR=str(tmp_path)) as relay:
        asyncio.run(_keeps(relay.url, ledger))
    assert ledger.refusals == []
    assert ledger.acknowledged >= sum(kills)


def test_a_stop_under_load_keeps_every_promise_and_tells_every_client(tmp_path: Path) -> None:
    dice = random.Random()
    ledger = Ledger()
    for _ in range(STOPS):
        with running_relay(ORLY_DATA_DIR=str(tmp_path)) as relay:
            asyncio.run(_keeps(relay.url, ledger))
            asyncio.run(_stop(relay, ledger, dice.randrange(MOST_OKS)))
        _is_clean(tmp_path)
    with running_relay(ORLY_DATA_DIR=str(tmp_path)) as relay:
        asyncio.run(_keeps(relay.url, ledger))
    assert set(ledger.refusals) <= {"error: the relay is stopping"}
