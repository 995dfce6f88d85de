"""`check` finds nothing in a sound database, and every kind of damage that is done to one."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.component.lmdb_backend import MAX_BYTES
from tests.factory import (
    KEYS,
    NOW_S,
    address_of,
    delete_event,
    expiring_event,
    fake_event,
    gift_wrap,
    make_event,
    vanish_event,
)

from orly.nostr.event import EncodedEvent
from orly.store.base import StoreError
from orly.store.lmdb import keys
from orly.store.lmdb.check import MAX_PROBLEMS, CheckReport, check
from orly.store.lmdb.environment import Environment, open_environment
from orly.store.lmdb.store import LmdbStore

NOTE = fake_event(0, 1, NOW_S, [["t", "x"], ["p", KEYS[1]], ["expiration", str(NOW_S * 2)]])
ARTICLE = fake_event(1, 30_023, NOW_S + 1, [["d", "x"]])
OLDER = fake_event(1, 30_023, NOW_S, [["d", "x"]])
WRAP = gift_wrap(KEYS[2], key=3)
DELETION = delete_event(fake_event(content="gone"), created_at=NOW_S)
SERIALS = {NOTE.id: 1, OLDER.id: 2, ARTICLE.id: 3, WRAP.id: 4, DELETION.id: 5}
SERIAL = {name: keys.serial_bytes(n) for name, n in (("note", 1), ("older", 2), ("article", 3), ("none", 99))}
ROWS = keys.index_rows(NOTE, 1)
VERSION = keys.address_key(30_023, ARTICLE.pubkey, "x") + keys.position(NOW_S, OLDER.id, 30_023, 2)
ADDRESS = keys.address_key(30_023, ARTICLE.pubkey, "x")


@contextmanager
def database(directory: Path, *events: EncodedEvent) -> Iterator[Environment]:
    """A database with the events in it, open."""

    async def fill() -> None:
        store = await LmdbStore.open(directory, max_bytes=MAX_BYTES, keep_versions=True, now_s=lambda: NOW_S)
        await store.save(events)
        await store.close()

    asyncio.run(fill())
    environment = open_environment(directory, max_bytes=MAX_BYTES)
    try:
        yield environment
    finally:
        environment.close()


def damaged(directory: Path, harm: Callable[[Environment, Any], None]) -> CheckReport:
    """What is found after something was done to the tables behind the store's back."""
    with database(directory, NOTE, OLDER, ARTICLE, WRAP, DELETION) as environment:
        assert check(environment).is_clean
        with environment.env.begin(write=True) as txn:
            harm(environment, txn)
        return check(environment)


def test_a_sound_database(tmp_path: Path) -> None:
    target = fake_event(4, content="deleted")
    events = [
        NOTE, OLDER, ARTICLE, WRAP, target, delete_event(target, key=4),
        delete_event(addresses=[address_of(OLDER)], key=5), expiring_event(NOW_S + 5), vanish_event(key=6),
        fake_event(6, created_at=NOW_S + 1), fake_event(7, 20_000),
    ]  # fmt: skip
    with database(tmp_path, *events) as environment:
        report = check(environment)
    assert report.problems == ()
    assert report.is_clean
    assert (report.events, report.versions, report.tombstones, report.last_serial) == (8, 1, 2, 10)
    assert report.index_rows == 8 * 5 + 6 + 1 + 2 + 2


def test_an_empty_database(tmp_path: Path) -> None:
    with database(tmp_path) as environment:
        assert check(environment) == CheckReport(
            events=0, versions=0, index_rows=0, tombstones=0, last_serial=0, problems=(), problem_count=0
        )


def test_signatures_are_verified_on_request(tmp_path: Path) -> None:
    with database(tmp_path, make_event(), NOTE) as environment:
        assert check(environment).is_clean
        report = check(environment, verify_signatures=True)
    assert report.problems == ("event 2 has a wrong signature",)


DAMAGES: dict[str, tuple[Callable[[Environment, Any], Any], str]] = {
    "no id": (lambda env, txn: txn.delete(NOTE.id, db=env.ids), "event 1 is not the one that its id stands for"),
    "id of another": (
        lambda env, txn: txn.put(NOTE.id, SERIAL["article"], db=env.ids),
        "event 1 is not the one that its id stands for",
    ),
    "no time": (lambda env, txn: txn.delete(ROWS.time, db=env.times), "event 1 has no row in times"),
    "wrong time": (lambda env, txn: txn.put(ROWS.time, b"\x00" * 10, db=env.times), "event 1 has a wrong row in times"),
    "no author": (lambda env, txn: txn.delete(ROWS.author, db=env.authors), "event 1 has no row in authors"),
    "no author and kind": (
        lambda env, txn: txn.delete(ROWS.author_kind, db=env.author_kinds),
        "event 1 has no row in author_kinds",
    ),
    "no kind": (lambda env, txn: txn.delete(ROWS.kind, db=env.kinds), "event 1 has no row in kinds"),
    "no tag": (lambda env, txn: txn.delete(ROWS.tags[0], db=env.tags), "event 1 has no row in tags"),
    "no expiration": (
        lambda env, txn: txn.delete(ROWS.expiration, db=env.expirations),
        "event 1 has no row in expirations",
    ),
    "no address": (lambda env, txn: txn.delete(ADDRESS, db=env.addresses), "event 3 has no row in addresses"),
    "wrong address": (
        lambda env, txn: txn.put(
            ADDRESS, keys.time_bytes(NOW_S) + OLDER.id + SERIAL["older"], db=env.addresses
        ),
        "event 3 has a wrong row in addresses",
    ),
    "no version": (lambda env, txn: txn.delete(VERSION, db=env.versions), "event 2 has no row in versions"),
    "no version id": (
        lambda env, txn: txn.delete(OLDER.id, db=env.version_ids),
        "event 2 is not the one that its id stands for",
    ),
    "current and kept": (
        lambda env, txn: txn.put(ARTICLE.id, VERSION, db=env.version_ids),
        "event 3 is current and a kept version at once",
    ),
    "a version without an address": (
        lambda env, txn: (
            txn.delete(NOTE.id, db=env.ids),
            txn.put(NOTE.id, ADDRESS + ROWS.author[32:], db=env.version_ids),
        ),
        "event 1 is kept as a version, but has no address",
    ),
    "no event": (lambda env, txn: txn.delete(SERIAL["note"], db=env.events), "ids has a row without its event"),
    "two of one event": (
        lambda env, txn: txn.put(SERIAL["none"], NOTE.raw, db=env.events),
        "event 99 is not the one that its id stands for",
    ),
    "a serial ahead": (
        lambda env, txn: txn.put(b"last_serial", keys.serial_bytes(3), db=env.meta),
        "event 4 has a serial above the last one given, 3",
    ),
    "a broken event": (
        lambda env, txn: txn.put(SERIAL["note"], NOTE.raw[:-1], db=env.events),
        "event 1 is not valid",
    ),
    "a changed event": (
        lambda env, txn: txn.put(SERIAL["note"], NOTE.raw.replace(b'"kind":1,', b'"kind":2,'), db=env.events),
        "event 1 is not valid: id does not match",
    ),
    "not canonical": (
        lambda env, txn: txn.put(SERIAL["note"], NOTE.raw.replace(b",", b", ", 1), db=env.events),
        "event 1 is not in canonical form",
    ),
    "a strange key": (lambda env, txn: txn.put(b"\x00" * 9, b"{}", db=env.events), "events has a key of 9 bytes"),
    "a deleted id": (
        lambda env, txn: txn.put(NOTE.id + NOTE.pubkey, b"\x00" * 32, db=env.deleted_ids),
        "event 1 was deleted by its id",
    ),
    "a deleted id of a version": (
        lambda env, txn: txn.put(OLDER.id + OLDER.pubkey, b"\x00" * 32, db=env.deleted_ids),
        "event 2 was deleted by its id",
    ),
    "a gift wrap deleted by its recipient": (
        lambda env, txn: txn.put(WRAP.id + bytes.fromhex(KEYS[2]), b"\x00" * 32, db=env.deleted_ids),
        "event 4 was deleted by its id",
    ),
    "a deleted address": (
        lambda env, txn: txn.put(ADDRESS, keys.time_bytes(NOW_S + 1) + b"\x00" * 32, db=env.deleted_addresses),
        "event 3 was deleted by its address",
    ),
    "vanished": (
        lambda env, txn: txn.put(DELETION.pubkey, keys.time_bytes(NOW_S), db=env.vanished),
        "event 5 should have vanished",
    ),
    "vanished recipient": (
        lambda env, txn: txn.put(bytes.fromhex(KEYS[2]), keys.time_bytes(NOW_S), db=env.vanished),
        "event 4 should have vanished",
    ),
    "a short tombstone": (
        lambda env, txn: txn.put(b"short", b"", db=env.deleted_ids),
        "deleted_ids has a row of a wrong length",
    ),
    "a removal without a serial": (
        lambda env, txn: txn.put(bytes(8), b"", db=env.removals),
        "removals has a row of a wrong length",
    ),
    "a removal of half a serial": (
        lambda env, txn: txn.put(bytes(8), bytes(12), db=env.removals),
        "removals has a row of a wrong length",
    ),
    "half a hidden serial": (
        lambda env, txn: txn.put(bytes(7) + b"\x01", b"+" + bytes(4), db=env.hidden),
        "hidden has a row that is none",
    ),
    "a journal that is longer than it says": (
        lambda env, txn: txn.put(bytes(7) + b"\x01", b"+" + bytes(8), db=env.hidden),
        "hidden has 1 rows, and meta says something else",
    ),
    "a hidden key in no state": (
        lambda env, txn: txn.put(b"a" + bytes(32), b"", db=env.hidden_keys),
        "hidden_keys has a row that is none",
    ),
    "a hidden key of no sort": (
        lambda env, txn: txn.put(bytes(33), b"\x01", db=env.hidden_keys),
        "hidden_keys has a row that is none",
    ),
    "a tombstone without a time": (
        lambda env, txn: txn.put(bytes.fromhex(KEYS[7]), b"", db=env.vanished),
        "vanished has a row of a wrong length",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_found_and_named(tmp_path: Path, name: str) -> None:
    harm, expected = DAMAGES[name]
    report = damaged(tmp_path, harm)
    assert any(problem.startswith(expected) for problem in report.problems), report.problems
    assert not report.is_clean


@pytest.mark.parametrize(
    "table",
    ["times", "authors", "author_kinds", "kinds", "tags", "versions", "expirations", "ids", "addresses", "version_ids"],
)
@pytest.mark.parametrize("serial", ["none", "article"])
def test_a_row_too_many_is_found_in_every_index(tmp_path: Path, table: str, serial: str) -> None:
    """Whether it points at no event, or at one that does not belong under it."""

    def harm(environment: Environment, txn: Any) -> None:
        if table in ("ids", "times", "addresses", "version_ids"):
            txn.put(b"\x07" * 40, b"\x00" * 48 + SERIAL[serial], db=getattr(environment, table))
        else:
            txn.put(b"\x07" * 40 + SERIAL[serial], b"", db=getattr(environment, table))

    report = damaged(tmp_path, harm)
    assert report.problem_count == 1
    assert report.problems[0].startswith(f"{table} has a row without its event: 0707")


@pytest.mark.parametrize("extra", [0, 1])
def test_problems_are_described_up_to_a_bound_and_counted_beyond(tmp_path: Path, extra: int) -> None:
    count = MAX_PROBLEMS + extra
    with database(tmp_path, *(fake_event(created_at=n) for n in range(count))) as environment:
        with environment.env.begin(write=True) as txn:
            txn.drop(environment.kinds, delete=False)
        report = check(environment)
    assert len(report.problems) == MAX_PROBLEMS
    assert report.problem_count == count


def test_database_that_cannot_be_read_at_all_is_said_so(tmp_path: Path) -> None:
    with database(tmp_path, NOTE) as environment:
        environment.env.close()
        with pytest.raises(StoreError, match=str(tmp_path)):
            check(environment)
