"""A full database, a full disk, broken writes, defects: what was acknowledged stays, the rest is refused by name."""

import asyncio
import json
import subprocess
import sys
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

import lmdb
import pytest
from tests.component.lmdb_backend import MAX_BYTES, assert_sound
from tests.component.store_faults import ALL, BrokenEnvironment, assert_holds, fill, fill_up, large, play, small_disk
from tests.component.store_world import DEADLINE_S
from tests.factory import NOW_S, delete_event, fake_event

from orly.nostr.event import EncodedEvent
from orly.store.base import SaveResult, SaveStatus, StoreError, StoreFullError
from orly.store.lmdb.environment import Environment, open_environment, translate_error
from orly.store.lmdb.store import LmdbStore
from orly.store.lmdb.transaction import Transaction

ROOT: Final = Path(__file__).parents[2]


# A full database and a full disk


def test_a_full_database_loses_nothing_and_grows_when_it_may(tmp_path: Path) -> None:
    kept: list[EncodedEvent] = []

    async def full(store: LmdbStore) -> None:
        feed = store.feed(None)
        stored, results = await fill(store)
        assert {result.status for result in results} == {SaveStatus.FAILED}
        assert all(result.serial == 0 and "is full: raise ORLY_DB_MAX_SIZE" in result.detail for result in results)
        assert len(stored) > 50
        await assert_holds(store, stored)
        told = 0
        while told < len(stored):
            told = (await anext(feed)).through_serial
        assert told == len(stored)
        kept.extend(stored)

    async def grown(store: LmdbStore) -> None:
        await assert_holds(store, kept)
        results = await store.save(large(900))
        assert [result.serial for result in results] == list(range(len(kept) + 1, len(kept) + 21))

    play(tmp_path, full, max_bytes=1 << 20)
    assert_sound(tmp_path)
    play(tmp_path, grown)
    assert_sound(tmp_path)


def test_a_full_database_fails_every_kind_of_change_clearly(tmp_path: Path) -> None:
    async def body(store: LmdbStore) -> None:
        stored, _ = await fill(store)
        requests = [delete_event(*stored, created_at=NOW_S + n) for n in range(200)]
        for request in requests:
            result = (await store.save([request]))[0]
            if result.status is SaveStatus.FAILED:
                break
        assert "is full" in result.detail
        assert await store.last_serial() == len(stored) + requests.index(request)

    play(tmp_path, body, max_bytes=1 << 20)
    assert_sound(tmp_path)


def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "3m") as disk:
        kept: list[EncodedEvent] = []
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(1 << 20))

        async def full(store: LmdbStore) -> None:
            stored, results = await fill(store)
            assert {result.status for result in results} == {SaveStatus.FAILED}
            assert "disk" in results[0].detail
            assert str(disk) in results[0].detail
            await assert_holds(store, stored)
            ballast.unlink()
            assert (await store.save([fake_event(1, created_at=NOW_S * 2)]))[0].serial == len(stored) + 1
            kept.extend([*stored, fake_event(1, created_at=NOW_S * 2)])

        async def reopened(store: LmdbStore) -> None:
            await assert_holds(store, kept)

        play(disk / "data", full)
        assert_sound(disk / "data")
        fill_up(ballast)
        play(disk / "data", reopened)


def test_a_limit_on_file_sizes_loses_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.component.fault_child", "limited", str(tmp_path), str(1 << 20)]
    child = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=DEADLINE_S, check=True)
    found = json.loads(child.stdout)
    assert found["statuses"] == ["FAILED"]
    assert "size" in found["detail"]
    assert found["visible"] == found["stored"] >= 50
    assert (found["again"], found["again_serial"]) == ("STORED", found["stored"] + 1)
    assert_sound(tmp_path)


# Broken writes and defects


@pytest.mark.parametrize(("fails_at", "detail"), [("begin", "restart the relay"), ("commit", "full or faulty")])
def test_of_a_write_that_fails_nothing_is_seen_and_the_next_one_works(
    tmp_path: Path, fails_at: str, detail: str
) -> None:
    broken: list[BrokenEnvironment] = []

    def wrap(environment: Environment) -> Environment:
        broken.append(BrokenEnvironment(environment.env))
        return replace(environment, env=broken[0])

    async def body(store: LmdbStore) -> None:
        first, second = fake_event(content="1"), fake_event(content="2")
        await store.save([first])
        feed = store.feed(None)
        broken[0].fails_at = fails_at
        results = await asyncio.gather(store.save([second, first]), store.save([fake_event(3)]))
        assert [result.status for call in results for result in call] == [SaveStatus.FAILED] * 3
        assert detail in results[0][0].detail
        assert await store.fetch(ALL) == [first.raw]
        assert await store.last_serial() == 1
        broken[0].fails_at = fails_at
        with pytest.raises(StoreError, match=detail):
            await store.delete([first.id])
        assert (await store.save([second]))[0] == SaveResult(SaveStatus.STORED, 2)
        assert [item.serial for item in (await anext(feed)).stored] == [2]

    play(tmp_path, body, wrap=wrap)
    assert_sound(tmp_path)


def test_a_defect_in_the_writer_fails_its_batch_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    save = Transaction.save

    def poisoned(self: Transaction, event: EncodedEvent) -> SaveResult:
        if event.event.content == "poison":
            raise ZeroDivisionError("a defect")
        return save(self, event)

    monkeypatch.setattr(Transaction, "save", poisoned)

    async def body(store: LmdbStore) -> None:
        results = await store.save([fake_event(1), fake_event(content="poison")])
        assert [result.status for result in results] == [SaveStatus.FAILED] * 2
        assert "internal error" in results[0].detail
        assert "ZeroDivisionError" in results[0].detail
        assert await store.fetch(ALL) == []
        assert (await store.save([fake_event(1)]))[0] == SaveResult(SaveStatus.STORED, 1)

    play(tmp_path, body)
    assert "a write transaction failed" in caplog.text
    assert_sound(tmp_path)


def test_a_change_that_takes_long_does_not_keep_the_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer waits for a signal that only the loop can give."""
    save, signal = Transaction.save, threading.Event()

    def slow(self: Transaction, event: EncodedEvent) -> SaveResult:
        assert signal.wait(DEADLINE_S / 2), "the loop was kept waiting"
        return save(self, event)

    monkeypatch.setattr(Transaction, "save", slow)

    async def body(store: LmdbStore) -> None:
        first = asyncio.ensure_future(store.save([fake_event(1)]))
        await asyncio.sleep(0)
        second = asyncio.ensure_future(store.save([fake_event(2)]))
        assert await store.count(ALL) == 0
        asyncio.get_running_loop().call_soon(signal.set)
        assert [(await call)[0].serial for call in (first, second)] == [1, 2]

    play(tmp_path, body)
    assert_sound(tmp_path)


def test_serials_that_ran_ahead_of_their_counter_overwrite_nothing(tmp_path: Path) -> None:
    async def save(store: LmdbStore) -> None:
        await store.save([fake_event(content=f"{n}") for n in range(3)])

    async def body(store: LmdbStore) -> None:
        result = (await store.save([fake_event(1)]))[0]
        assert result.status is SaveStatus.FAILED
        assert "orly check" in result.detail
        assert await store.count(ALL) == 3

    play(tmp_path, save)
    environment = open_environment(tmp_path, max_bytes=MAX_BYTES)
    with environment.env.begin(write=True) as txn:
        txn.put(b"last_serial", b"\x00" * 8, db=environment.meta)
    environment.close()
    play(tmp_path, body)


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (lmdb.MapFullError("x"), StoreFullError, "raise ORLY_DB_MAX_SIZE"),
        (lmdb.DiskError("mdb_txn_commit: No space left on device"), StoreFullError, "no space left on the disk of"),
        (lmdb.Error("mdb_txn_commit: Disk quota exceeded"), StoreFullError, "no space left on the disk of"),
        (lmdb.Error("mdb_txn_commit: File too large"), StoreFullError, "largest size"),
        (lmdb.Error("mdb_txn_commit: Input/output error"), StoreError, "full or faulty"),
        (lmdb.PanicError("x"), StoreError, "restart the relay"),
        (lmdb.ReadersFullError("x"), StoreError, "256 times at once"),
        (lmdb.MapResizedError("x"), StoreError, "outgrew this process"),
        (lmdb.CorruptedError("x"), StoreError, "is damaged"),
        (lmdb.BadTxnError("something else"), StoreError, "failed: something else"),
    ],
)
def test_every_error_says_what_to_do(tmp_path: Path, error: lmdb.Error, kind: type[StoreError], text: str) -> None:
    found = translate_error(error, tmp_path)
    assert type(found) is kind
    assert text in str(found)
    assert str(tmp_path) in str(found)


def test_the_sweep_runs_by_itself_and_survives_failures(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    now_s = NOW_S
    broken: list[BrokenEnvironment] = []

    def wrap(environment: Environment) -> Environment:
        broken.append(BrokenEnvironment(environment.env))
        return replace(environment, env=broken[0])

    async def body(store: LmdbStore) -> None:
        nonlocal now_s
        event = fake_event(tags=[["expiration", str(NOW_S + 1)]])
        await store.save([event])
        feed = store.feed(None)
        failed = asyncio.Event()
        broken[0].failed = partial(asyncio.get_running_loop().call_soon_threadsafe, failed.set)
        broken[0].fails_at = "commit"
        await failed.wait()
        now_s += 1
        assert (await anext(feed)).removed == (event.id,)
        assert "could not be purged" in caplog.text

    play(tmp_path, body, wrap=wrap, now_s=lambda: now_s, sweep_interval_s=0.005)
