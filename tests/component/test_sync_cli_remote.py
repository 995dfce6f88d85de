"""`orly sync --server` against a service that follows a script."""

import json
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.component.fake_sync_service import scripted_service
from tests.component.orly_child import DEADLINE_S, await_output, child, on_terminal, run
from tests.process import free_port

from orly.cli.sync_request import MAX_FRAME_BYTES
from orly.pb.orlysync.negentropy.v1 import types_pb2

Progress = types_pb2.SyncProgress
Request = types_pb2.SyncPeerRequest
URL = "ws://peer.example.com"
SOON = {"ORLY_LAUNCHER_SYNC_READY_TIMEOUT": "500ms"}


@pytest.fixture
def nowhere(tmp_path: Path) -> Iterator[Path]:
    """A data directory that client mode has no use for."""
    yield tmp_path / "nowhere"
    assert not (tmp_path / "nowhere").exists()


def happy(request: Request, context: Any) -> Iterator[Progress]:
    yield Progress(phase="connecting")
    yield Progress(phase="reconciling", round=2, have_count=7, need_count=30, fetched_count=4)
    last = Progress(round=3, have_count=7, need_count=30, fetched_count=28, sent_count=7, refused=2)
    last.phase = "transferring"
    yield last
    last.phase = "done"
    last.bytes_sent = 12_345
    last.bytes_received = 6_789_000
    last.problems.append("2 events refused by us: blocked: no")
    last.complete = last.incomplete = True
    yield last


def result_of(stdout: bytes) -> dict[str, Any]:
    """The last of JSON lines."""
    result: dict[str, Any] = json.loads(stdout.splitlines()[-1])
    return result


def test_the_request_is_what_the_options_say(nowhere: Path) -> None:
    seen: list[Request] = []

    def script(request: Request, context: Any) -> Iterator[Progress]:
        seen.append(request)
        yield Progress(complete=True)

    with scripted_service(script) as address:
        done = run("sync", "wss://Relay.example.com/", f"--server={address}", data_dir=nowhere)
        assert (done.returncode, done.stdout) == (0, b"")
        options = ["--filter", '{"kinds":[1,0],"#t":["x"],"since":5,"until":99,"limit":9}', "--dir=both", "--since=7"]
        options += ["--until", "90", "--timeout=1500ms", "--batch=20", "--frame-size-limit=4096", "--private-kinds"]
        assert run("sync", URL, "--server", address, *options, data_dir=nowhere).returncode == 0
        options = ["--print-missing", "--frame-size-limit", "0"]
        assert run("sync", URL, "--server", address, *options, data_dir=nowhere).returncode == 0
        assert run("sync", URL, "--server", address, "--dry-run", data_dir=nowhere).returncode == 0
    plain, full, listing, dry = seen
    assert (plain.peer_url, plain.direction, plain.list_ids) == ("wss://relay.example.com", "down", False)
    assert (plain.filter.ByteSize(), plain.timeout_ms, plain.batch, plain.frame_bytes) == (0, 0, 500, 60_000)
    assert not plain.HasField("private_kinds")
    wanted = full.filter
    assert (list(wanted.kinds), list(wanted.tags["t"].values)) == ([0, 1], [b"x"])
    assert (wanted.since, wanted.until, wanted.limit) == (7, 90, 9)
    assert (full.direction, full.timeout_ms, full.batch, full.frame_bytes) == ("both", 1500, 20, 4096)
    assert full.private_kinds
    assert (listing.direction, listing.list_ids, listing.frame_bytes) == ("none", True, MAX_FRAME_BYTES)
    assert (dry.direction, dry.list_ids) == ("none", False)


def test_what_is_incomplete_is_said_and_has_a_status_of_its_own(nowhere: Path) -> None:
    with scripted_service(happy) as address:
        done = run("sync", URL, "--server", address, data_dir=nowhere)
    assert (done.returncode, done.stdout) == (3, b"")
    last, problem = done.stderr.decode().splitlines()
    assert last.startswith("incomplete: 28 fetched, 7 sent, 2 refused; 6.8 MB in, 12.3 kB out; ")
    assert last.endswith(" s")
    assert problem == "orly: 2 events refused by us: blocked: no"


def test_json_lines_have_one_form(nowhere: Path) -> None:
    with scripted_service(happy) as address:
        done = run("sync", URL, "--server", address, "--dir", "both", "--json", data_dir=nowhere)
    assert done.returncode == 3
    *steps, result = [json.loads(line) for line in done.stdout.splitlines()]
    assert [step["phase"] for step in steps] == ["connecting", "reconciling", "transferring", "done"]
    numbers = {
        *("round", "have", "need", "fetched", "known", "unwanted", "refused", "unavailable"),
        *("sent", "unneeded", "rejected", "bytes_sent", "bytes_received"),
    }
    for step in steps:
        assert step.keys() == {"type", "phase", "elapsed_s", *numbers}
        assert (step["type"], type(step["elapsed_s"])) == ("progress", float)
        assert all(type(step[name]) is int for name in numbers)
    extra = {"status", "exit_code", "url", "direction", "problems"}
    assert result.keys() == {"type", "phase", "elapsed_s", *numbers, *extra}
    assert (result["type"], result["status"], result["exit_code"]) == ("result", "incomplete", 3)
    assert (result["url"], result["direction"]) == (URL, "both")
    assert result["problems"] == ["2 events refused by us: blocked: no"]
    assert (result["need"], result["fetched"], result["sent"], result["refused"]) == (30, 28, 7, 2)
    assert (result["bytes_sent"], result["bytes_received"]) == (12_345, 6_789_000)


def test_ids_are_printed_as_strfry_prints_them(nowhere: Path) -> None:
    def script(request: Request, context: Any) -> Iterator[Progress]:
        yield Progress(phase="done", have_count=2, need_count=2, have_ids=[b"a" * 32])
        yield Progress(phase="done", have_count=2, need_count=2, have_ids=[b"b" * 32], need_ids=[b"c" * 32])
        yield Progress(phase="done", have_count=2, need_count=2, need_ids=[b"d" * 32], complete=True)

    with scripted_service(script) as address:
        done = run("sync", URL, "--server", address, "--print-missing", data_dir=nowhere)
        as_json = run("sync", URL, "--server", address, "--print-missing", "--json", data_dir=nowhere)
    assert (done.returncode, as_json.returncode) == (0, 0)
    assert done.stdout.decode().splitlines() == [
        f"have,{'61' * 32}",
        f"have,{'62' * 32}",
        f"need,{'63' * 32}",
        f"need,{'64' * 32}",
    ]
    assert done.stderr.decode().startswith("complete: 2 missing here, 2 missing there; ")
    result = result_of(as_json.stdout)
    assert result["have_ids"] == ["61" * 32, "62" * 32]
    assert result["need_ids"] == ["63" * 32, "64" * 32]


@pytest.mark.parametrize("as_json", [False, True])
def test_a_sync_that_broke_off_has_failed(nowhere: Path, *, as_json: bool) -> None:
    def script(request: Request, context: Any) -> Iterator[Progress]:
        yield Progress(phase="transferring", need_count=9, fetched_count=4)
        yield Progress(phase="transferring", need_count=9, fetched_count=5, error="the peer is gone")

    with scripted_service(script) as address:
        done = run("sync", URL, "--server", address, *(["--json"] if as_json else []), data_dir=nowhere)
    assert done.returncode == 1
    assert done.stderr.decode().splitlines()[-1] == "orly: the peer is gone"
    if as_json:
        result = result_of(done.stdout)
        assert (result["status"], result["fetched"], result["exit_code"]) == ("failed", 5, 1)
        assert result["problems"] == ["the peer is gone"]
    else:
        assert done.stderr.decode().startswith("failed: 5 fetched, 0 sent, 0 refused; ")


@pytest.mark.parametrize(
    ("code", "status", "said"),
    [
        (grpc.StatusCode.UNAUTHENTICATED, 1, "refuses the call: why"),
        (grpc.StatusCode.PERMISSION_DENIED, 1, "refuses the call: why"),
        (grpc.StatusCode.INVALID_ARGUMENT, 2, ": why"),
        (grpc.StatusCode.UNAVAILABLE, 1, "was lost: why"),
        (grpc.StatusCode.INTERNAL, 1, ": why"),
    ],
)
def test_a_call_that_fails_is_named(nowhere: Path, code: grpc.StatusCode, status: int, said: str) -> None:
    def script(request: Request, context: Any) -> Iterator[Progress]:
        yield Progress(phase="reconciling")
        context.abort(code, "why")

    with scripted_service(script) as address:
        done = run("sync", URL, "--server", address, data_dir=nowhere)
    assert done.returncode == status
    last = done.stderr.decode().splitlines()[-1]
    assert f"orly-sync-negentropy at {address}" in last
    assert last.endswith(said)


def test_a_call_that_ends_without_a_result_has_failed(nowhere: Path) -> None:
    with scripted_service(lambda request, context: iter([Progress(phase="reconciling")])) as address:
        done = run("sync", URL, "--server", address, data_dir=nowhere)
    assert done.returncode == 1
    assert done.stderr.decode().splitlines()[-1].endswith("ended the call without a result")


def test_a_service_that_is_not_there_is_awaited_and_named(nowhere: Path) -> None:
    port = free_port()
    waits = {"ORLY_LAUNCHER_SYNC_READY_TIMEOUT": "1500ms"}
    done = run("sync", URL, "--server", f"127.0.0.1:{port}", data_dir=nowhere, variables=waits)
    assert done.returncode == 1
    first, *_, last = done.stderr.decode().splitlines()
    assert first == f"waiting for orly-sync-negentropy at 127.0.0.1:{port}"
    assert last.startswith(f"orly: orly-sync-negentropy at 127.0.0.1:{port} was not ready within 1.5 s: UNAVAILABLE")


def test_a_service_without_its_store_is_awaited(nowhere: Path) -> None:
    with scripted_service(happy, is_ready=False) as address:
        done = run("sync", URL, "--server", address, data_dir=nowhere, variables=SOON)
    assert done.returncode == 1
    assert done.stderr.decode().endswith("was not ready within 0.5 s: NOT_SERVING\n")


def test_something_else_at_the_address_is_named(nowhere: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        done = run("sync", URL, "--server", address, data_dir=nowhere, variables=SOON)
    assert done.returncode == 1
    assert f"orly-sync-negentropy at {address} was not ready" in done.stderr.decode()


def test_tls_towards_a_service_without_it_is_named(nowhere: Path, tmp_path: Path) -> None:
    assert run("certs", tmp_path / "tls", data_dir=nowhere).returncode == 0
    ca = tmp_path / "tls" / "ca.pem"
    assert ca.exists()
    with scripted_service(happy) as address:
        done = run("sync", URL, "--server", address, "--tls-ca", ca, data_dir=nowhere, variables=SOON)
    assert done.returncode == 1
    assert "does not speak TLS, but ORLY_GRPC_TLS is on here" in done.stderr.decode()


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_ends_the_call_and_says_what_was_done(nowhere: Path, stop: signal.Signals) -> None:
    ended = threading.Event()

    def script(request: Request, context: Any) -> Iterator[Progress]:
        context.add_callback(ended.set)
        yield Progress(phase="transferring", need_count=9, fetched_count=4)
        ended.wait(DEADLINE_S)

    with scripted_service(script) as address, child("sync", URL, "--server", address, data_dir=nowhere) as process:
        seen = await_output(process, b"transferring: 9 missing here")
        process.send_signal(stop)
        assert process.wait(DEADLINE_S) == 1
        assert process.stderr is not None
        said = (seen + process.stderr.read()).decode()
        assert ended.wait(DEADLINE_S)
    *_, summary, why = said.splitlines()
    assert summary.startswith("interrupted: 4 fetched, 0 sent, 0 refused; ")
    assert why == "orly: interrupted; what was done so far stays, and another run goes on there"


def test_a_stop_ends_json_lines_with_a_result(nowhere: Path) -> None:
    ended = threading.Event()

    def script(request: Request, context: Any) -> Iterator[Progress]:
        context.add_callback(ended.set)
        yield Progress(phase="transferring", need_count=9, fetched_count=4)
        ended.wait(DEADLINE_S)

    with (
        scripted_service(script) as address,
        child("sync", URL, "--json", "--server", address, data_dir=nowhere) as process,
    ):
        assert process.stdout is not None
        first = process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == 1
        result = result_of(process.stdout.read())
    assert json.loads(first)["fetched"] == 4
    assert (result["status"], result["exit_code"], result["fetched"]) == ("interrupted", 1, 4)


def test_a_stop_ends_the_wait_for_the_service(nowhere: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    with child("sync", URL, "--server", address, data_dir=nowhere) as process:
        await_output(process, b"waiting for orly-sync-negentropy")
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == 1


def test_a_terminal_gets_a_bar(nowhere: Path) -> None:
    with scripted_service(happy) as address:
        code, shown = on_terminal("sync", URL, "--server", address, "--dir", "both", data_dir=nowhere)
    assert code == 3
    assert "37/37" in shown
    assert "/s down" in shown
    assert "/s up" in shown
    assert "incomplete: 28 fetched, 7 sent, 2 refused" in shown
    assert "\x1b[" in shown


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        (["--data-dir", "x"], "--data-dir has no effect with --server"),
        (["--auth-key-file", "x"], "--auth-key-file has no effect with --server"),
        (["--token-file", "/nonexistent"], "--token-file /nonexistent cannot be read"),
    ],
)
def test_options_that_contradict_a_server_are_refused(nowhere: Path, options: list[str], hint: str) -> None:
    done = run("sync", URL, "--server", "127.0.0.1:1", *options, data_dir=nowhere)
    assert (done.returncode, done.stdout) == (2, b"")
    assert hint in done.stderr.decode()


@pytest.mark.parametrize("token", ["short", "has a space in it", "x" * 5000])
def test_a_file_without_a_token_is_refused(nowhere: Path, tmp_path: Path, token: str) -> None:
    file = tmp_path / "token"
    file.write_text(token)
    done = run("sync", URL, "--server", "127.0.0.1:1", "--token-file", file, data_dir=nowhere)
    assert done.returncode == 2
    assert f"--token-file {file}" in done.stderr.decode()
    assert token not in done.stderr.decode()


def test_a_service_beyond_this_machine_needs_tls_and_a_token(nowhere: Path) -> None:
    done = run("sync", URL, "--server", "192.0.2.1:50064", data_dir=nowhere)
    assert done.returncode == 78
    assert done.stderr.decode().startswith("orly: --server 192.0.2.1:50064 is beyond this machine and needs ")
