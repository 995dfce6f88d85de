"""Starting, crashing and stopping, with programs that do what they are told."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from tests.appliance.launcher import Launcher, await_gone, is_alive, launcher_variables, launching, run
from tests.process import clean_environment

from orly.process.cores import available_cores

STEP_DOWN = (
    "setpriv",
    "--reuid=4711",
    "--regid=4711",
    "--clear-groups",
    "--inh-caps=-all,+dac_read_search",
    "--ambient-caps=-all,+dac_read_search",
)
"""Runs a command as a user without a name, who may read what root may: the interpreter may be in root's home."""

SERVE = [["own", "ready"], ["serve"]]


def order(launcher: Launcher, *wanted: str) -> None:
    """These texts stand in the log, each behind the one before."""
    logs = launcher.logs()
    places = [logs.find(text) for text in wanted]
    assert -1 not in places, f"{wanted[places.index(-1)]!r} is not in the log"
    assert places == sorted(places), wanted


def db_gated(tmp_path: Path) -> dict[str, list[list[str]]]:
    """A store that becomes ready when a file comes, and relays that wait for it."""
    ready = str(tmp_path / "db-ready")
    return {
        "orly-db": [
            ["own", "begins"],
            ["await", str(tmp_path / "gate")],
            ["own", "ready"],
            ["touch", ready],
            ["serve"],
        ],
        "orly": [["own", "waits for orly-db"], ["await", ready], *SERVE],
    }


def test_what_is_needed_starts_first_and_is_waited_for(tmp_path: Path) -> None:
    with launching(tmp_path, db_gated(tmp_path), ORLY_RELAY_WORKERS="2") as launcher:
        for process in ("orly-0", "orly-1"):
            launcher.await_line(f" {process} INFO  fake | waits for orly-db")
        assert "ready" not in launcher.logs()  # the slow store holds them up, and nothing gives up
        (tmp_path / "gate").touch()
        for process in ("orly-0", "orly-1"):
            launcher.await_line(f" {process} INFO  fake | ready")
        order(launcher, "| orly-db started", "| orly-0 started", "| orly-1 started", "orly-db INFO  fake | ready")
        assert launcher.stop() == 0


def test_everything_stops_in_reverse_order(tmp_path: Path) -> None:
    with launching(tmp_path, {"orly-db": SERVE, "orly": SERVE}, ORLY_RELAY_WORKERS="2") as launcher:
        for process in ("orly-db", "orly-0", "orly-1"):
            launcher.await_line(f" {process} INFO  fake | ready")
        assert launcher.stop(within_s=20) == 0
        for process in ("orly-0", "orly-1"):
            order(
                launcher,
                "| SIGTERM: stopping",
                "| stopping orly-0, orly-1",
                f"{process} INFO  fake | gone",
                f"| {process} stopped: it left with exit status 0",
                "| stopping orly-db",
                "orly-db INFO  fake | stops",
                "| orly-db stopped: it left with exit status 0",
                "launcher INFO  appliance.supervisor | stopped",
            )


def test_workers_stop_side_by_side(tmp_path: Path) -> None:
    meet = [["own", "ready"], ["stopping", "await", str(tmp_path / "other")], ["serve"]]
    leave = [["own", "ready"], ["stopping", "touch", str(tmp_path / "other")], ["serve"]]
    with launching(tmp_path, {"orly-db": SERVE, "orly-0": meet, "orly-1": leave}, ORLY_RELAY_WORKERS="2") as launcher:
        for process in ("orly-db", "orly-0", "orly-1"):
            launcher.await_line(f" {process} INFO  fake | ready")
        assert launcher.stop() == 0
        assert "killed" not in launcher.logs()


def test_who_does_not_stop_in_time_is_killed(tmp_path: Path) -> None:
    scripts = {"orly-db": [["deaf"], *SERVE], "orly": SERVE}
    with launching(tmp_path, scripts, ORLY_LAUNCHER_STOP_TIMEOUT="1s") as launcher:
        launcher.await_line("orly-db INFO  fake | ready")
        launcher.await_line("orly INFO  fake | ready")
        assert launcher.stop(within_s=20) == 0
        order(
            launcher,
            "| orly stopped: it left with exit status 0",
            "| orly-db did not stop within 1 s and is killed",
            "| orly-db stopped: it was ended by SIGKILL",
        )


def test_a_second_signal_does_not_wait(tmp_path: Path) -> None:
    scripts = {"orly-db": SERVE, "orly": [["deaf"], *SERVE]}
    with launching(tmp_path, scripts) as launcher:
        launcher.await_line("orly INFO  fake | ready")
        launcher.await_line("orly-db INFO  fake | ready")
        launcher.child.send_signal(signal.SIGINT)
        launcher.await_line("| stopping orly")
        launcher.child.send_signal(signal.SIGINT)
        assert launcher.await_exit(within_s=20) == 1
        order(launcher, "| SIGINT: stopping", "| SIGINT: not waiting any longer", "| orly is killed")


def test_what_crashes_is_started_again(tmp_path: Path) -> None:
    with launching(tmp_path, {"orly-db": SERVE, "orly": SERVE}, ORLY_RELAY_WORKERS="2") as launcher:
        for process in ("orly-db", "orly-0", "orly-1"):
            launcher.await_line(f" {process} INFO  fake | ready")
        pids = {process: launcher.pid_of(process) for process in ("orly-db", "orly-0", "orly-1")}
        for number, process in enumerate(("orly-db", "orly-1"), start=1):
            os.kill(pids[process], signal.SIGKILL)
            launcher.await_line(f" {process} INFO  fake | ready", count=2)
            launcher.await_line(f"| {process} was ended by SIGKILL; it is started again in 0.1 s (1 of 10 within 5m)")
            assert launcher.logs().count("started again") == number  # nobody else went with it
        assert is_alive(pids["orly-0"])
        assert launcher.stop() == 0


@pytest.mark.parametrize("step", [["exit", "0"], ["exit", "1"], ["kill", "11"], ["raise", "no"]])
def test_any_end_that_was_not_asked_for_is_a_crash(tmp_path: Path, step: list[str]) -> None:
    scripts = {"orly-db": [["once", str(tmp_path / "once"), *step], *SERVE], "orly": SERVE}
    with launching(tmp_path, scripts) as launcher:
        launcher.await_line("orly-db INFO  fake | ready")
        how = {"exit": f"left with exit status {step[1]}", "kill": "was ended by SIGSEGV", "raise": "exit status 1"}
        launcher.await_line(f"{how[step[0]]}; it is started again")
        assert launcher.stop() == 0


def test_a_crash_loop_ends_everything(tmp_path: Path) -> None:
    scripts = {"orly-db": SERVE, "orly": [["own", "tries"], ["exit", "3"]]}
    with launching(tmp_path, scripts, ORLY_LAUNCHER_CRASH_LIMIT="3") as launcher:
        assert launcher.await_exit() == 70
        assert launcher.messages("orly") == ["tries"] * 4  # three crashes are made up for, the fourth is too many
        assert "orly left with exit status 3, once too often (4 of 3 within 5m); everything is stopped" in (
            launcher.messages()
        )
        order(launcher, "once too often", "| stopping orly-db", "| orly-db stopped: it left with exit status 0")


def test_who_never_starts_for_good_ends_everything(tmp_path: Path) -> None:
    """Too slow to be a crash loop within the window, but it never lasts long enough to count as started."""
    scripts = {"orly-db": SERVE, "orly": [["own", "tries"], ["linger", "1.2"], ["kill", "9"]]}
    variables = {"ORLY_LAUNCHER_CRASH_LIMIT": "2", "ORLY_LAUNCHER_CRASH_WINDOW": "1s"}
    with launching(tmp_path, scripts, **variables) as launcher:
        assert launcher.await_exit() == 70
        assert launcher.messages("orly") == ["tries"] * 3
        assert launcher.logs().count("(1 of 2 within 1s)") == 3
        order(launcher, "orly failed to start too often; everything is stopped", "| orly-db stopped: it left with")


@pytest.mark.parametrize(
    ("code", "reason"),
    [(69, "something it needs is in use or out of reach"), (78, "a setting must be changed first")],
)
def test_an_exit_status_that_no_restart_helps_ends_everything(tmp_path: Path, code: int, reason: str) -> None:
    scripts = {"orly-db": SERVE, "orly": [["say", "orly: why it cannot"], ["exit", str(code)]]}
    with launching(tmp_path, scripts) as launcher:
        assert launcher.await_exit() == code
        assert f"orly left with exit status {code}: {reason}; everything is stopped" in launcher.messages()
        order(
            launcher,
            "orly WARN  output | orly: why it cannot",
            "everything is stopped",
            "| orly-db stopped: it",
        )


def test_nothing_outlives_its_program(tmp_path: Path) -> None:
    """A wrapper that crashes leaves the real program behind: it would hold the port and the data."""
    scripts = {"orly-db": [["fork"], ["once", str(tmp_path / "once"), "exit", "1"], *SERVE], "orly": SERVE}
    with launching(tmp_path, scripts) as launcher:
        pids = [int(launcher.await_line("fake | grandchild", count=count).rpartition(" ")[2]) for count in (1, 2)]
        launcher.await_until(lambda: not is_alive(pids[0]) or None, "the end of what a crash left")
        assert launcher.stop() == 0
        await_gone(pids[1])


def test_programs_stop_when_the_launcher_is_killed(tmp_path: Path) -> None:
    with launching(tmp_path, {"orly-db": SERVE, "orly": SERVE}) as launcher:
        for process in ("orly-db", "orly"):
            launcher.await_line(f" {process} INFO  fake | ready")
        pids = [launcher.pid_of(process) for process in ("orly-db", "orly")]
        launcher.child.kill()
        launcher.child.wait()
        for pid in pids:
            await_gone(pid)


def test_children_are_told_what_runs_beside_them(tmp_path: Path) -> None:
    scripts = {"orly-db": SERVE, "orly": [["environment"], ["serve"]], "orly-0": [["environment"], ["serve"]]}
    with launching(tmp_path, scripts, ORLY_RELAY_WORKERS="0") as launcher:
        cores = min(available_cores(), 4)
        worker = "orly" if cores == 1 else "orly-0"
        launcher.await_line(f" {worker} INFO  fake | {{")
        told = json.loads(launcher.messages(worker)[0])
        port = told.pop("ORLY_PORT")
        assert 0 < int(port) < 65_536
        given = {name: text for name, text in launcher.variables.items() if name not in ("ORLY_PORT", "FAKE")}
        assert told == given | {
            "ORLY_DB_TYPE": "grpc",
            "ORLY_GRPC_SERVER": given["ORLY_DB_LISTEN"],
            "ORLY_DB_DIRECT_READ": "true",
            "ORLY_LOG_TO_STDOUT": "true",
            "ORLY_RELAY_WORKERS": str(cores),
        }


def test_what_was_given_is_not_overridden(tmp_path: Path) -> None:
    scripts = {"orly-db": SERVE, "orly": [["environment"], ["serve"]]}
    variables = {
        "ORLY_DB_DIRECT_READ": "false",
        "ORLY_LOG_FILE": str(tmp_path / "orly.log"),
        "ORLY_GRPC_SERVER": "127.0.0.1:9",
    }
    with launching(tmp_path, scripts, **variables) as launcher:
        log_file = tmp_path / "orly.log"
        launcher.await_until(
            lambda: (log_file.exists() and "ORLY_DATA_DIR" in log_file.read_text()) or None, "the file"
        )
        text = log_file.read_text()
        told = json.loads(text[text.index("fake | {") + 7 :].splitlines()[0])
        assert told["ORLY_DB_DIRECT_READ"] == "false"
        assert "ORLY_LOG_TO_STDOUT" not in told
        assert told["ORLY_GRPC_SERVER"] == launcher.variables["ORLY_DB_LISTEN"]
        assert "ORLY_GRPC_SERVER=127.0.0.1:9 has no effect here" in text
        assert launcher.logs() == ""


def test_it_runs_as_anybody() -> None:
    with tempfile.TemporaryDirectory(prefix="orly-test-") as name:
        directory = Path(name)
        is_root = os.geteuid() == 0
        if is_root:
            directory.chmod(0o777)
        prefix = STEP_DOWN if is_root else ()
        with launching(directory, {"orly-db": SERVE, "orly": SERVE}, prefix=prefix) as launcher:
            launcher.await_line("orly INFO  fake | ready")
            launcher.await_line("orly-db INFO  fake | ready")
            if is_root:
                status = Path(f"/proc/{launcher.pid_of('orly')}/status").read_text()
                assert "Uid:\t4711\t4711\t4711\t4711" in status
            assert launcher.stop() == 0


def can_unshare() -> bool:
    """Whether this machine lets us make a process id namespace."""
    if shutil.which("unshare") is None:
        return False
    done = subprocess.run(["unshare", "--pid", "--fork", "--mount-proc", "true"], capture_output=True, check=False)
    return done.returncode == 0


@pytest.mark.skipif(not can_unshare() and os.environ.get("CI") != "true", reason="no right to make a namespace")
def test_it_is_a_good_process_1(tmp_path: Path) -> None:
    """It reaps what others leave to it, and a signal stops it although process 1 has no default for signals."""
    scripts = {"orly-db": SERVE, "orly": [["orphan", str(tmp_path / "leave")], *SERVE]}
    prefix = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
    with launching(tmp_path, scripts, prefix=prefix) as launcher:
        launcher.await_line("orly INFO  fake | ready")
        launcher.await_line("pid 1")
        pid = int(launcher.await_line("fake | orphan").rpartition(" ")[2])
        first = int(Path(f"/proc/{launcher.child.pid}/task/{launcher.child.pid}/children").read_text().split()[0])
        proc = Path(f"/proc/{first}/root/proc")
        assert (proc / "1/comm").read_text().startswith("python")
        (tmp_path / "leave").touch()
        launcher.await_until(lambda: not (proc / str(pid)).exists() or None, "the orphan to be reaped")
        os.kill(first, signal.SIGTERM)
        assert launcher.await_exit() == 0
        assert launcher.messages()[-1] == "stopped"


def test_supervisord_itself_runs_the_file(tmp_path: Path) -> None:
    scripts = {"orly-db": SERVE, "orly": SERVE}
    variables = {name: text for name, text in launcher_variables(tmp_path, scripts, {}).items() if name != "FAKE"}
    config = tmp_path / "supervisord.conf"
    config.write_text(run(tmp_path, "--render-only", **variables).stdout)
    log_file = tmp_path / "log"
    with log_file.open("ab") as log:  # supervisord opens it a second time
        child = subprocess.Popen(
            [Path(sys.executable).with_name("supervisord"), "-c", config],
            env=clean_environment(tmp_path, variables | {"FAKE": json.dumps(scripts)}),
            stdout=log,
            stderr=log,
        )
    launcher = Launcher(child=child, log_file=log_file, run_dir=tmp_path, variables=variables)
    try:
        for process in ("orly-db", "orly"):
            launcher.await_line(f" {process} INFO  fake | ready")
        assert launcher.stop() == 0
        order(launcher, "orly INFO  fake | gone", "stopped: orly (", "orly-db INFO  fake | stops")
    finally:
        if child.poll() is None:
            child.kill()
        child.wait()


def test_a_signal_before_anything_runs_is_a_stop(tmp_path: Path) -> None:
    with launching(tmp_path, {"orly-db": SERVE, "orly": SERVE}) as launcher:
        launcher.await_until(lambda: (launcher.run_dir / "lock").exists() or None, "its run directory")
        assert launcher.stop() == 0  # whichever stage it is in
