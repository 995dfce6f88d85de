"""The lock files of the container image: complete, with hashes, and free of the machine that made them."""

import re
import tomllib
from importlib import metadata
from itertools import product
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
LOCK = ROOT / "packaging/requirements.lock"
BUILD_LOCK = ROOT / "packaging/build.lock"
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
PIN = re.compile(r"([a-z0-9-]+)==([0-9][0-9a-z.+]*)((?: --hash=sha256:[0-9a-f]{64})+)")
TARGETS = list(product(["3.11", "3.12", "3.13"], ["x86_64", "aarch64"]))


def pins(path: Path = LOCK) -> dict[str, Version]:
    """The version of each package."""
    found: dict[str, Version] = {}
    for line in path.read_text(encoding="utf-8").replace(" \\\n    ", " ").splitlines():
        if not line or line.startswith("#"):
            continue
        match = PIN.fullmatch(line)
        assert match is not None, f"neither a comment nor a version with hashes: {line[:80]}"
        assert match[1] not in found, f"{match[1]} stands twice"
        found[match[1]] = Version(match[2])
    return found


def missing(requirement: Requirement, versions: dict[str, Version]) -> str | None:
    """What the lock lacks of a requirement."""
    version = versions.get(canonicalize_name(requirement.name))
    if version is None:
        return f"{requirement} is not there"
    return None if requirement.specifier.contains(version, prereleases=True) else f"{requirement} is not {version}"


@pytest.mark.parametrize("text", PROJECT["dependencies"])
def test_every_dependency_is_locked_in_its_range(text: str) -> None:
    assert missing(Requirement(text), pins()) is None, "run: make lock"


@pytest.mark.parametrize("text", PYPROJECT["build-system"]["requires"])
def test_what_builds_the_wheel_is_locked_in_its_range(text: str) -> None:
    assert missing(Requirement(text), pins(BUILD_LOCK)) is None, "run: make lock"


def test_generated_code_runs_with_the_oldest_runtime_that_is_allowed() -> None:
    allowed = {r.name: r.specifier for r in map(Requirement, PROJECT["dependencies"])}
    (tools,) = (r for r in map(Requirement, PYPROJECT["build-system"]["requires"]) if r.name == "grpcio-tools")
    oldest = min(Version(clause.version) for clause in allowed["grpcio"] if clause.operator == ">=")
    assert tools.specifier.contains(Version(f"{oldest}.0")), "generated code refuses a runtime older than its tools"


@pytest.mark.parametrize(("python", "machine"), TARGETS)
def test_what_the_dependencies_need_is_locked_too(python: str, machine: str) -> None:
    versions = pins()
    environment = {
        "python_version": python,
        "python_full_version": f"{python}.3",
        "platform_machine": machine,
        "sys_platform": "linux",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }
    found = []
    checked = 0
    for name, version in versions.items():
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        if Version(distribution.version) != version:
            continue  # another version may need other things
        checked += 1
        for text in distribution.requires or []:
            requirement = Requirement(text)
            wanted = requirement.marker is None or requirement.marker.evaluate({**environment, "extra": ""})
            if wanted and (lack := missing(requirement, versions)) is not None:
                found.append(f"{name}: {lack}")
    assert found == []
    assert checked > 0


def test_nothing_is_locked_that_is_only_for_development() -> None:
    wanted = {canonicalize_name(Requirement(text).name) for text in PROJECT["dependencies"]}
    tools = {canonicalize_name(Requirement(text).name) for text in PROJECT["optional-dependencies"]["dev"]}
    assert pins().keys() & (tools - wanted) == set()


@pytest.mark.parametrize("path", [LOCK, BUILD_LOCK], ids=lambda path: path.name)
def test_a_lock_names_no_place(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "//" not in text
    assert "--index" not in text
    assert "--find-links" not in text
