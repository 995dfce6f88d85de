from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr, TypeAdapter, ValidationError

from orly.settings_service_types import (
    MAX_TOKEN_CHARACTERS,
    MAX_UNIX_PATH_BYTES,
    MIN_TOKEN_CHARACTERS,
    Engine,
    ListenTarget,
    OptionalProgram,
    Server,
    Store,
    Tls,
    Token,
    is_local,
)
from orly.settings_types import Form

LONGEST_PATH = "/" + "x" * (MAX_UNIX_PATH_BYTES - 1)
LONGEST_LABEL = "a" * 63
LONGEST_HOST = ".".join([LONGEST_LABEL] * 3 + ["b" * 61])


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
        (Server, "127.0.0.1:50051", "127.0.0.1:50051"),
        (Server, " [::1]:50051 ", "[::1]:50051"),
        (Server, "[0:0:0:0:0:0:0:1]:1", "[::1]:1"),
        (Server, "[fe80::1%eth0]:50051", "[fe80::1%eth0]:50051"),
        (Server, "LocalHost:65535", "localhost:65535"),
        (Server, "db.Example.com:50051", "db.example.com:50051"),
        (Server, "orly-db:50051", "orly-db:50051"),
        (Server, "db_1:50051", "db_1:50051"),
        (Server, "10.example:50051", "10.example:50051"),
        (Server, f"{LONGEST_HOST}:1", f"{LONGEST_HOST}:1"),
        (Server, "unix:/run/orly/db.sock", "unix:/run/orly/db.sock"),
        (Server, "unix:///run/orly/db.sock", "unix:/run/orly/db.sock"),
        (Server, f"unix:{LONGEST_PATH}", f"unix:{LONGEST_PATH}"),
        (ListenTarget, "0.0.0.0:50051", "0.0.0.0:50051"),
        (ListenTarget, "[::]:50051", "[::]:50051"),
        (ListenTarget, "LOCALHOST:50051", "localhost:50051"),
        (ListenTarget, "unix:/run/orly/db.sock", "unix:/run/orly/db.sock"),
        (Store, "LMDB", "lmdb"),
        (Store, "Badger", "lmdb"),
        (Store, "local", "lmdb"),
        (Store, "gRPC", "grpc"),
        (Engine, "lmdb", "lmdb"),
        (Engine, "badger", "lmdb"),
        (Engine, "Local", "lmdb"),
        (Tls, "OFF", "off"),
        (Tls, "tls", "tls"),
        (Tls, "mTLS", "mtls"),
        (Token, "", None),
        (Token, "x" * MIN_TOKEN_CHARACTERS, SecretStr("x" * MIN_TOKEN_CHARACTERS)),
        (Token, "x" * MAX_TOKEN_CHARACTERS, SecretStr("x" * MAX_TOKEN_CHARACTERS)),
        (Token, "Az09._~+/=-Az09._~", SecretStr("Az09._~+/=-Az09._~")),
        (OptionalProgram, "", None),
        (OptionalProgram, "/opt/orly/bin/orly-db", Path("/opt/orly/bin/orly-db")),
    ],
)
def test_what_texts_mean(kind: Any, text: str, value: Any) -> None:
    assert read(kind, text) == value
    assert read(kind, value) == value, "a value of the type itself passes unchanged"


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        (Server, "", "has no port: write HOST:PORT, [::1]:PORT or unix:/path"),
        (Server, "127.0.0.1", "has no port"),
        (Server, "[::1]", "an IPv6 address stands in brackets, and a port behind it: [::1]:PORT"),
        (Server, "::1", "an IPv6 address stands in brackets"),
        (Server, "fe80::1:50051", "an IPv6 address stands in brackets"),
        (Server, "127.0.0.1:", "what follows the last colon is not a port: write a number of 1 to 65535"),
        (Server, "127.0.0.1:grpc", "is not a port"),
        (Server, "127.0.0.1:0", "the port 0 is not one of 1 to 65535"),
        (Server, "127.0.0.1:65536", "the port 65536 is not one of 1 to 65535"),
        (Server, "http://127.0.0.1:50051", "write HOST:PORT alone, without a scheme"),
        (Server, ":50051", "not an address: write HOST:PORT, [::1]:PORT or unix:/path"),
        (Server, "*:50051", "not an address"),
        (Server, "127.0.0.256:50051", "not an address"),
        (Server, "127.1:50051", "not an address"),
        (Server, "[127.0.0.1]:50051", "not an address"),
        (Server, "[::g]:50051", "not an address"),
        (Server, "-db:50051", "not an address"),
        (Server, "db-:50051", "not an address"),
        (Server, "a..b:50051", "not an address"),
        (Server, "db .example:50051", "not an address"),
        (Server, f"{LONGEST_LABEL}a:1", "not an address"),
        (Server, f"{LONGEST_HOST}b:1", "not an address"),
        (Server, "unix:run/db.sock", "the path behind unix: must start with a slash"),
        (Server, "unix:", "the path behind unix: must start with a slash"),
        (Server, "unix:/run/orly/", "the path behind unix: must name a file, not a directory"),
        (Server, f"unix:{LONGEST_PATH}x", "the path behind unix: is longer than 107 bytes"),
        (Server, "unix:/" + "é" * 54, "the path behind unix: is longer than 107 bytes"),
        (Server, "unix:/run/\0db", "has the control character U+0000"),
        (ListenTarget, "db.example.com:50051", "not an IP address of this machine: write 127.0.0.1:PORT"),
        (ListenTarget, "127.0.0.1:0", "the port 0 is not one of 1 to 65535"),
        (Store, "neo4j", "this version has one engine only: lmdb (badger and local are other names for it)"),
        (Store, "postgres", "this version has one engine only"),
        (Engine, "grpc", "this version has one engine only"),
        (Tls, "on", "write off, tls or mtls"),
        (Tls, "", "write off, tls or mtls"),
        (Token, "x" * (MIN_TOKEN_CHARACTERS - 1), "must have 16 to 4096 characters, not 15"),
        (Token, "x" * (MAX_TOKEN_CHARACTERS + 1), "must have 16 to 4096 characters, not 4097"),
        (Token, "sixteen and more characters", "may hold letters, digits and . _ ~ + / = - only"),
        (Token, "sixteen\nand-more", "may hold letters, digits"),
        (Token, "sechzehn-zeichen-ä", "may hold letters, digits"),
        (OptionalProgram, "orly-db", "must be the whole path of a program, starting with a slash"),
        (OptionalProgram, "/bin/\0", "has the control character U+0000"),
    ],
)
def test_what_texts_are_refused(kind: Any, text: str, message: str) -> None:
    assert message in complaint(kind, text)


@given(st.text(max_size=40) | st.from_regex(r"[a-z0-9.:\[\]-]{1,30}:[0-9]{1,6}", fullmatch=True))
def test_an_address_that_is_accepted_reads_as_itself(text: str) -> None:
    try:
        value = read(Server, text)
    except ValidationError:
        return
    assert read(Server, value) == value


@pytest.mark.parametrize(
    "address", ["127.0.0.1:1", "127.9.9.9:50051", "[::1]:50051", "localhost:50051", "unix:/run/orly/db.sock"]
)
def test_what_stays_on_this_machine(address: str) -> None:
    assert is_local(address)


@pytest.mark.parametrize(
    "address",
    ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "[fe80::1%lo]:1", "orly-db:50051", "localhost.example.com:1"],
)
def test_what_leaves_this_machine(address: str) -> None:
    assert not is_local(address)


def test_a_token_is_never_shown() -> None:
    form = next(item for item in get_args(Token) if isinstance(item, Form))
    assert form.is_secret
    assert form.show(read(Token, "a-token-that-nobody-may-see")) == "********"
    assert form.show(None) == ""
    assert "a-token" not in repr(read(Token, "a-token-that-nobody-may-see"))


def test_a_program_is_shown_as_it_is_written() -> None:
    form = next(item for item in get_args(OptionalProgram) if isinstance(item, Form))
    assert form.show(read(OptionalProgram, "/bin/orly-db")) == "/bin/orly-db"
    assert form.show(None) == ""
