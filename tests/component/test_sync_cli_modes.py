"""`orly sync` directly and through a real `orly-sync-negentropy`: the same numbers, and the same sets of ids."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.component.orly_child import DEADLINE_S, on_terminal, run
from tests.component.test_sync_cli import BOTH, HERE, THERE, counts, fill, held, ids, relay_with, result_of
from tests.process import ORLY, clean_environment, free_port

TOKEN = "correct-horse-battery"
POLL_S = 0.01


@contextmanager
def running_service(data_dir: Path, home: Path, *command: str | Path, **variables: str) -> Iterator[str]:
    """Starts the service on a data directory; gives its address once it listens."""
    address = f"127.0.0.1:{free_port()}"
    given = {"ORLY_DATA_DIR": str(data_dir), "ORLY_SYNC_NEGENTROPY_LISTEN": address, **variables}
    log = home / "service.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command or [ORLY.with_name("orly-sync-negentropy")],
            env=clean_environment(home, given),
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
        )
    try:
        end_s = time.monotonic() + DEADLINE_S
        while f"listening on {address}" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end_s, log.read_text()
            time.sleep(POLL_S)
        yield address
        process.terminate()
        assert process.wait(DEADLINE_S) == 0, log.read_text()
        assert "Traceback" not in log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def sync(url: str, *options: str | Path, data_dir: Path, **variables: str) -> dict[str, Any]:
    """The result of a complete run."""
    done = run("sync", url, "--json", *options, data_dir=data_dir, variables=variables)
    assert (done.returncode, done.stderr) == (0, b"")
    return result_of(done.stdout)


@pytest.mark.parametrize("direction", ["down", "up", "both", "none"])
def test_both_modes_give_the_same_numbers(tmp_path: Path, direction: str) -> None:
    results: list[dict[str, Any]] = []
    for mode in ("direct", "client"):
        home = tmp_path / mode
        home.mkdir()
        here = fill(home / "here", BOTH + HERE)
        with relay_with(BOTH + THERE, home) as peer:
            if mode == "direct":
                results.append(sync(peer.url, "--dir", direction, data_dir=here))
            else:
                with running_service(here, home) as address:
                    options = ("--dir", direction, "--server", address)
                    results.append(sync(peer.url, *options, data_dir=home / "nowhere"))
                    assert not (home / "nowhere").exists()
            comes, goes = direction in ("down", "both"), direction in ("up", "both")
            assert held(here) == ids(BOTH + HERE) | (ids(THERE) if comes else set())
            assert held(peer.data_dir) == ids(BOTH + THERE) | (ids(HERE) if goes else set())
    direct, client = results
    for varying in ("elapsed_s", "url", "bytes_sent", "bytes_received"):
        del direct[varying], client[varying]
    assert direct == client
    assert counts(direct)["need"] == 17


def test_printed_ids_and_filters_are_the_same_in_both_modes(tmp_path: Path) -> None:
    here = fill(tmp_path / "here", BOTH + HERE)
    options = ["--print-missing", "--filter", '{"kinds":[1]}']
    with relay_with(BOTH + THERE, tmp_path) as peer:
        direct = run("sync", peer.url, *options, data_dir=here)
        with running_service(here, tmp_path) as address:
            client = run("sync", peer.url, *options, "--server", address, data_dir=tmp_path / "nowhere")
    assert (direct.returncode, client.returncode) == (0, 0)
    assert sorted(direct.stdout.splitlines()) == sorted(client.stdout.splitlines())
    assert {line.split(",")[1] for line in direct.stdout.decode().splitlines()} == ids(HERE)


def test_the_sync_command_can_be_the_service(tmp_path: Path) -> None:
    here = fill(tmp_path / "here", HERE)
    command = (ORLY, "sync", "--driver=negentropy")
    with relay_with(THERE, tmp_path) as peer, running_service(here, tmp_path, *command) as address:
        result = sync(peer.url, "--server", address, data_dir=tmp_path / "nowhere")
        assert counts(result) == {"have": 12, "need": 17, "fetched": 17}
        assert held(here) == ids(HERE + THERE)


def test_a_token_and_tls_come_from_settings_or_options(tmp_path: Path) -> None:
    here = fill(tmp_path / "here", HERE)
    nowhere = tmp_path / "nowhere"
    certs = tmp_path / "tls"
    assert run("certs", certs, data_dir=nowhere).returncode == 0
    token = tmp_path / "token"
    token.write_text(f"{TOKEN}\n")
    wrong = tmp_path / "wrong"
    wrong.write_text(f"{TOKEN}-not\n")
    safe = {
        "ORLY_GRPC_TOKEN": TOKEN,
        "ORLY_GRPC_TLS": "tls",
        "ORLY_GRPC_TLS_CERT": str(certs / "server.pem"),
        "ORLY_GRPC_TLS_KEY": str(certs / "server.key"),
    }
    soon = {"ORLY_LAUNCHER_SYNC_READY_TIMEOUT": "1s"}
    ca = certs / "ca.pem"
    with relay_with(THERE, tmp_path) as peer, running_service(here, tmp_path, **safe) as address:

        def said(*options: str | Path) -> str:
            done = run("sync", peer.url, "--server", address, *options, data_dir=nowhere, variables=soon)
            assert done.returncode == 1
            return done.stderr.decode()

        assert "it may want TLS" in said()
        assert "refuses the call" in said("--tls-ca", ca)
        assert "refuses the call" in said("--tls-ca", ca, "--token-file", wrong)
        assert held(here) == ids(HERE)
        options = ("--server", address, "--tls-ca", ca, "--token-file", token)
        assert sync(peer.url, *options, data_dir=nowhere)["fetched"] == 17
        variables = {"ORLY_GRPC_TOKEN": TOKEN, "ORLY_GRPC_TLS": "tls", "ORLY_GRPC_TLS_CA": str(ca)}
        assert counts(sync(peer.url, "--server", address, data_dir=nowhere, **variables)) == {"have": 12}


def test_a_terminal_gets_the_same_bar(tmp_path: Path) -> None:
    here = fill(tmp_path / "here", HERE)
    with relay_with(THERE, tmp_path) as peer, running_service(here, tmp_path) as address:
        options = ("--server", address, "--dir", "both")
        code, shown = on_terminal("sync", peer.url, *options, data_dir=tmp_path / "nowhere")
    assert code == 0
    assert "29/29" in shown
    assert "complete: 17 fetched, 12 sent, 0 refused" in shown
