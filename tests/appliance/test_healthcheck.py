"""What the health check makes of answers, of none, and of a run directory that says little."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.process import free_port

from orly.appliance.healthcheck import ASKED_PER_WORKER, main, probe_grpc, probe_http
from orly.appliance.plan import PLAN_FILE, Plan, Program, Trust, write_plan
from orly.appliance.run_dir import lock
from orly.appliance.state_file import ProcessState, write_states

TIMEOUT_S = 5.0


@contextmanager
def answering(*answers: bytes) -> Iterator[str]:
    """A server that gives one answer for each connection; its address."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            for answer in answers:
                connection, _ = server.accept()
                with connection:
                    connection.recv(65_536)
                    connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        thread.join()


def http_answer(status: str, body: str = "") -> bytes:
    """An answer over HTTP/1.1."""
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


def unused_address() -> str:
    """An address where nobody listens."""
    return f"127.0.0.1:{free_port()}"


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (http_answer("200 OK", '{"status":"ok"}'), None),
        (http_answer("503 Busy", '{"reason":"the store is away"}'), "{} says 503: the store is away"),
        (http_answer("503 Busy", "[1]"), "{} says 503"),
        (http_answer("404 Not Found"), "{} says 404"),
        (b"SSH-2.0\r\n\r\n", "{} does not speak HTTP: BadStatusLine"),
        (b"", "{}: Remote end closed connection without response"),
    ],
)
def test_answers_over_http(answer: bytes, problem: str | None) -> None:
    with answering(answer) as address:
        found = probe_http(address, times=1, timeout_s=TIMEOUT_S)
        assert found == (None if problem is None else problem.format(address))


def test_every_connection_counts() -> None:
    good, bad = http_answer("200 OK"), http_answer("503 Busy")
    with answering(good, good, bad) as address:
        assert probe_http(address, times=3, timeout_s=TIMEOUT_S) == f"{address} says 503"
    with answering(good, good) as address:
        assert probe_http(address, times=2, timeout_s=TIMEOUT_S) is None


def test_nobody_there() -> None:
    address = unused_address()
    assert probe_http(address, times=1, timeout_s=TIMEOUT_S) == f"{address}: Connection refused"
    problem = probe_grpc(address, Trust(), None, timeout_s=TIMEOUT_S)
    assert problem is not None
    assert problem.startswith(f"{address}: UNAVAILABLE: ")
    assert problem.endswith("Connection refused")


def test_no_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        wanted = f"no answer from {address} within 0.1 s"
        assert probe_http(address, times=1, timeout_s=0.1) == wanted
        assert probe_grpc(address, Trust(), None, timeout_s=0.1) == wanted


def test_a_certificate_that_is_gone() -> None:
    problem = probe_grpc("127.0.0.1:1", Trust(tls="tls", ca="/nonexistent/ca.pem"), None, timeout_s=TIMEOUT_S)
    assert problem is not None
    assert problem.startswith("a certificate cannot be read: ")


def check(run_dir: Path, **environ: str) -> tuple[int, list[str]]:
    """Exit status and lines."""
    said: list[str] = []
    return main([str(run_dir)], environ, said.append), said


def test_it_needs_a_launcher(tmp_path: Path) -> None:
    text = f"no orly-launcher runs with the run directory {tmp_path}\n"
    assert check(tmp_path) == (1, [text])
    (tmp_path / "lock").touch()
    assert check(tmp_path) == (1, [text])


def test_it_needs_a_plan(tmp_path: Path) -> None:
    lock(tmp_path)
    assert check(tmp_path) == (1, [f"{tmp_path / PLAN_FILE} cannot be read: No such file or directory\n"])
    (tmp_path / PLAN_FILE).write_text("{}")
    code, (line,) = check(tmp_path)
    assert code == 1
    assert line.startswith(f"{tmp_path / PLAN_FILE} is no plan of this version: ")


def plan(address: str, processes: int, token_source: str = "") -> Plan:
    """A plan of relay workers alone."""
    program = Program(
        name="orly",
        path="/opt/orly",
        processes=processes,
        priority=40,
        start_s=1,
        start_retries=1,
        stop_s=1,
        probe="grpc" if token_source else "http",
        address=address,
    )
    return Plan(
        programs=(program,),
        trust=Trust(token_source=token_source),
        data_dir="/data",
        log_level="info",
        log_format="text",
        log_file="",
        crash_limit=1,
        crash_window_s=1,
    )


def test_a_process_that_should_run_and_does_not(tmp_path: Path) -> None:
    lock(tmp_path)
    with answering(*[http_answer("200 OK")] * (3 * ASKED_PER_WORKER)) as address:
        write_plan(tmp_path, plan(address, 3))
        write_states(
            tmp_path,
            [
                ProcessState(name="orly-0", program="orly", state="up", pid=7, since=1.0),
                ProcessState(name="orly-1", program="orly", state="down", pid=0, since=1.0),
            ],
        )
        assert check(tmp_path) == (1, ["orly-1: is down\n", "orly-2: was not started\n"])


def test_the_run_directory_may_come_from_the_environment(tmp_path: Path) -> None:
    said: list[str] = []
    assert main([], {"ORLY_RUN_DIR": str(tmp_path)}, said.append) == 1
    assert main([], {}, said.append) == 1
    assert said == [
        f"no orly-launcher runs with the run directory {tmp_path}\n",
        "no orly-launcher runs with the run directory /run/orly\n",
    ]


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("environment", "ORLY_GRPC_TOKEN is not set here, but the launcher has it from environment"),
        ("file {}/token", "the token cannot be read from {}/token: [Errno 2] No such file or directory: '{}/token'"),
        (".env {}/env", "ORLY_GRPC_TOKEN is not set here, but the launcher has it from .env {}/env"),
    ],
)
def test_a_token_that_cannot_be_found(tmp_path: Path, source: str, problem: str) -> None:
    lock(tmp_path)
    (tmp_path / "env").write_text("OTHER=1\n")
    write_plan(tmp_path, plan(unused_address(), 1, source.format(tmp_path)))
    write_states(tmp_path, [ProcessState(name="orly", program="orly", state="up", pid=7, since=1.0)])
    assert check(tmp_path) == (1, [f"orly: {problem.format(tmp_path, tmp_path)}\n"])
