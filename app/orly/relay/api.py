"""The HTTP API of the relay: management (NIP-86), export and import, numbers, and what a key may do."""

import asyncio
import logging
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from orly.access.control import AccessControl
from orly.access.decide import NO_SNAPSHOT, level_of
from orly.access.levels import Level
from orly.access.snapshot import DAY_S, ListName, Snapshot
from orly.intake.policy import WritePolicy
from orly.nostr.filter import Filter
from orly.nostr.nip19 import Nip19Error, parse_public_key
from orly.relay.gate import Gate
from orly.relay.http_auth import HttpAuth, HttpAuthRefusedError, Signer
from orly.relay.http_endpoint import (
    HEADERS,
    JSON_TYPE,
    ApiError,
    Endpoint,
    media_type,
    read_body,
    reply,
    take_time,
)
from orly.relay.http_export import JSONL_TYPE, ExportReply, ExportRows
from orly.relay.http_import import Importing, ImportReport, spool
from orly.relay.management import Management
from orly.relay.management_lists import size_of
from orly.relay.rates import Rates
from orly.store.base import READ_ALL, EventStore, Query, ReadScope

__all__ = ["RPC_TYPE", "Vitals", "api_routes"]

RPC_TYPE: Final = "application/nostr+json+rpc"

MAX_CALL_BYTES: Final = 64 * 1024
MAX_KEYS_BYTES: Final = 1024 * 1024
MAX_KEYS: Final = 10_000
"""Authors of one export, for owners and admins; everybody else exports the events of one, their own."""

SLICE_KEYS: Final = 64
"""Keys decoded at a stretch, 4 ms if they are in bech32; then others on the event loop have their turn."""

MAX_IMPORT_BYTES: Final = 1024**3
IN_MEMORY_BYTES: Final = 1024 * 1024
"""A body to import that is larger goes to the disk."""

COUNT_TIMEOUT_S: Final = 60.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Vitals:
    """What the relay knows of itself while it runs.

    Attributes:
        uptime_s: Since it began to serve.
        connections: WebSocket connections that are open.
        subscriptions: Open ones of all of them.
    """

    uptime_s: Callable[[], float]
    connections: Callable[[], int]
    subscriptions: Callable[[], int]


class _Keys(msgspec.Struct, frozen=True):
    """The body of an export."""

    pubkeys: list[str] = []


def api_routes(
    *,
    access: AccessControl,
    store: EventStore,
    gate: Gate,
    policy: WritePolicy,
    vitals: Vitals,
    now_s: Callable[[], int],
    relay_url: str = "",
    rates: Rates | None = None,
    max_import_bytes: int = MAX_IMPORT_BYTES,
    spool_dir: Path | None = None,
) -> list[Route]:
    """All paths of the API, and POST on `/`; other methods of `/` belong to another route.

    Args:
        access: Has the lists.
        store: Has the events.
        gate: Knows which proxies may speak for a client.
        policy: The limits on events.
        vitals: Numbers that are told.
        now_s: Unix time.
        relay_url: Our public URL; empty if it is not known.
        rates: How much anybody may ask; None = there are no limits.
        max_import_bytes: Of the body of one import.
        spool_dir: Where bodies to import are kept meanwhile; None = where the system keeps temporary files.
    """
    auth = HttpAuth(access, gate, relay_url, now_s, rates)
    managing = _Managing(auth, Management(access, store, now_s))
    moving = _Moving(auth, store, Importing(store, policy, access, now_s), now_s, max_import_bytes, spool_dir)
    telling = _Telling(access, store, auth, vitals, now_s)
    return [
        Route("/", Endpoint({"POST": managing.on_root}), methods=["POST"]),
        Route("/api/nip86", Endpoint({"POST": managing.on_path})),
        Route("/api/export", Endpoint({"GET": moving.export, "POST": moving.export})),
        Route("/api/import", Endpoint({"POST": moving.take})),
        Route("/api/stats", Endpoint({"GET": telling.stats})),
        Route("/api/role", Endpoint({"GET": telling.role})),
        Route("/api/permissions/{pubkey}", Endpoint({"GET": telling.permission})),
        Route("/api/acl-mode", Endpoint({"GET": telling.mode})),
    ]


class _Managing:
    """NIP-86."""

    def __init__(self, auth: HttpAuth, management: Management) -> None:
        self._auth = auth
        self._management = management

    async def on_root(self, request: Request) -> Response:
        return await self._answer(request, (RPC_TYPE,))

    async def on_path(self, request: Request) -> Response:
        return await self._answer(request, (RPC_TYPE, JSON_TYPE))

    async def _answer(self, request: Request, types: Sequence[str]) -> Response:
        if media_type(request) not in types:
            raise ApiError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"the Content-Type must be {' or '.join(types)}")
        body = await read_body(request, MAX_CALL_BYTES)
        try:
            signer = await self._auth.caller(request, body, needs_payload=True, once=True, least=Level.ADMIN)
        except HttpAuthRefusedError as error:
            self._management.refused(self._auth.address_of(request), error.signer, error.text)
            raise
        take_time(request)
        return reply(await self._management.call(body, signer))


class _Moving:
    """Export and import."""

    def __init__(
        self,
        auth: HttpAuth,
        store: EventStore,
        importing: Importing,
        now_s: Callable[[], int],
        max_import_bytes: int,
        spool_dir: Path | None,
    ) -> None:
        self._auth = auth
        self._store = store
        self._importing = importing
        self._now_s = now_s
        self._max_import_bytes = max_import_bytes
        self._spool_dir = None if spool_dir is None else str(spool_dir)
        self._one_import = asyncio.Lock()

    async def export(self, request: Request) -> Response:
        body = await read_body(request, MAX_KEYS_BYTES)
        signer = await self._auth.caller(request, body, needs_payload=False, once=False)
        named = _named(request, body)
        own = frozenset({signer.pubkey})
        moderates = signer.level >= Level.ADMIN
        if moderates:
            authors = await _decoded(named)
        elif len(named) > 1 or not await _decoded(named) <= own:
            raise ApiError(HTTPStatus.FORBIDDEN, "only owners and admins may export the events of others")
        else:
            authors = own
        headers = HEADERS | {"Content-Disposition": f'attachment; filename="{self._file_name(authors, own)}"'}
        if request.method == "HEAD":
            return Response(headers=headers, media_type=JSONL_TYPE)
        wanted = Filter(authors=authors or None)
        rows = ExportRows(
            self._store, Query(filters=(wanted,), scope=READ_ALL if moderates else ReadScope(readers=own))
        )
        take_time(request)
        await rows.begin_for(request)
        log.info("audit: export by=%s from=%s authors=%s", signer.pubkey, signer.address or "-", len(authors) or "all")
        return ExportReply(rows, headers)

    def _file_name(self, authors: frozenset[str], own: frozenset[str]) -> str:
        what = "filtered" if authors and authors != own else "my" if authors else "all"
        return f"{what}-events-{datetime.fromtimestamp(self._now_s(), UTC):%Y%m%dT%H%M%SZ}.jsonl"

    async def take(self, request: Request) -> Response:
        if media_type(request).startswith("multipart/"):
            text = "send the events as they are, one a line, not as a form: curl --data-binary @file"
            raise ApiError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, text, {"Connection": "close"})
        signer = await self._auth.caller(request, None, needs_payload=True, once=True, least=Level.ADMIN)
        if self._one_import.locked():
            raise ApiError(HTTPStatus.CONFLICT, "another import is under way", {"Connection": "close"})
        take_time(request)
        async with self._one_import:
            report = await self._take(request, signer)
        log.info(
            "audit: import by=%s from=%s stored=%d known=%d refused=%d unreadable=%d",
            signer.pubkey,
            signer.address or "-",
            report.stored,
            report.known,
            report.refused,
            report.unreadable,
        )
        if report.failed:
            told = {"error": f"the store stopped taking events: {report.failed}"} | report.counts()
            return reply(told, HTTPStatus.SERVICE_UNAVAILABLE)
        return reply(report.counts())

    async def _take(self, request: Request, signer: Signer) -> ImportReport:
        with tempfile.SpooledTemporaryFile(max_size=IN_MEMORY_BYTES, dir=self._spool_dir) as file:
            if await spool(request, file, self._max_import_bytes) != signer.payload:
                text = "the payload tag is not the SHA-256 of the body, nothing of it was stored"
                raise HttpAuthRefusedError(HTTPStatus.UNAUTHORIZED, text, signer)
            return await self._importing.run(file)


def _named(request: Request, body: bytes) -> list[str]:
    """What the query and the body name as keys.

    Raises:
        ApiError: The body is none, or there are too many.
    """
    try:
        in_body = msgspec.json.decode(body, type=_Keys).pubkeys if body else []
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise ApiError(HTTPStatus.BAD_REQUEST, f"the body must be a JSON object with pubkeys: {error}") from None
    named = [*in_body, *request.query_params.getlist("pubkey")]
    if len(named) > MAX_KEYS:
        raise ApiError(HTTPStatus.BAD_REQUEST, f"there are {len(named)} pubkeys, the maximum is {MAX_KEYS}")
    return named


async def _decoded(named: Sequence[str]) -> frozenset[str]:
    """The keys (hex).

    Raises:
        ApiError: One is no key.
    """
    keys: set[str] = set()
    try:
        for start in range(0, len(named), SLICE_KEYS):
            if start:
                await asyncio.sleep(0)
            keys.update(map(parse_public_key, named[start : start + SLICE_KEYS]))
    except Nip19Error as error:
        raise ApiError(HTTPStatus.BAD_REQUEST, f"a pubkey cannot be read: {error}") from None
    return frozenset(keys)


class _Telling:
    """What the relay says about itself and about keys."""

    def __init__(
        self, access: AccessControl, store: EventStore, auth: HttpAuth, vitals: Vitals, now_s: Callable[[], int]
    ) -> None:
        self._access = access
        self._store = store
        self._auth = auth
        self._vitals = vitals
        self._now_s = now_s

    def _snapshot(self) -> Snapshot:
        snapshot = self._access.snapshot
        if snapshot is None:
            raise ApiError(HTTPStatus.SERVICE_UNAVAILABLE, NO_SNAPSHOT.detail)
        return snapshot

    async def _caller(self, request: Request, least: Level = Level.NONE) -> Signer:
        return await self._auth.caller(request, b"", needs_payload=False, once=False, least=least)

    async def stats(self, request: Request) -> Response:
        await self._caller(request, Level.ADMIN)
        take_time(request)
        events = await self._store.count(Query(filters=(Filter(),), timeout_s=COUNT_TIMEOUT_S))
        last_serial = await self._store.last_serial()
        snapshot = self._snapshot()
        used = snapshot.used if snapshot.day == self._now_s() // DAY_S else {}
        n_keys = sum(isinstance(who, bytes) for who in used)
        return reply(
            {
                "mode": snapshot.rules.mode.value,
                "events": events,
                "last_serial": last_serial,
                "lists": {name.value: size_of(snapshot, name) for name in ListName},
                "used_today": {"keys": n_keys, "addresses": len(used) - n_keys},
                "uptime_s": int(self._vitals.uptime_s()),
                "connections": self._vitals.connections(),
                "subscriptions": self._vitals.subscriptions(),
            }
        )

    async def role(self, request: Request) -> Response:
        signer = await self._caller(request)
        return reply({"role": signer.level.label})

    async def permission(self, request: Request) -> Response:
        signer = await self._caller(request)
        try:
            asked = parse_public_key(request.path_params["pubkey"])
        except Nip19Error as error:
            raise ApiError(HTTPStatus.BAD_REQUEST, f"the key cannot be read: {error}") from None
        if asked != signer.pubkey and signer.level < Level.ADMIN:
            raise ApiError(HTTPStatus.FORBIDDEN, "only owners and admins may ask about other keys")
        return reply({"permission": level_of(self._snapshot(), bytes.fromhex(asked)).label})

    async def mode(self, request: Request) -> Response:
        self._auth.count(request)
        return reply({"acl_mode": self._snapshot().rules.mode.value})
