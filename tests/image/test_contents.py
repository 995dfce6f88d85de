"""What is in the image, and what is not."""

import json
from typing import Final

import pytest
from docker import DockerClient
from tests.image.container import run_to_end

from orly import __version__
from orly.services import SERVICES

MOST_BYTES: Final = 275_000_000
"""The whole image, uncompressed, on an x86-64 base of 79 MB; a dependency that adds much is noticed here.

numpy alone takes 56 MB, half of it a library that it cannot be loaded without.
"""

FORBIDDEN: Final = ("cc", "gcc", "g++", "c++", "ld", "as", "make", "pip", "pip3", "cargo", "curl", "wget", "git")


def test_there_is_no_compiler_no_installer_and_no_downloader(engine: DockerClient, image: str) -> None:
    names = " ".join(FORBIDDEN)
    found = run_to_end(engine, image, ["sh", "-c", f"for name in {names}; do command -v $name; done; true"])
    assert (found.code, found.output) == (0, "")
    headers = run_to_end(engine, image, ["sh", "-c", "ls /usr/include/*.h /usr/include/python3* 2>/dev/null; true"])
    assert headers.output == ""


@pytest.mark.parametrize("module", ["pip", "ensurepip", "setuptools", "grpc_tools"])
def test_what_only_builds_need_cannot_be_imported(engine: DockerClient, image: str, module: str) -> None:
    ran = run_to_end(engine, image, ["python", "-c", f"import {module}"])
    assert ran.code == 1
    assert f"No module named '{module}'" in ran.output


def test_bytecode_is_there_for_every_module(engine: DockerClient, image: str) -> None:
    script = (
        "import importlib.util, pathlib, sys\n"
        "for path in pathlib.Path('/opt/orly/lib').rglob('*.py'):\n"
        "    if not pathlib.Path(importlib.util.cache_from_source(path)).is_file(): print(path)\n"
    )
    assert run_to_end(engine, image, ["python", "-c", script]).output == ""


def test_every_program_and_its_parts_can_be_loaded(engine: DockerClient, image: str) -> None:
    for program in ["orly-launcher", *(service.name for service in SERVICES)]:
        ran = run_to_end(engine, image, [program, "--version"])
        assert (ran.code, ran.output.split()[-1]) == (0, __version__), ran.output


def test_what_is_loaded_only_when_it_is_needed_can_be(engine: DockerClient, image: str) -> None:
    modules = "orly.cli.local_sets, orly.cli.remote_sets, orly.sync.negentropy.run_service"
    ran = run_to_end(engine, image, ["python", "-c", f"import {modules}"])
    assert (ran.code, ran.output) == (0, "")


def test_the_user_is_nobody_special(engine: DockerClient, image: str) -> None:
    ran = run_to_end(engine, image, ["sh", "-c", "id -u; id -g; touch /opt/orly/x /usr/bin/x /etc/x 2>&1 | wc -l"])
    assert ran.output.split() == ["10001", "10001", "3"]
    configured = engine.images.get(image).attrs["Config"]
    assert configured["User"] == "10001:10001"


def test_what_the_image_declares(engine: DockerClient, image: str) -> None:
    attributes = engine.images.get(image).attrs
    configured, labels = attributes["Config"], attributes["Config"]["Labels"]
    assert list(configured["ExposedPorts"]) == ["3334/tcp"]
    assert list(configured["Volumes"]) == ["/data"]
    assert configured["StopSignal"] == "SIGTERM"
    assert configured["Healthcheck"]["Test"] == ["CMD", "python", "-m", "orly.appliance.healthcheck"]
    assert labels["org.opencontainers.image.title"] == "ORLY"
    assert labels["org.opencontainers.image.version"] == __version__
    assert labels["org.opencontainers.image.description"]


def test_the_image_stays_small(engine: DockerClient, image: str) -> None:
    assert engine.images.get(image).attrs["Size"] <= MOST_BYTES


@pytest.mark.parametrize(("arguments", "name"), [(["--version"], "orly-launcher"), (["orly", "--version"], "orly")])
def test_arguments_are_the_launchers_and_other_commands_run_instead(
    engine: DockerClient, image: str, arguments: list[str], name: str
) -> None:
    assert run_to_end(engine, image, arguments).output.strip() == f"{name} {__version__}"


def test_settings_can_be_printed(engine: DockerClient, image: str) -> None:
    ran = run_to_end(engine, image, ["orly", "config", "--json"], environment={"ORLY_PORT": "4444"})
    assert ran.code == 0
    assert json.loads(ran.output)
    assert "/data" in ran.output
