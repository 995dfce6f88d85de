"""The forms that a setting's value can take: how each is read from text, and written back.

A form sits in a field's annotation. It turns text into the field's type before pydantic checks the bounds, and
shows a value as text that it reads back as the same value.
"""

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeAlias
from urllib.parse import SplitResult, urlsplit

from pydantic import GetCoreSchemaHandler, SecretStr
from pydantic_core import CoreSchema, core_schema

from orly import units
from orly.nostr import nip19

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
LevelName: TypeAlias = Literal["off", "fatal", "error", "warn", "info", "debug", "trace"]

MASK: Final = "********"

_DEFAULT_PORTS: Final = {"ws": 80, "wss": 443}
_WEBSOCKET_SCHEMES: Final = {"ws": "ws", "wss": "wss", "http": "ws", "https": "wss"}
_LEVELS: Final = ("off", "fatal", "error", "warn", "info", "debug", "trace")
_LEVEL_SYNONYMS: Final = {"warning": "warn", "critical": "fatal"}
_PREFIX: Final = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){0,2}\.?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """One way to write values.

    Attributes:
        name: what the docs call it.
        read: text without surrounding white space -> value; raises `ValueError` saying what is wrong.
        show: value -> text; never the value of a secret.
        is_secret: whether the value may also come from a file and must never be shown.
    """

    name: str
    read: Callable[[str], Any]
    show: Callable[[Any], str] = str
    is_secret: bool = False

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Reads text before the annotated type is validated; values of the type itself pass through."""
        return core_schema.no_info_before_validator_function(self._accept, handler(source))

    def _accept(self, value: object) -> Any:
        return self.read(value.strip()) if isinstance(value, str) else value


def read_text(text: str) -> str:
    """Text without control characters other than line breaks and tabs.

    Raises:
        ValueError: naming the first one, or because the text is no Unicode.
    """
    if bad := next((c for c in text if c not in "\n\t" and (ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0)), None):
        raise ValueError(f"has the control character U+{ord(bad):04X}")
    if any(0xD800 <= ord(c) < 0xE000 for c in text):
        raise ValueError("is not valid UTF-8")
    return text


def _read_name(text: str) -> str:
    if "/" in text or "\n" in text or "\t" in text or text in (".", ".."):
        raise ValueError("also names a directory: it cannot hold a slash or a line break, or be a dot")
    return read_text(text)


def _read_path(text: str) -> Path:
    try:
        return Path(read_text(text)).expanduser()
    except RuntimeError as error:
        raise ValueError("no home directory is known: set HOME, or write the whole path") from error


def _read_optional_path(text: str) -> Path | None:
    return _read_path(text) if text else None


def show_optional(value: object) -> str:
    return "" if value is None else str(value)


def read_list(text: str) -> tuple[str, ...]:
    return tuple(item for part in read_text(text).split(",") if (item := part.strip()))


def show_list(values: tuple[object, ...]) -> str:
    return ",".join(map(str, values))


def _read_listen(text: str) -> str:
    if text.lower() == "localhost":
        return "localhost"
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        return str(ipaddress.ip_address(bare))
    except ValueError as error:
        raise ValueError("not an IP address: write 0.0.0.0, 127.0.0.1, ::, localhost or the like") from error


def _read_network(item: str) -> Network:
    try:
        return ipaddress.ip_network(item)
    except ValueError as error:
        if "host bits" in str(error):
            wanted = ipaddress.ip_network(item, strict=False)
            raise ValueError(f"{item} is an address inside a network: write {wanted}") from error
        raise ValueError(f"{item} is neither an IP address nor a network such as 10.0.0.0/8") from error


def _read_prefix(item: str) -> Network:
    if _PREFIX.fullmatch(item) is None:
        return _read_network(item)
    octets = item.removesuffix(".").split(".")
    address = ".".join(octets + ["0"] * (4 - len(octets)))
    try:
        return ipaddress.ip_network(f"{address}/{8 * len(octets)}")
    except ValueError as error:
        raise ValueError(f"{item} is not the start of an IP address") from error


def _read_networks(text: str) -> tuple[Network, ...]:
    return tuple(map(_read_network, read_list(text)))


def _read_prefixes(text: str) -> tuple[Network, ...]:
    return tuple(map(_read_prefix, read_list(text)))


def _split_url(text: str, schemes: tuple[str, ...]) -> SplitResult:
    wanted = f"not a URL: write {schemes[0]}://relay.example.com or the like"
    if not text.isascii() or any(character.isspace() or not character.isprintable() for character in text):
        raise ValueError(f"{wanted}, in printable ASCII without white space")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"not a URL: {error}") from error
    if parts.scheme not in schemes:
        raise ValueError(f"does not start with {', '.join(f'{scheme}://' for scheme in schemes)}")
    if not parts.hostname:
        raise ValueError("has no host name")
    if port == 0:
        raise ValueError("has port 0")
    return parts


def read_relay_url(text: str) -> str:
    if not text:
        return ""
    parts = _split_url(text, ("wss", "ws", "https", "http"))
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("a relay's address has no user name, query or fragment")
    assert parts.hostname is not None
    scheme = _WEBSOCKET_SCHEMES[parts.scheme]
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    port = "" if parts.port in (None, _DEFAULT_PORTS[scheme]) else f":{parts.port}"
    return f"{scheme}://{host}{port}{parts.path.rstrip('/')}"


def _read_web_url(text: str) -> str:
    return _split_url(text, ("https", "http")).geturl() if text else ""


def _read_public_key(text: str) -> str:
    return nip19.parse_public_key(text) if text else ""


def _read_secret_key(text: str) -> SecretStr | None:
    return SecretStr(nip19.parse_secret_key(text)) if text else None


def show_secret(value: SecretStr | None) -> str:
    return "" if value is None else MASK


def _read_level(text: str) -> str:
    level = _LEVEL_SYNONYMS.get(text.lower(), text.lower())
    if level not in _LEVELS:
        raise ValueError(f"not a level: write one of {', '.join(_LEVELS)}")
    return level


def _read_optional_level(text: str) -> str:
    return _read_level(text) if text else ""


def _read_log_format(text: str) -> str:
    if text.lower() not in ("text", "json"):
        raise ValueError("not a format: write text or json")
    return text.lower()


Flag = Annotated[bool, Form(name="true or false", read=units.parse_bool, show=units.format_bool)]
Count = Annotated[int, Form(name="number", read=units.parse_int)]
Duration = Annotated[float, Form(name="duration", read=units.parse_duration, show=units.format_duration)]
Size = Annotated[int, Form(name="size", read=units.parse_size, show=units.format_size)]
Text = Annotated[str, Form(name="text", read=read_text)]
Name = Annotated[str, Form(name="text", read=_read_name)]
Words = Annotated[tuple[str, ...], Form(name="comma list", read=read_list, show=show_list)]
DirectoryPath = Annotated[Path, Form(name="path", read=_read_path)]
OptionalPath = Annotated[Path | None, Form(name="path", read=_read_optional_path, show=show_optional)]
ListenAddress = Annotated[str, Form(name="IP address or `localhost`", read=_read_listen)]
Networks = Annotated[
    tuple[Network, ...], Form(name="comma list of IP addresses or networks", read=_read_networks, show=show_list)
]
Prefixes = Annotated[
    tuple[Network, ...],
    Form(
        name="comma list of IP addresses, networks or prefixes such as `192.168.`",
        read=_read_prefixes,
        show=show_list,
    ),
]
RelayUrl = Annotated[str, Form(name="URL", read=read_relay_url)]
WebUrl = Annotated[str, Form(name="URL", read=_read_web_url)]
PublicKey = Annotated[str, Form(name="npub or 64 hex digits", read=_read_public_key)]
SecretKey = Annotated[
    SecretStr | None,
    Form(name="nsec or 64 hex digits", read=_read_secret_key, show=show_secret, is_secret=True),
]
Level = Annotated[LevelName, Form(name="level", read=_read_level)]
OptionalLevel = Annotated[Literal[""] | LevelName, Form(name="level", read=_read_optional_level)]
LogFormat = Annotated[Literal["text", "json"], Form(name="`text` or `json`", read=_read_log_format)]
