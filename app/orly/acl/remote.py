"""Access control that runs in another process: its lists are followed here, and decided by without asking."""

import asyncio
import logging
import random
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Final, TypeVar

import grpc
import msgspec

from orly.access.commands import Command, CommandError, Entry, Member
from orly.access.control import ControlError, Listed, Use, UseMark
from orly.access.snapshot import ListName, Snapshot
from orly.acl.wire import PLACE, SnapshotReader, decode_entry, decode_listed, encode
from orly.pb.orlyacl.v1 import types_pb2, watch_pb2
from orly.pb.orlyacl.v1.service_pb2_grpc import ACLServiceStub

__all__ = ["RemoteAccess"]

FIRST_PAUSE_S: Final = 0.05
LONGEST_PAUSE_S: Final = 1.0
"""Between two attempts to reach the service; doubles with every further one."""

HEAR_S: Final = 2.0
"""How long who has changed something waits until the change is heard of here."""

T = TypeVar("T")

log = logging.getLogger(__name__)


class RemoteAccess:
    """See `AccessControl`. While the service is away, the last snapshot stands.

    Args:
        channel: To an `ACLService`; closed by `aclose`. Made on the event loop that uses this.
        timeout_s: How long a command or a question waits for an answer.
    """

    def __init__(self, channel: grpc.aio.Channel, *, timeout_s: float) -> None:
        self._channel = channel
        self._timeout_s = timeout_s
        self._stub: Any = ACLServiceStub(channel)  # type: ignore[no-untyped-call]
        self._snapshot: Snapshot | None = None
        self._came = asyncio.Event()
        self._is_away = False
        self._life = ""
        self._lead = 0
        self._listeners: dict[object, Callable[[], None]] = {}
        self._hearing: set[asyncio.Event] = set()
        self._task = asyncio.create_task(self._follow())

    @property
    def snapshot(self) -> Snapshot | None:
        """See `AccessControl`."""
        return self._snapshot

    def listen(self, changed: Callable[[], None]) -> Callable[[], None]:
        """See `AccessControl`."""
        key = object()
        self._listeners[key] = changed
        return lambda: self._listeners.pop(key, None) and None

    async def came(self) -> None:
        """Wait for the first snapshot."""
        await self._came.wait()

    async def aclose(self) -> None:
        """Leave, and close the channel."""
        self._task.cancel()
        await asyncio.wait((self._task,))
        await self._channel.close()

    # Following

    async def _follow(self) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            reader = SnapshotReader(0 if self._snapshot is None else self._snapshot.version)
            try:
                await self._read(reader)
                reason = "it ended the call"
            except grpc.aio.AioRpcError as error:
                reason = error.details() or error.code().name
            except ValueError as error:
                reason = str(error)
            if reader.snapshot is not None:
                pause_s = FIRST_PAUSE_S
            if not self._is_away:
                self._is_away = True
                log.warning("access control is away, what was known last stands: %s", reason)
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - nothing to be guessed
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def _read(self, reader: SnapshotReader) -> None:
        call = self._stub.WatchSnapshot(types_pb2.Empty(), wait_for_ready=True)
        try:
            life, version = _place(await call.initial_metadata())
            while (part := await call.read()) is not grpc.aio.EOF:
                if part is None:  # gRPC has logged why
                    raise ValueError("a message cannot be read")
                before = None if reader.snapshot is None else reader.snapshot.revision
                reader.take(part)
                if reader.snapshot is not None:
                    self._have_heard(reader.snapshot, (life, version), is_news=reader.snapshot.revision != before)
            if await call.code() is not grpc.StatusCode.OK:
                raise ValueError(await call.details() or (await call.code()).name)
        finally:
            call.cancel()

    def _have_heard(self, snapshot: Snapshot, place: tuple[str, int], *, is_news: bool) -> None:
        if snapshot is not self._snapshot:
            self._snapshot = snapshot
            self._life, self._lead = place[0], place[1] - snapshot.version
        self._came.set()
        if self._is_away:
            self._is_away = False
            log.info("access control is back")
        for hearing in self._hearing:
            hearing.set()
        if is_news:
            for listener in tuple(self._listeners.values()):
                listener()

    # Asking

    async def change(self, commands: Sequence[Command], *, by: str) -> None:
        """See `AccessControl`."""
        request = watch_pb2.ChangeListsRequest(commands=encode(list(commands)), by=by)
        _, place = await self._ask(self._stub.ChangeLists, request)
        await self._hear_of(place)

    async def listed(self, name: ListName, *, after: Member | None = None, limit: int = 1000) -> Sequence[Listed]:
        """See `AccessControl`."""
        if limit <= 0:
            return []
        request = watch_pb2.ListMembersRequest(list=name.value, limit=limit)
        if after is not None:
            request.after = encode(after)
        answer, _ = await self._ask(self._stub.ListMembers, request)
        return _decoded(decode_listed, answer.members)

    async def entry_of(self, name: ListName, member: Member) -> Entry | None:
        """See `AccessControl`."""
        request = watch_pb2.GetMemberRequest(list=name.value, member=encode(member))
        answer, _ = await self._ask(self._stub.GetMember, request)
        return _decoded(decode_entry, answer.entry) if answer.HasField("entry") else None

    async def use_once(self, event_id: bytes) -> bool:
        """See `AccessControl`."""
        request = watch_pb2.UseOnceRequest(event_id=event_id)
        answer, _ = await self._ask(self._stub.UseOnce, request)
        return bool(answer.is_first)

    async def used(self, uses: Collection[Use], *, mark: UseMark | None = None) -> None:
        """See `AccessControl`."""
        request = watch_pb2.ReportUseRequest(uses=encode(list(uses)))
        if mark is not None:
            request.mark = encode(mark)
        _, place = await self._ask(self._stub.ReportUse, request)
        await self._hear_of(place)

    async def _hear_of(self, place: tuple[str, int]) -> None:
        """Wait until the lists have got as far here as the service says they had when it answered."""
        life, version = place
        heard = asyncio.Event()
        self._hearing.add(heard)
        try:
            async with asyncio.timeout(HEAR_S):
                while life and not self._has_heard(life, version):
                    heard.clear()
                    await heard.wait()
        except TimeoutError:
            log.warning("access control has made a change that was not heard of here within %g s", HEAR_S)
        finally:
            self._hearing.discard(heard)

    def _has_heard(self, life: str, version: int) -> bool:
        snapshot = self._snapshot
        return snapshot is not None and life == self._life and snapshot.version + self._lead >= version

    # Calls

    async def _ask(self, method: Callable[..., Any], request: Any) -> tuple[Any, tuple[str, int]]:
        """The answer, and how far the lists had got."""
        try:
            call = method(request, timeout=self._timeout_s, wait_for_ready=True)
            answer = await call
            if answer is None:  # gRPC has logged why
                raise ControlError("the answer of access control cannot be read")
            return answer, _place(await call.trailing_metadata())
        except grpc.aio.AioRpcError as error:
            text = error.details() or error.code().name
            if error.code() is grpc.StatusCode.INVALID_ARGUMENT:
                raise CommandError(text.removeprefix("invalid: ")) from None
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                text = f"access control did not answer within {self._timeout_s:g} s"
            raise ControlError(text.removeprefix("error: ")) from None
        except grpc.aio.UsageError:
            raise ControlError("access control is closed") from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise ControlError("access control is closed") from None  # the channel was, under the call


def _place(metadata: Iterable[tuple[str, str | bytes]] | None) -> tuple[str, int]:
    """Which life of the service, and which version of its lists; no life if it does not say."""
    found = dict(metadata or ()).get(PLACE, "")
    life, _, version = (found if isinstance(found, str) else "").partition(" ")
    return (life, int(version)) if version.isascii() and version.isdigit() else ("", 0)


def _decoded(decode: Callable[[bytes], T], raw: bytes) -> T:
    try:
        return decode(raw)
    except msgspec.MsgspecError as error:
        raise ControlError(f"the answer of access control cannot be read: {error}") from None
