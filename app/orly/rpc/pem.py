"""Certificates and keys in files (PEM): read, and checked to be usable."""

from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

__all__ = ["PemError", "check_fit", "check_time", "parse_certificates", "parse_key", "read_pem"]

_LONGEST_BYTES = 1 << 20
"""No chain of certificates is longer."""


class PemError(Exception):
    """A file is not what it should be; the text says why, without naming it."""


def read_pem(path: Path) -> bytes:
    """The contents of a file.

    Raises:
        PemError: It cannot be read, or is far too long for what it should be.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_LONGEST_BYTES + 1)
    except OSError as error:
        raise PemError(f"cannot be read: {error.strerror}") from error
    if len(data) > _LONGEST_BYTES:
        raise PemError("is longer than 1 MiB")
    return data


def parse_certificates(data: bytes) -> list[x509.Certificate]:
    """The certificates in a file, at least one.

    Raises:
        PemError: There is none, or one is damaged.
    """
    try:
        return x509.load_pem_x509_certificates(data)
    except ValueError as error:
        raise PemError("holds no certificate (PEM)") from error


def parse_key(data: bytes) -> PrivateKeyTypes:
    """The private key in a file.

    Raises:
        PemError: There is none, or it needs a passphrase.
    """
    try:
        return load_pem_private_key(data, password=None)
    except TypeError as error:
        raise PemError("needs a passphrase, which a service cannot give") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise PemError("holds no private key (PEM)") from error


def check_fit(certificate: x509.Certificate, key: PrivateKeyTypes) -> None:
    """Check that the key is that of the certificate.

    Raises:
        PemError: It is not.
    """
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if certificate.public_key().public_bytes(*form) != key.public_key().public_bytes(*form):
        raise PemError("is not the key of the certificate")


def check_time(certificate: x509.Certificate, now_s: int) -> None:
    """Check that the certificate is valid at a moment (Unix time).

    Raises:
        PemError: It has expired, or is not valid yet.
    """
    now = datetime.fromtimestamp(now_s, UTC)
    if now > certificate.not_valid_after_utc:
        raise PemError(f"expired on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC")
    if now < certificate.not_valid_before_utc:
        raise PemError(f"is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC")
