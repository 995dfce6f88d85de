"""The calls that manage lists, by their names in ORLY: one row of a table each."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, TypeAlias

import grpc

from orly.access.commands import (
    AddKey,
    AllowKind,
    BlockAddress,
    Command,
    CommandError,
    DisallowKind,
    DropKey,
    UnblockAddress,
)
from orly.access.control import ControlError, Listed
from orly.access.snapshot import ListName
from orly.acl.engine import AclEngine
from orly.nostr.reason import Prefix, Refusal
from orly.pb.orlyacl.v1 import lists_pb2, service_pb2_grpc, types_pb2
from orly.rpc.status import RefusedError, answering

__all__ = ["MAX_LISTED", "ListCalls", "answering_access", "read_key"]

MAX_LISTED: Final = 100_000
"""Members in one answer of the calls that list all; the rest is told by ListMembers."""

_Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
_Call: TypeAlias = Callable[["ListCalls", Any, _Context], Awaitable[Any]]
_EMPTY: Final = types_pb2.Empty()


@asynccontextmanager
async def answering_access(context: _Context) -> AsyncIterator[None]:
    """Like `answering`, also for what access control raises."""
    async with answering(context):
        try:
            yield
        except CommandError as error:
            raise RefusedError(Refusal(Prefix.INVALID, str(error))) from None
        except ControlError as error:
            raise RefusedError(Refusal(Prefix.ERROR, str(error))) from None


def read_key(text: str) -> bytes:
    """A key, or an event id, of 64 hex digits.

    Raises:
        CommandError: It is none.
    """
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != 32 or len(text) != 64:
        raise CommandError(f"{text[:80]!r} is not 64 hex digits")
    return key


def _changing(make: Callable[[Any], Command]) -> _Call:
    async def call(self: "ListCalls", request: Any, context: _Context) -> types_pb2.Empty:
        async with answering_access(context):
            await self.engine.change([make(request)], by="")
        return _EMPTY

    return call


def _add_pubkey(name: ListName, field: str = "reason") -> _Call:
    return _changing(lambda request: AddKey(name, read_key(request.pubkey), getattr(request, field)))


def _drop_pubkey(name: ListName) -> _Call:
    return _changing(lambda request: DropKey(name, read_key(request.pubkey)))


def _add_event(name: ListName) -> _Call:
    return _changing(lambda request: AddKey(name, read_key(request.event_id), request.reason))


def _drop_event(name: ListName) -> _Call:
    return _changing(lambda request: DropKey(name, read_key(request.event_id)))


def _mark_spam(request: lists_pb2.MarkSpamRequest) -> Command:
    author = read_key(request.pubkey).hex() if request.pubkey else ""
    return AddKey(ListName.SPAM_EVENTS, read_key(request.event_id), request.reason, author)


def _listing(name: ListName, answer: Callable[[Sequence[Listed]], Any]) -> _Call:
    async def call(self: "ListCalls", request: Any, context: _Context) -> Any:
        async with answering_access(context):
            return answer(await self.engine.listed(name, limit=MAX_LISTED))

    return call


def _hex(row: Listed) -> str:
    return row.member.hex() if isinstance(row.member, bytes) else str(row.member)


def _pubkeys(rows: Sequence[Listed]) -> lists_pb2.ListedPubkeysResponse:
    return lists_pb2.ListedPubkeysResponse(
        pubkeys=[
            lists_pb2.ListedPubkey(pubkey=_hex(row), reason=row.entry.reason, added=row.entry.added_s) for row in rows
        ]
    )


def _trusted(rows: Sequence[Listed]) -> lists_pb2.TrustedPubkeysResponse:
    return lists_pb2.TrustedPubkeysResponse(
        pubkeys=[
            lists_pb2.TrustedPubkey(pubkey=_hex(row), note=row.entry.reason, added=row.entry.added_s) for row in rows
        ]
    )


def _events(rows: Sequence[Listed]) -> lists_pb2.ListedEventsResponse:
    return lists_pb2.ListedEventsResponse(
        events=[
            lists_pb2.ListedEvent(event_id=_hex(row), reason=row.entry.reason, added=row.entry.added_s) for row in rows
        ]
    )


def _spam(rows: Sequence[Listed]) -> lists_pb2.SpamEventsResponse:
    return lists_pb2.SpamEventsResponse(
        events=[
            lists_pb2.SpamEvent(
                event_id=_hex(row), pubkey=row.entry.pubkey, reason=row.entry.reason, added=row.entry.added_s
            )
            for row in rows
        ]
    )


def _ips(rows: Sequence[Listed]) -> lists_pb2.BlockedIPsResponse:
    return lists_pb2.BlockedIPsResponse(
        ips=[lists_pb2.BlockedIP(ip=_hex(row), reason=row.entry.reason, added=row.entry.added_s) for row in rows]
    )


def _kinds(rows: Sequence[Listed]) -> lists_pb2.AllowedKindsResponse:
    return lists_pb2.AllowedKindsResponse(kinds=[row.member for row in rows if isinstance(row.member, int)])


class ListCalls(service_pb2_grpc.ACLServiceServicer):
    """The calls; `engine` carries them out."""

    def __init__(self, engine: AclEngine) -> None:
        self.engine = engine

    BanPubkey = _add_pubkey(ListName.BANNED_PUBKEYS)
    UnbanPubkey = _drop_pubkey(ListName.BANNED_PUBKEYS)
    ListBannedPubkeys = _listing(ListName.BANNED_PUBKEYS, _pubkeys)
    AllowPubkey = _add_pubkey(ListName.ALLOWED_PUBKEYS)
    DisallowPubkey = _drop_pubkey(ListName.ALLOWED_PUBKEYS)
    ListAllowedPubkeys = _listing(ListName.ALLOWED_PUBKEYS, _pubkeys)
    TrustPubkey = _add_pubkey(ListName.TRUSTED_PUBKEYS, "note")
    UntrustPubkey = _drop_pubkey(ListName.TRUSTED_PUBKEYS)
    ListTrustedPubkeys = _listing(ListName.TRUSTED_PUBKEYS, _trusted)
    BlacklistPubkey = _add_pubkey(ListName.BLACKLISTED_PUBKEYS)
    UnblacklistPubkey = _drop_pubkey(ListName.BLACKLISTED_PUBKEYS)
    ListBlacklistedPubkeys = _listing(ListName.BLACKLISTED_PUBKEYS, _pubkeys)

    BanEvent = _add_event(ListName.BANNED_EVENTS)
    UnbanEvent = _drop_event(ListName.BANNED_EVENTS)
    ListBannedEvents = _listing(ListName.BANNED_EVENTS, _events)
    AllowEvent = _add_event(ListName.ALLOWED_EVENTS)
    DisallowEvent = _drop_event(ListName.ALLOWED_EVENTS)
    ListAllowedEvents = _listing(ListName.ALLOWED_EVENTS, _events)
    MarkSpam = _changing(_mark_spam)
    UnmarkSpam = _drop_event(ListName.SPAM_EVENTS)
    ListSpamEvents = _listing(ListName.SPAM_EVENTS, _spam)

    BlockIP = _changing(lambda request: BlockAddress(request.ip, request.reason))
    UnblockIP = _changing(lambda request: UnblockAddress(request.ip))
    ListBlockedIPs = _listing(ListName.BLOCKED_IPS, _ips)
    AllowKind = _changing(lambda request: AllowKind(request.kind))
    DisallowKind = _changing(lambda request: DisallowKind(request.kind))
    ListAllowedKinds = _listing(ListName.ALLOWED_KINDS, _kinds)
