"""The way to a store in another process: calls that are made again whenever they break, and one voice about it."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Any, Final

import grpc

from orly.pb.orlydb.v1.service_pb2_grpc import DatabaseServiceStub
from orly.rpc.convert import is_stream_open
from orly.rpc.ending import CallEnding
from orly.rpc.status import store_error
from orly.store.base import StoreError

__all__ = ["CLOSED", "EndedError", "Gate", "LastingCall", "StoreConnection"]

CLOSED: Final = "the store is closed"

FIRST_PAUSE_S: Final = 0.05
"""Between the break of a call and the next attempt; doubles with every further one."""

LONGEST_PAUSE_S: Final = 1.0

Call = Any
"""A running call of `grpc.aio`, whose own type says nothing of the messages."""

log = logging.getLogger(__name__)


class EndedError(Exception):
    """The service ended a call that should last, or said something that makes no sense."""


class StoreConnection:
    """What the calls to one service have in common.

    Args:
        channel: Closed by `close`.
        timeout_s: How long anything waits for a service that is away.

    Attributes:
        stub: The service's methods.
    """

    def __init__(self, channel: grpc.aio.Channel, *, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self.stub: Any = DatabaseServiceStub(channel)  # type: ignore[no-untyped-call]
        self._channel = channel
        self._broken: set[object] = set()
        self._reason: str | None = None

    @property
    def trouble(self) -> str | None:
        """Why the service cannot be reached; None when nothing is known to be wrong."""
        return self._reason

    def no_answer(self) -> StoreError:
        """The error for what waited in vain."""
        return StoreError(f"the store did not answer within {self.timeout_s:g} s")

    def lost(self, call: object, reason: str) -> None:
        """A call broke; the first one is logged."""
        if not self._broken:
            log.warning("the store is away: %s", reason)
            self._reason = reason
        self._broken.add(call)

    def back(self, call: object) -> None:
        """A call is made; when none is broken any more, that is logged."""
        if call in self._broken:
            self._broken.remove(call)
            if not self._broken:
                log.info("the store is back")
                self._reason = None

    def forget(self, call: object) -> None:
        """A call is over for good."""
        self._broken.discard(call)
        if not self._broken:
            self._reason = None

    async def ask(self, method: Callable[..., Awaitable[Any]], request: Any) -> Any:
        """One unary call; waits for a service that is away.

        Raises:
            StoreError: It failed, or there was no answer in time.
        """
        try:
            return await method(request, timeout=self.timeout_s, wait_for_ready=True)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise self.no_answer() from None
            raise store_error(error) from None
        except grpc.aio.UsageError:
            raise StoreError(CLOSED) from None

    async def follow(self, method: Callable[..., Any], request: Any) -> None:
        """One call that tells from time to time that it goes on, until it ends; waits for a service that is away.

        Raises:
            StoreError: It failed, or nothing was heard for too long.
        """
        call = None
        try:
            call = method(request, wait_for_ready=True)
            while True:
                async with asyncio.timeout(self.timeout_s):
                    if await call.read() is grpc.aio.EOF:
                        return
        except TimeoutError:
            raise self.no_answer() from None
        except grpc.aio.AioRpcError as error:
            raise store_error(error) from None
        except grpc.aio.UsageError:
            raise StoreError(CLOSED) from None
        finally:
            if call is not None:
                call.cancel()

    async def close(self) -> None:
        """Give the channel back."""
        await self._channel.close()


class LastingCall:
    """A stream that is opened again whenever it breaks, until it is closed.

    Args:
        connection: Hears when the call breaks and when it is back.
        name: For the log.
        open_call: Makes the call.
        converse: Talks over one call until it breaks or ends; cancelled when the call is given up.
    """

    def __init__(
        self,
        connection: StoreConnection,
        name: str,
        open_call: Callable[[], Call],
        converse: Callable[[Call], Awaitable[None]],
    ) -> None:
        self._connection = connection
        self._name = name
        self._open_call = open_call
        self._converse = converse
        self._task: asyncio.Task[None] | None = None
        self._conversation: asyncio.Task[None] | None = None
        self._pause_s = FIRST_PAUSE_S
        self._is_given_up = False
        self.is_made = False

    def start(self) -> None:
        """Begin, unless that was done."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    def give_up(self, reason: str) -> None:
        """Drop the call as it is and make a new one: its peer is mute."""
        if self._conversation is not None and self.is_made:
            self._is_given_up = True
            self.is_made = False
            self._connection.lost(self, reason)
            self._conversation.cancel()

    def heard(self) -> None:
        """The peer said something sensible; if the call breaks now, the next is made soon."""
        self._pause_s = FIRST_PAUSE_S

    async def close(self) -> None:
        """End the call."""
        self._connection.forget(self)
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            call = self._open_call()
            ending = CallEnding(call)
            self._conversation = loop.create_task(self._talk(call))
            try:
                await asyncio.wait((self._conversation,))
            finally:
                self.is_made = False
                self._conversation.cancel()
                call.cancel()
                await asyncio.wait((self._conversation,))
            reason = self._reason_of(self._conversation, ending)
            if not self._is_given_up:
                self._connection.lost(self, reason)
            self._is_given_up = False
            log.debug("%s broke: %s", self._name, reason)
            await asyncio.sleep(self._pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - nothing to be guessed
            self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)

    async def _talk(self, call: Call) -> None:
        if is_stream_open(await call.initial_metadata()):
            self.is_made = True
            self._connection.back(self)
            await self._converse(call)
        code = await call.code()
        if code is not grpc.StatusCode.OK:
            raise EndedError(await call.details() or code.name)

    def _reason_of(self, conversation: "asyncio.Task[None]", ending: CallEnding) -> str:
        if conversation.cancelled():
            return "no answer"
        match conversation.exception():
            case None | asyncio.InvalidStateError():  # written to after it had ended
                return "it ended the call"
            case grpc.aio.AioRpcError() as error:
                return ending.status(error)[1]
            case EndedError() as error:
                return str(error)
            case error:
                log.error("%s failed", self._name, exc_info=error)
                return "internal error"


class Gate:
    """Holds writes back while something must be in place before them."""

    def __init__(self) -> None:
        self._keepers: set[object] = set()
        self._is_open = asyncio.Event()
        self._is_open.set()

    def close_for(self, keeper: object) -> None:
        """Nothing passes until the keeper has opened."""
        self._keepers.add(keeper)
        self._is_open.clear()

    def open_for(self, keeper: object) -> None:
        """This keeper lets pass."""
        self._keepers.discard(keeper)
        if not self._keepers:
            self._is_open.set()

    async def passed(self) -> None:
        """Wait until all keepers let pass."""
        await self._is_open.wait()
