"""The HTTP API in a test: a real store and real lists behind it, requests straight into the ASGI application."""

import asyncio
import json
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Final

import msgspec
from starlette.applications import Starlette
from tests.component.store_proxy import StoreProxy
from tests.component.store_world import FakeClock
from tests.factory import KEYS, make_event
from tests.transport import INFO, rules
from tests.wsclient import DEADLINE_S

from orly.access.levels import Mode
from orly.access.snapshot import Rules
from orly.acl.engine import AclEngine
from orly.intake.policy import WritePolicy
from orly.nostr.event import EncodedEvent
from orly.nostr.kinds import HTTP_AUTH
from orly.relay.api import RPC_TYPE, Vitals, api_routes
from orly.relay.gate import Gate
from orly.relay.http_app import create_app
from orly.store.lmdb.store import LmdbStore

__all__ = [
    "ADMIN",
    "HOST",
    "OWNER",
    "PEER",
    "STRANGER",
    "ApiWorld",
    "Exchange",
    "Reply",
    "allowing",
    "api_world",
    "header_of",
    "own_rules",
]

OWNER, ADMIN, STRANGER = 0, 1, 2
"""Numbers of test keys."""

HOST: Final = "relay.example.com"
PEER: Final = "192.0.2.7"
_STORE_BYTES: Final = 256 * 1024 * 1024


def own_rules(mode: Mode = Mode.MANAGED, **others: Any) -> Rules:
    """Rules with one owner and one admin."""
    owners, admins = frozenset({bytes.fromhex(KEYS[OWNER])}), frozenset({bytes.fromhex(KEYS[ADMIN])})
    return Rules(mode=mode, owners=owners, admins=admins, **others)


def allowing(
    key: int, method: str, url: str, body: bytes | None, created_at: int, *, tags: Sequence[Sequence[str]] = ()
) -> EncodedEvent:
    """An event that allows a request; `body` None names no payload."""
    payload = [] if body is None else [["payload", sha256(body).hexdigest()]]
    return make_event(key, HTTP_AUTH, created_at, [["u", url], ["method", method], *payload, *tags])


def header_of(event: EncodedEvent) -> str:
    """The `Authorization` header."""
    return f"Nostr {b64encode(event.raw).decode()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer; header names in lower case.

    Attributes:
        is_whole: Whether it was sent to its end.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    is_whole: bool

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """What went wrong."""
        text = self.json["error"]
        assert isinstance(text, str)
        return text

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.body.splitlines()]


@dataclass(slots=True)
class Exchange:
    """One request under way.

    Attributes:
        pieces: Of the body, still to be sent; None = the client sends nothing more for now.
        gone: Set when the client has left.
        reads: Set while the client takes what it is sent.
        sent: What it was sent.
        taken: Bytes of the answer.
        takes: How many messages it takes before it stops to; None = all.
    """

    pieces: list[bytes | None]
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    reads: asyncio.Event = field(default_factory=asyncio.Event)
    sent: list[Mapping[str, Any]] = field(default_factory=list)
    taken: int = 0
    takes: int | None = None

    async def receive(self) -> Mapping[str, Any]:
        if self.pieces and self.pieces[0] is not None:
            piece = self.pieces.pop(0)
            return {"type": "http.request", "body": piece, "more_body": bool(self.pieces)}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Mapping[str, Any]) -> None:
        await self.reads.wait()
        if not self.gone.is_set():
            self.sent.append(message)
            self.taken += len(message.get("body", b""))
            if len(self.sent) == self.takes:
                self.reads.clear()

    @property
    def reply(self) -> Reply:
        start, *rest = self.sent
        headers = {name.decode(): value.decode() for name, value in start["headers"]}
        body = b"".join(message.get("body", b"") for message in rest)
        is_whole = bool(rest) and not rest[-1].get("more_body", False)
        return Reply(status=start["status"], headers=headers, body=body, is_whole=is_whole)


@dataclass(slots=True, kw_only=True)
class ApiWorld:
    """A relay without its sockets.

    Attributes:
        patience: What the deadline of a request was told, in order.
    """

    app: Starlette
    store: StoreProxy
    engine: AclEngine
    clock: FakeClock
    gate: Gate
    patience: list[bool] = field(default_factory=list)

    def begin(
        self,
        method: str,
        target: str,
        *,
        pieces: Sequence[bytes | None] = (b"",),
        headers: Mapping[str, str] | None = None,
        peer: str = PEER,
        takes: int | None = None,
    ) -> tuple[Exchange, asyncio.Task[None]]:
        """A request under way, and the task that is done when it is answered."""
        path, _, query = target.partition("?")
        given = {"Host": HOST, **(headers or {})}
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in given.items()],
            "client": (peer, 50_000),
            "server": ("127.0.0.1", 3334),
            "extensions": {"orly.patience": self.patience.append},
        }
        exchange = Exchange(list(pieces), takes=takes)
        if takes != 0:
            exchange.reads.set()
        return exchange, asyncio.create_task(self.app(scope, exchange.receive, exchange.send))  # type: ignore[arg-type]

    async def ask(self, method: str, target: str, **others: Any) -> Reply:
        """A whole request; see `begin`."""
        exchange, task = self.begin(method, target, **others)
        async with asyncio.timeout(DEADLINE_S):
            await task
        return exchange.reply

    async def signed(
        self,
        key: int,
        method: str,
        target: str,
        body: bytes | None = None,
        *,
        content_type: str = "",
        url: str = "",
        **others: Any,
    ) -> Reply:
        """A whole request that a key has signed."""
        event = allowing(key, method, url or f"http://{HOST}{target}", body, self.clock.now)
        headers = {"Authorization": header_of(event), **others.pop("headers", {})}
        if content_type:
            headers["Content-Type"] = content_type
        return await self.ask(method, target, pieces=(body or b"",), headers=headers, **others)

    async def call(self, method: str, *params: object, key: int = OWNER) -> Any:
        """The result of a management call."""
        reply = await self.managed(method, *params, key=key)
        assert reply.status == 200, reply
        assert "error" not in reply.json, reply.json
        return reply.json["result"]

    async def fails(self, method: str, *params: object, key: int = OWNER) -> str:
        """The error of a management call."""
        reply = await self.managed(method, *params, key=key)
        assert reply.status == 200, reply
        assert list(reply.json) == ["error"], reply.json
        return reply.error

    async def managed(self, method: str, *params: object, key: int = OWNER) -> Reply:
        """The answer to a management call; at another second than any before, so that no two are the same."""
        self.clock.now += 1
        body = msgspec.json.encode({"method": method, "params": params})
        return await self.signed(key, "POST", "/", body, content_type=RPC_TYPE)

    async def restart(self) -> None:
        """Forget the lists, and read them again."""
        await self.engine.aclose()
        self.engine = AclEngine(self.store, self._rules(), now_s=self.clock.now_s)
        await self.engine.start()

    def _rules(self) -> Rules:
        snapshot = self.engine.snapshot
        assert snapshot is not None
        return snapshot.rules


@asynccontextmanager
async def api_world(
    directory: Path,
    rules_: Rules | None = None,
    *,
    wrap: Callable[[LmdbStore], StoreProxy] = StoreProxy,
    relay_url: str = "",
    trusted_proxies: Sequence[str] = (),
    is_started: bool = True,
    **options: Any,
) -> AsyncIterator[ApiWorld]:
    """A world on a fresh directory, in which no task may be left behind.

    Args:
        directory: Where the store goes.
        rules_: Of access control; None = `own_rules()`.
        wrap: Makes the proxy before the store.
        relay_url: The public URL.
        trusted_proxies: Networks.
        is_started: Whether access control has read its lists.
        options: Others of `api_routes`.
    """
    others, clock = asyncio.all_tasks(), FakeClock()
    inner = await LmdbStore.open(
        directory, max_bytes=_STORE_BYTES, now_s=clock.now_s, monotonic_s=asyncio.get_running_loop().time
    )
    store = wrap(inner)
    engine = AclEngine(store, own_rules() if rules_ is None else rules_, now_s=clock.now_s)
    if is_started:
        await engine.start()
    gate = Gate(rules(trusted_proxies=tuple(map(ip_network, trusted_proxies))))
    app = create_app(info=lambda: INFO, health=lambda: None, gate=gate, relay_url=relay_url)
    policy = WritePolicy(
        max_event_bytes=64 * 1024, max_event_tags=2000, max_created_at_past_s=60, max_created_at_future_s=60
    )
    world = ApiWorld(app=app, store=store, engine=engine, clock=clock, gate=gate)
    app.router.routes += api_routes(
        access=_Current(world),
        store=store,
        gate=gate,
        policy=msgspec.structs.replace(policy, auth_to_write=True),
        vitals=Vitals(uptime_s=lambda: 12.5, connections=lambda: 3, subscriptions=lambda: 4),
        now_s=clock.now_s,
        relay_url=relay_url,
        **options,
    )
    try:
        yield world
    finally:
        store.release()
        await world.engine.aclose()
        await inner.close()
    left = [task for task in asyncio.all_tasks() - others if not task.done()]
    assert not left, f"tasks are left: {left}"


class _Current:
    """The access control of the moment: a test may begin a new one."""

    def __init__(self, world: ApiWorld) -> None:
        self._world = world

    def __getattr__(self, name: str) -> Any:
        return getattr(self._world.engine, name)
