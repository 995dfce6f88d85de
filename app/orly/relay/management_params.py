"""The parameters of management methods (NIP-86): what each must be, and the error that names the one that is not."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from re import compile as compile_re
from typing import Any, Final

from orly.access.commands import CommandError, read_address
from orly.nostr.kinds import MAX_KIND

__all__ = ["ADDRESS", "EVENT_ID", "KEY", "KIND", "NO_KEY", "TEXT", "Param", "ParamError", "number", "read_params"]

_HEX: Final = compile_re("[0-9A-Fa-f]{64}")
_REQUIRED: Final = object()


class ParamError(ValueError):
    """A parameter is not what it must be; the text says which, and what it must be."""


@dataclass(frozen=True, slots=True)
class Param:
    """One parameter.

    Attributes:
        form: What it must be, to follow "must be".
        read: Reads it; raises ValueError if it is something else.
        default: Stands for one that is left out or null, without being read.
    """

    form: str
    read: Callable[[object], Any]
    default: Any = _REQUIRED

    def or_else(self, default: Any) -> "Param":
        """The same, but it may be left out."""
        return replace(self, default=default)


def _bytes(value: object) -> bytes:
    if not isinstance(value, str) or _HEX.fullmatch(value) is None:
        raise ValueError
    return bytes.fromhex(value)


def _key_or_nothing(value: object) -> str:
    return "" if value == "" else _bytes(value).hex()


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError
    return value


def _address(value: object) -> str:
    try:
        return read_address(_text(value))
    except CommandError:
        raise ValueError from None


def number(least: int, most: int, what: str = "a whole number") -> Param:
    """A number within bounds; true and false are none."""

    def read(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise ValueError
        return value

    return Param(f"{what} from {least} to {most}", read)


KEY: Final = Param("64 hex digits", _bytes)
EVENT_ID: Final = KEY
NO_KEY: Final = Param("64 hex digits, or empty", _key_or_nothing, "")
"""A key (hex) that need not be known."""
TEXT: Final = Param("text", _text)
ADDRESS: Final = Param("an IP address", _address)
KIND: Final = number(0, MAX_KIND, "a kind, a number")


def read_params(given: Sequence[object], wanted: Sequence[Param]) -> list[Any]:
    """The values of all parameters.

    Raises:
        ParamError: One is missing, or is something else, or there are too many.
    """
    if len(given) > len(wanted):
        raise ParamError(f"there are {len(given)} parameters, this method takes {len(wanted) or 'none'}")
    values = []
    for index, param in enumerate(wanted):
        value = given[index] if index < len(given) else None
        if value is None and param.default is not _REQUIRED:
            values.append(param.default)
            continue
        try:
            values.append(param.read(value))
        except ValueError:
            raise ParamError(f"params[{index}] must be {param.form}") from None
    return values
