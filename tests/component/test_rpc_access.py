"""Who may call: token, TLS, mutual TLS, rate; and what the audit log says of it."""

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.component.rpc_world import (
    ANSWERS,
    DAY_S,
    KINDS,
    PROBE,
    TOKEN,
    Certificates,
    Probe,
    add_probe,
    called,
    refusal,
    serving_probe,
    until,
)
from tests.transport import run_async

from orly import clock
from orly.rpc.channel import ServiceChannel, channel_from_settings, open_channel
from orly.rpc.credentials import channel_credentials
from orly.rpc.guard import ADMINISTRATIVE, Guard
from orly.rpc.options import MAX_MESSAGE_BYTES
from orly.rpc.server import RpcServer
from orly.settings import Settings

UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
NO_TOKEN = (UNAUTHENTICATED, "this service wants a token: set ORLY_GRPC_TOKEN")
WRONG_TOKEN = (UNAUTHENTICATED, "this is not the token that this service wants: ORLY_GRPC_TOKEN differs")
AUDIT = re.compile(
    r"audit: peer=(?P<peer>\S+) caller=(?P<caller>\S+) rpc=(?P<rpc>\S+) outcome=(?P<outcome>\S+) "
    r"duration_ms=(?P<ms>\d+\.\d)"
)


@pytest.fixture(name="own")
def make_own(tmp_path: Path) -> Certificates:
    return Certificates.make(tmp_path / "own")


@pytest.fixture(name="foreign")
def make_foreign(tmp_path: Path) -> Certificates:
    return Certificates.make(tmp_path / "foreign")


@pytest.fixture(name="audit")
def audit_log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.INFO, logger="orly.rpc.guard"):
        yield caplog


def audited(audit: pytest.LogCaptureFixture) -> list[tuple[str, str, str]]:
    """Caller, call and outcome of each line of the audit log."""
    found = []
    for record in audit.records:
        if record.name == "orly.rpc.guard":
            line = AUDIT.fullmatch(record.getMessage())
            assert line is not None, record.getMessage()
            assert record.levelno == logging.INFO
            assert line["peer"].startswith(("ipv4:127.0.0.1:", "unix:"))
            found.append((line["caller"], line["rpc"], line["outcome"]))
    return found


def settings_with(token: str = "", **given: Any) -> Settings:
    given["grpc_token"] = token
    return Settings(**given)


# --- the token


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("token", "expected"),
    [("", NO_TOKEN), (TOKEN[:-1], WRONG_TOKEN), (TOKEN + "x", WRONG_TOKEN), (TOKEN.upper(), WRONG_TOKEN)],
)
def test_a_wrong_token(kind: str, token: str, expected: tuple[grpc.StatusCode, str]) -> None:
    async def main() -> None:
        async with serving_probe(settings_with(TOKEN)) as (server, probe):
            assert await refusal(settings_with(token), server.address, kind) == expected
            assert probe.calls == 0

    run_async(main())


@pytest.mark.parametrize("kind", KINDS)
def test_the_right_token(kind: str) -> None:
    async def main() -> None:
        settings = settings_with(TOKEN)
        async with serving_probe(settings) as (server, _), channel_from_settings(settings, server.address) as channel:
            assert await called(channel, kind) == ANSWERS[kind]

    run_async(main())


def test_a_token_that_nobody_asked_for_does_no_harm() -> None:
    async def main() -> None:
        async with serving_probe(Settings()) as (server, _):
            assert await refusal(settings_with(TOKEN), server.address) is None

    run_async(main())


@pytest.mark.parametrize(
    ("metadata", "code"),
    [
        ([("authorization", f"Bearer {TOKEN}")], grpc.StatusCode.OK),
        ([("authorization", f"bearer {TOKEN}")], grpc.StatusCode.OK),
        ([("authorization", TOKEN)], UNAUTHENTICATED),
        ([("authorization", f"Basic {TOKEN}")], UNAUTHENTICATED),
        ([("authorization", f"Bearer  {TOKEN}")], UNAUTHENTICATED),
        ([("authorization", "Bearer")], UNAUTHENTICATED),
        ([("authorization", "")], UNAUTHENTICATED),
        ([("authorization-bin", f"Bearer {TOKEN}".encode())], UNAUTHENTICATED),
        ([("authorization", f"Bearer {TOKEN}")] * 2, UNAUTHENTICATED),
    ],
)
def test_how_the_token_must_be_shown(metadata: list[tuple[str, str | bytes]], code: grpc.StatusCode) -> None:
    async def main() -> None:
        async with (
            serving_probe(settings_with(TOKEN)) as (server, _),
            open_channel(server.address, credentials=None, token=None) as channel,
        ):
            call = channel.unary_unary(f"/{PROBE}/One")(b"x", metadata=metadata)
            assert await call.code() is code

    run_async(main())


def test_a_caller_adds_metadata_of_its_own() -> None:
    async def main() -> None:
        async with (
            serving_probe(settings_with(TOKEN)) as (server, _),
            channel_from_settings(settings_with(TOKEN), server.address) as channel,
        ):
            assert await channel.unary_unary(f"/{PROBE}/One")(b"x", metadata=[("a", "b")], timeout=20) == b"x"

    run_async(main())


def test_what_is_not_there_is_told_to_those_who_may_know() -> None:
    async def main() -> None:
        async with serving_probe(settings_with(TOKEN)) as (server, _):
            for token, code in ((TOKEN, grpc.StatusCode.UNIMPLEMENTED), ("", UNAUTHENTICATED)):
                async with channel_from_settings(settings_with(token), server.address) as channel:
                    assert await channel.unary_unary("/no.such.Service/Call")(b"").code() is code

    run_async(main())


def test_a_long_message_of_a_refused_call_is_no_matter() -> None:
    async def main() -> None:
        async with (
            serving_probe(settings_with(TOKEN)) as (server, _),
            channel_from_settings(Settings(), server.address) as channel,
        ):
            for kind in ("One", "Many"):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await called(channel, kind, bytes(MAX_MESSAGE_BYTES))
                assert caught.value.code() is UNAUTHENTICATED

    run_async(main())


# --- TLS


def tls_refusal(server_settings: Settings, caller_settings: Settings, host: str = "127.0.0.1") -> str | None:
    """Why a call fails that TLS does not let through; None if it succeeds."""
    found: list[tuple[grpc.StatusCode, str] | None] = []

    async def main() -> None:
        async with serving_probe(server_settings) as (server, probe):
            address = f"{host}:{server.address.rpartition(':')[2]}"
            found.append(await refusal(caller_settings, address))
            assert probe.calls == (found[0] is None)

    run_async(main())
    if found[0] is None:
        return None
    assert found[0][0] is UNAVAILABLE
    return found[0][1]


def test_tls(own: Certificates) -> None:
    assert tls_refusal(Settings(grpc_tls="tls", **own.server()), Settings(grpc_tls="tls", **own.trust())) is None


@pytest.mark.parametrize("token", [TOKEN, ""])
def test_tls_and_token(own: Certificates, token: str) -> None:
    async def main() -> None:
        async with serving_probe(settings_with(TOKEN, grpc_tls="tls", **own.server())) as (server, _):
            found = await refusal(settings_with(token, grpc_tls="tls", **own.trust()), server.address)
            assert found == (None if token else NO_TOKEN)

    run_async(main())


def test_tls_on_a_unix_socket(own: Certificates, tmp_path: Path) -> None:
    async def main() -> None:
        async with serving_probe(Settings(grpc_tls="tls", **own.server()), f"unix:{tmp_path}/s") as (server, _):
            assert await refusal(Settings(grpc_tls="tls", **own.trust()), server.address) is None
            assert await refusal(Settings(), server.address) is not None

    run_async(main())


def test_a_service_of_another_authority(own: Certificates, foreign: Certificates) -> None:
    text = tls_refusal(Settings(grpc_tls="tls", **foreign.server()), Settings(grpc_tls="tls", **own.trust()))
    assert text is not None
    assert "CERTIFICATE_VERIFY_FAILED" in text


def test_a_service_that_the_system_does_not_know(own: Certificates) -> None:
    text = tls_refusal(Settings(grpc_tls="tls", **own.server()), Settings(grpc_tls="tls"))
    assert text is not None
    assert "CERTIFICATE_VERIFY_FAILED" in text


def test_a_service_whose_certificate_has_expired(own: Certificates) -> None:
    old = own.server(now_s=clock.now_s() - 2 * DAY_S)
    with_old_certificate = grpc.ssl_server_credentials(
        [(Path(old["grpc_tls_key"]).read_bytes(), Path(old["grpc_tls_cert"]).read_bytes())]
    )

    async def main() -> None:
        server = RpcServer("127.0.0.1:0", credentials=with_old_certificate)
        await server.start()
        try:
            found = await refusal(Settings(grpc_tls="tls", **own.trust()), server.address)
        finally:
            await server.stop(0)
        assert found is not None
        assert found[0] is UNAVAILABLE
        assert "certificate has expired" in found[1]

    run_async(main())


def test_the_name_in_the_certificate_must_be_that_of_the_address(own: Certificates) -> None:
    issued = own.authority.issue_client("named", now_s=clock.now_s(), days=1)  # has no hosts at all
    (own.directory / "n.pem").write_bytes(issued.certificate_pem)
    (own.directory / "n.key").write_bytes(issued.key_pem)
    nameless: dict[str, Any] = {"grpc_tls_cert": f"{own.directory}/n.pem", "grpc_tls_key": f"{own.directory}/n.key"}
    assert tls_refusal(Settings(grpc_tls="tls", **nameless), Settings(grpc_tls="tls", **own.trust())) is not None


@pytest.mark.parametrize(("name", "is_right"), [("db.example", True), ("db2.example", False), ("localhost", True)])
def test_the_name_may_be_set(own: Certificates, name: str, is_right: bool) -> None:
    text = tls_refusal(
        Settings(grpc_tls="tls", **own.server(hosts=["db.example"])),
        Settings(grpc_tls="tls", grpc_tls_server_name=name, **own.trust()),
    )
    assert (text is None) == is_right
    assert text is None or "Hostname Verification" in text


def test_plaintext_is_not_understood_where_tls_is_spoken(own: Certificates) -> None:
    assert tls_refusal(Settings(grpc_tls="tls", **own.server()), Settings()) is not None


def test_tls_is_not_understood_where_plaintext_is_spoken(own: Certificates) -> None:
    assert tls_refusal(Settings(), Settings(grpc_tls="tls", **own.trust())) is not None


# --- mutual TLS


def test_mutual_tls(own: Certificates) -> None:
    assert (
        tls_refusal(
            Settings(grpc_tls="mtls", **own.trust(), **own.server()),
            Settings(grpc_tls="mtls", **own.trust(), **own.client()),
        )
        is None
    )


def test_a_caller_without_a_certificate(own: Certificates) -> None:
    settings = Settings(grpc_tls="mtls", **own.trust(), **own.server())
    assert tls_refusal(settings, Settings(grpc_tls="tls", **own.trust())) is not None


def test_a_caller_of_another_authority(own: Certificates, foreign: Certificates) -> None:
    settings = Settings(grpc_tls="mtls", **own.trust(), **own.server())
    assert tls_refusal(settings, Settings(grpc_tls="mtls", **own.trust(), **foreign.client())) is not None


def test_a_caller_with_the_certificate_of_a_service(own: Certificates) -> None:
    service = own.server()
    shown: dict[str, Any] = {
        "grpc_tls_client_cert": service["grpc_tls_cert"],
        "grpc_tls_client_key": service["grpc_tls_key"],
    }
    settings = Settings(grpc_tls="mtls", **own.trust(), **service)
    assert tls_refusal(settings, Settings(grpc_tls="mtls", **own.trust(), **shown)) is not None


def test_a_caller_whose_certificate_has_expired(own: Certificates) -> None:
    was_s = clock.now_s() - 2 * DAY_S
    settings = Settings(grpc_tls="mtls", **own.trust(), **own.server())

    async def main() -> None:
        credentials = channel_credentials(Settings(grpc_tls="mtls", **own.trust(), **own.client(now_s=was_s)), was_s)
        async with (
            serving_probe(settings) as (server, probe),
            open_channel(server.address, credentials=credentials, token=None) as channel,
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await called(channel, "One")
            assert caught.value.code() is UNAVAILABLE
            assert probe.calls == 0

    run_async(main())


# --- the rate


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


async def outcomes(channel: ServiceChannel, count: int, path: str = f"/{PROBE}/One") -> list[str]:
    """The statuses of calls, one after the other."""
    call = channel.unary_unary(path)
    return [(await call(b"").code()).name for _ in range(count)]


def test_the_rate_of_a_peer_at_its_edge(audit: pytest.LogCaptureFixture) -> None:
    steady = Clock()

    async def main() -> None:
        guard = Guard(token=None, max_calls_per_second=5, audited={f"{PROBE}/One"}, monotonic_s=steady)
        server = RpcServer("127.0.0.1:0", credentials=None, interceptors=[guard])
        await server.start()
        try:
            async with open_channel(server.address, credentials=None, token=None) as channel:
                missing = "/no.such.Service/Call"
                assert await outcomes(channel, 11, missing) == ["UNIMPLEMENTED"] * 10 + ["RESOURCE_EXHAUSTED"]
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await channel.unary_unary(missing)(b"")
                assert caught.value.details() == "rate-limited: 127.0.0.1 makes more than 5 calls a second"
                steady.now_s = 0.2
                assert await outcomes(channel, 2, missing) == ["UNIMPLEMENTED", "RESOURCE_EXHAUSTED"]
                server.set_serving(True)
                health = "/grpc.health.v1.Health/Check"  # counted apart
                assert await outcomes(channel, 11, health) == ["OK"] * 10 + ["RESOURCE_EXHAUSTED"]
        finally:
            await server.stop(0)

    run_async(main())
    assert audited(audit) == []


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_call_is_counted(kind: str) -> None:
    async def main() -> None:
        guard = Guard(token=None, max_calls_per_second=1, monotonic_s=Clock())
        server = RpcServer("127.0.0.1:0", credentials=None, interceptors=[guard])
        probe = Probe()
        server.add(add_probe, probe, PROBE)
        await server.start()
        try:
            async with open_channel(server.address, credentials=None, token=None) as channel:
                for _ in range(2):
                    assert await called(channel, kind) == ANSWERS[kind]
            expected = (EXHAUSTED, "rate-limited: 127.0.0.1 makes more than 1 calls a second")
            assert await refusal(Settings(), server.address, kind) == expected
            assert probe.calls == 2
        finally:
            await server.stop(0)

    run_async(main())


def test_what_is_not_counted_is_never_too_much_but_wants_the_token() -> None:
    async def main() -> None:
        guard = Guard(token=TOKEN, max_calls_per_second=1, uncounted={f"{PROBE}/One"}, monotonic_s=Clock())
        server = RpcServer("127.0.0.1:0", credentials=None, interceptors=[guard])
        server.add(add_probe, Probe(), PROBE)
        await server.start()
        try:
            async with open_channel(server.address, credentials=None, token=TOKEN) as channel:
                assert await outcomes(channel, 10) == ["OK"] * 10
                assert await outcomes(channel, 3, "/no.such.Service/Call") == ["UNIMPLEMENTED"] * 2 + [
                    "RESOURCE_EXHAUSTED"
                ]
                assert await outcomes(channel, 10) == ["OK"] * 10
            async with open_channel(server.address, credentials=None, token="x" * 16) as channel:
                assert await outcomes(channel, 1) == ["RESOURCE_EXHAUSTED"]
        finally:
            await server.stop(0)

    run_async(main())


def test_zero_is_no_limit() -> None:
    async def main() -> None:
        settings = Settings(grpc_max_calls_per_second=0)
        async with serving_probe(settings) as (server, _), channel_from_settings(settings, server.address) as channel:
            assert set(await outcomes(channel, 200)) == {"OK"}

    run_async(main())


def test_wrong_tokens_are_counted_too() -> None:
    async def main() -> None:
        guard = Guard(token=TOKEN, max_calls_per_second=5, monotonic_s=Clock())
        server = RpcServer("127.0.0.1:0", credentials=None, interceptors=[guard])
        await server.start()
        try:
            async with open_channel(server.address, credentials=None, token="x" * 16) as channel:
                assert await outcomes(channel, 11) == ["UNAUTHENTICATED"] * 10 + ["RESOURCE_EXHAUSTED"]
        finally:
            await server.stop(0)

    run_async(main())


# --- the audit log


def test_what_is_administrative() -> None:
    assert sorted(ADMINISTRATIVE) == [
        "orlydb.v1.DatabaseService/DeleteEvent",
        "orlydb.v1.DatabaseService/Export",
        "orlydb.v1.DatabaseService/HideEvents",
        "orlydb.v1.DatabaseService/Import",
        "orlydb.v1.DatabaseService/ShowEvents",
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_one_line_for_each_audited_call(audit: pytest.LogCaptureFixture, kind: str) -> None:
    async def main() -> None:
        async with (
            serving_probe(Settings(), audited=[f"{PROBE}/{kind}"]) as (server, _),
            channel_from_settings(Settings(), server.address) as channel,
        ):
            for each in KINDS:
                assert await called(channel, each) == ANSWERS[each]

    run_async(main())
    assert audited(audit) == [("none", f"{PROBE}/{kind}", "OK")]


def test_the_line_tells_how_it_ended(audit: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        settings = settings_with(TOKEN)
        async with serving_probe(settings, audited=[f"{PROBE}/One"]) as (server, probe):
            assert await refusal(settings_with(), server.address) == NO_TOKEN
            assert await refusal(settings_with("x" * 16), server.address) == WRONG_TOKEN
            async with channel_from_settings(settings, server.address) as channel:
                for request in (b"x", b"abort", b"raise"):
                    await channel.unary_unary(f"/{PROBE}/One")(request).code()
                probe.hold.clear()
                call = channel.unary_unary(f"/{PROBE}/One")(b"x")
                await until(lambda: probe.calls == 4)
                call.cancel()
                await until(lambda: len(audited(audit)) == 6)

    run_async(main())
    rpc = f"{PROBE}/One"
    assert audited(audit) == [
        ("none", rpc, "UNAUTHENTICATED"),
        ("none", rpc, "UNAUTHENTICATED"),
        ("token", rpc, "OK"),
        ("token", rpc, "NOT_FOUND"),
        ("token", rpc, "UNKNOWN"),
        ("token", rpc, "CANCELLED"),
    ]


@pytest.mark.parametrize(
    ("name", "shown"), [("backup", "backup"), ("eve outcome=OK\naudit:", "eve_outcome_OK_audit_"), ("ä", "_")]
)
def test_a_caller_is_named_by_its_certificate(
    own: Certificates, audit: pytest.LogCaptureFixture, name: str, shown: str
) -> None:
    issued = own.authority.issue_client(name, now_s=clock.now_s(), days=1)
    (own.directory / "c.pem").write_bytes(issued.certificate_pem)
    (own.directory / "c.key").write_bytes(issued.key_pem)
    files: dict[str, Any] = {
        "grpc_tls_client_cert": f"{own.directory}/c.pem",
        "grpc_tls_client_key": f"{own.directory}/c.key",
    }

    async def main() -> None:
        settings = settings_with(TOKEN, grpc_tls="mtls", **own.trust(), **own.server())
        async with serving_probe(settings, audited=[f"{PROBE}/One"]) as (server, _):
            assert await refusal(settings_with(TOKEN, grpc_tls="mtls", **own.trust(), **files), server.address) is None

    run_async(main())
    assert audited(audit) == [(f"certificate:{shown}", f"{PROBE}/One", "OK")]


def test_of_a_row_refused_for_its_rate_the_first_is_told(audit: pytest.LogCaptureFixture) -> None:
    steady = Clock()

    async def main() -> None:
        rpc = "no.such.Service/Call"
        guard = Guard(token=None, max_calls_per_second=1, audited=[rpc], monotonic_s=steady)
        server = RpcServer("127.0.0.1:0", credentials=None, interceptors=[guard])
        await server.start()
        try:
            async with open_channel(server.address, credentials=None, token=None) as channel:
                await outcomes(channel, 5, f"/{rpc}")
                steady.now_s = 1.0
                await outcomes(channel, 3, f"/{rpc}")
        finally:
            await server.stop(0)

    run_async(main())
    refused = "RESOURCE_EXHAUSTED"
    assert [outcome for _, _, outcome in audited(audit)] == [
        *("UNIMPLEMENTED", "UNIMPLEMENTED", refused),
        *("UNIMPLEMENTED", refused),
    ]
