"""Which `orly-db` a command is to use, if any."""

from pydantic import TypeAdapter, ValidationError

from orly.process.exit_codes import ExitCode
from orly.settings import SETTINGS, Settings
from orly.settings_rules import conflicts
from orly.settings_service_types import Server

__all__ = ["RemoteError", "server_address"]


class RemoteError(Exception):
    """The service cannot do what was asked.

    Attributes:
        code: The exit status of the command; the text is for the operator.
    """

    def __init__(self, code: ExitCode, text: str) -> None:
        super().__init__(text)
        self.code = code


def server_address(settings: Settings, given: str | None) -> str | None:
    """The service that a command is to use; None if it opens the data directory itself.

    Args:
        settings: With ORLY_DB_TYPE=grpc, ORLY_GRPC_SERVER is used when none is given.
        given: What `--server` says.

    Raises:
        RemoteError: It is no address, or is beyond this machine and may not be called without TLS and a token.
    """
    if given is None:
        return settings.grpc_server if settings.db_type == "grpc" else None
    try:
        address: str = TypeAdapter[str](Server).validate_python(given)
    except ValidationError as error:
        why = error.errors()[0].get("ctx", {}).get("error", "no address")
        raise RemoteError(ExitCode.USAGE, f"--server {given}: {why}") from None
    called = settings.model_copy(update={"grpc_server": address, "db_type": "grpc"})
    for attrs, text in conflicts(called, SETTINGS):
        if "grpc_server" in attrs:
            raise RemoteError(ExitCode.SETTINGS, text)
    return address
