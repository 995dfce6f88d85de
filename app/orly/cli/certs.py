"""`orly certs`: an authority, and certificates for services and their callers."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from orly.cli.progress import tell
from orly.env_file import quote_env
from orly.process.exit_codes import ExitCode
from orly.rpc.certs import Authority, CertsError, Issued, hosts_of, load_authority, make_authority
from orly.rpc.pem import PemError, read_pem

__all__ = ["DEFAULT_CLIENT", "run_certs"]

DEFAULT_CLIENT: Final = "client"

_AUTHORITY: Final = "ca"
_SERVER: Final = "server"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """What shall be made: the names of the service (None: no certificate for it), and the callers."""

    hosts: Sequence[str] | None
    clients: Sequence[str]

    @property
    def names(self) -> tuple[str, ...]:
        """The files to be written, without their endings."""
        return (*((_SERVER,) if self.hosts is not None else ()), *self.clients)


def run_certs(
    directory: Path, *, hosts: Sequence[str], clients: Sequence[str], days: int, force: bool, now_s: int
) -> tuple[ExitCode, str, str]:
    """Make what is missing: `ca`, `server` and one pair of files for each caller, `.pem` and `.key`.

    An authority that is there signs more and is never replaced. Callers can be added later; the service's
    certificate is then left alone, unless `hosts` are given too.

    Args:
        directory: Where the files are; made if it is not there.
        hosts: Names and addresses of the service. With `force` and none, those of the certificate before.
        clients: Names of callers; none is `DEFAULT_CLIENT`.
        days: How long the certificates are valid.
        force: Whether files, other than those of the authority, may be replaced.
        now_s: The current Unix time.

    Returns:
        The exit status, the settings to use them (for standard output), and what to tell the operator.
    """
    bad = [name for name in clients if _NAME.fullmatch(name) is None or name in (_AUTHORITY, _SERVER)]
    if bad:
        return ExitCode.USAGE, "", f"--client: {bad[0]!r} cannot be the name of a file for a caller"
    directory = directory.absolute()
    try:
        wanted = _plan(directory, hosts, clients, force=force)
        if not force:
            _refuse_existing(directory, wanted)
        own, is_new = _authority(directory, now_s)
        made = _issue(load_authority(own, now_s), wanted, now_s=now_s, days=days)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if is_new:
            _create(directory / f"{_AUTHORITY}.key", own.key_pem, 0o600)
            _create(directory / f"{_AUTHORITY}.pem", own.certificate_pem, 0o644)
        for name, issued in made.items():
            _write(directory, name, issued)
    except (CertsError, PemError) as error:
        return ExitCode.FAILED, "", str(error)
    except OSError as error:
        return ExitCode.FAILED, "", f"{error.filename}: {error.strerror}"
    tell(f"{directory}: made {', '.join(made)}; {_AUTHORITY}.key signs more, keep it where no service can read it")
    return ExitCode.OK, _settings(directory, wanted.clients[0] if wanted.clients else DEFAULT_CLIENT), ""


def _plan(directory: Path, hosts: Sequence[str], clients: Sequence[str], *, force: bool) -> _Wanted:
    server = directory / f"{_SERVER}.pem"
    if clients and not hosts and server.exists():
        return _Wanted(hosts=None, clients=tuple(dict.fromkeys(clients)))
    if force and not hosts and server.exists():
        try:
            hosts = hosts_of(read_pem(server))
        except (CertsError, PemError) as error:
            raise CertsError(f"{server} {error}; name its hosts with --host") from error
    return _Wanted(hosts=tuple(hosts), clients=tuple(dict.fromkeys(clients or (DEFAULT_CLIENT,))))


def _refuse_existing(directory: Path, wanted: _Wanted) -> None:
    paths = [directory / f"{name}{ending}" for name in wanted.names for ending in (".pem", ".key")]
    existing = [str(path) for path in paths if path.exists() or path.is_symlink()]
    if existing:
        raise CertsError(f"{', '.join(existing)}: there already; --force replaces them")


def _authority(directory: Path, now_s: int) -> tuple[Issued, bool]:
    """The authority that is there, checked, or a new one; and whether it is new."""
    certificate, key = directory / f"{_AUTHORITY}.pem", directory / f"{_AUTHORITY}.key"
    missing = [str(path) for path in (certificate, key) if not path.exists()]
    if len(missing) > 1:
        return make_authority(now_s=now_s), True
    if missing:
        raise CertsError(f"{missing[0]} is not there, but the other half of the authority is: put it back to sign more")
    try:
        found = Issued(certificate_pem=read_pem(certificate), key_pem=read_pem(key))
        load_authority(found, now_s)
    except (CertsError, PemError) as error:
        raise CertsError(f"{certificate}: {error}") from error
    return found, False


def _issue(authority: Authority, wanted: _Wanted, *, now_s: int, days: int) -> dict[str, Issued]:
    made = {}
    if wanted.hosts is not None:
        made[_SERVER] = authority.issue_server(wanted.hosts, now_s=now_s, days=days)
    for name in wanted.clients:
        made[name] = authority.issue_client(name, now_s=now_s, days=days)
    return made


def _create(path: Path, data: bytes, mode: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with open(fd, "wb") as file:
        file.write(data)


def _write(directory: Path, name: str, issued: Issued) -> None:
    """Write both files; each appears whole, and nobody else can read the key at any time."""
    for ending, data, mode in ((".key", issued.key_pem, 0o600), (".pem", issued.certificate_pem, 0o644)):
        path = directory / f"{name}{ending}"
        new = path.with_name(f".{path.name}.new")
        new.unlink(missing_ok=True)
        _create(new, data, mode)
        new.replace(path)


def _settings(directory: Path, client: str) -> str:
    """The lines of an environment file for both sides."""
    own = (("ORLY_GRPC_TLS_CERT", _SERVER, ".pem"), ("ORLY_GRPC_TLS_KEY", _SERVER, ".key"))
    callers = (("ORLY_GRPC_TLS_CLIENT_CERT", client, ".pem"), ("ORLY_GRPC_TLS_CLIENT_KEY", client, ".key"))

    def lines(rows: Sequence[tuple[str, str, str]]) -> list[str]:
        return [f"{variable}={quote_env(str(directory / f'{name}{ending}'))}" for variable, name, ending in rows]

    return "\n".join(
        (
            "# everywhere",
            "ORLY_GRPC_TLS=mtls",
            *lines((("ORLY_GRPC_TLS_CA", _AUTHORITY, ".pem"),)),
            "# where the service runs",
            *lines(own),
            "# where its callers run",
            *lines(callers),
            "",
        )
    )
