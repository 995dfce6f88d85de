"""The Cloudron package under what Cloudron gives an app: a read-only root, three writable places, its variables."""

import json
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest
from docker import DockerClient
from docker.types import Healthcheck
from tests.image.clients import information, notes, publish, stored_ids
from tests.image.conftest import ROOT, build
from tests.image.container import START_S, Appliance, appliance, run_to_end, wait_until

from orly.process.exit_codes import ExitCode

PACKAGE: Final = ROOT / "packaging/cloudron"
MANIFEST: Final[Mapping[str, Any]] = json.loads((PACKAGE / "CloudronManifest.json").read_text())
GIVEN: Final = {
    "CLOUDRON": "1",
    "CLOUDRON_APP_DOMAIN": "relay.example.com",
    "CLOUDRON_APP_ORIGIN": "https://relay.example.com",
    "CLOUDRON_PROXY_IP": "172.18.0.1",
}


@pytest.fixture(scope="module")
def package(engine: DockerClient, image: str) -> str:
    """The package's image."""
    return build(engine, path=PACKAGE, tag="orly-cloudron:test", buildargs={"ORLY_IMAGE": image})


def as_cloudron(data: Path) -> dict[str, Any]:
    """How Cloudron runs an app."""
    return {
        "read_only": True,
        "tmpfs": {"/run": "", "/tmp": ""},
        "volumes": {str(data): {"bind": "/app/data"}},
        "environment": GIVEN,
        "mem_limit": MANIFEST["memoryLimit"],
        "ports": {f"{MANIFEST['httpPort']}/tcp": ("127.0.0.1", None)},
        "healthcheck": Healthcheck(test=["NONE"]),
    }


def wait_until_well(app: Appliance) -> None:
    """Asks the manifest's health path, as Cloudron does."""

    def check() -> bool:
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{app.port}{MANIFEST['healthCheckPath']}", timeout=5
            ) as reply:
                return int(reply.status) == 200
        except OSError:
            return False

    wait_until(check, "the health path to answer 200", within_s=START_S)


def test_it_serves_and_keeps_events_and_settings_over_an_update(
    engine: DockerClient, package: str, tmp_path: Path
) -> None:
    with appliance(engine, package, serves=False, **as_cloudron(tmp_path)) as app:
        wait_until_well(app)
        ids = publish(app.url, notes(10))
        workers = [process for process in app.processes() if process.program in ("orly", "orly-db", "launcher")]
        assert len(workers) >= 3
        assert {uid for process in workers for uid in process.uids} == {10001}
        app.container.stop(timeout=60)
        assert app.wait_exit() == 0
    settings = tmp_path / "orly.env"
    assert settings.read_text() == (PACKAGE / "orly.env").read_text()
    settings.write_text("ORLY_RELAY_DESCRIPTION=ours\n")
    restored = ["sh", "-c", "chown -R 0:0 /app/data && chmod 0644 /app/data/orly.env"]  # a restore may lose owners
    assert run_to_end(engine, package, restored, **as_cloudron(tmp_path)).code == 0
    with appliance(engine, package, serves=False, **as_cloudron(tmp_path)) as app:
        wait_until_well(app)
        assert stored_ids(app.url) == ids
        assert information(app.port)["description"] == "ours"
    assert settings.read_text() == "ORLY_RELAY_DESCRIPTION=ours\n"
    assert (settings.stat().st_mode & 0o777, settings.stat().st_uid) == (0o600, 10001)


def test_a_wrong_setting_of_the_operator_is_named(engine: DockerClient, package: str, tmp_path: Path) -> None:
    (tmp_path / "orly.env").write_text("ORLY_MAX_FILTERS=many\n")
    ran = run_to_end(engine, package, **as_cloudron(tmp_path))
    assert ran.code == ExitCode.SETTINGS
    assert "ORLY_MAX_FILTERS" in ran.output
    assert "many" in ran.output


def test_what_cloudron_says_counts(engine: DockerClient, package: str, tmp_path: Path) -> None:
    (tmp_path / "orly.env").write_text("ORLY_RELAY_URL=wss://elsewhere.example.com\n")
    script = "sed 's/^exec entrypoint.sh$/exec entrypoint.sh orly config --json/' /app/code/start.sh | sh -s"
    ran = run_to_end(engine, package, ["sh", "-c", script], **as_cloudron(tmp_path))
    assert ran.code == 0, ran.output
    assert "wss://relay.example.com" in ran.output
    assert "172.18.0.1" in ran.output
    assert "elsewhere" not in ran.output
