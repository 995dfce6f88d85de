"""Certificates for the calls between services: an authority of one's own, and what it signs (RFC 5280).

Keys are P-256. Nothing here reads a clock or a file.
"""

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from orly.rpc.pem import PemError, check_fit, check_time, parse_certificates, parse_key

__all__ = ["LOCAL_HOSTS", "Authority", "CertsError", "Issued", "hosts_of", "load_authority", "make_authority"]

LOCAL_HOSTS: Final = ("localhost", "127.0.0.1", "::1")
"""A service is called by these names on its own machine."""

AUTHORITY_DAYS: Final = 3650
MAX_DAYS: Final = 3650

_CLOCK_SKEW: Final = timedelta(hours=1)
"""Certificates count from this long ago: the clocks of other machines may be behind."""

_LABEL: Final = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST: Final = re.compile(rf"(?:\*\.)?{_LABEL}(?:\.{_LABEL})*")
_MAX_HOST_CHARACTERS: Final = 253
_MAX_NAME_CHARACTERS: Final = 64  # RFC 5280, ub-common-name


class CertsError(Exception):
    """A certificate cannot be made; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """A certificate and its private key.

    Attributes:
        certificate_pem: The certificate.
        key_pem: The key, PKCS #8, not encrypted.
    """

    certificate_pem: bytes
    key_pem: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """What signs certificates."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    def issue_server(self, hosts: Sequence[str], *, now_s: int, days: int) -> Issued:
        """A certificate for a service.

        Args:
            hosts: Names and IP addresses that callers use for it; those of `LOCAL_HOSTS` are added.
            now_s: The current Unix time.
            days: How long it is valid, but never longer than the authority itself.

        Raises:
            CertsError: A host is neither a name nor an address.
        """
        names = [_general_name(host) for host in dict.fromkeys((*hosts, *LOCAL_HOSTS))]
        return self._issue((hosts or LOCAL_HOSTS)[0], ExtendedKeyUsageOID.SERVER_AUTH, names, now_s=now_s, days=days)

    def issue_client(self, name: str, *, now_s: int, days: int) -> Issued:
        """A certificate for a caller, who appears in the audit log by this name; otherwise like `issue_server`."""
        return self._issue(name, ExtendedKeyUsageOID.CLIENT_AUTH, [], now_s=now_s, days=days)

    def _issue(
        self, name: str, use: x509.ObjectIdentifier, hosts: Sequence[x509.GeneralName], *, now_s: int, days: int
    ) -> Issued:
        key = ec.generate_private_key(ec.SECP256R1())
        issuer = self.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        builder = (
            _builder(name, self.certificate.subject, key, now_s, days, not_after=self.certificate.not_valid_after_utc)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(is_authority=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([use]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer), critical=False)
        )
        if hosts:
            builder = builder.add_extension(x509.SubjectAlternativeName(hosts), critical=False)
        return Issued(
            certificate_pem=builder.sign(self.key, SHA256()).public_bytes(Encoding.PEM), key_pem=_key_pem(key)
        )


def make_authority(*, now_s: int, days: int = AUTHORITY_DAYS) -> Issued:
    """A new authority, which can sign certificates but no further authorities."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = f"ORLY services {key.public_key().public_numbers().x:064x}"[:30]
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        _builder(name, subject, key, now_s, days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(is_authority=True), critical=True)
        .sign(key, SHA256())
    )
    return Issued(certificate_pem=certificate.public_bytes(Encoding.PEM), key_pem=_key_pem(key))


def load_authority(issued: Issued, now_s: int) -> Authority:
    """An authority that was made before.

    Raises:
        CertsError: It cannot sign: damaged, expired, no authority, or the key is another's.
    """
    try:
        certificate = parse_certificates(issued.certificate_pem)[0]
        check_time(certificate, now_s)
    except PemError as error:
        raise CertsError(f"the authority's certificate {error}") from error
    try:
        key = parse_key(issued.key_pem)
        check_fit(certificate, key)
    except PemError as error:
        raise CertsError(f"the authority's key {error}") from error
    try:
        is_authority = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except x509.ExtensionNotFound:
        is_authority = False
    if not is_authority or not isinstance(key, ec.EllipticCurvePrivateKey):
        raise CertsError("the authority's certificate was not made by orly certs")
    return Authority(certificate=certificate, key=key)


def hosts_of(certificate_pem: bytes) -> list[str]:
    """The names and addresses that a certificate is for, without those of `LOCAL_HOSTS`.

    Raises:
        CertsError: It cannot be read.
    """
    try:
        certificate = parse_certificates(certificate_pem)[0]
    except PemError as error:
        raise CertsError(str(error)) from error
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    found = (*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress)))
    return [host for host in found if host not in LOCAL_HOSTS]


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        if len(host) > _MAX_HOST_CHARACTERS or _HOST.fullmatch(host) is None:
            raise CertsError(f"{host!r} is neither the name nor the address of a machine") from None
        return x509.DNSName(host)


def _builder(
    name: str,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    now_s: int,
    days: int,
    not_after: datetime | None = None,
) -> x509.CertificateBuilder:
    now = datetime.fromtimestamp(now_s, UTC)
    end = now + timedelta(days=days)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:_MAX_NAME_CHARACTERS])]))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(end if not_after is None else min(end, not_after))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(*, is_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        encipher_only=False,
        decipher_only=False,
    )


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
