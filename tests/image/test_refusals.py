"""What the container does not start with, and secrets that come from files."""

from pathlib import Path

import pytest
from docker import DockerClient
from tests.factory import KEYS, SECRETS
from tests.image.clients import information
from tests.image.container import HARDENED, appliance, run_to_end

from orly.process.exit_codes import ExitCode


def test_wrong_settings_are_listed_all_at_once(engine: DockerClient, image: str) -> None:
    wrong = {
        "ORLY_PORT": "seventy",
        "ORLY_RELAY_WORKERS": "65",
        "ORLY_MAX_FILTRES": "3",
        "ORLY_LAUNCHER_DB_READY_TIMEOUT": "soon",
        "ORLY_GRPC_TLS": "perhaps",
    }
    ran = run_to_end(engine, image, environment=wrong, **HARDENED)
    assert ran.code == ExitCode.SETTINGS, ran.output
    for name in wrong:
        assert name in ran.output
    assert "ORLY_MAX_FILTERS" in ran.output, "the right name is suggested"
    assert "started" not in ran.output, "no program ran"


def test_a_service_beyond_the_container_needs_tls_and_a_token(engine: DockerClient, image: str) -> None:
    ran = run_to_end(engine, image, environment={"ORLY_DB_LISTEN": "0.0.0.0:50051"})
    assert ran.code == ExitCode.SETTINGS, ran.output
    assert "ORLY_DB_LISTEN" in ran.output


def test_a_volume_that_cannot_be_written_is_named(engine: DockerClient, image: str, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir(mode=0o755)
    ran = run_to_end(engine, image, volumes={str(data): {"bind": "/data"}}, user="4711:4711", **HARDENED)
    assert ran.code == ExitCode.SETTINGS, ran.output
    assert "/data" in ran.output
    assert "Traceback" not in ran.output
    assert "started" not in ran.output


def test_secrets_come_from_files(engine: DockerClient, image: str, tmp_path: Path) -> None:
    secret = tmp_path / "key"
    secret.write_text(f"{SECRETS[0].hex()}\n")
    secret.chmod(0o444)
    tmp_path.chmod(0o755)
    volumes = {str(secret): {"bind": "/run/secrets/key", "mode": "ro"}}
    variables = {"ORLY_RELAY_SECRET_KEY_FILE": "/run/secrets/key"}
    with appliance(engine, image, volumes=volumes, environment=variables, **HARDENED) as relay:
        assert information(relay.port)["self"] == KEYS[0]
        assert SECRETS[0].hex() not in relay.logs()
    both = {**variables, "ORLY_RELAY_SECRET_KEY": SECRETS[1].hex()}
    ran = run_to_end(engine, image, volumes=volumes, environment=both)
    assert ran.code == ExitCode.SETTINGS
    assert "ORLY_RELAY_SECRET_KEY_FILE" in ran.output


@pytest.mark.parametrize("path", ["/run/secrets/none", "/data"])
def test_a_secret_that_cannot_be_read_is_refused(engine: DockerClient, image: str, path: str) -> None:
    ran = run_to_end(engine, image, environment={"ORLY_RELAY_SECRET_KEY_FILE": path})
    assert ran.code == ExitCode.SETTINGS, ran.output
    assert "ORLY_RELAY_SECRET_KEY_FILE" in ran.output
    assert path in ran.output
