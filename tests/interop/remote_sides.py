"""Sides in other containers, as compose/interop.yml runs them."""

import json
import os
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from tests.interop import wire
from tests.interop.orly_sides import sync_arguments
from tests.interop.sides import (
    SYNC_S,
    Direction,
    Filter,
    ReachableSide,
    Run,
    orly_run,
    run_command,
    strfry_run,
)
from tests.process import ORLY, clean_environment

from orly.nostr.kinds import PRIVATE_KINDS

__all__ = ["RELAY_URL", "RelaySide", "RemoteOrlySide", "RemoteStrfrySide"]

RELAY_URL: Final = "RELAY_URL"
"""The variable that names a running relay to sync with; its rules must be like strfry's."""

_START_S: Final = 60.0
_POLL_S: Final = 0.02


class RelaySide(ReachableSide):
    """A running relay, whichever; it may hold events already."""

    private_kinds = frozenset({4, 1059})

    def __init__(self, name: str, url: str, now_s: int) -> None:
        super().__init__(name, url, now_s)
        wire.await_relay(url, within_s=_START_S)
        self.take(list(self.stored().values()))


class RemoteOrlySide(ReachableSide):
    """An ORLY elsewhere; it may hold events already.

    Attributes:
        server: Where its orly-sync-negentropy is; empty if it has none.
    """

    private_kinds = PRIVATE_KINDS

    def __init__(self, name: str, url: str, now_s: int, *, server: str = "") -> None:
        super().__init__(name, url, now_s)
        self.server = server
        wire.await_relay(url, within_s=_START_S)
        self.take(list(self.stored().values()))

    def sync(self, url: str, direction: Direction, wanted: Filter, *, timeout_s: float = SYNC_S) -> Run:
        command = [str(ORLY), *sync_arguments(url, direction, wanted), "--server", self.server]
        given = {name: value for name, value in os.environ.items() if name.startswith("ORLY_GRPC_")}
        environment = clean_environment(Path.cwd(), {"ORLY_DATA_DIR": str(Path.cwd() / "none"), **given})
        return orly_run(*run_command(command, environment, timeout_s=timeout_s))


class RemoteStrfrySide(ReachableSide):
    """A strfry elsewhere, whose commands are run by compose/interop/strfry.sh; it may hold events already."""

    private_kinds = frozenset({4, 1059})

    def __init__(self, name: str, url: str, now_s: int, *, box: Path) -> None:
        super().__init__(name, url, now_s)
        self._box = box
        self._asked = 0
        wire.await_relay(url, within_s=_START_S)
        self.take(list(self.stored().values()))

    def start(self) -> None:
        """Starts its relay, and waits until it answers."""
        code, output, _ = self._ask(["start"], timeout_s=_START_S)
        assert code == 0, output
        wire.await_relay(self.url, within_s=_START_S)

    def kill(self) -> None:
        """Ends its relay without warning."""
        code, output, _ = self._ask(["kill"], timeout_s=_START_S)
        assert code == 0, output

    def sync(self, url: str, direction: Direction, wanted: Filter, *, timeout_s: float = SYNC_S) -> Run:
        arguments = ["sync", url, f"--dir={direction}", f"--filter={json.dumps(dict(wanted))}"]
        return strfry_run(*self._ask(arguments, timeout_s=timeout_s))

    def _ask(self, arguments: Sequence[str], *, timeout_s: float) -> tuple[int, str, float]:
        """Has a command run: exit status, output, seconds."""
        number = f"{os.getpid()}-{id(self)}-{self._asked}"
        self._asked += 1
        (self._box / f"{number}.arguments").write_text("".join(f"{argument}\n" for argument in arguments))
        started_s = time.monotonic()
        with (self._box / "strfry").open("w") as pipe:
            pipe.write(f"{number}\n")
        output, status = self._box / f"{number}.output", self._box / f"{number}.status"
        while True:
            with suppress(FileNotFoundError):
                return int(status.read_text()), output.read_text(errors="replace"), time.monotonic() - started_s
            if time.monotonic() > started_s + timeout_s:
                said = output.read_text(errors="replace") if output.exists() else ""
                sys.stderr.write(said)
                raise AssertionError(f"{self.name}: {' '.join(arguments)} was still there after {timeout_s:g} s")
            time.sleep(_POLL_S)
