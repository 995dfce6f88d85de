import asyncio
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import lmdb
import pytest
from tests.component.orly_child import DEADLINE_S, await_output, await_read_of_pipe, child, run
from tests.factory import KEYS
from tests.process import ORLY, RelayProcess, running_acl, running_db, running_relay, running_worker
from tests.wsclient import RawClient, connect, until

LOOPBACK = {"ORLY_LISTEN": "127.0.0.1", "ORLY_PORT": "0"}
STOP_BOUND_S = 10.0
"""The default of ORLY_STOP_TIMEOUT."""


@pytest.mark.parametrize("arguments", [(), ("relay",)])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_until_it_is_told_to_stop(tmp_path: Path, arguments: tuple[str, ...], number: signal.Signals) -> None:
    with child(*arguments, data_dir=tmp_path / "data", **LOOPBACK) as relay:
        await_output(relay, b"listening on ws://127.0.0.1:")
        assert (tmp_path / "data" / "data.mdb").exists()
        relay.send_signal(number)
        _, rest = relay.communicate(timeout=DEADLINE_S)
    assert relay.returncode == 0
    assert f"{number.name}: stopping".encode() in rest
    assert rest.endswith(b"stopped\n")
    assert b"Traceback" not in rest


def test_it_prints_where_it_listens_and_clients_can_connect_there() -> None:
    async def ask(url: str) -> None:
        async with connect(url) as client:
            await client.send("REQ", "s", {})
            assert await client.receive() == ["EOSE", "s"]

    with running_relay() as relay:
        assert urlsplit(relay.url).port != 0
        asyncio.run(ask(relay.url))


def test_it_leaves_within_the_bound_with_clients_of_all_kinds() -> None:
    async def scenario(relay: RelayProcess) -> None:
        address = urlsplit(relay.url)
        with socket.create_connection((address.hostname, address.port)):  # says nothing at all
            async with connect(relay.url) as polite, await RawClient.open(relay.url) as deaf:
                await deaf.upgrade()
                await polite.send("REQ", "s", {})
                assert await polite.receive() == ["EOSE", "s"]
                relay.signal(signal.SIGTERM)
                assert (await polite.closed())[0] == 1001
                started = time.monotonic()
                await until(lambda: relay.child.poll() is not None, "the end of the relay")
                assert time.monotonic() - started < STOP_BOUND_S + 10

    with running_relay() as relay:
        asyncio.run(scenario(relay))
        assert relay.child.returncode == 0


def test_a_second_signal_leaves_at_once() -> None:
    async def scenario(relay: RelayProcess) -> None:
        async with await RawClient.open(relay.url) as deaf:
            await deaf.upgrade()
            relay.signal(signal.SIGTERM)
            await until(lambda: "SIGTERM: stopping" in relay.logs(), "the first signal")
            assert relay.child.poll() is None
            relay.signal(signal.SIGINT)
            await until(lambda: relay.child.poll() is not None, "the end of the relay")

    with running_relay(ORLY_STOP_TIMEOUT="1h") as relay:
        relay.killed = True  # it does not leave cleanly, as it was told
        asyncio.run(scenario(relay))
        assert relay.child.returncode == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(("arguments", "code"), [((), 0), (("relay",), 0), (("export",), 1)])
def test_a_signal_during_start_up_is_obeyed(
    tmp_path: Path, arguments: tuple[str, ...], code: int, number: signal.Signals
) -> None:
    secret = tmp_path / "secret"
    os.mkfifo(secret)
    variables = {"ORLY_RELAY_SECRET_KEY_FILE": str(secret), **LOOPBACK}
    with (
        child(*arguments, data_dir=tmp_path / "data", **variables) as relay,
        secret.open("wb"),  # opens when the settings are being read, and they wait for what comes
    ):
        await_read_of_pipe(relay.pid)
        relay.send_signal(number)
        out, err = relay.communicate(timeout=DEADLINE_S)
    assert (relay.returncode, out, err) == (code, b"", b"")
    assert not (tmp_path / "data").exists()


def test_all_wrong_settings_are_listed_and_nothing_is_opened(tmp_path: Path) -> None:
    wrong = {"ORLY_PORT": "70000", "ORLY_LOG_LEVEL": "loud", "ORLY_PROT": "1", "ORLY_DB_MAX_SIZE": "1"}
    done = run(data_dir=tmp_path / "data", variables=wrong)
    assert done.returncode == 78
    assert done.stdout == b""
    lines = done.stderr.decode().splitlines()
    assert len(lines) == 4
    assert all(line.startswith("orly: ORLY_") for line in lines)
    for name in ("ORLY_PORT=", "ORLY_LOG_LEVEL=", "ORLY_PROT: no such setting; did you mean ORLY_PORT?", "ORLY_DB_MAX"):
        assert any(name in line for line in lines), name
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("variables", "count"),
    [
        ({}, 0),
        ({"ORLY_OWNERS": KEYS[0]}, 1),
        ({"ORLY_ADMINS": KEYS[0]}, 1),
        ({"ORLY_OWNERS": KEYS[0], "ORLY_RELAY_URL": "wss://relay.example.com"}, 0),
    ],
)
def test_without_its_url_a_relay_that_is_managed_over_http_warns_once(variables: dict[str, str], count: int) -> None:
    with running_relay(**variables) as relay:
        warnings = [line for line in relay.logs().splitlines() if " WARN " in line]
    assert len(warnings) == count
    assert all("ORLY_RELAY_URL is not set" in line and "(NIP-98)" in line for line in warnings)


def test_the_url_is_missed_by_who_serves_http_wherever_the_owners_are_set() -> None:
    with running_db() as db, running_acl(db, ORLY_OWNERS=KEYS[0], ORLY_ACL_MODE="none") as acl:
        follows = {"ORLY_ACL_TYPE": "grpc", "ORLY_GRPC_ACL_SERVER": acl.address}
        with running_worker(db, reads_directly=False, **follows) as relay:
            assert relay.logs().count("ORLY_RELAY_URL is not set") == 1
        assert "ORLY_RELAY_URL" not in acl.logs() + db.logs()


@pytest.mark.parametrize("variable", ["ORLY_PORT", "ORLY_HEALTH_PORT"])
def test_a_port_in_use_is_named(tmp_path: Path, variable: str) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        variables = {"ORLY_LISTEN": "127.0.0.1", "ORLY_PORT": "0", variable: str(port)}
        done = run(data_dir=tmp_path / "data", variables=variables)
    assert done.returncode == 69
    assert f"orly: cannot listen on 127.0.0.1:{port}: another process already does\n" in done.stderr.decode()


def test_a_data_directory_in_use_names_who_uses_it() -> None:
    with running_relay() as relay:
        done = run(data_dir=relay.data_dir, variables=LOOPBACK)
        assert done.returncode == 69
        assert f"{relay.data_dir} is in use by another process (pid {relay.pid})" in done.stderr.decode()


def of_another_program(directory: Path) -> str:
    with lmdb.open(str(directory), lib_version=0, max_dbs=1) as env, env.begin(write=True) as txn:
        txn.put(b"theirs", b"1")
    return f"{directory} holds an LMDB database of another program"


def of_the_go_relay(directory: Path) -> str:
    directory.mkdir()
    (directory / "MANIFEST").touch()
    return f"{directory} holds a Badger database"


def under_a_file(directory: Path) -> str:
    directory.parent.mkdir(exist_ok=True)
    directory.write_text("not a directory")
    return f"the data directory {directory} cannot be written"


@pytest.mark.parametrize("prepare", [of_another_program, of_the_go_relay, under_a_file])
def test_a_data_directory_that_is_not_ours_is_refused(tmp_path: Path, prepare: Callable[[Path], str]) -> None:
    directory = tmp_path / "data"
    wanted = prepare(directory)
    done = run(data_dir=directory, variables=LOOPBACK)
    assert done.returncode == 78
    assert wanted in done.stderr.decode()


def test_a_log_file_that_cannot_be_opened_is_a_wrong_setting(tmp_path: Path) -> None:
    done = run(data_dir=tmp_path / "data", variables={"ORLY_LOG_FILE": str(tmp_path), **LOOPBACK})
    assert (done.returncode, done.stdout) == (78, b"")
    assert f"orly: the log file {tmp_path} cannot be opened: Is a directory" in done.stderr.decode()
    assert not (tmp_path / "data").exists()


def await_listening(relay: subprocess.Popen[bytes], log_file: Path) -> None:
    """Waits until a relay that logs to a file listens."""
    end_s = time.monotonic() + DEADLINE_S
    while not log_file.exists() or "listening" not in log_file.read_text():
        assert relay.poll() is None, "the relay left before it listened"
        assert time.monotonic() < end_s, "the relay did not listen"
        time.sleep(0.01)


def test_logs_go_where_they_are_sent(tmp_path: Path) -> None:
    log_file = tmp_path / "log"
    with child(data_dir=tmp_path / "data", ORLY_LOG_FILE=str(log_file), **LOOPBACK) as relay:
        await_listening(relay, log_file)
        relay.terminate()
        assert relay.communicate(timeout=DEADLINE_S) == (b"", b"")
    assert relay.returncode == 0
    assert "listening on ws://127.0.0.1:" in log_file.read_text()


def test_nothing_takes_the_place_of_closed_standard_streams(tmp_path: Path) -> None:
    log_file = tmp_path / "log"
    environment = {
        "HOME": str(tmp_path),
        "ORLY_DATA_DIR": str(tmp_path / "data"),
        "ORLY_LOG_FILE": str(log_file),
        **LOOPBACK,
    }
    relay = subprocess.Popen(["/bin/sh", "-c", 'exec "$0" <&- >&- 2>&-', ORLY], env=environment)
    try:
        await_listening(relay, log_file)
        assert {os.readlink(f"/proc/{relay.pid}/fd/{fd}") for fd in range(3)} == {os.devnull}
        relay.terminate()
        assert relay.wait(DEADLINE_S) == 0
    finally:
        if relay.poll() is None:
            relay.kill()
            relay.wait()


def test_an_idle_relay_is_small() -> None:
    with running_relay() as relay:
        assert relay.resident_bytes() < 90 * 1024 * 1024
