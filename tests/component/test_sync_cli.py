"""`orly sync` on a data directory: exact sets of ids on both sides, exit statuses, and what is said."""

import asyncio
import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.component.orly_child import DEADLINE_S, on_terminal, run
from tests.factory import KEYS, NOW_S, SECRETS, fake_event, gift_wrap, make_event
from tests.process import ORLY, RelayProcess, clean_environment, free_port, running_db, running_relay

from orly.nostr.event import EncodedEvent
from orly.nostr.filter import Filter
from orly.store.lmdb.follower import LmdbFollower
from orly.store.lmdb.store import LmdbStore
from orly.units import TIB

BOTH = [make_event(n % 3, created_at=NOW_S + n, content="common") for n in range(60)]
HERE = [make_event(n % 3, created_at=NOW_S + 3 * n, content="here") for n in range(12)]
THERE = [make_event(n % 3, kind=7, created_at=NOW_S + 2 * n, content="there") for n in range(17)]

STORE_BYTES = TIB  # the default of ORLY_DB_MAX_SIZE

ON = {"ORLY_NEGENTROPY_ENABLED": "true"}


def ids(events: Sequence[EncodedEvent]) -> set[str]:
    return {event.event.id for event in events}


def held(data_dir: Path) -> set[str]:
    """The ids in a data directory, which may be in use."""

    async def read() -> list[bytes]:
        follower = await LmdbFollower.open(data_dir, max_bytes=STORE_BYTES)
        try:
            return [raw for rows in follower.export(Filter()) for raw in rows if raw is not None]
        finally:
            await follower.close()

    return {json.loads(raw)["id"] for raw in asyncio.run(read())}


def fill(data_dir: Path, events: Sequence[EncodedEvent]) -> Path:
    """A data directory that holds these events."""

    async def write() -> None:
        store = await LmdbStore.open(data_dir, max_bytes=STORE_BYTES, now_s=lambda: NOW_S)
        await store.save(events)
        await store.close()

    asyncio.run(write())
    return data_dir


@contextmanager
def relay_with(events: Sequence[EncodedEvent], tmp_path: Path, **variables: str) -> Iterator[RelayProcess]:
    """A relay with these events, for clients that reconcile."""
    directory = fill(tmp_path / "peer", events)
    with running_relay(ORLY_DATA_DIR=str(directory), **{**ON, **variables}) as relay:
        yield relay


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[RelayProcess]:
    """The other relay."""
    with relay_with(BOTH + THERE, tmp_path) as relay:
        yield relay


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """The data directory."""
    return fill(tmp_path / "here", BOTH + HERE)


def result_of(stdout: bytes) -> dict[str, Any]:
    """The last of JSON lines."""
    result: dict[str, Any] = json.loads(stdout.splitlines()[-1])
    assert result["type"] == "result"
    return result


def counts(result: dict[str, Any]) -> dict[str, int]:
    """The numbers of events in a result that are not 0."""
    names = (
        *("have", "need", "fetched", "known", "unwanted", "refused", "unavailable", "sent", "unneeded", "rejected"),
    )
    return {name: result[name] for name in names if result[name]}


# Directions


@pytest.mark.parametrize(
    ("options", "comes", "goes"),
    [
        ((), True, False),
        (("--dir", "down"), True, False),
        (("--dir=up",), False, True),
        (("--dir", "both"), True, True),
        (("--dir=none",), False, False),
        (("--dry-run", "--dir=both"), False, False),
        (("--print-missing",), False, False),
    ],
)
def test_events_go_in_the_directions_asked_for_and_in_no_other(
    peer: RelayProcess, here: Path, options: tuple[str, ...], *, comes: bool, goes: bool
) -> None:
    done = run("sync", peer.url, "--json", *options, data_dir=here)
    assert (done.returncode, done.stderr) == (0, b"")
    result = result_of(done.stdout)
    assert (result["status"], result["problems"]) == ("complete", [])
    expected = {"have": 12, "need": 17}
    expected |= {"fetched": 17} if comes else {}
    expected |= {"sent": 12} if goes else {}
    assert counts(result) == expected
    assert held(here) == ids(BOTH + HERE) | (ids(THERE) if comes else set())
    assert held(peer.data_dir) == ids(BOTH + THERE) | (ids(HERE) if goes else set())


def test_a_second_run_moves_nothing(peer: RelayProcess, here: Path) -> None:
    first = run("sync", peer.url, "--dir", "both", data_dir=here)
    assert (first.returncode, first.stdout) == (0, b"")
    assert first.stderr.decode().startswith("complete: 17 fetched, 12 sent, 0 refused; ")
    second = run("sync", peer.url, "--dir", "both", "--json", data_dir=here)
    assert second.returncode == 0
    assert counts(result_of(second.stdout)) == {}
    assert held(here) == held(peer.data_dir) == ids(BOTH + HERE + THERE)


def test_a_data_directory_is_made(peer: RelayProcess, tmp_path: Path) -> None:
    directory = tmp_path / "new" / "er"
    done = run("sync", peer.url, "--data-dir", directory, "--dir", "down", data_dir=tmp_path / "unused")
    assert done.returncode == 0, done.stderr
    assert held(directory) == ids(BOTH + THERE)
    assert not (tmp_path / "unused").exists()


# What is synced


@pytest.mark.parametrize(
    ("options", "first_s", "last_s"),
    [
        (("--since", str(NOW_S + 10)), NOW_S + 10, NOW_S + 1000),
        (("--until", str(NOW_S + 10)), 0, NOW_S + 10),
        (("--since", str(NOW_S + 4), "--until", str(NOW_S + 20)), NOW_S + 4, NOW_S + 20),
        (("--filter", f'{{"since":{NOW_S + 4}}}', "--until", str(NOW_S + 20)), NOW_S + 4, NOW_S + 20),
        (("--range", "1000Y-"), 0, NOW_S + 1000),
        (("--range", "-1d"), 0, NOW_S + 1000),
        (("--range", "1h-"), NOW_S + 1000, NOW_S + 1000),
    ],
)
def test_only_events_of_the_times_asked_for_are_synced(
    peer: RelayProcess, here: Path, options: tuple[str, ...], first_s: int, last_s: int
) -> None:
    def within(events: Sequence[EncodedEvent]) -> set[str]:
        return ids([event for event in events if first_s <= event.event.created_at <= last_s])

    assert run("sync", peer.url, "--dir=both", *options, data_dir=here).returncode == 0
    assert held(here) == ids(BOTH + HERE) | within(THERE)
    assert held(peer.data_dir) == ids(BOTH + THERE) | within(HERE)


def test_only_events_that_match_the_filter_are_synced(peer: RelayProcess, here: Path) -> None:
    done = run("sync", peer.url, "--filter", f'{{"kinds":[7],"authors":["{KEYS[1]}"]}}', data_dir=here)
    assert done.returncode == 0
    assert held(here) == ids(BOTH + HERE) | ids([event for event in THERE if event.event.pubkey == KEYS[1]])


@pytest.mark.parametrize(
    ("line", "comes", "goes"),
    [
        ("--filter '{\"kinds\": [0, 3, 1984, 7]}' --dir both", True, False),
        ("--filter '{\"kinds\": [0, 1, 3]}' --dir both", False, True),
        ("--filter '{\"kinds\": [0, 1, 3]}' --dir down", False, False),
        ("--filter '{\"kinds\": [0, 1, 3]}' --dir up", False, True),
        ("--data-dir HERE --dir down", True, False),
    ],
)
def test_command_lines_of_the_guide(peer: RelayProcess, here: Path, line: str, *, comes: bool, goes: bool) -> None:
    done = run("sync", peer.url, *shlex.split(line.replace("HERE", str(here))), data_dir=here)
    assert done.returncode == 0, done.stderr
    assert held(here) == ids(BOTH + HERE) | (ids(THERE) if comes else set())
    assert held(peer.data_dir) == ids(BOTH + THERE) | (ids(HERE) if goes else set())


def test_missing_ids_are_printed(peer: RelayProcess, here: Path) -> None:
    done = run("sync", peer.url, "--print-missing", data_dir=here)
    assert done.returncode == 0
    lines = [line.split(",") for line in done.stdout.decode().splitlines()]
    assert sorted(lines) == sorted(
        [*(["have", event.event.id] for event in HERE), *(["need", event.event.id] for event in THERE)]
    )


def test_private_kinds_are_sent_only_when_asked(tmp_path: Path) -> None:
    wrap = gift_wrap(KEYS[1], signed=True)
    here = fill(tmp_path / "here", [*HERE, wrap])
    with relay_with(BOTH, tmp_path) as peer:
        assert run("sync", peer.url, "--dir", "up", data_dir=here).returncode == 0
        assert held(peer.data_dir) == ids(BOTH + HERE)
        assert run("sync", peer.url, "--dir", "up", "--private-kinds", data_dir=here).returncode == 0
        assert held(peer.data_dir) == ids([*BOTH, *HERE, wrap])


# What goes wrong


def test_what_our_rules_refuse_makes_it_incomplete(peer: RelayProcess, here: Path) -> None:
    big = {"ORLY_MIN_POW_DIFFICULTY": "200"}
    done = run("sync", peer.url, data_dir=here, variables=big)
    assert (done.returncode, done.stdout) == (3, b"")
    summary, *problems = done.stderr.decode().splitlines()
    assert summary.startswith("incomplete: 0 fetched, 0 sent, 17 refused; ")
    assert any("17 events" in line and "pow: " in line for line in problems), problems
    assert held(here) == ids(BOTH + HERE)


def test_what_the_peer_refuses_makes_it_incomplete(tmp_path: Path, here: Path) -> None:
    with relay_with(BOTH + THERE, tmp_path, ORLY_MIN_POW_DIFFICULTY="200") as peer:
        done = run("sync", peer.url, "--dir", "up", data_dir=here)
        assert done.returncode == 3
        summary, *problems = done.stderr.decode().splitlines()
        assert summary.startswith("incomplete: 0 fetched, 0 sent, 0 refused, 12 not taken by the other relay; ")
        assert any("12 events" in line and "pow: " in line for line in problems), problems


def test_a_peer_that_is_not_there_is_named(here: Path) -> None:
    url = f"ws://127.0.0.1:{free_port()}"
    done = run("sync", url, data_dir=here)
    assert done.returncode == 1
    assert url.removeprefix("ws://") in done.stderr.decode().splitlines()[-1]
    assert done.stderr.decode().startswith("failed: 0 fetched, 0 sent, 0 refused; ")


@pytest.mark.parametrize("source", ["none", "file", "setting", "wrong"])
def test_a_peer_that_wants_to_know_who_we_are(tmp_path: Path, here: Path, source: str) -> None:
    key = tmp_path / "key"
    key.write_text(f"{SECRETS[0].hex()}\n")
    options = ["--auth-key-file", str(key)] if source == "file" else []
    variables = {"ORLY_SYNC_NEGENTROPY_SECRET_KEY": SECRETS[0].hex()} if source == "setting" else {}
    with relay_with(BOTH + THERE, tmp_path, ORLY_AUTH_REQUIRED="true") as peer:
        if source == "wrong":
            key.write_text("nsec1wrong")
            done = run("sync", peer.url, "--auth-key-file", key, data_dir=here)
            assert done.returncode == 2
            assert f"--auth-key-file {key}" in done.stderr.decode()
            return
        done = run("sync", peer.url, "--dir", "both", *options, data_dir=here, variables=variables)
        if source == "none":
            assert done.returncode == 1
            assert "auth-required" in done.stderr.decode()
            assert held(here) == ids(BOTH + HERE)
        else:
            assert (done.returncode, held(here)) == (0, ids(BOTH + HERE + THERE))


# Beside others


def test_a_directory_in_use_is_named_with_what_to_do(peer: RelayProcess, here: Path) -> None:
    with running_relay(ORLY_DATA_DIR=str(here)) as relay:
        done = run("sync", peer.url, data_dir=here)
        assert (done.returncode, done.stdout) == (1, b"")
        said = done.stderr.decode()
        for hint in (
            f"(pid {relay.pid})",
            "--server 127.0.0.1:50064",
            "ORLY_DB_TYPE=grpc ORLY_GRPC_SERVER=127.0.0.1:50051",
            f"ORLY_SYNC_NEGENTROPY_PEERS={peer.url}",
        ):
            assert hint in said
        assert held(here) == ids(BOTH + HERE)


def test_reading_and_sending_work_beside_a_relay(peer: RelayProcess, here: Path) -> None:
    with running_relay(ORLY_DATA_DIR=str(here)):
        dry = run("sync", peer.url, "--dry-run", "--json", data_dir=here)
        assert (dry.returncode, counts(result_of(dry.stdout))) == (0, {"have": 12, "need": 17})
        sent = run("sync", peer.url, "--dir=up", "--json", data_dir=here)
        assert (sent.returncode, counts(result_of(sent.stdout))) == (0, {"have": 12, "need": 17, "sent": 12})
    assert held(peer.data_dir) == ids(BOTH + HERE + THERE)


@pytest.mark.parametrize("reads_directly", [False, True])
def test_it_works_through_a_running_service(peer: RelayProcess, here: Path, *, reads_directly: bool) -> None:
    with running_db(ORLY_DATA_DIR=str(here)) as db:
        variables = {
            "ORLY_DB_TYPE": "grpc",
            "ORLY_GRPC_SERVER": db.address,
            "ORLY_DB_DIRECT_READ": str(reads_directly).lower(),
        }
        done = run("sync", peer.url, "--dir", "both", "--json", data_dir=here, variables=variables)
        assert (done.returncode, done.stderr) == (0, b"")
        assert counts(result_of(done.stdout)) == {"have": 12, "need": 17, "fetched": 17, "sent": 12}
        assert held(here) == held(peer.data_dir) == ids(BOTH + HERE + THERE)


def test_a_data_directory_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    done = run("sync", "ws://127.0.0.1:1", data_dir=file)
    assert (done.returncode, done.stdout) == (78, b"")
    assert done.stderr.decode().startswith(f"orly: the data directory {file} cannot be written: ")


@pytest.mark.parametrize("options", [("--dry-run",), ("--print-missing",), ("--dir", "up"), ("--dir", "none")])
def test_nothing_is_made_or_changed_where_nothing_is_fetched(
    peer: RelayProcess, here: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    nowhere = tmp_path / "mistyped"
    done = run("sync", peer.url, *options, data_dir=nowhere)
    assert (done.returncode, done.stderr.decode()) == (78, f"orly: there is no database in {nowhere}\n")
    assert not nowhere.exists()
    (here / "orly.lock").unlink()
    before = (here / "data.mdb").stat().st_mtime_ns
    done = run("sync", peer.url, *options, data_dir=here)
    assert done.returncode == 0, done.stderr
    assert (here / "data.mdb").stat().st_mtime_ns == before
    assert not (here / "orly.lock").exists()


@pytest.mark.parametrize("options", [(), ("--dir", "up")])
def test_a_data_directory_that_may_not_be_read_is_named(tmp_path: Path, options: tuple[str, ...]) -> None:
    directory = fill(tmp_path / "closed", HERE)
    directory.chmod(0)
    try:
        done = run("sync", "ws://127.0.0.1:1", *options, data_dir=directory, unprivileged=True)
    finally:
        directory.chmod(0o755)
    assert done.returncode == 78
    assert done.stderr.decode() == f"orly: the data directory {directory} cannot be read: Permission denied\n"


# Standard output


def shell(line: str, data_dir: Path, **variables: str) -> subprocess.CompletedProcess[bytes]:
    """Runs a line of a shell; the command is `$ORLY`."""
    with tempfile.TemporaryDirectory(prefix="orly-test-") as home:
        return subprocess.run(
            ["bash", "-o", "pipefail", "-c", line],
            env=clean_environment(Path(home), {"ORLY_DATA_DIR": str(data_dir), "ORLY": str(ORLY), **variables}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=2 * DEADLINE_S,
            check=False,
        )


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_slow_reader_gets_every_line_whole(tmp_path: Path, unbuffered: str) -> None:
    events = [fake_event(created_at=NOW_S + n) for n in range(3_000)]
    with relay_with(events, tmp_path) as peer:
        slow = "import sys, time\nfor _ in iter(lambda: sys.stdin.buffer.read1(4096), b''): time.sleep(0.005)\n"
        keep = tmp_path / "kept"
        line = (
            f"$ORLY sync {peer.url} --print-missing --json 2>&1 "
            f"| tee >({sys.executable} -c {shlex.quote(slow)}) > {shlex.quote(str(keep))}"
        )
        fill(tmp_path / "here", HERE)
        assert shell(line, tmp_path / "here", PYTHONUNBUFFERED=unbuffered).returncode == 0
        result = result_of(keep.read_bytes())
        assert set(result["need_ids"]) == ids(events)


@pytest.mark.parametrize("option", ["--json", "--print-missing", "--print-missing --json"])
def test_an_output_that_cannot_be_written_is_a_failure(peer: RelayProcess, here: Path, option: str) -> None:
    full = shell(f"$ORLY sync {peer.url} {option} > /dev/full", here)
    assert full.returncode == 1
    assert "orly: standard output cannot be written: No space left on device\n" in full.stderr.decode()
    before = held(here)
    closed = shell(f"$ORLY sync {peer.url} {option} >&-", here)
    assert (closed.returncode, closed.stderr) == (1, b"orly: standard output is closed\n")
    assert held(here) == before, "nothing was done in vain"


def test_a_store_service_that_never_comes_is_named(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    variables = {"ORLY_DB_TYPE": "grpc", "ORLY_GRPC_SERVER": address, "ORLY_LAUNCHER_DB_READY_TIMEOUT": "300ms"}
    done = run("sync", "ws://127.0.0.1:1", data_dir=tmp_path / "data", variables=variables)
    assert done.returncode == 1
    assert f"waited 0.3 s for orly-db at {address}" in done.stderr.decode()


def test_a_data_directory_has_no_effect_on_a_service(tmp_path: Path) -> None:
    variables = {"ORLY_DB_TYPE": "grpc"}
    done = run("sync", "ws://x", "--data-dir", tmp_path / "x", data_dir=tmp_path / "data", variables=variables)
    assert done.returncode == 2
    assert "--data-dir has no effect with ORLY_DB_TYPE=grpc" in done.stderr.decode()


# The terminal


def test_a_terminal_gets_a_bar(peer: RelayProcess, here: Path) -> None:
    code, shown = on_terminal("sync", peer.url, "--dir", "both", data_dir=here)
    assert code == 0
    assert "29/29" in shown
    assert "complete: 17 fetched, 12 sent, 0 refused" in shown


def test_a_log_is_written_when_asked(peer: RelayProcess, here: Path) -> None:
    quiet = run("sync", peer.url, "--dry-run", data_dir=here)
    assert len(quiet.stderr.splitlines()) == 1
    chatty = run("sync", peer.url, "--dry-run", "-v", data_dir=here)
    *lines, last = chatty.stderr.decode().splitlines()
    assert last.startswith("complete: 17 missing here, 12 missing there; ")
    assert any(f"data in {here}" in line for line in lines)
    assert any(f"none with {peer.url}" in line for line in lines)


# Usage


def test_it_explains_itself(tmp_path: Path) -> None:
    done = run("sync", "--help", data_dir=tmp_path / "data")
    text = " ".join(done.stdout.decode().split())
    assert done.returncode == 0
    assert text.startswith("Usage: orly sync [OPTIONS] [URL]")
    assert "Exit status: 0 " in text
    for option in ("--filter", "--dir", "--range", "--timeout", "--print-missing", "--frame-size-limit"):
        assert f" {option} " in text


def test_wrong_settings_are_refused_before_anything_else(tmp_path: Path) -> None:
    done = run("sync", "ws://x", data_dir=tmp_path / "data", variables={"ORLY_PORT": "x", "ORLY_LISTEN": "y"})
    assert (done.returncode, done.stdout) == (78, b"")
    assert done.stderr.decode().count("orly: ORLY_") == 2


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        ((), "URL"),
        (("--dir", "both"), "URL"),
        (("relay.example.com",), "relay.example.com"),
        (("ws://x", "ws://y"), "ws://y"),
        (("ws://x", "--dir", "sideways"), "--dir sideways"),
        (("ws://x", "--filter", "{"), "--filter"),
        (("ws://x", "--filter=[]"), "--filter"),
        (("ws://x", "--filetr", "{}"), "--filter"),
        (("ws://x", "--range", "2M"), "--range"),
        (("ws://x", "--batch", "501"), "--batch"),
        (("ws://x", "--batch", "0"), "--batch"),
        (("ws://x", "--timeout", "soon"), "--timeout"),
        (("ws://x", "--frame-size-limit", "511"), "--frame-size-limit"),
        (("ws://x", "--print-missing", "--dir=up"), "--print-missing"),
        (("ws://x", "--auth-key-file", "/nonexistent"), "--auth-key-file"),
        (("ws://x", "--token-file", "/nonexistent"), "--token-file"),
        (("ws://x", "--tls-ca", "/nonexistent"), "--tls-ca"),
        (("ws://x", "--data-dir", ""), "--data-dir"),
        (("ws://x", "--server="), "--server"),
        (("--driver=grasp",), "grasp"),
        (("ws://x", "--driver=negentropy"), "ORLY_SYNC_NEGENTROPY_PEERS"),
    ],
)
def test_a_wrong_command_line_is_refused_by_name(tmp_path: Path, arguments: tuple[str, ...], hint: str) -> None:
    done = run("sync", *arguments, data_dir=tmp_path / "data")
    assert (done.returncode, done.stdout) == (2, b"")
    assert hint in done.stderr.decode().splitlines()[-1]
    assert not (tmp_path / "data").exists()
