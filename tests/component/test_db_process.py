"""`orly-db` as a process: how it starts, what it refuses, how it stops."""

import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.component.db_calls import DEADLINE_S, await_log, calling, import_all, jsonl, refusal, save
from tests.component.orly_child import await_read_of_pipe
from tests.component.rpc_world import Certificates
from tests.factory import make_event
from tests.process import ORLY_DB, clean_environment, free_port, running_db, running_relay

from orly import __version__
from orly.pb.orlydb.v1 import service_pb2, streams_pb2, types_pb2

QUICK_STOP_S = 10.0
"""A stop with the streams of relay workers open takes less."""


def run_db(tmp_path: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs `orly-db` to its end, which must come by itself."""
    given = {"ORLY_DATA_DIR": str(tmp_path / "data"), "ORLY_DB_LISTEN": f"unix:{tmp_path}/db", **variables}
    return subprocess.run(
        [ORLY_DB, *arguments],
        env=clean_environment(tmp_path, given),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=DEADLINE_S,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_is_printed(tmp_path: Path, flag: str) -> None:
    done = run_db(tmp_path, flag)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: orly-db ")
    for word in ("ORLY_DATA_DIR", "ORLY_DB_LISTEN", "69", "70", "78"):
        assert word in done.stdout
    assert not (tmp_path / "data").exists()


def test_its_version_is_printed(tmp_path: Path) -> None:
    done = run_db(tmp_path, "--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"orly-db {__version__}\n", "")


@pytest.mark.parametrize("argument", ["serve", "--vers", "-x"])
def test_what_it_does_not_know_is_wrong_usage(tmp_path: Path, argument: str) -> None:
    done = run_db(tmp_path, argument)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: orly-db ")
    assert argument in done.stderr
    assert not (tmp_path / "data").exists()


def test_all_wrong_settings_are_listed_and_nothing_is_opened(tmp_path: Path) -> None:
    done = run_db(tmp_path, ORLY_DB_LISTEN="nowhere", ORLY_LOG_LEVEL="loud", ORLY_DB_LISTEM="1")
    assert (done.returncode, done.stdout) == (78, "")
    lines = done.stderr.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("orly-db: ORLY_") for line in lines)
    for name in ("ORLY_DB_LISTEN=", "ORLY_LOG_LEVEL=", "ORLY_DB_LISTEM: no such setting"):
        assert any(name in line for line in lines), name
    assert not (tmp_path / "data").exists()


def test_certificates_that_cannot_be_used_are_named_and_nothing_is_opened(tmp_path: Path) -> None:
    done = run_db(tmp_path, ORLY_GRPC_TLS="tls", ORLY_GRPC_TLS_CERT=str(tmp_path / "missing.pem"))
    assert done.returncode == 78
    assert "ORLY_GRPC_TLS_CERT" in done.stderr
    assert "ORLY_GRPC_TLS_KEY" in done.stderr
    assert not (tmp_path / "data").exists()


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        done = run_db(tmp_path, ORLY_DB_LISTEN=address)
    assert done.returncode == 69
    assert f"orly-db: cannot listen on {address}: another process already does\n" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_data_directory_in_use_names_who_uses_it(tmp_path: Path) -> None:
    with running_relay() as relay:
        done = run_db(tmp_path, ORLY_DATA_DIR=str(relay.data_dir))
    assert done.returncode == 69
    assert f"{relay.data_dir} is in use by another process (pid {relay.pid})" in done.stderr
    with running_db() as process:
        done = run_db(tmp_path, ORLY_DATA_DIR=str(process.data_dir))
    assert done.returncode == 69
    assert f"(pid {process.pid})" in done.stderr


def test_a_data_directory_that_cannot_be_used_is_a_wrong_setting(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("not a directory")
    done = run_db(tmp_path)
    assert done.returncode == 78
    assert f"orly-db: the data directory {tmp_path}/data cannot be written" in done.stderr


def test_an_inherited_store_type_means_the_embedded_store() -> None:
    with running_db(ORLY_DB_TYPE="grpc") as process, calling(process.address) as db:
        assert save(db, make_event()) == [1]


def test_it_listens_on_a_port() -> None:
    address = f"127.0.0.1:{free_port()}"
    with running_db(address=address) as process, calling(address) as db:
        assert db.Ready(types_pb2.Empty(), timeout=DEADLINE_S).ready
        assert f"listening on {address}\n" in process.logs()


@pytest.mark.parametrize(
    ("levels", "is_heard"),
    [
        ({"ORLY_LOG_LEVEL": "warn"}, False),
        ({"ORLY_LOG_LEVEL": "warn", "ORLY_DB_LOG_LEVEL": "info"}, True),
        ({"ORLY_LOG_LEVEL": "info", "ORLY_DB_LOG_LEVEL": "warn"}, False),
    ],
)
def test_its_own_log_level_counts_before_the_common_one(tmp_path: Path, levels: dict[str, str], is_heard: bool) -> None:
    given = {"ORLY_DATA_DIR": str(tmp_path / "data"), "ORLY_DB_LISTEN": f"unix:{tmp_path}/db", **levels}
    child = subprocess.Popen(
        [ORLY_DB], env=clean_environment(tmp_path, given), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        with calling(given["ORLY_DB_LISTEN"]) as db:
            assert db.Ready(types_pb2.Empty(), timeout=DEADLINE_S, wait_for_ready=True).ready
        child.terminate()
        _, logs = child.communicate(timeout=DEADLINE_S)
    finally:
        if child.poll() is None:
            child.kill()
            child.communicate()
    assert child.returncode == 0
    assert (b"listening on" in logs) == is_heard


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_when_it_is_told(number: signal.Signals) -> None:
    with running_db() as process:
        with calling(process.address) as db:
            save(db, make_event())
        process.signal(number)
        assert process.child.wait(DEADLINE_S) == 0
        logs = process.logs()
        assert f"{number.name}: stopping" in logs
        assert logs.endswith("stopped\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_during_start_up_is_obeyed(tmp_path: Path, number: signal.Signals) -> None:
    token = tmp_path / "token"
    os.mkfifo(token)
    given = {"ORLY_DATA_DIR": str(tmp_path / "data"), "ORLY_GRPC_TOKEN_FILE": str(token)}
    child = subprocess.Popen([ORLY_DB], env=clean_environment(tmp_path, given), stderr=subprocess.PIPE)
    try:
        with token.open("wb"):  # opens when the settings are being read, and they wait for what comes
            await_read_of_pipe(child.pid)
            child.send_signal(number)
            assert child.communicate(timeout=DEADLINE_S)[1] == b""
    finally:
        if child.poll() is None:
            child.kill()
            child.communicate()
    assert child.returncode == 0
    assert not (tmp_path / "data").exists()


def test_handshakes_that_fail_leave_nothing_in_the_log(tmp_path: Path) -> None:
    """gRPC's core would write a line for each: whoever reaches the port could fill the disk."""
    certificates = Certificates.make(tmp_path / "certs")
    tls = {f"ORLY_{name.upper()}": path for name, path in certificates.server().items()}
    with running_db(address=f"127.0.0.1:{free_port()}", ORLY_GRPC_TLS="tls", **tls) as process:
        before = process.logs()
        host, port = process.address.split(":")
        for _ in range(5):
            with socket.create_connection((host, int(port)), DEADLINE_S) as stranger:
                stranger.sendall(b"GET / HTTP/1.0\r\n\r\n")
                while stranger.recv(4096):
                    pass
        assert process.logs() == before


class OpenStreams:
    """The streams of a relay worker, idle, and how each ended."""

    def __init__(self, db: Any) -> None:
        self.closed = threading.Event()
        self.calls = {
            "SaveEvents": db.SaveEvents(self._say_nothing()),
            "StreamQueries": db.StreamQueries(self._say_nothing()),
            "WatchEvents": db.WatchEvents(streams_pb2.WatchRequest()),
        }
        next(self.calls["WatchEvents"])
        for call in self.calls.values():
            call.initial_metadata()  # it has been accepted

    def _say_nothing(self) -> Iterator[Any]:
        self.closed.wait(DEADLINE_S)
        yield from ()

    def ends(self) -> dict[str, grpc.StatusCode]:
        return {name: refusal(lambda call=call: list(call))[0] for name, call in self.calls.items()}  # type: ignore[misc]


def test_streams_of_relay_workers_do_not_hold_it_up() -> None:
    with running_db() as process, calling(process.address) as db:
        streams = OpenStreams(db)
        save(db, make_event())
        took_s = process.stop(within_s=DEADLINE_S)
        assert streams.ends() == dict.fromkeys(streams.calls, grpc.StatusCode.UNAVAILABLE)
        streams.closed.set()
        assert took_s < QUICK_STOP_S


def test_an_import_that_waits_for_its_caller_is_answered_at_a_stop() -> None:
    events = [make_event(content=str(n)) for n in range(300)]
    leave = threading.Event()

    def requests() -> Iterator[service_pb2.ImportRequest]:
        yield service_pb2.ImportRequest(data=jsonl(events) + b"half a line")
        leave.wait(DEADLINE_S)

    with running_db() as process, calling(process.address) as db:
        feed = db.WatchEvents(streams_pb2.WatchRequest(), timeout=DEADLINE_S)
        next(feed)
        call = db.Import.future(requests(), timeout=DEADLINE_S)
        next(feed)  # a first batch was saved: the message has been read
        took_s = process.stop(within_s=DEADLINE_S)
        response = call.result()
        leave.set()
        assert (response.events_imported, response.refused, response.failure) == (300, 0, "the store is stopping")
        assert took_s < QUICK_STOP_S
        with running_db(ORLY_DATA_DIR=str(process.data_dir)) as again, calling(again.address) as stub:
            assert stub.CountEvents(service_pb2.QueryEventsRequest(), timeout=DEADLINE_S).count == 300


def test_calls_under_way_are_finished() -> None:
    """An export that is being read when the signal comes is read to its end."""
    events = [make_event(content=f"{n:060000}") for n in range(100)]
    with running_db() as process, calling(process.address) as db:
        import_all(db, [jsonl(events[:50]), jsonl(events[50:])])
        answers = db.Export(service_pb2.ExportRequest(), timeout=DEADLINE_S)
        data = next(answers).data
        process.signal(signal.SIGTERM)
        await_log(process, "SIGTERM: stopping")
        data += b"".join(answer.data for answer in answers)
        assert sorted(data.splitlines()) == sorted(event.raw for event in events)
        assert process.child.wait(DEADLINE_S) == 0


def test_calls_that_do_not_end_are_cut_when_their_time_is_over() -> None:
    events = [make_event(content=f"{n:060000}") for n in range(100)]
    with running_db(ORLY_LAUNCHER_STOP_TIMEOUT="1s") as process, calling(process.address) as db:
        import_all(db, [jsonl(events[:50]), jsonl(events[50:])])
        answers = db.Export(service_pb2.ExportRequest(), timeout=DEADLINE_S)
        next(answers)
        assert process.stop(within_s=DEADLINE_S) < QUICK_STOP_S
        with pytest.raises(grpc.RpcError):
            list(answers)


def test_a_second_signal_leaves_at_once() -> None:
    events = [make_event(content=f"{n:060000}") for n in range(100)]
    with running_db(ORLY_LAUNCHER_STOP_TIMEOUT="1h") as process, calling(process.address) as db:
        process.killed = True  # it does not leave cleanly, as it was told
        import_all(db, [jsonl(events[:50]), jsonl(events[50:])])
        answers = db.Export(service_pb2.ExportRequest(), timeout=DEADLINE_S)
        next(answers)
        process.signal(signal.SIGTERM)
        await_log(process, "SIGTERM: stopping")
        process.signal(signal.SIGINT)
        assert process.child.wait(DEADLINE_S) == 1
        answers.cancel()


def test_health_is_told_before_it_stops() -> None:
    events = [make_event(content=f"{n:060000}") for n in range(100)]
    with running_db() as process, calling(process.address) as db, grpc.insecure_channel(process.address) as channel:
        import_all(db, [jsonl(events[:50]), jsonl(events[50:])])
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=DEADLINE_S)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        answers = db.Export(service_pb2.ExportRequest(), timeout=DEADLINE_S)
        next(answers)
        process.signal(signal.SIGTERM)
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert process.child.poll() is None
        list(answers)
        assert process.child.wait(DEADLINE_S) == 0
