"""`orly acl --url`: what is sent to a relay, and what is made of its answers."""

import json
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.component.acl_cli_world import FakeManaged, key_file, managed_relay
from tests.component.orly_child import run
from tests.component.rpc_world import Certificates
from tests.factory import KEYS, SECRETS
from tests.process import free_port

from orly.cli import acl_url
from orly.cli.acl_options import AclError
from orly.cli.acl_url import RelayCaller

A, B, C = (KEYS[n] for n in (1, 2, 3))
EVENT = "ab" * 32
Acl = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture
def relay() -> Iterator[FakeManaged]:
    """Managed by its owner; nothing that reaches it is refused unless a test says so."""
    with managed_relay() as relay:
        yield relay
    assert relay.refused == []


@pytest.fixture
def acl(relay: FakeManaged, tmp_path: Path) -> Iterator[Acl]:
    """Runs a command of `orly acl` on that relay; there is no data directory that it could use."""
    key = key_file(tmp_path)

    def call(*arguments: str, url: str = "", **variables: str) -> subprocess.CompletedProcess[bytes]:
        options = ("--url", url or relay.url, "--auth-key-file", key)
        return run("acl", *arguments, *options, data_dir=tmp_path / "data", variables=variables)

    yield call
    assert not (tmp_path / "data").exists()


def said(done: subprocess.CompletedProcess[bytes]) -> list[str]:
    return done.stderr.decode().splitlines()


# What is sent


@pytest.mark.parametrize(
    ("arguments", "method", "params"),
    [
        (("ban", A), "banpubkey", [A]),
        (("ban", A, "--reason", "ö"), "banpubkey", [A, "ö"]),
        (("unban", A), "unbanpubkey", [A]),
        (("allow", A.upper(), "--reason", "x"), "allowpubkey", [A, "x"]),
        (("unallow", A), "unallowpubkey", [A]),
        (("ban", "--event", EVENT, "--reason", "x"), "banevent", [EVENT, "x"]),
        (("unban", "--event", EVENT), "unbanevent", [EVENT]),
        (("allow", "--event", EVENT), "allowevent", [EVENT]),
        (("unallow", "--event", EVENT), "unallowevent", [EVENT]),
        (("trust", A, "--reason", "x"), "trustpubkey", [A, "x"]),
        (("untrust", A), "untrustpubkey", [A]),
        (("blacklist", A), "blacklistpubkey", [A]),
        (("unblacklist", A), "unblacklistpubkey", [A]),
        (("spam", EVENT), "markspam", [EVENT]),
        (("spam", EVENT, "--reason", "x"), "markspam", [EVENT, "", "x"]),
        (("unspam", EVENT), "unmarkspam", [EVENT]),
        (("block-ip", "2001:DB8::1", "--reason", "x"), "blockip", ["2001:db8::1", "x"]),
        (("unblock-ip", "::ffff:192.0.2.1"), "unblockip", ["192.0.2.1"]),
        (("allow-kind", "1"), "allowkind", [1]),
        (("disallow-kind", "1"), "disallowkind", [1]),
        (("list", "banned-pubkeys"), "listbannedpubkeys", []),
        (("list", "allowed-kinds"), "listallowedkinds", []),
        (("list", "blocked-ips"), "listblockedips", []),
    ],
)
def test_a_command_is_one_call(
    acl: Acl, relay: FakeManaged, arguments: tuple[str, ...], method: str, params: list[Any]
) -> None:
    done = acl(*arguments)
    assert (done.returncode, done.stdout) == (0, b"")
    afterwards = ("listallowedkinds", "listdisallowedkinds") if method.endswith("allowkind") else ()
    assert relay.calls == [(method, params), *((each, []) for each in afterwards)]


def test_many_keys_are_many_calls_each_signed_anew(acl: Acl, relay: FakeManaged) -> None:
    for closes in (False, True):  # a connection that ends between two calls is no trouble
        relay.closes = closes
        for _ in range(2):
            done = acl("ban", A, B, C)
            assert (done.returncode, said(done)) == (0, ["3 banned"])
    assert relay.calls == [("banpubkey", [key]) for key in (A, B, C)] * 4


def test_a_url_may_be_that_of_clients_and_have_a_path(acl: Acl, relay: FakeManaged) -> None:
    for url in (relay.url.replace("http", "ws"), f"{relay.url}/", f"{relay.url}/a/relay"):
        assert acl("ban", A, url=url).returncode == 0
    assert len(relay.calls) == 3


# What is answered


def answering(
    status: int, body: object, **headers: str
) -> Callable[[str, list[Any]], tuple[int, dict[str, str], bytes]]:
    """An answer to any call."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return lambda method, params: (status, {name.replace("_", "-"): text for name, text in headers.items()}, raw)


@pytest.mark.parametrize(
    ("status", "body", "text"),
    [
        (200, {"error": "not\x1b[31m today\n"}, "not\\x1b[31m today\\n"),
        (200, {"result": True, "error": "but"}, "but"),
        (403, {"error": "this needs the level admin"}, "403 this needs the level admin"),
        (403, b"<html>", "403 Forbidden"),
        (500, b"", "500 Internal Server Error"),
        (500, {"result": True}, "500 Internal Server Error"),
        (404, b"[" * 100_000, "404 Not Found"),
        (200, b"<html>", "the answer to banpubkey is none of a relay's management"),
        (200, [], "the answer to banpubkey is none of a relay's management"),
        (200, {}, "the answer to banpubkey is none of a relay's management"),
        (200, {"error": ""}, "the answer to banpubkey is none of a relay's management"),
        (200, b'{"result": \xff}', "the answer to banpubkey is none of a relay's management"),
        (204, b"", "204 No Content"),
    ],
)
def test_what_a_relay_refuses_is_told(acl: Acl, relay: FakeManaged, status: int, body: object, text: str) -> None:
    relay.answer = answering(status, body)
    done = acl("ban", A)
    assert (done.returncode, done.stdout, said(done)) == (1, b"", [f"orly: {relay.url}: {text}"])


def test_a_redirect_is_not_followed(acl: Acl, relay: FakeManaged) -> None:
    with managed_relay() as other:
        for status in (301, 302, 303, 307, 308):
            relay.answer = answering(status, b"", Location=f"{other.url}/")
            done = acl("ban", A)
            text = f"orly: {relay.url}: {status} it redirects to {other.url}/: if that is the relay, name it"
            assert (done.returncode, said(done)) == (1, [text])
        assert (other.calls, other.refused) == ([], [])


def test_a_list_of_another_relay_may_tell_less(acl: Acl, relay: FakeManaged) -> None:
    told = [{"pubkey": A}, {"pubkey": B, "reason": None}, {"pubkey": C, "reason": "x\ty", "added": 1_700_000_000}]
    relay.answer = answering(200, {"result": told, "error": None})
    done = acl("list", "banned-pubkeys")
    assert done.stdout.decode().splitlines() == [f"{A}\t-\t-", f"{B}\t-\t-", f"{C}\t2023-11-14T22:13:20Z\t-\tx\\ty"]
    lines = [json.loads(line) for line in acl("list", "banned-pubkeys", "--json").stdout.splitlines()]
    assert lines[0] == {"member": A, "added": None, "by": None, "reason": ""}
    assert lines[2] == {"member": C, "added": 1_700_000_000, "by": None, "reason": "x\ty"}
    relay.answer = answering(
        200, {"result": [{"ip": "::1", "expires_at": 2**70, "added": 5}, {"ip": "::2", "expires_at": 9}]}
    )
    done = acl("list", "blocked-ips")
    assert done.stdout.decode() == f"::1\t1970-01-01T00:00:05Z\t-\t{2**70}\n"  # the other block is over
    relay.answer = answering(200, {"result": [{"event_id": EVENT, "pubkey": A}]})
    (line,) = acl("list", "spam-events", "--json").stdout.splitlines()
    assert (json.loads(line)["member"], json.loads(line)["author"]) == (EVENT, A)


def test_what_a_relay_tells_of_a_key(acl: Acl, relay: FakeManaged) -> None:
    relay.told |= {f"/api/permissions/{A}": {"permission": "write"}, "/api/acl-mode": {"acl_mode": "curating"}}
    relay.lists |= {"trusted-pubkeys": {A: "a\tfriend", B: ""}, "allowed-pubkeys": {A: ""}, "blocked-ips": {"::1": "x"}}
    assert acl("show", A, "--ip", "::1").stdout.decode().splitlines() == [
        f"{A} has the level write in the mode curating.",
        "It is on trusted-pubkeys since 2023-11-14T22:13:20Z: a\\tfriend.",
        "The address ::1 is blocked since 2023-11-14T22:13:20Z: x.",
    ]
    assert json.loads(acl("show", A, "--json").stdout) == {
        "pubkey": A,
        "mode": "curating",
        "level": "write",
        "owner": False,
        "admin": False,
        "lists": [
            {"list": "trusted-pubkeys", "applies": True, "added": 1_700_000_000, "by": None, "reason": "a\tfriend"}
        ],
        "address": None,
        "write": None,
        "read": None,
        "day": None,
    }
    relay.lists["blocked-ips"] = {"2001:db8::/64": "x"}
    assert (
        acl("show", A, "--ip", "2001:db8::7")
        .stdout.decode()
        .splitlines()[-1]
        .startswith("The address 2001:db8::7 is blocked since ")
    )
    relay.lists.clear()
    assert acl("show", A).stdout.decode().splitlines()[1:] == ["It is on no list that the relay tells."]
    relay.answer = answering(200, {"error": "too many"})
    first, *rest = acl("show", A).stdout.decode().splitlines()[1:]
    assert first == f"Whether it is on banned-pubkeys is not told: {relay.url}: too many"
    assert len(rest) == 2


def test_how_large_the_lists_of_a_relay_are(acl: Acl, relay: FakeManaged) -> None:
    relay.told["/a/relay/api/stats"] = {"mode": "managed", "lists": {"banned-pubkeys": 3, "of-another": 1}, "events": 5}
    lines = acl("list", url=f"{relay.url}/a/relay").stdout.decode().splitlines()
    assert [line.split() for line in lines[:6]] == [
        ["mode", "managed"],
        ["owners", "-"],
        ["admins", "-"],
        ["peer-pubkeys", "-"],
        ["allowed-pubkeys", "-"],
        ["banned-pubkeys", "3"],
    ]
    told = [json.loads(line) for line in acl("list", "--json", url=f"{relay.url}/a/relay").stdout.splitlines()]
    assert told[0] == {"mode": "managed", "owners": None, "admins": None}
    assert {"list": "banned-pubkeys", "size": 3} in told


@pytest.mark.parametrize(
    ("told", "text"),
    [
        ({}, "404 no such path"),
        ({"/api/acl-mode": {"acl_mode": "open"}}, "its mode 'open' is not known here"),
        ({"/api/acl-mode": [1]}, "the answer at /api/acl-mode cannot be read: "),
        (
            {"/api/acl-mode": {"acl_mode": "none"}, f"/api/permissions/{A}": {"permission": "all"}},
            "the level 'all' is not known here",
        ),
    ],
)
def test_what_a_relay_tells_otherwise(acl: Acl, relay: FakeManaged, told: dict[str, object], text: str) -> None:
    relay.told |= told
    done = acl("show", A)
    assert (done.returncode, done.stdout, len(said(done))) == (1, b"", 1)
    assert said(done)[0].startswith(f"orly: {relay.url}: {text}")


@pytest.mark.parametrize(
    "result", [None, True, {}, "x", [1], ["x"], [{}], [{"pubkey": 1}], [{"pubkey": A, "added": "now"}], [{"id": EVENT}]]
)
def test_a_list_that_is_none_is_refused(acl: Acl, relay: FakeManaged, result: object) -> None:
    relay.answer = answering(200, {"result": result})
    done = acl("list", "banned-pubkeys")
    assert (done.returncode, done.stdout) == (1, b"")
    (line,) = said(done)
    assert line.startswith("orly: the relay's banned-pubkeys cannot be read: ")


def test_a_relay_that_is_managed_by_another_key(relay: FakeManaged, tmp_path: Path) -> None:
    options = ("--url", relay.url, "--auth-key-file", key_file(tmp_path, 4))
    done = run("acl", "ban", A, B, *options, data_dir=tmp_path / "data")
    text = f"orly: {relay.url}: 401 this key is not the owner's; none of 2 was done before that"
    assert (done.returncode, said(done)) == (1, [text])
    assert (relay.refused, relay.lists) == (["this key is not the owner's"], {})
    relay.refused.clear()


# A relay that is not there


def test_a_relay_out_of_reach_is_told(acl: Acl) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    for arguments in (("ban", A), ("list", "banned-pubkeys")):
        done = acl(*arguments, url=url)
        assert (done.returncode, said(done)) == (69, [f"orly: {url} cannot be reached: Connection refused"])
    done = acl("ban", A, url="http://nowhere.invalid")
    assert (done.returncode, said(done)[0].startswith("orly: http://nowhere.invalid cannot be reached: ")) == (69, True)


@pytest.mark.parametrize(
    "answer", [b"", b"SSH-2.0-OpenSSH_9.2p1\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"]
)
def test_who_does_not_speak_http_is_told(acl: Acl, answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        done = acl("ban", A, url=url)
        thread.join()
    assert (done.returncode, len(said(done)), said(done)[0].startswith(f"orly: {url} ")) == (69, 1, True)


def test_a_certificate_must_be_trusted(acl: Acl, tmp_path: Path) -> None:
    certificates = Certificates.make(tmp_path / "ca")
    own = certificates.server(hosts=["127.0.0.1"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own["grpc_tls_cert"], own["grpc_tls_key"])
    with managed_relay(context) as relay:
        done = acl("ban", A, url=relay.url)
        assert (done.returncode, said(done)[0].startswith(f"orly: {relay.url} cannot be trusted: ")) == (69, True)
        assert relay.lists == {}
        trusting = {"SSL_CERT_FILE": certificates.trust()["grpc_tls_ca"]}
        done = acl("ban", A, url=relay.url.replace("https", "wss"), **trusting)
        assert (done.returncode, said(done)) == (0, ["1 banned"])
        done = acl("ban", A, url=relay.url.replace("127.0.0.1", "127.0.0.2"), **trusting)
        assert done.returncode == 69
        assert relay.refused == []


def test_a_relay_that_is_silent_or_endless_is_left(relay: FakeManaged, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acl_url, "ANSWER_S", 0.1)
    relay.hold.clear()
    caller = RelayCaller(relay.url, SECRETS[0])
    with pytest.raises(AclError, match=r"did not answer within 0\.1 s"):
        caller.call("banpubkey", [A])
    caller.close()
    relay.hold.set()
    monkeypatch.setattr(acl_url, "ANSWER_S", 20.0)
    monkeypatch.setattr(acl_url, "MAX_ANSWER_BYTES", 10)
    caller = RelayCaller(relay.url, SECRETS[0])
    with pytest.raises(AclError, match="the answer has more than"):
        caller.call("banpubkey", [A])
    caller.close()
