"""Compose as an operator calls it, on a copy of the files under a name of their own, always taken down."""

import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from docker import DockerClient
from tests.image.container import Appliance
from tests.process import clean_environment

__all__ = ["Project", "project"]

COMPOSE_FILES: Final = Path(__file__).parents[2] / "compose"
COMMAND_S: Final = 180


def _compose() -> Sequence[str]:
    """The plugin, or the program that came before it."""
    plugin = ["docker", "compose"]
    found = subprocess.run([*plugin, "version"], capture_output=True, check=False).returncode == 0
    return plugin if found else ["docker-compose"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """A set of compose files in a directory."""

    client: DockerClient
    name: str
    directory: Path
    files: Sequence[str]
    environment: Mapping[str, str]

    def run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs a command of Compose."""
        files = [word for file in self.files for word in ("-f", file)]
        done = subprocess.run(
            [*_compose(), "-p", self.name, *files, *arguments],
            cwd=self.directory,
            env=dict(self.environment),
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
            check=False,
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def appliance(self, service: str = "orly") -> Appliance:
        """The container of a service."""
        (container,) = self.client.containers.list(
            filters={"label": [f"com.docker.compose.project={self.name}", f"com.docker.compose.service={service}"]}
        )
        return Appliance(container)


@contextmanager
def project(client: DockerClient, directory: Path, *files: str, variables: Mapping[str, str]) -> Iterator[Project]:
    """Copies the compose files, and takes down what was started from them afterwards, volumes included."""
    shutil.copytree(COMPOSE_FILES, directory, dirs_exist_ok=True)
    made = Project(
        client=client,
        name=f"orlytest{uuid.uuid4().hex[:12]}",
        directory=directory,
        files=files,
        environment=clean_environment(directory, variables),
    )
    try:
        yield made
    except BaseException:
        sys.stderr.write(made.run("logs", "--no-color", check=False).stdout)
        raise
    finally:
        made.run("down", "--volumes", "--timeout", "60")
