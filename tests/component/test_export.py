import asyncio
import json
import os
import resource
import signal
import stat
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.component.orly_child import DEADLINE_S, child, on_terminal, run
from tests.factory import NOW_S, expiring_event, fake_event, make_event
from tests.process import ORLY, clean_environment, running_relay
from tests.wsclient import connect

from orly.cli.files import FileError, opened_output
from orly.cli.open_store import open_bulk_store
from orly.nostr.event import EncodedEvent
from orly.nostr.filter import Filter
from orly.settings import load
from orly.store.lmdb.environment import open_environment


def fill(directory: Path, events: Sequence[EncodedEvent]) -> Path:
    """A store with these events, whose signatures may be wrong."""
    data = b"\n".join(event.raw for event in events)
    done = run("import", "--no-verify", data_dir=directory, stdin=data)
    assert done.returncode == 0, done.stderr.decode()
    return directory


def newest_first(events: Sequence[EncodedEvent]) -> bytes:
    ordered = sorted(events, key=lambda event: (-event.event.created_at, event.id))
    return b"".join(event.raw + b"\n" for event in ordered)


EVENTS = tuple(fake_event(n % 3, kind=n % 5 + 4, created_at=NOW_S + n // 4, content=f"{n} é\n") for n in range(40))


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with `EVENTS`; not to be written to. Private kinds are among them."""
    return fill(tmp_path_factory.mktemp("export") / "data", EVENTS)


@pytest.fixture(scope="module")
def large_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with more than any buffer holds; not to be written to."""
    return fill(
        tmp_path_factory.mktemp("export") / "data",
        [fake_event(content=f"{n:020000}", created_at=n) for n in range(200)],
    )


@pytest.mark.parametrize("arguments", [(), ("-",)])
def test_everything_comes_out_newest_first_byte_for_byte(data_dir: Path, arguments: tuple[str, ...]) -> None:
    done = run("export", *arguments, data_dir=data_dir)
    assert done.returncode == 0
    assert done.stdout == newest_first(EVENTS)
    assert done.stderr == b"40 events exported\n"


def test_a_file_appears_complete(data_dir: Path, tmp_path: Path) -> None:
    done = run("export", tmp_path / "out.jsonl", data_dir=data_dir)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"40 events exported\n")
    assert (tmp_path / "out.jsonl").read_bytes() == newest_first(EVENTS)
    assert os.listdir(tmp_path) == ["out.jsonl"]


def test_a_file_that_may_not_be_read_is_replaced(data_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "out.jsonl").touch(mode=0o200)
    done = run("export", tmp_path / "out.jsonl", data_dir=data_dir, unprivileged=True)
    assert (done.returncode, done.stderr) == (0, b"40 events exported\n")
    assert (tmp_path / "out.jsonl").read_bytes() == newest_first(EVENTS)


def test_what_is_exported_can_be_imported(data_dir: Path, tmp_path: Path) -> None:
    assert run("export", tmp_path / "out.jsonl", data_dir=data_dir).returncode == 0
    assert run("import", "--no-verify", tmp_path / "out.jsonl", data_dir=tmp_path / "copy").returncode == 0
    assert run("export", data_dir=tmp_path / "copy").stdout == newest_first(EVENTS)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({"kinds": [4]}, [event for event in EVENTS if event.event.kind == 4]),
        (
            {"authors": [EVENTS[1].event.pubkey], "kinds": [4, 5]},
            [event for n, event in enumerate(EVENTS) if n % 3 == 1 and n % 5 < 2],
        ),
        ({"ids": [EVENTS[7].event.id]}, [EVENTS[7]]),
        ({"since": NOW_S + 2, "until": NOW_S + 3}, EVENTS[8:16]),
        ({"limit": 4}, EVENTS[36:]),
        ({"limit": 0}, []),
        ({"kinds": [9999]}, []),
    ],
)
def test_a_filter_chooses(data_dir: Path, wanted: dict[str, object], expected: Sequence[EncodedEvent]) -> None:
    done = run("export", "--filter", json.dumps(wanted), data_dir=data_dir)
    assert (done.returncode, done.stdout) == (0, newest_first(expected))
    assert done.stderr.decode() == f"{len(expected)} {'event' if len(expected) == 1 else 'events'} exported\n"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "truncated"),
        ("", "truncated"),
        ("[]", "a filter must be an object"),
        ('{"kinds":1}', "filter kinds must be a list"),
        ('{"limit":-1}', "filter limit must be"),
        ('{"search":"x"}', "filter key 'search' is not supported"),
        ("[" * 10_000, "recursion"),
    ],
)
def test_a_bad_filter_is_refused_with_the_reason(data_dir: Path, tmp_path: Path, text: str, reason: str) -> None:
    done = run("export", "--filter", text, tmp_path / "out.jsonl", data_dir=data_dir)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"orly: --filter: ")
    assert reason in done.stderr.decode()
    assert os.listdir(tmp_path) == []


def test_an_empty_store_is_exported_as_an_empty_file(tmp_path: Path) -> None:
    fill(tmp_path / "data", [])
    done = run("export", tmp_path / "out.jsonl", data_dir=tmp_path / "data")
    assert (done.returncode, done.stderr) == (0, b"0 events exported\n")
    assert (tmp_path / "out.jsonl").read_bytes() == b""


def test_without_a_store_no_file_is_made(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    done = run("export", tmp_path / "out.jsonl", data_dir=tmp_path / "data")
    assert done.returncode == 78
    assert done.stderr.decode() == f"orly: there is no database in {tmp_path / 'data'}\n"
    assert os.listdir(tmp_path) == ["data"]
    assert os.listdir(tmp_path / "data") == []


def test_what_has_expired_is_not_exported(tmp_path: Path) -> None:
    kept = expiring_event(2**40)
    tables = open_environment(fill(tmp_path / "data", [kept, *EVENTS[:2]]), max_bytes=64 * 1024 * 1024)
    with tables.env.begin(write=True) as txn:
        serial = txn.get(EVENTS[0].id, db=tables.ids)
        txn.put((NOW_S).to_bytes(8, "big") + serial, b"", db=tables.expirations)
    tables.close()
    assert run("export", data_dir=tmp_path / "data").stdout == newest_first([kept, EVENTS[1]])


def test_a_pipe_that_is_closed_early_makes_no_noise(large_dir: Path) -> None:
    with child("export", data_dir=large_dir) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert os.read(process.stdout.fileno(), 7) == b'{"id":"'
        process.stdout.close()
        assert process.wait(DEADLINE_S) == 1
        assert process.stderr.read() == b""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_export_that_waits_for_its_reader_can_be_interrupted(large_dir: Path, number: signal.Signals) -> None:
    with child("export", data_dir=large_dir) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert os.read(process.stdout.fileno(), 7) == b'{"id":"'
        process.send_signal(number)
        assert process.wait(DEADLINE_S) == 1
        assert process.stderr.read() == b"orly: interrupted\n"


def test_a_full_disk_leaves_the_old_file_as_it_was(large_dir: Path, tmp_path: Path) -> None:
    file = tmp_path / "out.jsonl"
    file.write_bytes(b"the last backup")
    environment = clean_environment(tmp_path, {"ORLY_DATA_DIR": str(large_dir)})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    done = subprocess.run(
        ["/bin/sh", "-c", 'ulimit -f 1024; exec "$0" export "$1"', ORLY, file],
        env=environment,
        capture_output=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert resource.getrlimit(resource.RLIMIT_FSIZE) == (soft, hard)
    assert done.returncode == 1
    assert done.stderr.decode() == f"orly: {file} cannot be written: File too large\n"
    assert file.read_bytes() == b"the last backup"
    assert os.listdir(tmp_path) == ["out.jsonl"]


def test_a_full_standard_output_is_reported(data_dir: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", 'exec "$0" export >/dev/full', ORLY],
        env=clean_environment(tmp_path, {"ORLY_DATA_DIR": str(data_dir)}),
        capture_output=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == b"orly: standard output cannot be written: No space left on device\n"


def test_a_closed_standard_output_is_reported(data_dir: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", 'exec "$0" export >&-', ORLY],
        env=clean_environment(tmp_path, {"ORLY_DATA_DIR": str(data_dir)}),
        capture_output=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, b"orly: standard output is closed\n")


@pytest.mark.parametrize(("name", "reason"), [("", "Is a directory"), ("no/where", "No such file or directory")])
def test_a_file_that_cannot_be_written_is_named(data_dir: Path, tmp_path: Path, name: str, reason: str) -> None:
    done = run("export", tmp_path / name, data_dir=data_dir)
    assert done.returncode == 1
    assert done.stderr.decode() == f"orly: {tmp_path / name} cannot be written: {reason}\n"


def test_a_device_is_written_to_and_not_replaced(data_dir: Path) -> None:
    assert run("export", "/dev/null", data_dir=data_dir).returncode == 0
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    assert run("export", "/dev/full", data_dir=data_dir).returncode == 1
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)


def test_a_named_pipe_is_written_to(data_dir: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    try:
        assert run("export", pipe, data_dir=data_dir).returncode == 0
    finally:
        os.close(os.open(pipe, os.O_RDWR | os.O_NONBLOCK))  # lets the reader go, had nobody else opened the pipe
        reader.join(DEADLINE_S)
    assert got == [newest_first(EVENTS)]
    assert os.listdir(tmp_path) == ["pipe"]


def test_a_link_goes_on_pointing_to_its_file(data_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    link, file = tmp_path / "link", tmp_path / "there" / "out.jsonl"
    link.symlink_to(file)
    assert run("export", link, data_dir=data_dir).returncode == 0
    assert link.is_symlink()
    assert file.read_bytes() == newest_first(EVENTS)


@pytest.mark.parametrize("failure", [KeyboardInterrupt, ValueError])
def test_what_was_written_before_a_failure_is_removed(tmp_path: Path, failure: type[BaseException]) -> None:
    file = tmp_path / "out.jsonl"

    def fail() -> None:
        with opened_output(file) as stream:
            stream.write(b"half")
            stream.flush()
            assert [name.startswith("out.jsonl.") for name in os.listdir(tmp_path)] == [True]
            raise failure

    with pytest.raises(failure):
        fail()
    assert os.listdir(tmp_path) == []


def test_a_name_that_leaves_no_room_for_the_partial_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="cannot be written: File name too long"), opened_output(tmp_path / ("x" * 250)):
        pass


def test_it_works_beside_a_serving_relay(tmp_path: Path) -> None:
    fill(tmp_path / "data", EVENTS)
    late = make_event(created_at=NOW_S - 1, content="late")

    async def publish(url: str) -> None:
        async with connect(url) as client:
            await client.connection.send(f'["EVENT",{late.raw.decode()}]')
            assert (await client.receive())[:3] == ["OK", late.event.id, True]

    with running_relay(ORLY_DATA_DIR=str(tmp_path / "data")) as relay:
        asyncio.run(publish(relay.url))
        assert run("export", data_dir=relay.data_dir).stdout == newest_first([*EVENTS, late])


def test_it_is_the_state_of_one_moment(tmp_path: Path) -> None:
    old = make_event(kind=0, created_at=1, content="old")
    new = make_event(kind=0, created_at=NOW_S + 10, content="new")
    many = [fake_event(content=str(n)) for n in range(1500)]
    fill(tmp_path / "data", [old, *many])

    async def replace(url: str) -> None:
        async with connect(url) as client:
            await client.connection.send(f'["EVENT",{new.raw.decode()}]')
            assert (await client.receive())[:3] == ["OK", new.event.id, True]

    settings = load({"HOME": str(tmp_path), "ORLY_DATA_DIR": str(tmp_path / "data")}).settings
    with running_relay(ORLY_DATA_DIR=str(tmp_path / "data")) as relay, asyncio.Runner() as runner:
        store = runner.run(open_bulk_store(settings, read_only=True))
        try:
            chunks = store.export(Filter())
            rows = next(chunks)
            assert len(rows) < 1500
            runner.run(replace(relay.url))
            for chunk in chunks:
                rows += chunk
            assert rows[-1] == old.raw
            assert new.raw not in rows
            assert len(rows) == 1501
            assert next(store.export(Filter()))[0] == new.raw
        finally:
            runner.run(store.close())


def test_damage_is_reported_and_the_rest_is_written(tmp_path: Path) -> None:
    tables = open_environment(fill(tmp_path / "data", EVENTS), max_bytes=64 * 1024 * 1024)
    with tables.env.begin(write=True) as txn:
        txn.delete(txn.get(EVENTS[5].id, db=tables.ids), db=tables.events)
    tables.close()
    done = run("export", data_dir=tmp_path / "data")
    assert done.returncode == 1
    assert done.stdout == newest_first([event for event in EVENTS if event is not EVENTS[5]])
    assert done.stderr.decode().splitlines() == [
        "39 events exported",
        "orly: the database is damaged, 1 events are missing: run orly check",
    ]


def test_a_terminal_sees_progress_unless_the_events_go_there(data_dir: Path, tmp_path: Path) -> None:
    code, shown = on_terminal("export", data_dir=data_dir, stdout=tmp_path / "out.jsonl")
    assert code == 0
    assert (tmp_path / "out.jsonl").read_bytes() == newest_first(EVENTS)
    assert "\x1b[" in shown
    assert "export" in shown
    assert "40 events exported" in shown
    code, shown = on_terminal("export", data_dir=data_dir)
    assert code == 0
    assert "\x1b[" not in shown
    assert shown.replace("\r\n", "\n").encode() == newest_first(EVENTS) + b"40 events exported\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_does_not_wait_for_the_reader_of_small_events(tmp_path: Path, number: signal.Signals) -> None:
    """What is in the buffer at that time goes nowhere."""
    fill(tmp_path / "data", [fake_event(content=f"{n:01000}", created_at=n) for n in range(3_000)])
    with child("export", data_dir=tmp_path / "data") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert os.read(process.stdout.fileno(), 7) == b'{"id":"'
        process.send_signal(number)
        assert process.wait(DEADLINE_S) == 1
        assert process.stderr.read() == b"orly: interrupted\n"
