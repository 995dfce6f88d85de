"""The ACLService: questions for tools and other languages, the lists, and what relay processes follow."""

import asyncio
import secrets
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import grpc
import msgspec

from orly.access.commands import AddKey, CommandError, read_address
from orly.access.control import REPORTER_BYTES, Use, UseMark
from orly.access.snapshot import ListName
from orly.acl.engine import AclEngine
from orly.acl.list_calls import MAX_LISTED, ListCalls, answering_access, read_key
from orly.acl.questions import Questions
from orly.acl.wire import (
    PLACE,
    changes_part,
    decode_commands,
    decode_mark,
    decode_member,
    decode_uses,
    encode,
    snapshot_parts,
)
from orly.pb.orlyacl.v1 import lists_pb2, service_pb2, types_pb2, watch_pb2
from orly.rpc.convert import STREAM_OPEN
from orly.store.base import EventStore

__all__ = ["ADMINISTRATIVE", "FOR_RELAYS", "SERVICE_NAME", "AclService"]

SERVICE_NAME: Final = service_pb2.DESCRIPTOR.services_by_name["ACLService"].full_name

FOR_RELAYS: Final = frozenset(f"{SERVICE_NAME}/{name}" for name in ("ReportUse", "UseOnce", "WatchSnapshot"))
"""What relay processes call as their clients make them: the relay limits these."""

ADMINISTRATIVE: Final = frozenset(
    f"{SERVICE_NAME}/{method.name}"
    for method in service_pb2.DESCRIPTOR.services_by_name["ACLService"].methods
    if not method.name.startswith(("Get", "List", "Check", "Is", "RateLimit", "Ready", "Report", "Use", "Watch"))
)
"""Calls that change who may do what."""

MAX_EVENTS_USED: Final = 1_000_000_000
"""Events of one author that a relay process reports at once."""

_Context = grpc.aio.ServicerContext[Any, Any]
_EMPTY: Final = types_pb2.Empty()
T = TypeVar("T")


class AclService(ListCalls):
    """Serves one engine; made on the event loop that uses it."""

    def __init__(self, engine: AclEngine, store: EventStore, *, now_s: Callable[[], int]) -> None:
        super().__init__(engine)
        self._questions = Questions(engine, store, now_s=now_s)
        self._watching: set[asyncio.Task[Any]] = set()
        self._life = secrets.token_hex(8)

    def _place(self) -> tuple[tuple[str, str], ...]:
        """How far the lists have got, as metadata."""
        version = 0 if self.engine.snapshot is None else self.engine.snapshot.version
        return ((PLACE, f"{self._life} {version}"),)

    def stop(self) -> None:
        """End the calls that last as long as their callers like."""
        for task in self._watching:
            task.cancel()

    async def Ready(self, request: types_pb2.Empty, context: _Context) -> types_pb2.ReadyResponse:
        """Whether the rules and lists are loaded."""
        return types_pb2.ReadyResponse(ready=self.engine.snapshot is not None)

    # What relay processes follow

    async def WatchSnapshot(self, request: types_pb2.Empty, context: _Context) -> None:
        """All that is decided by, then each change."""
        task = asyncio.current_task()
        assert task is not None
        self._watching.add(task)
        try:
            with self.engine.watching() as watcher:
                snapshot = self.engine.snapshot
                if snapshot is None:
                    await context.abort(grpc.StatusCode.UNAVAILABLE, "error: access control is not ready yet")
                parts = snapshot_parts(snapshot)
                await context.send_initial_metadata((*STREAM_OPEN, *self._place()))
                for part in parts:
                    await context.write(part)
                while changes := await watcher.next():
                    await context.write(changes_part(changes))
            await context.abort(grpc.StatusCode.UNAVAILABLE, "error: too much has changed, begin again")
        finally:
            self._watching.discard(task)

    async def ChangeLists(self, request: watch_pb2.ChangeListsRequest, context: _Context) -> types_pb2.Empty:
        """Carry out commands."""
        async with answering_access(context):
            await self.engine.change(_decoded(decode_commands, request.commands), by=request.by)
            context.set_trailing_metadata(self._place())
        return _EMPTY

    async def ListMembers(
        self, request: watch_pb2.ListMembersRequest, context: _Context
    ) -> watch_pb2.ListMembersResponse:
        """A page of a list."""
        async with answering_access(context):
            after = _decoded(decode_member, request.after) if request.after else None
            name, limit = _list_name(request.list), min(request.limit or MAX_LISTED, MAX_LISTED)
            return watch_pb2.ListMembersResponse(
                members=encode(list(await self.engine.listed(name, after=after, limit=limit)))
            )

    async def GetMember(self, request: watch_pb2.GetMemberRequest, context: _Context) -> watch_pb2.GetMemberResponse:
        """What is known of a member."""
        async with answering_access(context):
            member = _decoded(decode_member, request.member)
            entry = await self.engine.entry_of(_list_name(request.list), member)
        return watch_pb2.GetMemberResponse(entry=None if entry is None else encode(entry))

    async def ReportUse(self, request: watch_pb2.ReportUseRequest, context: _Context) -> types_pb2.Empty:
        """Count events for the limits of the day."""
        async with answering_access(context):
            mark = _checked_mark(_decoded(decode_mark, request.mark)) if request.mark else None
            await self.engine.used(_checked_uses(_decoded(decode_uses, request.uses)), mark=mark)
            context.set_trailing_metadata(self._place())
        return _EMPTY

    async def UseOnce(self, request: watch_pb2.UseOnceRequest, context: _Context) -> watch_pb2.UseOnceResponse:
        """Whether an event allows its first request."""
        async with answering_access(context):
            if len(request.event_id) != 32:
                raise CommandError(f"an event id has 32 bytes, not {len(request.event_id)}")
            is_first = await self.engine.use_once(request.event_id)
            return watch_pb2.UseOnceResponse(is_first=is_first)

    # Questions

    async def CheckAccess(
        self, request: types_pb2.CheckAccessRequest, context: _Context
    ) -> types_pb2.CheckAccessResponse:
        """Whether a key may read, write or administrate."""
        async with answering_access(context):
            return self._questions.access(request)

    async def GetAccessLevel(
        self, request: types_pb2.GetAccessLevelRequest, context: _Context
    ) -> types_pb2.GetAccessLevelResponse:
        """What a key may do at most."""
        async with answering_access(context):
            return self._questions.level(request)

    async def CheckPolicy(
        self, request: types_pb2.CheckPolicyRequest, context: _Context
    ) -> types_pb2.CheckPolicyResponse:
        """Whether an event may be stored, as far as access control decides."""
        async with answering_access(context):
            return self._questions.policy(request)

    async def Configure(self, request: types_pb2.ConfigureRequest, context: _Context) -> types_pb2.ConfigureResponse:
        """Take a configuration event, or settings."""
        async with answering_access(context):
            return await self._questions.configure(request)

    async def GetType(self, request: types_pb2.Empty, context: _Context) -> types_pb2.TypeResponse:
        """The mode."""
        async with answering_access(context):
            return self._questions.mode()

    async def GetMode(self, request: types_pb2.Empty, context: _Context) -> types_pb2.TypeResponse:
        """The same under ORLY's name."""
        async with answering_access(context):
            return self._questions.mode()

    async def GetACLInfo(self, request: types_pb2.Empty, context: _Context) -> types_pb2.ACLInfoResponse:
        """What the mode is called and does."""
        async with answering_access(context):
            return self._questions.info()

    async def GetThrottleDelay(
        self, request: types_pb2.ThrottleDelayRequest, context: _Context
    ) -> types_pb2.ThrottleDelayResponse:
        """How long the next event of a stranger has to wait."""
        async with answering_access(context):
            return self._questions.throttle_delay(request)

    async def AddFollow(self, request: types_pb2.AddFollowRequest, context: _Context) -> types_pb2.Empty:
        """Let a key write as if it were followed."""
        async with answering_access(context):
            await self.engine.change([AddKey(ListName.ALLOWED_PUBKEYS, request.pubkey, "AddFollow")], by="")
        return _EMPTY

    async def GetFollowedPubkeys(
        self, request: types_pb2.Empty, context: _Context
    ) -> types_pb2.FollowedPubkeysResponse:
        """Whom the owners and admins follow."""
        async with answering_access(context):
            keys = await self.engine.listed(ListName.FOLLOWED_PUBKEYS, limit=MAX_LISTED)
        return types_pb2.FollowedPubkeysResponse(pubkeys=[row.member for row in keys if isinstance(row.member, bytes)])

    async def GetAdminRelays(self, request: types_pb2.Empty, context: _Context) -> types_pb2.AdminRelaysResponse:
        """The relays that the owners and admins say they use."""
        async with answering_access(context):
            return types_pb2.AdminRelaysResponse(urls=await self._questions.admin_relays())

    async def UpdatePeerAdmins(self, request: types_pb2.UpdatePeerAdminsRequest, context: _Context) -> types_pb2.Empty:
        """Which keys are peers'."""
        async with answering_access(context):
            for key in request.peer_pubkeys:
                if len(key) != 32:
                    raise CommandError(f"a key has 32 bytes, not {len(key)}")
            self.engine.set_peers(request.peer_pubkeys)
        return _EMPTY

    async def RateLimitCheck(
        self, request: lists_pb2.RateLimitCheckRequest, context: _Context
    ) -> lists_pb2.RateLimitCheckResponse:
        """Whether a key, from an address, has anything left of its day."""
        async with answering_access(context):
            return self._questions.rate_limit(read_key(request.pubkey), request.ip)

    async def GetCuratingConfig(self, request: types_pb2.Empty, context: _Context) -> lists_pb2.CuratingConfigResponse:
        """The configuration of the mode `curating`."""
        async with answering_access(context):
            return self._questions.curating_config()

    async def IsCuratingConfigured(
        self, request: types_pb2.Empty, context: _Context
    ) -> lists_pb2.CuratingConfiguredResponse:
        """Whether there is one."""
        async with answering_access(context):
            return self._questions.is_configured()


def _decoded(decode: Callable[[bytes], T], raw: bytes) -> T:
    try:
        return decode(raw)
    except msgspec.MsgspecError as error:
        raise CommandError(f"the message cannot be read: {error}") from None


def _checked_uses(uses: Sequence[Use]) -> Sequence[Use]:
    for use in uses:
        if len(use.pubkey) != 32:
            raise CommandError(f"a key has 32 bytes, not {len(use.pubkey)}")
        if use.address and read_address(use.address) != use.address:
            raise CommandError(f"the address must be written {read_address(use.address)}, not {use.address[:80]!r}")
        if not 0 <= use.n_events <= MAX_EVENTS_USED:
            raise CommandError(f"a number of events is from 0 to {MAX_EVENTS_USED}, not {use.n_events}")
    return uses


def _checked_mark(mark: UseMark) -> UseMark:
    if len(mark.reporter) != REPORTER_BYTES:
        raise CommandError(f"a process that reports is named by {REPORTER_BYTES} bytes, not {len(mark.reporter)}")
    return mark


def _list_name(text: str) -> ListName:
    try:
        return ListName(text)
    except ValueError:
        raise CommandError(f"there is no list {text[:40]!r}") from None
