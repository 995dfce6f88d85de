"""A second machine, as far as the network is concerned: a network namespace (Linux, root, iproute2)."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

__all__ = ["OtherMachine", "other_machine"]

COMMAND_S: Final = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherMachine:
    """A network namespace with one link to this one.

    Attributes:
        name: Of the namespace.
        here: Our address on the link.
        there: Its address.
    """

    name: str
    here: str
    there: str

    def program(self, program: Path, directory: Path) -> Path:
        """A file in `directory` that runs a program over there; its process id is that of the program."""
        script = directory / program.name
        script.write_text(f'#!/bin/sh\nexec ip netns exec {self.name} "{program}" "$@"\n')
        script.chmod(0o755)
        return script

    def cut(self) -> None:
        """Nothing passes the link any more, in silence."""
        _ip("-n", self.name, "link", "set", _there(self.name), "down")

    def mend(self) -> None:
        """It passes again."""
        _ip("-n", self.name, "link", "set", _there(self.name), "up")


@contextmanager
def other_machine() -> Iterator[OtherMachine]:
    """Makes one and removes it afterwards.

    Where that is not possible the test is skipped; in CI (`CI=true`) it fails, so that it is never left out silently.
    """
    number = os.getpid() % 250
    name = f"orly{os.getpid()}"
    machine = OtherMachine(name=name, here=f"198.18.{number}.1", there=f"198.18.{number}.2")  # RFC 2544
    problem = _why_not(name)
    if problem:
        if os.environ.get("CI") == "true":
            pytest.fail(f"this must run in CI: {problem}")
        pytest.skip(problem)
    try:
        _ip("link", "add", _here(name), "type", "veth", "peer", "name", _there(name), "netns", name)
        _ip("address", "add", f"{machine.here}/30", "dev", _here(name))
        _ip("link", "set", _here(name), "up")
        _ip("-n", name, "address", "add", f"{machine.there}/30", "dev", _there(name))
        _ip("-n", name, "link", "set", "lo", "up")
        machine.mend()
        yield machine
    finally:
        # A namespace takes its links with it, but later: the next test would find them.
        subprocess.run(["ip", "link", "delete", _here(name)], capture_output=True, timeout=COMMAND_S, check=False)
        _ip("netns", "delete", name)


def _here(name: str) -> str:
    return f"{name}h"


def _there(name: str) -> str:
    return f"{name}t"


def _why_not(name: str) -> str:
    """Makes the namespace; why that is not possible, if so."""
    if os.geteuid() != 0:
        return "only root can make network namespaces"
    if shutil.which("ip") is None:
        return "the command `ip` (iproute2) is not installed"
    done = subprocess.run(["ip", "netns", "add", name], capture_output=True, timeout=COMMAND_S, check=False)
    return "" if done.returncode == 0 else f"no network namespace can be made: {done.stderr.decode().strip()}"


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, timeout=COMMAND_S, check=False)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr.decode()}"
