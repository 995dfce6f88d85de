import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.component.orly_child import DEADLINE_S, run, write_lines
from tests.factory import make_event
from tests.process import ORLY, clean_environment, running_relay
from tests.settings_environment import NSEC, SECRET

from orly import __version__
from orly.env_file import parse_env
from orly.settings import SETTINGS, load
from orly.store.lmdb.environment import open_environment

COMMANDS = ("relay", "import", "export", "config", "check", "sync", "acl", "version")


def filled(directory: Path, count: int = 3) -> Path:
    """A store with some events."""
    lines = write_lines(directory.parent / "events", [make_event(content=str(n)).raw for n in range(count)])
    assert run("import", lines, data_dir=directory).returncode == 0
    return directory


@pytest.mark.parametrize("flag", ["--help", "-h"])
@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)])
def test_every_command_explains_itself(tmp_path: Path, command: tuple[str, ...], flag: str) -> None:
    done = run(*command, flag, data_dir=tmp_path / "data")
    text = " ".join(done.stdout.decode().split())
    assert done.returncode == 0
    assert text.startswith(" ".join(("Usage: orly", *command)))
    if command != ("version",):
        assert "Exit status: 0 " in text
    if not command:
        assert all(f" {name} " in text for name in COMMANDS)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("argument", ["version", "--version"])
def test_the_version(tmp_path: Path, argument: str) -> None:
    done = run(argument, data_dir=tmp_path)
    assert (done.returncode, done.stdout.decode(), done.stderr) == (0, f"orly {__version__}\n", b"")


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("improt",), "'import'"),
        (("exprt", "-"), "'export'"),
        (("import", "--no-verfy"), "--no-verify"),
        (("export", "--filer", "{}"), "--filter"),
        (("export", "--filter"), "--filter"),
        (("import", "one", "two"), "two"),
        (("--prot", "1"), "--prot"),
    ],
)
def test_a_wrong_command_line_is_refused_with_a_hint(tmp_path: Path, arguments: tuple[str, ...], hint: str) -> None:
    done = run(*arguments, data_dir=tmp_path / "data")
    assert (done.returncode, done.stdout) == (2, b"")
    assert hint in done.stderr.decode().splitlines()[-1]
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("command", ["import", "export", "config", "check", "relay"])
def test_every_command_refuses_wrong_settings(tmp_path: Path, command: str) -> None:
    done = run(command, data_dir=tmp_path / "data", variables={"ORLY_PORT": "x", "ORLY_LISTEN": "y"})
    assert (done.returncode, done.stdout) == (78, b"")
    assert done.stderr.decode().count("orly: ORLY_") == 2
    assert not (tmp_path / "data").exists()


def test_config_prints_an_environment_file(tmp_path: Path) -> None:
    home = tmp_path / "it's home"
    variables = {
        "HOME": str(home),
        "ORLY_RELAY_DESCRIPTION": 'it\'s "mine" $HOME `x` # no comment',
        "ORLY_MAX_EVENT_SIZE": "65536",
        "ORLY_TRUSTED_PROXIES": "10.0.0.0/8,::1",
        "ORLY_IDLE_TIMEOUT": "90s",
    }
    done = run("config", data_dir=tmp_path / "data", variables=variables)
    assert (done.returncode, done.stderr) == (0, b"")
    printed = parse_env(done.stdout.decode())
    assert printed.keys() == {row.env for row in SETTINGS}
    expected = load({**variables, "ORLY_DATA_DIR": str(tmp_path / "data")}).settings
    assert load({**printed, "HOME": str(home)}).settings == expected
    assert not (tmp_path / "data").exists()


def test_a_shell_reads_what_config_prints(tmp_path: Path) -> None:
    description = 'it\'s "mine" $HOME `x` # no comment'
    done = run("config", data_dir=tmp_path / "data", variables={"ORLY_RELAY_DESCRIPTION": description})
    script = f'{done.stdout.decode()}\nprintf %s "$ORLY_RELAY_DESCRIPTION"'
    read = subprocess.run(["/bin/sh", "-c", script], capture_output=True, check=True, timeout=DEADLINE_S)
    assert read.stdout.decode() == description


def test_config_says_where_each_value_comes_from_and_masks_secrets(tmp_path: Path) -> None:
    home = tmp_path / "home"
    env_file = home / ".config" / "ORLY" / ".env"
    env_file.parent.mkdir(parents=True)
    env_file.write_text("ORLY_LISTEN=127.0.0.1\nORLY_PORT=1111\n")
    secret = tmp_path / "key"
    secret.write_text(f"{NSEC}\n")
    variables = {"HOME": str(home), "ORLY_PORT": "2222", "ORLY_RELAY_SECRET_KEY_FILE": str(secret)}
    done = run("config", "--json", data_dir=tmp_path / "data", variables=variables)
    assert (done.returncode, done.stderr) == (0, b"")
    printed = json.loads(done.stdout)
    assert printed["ORLY_PORT"] == {"value": "2222", "source": "environment"}
    assert printed["ORLY_LISTEN"] == {"value": "127.0.0.1", "source": f".env {env_file}"}
    assert printed["ORLY_HEALTH_PORT"] == {"value": "0", "source": "default"}
    assert printed["ORLY_RELAY_SECRET_KEY"]["source"] == f"file {secret}"
    as_text = run("config", data_dir=tmp_path / "data", variables=variables).stdout.decode()
    assert f"ORLY_PORT=2222{' ' * 51}# environment\n".split() in [line.split() for line in as_text.splitlines()]
    for shown in (done.stdout.decode(), as_text):
        assert SECRET not in shown
        assert NSEC not in shown


def test_config_names_settings_without_effect(tmp_path: Path) -> None:
    done = run("config", data_dir=tmp_path / "data", variables={"ORLY_THEME": "dark"})
    assert done.returncode == 0
    assert done.stderr.decode() == "orly: ORLY_THEME has no effect in this version\n"


def test_config_may_be_read_in_part(tmp_path: Path) -> None:
    pipe = subprocess.run(
        ["/bin/sh", "-c", '"$0" config | true', ORLY],
        env=clean_environment(tmp_path, {"ORLY_DATA_DIR": str(tmp_path / "data")}),
        capture_output=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert (pipe.returncode, pipe.stderr) == (0, b"")


@pytest.mark.parametrize("flags", [(), ("--signatures",)])
def test_a_good_store_is_consistent(tmp_path: Path, flags: tuple[str, ...]) -> None:
    done = run("check", *flags, data_dir=filled(tmp_path / "data"))
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode().startswith("3 events, ")
    assert done.stdout.decode().endswith(": consistent\n")


def test_a_store_is_checked_beside_its_relay(tmp_path: Path) -> None:
    filled(tmp_path / "data")
    with running_relay(ORLY_DATA_DIR=str(tmp_path / "data")):
        assert run("check", data_dir=tmp_path / "data").returncode == 0


def test_a_damaged_store_is_reported(tmp_path: Path) -> None:
    tables = open_environment(filled(tmp_path / "data", 150), max_bytes=64 * 1024 * 1024)
    with tables.env.begin(write=True) as txn:
        txn.drop(tables.kinds, delete=False)
    tables.close()
    done = run("check", data_dir=tmp_path / "data")
    assert done.returncode == 1
    assert done.stdout.decode().endswith(": 150 problems\n")
    lines = done.stderr.decode().splitlines()
    assert all(line.startswith("orly: ") for line in lines)
    assert len(lines) == 101
    assert lines[-1] == "orly: and 50 more"


def test_a_wrong_signature_is_found_when_it_is_asked_for(tmp_path: Path) -> None:
    good, other = make_event(content="a"), make_event(content="b")
    forged = good.raw.replace(good.event.sig.encode(), other.event.sig.encode())
    assert run("import", "--no-verify", data_dir=tmp_path / "data", stdin=forged).returncode == 0
    assert run("check", data_dir=tmp_path / "data").returncode == 0
    done = run("check", "--signatures", data_dir=tmp_path / "data")
    assert done.returncode == 1
    assert done.stderr.decode() == "orly: event 1 has a wrong signature\n"


def test_a_store_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    file = filled(tmp_path / "data", 300) / "data.mdb"
    os.truncate(file, file.stat().st_size // 2 // 4096 * 4096)
    done = run("check", data_dir=tmp_path / "data")
    assert done.returncode == 78
    assert done.stderr.decode().endswith("restore a backup\n")


@pytest.mark.parametrize("command", ["check", "export"])
def test_what_only_reads_needs_a_store(tmp_path: Path, command: str) -> None:
    done = run(command, data_dir=tmp_path / "data")
    assert (done.returncode, done.stdout) == (78, b"")
    assert done.stderr.decode() == f"orly: there is no database in {tmp_path / 'data'}\n"
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("orly.cli.main", ("asyncio", "typer", "pydantic", "orly.settings")),
        ("orly.cli.commands", ("rich", "lmdb", "uvicorn", "uvloop", "orly.relay", "orly.store")),
        ("orly.cli.run", ("rich", "typer", "jinja2", "uvicorn.protocols.websockets")),
        ("orly.cli.export_events", ("rich", "uvicorn", "uvloop", "orly.relay")),
        ("orly.cli.import_events", ("rich", "uvloop")),
    ],
)
def test_each_command_loads_its_own_part_only(module: str, heavy: tuple[str, ...]) -> None:
    script = f"import sys, {module}; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, timeout=DEADLINE_S)
    assert done.stdout.decode() == "[]\n"
