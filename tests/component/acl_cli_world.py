"""What tests of `orly acl` work with: a data directory, an `orly-acl` on it, and a relay that is managed over HTTP."""

import asyncio
import json
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckResponse
from tests.component.orly_child import DEADLINE_S, run
from tests.factory import KEYS, SECRETS
from tests.process import clean_environment

from orly.access.commands import Command, Entry, Member
from orly.access.snapshot import Rules, Snapshot
from orly.acl.kept import read_entry, read_list
from orly.acl.lists import KEPT_LISTS
from orly.acl.service import SERVICE_NAME
from orly.acl.wire import decode_commands, snapshot_parts
from orly.cli.read_only import ReadOnlyStore
from orly.nostr.nip98 import HttpAuthError, UsedEvents, check_http_auth, parse_authorization
from orly.nostr.signing import verify_event
from orly.pb.orlyacl.v1 import service_pb2_grpc, types_pb2, watch_pb2
from orly.units import TIB

__all__ = [
    "OWNER",
    "OWNER_KEY",
    "PATIENT",
    "FakeManaged",
    "World",
    "acl_service",
    "key_file",
    "managed_relay",
    "scripted_acl",
    "stored",
]

OWNER: Final = 0
OWNER_KEY: Final = KEYS[OWNER]

PATIENT: Final = {"ORLY_GRPC_ACL_TIMEOUT": f"{DEADLINE_S:g}s"}
"""For commands that call a service which may not be there yet."""

_register: Final[Callable[[object, grpc.Server], None]] = service_pb2_grpc.add_ACLServiceServicer_to_server
_POLL_S: Final = 0.01


def key_file(directory: Path, key: int = OWNER) -> Path:
    """A file that holds a secret key."""
    path = directory / f"key{key}"
    path.write_text(f"{SECRETS[key].hex()}\n")
    return path


def stored(data_dir: Path) -> dict[str, dict[Member, Entry]]:
    """Every list with members, by name, as the data directory has them; it may be in use."""

    async def read() -> dict[str, dict[Member, Entry]]:
        store = await ReadOnlyStore.open(data_dir, max_bytes=TIB)
        assert isinstance(store, ReadOnlyStore)
        found: dict[str, dict[Member, Entry]] = {}
        try:
            for name in KEPT_LISTS:
                async for page in read_list(store, name):
                    found.setdefault(name.value, {}).update((member, read_entry(value)) for member, value in page)
        finally:
            await store.close()
        return found

    return asyncio.run(read())


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Commands, told whose lists are meant.

    Attributes:
        data_dir: Of the commands.
        variables: Of their environment.
        options: What says whose lists.
        members: All lists with members, by name; see `stored`.
    """

    data_dir: Path
    variables: Mapping[str, str]
    options: Sequence[str]
    members: Callable[[], dict[str, dict[Member, Entry]]]

    def acl(self, command: str, *arguments: str | Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Run a command of `orly acl`."""
        return run(
            "acl",
            command,
            *arguments,
            *self.options,
            data_dir=self.data_dir,
            variables=self.variables,
            stdin=stdin,
        )


@contextmanager
def acl_service(data_dir: Path, listen: str, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    """Runs `orly-acl`, which keeps the lists in a data directory; does not wait until it listens."""
    given = {"ORLY_DATA_DIR": str(data_dir), "ORLY_ACL_LISTEN": listen, **variables}
    data_dir.parent.mkdir(parents=True, exist_ok=True)
    log = data_dir.parent / "acl.log"
    with log.open("ab") as stream:
        child = subprocess.Popen(
            [sys.executable, "-m", "orly.acl.main"],
            env=clean_environment(data_dir.parent, given),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
        )
    try:
        yield child
        assert child.poll() is None, log.read_text()
        child.send_signal(signal.SIGTERM)
        assert child.wait(DEADLINE_S) == 0, log.read_text()
        assert "Traceback" not in log.read_text(), log.read_text()
    finally:
        if child.poll() is None:
            child.kill()
        child.wait()


# A relay that is managed over HTTP

_ADDING: Final = {
    "banpubkey": "banned-pubkeys",
    "allowpubkey": "allowed-pubkeys",
    "trustpubkey": "trusted-pubkeys",
    "blacklistpubkey": "blacklisted-pubkeys",
    "banevent": "banned-events",
    "allowevent": "allowed-events",
    "markspam": "spam-events",
    "allowkind": "allowed-kinds",
    "blockip": "blocked-ips",
}
_LISTING: Final = {
    "listbannedpubkeys": ("banned-pubkeys", "pubkey"),
    "listallowedpubkeys": ("allowed-pubkeys", "pubkey"),
    "listtrustedpubkeys": ("trusted-pubkeys", "pubkey"),
    "listblacklistedpubkeys": ("blacklisted-pubkeys", "pubkey"),
    "listbannedevents": ("banned-events", "id"),
    "listallowedevents": ("allowed-events", "id"),
    "listspamevents": ("spam-events", "event_id"),
    "listblockedips": ("blocked-ips", "ip"),
}
_DROPPING: Final = {
    **{f"un{method}": name for method, name in _ADDING.items() if method != "allowkind"},
    "disallowkind": "allowed-kinds",
}


@dataclass(slots=True, kw_only=True)
class FakeManaged:
    """A relay whose owner manages it (NIP-86); refuses whatever is not signed for (NIP-98).

    Attributes:
        url: Where.
        scheme: Of that.
        calls: Methods and parameters, as they came.
        refused: What was not authorized, and why.
        lists: Members by the names of the lists, with reasons.
        answer: Answers calls instead: status, headers, body; None = as a relay does.
        told: What other paths tell who asks with GET.
        entered: Set whenever a call has come.
        hold: Calls are answered while it is set.
        closes: End the connection after each answer, without a word of it.
    """

    url: str = ""
    scheme: str = "http"
    calls: list[tuple[str, list[Any]]] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    lists: dict[str, dict[Any, str]] = field(default_factory=dict)
    answer: Callable[[str, list[Any]], tuple[int, dict[str, str], bytes]] | None = None
    told: dict[str, object] = field(default_factory=dict)
    entered: threading.Event = field(default_factory=threading.Event)
    hold: threading.Event = field(default_factory=threading.Event)
    closes: bool = False
    used: UsedEvents = field(default_factory=UsedEvents)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def members(self) -> dict[str, dict[Member, Entry]]:
        """As `stored` gives them."""
        return {
            name: {_member(name, member): Entry(reason=reason) for member, reason in members.items()}
            for name, members in self.lists.items()
            if members
        }

    def check(self, handler: BaseHTTPRequestHandler, body: bytes) -> str:
        """What is wrong with a request; empty if nothing is."""
        is_call = handler.command == "POST"
        if is_call and handler.headers["Content-Type"] != "application/nostr+json+rpc":
            return f"the type is {handler.headers['Content-Type']}"
        try:
            event = parse_authorization(handler.headers["Authorization"] or "")
        except HttpAuthError as error:
            return str(error)
        now_s = int(time.time())
        problem = check_http_auth(
            event.event,
            urls=[f"{self.scheme}://{handler.headers['Host']}{handler.path}"],
            method=handler.command,
            body=body,
            needs_payload=is_call,
            now_s=now_s,
        )
        if problem is None and not verify_event(event):
            problem = "the signature does not match"
        if problem is None and event.event.pubkey != OWNER_KEY:
            problem = "this key is not the owner's"
        with self.lock:
            return problem or ("it was used before" if self.used.use(event.id, now_s) is None else "")

    def carry_out(self, method: str, params: list[Any]) -> object:
        """What a method gives.

        Raises:
            ValueError: It cannot be done.
        """
        if method in _LISTING:
            name, label = _LISTING[method]
            found = sorted(self.lists.get(name, {}).items())
            return [{label: member, "reason": reason, "added": 1_700_000_000} for member, reason in found]
        if method in ("listallowedkinds", "listdisallowedkinds"):
            return sorted(self.lists.get("allowed-kinds" if method == "listallowedkinds" else "disallowed-kinds", {}))
        if method == "banpubkey" and params[0] == OWNER_KEY:
            raise ValueError("this key is an owner's and cannot be banned\x1b[31m")
        if method in _ADDING:
            member, reason = params[0], params[-1] if len(params) > 1 else ""
            assert len(params) <= (3 if method == "markspam" else 2)
            self.lists.setdefault(_ADDING[method], {})[member] = reason
            if method == "allowkind":
                self.lists.get("disallowed-kinds", {}).pop(member, None)
        else:
            assert len(params) == 1
            self.lists.get(_DROPPING[method], {}).pop(params[0], None)
            if method == "disallowkind":
                self.lists.setdefault("disallowed-kinds", {})[params[0]] = ""
        return True


def _member(name: str, member: Any) -> Member:
    if isinstance(member, str) and name != "blocked-ips":
        return bytes.fromhex(member)
    assert isinstance(member, int | str)
    return member


@contextmanager
def managed_relay(tls: ssl.SSLContext | None = None) -> Iterator[FakeManaged]:
    """Runs such a relay on a free port of the loopback address."""
    relay = FakeManaged(scheme="http" if tls is None else "https")
    relay.hold.set()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = DEADLINE_S

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            problem = relay.check(self, body)
            if problem:
                relay.refused.append(problem)
                self.reply(401, {}, json.dumps({"error": problem}).encode())
                return
            asked = json.loads(body)
            relay.calls.append((asked["method"], asked["params"]))
            relay.entered.set()
            assert relay.hold.wait(DEADLINE_S)
            if relay.answer is not None:
                self.reply(*relay.answer(asked["method"], asked["params"]))
                return
            try:
                told: dict[str, object] = {"result": relay.carry_out(asked["method"], asked["params"])}
            except ValueError as error:
                told = {"error": str(error)}
            self.reply(200, {}, json.dumps(told).encode())

        def do_GET(self) -> None:
            problem = relay.check(self, b"")
            if problem:
                relay.refused.append(problem)
                self.reply(401, {}, json.dumps({"error": problem}).encode())
                return
            relay.calls.append((self.path, []))
            told = relay.told.get(self.path)
            self.reply(404 if told is None else 200, {}, json.dumps(told or {"error": "no such path"}).encode())

        def reply(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
            self.close_connection = self.close_connection or relay.closes

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            if not isinstance(sys.exception(), OSError):  # a client may leave when it likes
                relay.refused.append(repr(sys.exception()))

    with Server(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        relay.url = f"{relay.scheme}://127.0.0.1:{server.server_address[1]}"
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": _POLL_S}, daemon=True)
        thread.start()
        try:
            yield relay
        finally:
            relay.hold.set()
            server.shutdown()
            thread.join(DEADLINE_S)


# A service that follows a script


class _Scripted(service_pb2_grpc.ACLServiceServicer):
    def __init__(self, rules: Rules, change: Callable[[list[Command]], None]) -> None:
        self._rules = rules
        self._change = change
        self._leaving: list[threading.Event] = []

    def end(self) -> None:
        """End the calls that last."""
        for left in self._leaving:
            left.set()

    def WatchSnapshot(self, request: types_pb2.Empty, context: Any) -> Iterator[watch_pb2.SnapshotPart]:
        left = threading.Event()
        self._leaving.append(left)
        context.add_callback(left.set)
        yield from snapshot_parts(Snapshot(self._rules))
        left.wait(2 * DEADLINE_S)

    def ChangeLists(self, request: watch_pb2.ChangeListsRequest, context: Any) -> types_pb2.Empty:
        try:
            self._change(decode_commands(request.commands))
        except ValueError as error:
            context.abort(grpc.StatusCode.UNAVAILABLE, f"error: {error}")
        return types_pb2.Empty()


@contextmanager
def scripted_acl(change: Callable[[list[Command]], None]) -> Iterator[str]:
    """Serves as `orly-acl` does, with empty lists; gives the address.

    Args:
        change: Told of each page of commands, on a thread; a ValueError refuses it.
    """
    server = grpc.server(ThreadPoolExecutor(8))
    service = _Scripted(Rules(), change)
    _register(service, server)
    status = health.HealthServicer()
    status.set(SERVICE_NAME, HealthCheckResponse.ServingStatus.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(status, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        service.end()
        server.stop(None).wait()
