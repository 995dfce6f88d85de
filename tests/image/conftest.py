"""The engine and the image, once for all tests of this tier."""

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import docker
import pytest
from docker import DockerClient
from docker.errors import APIError, BuildError
from tests.conftest import in_ci
from tests.image.container import LABEL, remove

from orly import __version__

ROOT: Final = Path(__file__).parents[2]
PREPARE: Final = Path(__file__).with_name("prepare-docker.sh")
PREPARE_S: Final = 600
PROXIES: Final = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


def _answers() -> bool:
    return subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0


@pytest.fixture(scope="session")
def engine() -> Iterator[DockerClient]:
    """Docker. In CI it is made to work here, and the tests fail if it cannot be; elsewhere it must be there."""
    started_here = False
    if in_ci():
        started_here = not _answers()
        subprocess.run([PREPARE], check=True, timeout=PREPARE_S)
    assert _answers(), f"no Docker engine answers; {PREPARE} starts one"
    client = docker.from_env(timeout=120)
    yield client
    for container in client.containers.list(all=True, filters={"label": LABEL}):
        remove(container)
    client.close()
    if started_here:
        subprocess.run([PREPARE, "stop"], check=True, timeout=60)


def build(client: DockerClient, *, path: Path, tag: str, **options: Any) -> str:
    """Builds an image; on failure the end of the build's output says why."""
    arguments = {name: os.environ[name] for name in PROXIES if name in os.environ}
    arguments.update(options.pop("buildargs", {}))
    try:
        client.images.build(
            path=str(path), tag=tag, network_mode="host", forcerm=True, buildargs=arguments, timeout=1200, **options
        )
    except BuildError as error:
        lines = [str(line.get("stream", line)) for line in error.build_log if isinstance(line, dict)]
        sys.stderr.write("".join(lines[-60:]))
        raise
    return tag


@pytest.fixture(scope="session")
def image(engine: DockerClient) -> str:
    """The image of this checkout, or the one named in ORLY_TEST_IMAGE."""
    if given := os.environ.get("ORLY_TEST_IMAGE"):
        return given
    return build(engine, path=ROOT, tag="orly:test", buildargs={"VERSION": __version__})


@pytest.fixture
def volume(engine: DockerClient) -> Iterator[str]:
    """A fresh named volume."""
    made = engine.volumes.create(f"{LABEL}-{uuid.uuid4().hex}", labels={LABEL: ""})
    yield str(made.name)
    try:
        made.remove(force=True)
    except APIError as error:
        pytest.fail(f"a container still uses {made.name}: {error}")
