"""The launcher with `orly-acl`: order, health, and that what one call changes holds for the clients of every worker."""

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

from tests.appliance.launcher import DEADLINE_S, Launcher, launcher_variables, launching, run
from tests.appliance.test_real import await_ready, healthcheck, publish, status, stopped
from tests.factory import KEYS, make_event
from tests.process import ORLY, clean_environment, free_port
from websockets.asyncio.client import ClientConnection, connect

ACL = "orly-acl"
OWNER, WRITER = 0, 1
WORKERS = ("orly-0", "orly-1")
CLIENTS = 12
"""The kernel spreads them over the workers."""


def with_access(**variables: str) -> dict[str, str]:
    """Variables that run the service on a free port."""
    return {"ORLY_OWNERS": KEYS[OWNER], "ORLY_ACL_LISTEN": f"127.0.0.1:{free_port()}", **variables}


def await_acl(launcher: Launcher, *, count: int = 1) -> None:
    """Returns when the service listens, for the n-th time."""
    launcher.await_line(f" {ACL} INFO  acl.run_service | listening on ", count=count)


def orly_acl(launcher: Launcher, directory: Path, *arguments: str) -> str:
    """What `orly acl` prints beside this appliance."""
    done = subprocess.run(
        [ORLY, "acl", *arguments],
        env=clean_environment(directory, launcher.variables),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done
    return done.stdout


def test_it_stands_between_the_store_and_the_workers(tmp_path: Path) -> None:
    with launching(tmp_path, None, **with_access(ORLY_RELAY_WORKERS="2")) as launcher:
        await_ready(launcher, WORKERS)
        await_acl(launcher)
        launcher.await_line("access: mode none, 1 owners")
        launcher.await_until(lambda: healthcheck(launcher) == (0, []) or None, "good health")
        code, rows, errors = status(launcher, tmp_path)
        assert (code, errors) == (0, "")
        assert [(row[0], row[1], row[4]) for row in rows[1:]] == [
            (name, "up", "ok") for name in ("orly-db", ACL, *WORKERS)
        ]
        with stopped(launcher.pid_of(ACL)):
            assert healthcheck(launcher) == (
                1,
                [f"{ACL}: no answer from {launcher.variables['ORLY_ACL_LISTEN']} within 3 s"],
            )
        assert launcher.stop() == 0
        logs = launcher.logs()
        starts = [logs.index(f"| {name} started, pid ") for name in ("orly-db", ACL, *WORKERS)]
        assert starts == sorted(starts)
        for worker in WORKERS:
            assert logs.index(f" {worker} INFO  main | stopped") < logs.index(f" {ACL} INFO  main | SIGTERM")
        assert logs.index(f" {ACL} INFO  main | stopped") < logs.index(" orly-db INFO  main | SIGTERM")
        assert "Traceback" not in logs
        warned = [line.split()[1] for line in launcher.lines() if "ORLY_RELAY_URL is not set" in line]
        assert sorted(warned) == list(WORKERS)


def test_its_lists_are_in_the_store_that_runs_beside(tmp_path: Path) -> None:
    """Whatever is set for it alone would give it another one."""
    other = {"ORLY_ACL_DB_TYPE": "lmdb", "ORLY_ACL_GRPC_DB_SERVER": "127.0.0.1:9", "ORLY_ACL_TYPE": "local"}
    with launching(tmp_path, None, **with_access(**other)) as launcher:
        await_ready(launcher)
        here, acl = launcher.variables["ORLY_DB_LISTEN"], launcher.variables["ORLY_ACL_LISTEN"]
        for name in ("ORLY_ACL_DB_TYPE", "ORLY_ACL_GRPC_DB_SERVER"):
            launcher.await_line(f"{name}={other[name]} has no effect here: the orly-db at {here}, which runs beside")
        launcher.await_line(f"ORLY_ACL_TYPE=local has no effect here: the {ACL} at {acl}, which runs beside")
        orly_acl(launcher, tmp_path, "ban", KEYS[WRITER], "--server", acl)
        launcher.await_until(lambda: healthcheck(launcher) == (0, []) or None, "good health")
        assert launcher.stop() == 0


def test_without_a_mode_or_owners_it_does_not_run(tmp_path: Path) -> None:
    with launching(tmp_path, None) as launcher:
        await_ready(launcher)
        assert ACL not in launcher.logs()


def test_a_change_holds_on_every_worker_and_after_crashes(tmp_path: Path) -> None:
    with launching(tmp_path, None, **with_access(ORLY_RELAY_WORKERS="2")) as launcher:
        url = await_ready(launcher, WORKERS)
        asyncio.run(_changes(launcher, tmp_path, url))
        assert launcher.logs().count("| orly-0 started, pid ") == 1
        launcher.await_until(lambda: healthcheck(launcher) == (0, []) or None, "good health")
        assert launcher.stop() == 0


def test_so_it_does_under_another_supervisor(tmp_path: Path) -> None:
    """As docs/launcher.md says: supervisord with what `--render-only` prints and the same variables."""
    chosen = with_access(ORLY_ACL_MODE="none", ORLY_RELAY_WORKERS="2", ORLY_PORT=str(free_port()))
    with supervising(tmp_path, launcher_variables(tmp_path, None, chosen)) as supervisord:
        url = await_ready(supervisord, WORKERS)
        await_acl(supervisord)
        asyncio.run(_ban(supervisord, tmp_path, url))
        assert supervisord.stop() == 0
        assert "Traceback" not in supervisord.logs()


@contextmanager
def supervising(directory: Path, variables: Mapping[str, str]) -> Iterator[Launcher]:
    """Runs supervisord itself, and stops it with all its programs afterwards."""
    rendered = run(directory, "--render-only", **variables)
    assert rendered.returncode == 0, rendered.stderr
    config, log_file = directory / "supervisord.conf", directory / "log"
    config.write_text(rendered.stdout)
    with log_file.open("wb") as log:
        child = subprocess.Popen(
            [ORLY.with_name("supervisord"), "-c", config],
            env=clean_environment(directory, variables),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    supervisord = Launcher(child=child, log_file=log_file, run_dir=directory, variables=variables)
    try:
        yield supervisord
    finally:
        if child.poll() is None:
            supervisord.stop()


async def _ban(launcher: Launcher, directory: Path, url: str) -> None:
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connect(url)) for _ in range(CLIENTS)]
        await _answered(clients, "before", taken=True)
        await asyncio.to_thread(orly_acl, launcher, directory, "ban", KEYS[WRITER])
        await _answered(clients, "banned", taken=False)


async def _changes(launcher: Launcher, directory: Path, url: str) -> None:
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connect(url)) for _ in range(CLIENTS)]
        await _answered(clients, "before", taken=True)
        await asyncio.to_thread(orly_acl, launcher, directory, "ban", KEYS[WRITER], "--reason", "spam")
        await _answered(clients, "banned", taken=False)
        os.kill(launcher.pid_of(ACL), signal.SIGKILL)
        await _answered(clients, "while it is away", taken=False)
        await asyncio.to_thread(await_acl, launcher, count=2)
        shown = await asyncio.to_thread(orly_acl, launcher, directory, "list", "banned-pubkeys")
        assert (KEYS[WRITER] in shown, "spam" in shown) == (True, True)
        await asyncio.to_thread(orly_acl, launcher, directory, "unban", KEYS[WRITER])
        await _answered(clients, "unbanned", taken=True)


async def _answered(clients: list[ClientConnection], what: str, *, taken: bool) -> None:
    """Returns when every client is answered that way; the workers are told of a change, which takes a moment."""
    async with asyncio.timeout(DEADLINE_S):
        for number, client in enumerate(clients):
            attempt = 0
            while True:
                event = make_event(WRITER, content=f"{what} {number} {attempt}")
                answer = await publish(client, event)
                if answer[1] is taken:
                    assert taken or str(answer[2]).startswith("blocked: "), answer
                    break
                attempt += 1
