import gzip
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.component.orly_child import DEADLINE_S, await_output, child, on_terminal, run, write_lines
from tests.factory import (
    KEYS,
    NOW_S,
    delete_event,
    event_json,
    expiring_event,
    fake_event,
    gift_wrap,
    make_event,
)
from tests.process import ORLY, clean_environment, running_relay

from orly.cli import import_events
from orly.cli.import_events import BATCH_BYTES, BATCH_EVENTS, MAX_SHOWN_PROBLEMS, Importer
from orly.intake.policy import WritePolicy
from orly.nostr.event import EncodedEvent
from orly.store.base import SaveResult, SaveStatus

MIB = 1024 * 1024


def stored(data_dir: Path) -> set[bytes]:
    """The lines of an export."""
    done = run("export", data_dir=data_dir)
    assert done.returncode == 0
    return set(done.stdout.splitlines())


def summary(stored: int = 0, duplicates: int = 0, unwanted: int = 0, refused: int = 0) -> str:
    lines = stored + duplicates + unwanted + refused
    return (
        f"{lines} {'line' if lines == 1 else 'lines'}: {stored} stored, {duplicates} already there, "
        f"{unwanted} replaced, deleted or expired, {refused} refused"
    )


@pytest.mark.parametrize("source", ["file", "-", "default"])
def test_events_are_stored_byte_for_byte(tmp_path: Path, source: str) -> None:
    events = [make_event(content=f"no. {n} 𝄞\u2028\x7f") for n in range(20)]
    file = write_lines(tmp_path / "in.jsonl", [event.raw for event in events])
    given: dict[str, tuple[str | Path, ...]] = {"file": (file,), "-": ("-",), "default": ()}
    done = run(
        "import", *given[source], data_dir=tmp_path / "data", stdin=b"" if source == "file" else file.read_bytes()
    )
    assert (done.returncode, done.stdout) == (0, b"")
    assert done.stderr.decode() == summary(stored=20) + "\n"
    assert stored(tmp_path / "data") == {event.raw for event in events}


def test_bad_lines_are_named_and_the_rest_is_stored(tmp_path: Path) -> None:
    good = [make_event(content=str(n)) for n in range(6)]
    lines = [
        b"\xef\xbb\xbf" + good[0].raw,
        b"",
        b"{",
        b"  \t " + good[1].raw + b"\r",
        b"\r",
        b'"\xff"',
        b"[]",
        good[2].raw,
        event_json(good[3], content="changed"),
        event_json(good[3], kind=-1),
        b'{"id":"\xff"}',
        fake_event(content="forged").raw,
        make_event(kind=20_001).raw,
        good[2].raw,
        event_json(good[4], unknown="field"),
        b"x" * (17 * MIB),
        b"\x00",
        b"[" * 100_000,
    ]
    data = b"\n".join([*lines, good[5].raw])  # no line feed at the end
    done = run("import", data_dir=tmp_path / "data", stdin=data)
    *named, last = done.stderr.decode().splitlines()
    assert done.returncode == 1
    assert last == summary(stored=5, duplicates=1, refused=11)
    reasons = dict(line.removeprefix("line ").split(": ", 1) for line in named)
    assert reasons.keys() == {"3", "6", "7", "9", "10", "11", "12", "13", "16", "17", "18"}
    assert reasons["9"] == "id does not match the event"
    assert reasons["10"] == "kind is outside 0..65535"
    assert reasons["12"] == "the signature does not match"
    assert reasons["13"] == "kind 20001 is ephemeral and is not stored"
    assert reasons["16"] == f"the line is longer than {16 * MIB} bytes"
    assert all(reasons.values())
    assert stored(tmp_path / "data") == {good[n].raw for n in (0, 1, 2, 4, 5)}


def test_without_verification_the_id_is_still_checked(tmp_path: Path) -> None:
    forged = fake_event(content="forged")
    lines = b"\n".join([forged.raw, event_json(forged, content="changed")])
    done = run("import", "--no-verify", data_dir=tmp_path / "data", stdin=lines)
    assert done.returncode == 1
    assert done.stderr.decode() == f"line 2: id does not match the event\n{summary(stored=1, refused=1)}\n"
    assert stored(tmp_path / "data") == {forged.raw}


def test_what_is_no_longer_wanted_is_no_failure(tmp_path: Path) -> None:
    old, new = make_event(kind=0, created_at=NOW_S), make_event(kind=0, created_at=NOW_S + 1)
    gone = make_event(content="gone")
    deletion = delete_event(gone, created_at=NOW_S + 1, signed=True)
    lines = [deletion, gone, new, old, expiring_event(NOW_S + 60, signed=True), new]
    done = run("import", data_dir=tmp_path / "data", stdin=b"\n".join(event.raw for event in lines))
    assert done.returncode == 0
    assert done.stderr.decode() == summary(stored=2, duplicates=1, unwanted=3) + "\n"
    assert stored(tmp_path / "data") == {deletion.raw, new.raw}


def test_a_backup_is_restored_whatever_its_age_and_whoever_may_publish(tmp_path: Path) -> None:
    events = [
        make_event(created_at=0),
        make_event(created_at=2**63 - 1),
        make_event(tags=[["-"]]),
        gift_wrap(KEYS[1], signed=True),
    ]
    variables = {"ORLY_MAX_CREATED_AT_PAST": "1h", "ORLY_AUTH_TO_WRITE": "true", "ORLY_AUTH_REQUIRED": "true"}
    data = b"\n".join(event.raw for event in events)
    done = run("import", data_dir=tmp_path / "data", stdin=data, variables=variables)
    assert (done.returncode, done.stderr.decode()) == (0, summary(stored=4) + "\n")
    assert stored(tmp_path / "data") == {event.raw for event in events}


def test_a_configuration_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    good, bad = (
        make_event(kind=30_078, created_at=NOW_S + n, tags=[["d", "curating-config"], ["daily_limit", limit]])
        for n, limit in enumerate(("20", "2o"))
    )
    variables = {"ORLY_ACL_MODE": "curating", "ORLY_OWNERS": KEYS[0]}
    done = run("import", data_dir=tmp_path / "data", stdin=good.raw + b"\n" + bad.raw, variables=variables)
    assert done.returncode == 1
    assert "line 2: daily_limit must be a whole number, not '2o'\n" in done.stderr.decode()
    assert stored(tmp_path / "data") == {good.raw}


def test_other_limits_apply(tmp_path: Path) -> None:
    padding = 2048 - len(make_event().raw)
    fits, exceeds = make_event(content="x" * padding), make_event(content="x" * (padding + 1))
    assert len(fits.raw) == 2048
    data = fits.raw + b"\n" + exceeds.raw
    done = run("import", data_dir=tmp_path / "data", stdin=data, variables={"ORLY_MAX_EVENT_SIZE": "2KiB"})
    assert done.returncode == 1
    assert "line 2: event has 2049 bytes, the maximum is 2048\n" in done.stderr.decode()
    assert stored(tmp_path / "data") == {fits.raw}


def test_an_import_can_be_repeated(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "in.jsonl", [make_event(content=str(n)).raw for n in range(50)])
    assert run("import", file, data_dir=tmp_path / "data").returncode == 0
    done = run("import", file, data_dir=tmp_path / "data")
    assert (done.returncode, done.stderr.decode()) == (0, summary(duplicates=50) + "\n")


def test_a_flood_of_bad_lines_is_counted(tmp_path: Path) -> None:
    done = run("import", data_dir=tmp_path / "data", stdin=b"{\n" * (MAX_SHOWN_PROBLEMS + 2))
    lines = done.stderr.decode().splitlines()
    assert done.returncode == 1
    assert lines[MAX_SHOWN_PROBLEMS - 1].startswith(f"line {MAX_SHOWN_PROBLEMS}: ")
    assert lines[MAX_SHOWN_PROBLEMS:] == [
        "further bad lines are counted, not named",
        summary(refused=MAX_SHOWN_PROBLEMS + 2),
    ]


def test_nothing_is_a_complete_import(tmp_path: Path) -> None:
    done = run("import", data_dir=tmp_path / "data", stdin=b"\n\r\n")
    assert (done.returncode, done.stderr.decode()) == (0, summary() + "\n")


def test_beside_a_serving_relay_it_says_why_not(tmp_path: Path) -> None:
    with running_relay() as relay:
        done = run("import", data_dir=relay.data_dir, stdin=make_event().raw)
        assert done.returncode == 69
        text = done.stderr.decode()
        assert f"is in use by another process (pid {relay.pid})" in text
        assert "stop it first, or publish them to it as a client" in text


@pytest.mark.parametrize(
    ("name", "reason"),
    [("missing", "No such file or directory"), ("", "Is a directory"), ("/proc/self/mem", "Input/output error")],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str, reason: str) -> None:
    file = tmp_path / name
    done = run("import", file, data_dir=tmp_path / "data")
    assert done.returncode == 1
    assert done.stderr.decode() == f"orly: {file} cannot be read: {reason}\n"
    assert (tmp_path / "data").exists() == (reason == "Input/output error")


def test_a_file_without_permission_is_named(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "in.jsonl", [])
    file.chmod(0)
    done = run("import", file, data_dir=tmp_path / "data", unprivileged=True)
    assert (done.returncode, done.stderr.decode()) == (1, f"orly: {file} cannot be read: Permission denied\n")


@pytest.mark.parametrize(
    ("data", "reader"), [(gzip.compress(b"{}\n", mtime=0), "zcat"), (b"\x28\xb5\x2f\xfd\x04\x00\n", "zstdcat")]
)
def test_a_compressed_file_is_recognised(tmp_path: Path, data: bytes, reader: str) -> None:
    file = tmp_path / "in.jsonl.gz"
    file.write_bytes(data)
    done = run("import", file, data_dir=tmp_path / "data")
    assert done.returncode == 1
    assert done.stderr.decode().startswith(f"orly: {file} is compressed with ")
    assert f"{reader} FILE | orly import -" in done.stderr.decode()


def test_a_closed_standard_input_is_no_empty_file(tmp_path: Path) -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", 'exec "$0" import <&-', ORLY],
        env=clean_environment(tmp_path, {"ORLY_DATA_DIR": str(tmp_path / "data")}),
        capture_output=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, b"orly: standard input is closed\n")


def test_it_goes_on_when_nobody_reads_its_reports(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "in.jsonl", [b"{"] * 5000 + [make_event().raw])
    with child("import", file, data_dir=tmp_path / "data") as process:
        assert process.stderr is not None
        process.stderr.close()
        assert process.wait(DEADLINE_S) == 1
    assert stored(tmp_path / "data") == {make_event().raw}


def test_a_full_store_stops_it_and_a_larger_one_completes_it(tmp_path: Path) -> None:
    events = [fake_event(content=f"{n:060000}") for n in range(400)]
    file = write_lines(tmp_path / "in.jsonl", [event.raw for event in events])
    small = {"ORLY_DB_MAX_SIZE": "16MiB"}
    done = run("import", "--no-verify", file, data_dir=tmp_path / "data", variables=small)
    assert done.returncode == 1
    report, reason = done.stderr.decode().splitlines()
    assert reason.startswith("orly: the import stopped: the database in ")
    assert reason.endswith("is full: raise ORLY_DB_MAX_SIZE")
    kept = stored(tmp_path / "data")
    n_lines = int(report.split()[0])
    assert 0 < len(kept) < n_lines < len(events)
    assert report == (
        f"{n_lines} lines: {len(kept)} stored, 0 already there, 0 replaced, deleted or expired, 0 refused, "
        f"{n_lines - len(kept)} not saved"
    )
    assert kept == {event.raw for event in events[: len(kept)]}
    done = run("import", "--no-verify", file, data_dir=tmp_path / "data", variables={"ORLY_DB_MAX_SIZE": "1GiB"})
    assert done.returncode == 0
    assert done.stderr.decode() == summary(stored=400 - len(kept), duplicates=len(kept)) + "\n"
    assert stored(tmp_path / "data") == {event.raw for event in events}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_import_keeps_what_it_read(tmp_path: Path, number: signal.Signals) -> None:
    events = [make_event(content=str(n)) for n in range(10)]
    with child("import", "-", data_dir=tmp_path / "data") as process:
        assert process.stdin is not None
        process.stdin.write(b"".join(event.raw + b"\n" for event in events) + b"{\n")
        process.stdin.flush()
        await_output(process, b"line 11: ")  # all was read; it waits for more, which never comes
        process.send_signal(number)
        assert process.wait(DEADLINE_S) == 1
        assert process.stderr is not None
        report, reason = process.stderr.read().decode().splitlines()[-2:]
    assert report == summary(stored=10, refused=1)
    assert reason == "orly: interrupted; what was stored so far stays, and the import can be run again"
    assert stored(tmp_path / "data") == {event.raw for event in events}


def test_a_terminal_sees_progress(tmp_path: Path) -> None:
    lines = [b"{", b'{"[bold]":1}', *(make_event(content=str(n)).raw for n in range(100))]
    file = write_lines(tmp_path / "in.jsonl", lines)
    code, shown = on_terminal("import", file, data_dir=tmp_path / "data")
    assert code == 1
    assert "\x1b[" in shown
    assert "━" in shown
    assert f"{file.stat().st_size / 1000:.1f}/{file.stat().st_size / 1000:.1f}" in shown
    assert "line 1: " in shown
    assert "line 2: " in shown
    assert summary(stored=100, refused=2) in shown


class RecordingStore:
    """Takes everything, and remembers how."""

    def __init__(self) -> None:
        self.batches: list[list[EncodedEvent]] = []

    def save(self, events: Sequence[EncodedEvent]) -> list[SaveResult]:
        self.batches.append(list(events))
        return [SaveResult(SaveStatus.STORED, 1)] * len(events)

    def known(self, ids: Sequence[bytes]) -> list[bool]:
        return [False] * len(ids)


def importer(store: RecordingStore) -> Importer:
    policy = WritePolicy(
        max_event_bytes=MIB, max_event_tags=10, max_created_at_past_s=0, max_created_at_future_s=0, auth_to_write=True
    )
    return Importer(save=store.save, known=store.known, verify=None, policy=policy, say=lambda text: None)


def test_a_batch_has_at_most_so_many_events(monkeypatch: pytest.MonkeyPatch) -> None:
    assert BATCH_EVENTS > 10
    monkeypatch.setattr(import_events, "BATCH_EVENTS", 10)
    store = RecordingStore()
    work = importer(store)
    for n in range(21):
        work.take(n + 1, fake_event(content=str(n)).raw, now_s=NOW_S)
    assert [len(batch) for batch in store.batches] == [10, 10]
    work.flush()
    work.flush()
    assert [len(batch) for batch in store.batches] == [10, 10, 1]
    assert work.report.stored == work.report.lines == 21


def test_a_batch_of_large_events_ends_earlier(monkeypatch: pytest.MonkeyPatch) -> None:
    assert BATCH_BYTES > 1000
    size = len(fake_event().raw)
    monkeypatch.setattr(import_events, "BATCH_BYTES", 3 * size)
    store = RecordingStore()
    work = importer(store)
    for n in range(3):
        assert store.batches == []
        work.take(n + 1, fake_event(kind=n).raw, now_s=NOW_S)
    assert [len(batch) for batch in store.batches] == [3]
