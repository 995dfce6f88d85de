import ipaddress
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given
from hypothesis import strategies as st
from tests.strategies import QUICK

from orly.rpc.certs import LOCAL_HOSTS, Authority, CertsError, Issued, hosts_of, load_authority, make_authority
from orly.rpc.pem import parse_certificates, parse_key

NOW_S = 1_800_000_000
DAY_S = 24 * 60 * 60
AUTHORITY = make_authority(now_s=NOW_S)


def authority(now_s: int = NOW_S) -> Authority:
    return load_authority(AUTHORITY, now_s)


def certificate_of(issued: Issued) -> x509.Certificate:
    (certificate,) = parse_certificates(issued.certificate_pem)
    return certificate


def at(moment_s: int) -> datetime:
    return datetime.fromtimestamp(moment_s, UTC)


def test_an_authority_signs_certificates_but_no_authorities() -> None:
    certificate = certificate_of(AUTHORITY)
    basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
    assert (basic.critical, basic.value.ca, basic.value.path_length) == (True, True, 0)
    assert (usage.critical, usage.value.key_cert_sign, usage.value.digital_signature) == (True, True, False)
    certificate.verify_directly_issued_by(certificate)


def test_authorities_have_different_names_and_keys() -> None:
    other = make_authority(now_s=NOW_S)
    assert certificate_of(other).subject != certificate_of(AUTHORITY).subject
    assert other.key_pem != AUTHORITY.key_pem


def test_a_certificate_of_a_service() -> None:
    issued = authority().issue_server(["db.example", "192.0.2.7", "2001:db8::7"], now_s=NOW_S, days=30)
    certificate = certificate_of(issued)
    certificate.verify_directly_issued_by(certificate_of(AUTHORITY))
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["db.example", "localhost"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == [
        "192.0.2.7",
        "2001:db8::7",
        "127.0.0.1",
        "::1",
    ]
    uses = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(uses) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert certificate.not_valid_before_utc == at(NOW_S - 3600)
    assert certificate.not_valid_after_utc == at(NOW_S + 30 * DAY_S)


def test_a_certificate_of_a_caller() -> None:
    certificate = certificate_of(authority().issue_client("backup", now_s=NOW_S, days=1))
    uses = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(uses) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert [name.value for name in certificate.subject] == ["backup"]
    with pytest.raises(x509.ExtensionNotFound):
        certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)


def test_keys_are_p256_and_not_encrypted() -> None:
    for issued in (AUTHORITY, authority().issue_client("a", now_s=NOW_S, days=1)):
        key = parse_key(issued.key_pem)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        assert key.curve.name == "secp256r1"


def test_nothing_outlives_its_authority() -> None:
    end_s = NOW_S + 3650 * DAY_S
    late_s = end_s - DAY_S
    for days, last_s in ((1, end_s), (2, end_s)):
        issued = authority(late_s).issue_client("a", now_s=late_s, days=days)
        assert certificate_of(issued).not_valid_after_utc == at(last_s)


def test_an_authority_is_of_use_until_its_last_second() -> None:
    end_s = NOW_S + 3650 * DAY_S
    load_authority(AUTHORITY, end_s)
    with pytest.raises(CertsError, match="the authority's certificate expired on 2037-01-12 08:00 UTC"):
        load_authority(AUTHORITY, end_s + 1)
    load_authority(AUTHORITY, NOW_S - 3600)
    with pytest.raises(CertsError, match="is not valid before"):
        load_authority(AUTHORITY, NOW_S - 3601)


def other_key() -> bytes:
    return make_authority(now_s=NOW_S).key_pem


def rsa_authority() -> Issued:
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "other")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(at(NOW_S - 1))
        .not_valid_after(at(NOW_S) + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, SHA256())
    )
    return Issued(
        certificate_pem=certificate.public_bytes(Encoding.PEM),
        key_pem=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )


@pytest.mark.parametrize(
    ("issued", "text"),
    [
        (Issued(certificate_pem=b"", key_pem=AUTHORITY.key_pem), "certificate holds no certificate"),
        (Issued(certificate_pem=AUTHORITY.certificate_pem, key_pem=b"junk"), "key holds no private key"),
        (Issued(certificate_pem=AUTHORITY.certificate_pem, key_pem=other_key()), "key is not the key of the cert"),
        (authority().issue_server((), now_s=NOW_S, days=1), "was not made by orly certs"),
        (rsa_authority(), "was not made by orly certs"),
    ],
)
def test_what_cannot_sign_is_refused(issued: Issued, text: str) -> None:
    with pytest.raises(CertsError, match=text):
        load_authority(issued, NOW_S)


@pytest.mark.parametrize(
    "host", ["", "a b", "-a", "a-", "a.-b", "a..b", ".a", "a.", "a/b", "http://a", "a:1", "[::1]", "*", "*.", "ä"]
)
def test_a_host_is_a_name_or_an_address(host: str) -> None:
    with pytest.raises(CertsError, match="neither the name nor the address of a machine"):
        authority().issue_server([host], now_s=NOW_S, days=1)


def test_how_long_the_name_of_a_host_may_be() -> None:
    longest = ".".join(["a" * 63] * 3 + ["a" * 61])
    assert len(longest) == 253
    assert hosts_of(authority().issue_server([longest], now_s=NOW_S, days=1).certificate_pem) == [longest]
    for host in (longest + "a", "a" * 64):
        with pytest.raises(CertsError):
            authority().issue_server([host], now_s=NOW_S, days=1)


@given(
    st.lists(
        st.one_of(
            st.from_regex(r"[a-z]([a-z0-9-]{0,20}[a-z])?(\.[a-z]{1,10}){0,3}", fullmatch=True),
            st.ip_addresses().map(str),
            st.sampled_from(LOCAL_HOSTS),
        ),
        max_size=5,
    )
)
@QUICK
def test_the_hosts_of_a_certificate_can_be_read_back(hosts: list[str]) -> None:
    issued = authority().issue_server(hosts, now_s=NOW_S, days=1)
    assert sorted(hosts_of(issued.certificate_pem)) == sorted(set(hosts) - set(LOCAL_HOSTS))


def test_hosts_of_what_is_no_certificate() -> None:
    with pytest.raises(CertsError, match="holds no certificate"):
        hosts_of(b"junk")
    assert hosts_of(AUTHORITY.certificate_pem) == []


def test_local_hosts_are_names_and_addresses() -> None:
    assert [ipaddress.ip_address(host).is_loopback for host in LOCAL_HOSTS[1:]] == [True, True]
