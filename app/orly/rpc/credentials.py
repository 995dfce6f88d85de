"""TLS for the calls between services, from the settings."""

import ssl
from pathlib import Path

import grpc

from orly import clock
from orly.settings import ENV_NAMES, Settings

__all__ = ["CredentialsError", "channel_credentials", "server_credentials"]


class CredentialsError(Exception):
    """The certificates that the settings name cannot be used.

    Attributes:
        problems: One line for each, beginning with the variable.
    """

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def server_credentials(settings: Settings, now_s: int | None = None) -> grpc.ServerCredentials | None:
    """What a service on this machine shows and demands; None when TLS is off.

    Args:
        settings: Those of this process.
        now_s: Unix time to check dates against, instead of the current one.

    Raises:
        CredentialsError: With everything that is wrong.
    """
    if settings.grpc_tls == "off":
        return None
    is_mutual = settings.grpc_tls == "mtls"
    found = _Files(settings, now_s)
    own = found.identity("grpc_tls_cert", "grpc_tls_key")
    callers = found.authority() if is_mutual else None
    found.raise_problems()
    return grpc.ssl_server_credentials([own], callers, require_client_auth=is_mutual)


def channel_credentials(settings: Settings, now_s: int | None = None) -> grpc.ChannelCredentials | None:
    """What a caller on this machine trusts and shows; None when TLS is off.

    Without `ORLY_GRPC_TLS_CA` it trusts the authorities that the system does.

    Args:
        settings: Those of this process.
        now_s: Unix time to check dates against, instead of the current one.

    Raises:
        CredentialsError: With everything that is wrong.
    """
    if settings.grpc_tls == "off":
        return None
    found = _Files(settings, now_s)
    services = found.authority() if settings.grpc_tls_ca is not None or settings.grpc_tls == "mtls" else _system_roots()
    key, certificate = (
        found.identity("grpc_tls_client_cert", "grpc_tls_client_key") if settings.grpc_tls == "mtls" else (None, None)
    )
    found.raise_problems()
    return grpc.ssl_channel_credentials(services, key, certificate)


def _system_roots() -> bytes | None:
    """The certificates that the system trusts; None is gRPC's own list."""
    file = ssl.get_default_verify_paths().cafile
    return Path(file).read_bytes() if file is not None else None


class _Files:
    """The files that the settings name; collects what is wrong with them.

    What reads certificates is loaded here, so that a relay without TLS does not carry it.
    """

    def __init__(self, settings: Settings, now_s: int | None) -> None:
        self._settings = settings
        self._now_s = clock.now_s() if now_s is None else now_s
        self._problems: list[str] = []

    def raise_problems(self) -> None:
        """Raise `CredentialsError` if there are any."""
        if self._problems:
            raise CredentialsError(tuple(self._problems))

    def identity(self, certificate_attr: str, key_attr: str) -> tuple[bytes, bytes]:
        """A private key and its certificate, with those between it and the authority."""
        from orly.rpc import pem

        certificate_data, key_data = self._read(certificate_attr), self._read(key_attr)
        certificate = key = None
        if certificate_data:
            try:
                certificate = pem.parse_certificates(certificate_data)[0]
                pem.check_time(certificate, self._now_s)
            except pem.PemError as error:
                self._note(certificate_attr, str(error))
        if key_data:
            try:
                key = pem.parse_key(key_data)
                if certificate is not None:
                    pem.check_fit(certificate, key)
            except pem.PemError as error:
                self._note(key_attr, str(error))
        return key_data, certificate_data

    def authority(self) -> bytes:
        """The certificates that sign those of the other side."""
        from orly.rpc import pem

        data = self._read("grpc_tls_ca")
        if data:
            try:
                for certificate in pem.parse_certificates(data):
                    pem.check_time(certificate, self._now_s)
            except pem.PemError as error:
                self._note("grpc_tls_ca", str(error))
        return data

    def _read(self, attr: str) -> bytes:
        """The contents of the file that a setting names; nothing when there is a problem, which is then noted."""
        from orly.rpc import pem

        path: Path | None = getattr(self._settings, attr)
        if path is None:
            self._problems.append(f"{ENV_NAMES[attr]} is not set, but ORLY_GRPC_TLS={self._settings.grpc_tls} needs it")
            return b""
        try:
            return pem.read_pem(path) or self._empty(attr)
        except pem.PemError as error:
            self._note(attr, str(error))
            return b""

    def _empty(self, attr: str) -> bytes:
        self._note(attr, "is empty")
        return b""

    def _note(self, attr: str, text: str) -> None:
        self._problems.append(f"{ENV_NAMES[attr]}={getattr(self._settings, attr)} {text}")
