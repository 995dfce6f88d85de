"""The options of `orly acl` as they were given."""

from dataclasses import dataclass
from pathlib import Path

from orly.process.exit_codes import ExitCode

__all__ = ["AclError", "AclOptions", "ChangeOptions", "ListOptions", "ShowOptions", "Where"]


class AclError(Exception):
    """What was asked for cannot be done.

    Attributes:
        code: The exit status; the text is for the operator.
    """

    def __init__(self, code: ExitCode, text: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """Whose lists are meant; None is not given.

    Attributes:
        server: An `orly-acl`.
        url: A relay that is managed over HTTP.
        auth_key_file: Holds the key to sign that with.
    """

    server: str | None = None
    url: str | None = None
    auth_key_file: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ListOptions:
    """`orly acl list`.

    Attributes:
        name: Of a list; None is how large all are.
        as_json: Print JSON lines.
        where: Whose lists.
    """

    name: str | None = None
    as_json: bool = False
    where: Where = Where()


@dataclass(frozen=True, slots=True, kw_only=True)
class ShowOptions:
    """`orly acl show`.

    Attributes:
        key: A public key.
        address: Where it comes from.
        as_json: Print JSON.
        where: Whose lists.
    """

    key: str
    address: str | None = None
    as_json: bool = False
    where: Where = Where()


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeOptions:
    """One of the commands that change a list.

    Attributes:
        verb: The command.
        is_event: Whether it is about events instead of their authors.
        keys: With what.
        file: Where that stands instead, one a line.
        reason: Why, for those that have no reason of their own.
        duration: For how long.
        where: Whose lists.
    """

    verb: str
    is_event: bool = False
    keys: tuple[str, ...] = ()
    file: Path | None = None
    reason: str | None = None
    duration: str | None = None
    where: Where = Where()


AclOptions = ListOptions | ShowOptions | ChangeOptions
