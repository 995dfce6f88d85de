"""The store on another machine: relays here, `orly-db` in another network namespace, mutual TLS and a token."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest
import tests.process
from tests.component.network import OtherMachine, other_machine
from tests.component.relay_client import NostrClient
from tests.component.rpc_world import TOKEN, Certificates
from tests.factory import NOW_S, make_event
from tests.process import ORLY_DB, DbProcess, RelayProcess, run_orly, running_db, running_worker
from tests.transport import run_async
from tests.wsclient import connect

from orly.cli.certs import run_certs
from orly.env_file import parse_env
from orly.process.exit_codes import ExitCode

PORT: Final = 50051
MANY: Final = 300


@pytest.fixture(name="machine")
def make_machine() -> Iterator[OtherMachine]:
    with other_machine() as machine:
        yield machine


@pytest.fixture(name="safety")
def make_safety(machine: OtherMachine, tmp_path: Path) -> dict[str, str]:
    """The variables that `orly certs` prints, and a token."""
    from orly import clock

    code, lines, problem = run_certs(
        tmp_path / "certs", hosts=(machine.there,), clients=("relay",), days=1, force=False, now_s=clock.now_s()
    )
    assert code is ExitCode.OK, problem
    return {**parse_env(lines), "ORLY_GRPC_TOKEN": TOKEN}


@pytest.fixture(name="db")
def run_db_there(
    machine: OtherMachine, safety: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[DbProcess]:
    monkeypatch.setattr(tests.process, "ORLY_DB", machine.program(ORLY_DB, tmp_path))
    with running_db(address=f"{machine.there}:{PORT}", **safety) as db:
        yield db


@asynccontextmanager
async def client_of(relay: RelayProcess) -> AsyncIterator[NostrClient]:
    async with connect(relay.url) as socket:
        yield NostrClient(socket)


def test_relays_here_work_on_a_store_there(db: DbProcess, safety: dict[str, str]) -> None:
    events = [make_event(content=str(n), created_at=NOW_S + n) for n in range(MANY)]

    async def main(first: RelayProcess, second: RelayProcess) -> None:
        async with client_of(first) as writer, client_of(second) as reader:
            assert await reader.request("live", {"kinds": [1]}) == []
            await writer.accept(*events)
            assert [await reader.next_event("live") for _ in events] == [event.event.id for event in events]
            assert await reader.request("all", {"kinds": [1], "limit": MANY}) == [
                event.event.id for event in reversed(events)
            ]
            assert await writer.count("c", {"kinds": [1]}) == MANY

    with (
        running_worker(db, reads_directly=False, **safety) as first,
        running_worker(db, reads_directly=False, **safety) as second,
    ):
        run_async(main(first, second))


def test_a_network_that_fails_is_told_and_outlived(
    db: DbProcess, safety: dict[str, str], machine: OtherMachine
) -> None:
    before, during, after = (make_event(content=text) for text in ("before", "during", "after"))

    async def main(relay: RelayProcess) -> None:
        async with client_of(relay) as client, client_of(relay) as reader:
            assert await reader.request("live", {"kinds": [1]}) == []
            await client.accept(before)
            machine.cut()
            assert await client.refusal(during) == "error: the store did not answer within 1 s"
            machine.mend()
            while not (await client.publish(during))[0][2]:
                pass  # each attempt waits for the store, a second at most
            await client.accept(after)
            ids = [event.event.id for event in (before, during, after)]
            assert [await reader.next_event("live") for _ in ids] == ids
            assert set(await reader.request("all", {"kinds": [1]})) == set(ids)

    with running_worker(db, reads_directly=False, ORLY_GRPC_CONNECT_TIMEOUT="1s", **safety) as relay:
        run_async(main(relay))


def test_who_may_not_come_in_is_told_why(
    db: DbProcess, safety: dict[str, str], machine: OtherMachine, tmp_path: Path
) -> None:
    foreign = Certificates.make(tmp_path / "foreign")
    foreign.client("foreign")
    insecure = {"ORLY_GRPC_ALLOW_INSECURE": "true"}
    caller_foreign = {
        "ORLY_GRPC_TLS_CLIENT_CERT": f"{foreign.directory}/foreign.pem",
        "ORLY_GRPC_TLS_CLIENT_KEY": f"{foreign.directory}/foreign.key",
    }
    hung_up = "it may want TLS or another client certificate: see ORLY_GRPC_TLS"
    for changes, code, text in (
        ({"ORLY_GRPC_TOKEN": TOKEN + "x"}, ExitCode.SETTINGS, "UNAUTHENTICATED: this is not the token"),
        ({"ORLY_GRPC_TOKEN": "", **insecure}, ExitCode.SETTINGS, "UNAUTHENTICATED: this service wants a token"),
        ({"ORLY_GRPC_TLS_CA": f"{foreign.directory}/ca.pem"}, ExitCode.SETTINGS, "authority in ORLY_GRPC_TLS_CA"),
        ({"ORLY_GRPC_TLS_SERVER_NAME": "other.example"}, ExitCode.SETTINGS, "see ORLY_GRPC_TLS_SERVER_NAME"),
        (caller_foreign, ExitCode.UNAVAILABLE, hung_up),
        ({"ORLY_GRPC_TLS": "tls"}, ExitCode.UNAVAILABLE, hung_up),
        ({"ORLY_GRPC_TLS": "off", **insecure}, ExitCode.UNAVAILABLE, hung_up),
    ):
        variables = {
            "ORLY_DB_TYPE": "grpc",
            "ORLY_GRPC_SERVER": db.address,
            "ORLY_LISTEN": "127.0.0.1",
            "ORLY_PORT": "0",
            "ORLY_LAUNCHER_DB_READY_TIMEOUT": "2s",
            **safety,
            **changes,
        }
        done = run_orly(data_dir=tmp_path / "data", variables=variables)
        assert (done.returncode, text in done.stderr.decode()) == (code, True), (changes, done.stderr.decode())
        assert f"{db.address}" in done.stderr.decode()


def test_without_certificates_and_token_it_does_not_listen_there(machine: OtherMachine, tmp_path: Path) -> None:
    address = f"{machine.there}:{PORT}"
    with pytest.raises(AssertionError, match="it left with status 78 before it listened"), running_db(address=address):
        pass
