"""`orly import --server` and `orly export --server`: the commands, by way of a running `orly-db`."""

import gzip
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.component.db_calls import calling, jsonl, save
from tests.component.orly_child import DEADLINE_S, await_output, child, on_terminal, run, write_lines
from tests.factory import KEYS, NOW_S, fake_event, make_event
from tests.process import DbProcess, free_port, running_db

from orly.intake.jsonl import MAX_SHOWN_PROBLEMS
from orly.pb.orlydb.v1 import streams_pb2

TOKEN = "correct-horse-battery"


@pytest.fixture
def db() -> Iterator[DbProcess]:
    with running_db() as process:
        yield process


@pytest.fixture
def nowhere(tmp_path: Path) -> Path:
    """A data directory that the commands here have no use for."""
    return tmp_path / "nowhere"


def stored(db: DbProcess) -> set[bytes]:
    """The lines of a local export."""
    return set(run("export", data_dir=db.data_dir).stdout.splitlines())


@pytest.mark.parametrize("source", ["file", "-", "default", "setting"])
def test_events_are_handed_to_the_service(db: DbProcess, nowhere: Path, tmp_path: Path, source: str) -> None:
    events = [make_event(content=f"no. {n} 𝄞") for n in range(1_000)]
    file = write_lines(tmp_path / "in.jsonl", [event.raw for event in events])
    given: dict[str, tuple[str | Path, ...]] = {"-": ("-",), "default": ()}
    done = run(
        "import",
        *given.get(source, (file,)),
        *(() if source == "setting" else ("--server", db.address)),
        data_dir=nowhere,
        stdin=file.read_bytes() if source in given else b"",
        variables={"ORLY_DB_TYPE": "grpc", "ORLY_GRPC_SERVER": db.address} if source == "setting" else {},
    )
    report = "1000 lines: 1000 stored, 0 already there, 0 replaced, deleted or expired, 0 refused\n"
    assert (done.returncode, done.stdout, done.stderr.decode()) == (0, b"", report)
    assert stored(db) == {event.raw for event in events}
    assert not nowhere.exists()


def test_bad_lines_are_reported_as_by_a_local_import(db: DbProcess, nowhere: Path, tmp_path: Path) -> None:
    lines = [make_event().raw, b"{", make_event().raw, fake_event(content="forged").raw, b"", b'{"id":1}']
    file = write_lines(tmp_path / "in.jsonl", lines)
    local = run("import", file, data_dir=tmp_path / "local")
    done = run("import", file, "--server", db.address, data_dir=nowhere)
    assert done.returncode == local.returncode == 1
    assert sorted(done.stderr.splitlines()) == sorted(local.stderr.splitlines())
    assert done.stderr.splitlines()[-1] == local.stderr.splitlines()[-1]


def test_a_flood_of_bad_lines_is_counted(db: DbProcess, nowhere: Path) -> None:
    done = run("import", "--server", db.address, data_dir=nowhere, stdin=b"{\n" * (MAX_SHOWN_PROBLEMS + 2))
    lines = done.stderr.decode().splitlines()
    assert done.returncode == 1
    assert len(lines) == MAX_SHOWN_PROBLEMS + 2
    assert lines[MAX_SHOWN_PROBLEMS] == "further bad lines are counted, not named"


def test_signatures_may_be_skipped(db: DbProcess, nowhere: Path) -> None:
    forged = fake_event(content="forged")
    done = run("import", "--no-verify", "--server", db.address, data_dir=nowhere, stdin=forged.raw)
    assert done.returncode == 0
    assert stored(db) == {forged.raw}


def test_an_export_is_that_of_the_data_directory(db: DbProcess, nowhere: Path, tmp_path: Path) -> None:
    events = [fake_event(n % 3, created_at=NOW_S + n // 4, content="x" * (n * 10)) for n in range(300)]
    assert run("import", "--no-verify", "--server", db.address, data_dir=nowhere, stdin=jsonl(events)).returncode == 0
    local = run("export", data_dir=db.data_dir)
    done = run("export", "--server", db.address, data_dir=nowhere)
    assert (done.returncode, done.stdout, done.stderr) == (0, local.stdout, b"300 events exported\n")
    assert local.stdout.count(b"\n") == 300
    file = tmp_path / "out.jsonl"
    done = run("export", file, "--server", db.address, data_dir=nowhere)
    assert (done.returncode, done.stdout, file.read_bytes()) == (0, b"", local.stdout)
    settings = {"ORLY_DB_TYPE": "grpc", "ORLY_GRPC_SERVER": db.address}
    chosen = f'{{"authors":["{KEYS[1]}"],"limit":7}}'
    done = run("export", "--filter", chosen, data_dir=nowhere, variables=settings)
    assert done.stdout == run("export", "--filter", chosen, data_dir=db.data_dir).stdout
    assert done.stderr == b"7 events exported\n"


@pytest.mark.parametrize("command", ["import", "export"])
@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("nowhere", "has no port: write HOST:PORT, [::1]:PORT or unix:/path"),
        ("127.0.0.1:0", "the port 0 is not one of 1 to 65535"),
        ("unix:db", "the path behind unix: must start with a slash"),
    ],
)
def test_what_is_no_address_is_wrong_usage(nowhere: Path, command: str, address: str, why: str) -> None:
    done = run(command, "--server", address, data_dir=nowhere)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.decode() == f"orly: --server {address}: {why}\n"


@pytest.mark.parametrize("command", ["import", "export"])
def test_a_server_beyond_this_machine_needs_tls_and_a_token(nowhere: Path, command: str) -> None:
    done = run(command, "--server", "192.0.2.1:50051", data_dir=nowhere)
    assert (done.returncode, done.stdout) == (78, b"")
    assert "192.0.2.1:50051 is beyond this machine and needs ORLY_GRPC_TLS" in done.stderr.decode()


@pytest.mark.parametrize("command", ["import", "export"])
def test_a_server_that_is_not_there_is_named(nowhere: Path, command: str) -> None:
    address = f"127.0.0.1:{free_port()}"
    done = run(command, "--server", address, data_dir=nowhere)
    assert (done.returncode, done.stdout) == (69, b"")
    assert done.stderr.decode().startswith(f"orly: orly-db at {address} does not answer: ")


@pytest.mark.parametrize("command", ["import", "export"])
@pytest.mark.parametrize("token", ["", "another-horse-battery"])
def test_without_the_token_it_is_refused(nowhere: Path, command: str, token: str) -> None:
    with running_db(ORLY_GRPC_TOKEN=TOKEN) as db:
        done = run(command, "--server", db.address, data_dir=nowhere, variables={"ORLY_GRPC_TOKEN": token})
        assert (done.returncode, done.stdout) == (78, b"")
        assert "ORLY_GRPC_TOKEN" in done.stderr.decode()
        assert (
            run(command, "--server", db.address, data_dir=nowhere, variables={"ORLY_GRPC_TOKEN": TOKEN}).returncode == 0
        )


def test_a_file_that_cannot_be_read_is_named(db: DbProcess, nowhere: Path, tmp_path: Path) -> None:
    for name, reason in (("missing", "No such file or directory"), ("", "Is a directory")):
        done = run("import", tmp_path / name, "--server", db.address, data_dir=nowhere)
        assert (done.returncode, done.stderr.decode()) == (1, f"orly: {tmp_path / name} cannot be read: {reason}\n")
    done = run("export", tmp_path / "missing" / "out", "--server", db.address, data_dir=nowhere)
    assert done.returncode == 1
    assert "cannot be written: No such file or directory" in done.stderr.decode()


def test_a_compressed_file_is_recognised(db: DbProcess, nowhere: Path, tmp_path: Path) -> None:
    file = tmp_path / "in.jsonl.gz"
    file.write_bytes(gzip.compress(make_event().raw))
    done = run("import", file, "--server", db.address, data_dir=nowhere)
    assert done.returncode == 1
    assert done.stderr.decode() == f"orly: {file} is compressed with gzip: run `zcat FILE | orly import -`\n"


def test_a_full_store_stops_it(nowhere: Path, tmp_path: Path) -> None:
    events = [fake_event(content=f"{n:060000}", created_at=n) for n in range(400)]
    file = write_lines(tmp_path / "in.jsonl", [event.raw for event in events])
    with running_db(ORLY_DB_MAX_SIZE="16MiB") as db:
        done = run("import", "--no-verify", file, "--server", db.address, data_dir=nowhere)
        assert done.returncode == 1
        report, reason = done.stderr.decode().splitlines()
        assert reason.startswith("orly: the import stopped: the database in ")
        assert f"{len(stored(db))} stored" in report
        assert report.endswith("not saved")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_import_keeps_what_it_read(db: DbProcess, nowhere: Path, number: signal.Signals) -> None:
    events = [make_event(content=str(n), created_at=n) for n in range(300)]
    with calling(db.address) as stub:
        feed = stub.WatchEvents(streams_pb2.WatchRequest(), timeout=DEADLINE_S)
        next(feed)
        with child("import", "-", "--server", db.address, data_dir=nowhere) as process:
            assert process.stdin is not None
            process.stdin.write(jsonl(events))
            process.stdin.flush()
            next(feed)  # some of it is stored
            process.send_signal(number)
            seen = await_output(process, b"run again\n").decode()
            assert process.wait(DEADLINE_S) == 1
        feed.cancel()
    report, reason = seen.splitlines()
    assert reason == "orly: interrupted; what was stored so far stays, and the import can be run again"
    n_stored = int(report.partition(" lines: ")[2].partition(" stored")[0])
    assert stored(db) == {event.raw for event in events[:n_stored]}
    assert n_stored > 0


def test_a_service_that_stops_ends_the_import(db: DbProcess, nowhere: Path) -> None:
    events = [make_event(content=str(n), created_at=n) for n in range(300)]
    with calling(db.address) as stub, child("import", "-", "--server", db.address, data_dir=nowhere) as process:
        feed = stub.WatchEvents(streams_pb2.WatchRequest(), timeout=DEADLINE_S)
        next(feed)
        assert process.stdin is not None
        process.stdin.write(jsonl(events))
        process.stdin.flush()
        next(feed)
        db.stop()
        process.stdin.write(b"\n")
        process.stdin.flush()
        seen = await_output(process, b"the store is stopping\n").decode()
        assert process.wait(DEADLINE_S) == 1
    assert seen.splitlines()[-1] == "orly: the import stopped: the store is stopping"


def test_a_connection_that_is_lost_is_named(db: DbProcess, nowhere: Path) -> None:
    with child("import", "-", "--server", db.address, data_dir=nowhere) as process, calling(db.address) as stub:
        feed = stub.WatchEvents(streams_pb2.WatchRequest(), timeout=DEADLINE_S)
        next(feed)
        assert process.stdin is not None
        process.stdin.write(jsonl(make_event(content=str(n)) for n in range(300)))
        process.stdin.flush()
        next(feed)
        db.kill()
        process.stdin.write(b"\n")
        process.stdin.close()
        seen = await_output(process, b"run again\n").decode()
        assert process.wait(DEADLINE_S) == 1
    lost = f"orly: the connection to {db.address} was lost"
    assert seen == f"{lost}; what was stored so far stays, and the import can be run again\n"


def test_an_export_that_breaks_off_says_so(db: DbProcess, nowhere: Path) -> None:
    events = [fake_event(content=f"{n:060000}", created_at=n) for n in range(600)]
    assert run("import", "--no-verify", "--server", db.address, data_dir=nowhere, stdin=jsonl(events)).returncode == 0
    with child("export", "-", "--server", db.address, data_dir=nowhere) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        db.kill()
        while process.stdout.read(1024 * 1024):
            pass
        assert process.wait(DEADLINE_S) == 1
        assert process.stderr is not None
        assert process.stderr.read().decode().startswith(f"orly: orly-db at {db.address}: ")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_export_that_waits_for_its_reader_can_be_interrupted(
    db: DbProcess, nowhere: Path, number: signal.Signals
) -> None:
    events = [fake_event(content=f"{n:060000}", created_at=n) for n in range(600)]
    assert run("import", "--no-verify", "--server", db.address, data_dir=nowhere, stdin=jsonl(events)).returncode == 0
    with child("export", "-", "--server", db.address, data_dir=nowhere) as process:
        assert process.stdout is not None
        process.stdout.read(1)  # it is in the middle, and waits for us to read on
        process.send_signal(number)
        assert process.wait(DEADLINE_S) == 1
        assert process.stderr is not None
        assert process.stderr.read() == b"orly: interrupted\n"


def test_a_locked_directory_says_how_it_is_done(db: DbProcess) -> None:
    done = run("import", data_dir=db.data_dir, stdin=make_event().raw)
    assert done.returncode == 69
    text = done.stderr.decode()
    assert f"is in use by another process (pid {db.pid})" in text
    assert "orly import --server 127.0.0.1:50051" in text


def test_a_terminal_sees_progress(db: DbProcess, tmp_path: Path, nowhere: Path) -> None:
    file = write_lines(tmp_path / "in.jsonl", [make_event(content=str(n)).raw for n in range(100)])
    code, shown = on_terminal("import", file, "--server", db.address, data_dir=nowhere)
    assert code == 0
    assert f"{file.stat().st_size / 1000:.1f}/{file.stat().st_size / 1000:.1f}" in shown
    assert "100 lines: 100 stored" in shown
    with calling(db.address) as stub:
        assert save(stub, make_event(content="one more"))
