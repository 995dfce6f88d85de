"""`orly certs`: the files it makes, what it never does, and that services can use them."""

import os
import stat
from pathlib import Path

import pytest
from tests.component.orly_child import run
from tests.component.rpc_world import ANSWERS, DAY_S, called, serving_probe
from tests.transport import run_async

from orly import clock
from orly.cli.certs import run_certs
from orly.env_file import parse_env
from orly.process.exit_codes import ExitCode
from orly.rpc.certs import hosts_of
from orly.rpc.channel import channel_from_settings
from orly.rpc.pem import parse_certificates
from orly.settings import load

NOW_S = 1_800_000_000
FIRST = {"ca.key", "ca.pem", "client.key", "client.pem", "server.key", "server.pem"}


def certs(
    directory: Path,
    *,
    hosts: tuple[str, ...] = (),
    clients: tuple[str, ...] = (),
    days: int = 30,
    force: bool = False,
    now_s: int = NOW_S,
) -> tuple[ExitCode, str, str]:
    return run_certs(directory, hosts=hosts, clients=clients, days=days, force=force, now_s=now_s)


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def changed(before: dict[str, bytes], after: dict[str, bytes]) -> set[str]:
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


def test_the_command_makes_what_two_machines_need(tmp_path: Path) -> None:
    directory = tmp_path / "own certs"
    done = run("certs", directory, "--host", "db.example", "--host", "192.0.2.7", data_dir=tmp_path / "data")
    assert done.returncode == 0
    assert set(contents(directory)) == FIRST
    assert hosts_of((directory / "server.pem").read_bytes()) == ["db.example", "192.0.2.7"]
    assert done.stderr.decode().startswith(f"{directory}: made server, client; ")
    lines = parse_env(done.stdout.decode())
    assert lines == {
        "ORLY_GRPC_TLS": "mtls",
        "ORLY_GRPC_TLS_CA": f"{directory}/ca.pem",
        "ORLY_GRPC_TLS_CERT": f"{directory}/server.pem",
        "ORLY_GRPC_TLS_KEY": f"{directory}/server.key",
        "ORLY_GRPC_TLS_CLIENT_CERT": f"{directory}/client.pem",
        "ORLY_GRPC_TLS_CLIENT_KEY": f"{directory}/client.key",
    }
    assert not (tmp_path / "data").exists()

    async def main() -> None:
        settings = load({"HOME": str(tmp_path), **lines}).settings
        async with serving_probe(settings) as (server, _), channel_from_settings(settings, server.address) as channel:
            assert await called(channel, "Chat") == ANSWERS["Chat"]

    run_async(main())


def test_how_the_command_fails(tmp_path: Path) -> None:
    data = tmp_path / "data"
    assert run("certs", data_dir=data).returncode == 2
    for days in ("0", "3651", "x"):
        assert run("certs", tmp_path / "c", "--days", days, data_dir=data).returncode == 2
    assert not (tmp_path / "c").exists()
    for days in ("1", "3650"):
        assert run("certs", tmp_path / days, "--days", days, data_dir=data).returncode == 0
    done = run("certs", tmp_path / "1", data_dir=data)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.decode().endswith(": there already; --force replaces them\n")


def test_keys_are_for_their_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        certs(tmp_path / "c")
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "c").iterdir()}
    assert modes == {name: 0o600 if name.endswith(".key") else 0o644 for name in FIRST}
    assert stat.S_IMODE((tmp_path / "c").stat().st_mode) == 0o700


def test_nothing_is_replaced_unasked(tmp_path: Path) -> None:
    certs(tmp_path)
    before = contents(tmp_path)
    for arguments in ({}, {"hosts": ("a.example",)}, {"clients": ("client",)}, {"clients": ("new", "client")}):
        code, lines, problem = certs(tmp_path, **arguments)
        assert (code, lines) == (ExitCode.FAILED, "")
        assert problem.endswith("client.key: there already; --force replaces them")
    assert contents(tmp_path) == before


def test_a_key_alone_is_not_replaced_either(tmp_path: Path) -> None:
    (tmp_path / "server.key").write_text("precious")
    code, _, problem = certs(tmp_path)
    assert (code, problem) == (ExitCode.FAILED, f"{tmp_path}/server.key: there already; --force replaces them")
    assert set(contents(tmp_path)) == {"server.key"}


def test_callers_are_added(tmp_path: Path) -> None:
    certs(tmp_path)
    before = contents(tmp_path)
    code, lines, _ = certs(tmp_path, clients=("backup", "web-1", "backup"))
    assert code is ExitCode.OK
    assert changed(before, contents(tmp_path)) == {"backup.key", "backup.pem", "web-1.key", "web-1.pem"}
    assert f"ORLY_GRPC_TLS_CLIENT_CERT={tmp_path}/backup.pem\n" in lines
    (certificate,) = parse_certificates((tmp_path / "backup.pem").read_bytes())
    certificate.verify_directly_issued_by(parse_certificates(before["ca.pem"])[0])


def test_force_renews_with_the_same_hosts_and_the_same_authority(tmp_path: Path) -> None:
    certs(tmp_path, hosts=("db.example",))
    before = contents(tmp_path)
    assert certs(tmp_path, force=True, now_s=NOW_S + 20 * DAY_S)[0] is ExitCode.OK
    after = contents(tmp_path)
    assert changed(before, after) == FIRST - {"ca.key", "ca.pem"}
    assert hosts_of(after["server.pem"]) == ["db.example"]
    (certificate,) = parse_certificates(after["server.pem"])
    assert certificate.not_valid_after_utc.timestamp() == NOW_S + 50 * DAY_S
    assert certs(tmp_path, force=True, hosts=("other.example",))[0] is ExitCode.OK
    assert hosts_of(contents(tmp_path)["server.pem"]) == ["other.example"]


@pytest.mark.parametrize(("missing", "there"), [("ca.key", "ca.pem"), ("ca.pem", "ca.key")])
def test_half_an_authority_is_no_reason_for_a_new_one(tmp_path: Path, missing: str, there: str) -> None:
    certs(tmp_path)
    (tmp_path / missing).unlink()
    before = contents(tmp_path)
    code, _, problem = certs(tmp_path, clients=("backup",))
    assert code is ExitCode.FAILED
    assert problem.startswith(f"{tmp_path}/{missing} is not there")
    assert contents(tmp_path) == before


def test_an_authority_that_cannot_sign_is_named(tmp_path: Path) -> None:
    certs(tmp_path)
    code, _, problem = certs(tmp_path, clients=("a",), now_s=NOW_S + 3651 * DAY_S)
    assert code is ExitCode.FAILED
    assert problem.startswith(f"{tmp_path}/ca.pem: the authority's certificate expired on ")
    (tmp_path / "ca.key").write_text("junk")
    assert certs(tmp_path, clients=("a",))[2] == (f"{tmp_path}/ca.pem: the authority's key holds no private key (PEM)")
    assert not (tmp_path / "a.pem").exists()


def test_a_certificate_that_cannot_be_read_is_not_renewed(tmp_path: Path) -> None:
    certs(tmp_path)
    (tmp_path / "server.pem").write_text("junk")
    code, _, problem = certs(tmp_path, force=True)
    assert code is ExitCode.FAILED
    assert problem == f"{tmp_path}/server.pem holds no certificate (PEM); name its hosts with --host"
    assert certs(tmp_path, force=True, hosts=("db.example",))[0] is ExitCode.OK


@pytest.mark.parametrize("name", ["", "ca", "server", "../x", "a/b", ".a", "a b", "x" * 65])
def test_names_that_no_caller_can_have(tmp_path: Path, name: str) -> None:
    code, _, problem = certs(tmp_path / "c", clients=("good", name))
    assert (code, problem) == (ExitCode.USAGE, f"--client: {name!r} cannot be the name of a file for a caller")
    assert not (tmp_path / "c").exists()


def test_how_long_the_name_of_a_caller_may_be(tmp_path: Path) -> None:
    name = "x" * 64
    assert certs(tmp_path, clients=(name,))[0] is ExitCode.OK
    (certificate,) = parse_certificates((tmp_path / f"{name}.pem").read_bytes())
    assert [part.value for part in certificate.subject] == [name]


def test_a_bad_host_leaves_nothing_behind(tmp_path: Path) -> None:
    code, _, problem = certs(tmp_path / "c", hosts=("a b",))
    assert (code, problem) == (ExitCode.FAILED, "'a b' is neither the name nor the address of a machine")
    assert not (tmp_path / "c").exists()


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    code, _, problem = certs(tmp_path / "file" / "c")
    assert code is ExitCode.FAILED
    assert str(tmp_path / "file") in problem


def test_certificates_are_good_from_now_on(tmp_path: Path) -> None:
    now_s = clock.now_s()
    certs(tmp_path, now_s=now_s)
    (certificate,) = parse_certificates((tmp_path / "server.pem").read_bytes())
    assert certificate.not_valid_before_utc.timestamp() == now_s - 3600
