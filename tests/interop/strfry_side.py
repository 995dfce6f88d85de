"""strfry as a side, as one process with its database: its relay, and its `sync` beside it.

Also for any program with strfry's command line; `rust_nostr.py` is one.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.interop import wire
from tests.interop.expected import JsonEvent
from tests.interop.sides import SYNC_S, Direction, Filter, ReachableSide, Run, run_command, strfry_run
from tests.process import clean_environment, free_port

__all__ = ["RUST_NOSTR", "STRFRY_BIN", "StrfrySide", "strfry_configuration"]

STRFRY_BIN: Final = "STRFRY_BIN"
"""The variable that names the program, if there is one on this machine."""

RUST_NOSTR: Final = (sys.executable, str(Path(__file__).with_name("rust_nostr.py")))
"""rust-nostr's relay and client, by strfry's command line."""

_STOP_S: Final = 20.0
_START_S: Final = 30.0


def strfry_configuration(database: str, *, bind: str, port: int, negentropy: Mapping[str, str]) -> str:
    """strfry's configuration file; what is not in it is as strfry has it by default.

    Args:
        database: The directory of its database, with a slash at the end.
        bind: The address it listens on.
        port: The port.
        negentropy: Values of `relay.negentropy`.
    """
    lines = "\n".join(f"        {name} = {value}" for name, value in negentropy.items())
    return (
        f'db = "{database}"\n\nrelay {{\n    bind = "{bind}"\n    port = {port}\n    nofiles = 0\n\n'
        f"    negentropy {{\n{lines}\n    }}\n}}\n"
    )


class StrfrySide(ReachableSide):
    """A relay with strfry's command line, that is started here."""

    private_kinds = frozenset({4, 1059})

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        directory: Path,
        now_s: int,
        *,
        negentropy: Mapping[str, str] | None = None,
    ) -> None:
        port = free_port()
        super().__init__(name, f"ws://127.0.0.1:{port}", now_s)
        database = directory / "strfry-db"
        database.mkdir(parents=True)
        self._configuration = directory / "strfry.conf"
        self._configuration.write_text(
            strfry_configuration(
                f"{database}/", bind="127.0.0.1", port=port, negentropy={"enabled": "true", **(negentropy or {})}
            )
        )
        self._command = [*command, f"--config={self._configuration}"]
        self._environment = clean_environment(directory, {})
        self._log = directory / "log"
        self.start()

    def start(self) -> None:
        """Starts its relay, and waits until it answers."""
        with self._log.open("ab") as log:
            self._relay = subprocess.Popen(
                [*self._command, "relay"],
                env=self._environment,
                cwd=self._log.parent,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wire.await_relay(self.url, within_s=_START_S)

    def kill(self) -> None:
        """Ends its relay without warning."""
        self._relay.kill()
        self._relay.wait(_STOP_S)

    def close(self) -> None:
        if self._relay.poll() is None:
            os.kill(self._relay.pid, signal.SIGTERM)
            try:
                self._relay.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self.kill()

    def logs(self) -> str:
        return self._log.read_text(errors="replace")

    def sync(self, url: str, direction: Direction, wanted: Filter, *, timeout_s: float = SYNC_S) -> Run:
        arguments = ["sync", url, f"--dir={direction}", f"--filter={json.dumps(dict(wanted))}"]
        code, out, err, took_s = run_command([*self._command, *arguments], self._environment, timeout_s=timeout_s)
        return strfry_run(code, (out + err).decode(errors="replace"), took_s)

    def exported(self) -> dict[str, JsonEvent]:
        """All that it stores, private events too, by id."""
        code, out, err, _ = run_command([*self._command, "export"], self._environment, timeout_s=SYNC_S)
        assert code == 0, err.decode(errors="replace")
        events = [json.loads(line) for line in out.splitlines()]
        return {event["id"]: event for event in events}
