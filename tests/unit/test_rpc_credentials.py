from pathlib import Path
from typing import Any, Literal

import pytest
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from tests.component.rpc_world import DAY_S, Certificates

from orly import clock
from orly.rpc.credentials import CredentialsError, channel_credentials, server_credentials
from orly.rpc.pem import parse_key
from orly.settings import Settings


@pytest.fixture(name="own")
def make_own(tmp_path: Path) -> Certificates:
    return Certificates.make(tmp_path / "own")


def server_problems(now_s: int | None = None, **given: Any) -> tuple[str, ...]:
    with pytest.raises(CredentialsError) as caught:
        server_credentials(Settings(**given), now_s)
    assert str(caught.value) == "\n".join(caught.value.problems)
    return caught.value.problems


def channel_problems(now_s: int | None = None, **given: Any) -> tuple[str, ...]:
    with pytest.raises(CredentialsError) as caught:
        channel_credentials(Settings(**given), now_s)
    return caught.value.problems


def test_off_is_none_whatever_else_is_set(own: Certificates) -> None:
    settings = Settings(grpc_tls="off", **own.trust(), **own.server(), **own.client())
    assert server_credentials(settings) is None
    assert channel_credentials(settings) is None


@pytest.mark.parametrize("tls", ["tls", "mtls"])
def test_all_that_is_needed(own: Certificates, tls: Literal["tls", "mtls"]) -> None:
    settings = Settings(grpc_tls=tls, **own.trust(), **own.server(), **own.client())
    assert server_credentials(settings) is not None
    assert channel_credentials(settings) is not None


def test_a_caller_without_an_authority_trusts_those_of_the_system() -> None:
    assert channel_credentials(Settings(grpc_tls="tls")) is not None


def test_each_side_needs_its_own_only(own: Certificates) -> None:
    assert server_credentials(Settings(grpc_tls="tls", **own.server())) is not None
    assert server_credentials(Settings(grpc_tls="mtls", **own.trust(), **own.server())) is not None
    assert channel_credentials(Settings(grpc_tls="mtls", **own.trust(), **own.client())) is not None


def test_what_is_missing_is_listed_together() -> None:
    assert server_problems(grpc_tls="tls") == (
        "ORLY_GRPC_TLS_CERT is not set, but ORLY_GRPC_TLS=tls needs it",
        "ORLY_GRPC_TLS_KEY is not set, but ORLY_GRPC_TLS=tls needs it",
    )
    assert server_problems(grpc_tls="mtls") == (
        "ORLY_GRPC_TLS_CERT is not set, but ORLY_GRPC_TLS=mtls needs it",
        "ORLY_GRPC_TLS_KEY is not set, but ORLY_GRPC_TLS=mtls needs it",
        "ORLY_GRPC_TLS_CA is not set, but ORLY_GRPC_TLS=mtls needs it",
    )
    assert channel_problems(grpc_tls="mtls") == (
        "ORLY_GRPC_TLS_CA is not set, but ORLY_GRPC_TLS=mtls needs it",
        "ORLY_GRPC_TLS_CLIENT_CERT is not set, but ORLY_GRPC_TLS=mtls needs it",
        "ORLY_GRPC_TLS_CLIENT_KEY is not set, but ORLY_GRPC_TLS=mtls needs it",
    )


def test_files_that_cannot_be_used_are_listed_together(own: Certificates, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    assert server_problems(
        grpc_tls="mtls", grpc_tls_ca=str(tmp_path / "none"), grpc_tls_cert=str(tmp_path), grpc_tls_key=str(empty)
    ) == (
        f"ORLY_GRPC_TLS_CERT={tmp_path} cannot be read: Is a directory",
        f"ORLY_GRPC_TLS_KEY={empty} is empty",
        f"ORLY_GRPC_TLS_CA={tmp_path}/none cannot be read: No such file or directory",
    )


def test_certificates_and_keys_are_not_mixed_up(own: Certificates) -> None:
    given = own.server()
    certificate, key = given["grpc_tls_cert"], given["grpc_tls_key"]
    assert server_problems(grpc_tls="tls", grpc_tls_cert=key, grpc_tls_key=certificate) == (
        f"ORLY_GRPC_TLS_CERT={key} holds no certificate (PEM)",
        f"ORLY_GRPC_TLS_KEY={certificate} holds no private key (PEM)",
    )


def test_a_key_must_fit(own: Certificates) -> None:
    first, second = own.client("a"), own.client("b")
    key = second["grpc_tls_client_key"]
    assert channel_problems(grpc_tls="mtls", **own.trust(), **(first | {"grpc_tls_client_key": key})) == (
        f"ORLY_GRPC_TLS_CLIENT_KEY={key} is not the key of the certificate",
    )


def test_a_key_with_a_passphrase(own: Certificates) -> None:
    given = own.server()
    path = Path(given["grpc_tls_key"])
    key = parse_key(path.read_bytes())
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")))
    assert server_problems(grpc_tls="tls", **given) == (
        f"ORLY_GRPC_TLS_KEY={path} needs a passphrase, which a service cannot give",
    )


def test_a_certificate_counts_until_its_last_second(own: Certificates) -> None:
    now_s = clock.now_s()
    settings = {"grpc_tls": "tls", **own.server(now_s=now_s)}
    assert server_credentials(Settings(**settings), now_s + DAY_S) is not None
    (problem,) = server_problems(now_s + DAY_S + 1, **settings)
    assert problem.startswith(f"ORLY_GRPC_TLS_CERT={settings['grpc_tls_cert']} expired on 20")
    assert server_credentials(Settings(**settings), now_s - 3600) is not None
    (problem,) = server_problems(now_s - 3601, **settings)
    assert "is not valid before 20" in problem


def test_an_authority_that_has_expired(own: Certificates) -> None:
    later_s = clock.now_s() + 3651 * DAY_S
    (problem,) = channel_problems(later_s, grpc_tls="tls", **own.trust())
    assert problem.startswith(f"ORLY_GRPC_TLS_CA={own.directory}/ca.pem expired on 20")


@pytest.mark.parametrize(
    ("size", "text"), [(1 << 20, "holds no certificate (PEM)"), ((1 << 20) + 1, "is longer than 1 MiB")]
)
def test_how_long_a_file_may_be(tmp_path: Path, size: int, text: str) -> None:
    path = tmp_path / "ca.pem"
    path.write_bytes(b"\n" * size)
    assert channel_problems(grpc_tls="tls", grpc_tls_ca=str(path)) == (f"ORLY_GRPC_TLS_CA={path} {text}",)
