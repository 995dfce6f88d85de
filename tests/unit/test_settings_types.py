from ipaddress import ip_network
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import SecretStr, TypeAdapter, ValidationError

from orly.settings_types import (
    DirectoryPath,
    Form,
    Level,
    ListenAddress,
    LogFormat,
    Name,
    Networks,
    OptionalLevel,
    OptionalPath,
    Prefixes,
    PublicKey,
    RelayUrl,
    SecretKey,
    Text,
    WebUrl,
    Words,
)

KEY = "7e7e9c42a91bfef19fa929e5fda1b72e0ebc1a4c1141673e2794234d86addf4e"


def read(kind: Any, text: Any) -> Any:
    """What a field of this annotation makes of a text."""
    return TypeAdapter(kind).validate_python(text)


def complaint(kind: Any, text: Any) -> str:
    """Why a field of this annotation refuses a text."""
    with pytest.raises(ValidationError) as caught:
        read(kind, text)
    (details,) = caught.value.errors()
    assert details["type"] == "value_error", details
    return str(details["ctx"]["error"])


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (Text, " two words ", "two words"),
        (Text, "line\nbreak\tand é", "line\nbreak\tand é"),
        (Name, "My Relay", "My Relay"),
        (Words, " a, b ,,c ,", ("a", "b", "c")),
        (Words, "", ()),
        (DirectoryPath, "/var/lib/orly", Path("/var/lib/orly")),
        (OptionalPath, "", None),
        (OptionalPath, "logs/x", Path("logs/x")),
        (ListenAddress, "0.0.0.0", "0.0.0.0"),
        (ListenAddress, "::", "::"),
        (ListenAddress, "[::1]", "::1"),
        (ListenAddress, "LocalHost", "localhost"),
        (Networks, "10.0.0.1, 192.168.0.0/16,::1", ("10.0.0.1/32", "192.168.0.0/16", "::1/128")),
        (Prefixes, "10", ("10.0.0.0/8",)),
        (Prefixes, "192.168.", ("192.168.0.0/16",)),
        (Prefixes, "10.1", ("10.1.0.0/16",)),
        (Prefixes, "10.1.2.", ("10.1.2.0/24",)),
        (Prefixes, "10.1.2.3,2001:db8::/32", ("10.1.2.3/32", "2001:db8::/32")),
        (RelayUrl, "", ""),
        (RelayUrl, "wss://Relay.Example.com/", "wss://relay.example.com"),
        (RelayUrl, "HTTPS://relay.example.com:443/nostr/", "wss://relay.example.com/nostr"),
        (RelayUrl, "http://localhost:80", "ws://localhost"),
        (RelayUrl, "ws://[::1]:3334", "ws://[::1]:3334"),
        (WebUrl, "", ""),
        (WebUrl, "https://example.com/a.png?x=1#y", "https://example.com/a.png?x=1#y"),
        (PublicKey, "", ""),
        (PublicKey, KEY.upper(), KEY),
        (SecretKey, "", None),
        (SecretKey, KEY, SecretStr(KEY)),
        (Level, "WARNING", "warn"),
        (Level, "critical", "fatal"),
        (Level, "trace", "trace"),
        (OptionalLevel, "", ""),
        (LogFormat, "JSON", "json"),
    ],
)
def test_what_texts_mean(kind: Any, text: str, value: Any) -> None:
    if kind in (Networks, Prefixes):
        value = tuple(map(ip_network, value))
    assert read(kind, text) == value
    assert read(kind, value) == value, "a value of the type itself passes unchanged"


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        (Text, "a\x1b[31m", "has the control character U+001B"),
        (Text, "a\x85b", "has the control character U+0085"),
        (Text, "a\udcffb", "is not valid UTF-8"),
        (Name, "a/b", "also names a directory"),
        (Name, "..", "also names a directory"),
        (Name, "a\nb", "also names a directory"),
        (DirectoryPath, "/a\0b", "has the control character U+0000"),
        (DirectoryPath, "~no-such-user-here/x", "no home directory is known"),
        (ListenAddress, "example.com", "not an IP address"),
        (ListenAddress, "1.2.3", "not an IP address"),
        (Networks, "10.0.0.1,nonsense", "nonsense is neither an IP address nor a network"),
        (Networks, "10.0.0.1/8", "write 10.0.0.0/8"),
        (Networks, "10.", "10. is neither an IP address nor a network"),
        (Prefixes, "256.", "256. is not the start of an IP address"),
        (Prefixes, "010.1", "010.1 is not the start of an IP address"),
        (Prefixes, "10.1.2.3.", "10.1.2.3. is neither an IP address nor a network"),
        (RelayUrl, "relay.example.com", "does not start with wss://, ws://, https://, http://"),
        (RelayUrl, "ftp://relay.example.com", "does not start with wss://"),
        (RelayUrl, "wss://", "has no host name"),
        (RelayUrl, "wss://a:0", "has port 0"),
        (RelayUrl, "wss://a:99999", "not a URL: Port out of range"),
        (RelayUrl, "wss://user:pw@a", "no user name, query or fragment"),
        (RelayUrl, "wss://a/?x=1", "no user name, query or fragment"),
        (RelayUrl, "wss://a b", "printable ASCII"),
        (RelayUrl, "wss://bücher.example", "printable ASCII"),
        (WebUrl, "wss://example.com", "does not start with https://, http://"),
        (PublicKey, "abc", "neither npub1... nor 64 hex digits"),
        (SecretKey, "abc", "neither nsec1... nor 64 hex digits"),
        (Level, "", "not a level: write one of off, fatal, error, warn, info, debug, trace"),
        (OptionalLevel, "loud", "not a level"),
        (LogFormat, "xml", "write text or json"),
    ],
)
def test_what_texts_are_refused(kind: Any, text: str, message: str) -> None:
    assert message in complaint(kind, text)


def test_a_secret_is_never_shown() -> None:
    value = read(SecretKey, KEY)
    form = next(item for item in get_args(SecretKey) if isinstance(item, Form))
    assert form.show(value) == "********"
    assert form.show(None) == ""
    assert KEY not in repr(value)
