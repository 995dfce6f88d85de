"""Which tiers run: the image tier needs Docker, so a developer asks for it; CI always has it."""

import os
from pathlib import Path

import pytest

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


def pytest_report_header(config: pytest.Config) -> str:
    """Says whether the image tier runs, so that nobody takes its absence for success."""
    return "image tier: " + ("on" if _has_image_tier(config) else "off; --docker turns it on")


def _has_image_tier(config: pytest.Config) -> bool:
    return in_ci() or bool(config.getoption("--docker"))
