"""The sets of another process: a `SetServer` that asks the NegentropyService.

A service that is away is waited for, for a while; then the client is told so. Nobody else answers in its place.
"""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

import grpc

from orly import clock
from orly.pb.orlysync.negentropy.v1 import types_pb2
from orly.pb.orlysync.negentropy.v1.service_pb2_grpc import NegentropyServiceStub
from orly.reconciling import NegRefusedError
from orly.store.base import Query
from orly.sync.negentropy.remote_messages import open_request, refusal_of

__all__ = ["BUILD_TIMEOUT_S", "RemoteSets"]

BUILD_TIMEOUT_S: Final = 30.0
"""How much longer the answer to the first message may take: the service may have to read a set."""

_FAREWELL_S: Final = 2.0
"""How long the end waits until the service has heard of what was closed."""

_PAUSE_S: Final = 0.1
"""Before a service that has just gone away is asked again."""

log = logging.getLogger(__name__)

_Answer = types_pb2.NegOpenResponse | types_pb2.NegMsgResponse


class _Turn:
    """A call's place behind those before it, taken when the call is made."""

    __slots__ = ("_before", "_over")

    def __init__(self, before: "asyncio.Future[None] | None") -> None:
        self._before = before
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def over(self) -> "asyncio.Future[None]":
        return self._over

    async def __aenter__(self) -> None:
        if self._before is not None:
            await asyncio.shield(self._before)

    async def __aexit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """The call is over, or was given up; the next one waits for those before, too."""
        if self._before is None or self._before.done():
            self._set_over()
        else:
            self._before.add_done_callback(self._set_over)

    def _set_over(self, _: object = None) -> None:
        if not self._over.done():
            self._over.set_result(None)


class _Session:
    """What keeps the calls of one reconciliation in their order.

    Attributes:
        last: The end of the newest call.
        n_calls: Those that are not over.
        n_opened: How often it was opened.
        is_open: Whether it has not been closed since.
        is_known: Whether the service may know of it, and has not been told of the end.
    """

    __slots__ = ("is_known", "is_open", "last", "n_calls", "n_opened")

    def __init__(self) -> None:
        self.last: asyncio.Future[None] | None = None
        self.n_calls = self.n_opened = 0
        self.is_open = self.is_known = False

    def take_turn(self) -> _Turn:
        """Behind all that was called so far."""
        turn = _Turn(self.last)
        self.last = turn.over
        self.n_calls += 1
        return turn


class RemoteSets:
    """A `SetServer` in another process; used from one event loop.

    Args:
        channel: To the service; stays the caller's.
        timeout_s: How long a message waits for a service that is away, or for its answer.
        build_timeout_s: See `BUILD_TIMEOUT_S`.
    """

    def __init__(
        self, channel: grpc.aio.Channel, *, timeout_s: float, build_timeout_s: float = BUILD_TIMEOUT_S
    ) -> None:
        self._channel = channel
        self._stub: Any = NegentropyServiceStub(channel)  # type: ignore[no-untyped-call]
        self._timeout_s = timeout_s
        self._build_timeout_s = build_timeout_s
        self._own_prefix = secrets.token_hex(8)
        self._connections: dict[str, dict[str, _Session]] = {}
        self._farewells: set[asyncio.Task[None]] = set()

    async def open(self, connection_id: str, sub_id: str, query: Query, message: bytes) -> bytes:
        sessions = self._connections.setdefault(connection_id, {})
        session = sessions.setdefault(sub_id, _Session())
        session.is_open = True
        session.n_opened += 1
        number = session.n_opened
        # The service counts what a connection has open: it must have heard of what was closed before.
        farewells = [other.last for other in sessions.values() if other.last is not None and not other.is_open]
        request = open_request(self._name(connection_id), sub_id, query, message)

        async def ask() -> bytes:
            for farewell in farewells:
                await asyncio.shield(farewell)
            if not session.is_open or session.n_opened != number:
                raise NegRefusedError("closed", "it was closed before its set was read")
            session.is_known = True
            return await self._ask(self._stub.HandleNegOpen, request, self._timeout_s + self._build_timeout_s)

        return await self._in_order(connection_id, sub_id, session, ask)

    async def go_on(self, connection_id: str, sub_id: str, message: bytes) -> bytes:
        session = self._connections.get(connection_id, {}).get(sub_id)
        if session is None or not session.is_open:
            raise NegRefusedError("closed", "no reconciliation is open under this subscription id, or not any more")
        request = types_pb2.NegMsgRequest(
            subscription_id=sub_id, message=message, connection_id=self._name(connection_id)
        )
        return await self._in_order(
            connection_id, sub_id, session, lambda: self._ask(self._stub.HandleNegMsg, request, self._timeout_s)
        )

    def close(self, connection_id: str, sub_id: str) -> None:
        session = self._connections.get(connection_id, {}).get(sub_id)
        if session is None:
            return
        session.is_open = False
        if session.is_known:
            session.is_known = False
            self._say_goodbye(self._close(connection_id, sub_id, session, session.take_turn()))
        else:
            self._forget(connection_id, sub_id, session)

    def gone(self, connection_id: str) -> None:
        sessions = self._connections.pop(connection_id, {}).values()
        for session in sessions:
            session.is_open = False
        if any(session.is_known for session in sessions):
            self._say_goodbye(self._gone(connection_id, list(sessions)))

    async def aclose(self) -> None:
        """Tell the service what is over; the channel is closed afterwards."""
        for connection_id in tuple(self._connections):
            self.gone(connection_id)
        if self._farewells:
            _, late = await asyncio.wait(self._farewells, timeout=_FAREWELL_S)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)

    def _name(self, connection_id: str) -> str:
        """A name that no connection of another worker has, nor one of this worker after a restart."""
        return f"{self._own_prefix}-{connection_id}"

    # Calls

    async def _in_order(
        self, connection_id: str, sub_id: str, session: _Session, call: Callable[[], Awaitable[bytes]]
    ) -> bytes:
        """Make a call behind those before it; one that was refused ends the session."""
        turn = session.take_turn()
        try:
            async with turn:
                return await call()
        except NegRefusedError:
            if session.n_calls == 1:
                session.is_open = False
            raise
        finally:
            turn.end()
            self._left(connection_id, sub_id, session)

    def _left(self, connection_id: str, sub_id: str, session: _Session) -> None:
        session.n_calls -= 1
        self._forget(connection_id, sub_id, session)

    def _forget(self, connection_id: str, sub_id: str, session: _Session) -> None:
        """Unless it is open, or a call is under way."""
        sessions = self._connections.get(connection_id)
        if session.n_calls or session.is_open or sessions is None or sessions.get(sub_id) is not session:
            return
        del sessions[sub_id]
        if not sessions:
            del self._connections[connection_id]

    async def _ask(self, method: Callable[..., Awaitable[_Answer]], request: Any, timeout_s: float) -> bytes:
        until_s = clock.monotonic_s() + self._timeout_s
        while True:
            try:
                await self._reach(until_s)
                answer = await method(request, timeout=timeout_s)
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.UNAVAILABLE and clock.monotonic_s() + _PAUSE_S < until_s:
                    await asyncio.sleep(_PAUSE_S)
                    continue
                raise _away(_reason_of(error, timeout_s)) from None
            except grpc.aio.UsageError:
                raise _away("the relay is stopping") from None
            refusal = refusal_of(answer)
            if refusal is not None:
                raise refusal
            return answer.message

    async def _reach(self, until_s: float) -> None:
        """Wait until the service is connected to."""
        if self._channel.get_state(try_to_connect=True) is grpc.ChannelConnectivity.READY:
            return
        try:
            async with asyncio.timeout(max(until_s - clock.monotonic_s(), 0)):
                await self._channel.channel_ready()
        except TimeoutError:
            raise _away(f"it was not reached within {self._timeout_s:g} s") from None

    # Ends

    def _say_goodbye(self, farewell: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(farewell)
        self._farewells.add(task)
        task.add_done_callback(self._farewells.discard)

    async def _close(self, connection_id: str, sub_id: str, session: _Session, turn: _Turn) -> None:
        """Behind what is under way, and before what is opened under the same id afterwards."""
        try:
            async with turn:
                await self._tell(
                    types_pb2.NegCloseRequest(subscription_id=sub_id, connection_id=self._name(connection_id))
                )
        finally:
            turn.end()
            self._left(connection_id, sub_id, session)

    async def _gone(self, connection_id: str, sessions: list[_Session]) -> None:
        for session in sessions:
            if session.last is not None:
                await session.last
        await self._tell(types_pb2.NegCloseRequest(connection_id=self._name(connection_id)))

    async def _tell(self, request: types_pb2.NegCloseRequest) -> None:
        """A service that does not hear of it ends the session when it has been idle for too long."""
        try:
            await self._stub.HandleNegClose(request, timeout=self._timeout_s)
        except (grpc.aio.AioRpcError, grpc.aio.UsageError) as error:
            log.debug("the service that reconciles did not hear of a close: %s", error)


def _reason_of(error: grpc.aio.AioRpcError, timeout_s: float) -> str:
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"it did not answer within {timeout_s:g} s"
    return error.details() or error.code().name


def _away(reason: str) -> NegRefusedError:
    return NegRefusedError("error", f"the service that reconciles cannot be asked: {reason}")
