"""Which tiers run: the image tier needs Docker, so a developer asks for it; CI always has it."""

import os
from collections.abc import Generator
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

IMAGE_TIER = Path(__file__).with_name("image")


def in_ci() -> bool:
    """Whether this is a CI run, in which nothing may be left out."""
    return os.environ.get("CI", "").lower() in ("1", "true")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds `--docker`."""
    parser.addoption("--docker", action="store_true", help="run tests/image too: build the image and run it")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leaves the image tier out where it was not asked for."""
    return True if collection_path == IMAGE_TIER and not _has_image_tier(config) else None


class _ByFile(LoadScopeScheduling):  # type: ignore[misc]  # it has no types
    """Runs the tests of a file in one process, and the image tier, whose files share an image and the engine, too."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return str(IMAGE_TIER) if IMAGE_TIER in self.config.rootpath.joinpath(file).parents else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """Has pytest-xdist share out the tests in this way."""
    return _ByFile(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, object, object]:
    """Has what a test has printed or logged reach the process that reports it, lone surrogates included."""
    return _encodable((yield))


def _encodable(found: object) -> object:
    match found:
        case str():
            return found.encode("utf-8", "backslashreplace").decode()
        case list() | tuple():
            return type(found)(map(_encodable, found))
        case dict():
            return {_encodable(key): _encodable(value) for key, value in found.items()}
        case _:
            return found


def pytest_report_header(config: pytest.Config) -> str:
    """Says whether the image tier runs, so that nobody takes its absence for success."""
    return "image tier: " + ("on" if _has_image_tier(config) else "off; --docker turns it on")


def _has_image_tier(config: pytest.Config) -> bool:
    return in_ci() or bool(config.getoption("--docker"))
