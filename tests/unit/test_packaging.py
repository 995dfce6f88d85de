"""What operators copy agrees with the project: grace periods, names of settings, versions, hardening, locks."""

import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Final

import pytest
from tests.factory import KEYS
from tests.settings_environment import load_with

from orly import __version__
from orly.services import RELAY, stop_grace_s
from orly.settings import SETTINGS

ROOT: Final = Path(__file__).parents[2]
COMPOSE: Final = ROOT / "compose"
UNIT: Final = ROOT / "packaging/systemd/orly.service"
CLOUDRON: Final = ROOT / "packaging/cloudron"

APPLIANCES: Final = ("compose.yml", "compose.caddy.yml")
"""The compose files that run the image; the others are put on top of one of them."""

KNOWN: Final = {row.env for row in SETTINGS} | {f"{row.env}_FILE" for row in SETTINGS if row.form.is_secret}
NOT_SETTINGS: Final = {"ORLY_IMAGE", "ORLY_PUBLISH"}
"""What the compose files themselves are told; these never reach the relay."""


def service_lines(name: str, service: str) -> list[str]:
    """The lines of one service of a compose file, without their indent."""
    lines = (COMPOSE / name).read_text().splitlines()
    start = lines.index(f"  {service}:") + 1
    found = []
    for line in lines[start:]:
        if line and not line.startswith("   "):
            break
        found.append(line.strip())
    return found


def grace_s(*, with_access: bool, with_sync: bool) -> int:
    """How long the appliance may take to stop with default times."""
    given = {"ORLY_OWNERS": KEYS[0]} if with_access else {}
    return stop_grace_s(load_with(**given, ORLY_LAUNCHER_SYNC_NEGENTROPY_ENABLED=str(with_sync)).settings)


@pytest.mark.parametrize("name", APPLIANCES)
def test_compose_gives_the_appliance_the_time_it_may_take_to_stop(name: str) -> None:
    assert f"stop_grace_period: {grace_s(with_access=True, with_sync=True)}s" in service_lines(name, "orly")


def test_the_interop_file_does_so_too() -> None:
    lines = service_lines("interop.yml", "orly")
    assert 'ORLY_LAUNCHER_SYNC_NEGENTROPY_ENABLED: "true"' in lines
    assert f"stop_grace_period: {grace_s(with_access=False, with_sync=True)}s" in lines


@pytest.mark.parametrize("name", APPLIANCES)
def test_compose_locks_the_container_down(name: str) -> None:
    lines = service_lines(name, "orly")
    for wanted in (
        "read_only: true",
        "cap_drop: [ALL]",
        'security_opt: ["no-new-privileges:true"]',
        "restart: unless-stopped",
        "- orly:/data",
    ):
        assert wanted in lines
    assert [line.split(":")[0] for line in lines if ":mode=1777" in line] == ["- /run/orly", "- /tmp"]


def test_only_the_proxy_is_published_where_there_is_one() -> None:
    assert not any(line.startswith(("ports:", "expose:")) for line in service_lines("compose.caddy.yml", "orly"))
    assert f'- "${{ORLY_PUBLISH:-{RELAY.port}}}:{RELAY.port}"' in service_lines("compose.yml", "orly")
    assert f"reverse_proxy orly:{RELAY.port}\n" in (COMPOSE / "Caddyfile").read_text()


def test_the_proxy_that_is_trusted_is_the_proxy() -> None:
    (address,) = {
        line.partition(": ")[2] for line in service_lines("compose.caddy.yml", "caddy") if "ipv4_address" in line
    }
    assert f"ORLY_TRUSTED_PROXIES: {address}" in service_lines("compose.caddy.yml", "orly")


@pytest.mark.parametrize(
    "path",
    [
        *sorted(path for path in COMPOSE.rglob("*") if path.is_file()),
        UNIT,
        *sorted(CLOUDRON.iterdir()),
        ROOT / "docs/docker.md",
        ROOT / "docs/sync.md",
    ],
    ids=lambda p: p.name,
)
def test_every_setting_that_is_named_exists(path: Path) -> None:
    named = set(re.findall(r"\bORLY_[A-Z0-9_]+", path.read_text()))
    assert named - NOT_SETTINGS <= KNOWN


def test_the_unit_gives_the_appliance_the_time_it_may_take_to_stop() -> None:
    assert f"TimeoutStopSec={grace_s(with_access=True, with_sync=True)}s" in UNIT.read_text().splitlines()


def test_the_docs_name_the_same_times() -> None:
    least, access = grace_s(with_access=False, with_sync=False), grace_s(with_access=True, with_sync=False)
    sync, most = grace_s(with_access=False, with_sync=True), grace_s(with_access=True, with_sync=True)
    assert access == sync
    docker, launcher, syncing = (
        " ".join((ROOT / f"docs/{name}.md").read_text().split()) for name in ("docker", "launcher", "sync")
    )
    assert f"--stop-timeout {most} orly" in docker
    assert (
        f"Up to {least} s with default settings, {access} s with access control or sync, {most} s with both" in docker
    )
    assert f"with the defaults {least} s, and {access - least} s more for each of `orly-acl`" in launcher
    assert f"`orly-sync-negentropy`, which seldom need two: {most} s in all" in launcher
    assert f"{sync - least} s more for it: {sync} s in all with the other defaults, {most} s with access" in syncing


def test_the_unit_stops_in_order_and_does_not_repeat_what_cannot_help() -> None:
    lines = UNIT.read_text().splitlines()
    for wanted in (
        "KillMode=mixed",  # one SIGTERM, to the launcher
        "Restart=on-failure",
        "RestartPreventExitStatus=2 78",
        "DynamicUser=yes",
        "ProtectSystem=strict",
        "NoNewPrivileges=yes",
        "CapabilityBoundingSet=",
    ):
        assert wanted in lines


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_understands_the_unit_and_finds_it_locked_down(tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("ExecStart=/opt/orly/bin/orly-launcher", "ExecStart=/bin/true"))
    verified = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    assert [line for line in verified.stderr.splitlines() if UNIT.name in line] == []
    exposed = ["systemd-analyze", "security", "--offline=yes", "--threshold=20", str(unit)]
    assert subprocess.run(exposed, capture_output=True, check=False).returncode == 0


def test_the_cloudron_manifest_has_what_cloudron_requires() -> None:
    manifest = json.loads((CLOUDRON / "CloudronManifest.json").read_text())
    assert manifest["manifestVersion"] == 2
    assert manifest["version"] == manifest["upstreamVersion"] == __version__
    assert manifest["httpPort"] == RELAY.port
    assert manifest["healthCheckPath"] == "/health"
    assert manifest["addons"] == {"localstorage": {}}  # without it /app/data is not writable
    assert manifest["memoryLimit"] >= 260_000_000  # the appliance's own bound at rest
    for key in ("title", "tagline", "description"):
        assert manifest[key]
    page = manifest["postInstallMessage"].removeprefix("file://")
    assert "$CLOUDRON-APP-DOMAIN" in (CLOUDRON / page).read_text()


def test_what_the_wheel_is_built_with_is_locked() -> None:
    required = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    locked = re.findall(r"^([a-z0-9-]+)==(\S+) \\$", (ROOT / "packaging/build.lock").read_text(), re.MULTILINE)
    versions = dict(locked)
    for requirement in required:
        name, operator, version = re.fullmatch(r"([a-z0-9-]+)(==|>=)([0-9.]+)", requirement).groups()  # type: ignore[union-attr]
        if operator == "==":
            assert versions[name] == version
        else:
            assert [int(part) for part in versions[name].split(".")] >= [int(part) for part in version.split(".")]


@pytest.mark.parametrize("name", ["requirements.lock", "build.lock"])
def test_locks_have_hashes_and_name_no_place(name: str) -> None:
    text = (ROOT / "packaging" / name).read_text()
    pinned = re.findall(r"^\S+==\S+.* \\\n    --hash=sha256:[0-9a-f]{64}", text, re.MULTILINE)
    assert len(pinned) == len(re.findall(r"^[a-z]", text, re.MULTILINE)) > 0
    assert "://" not in text
    assert "--index" not in text


@pytest.mark.parametrize(
    "path", [ROOT / "entrypoint.sh", CLOUDRON / "start.sh", ROOT / "tests/image/prepare-docker.sh"]
)
def test_scripts_can_be_executed(path: Path) -> None:
    assert path.stat().st_mode & 0o111 == 0o111
    assert path.read_text().startswith("#!/")


def test_the_entrypoint_stays_short() -> None:
    assert len((ROOT / "entrypoint.sh").read_text().splitlines()) <= 25
