"""Opening a data directory: what is ours opens whole, everything else is refused by name and left as it was."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from shutil import rmtree
from typing import Any, Final

import lmdb
import pytest
from tests.component.lmdb_backend import MAX_BYTES, assert_sound
from tests.component.store_faults import ALL, fill_up, small_disk
from tests.component.store_world import Sink, ids_of
from tests.factory import NOW_S, fake_event
from tests.process import run_orly

from orly.store.base import HiddenKey, SaveStatus, StoreError, StoreLockedError, StoreUnavailableError
from orly.store.lmdb.environment import FORMAT, open_environment
from orly.store.lmdb.store import LmdbStore

ROOT: Final = Path(__file__).parents[2]
EVENTS: Final = [fake_event(created_at=NOW_S + n, content="x" * 600, tags=[["t", f"{n}"]]) for n in range(500)]


def save(directory: Path, *events: Any) -> None:
    async def main() -> None:
        store = await LmdbStore.open(directory, max_bytes=MAX_BYTES)
        await store.save(events)
        await store.close()

    asyncio.run(main())


def read(directory: Path, *, read_only: bool = False, raw: bool = False) -> list[str] | list[bytes]:
    """All ids, or all events."""

    async def main() -> list[str] | list[bytes]:
        store = await LmdbStore.open(directory, max_bytes=MAX_BYTES, read_only=read_only)
        try:
            found = await store.fetch(ALL)
            return found if raw else ids_of(found)
        finally:
            await store.close()

    return asyncio.run(main())


def refusal(directory: Path, *, read_only: bool = False) -> str:
    """Why a directory is not opened; asked twice, for a refusal must change nothing."""
    texts = []
    for _ in range(2):
        with pytest.raises(StoreUnavailableError) as caught:
            open_environment(directory, max_bytes=MAX_BYTES, read_only=read_only)
        texts.append(str(caught.value))
        assert str(directory) in texts[0]
    assert texts[0] == texts[1]
    return texts[0]


# What cannot be used


def test_a_path_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert "cannot be written: Not a directory" in refusal(tmp_path / "file" / "data")
    assert "cannot be written" in refusal(tmp_path / "file")


def test_a_place_where_nothing_can_be_made_is_refused() -> None:
    assert "cannot be written" in refusal(Path("/proc/orly-data"))


def test_a_read_only_disk_is_refused_for_writing_and_opened_for_reading(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "8m", lambda disk: save(disk / "data", *EVENTS[:3])) as disk:
        assert "cannot be written: Read-only file system" in refusal(disk / "data")
        assert "cannot be written: Read-only file system" in refusal(disk / "other")
        assert len(read(disk / "data", read_only=True)) == 3


def test_a_directory_without_permission_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "data", EVENTS[0])
    (tmp_path / "data" / "orly.lock").chmod(0o400)
    done = run_orly("import", data_dir=tmp_path / "data", unprivileged=True)
    assert done.returncode == 78
    assert "cannot be written: Permission denied" in done.stderr.decode()


@pytest.mark.parametrize("name", ["KEYREGISTRY", "MANIFEST", "DISCARD"])
def test_a_badger_database_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    assert "holds a Badger database" in refusal(tmp_path)
    assert "orly import" in refusal(tmp_path, read_only=True)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@contextmanager
def foreign(directory: Path, **options: Any) -> Iterator[Any]:
    """A database made with LMDB itself."""
    env = lmdb.open(str(directory), max_dbs=20, map_size=MAX_BYTES, **options)
    try:
        yield env
    finally:
        env.close()


def plain_rows(env: Any) -> None:
    with env.begin(write=True) as txn:
        txn.put(b"key", b"value")


def other_tables(env: Any) -> None:
    table = env.open_db(b"rasgueadb_defaultDb__Event")
    with env.begin(write=True) as txn:
        txn.put(b"key", b"value", db=table)


def meta_that_is_a_row(env: Any) -> None:
    with env.begin(write=True) as txn:
        txn.put(b"meta", b"value")


def meta_without_format(env: Any) -> None:
    env.open_db(b"meta")


def meta_of_another(env: Any) -> None:
    with env.begin(write=True) as txn:
        txn.put(b"format", b"other-lmdb-1", db=env.open_db(b"meta", txn=txn))


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("make", [plain_rows, other_tables, meta_that_is_a_row, meta_without_format, meta_of_another])
def test_a_database_of_another_program_is_refused(tmp_path: Path, make: Callable[[Any], None], read_only: bool) -> None:
    with foreign(tmp_path) as env:
        make(env)
    before = (tmp_path / "data.mdb").read_bytes()
    assert "holds an LMDB database of another program" in refusal(tmp_path, read_only=read_only)
    assert (tmp_path / "data.mdb").read_bytes() == before


@pytest.mark.parametrize("read_only", [False, True])
def test_another_format_is_refused_by_name(tmp_path: Path, read_only: bool) -> None:
    save(tmp_path, EVENTS[0])
    environment = open_environment(tmp_path, max_bytes=MAX_BYTES)
    with environment.env.begin(write=True) as txn:
        txn.put(b"format", b"orly-lmdb-2", db=environment.meta)
    environment.close()
    text = refusal(tmp_path, read_only=read_only)
    assert f"has the format orly-lmdb-2, this version reads {FORMAT.decode()}" in text
    assert "export it with the version that wrote it" in text


def test_the_file_format_of_lmdb_1_is_refused(tmp_path: Path) -> None:
    with foreign(tmp_path, lib_version=1) as env:
        plain_rows(env)
    assert "has LMDB's file format 3, this version reads format 1 (LMDB 0.9)" in refusal(tmp_path)


@pytest.mark.parametrize(
    "content", [b"\x00" * 8192, b"garbage" * 2000, b"SQLite format 3\x00" * 600, b"x", b"x" * 4096]
)
def test_a_file_that_is_no_database_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "data.mdb").write_bytes(content)
    assert "cannot be opened as an ORLY database" in refusal(tmp_path)
    assert (tmp_path / "data.mdb").read_bytes() == content


def test_a_directory_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data.mdb").mkdir()
    assert "cannot be opened" in refusal(tmp_path)
    assert "there is no database" in refusal(tmp_path, read_only=True)


def test_reading_needs_a_database(tmp_path: Path) -> None:
    assert "there is no database in" in refusal(tmp_path, read_only=True)
    assert list(tmp_path.iterdir()) == []
    assert "there is no database in" in refusal(tmp_path / "missing", read_only=True)
    with foreign(tmp_path):
        pass
    assert "is empty" in refusal(tmp_path, read_only=True)


# Damage


@pytest.mark.parametrize("keep", [0.9, 0.5, 0.1])
@pytest.mark.parametrize("read_only", [False, True])
def test_a_file_that_was_cut_off_is_refused(tmp_path: Path, keep: float, read_only: bool) -> None:
    """Not a crash: LMDB maps the file, and a missing page ends the process when it is touched."""
    save(tmp_path, *EVENTS)
    path = tmp_path / "data.mdb"
    os.truncate(path, int(path.stat().st_size * keep) // 4096 * 4096)
    with pytest.raises(StoreUnavailableError, match=r"cut off|cannot be used") as caught:
        open_environment(tmp_path, max_bytes=MAX_BYTES, read_only=read_only)
    assert str(tmp_path) in str(caught.value)


def test_every_page_that_may_be_missing_at_the_end_is_noticed_or_unused(tmp_path: Path) -> None:
    """One commit after another, so that the last pages are not just those that everything hangs from."""
    large = [fake_event(created_at=NOW_S + n, content="x" * 10_000) for n in range(25)]
    for event in (*EVENTS[:40], *large):
        save(tmp_path / "whole", event)
    whole = (tmp_path / "whole" / "data.mdb").read_bytes()
    expected = read(tmp_path / "whole", raw=True)
    reasons: set[str] = set()
    for pages in range(2, len(whole) // 4096):
        directory = tmp_path / f"{pages}"
        directory.mkdir()
        (directory / "data.mdb").write_bytes(whole[: pages * 4096])
        try:
            assert read(directory, raw=True) == expected
        except StoreUnavailableError as error:
            reasons.add("cut off" if "was cut off" in str(error) else "other")
        rmtree(directory)
    assert "cut off" in reasons


def make_short(directory: Path) -> int:
    """Write and delete until LMDB leaves freed pages at the end unwritten; returns how many pages there should be."""
    random, rows = Random(1), list[bytes]()
    environment = open_environment(directory, max_bytes=MAX_BYTES)
    try:
        for _ in range(300):
            with environment.env.begin(write=True) as txn:
                for _ in range(random.randint(1, 400)):
                    rows.append(random.randbytes(40))
                    txn.put(rows[-1], bytes(random.choice([10, 800, 6_000])), db=environment.meta)
                random.shuffle(rows)
                for _ in range(random.randint(0, min(len(rows), 450))):
                    txn.delete(rows.pop(), db=environment.meta)
            pages = int(environment.env.info()["last_pgno"]) + 1
            if (directory / "data.mdb").stat().st_size < pages * 4096:
                return pages
    finally:
        environment.close()
    raise AssertionError("this LMDB writes every page, so the test proves nothing")


@pytest.mark.parametrize("read_only", [False, True])
def test_a_sound_file_may_lack_pages_that_were_never_written(tmp_path: Path, read_only: bool) -> None:
    save(tmp_path, *EVENTS)
    pages = make_short(tmp_path)
    assert len(read(tmp_path, read_only=read_only)) == len(EVENTS)
    assert (tmp_path / "data.mdb").stat().st_size == pages * 4096
    assert_sound(tmp_path)


def test_garbage_in_the_middle_is_reported_when_it_is_read(tmp_path: Path) -> None:
    save(tmp_path, *EVENTS)
    path = tmp_path / "data.mdb"
    whole = bytearray(path.read_bytes())
    for page in range(8, len(whole) // 4096, 2):
        whole[page * 4096 : (page + 1) * 4096] = bytes(4096)
    path.write_bytes(whole)
    with pytest.raises(StoreError, match=r"damaged|cannot be used"):
        read(tmp_path)


# What is ours


def test_a_first_start_makes_the_directory(tmp_path: Path) -> None:
    directory = tmp_path / "a" / "b"
    save(directory, EVENTS[0])
    assert read(directory) == [EVENTS[0].event.id]


def test_a_start_that_was_cut_short_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "data.mdb").touch()
    (tmp_path / "lock.mdb").touch()
    (tmp_path / "orly.lock").touch()
    save(tmp_path, EVENTS[0])
    with foreign(tmp_path / "made"):
        pass
    save(tmp_path / "made", EVENTS[0])
    assert read(tmp_path) == read(tmp_path / "made") == [EVENTS[0].event.id]


def test_the_lock_file_has_its_blocks_from_the_start(tmp_path: Path) -> None:
    save(tmp_path)
    assert (tmp_path / "lock.mdb").stat().st_blocks * 512 >= 32 * 1024


def test_a_disk_without_room_for_a_first_start_is_refused(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "1m") as disk:
        (disk / "data").mkdir()
        (disk / "data" / "orly.lock").touch()
        (disk / "data" / "lock.mdb").touch()
        fill_up(disk / "ballast")
        assert "no space left on the disk" in refusal(disk / "data")


def test_a_reader_may_not_write(tmp_path: Path) -> None:
    save(tmp_path, EVENTS[0])

    async def main() -> None:
        store = await LmdbStore.open(tmp_path, max_bytes=MAX_BYTES, read_only=True)
        with pytest.raises(StoreError, match="for reading only"):
            await store.save([EVENTS[1]])
        with pytest.raises(StoreError, match="for reading only"):
            await store.delete([EVENTS[0].id])
        with pytest.raises(StoreError, match="for reading only"):
            await store.change_markers({"a": b""})
        with pytest.raises(StoreError, match="for reading only"):
            await store.hide([])
        assert await store.markers("") == []
        assert store.known([EVENTS[0].id, EVENTS[1].id]) == [True, False]
        assert await store.deleted(EVENTS[0]) is None
        sink = Sink()
        store.query(ALL, sink)
        assert sink.through_serial == 1
        await store.close()

    asyncio.run(main())


def test_a_database_of_an_earlier_version_gets_the_tables_it_lacks(tmp_path: Path) -> None:
    save(tmp_path, EVENTS[0])
    added = (b"removals", b"markers", b"hidden", b"hidden_keys")
    env = lmdb.open(str(tmp_path), max_dbs=32, lib_version=0)
    tables = [env.open_db(name, create=False) for name in added]
    with env.begin(write=True) as txn:
        for table in tables:
            txn.drop(table)
    env.close()

    async def main() -> None:
        reader = await LmdbStore.open(tmp_path, max_bytes=MAX_BYTES, read_only=True)
        assert await reader.markers("") == []
        assert await reader.hidden() == []
        assert reader.known([EVENTS[0].id]) == [True]
        await reader.close()
        writer = await LmdbStore.open(tmp_path, max_bytes=MAX_BYTES)
        await writer.change_markers({"a": b"1"})
        await writer.hide([HiddenKey(bytes(32), True)])
        assert await writer.delete([EVENTS[0].id]) == 1
        assert await writer.marker("a") == b"1"
        await writer.close()

    asyncio.run(main())


def test_without_room_for_a_table_only_what_needs_it_fails(tmp_path: Path) -> None:
    async def main() -> None:
        tables = replace(open_environment(tmp_path, max_bytes=MAX_BYTES), markers=None, hidden=None, hidden_keys=None)
        store = LmdbStore(tables)
        assert await store.markers("") == []
        with pytest.raises(StoreError, match="has no table of markers: make room for it"):
            await store.change_markers({"a": b""})
        with pytest.raises(StoreError, match="has no table of what is hidden: make room"):
            await store.hide([])
        assert await store.hidden() == []
        assert [result.status for result in await store.save([EVENTS[0]])] == [SaveStatus.STORED]
        await store.close()

    asyncio.run(main())


# Other processes


@contextmanager
def child(mode: str, directory: Path) -> Iterator[Callable[[], dict[str, Any]]]:
    """A process that has the directory open; call it for what it sees."""
    command = [sys.executable, "-m", "tests.component.fault_child", mode, str(directory)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    stdin, stdout = process.stdin, process.stdout

    def ask() -> dict[str, Any]:
        stdin.write("?\n")
        stdin.flush()
        found: dict[str, Any] = json.loads(stdout.readline())
        return found

    try:
        assert json.loads(stdout.readline()) == {"ids": []}
        ask.pid = process.pid  # type: ignore[attr-defined]
        yield ask
    finally:
        stdin.close()
        try:
            assert process.wait(20) == 0
        finally:
            process.kill()
            process.wait()
            stdout.close()


def test_a_second_process_on_the_directory_is_refused_with_the_pid_of_the_first(tmp_path: Path) -> None:
    save(tmp_path, EVENTS[0])
    with child("hold", tmp_path) as ask:
        text = refusal(tmp_path)
        assert f"is in use by another process (pid {ask.pid})" in text  # type: ignore[attr-defined]
        with pytest.raises(StoreLockedError):
            open_environment(tmp_path, max_bytes=MAX_BYTES)
        assert ask()["ids"] == [EVENTS[0].event.id]
        assert read(tmp_path, read_only=True) == [EVENTS[0].event.id]
    save(tmp_path, EVENTS[1])


def test_the_same_process_may_not_open_it_twice_either(tmp_path: Path) -> None:
    environment = open_environment(tmp_path, max_bytes=MAX_BYTES)
    assert f"pid {os.getpid()}" in refusal(tmp_path)
    environment.close()
    open_environment(tmp_path, max_bytes=MAX_BYTES).close()


def test_a_reader_beside_a_live_writer_sees_its_commits(tmp_path: Path) -> None:
    async def main() -> None:
        store = await LmdbStore.open(tmp_path, max_bytes=MAX_BYTES, now_s=lambda: NOW_S)
        await store.save(EVENTS[:1])
        loop = asyncio.get_running_loop()
        with child("read", tmp_path) as ask:
            for n in range(2, 6):
                await store.save([EVENTS[n - 1]])
                seen = await loop.run_in_executor(None, ask)
                assert seen == {"ids": [event.event.id for event in reversed(EVENTS[:n])], "serial": n}
            await store.delete([EVENTS[0].id])
            assert (await loop.run_in_executor(None, ask))["serial"] == 5
        await store.close()

    asyncio.run(main())
    assert_sound(tmp_path)


def test_the_lock_is_given_back_when_opening_fails(tmp_path: Path) -> None:
    with foreign(tmp_path) as env:
        plain_rows(env)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        refusal(tmp_path)
    assert len(os.listdir("/proc/self/fd")) == before
