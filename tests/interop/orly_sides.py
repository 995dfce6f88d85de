"""This project as a side: a relay of one process, the whole appliance, and a bare data directory with the commands."""

import json
import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from tests.appliance.launcher import Launcher, launching
from tests.interop import wire
from tests.interop.expected import JsonEvent
from tests.interop.sides import (
    SYNC_S,
    Direction,
    Filter,
    ReachableSide,
    Run,
    Side,
    orly_run,
    run_command,
)
from tests.process import ORLY, RelayProcess, clean_environment, free_port, running_relay

from orly.nostr.kinds import PRIVATE_KINDS

__all__ = ["ApplianceSide", "DirectorySide", "OrlySide"]

_START_S: Final = 60.0


def sync_arguments(url: str, direction: Direction, wanted: Filter) -> list[str]:
    """The arguments of `orly` for a sync that reports in JSON."""
    return ["sync", url, "--dir", direction.value, "--filter", json.dumps(dict(wanted)), "--json"]


class OrlySide(ReachableSide):
    """`orly` alone: the relay and its store in one process."""

    private_kinds = PRIVATE_KINDS

    def __init__(self, name: str, directory: Path, now_s: int, **variables: str) -> None:
        directory.mkdir(parents=True)
        port = free_port()
        super().__init__(name, f"ws://127.0.0.1:{port}", now_s)
        self._variables = {
            "ORLY_DATA_DIR": str(directory / "data"),
            "ORLY_PORT": str(port),
            "ORLY_NEGENTROPY_ENABLED": "true",
            **variables,
        }
        self._stack = ExitStack()
        self._earlier_logs = ""
        self.start()

    def start(self) -> None:
        """Starts it, and waits until it listens."""
        self._relay: RelayProcess = self._stack.enter_context(running_relay(**self._variables))
        self._is_up = True

    def kill(self) -> None:
        """Ends it without warning."""
        self._relay.kill()
        self.close()

    def close(self) -> None:
        if self._is_up:
            self._earlier_logs, self._is_up = self.logs(), False
            self._stack.close()

    def logs(self) -> str:
        return self._earlier_logs + (self._relay.logs() if self._is_up else "")


class ApplianceSide(ReachableSide):
    """`orly-launcher` with orly-db, a relay worker and orly-sync-negentropy, which its syncs go through."""

    private_kinds = PRIVATE_KINDS

    def __init__(self, name: str, directory: Path, now_s: int, **variables: str) -> None:
        directory.mkdir(parents=True)
        port = free_port()
        super().__init__(name, f"ws://127.0.0.1:{port}", now_s)
        self._directory = directory
        self._server = f"127.0.0.1:{free_port()}"
        self._variables = {
            "ORLY_PORT": str(port),
            "ORLY_LAUNCHER_SYNC_NEGENTROPY_ENABLED": "true",
            "ORLY_SYNC_NEGENTROPY_LISTEN": self._server,
            **variables,
        }
        self._stack = ExitStack()
        self._launcher: Launcher = self._stack.enter_context(launching(directory, None, **self._variables))
        wire.await_relay(self.url, within_s=_START_S)

    def kill_service(self) -> None:
        """Ends orly-sync-negentropy without warning, for the first time; the launcher starts it again."""
        os.kill(self._launcher.pid_of("orly-sync-negentropy"), signal.SIGKILL)

    def close(self) -> None:
        self._stack.close()

    def logs(self) -> str:
        return self._launcher.logs()

    def sync(self, url: str, direction: Direction, wanted: Filter, *, timeout_s: float = SYNC_S) -> Run:
        command = [str(ORLY), *sync_arguments(url, direction, wanted), "--server", self._server]
        environment = clean_environment(self._directory, {"ORLY_DATA_DIR": str(self._directory / "none")})
        return orly_run(*run_command(command, environment, timeout_s=timeout_s))


class DirectorySide(Side):
    """A data directory that no relay serves; events go in and out by `orly import`, `orly export` and `orly sync`.

    Its syncs have the given options.
    """

    def __init__(self, name: str, directory: Path, now_s: int, *, options: Sequence[str] = ()) -> None:
        super().__init__(name, now_s)
        self._options = options
        directory.mkdir(parents=True)
        self._directory = directory
        self._environment = clean_environment(directory, {"ORLY_DATA_DIR": str(directory / "data")})
        self.publish(())  # what is only compared or sent from must be there

    def publish(self, events: Sequence[JsonEvent]) -> None:
        lines = "".join(json.dumps(event, ensure_ascii=False, separators=(",", ":")) + "\n" for event in events)
        code, out, err, _ = run_command(
            [str(ORLY), "import"], self._environment, timeout_s=SYNC_S, stdin=lines.encode()
        )
        assert code == 0, (out + err).decode(errors="replace")
        for event in events:
            self.model.take(event)

    def stored(self) -> dict[str, JsonEvent]:
        code, out, err, _ = run_command([str(ORLY), "export"], self._environment, timeout_s=SYNC_S)
        assert code == 0, err.decode(errors="replace")
        events = [json.loads(line) for line in out.splitlines()]
        return {event["id"]: event for event in events}

    def sync(self, url: str, direction: Direction, wanted: Filter, *, timeout_s: float = SYNC_S) -> Run:
        command = [str(ORLY), *sync_arguments(url, direction, wanted), *self._options]
        return orly_run(*run_command(command, self._environment, timeout_s=timeout_s))

    def refused(self, *arguments: str) -> tuple[int, str]:
        """Runs `orly sync` with arguments that it must refuse: exit status, standard error."""
        code, _, err, _ = run_command([str(ORLY), "sync", *arguments], self._environment, timeout_s=SYNC_S)
        return code, err.decode(errors="replace")

    def start_sync(self, url: str, direction: Direction) -> "subprocess.Popen[bytes]":
        """Starts a sync of everything and does not wait for it."""
        command = [str(ORLY), *sync_arguments(url, direction, {})]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, env=self._environment, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe)
