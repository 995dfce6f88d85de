"""The reconciliations of clients (NIP-77), seen from the side that answers."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from orly import clock
from orly.negentropy import NegentropyError, Responder
from orly.reconciling import NegRefusedError
from orly.store.base import CountTooLargeError, EventStore, Query, StoreError
from orly.sync.negentropy.sets import Lease, SetKeeper, SetsFullError

if TYPE_CHECKING:
    from orly.settings import Settings

__all__ = ["INLINE_MESSAGE_BYTES", "LocalSets", "SessionInfo", "keeper_from_settings"]

INLINE_MESSAGE_BYTES: Final = 1_024
"""Messages up to this length are answered at once, which takes some milliseconds at most, whatever the set; longer
ones, which may take a second, by a thread."""

Key = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionInfo:
    """An open reconciliation, for operators.

    Attributes:
        connection_id: Whose.
        sub_id: Under which subscription id.
        created_at: When it was opened, Unix time in seconds.
        last_activity: When its newest message came or was answered.
        rounds: Messages that were answered.
    """

    connection_id: str
    sub_id: str
    created_at: int
    last_activity: int
    rounds: int


class _Session:
    __slots__ = (
        "active_s",
        "created_at",
        "is_closed",
        "last_activity",
        "lease",
        "lock",
        "n_busy",
        "responder",
        "rounds",
    )

    def __init__(self, now_s: int, active_s: float) -> None:
        self.created_at = self.last_activity = now_s
        self.active_s = active_s
        self.lease: Lease | None = None
        self.responder: Responder | None = None
        self.lock = asyncio.Lock()
        self.n_busy = 0
        self.rounds = 0
        self.is_closed = False

    def close(self) -> None:
        self.is_closed = True
        if self.lease is not None:
            self.lease.release()
            self.lease = None


def keeper_from_settings(settings: "Settings", store: EventStore, **clocks: Callable[[], int]) -> SetKeeper:
    """A `SetKeeper` with the limits of the settings."""
    return SetKeeper(
        store,
        max_items=settings.negentropy_max_items,
        max_sets_bytes=settings.negentropy_max_sets_bytes,
        **clocks,
    )


class LocalSets:
    """A `SetServer` in this process.

    Args:
        keeper: Makes the sets; stays the caller's.
        answer_bytes: Longest answer.
        max_sessions: Open ones in all.
        max_sessions_per_connection: Open ones of a connection.
        timeout_s: How long one may be idle.
        now_s: Unix time.
        monotonic_s: A steady clock.
    """

    def __init__(
        self,
        keeper: SetKeeper,
        *,
        answer_bytes: int,
        max_sessions: int,
        max_sessions_per_connection: int,
        timeout_s: float,
        now_s: Callable[[], int] = clock.now_s,
        monotonic_s: Callable[[], float] = clock.monotonic_s,
    ) -> None:
        self._keeper = keeper
        self._answer_bytes = answer_bytes
        self._max_sessions = max_sessions
        self._max_sessions_per_connection = max_sessions_per_connection
        self._timeout_s = timeout_s
        self._now_s = now_s
        self._monotonic_s = monotonic_s
        self._sessions: dict[Key, _Session] = {}
        self._of_connection: dict[str, set[str]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._thread: ThreadPoolExecutor | None = None

    @classmethod
    def from_settings(cls, settings: "Settings", keeper: SetKeeper) -> "LocalSets":
        """With the limits of the settings."""
        return cls(
            keeper,
            answer_bytes=settings.negentropy_answer_bytes,
            max_sessions=settings.negentropy_max_sessions,
            max_sessions_per_connection=settings.negentropy_max_sessions_per_connection,
            timeout_s=settings.sync_negentropy_session_timeout_s,
        )

    # What clients do (SetServer)

    async def open(self, connection_id: str, sub_id: str, query: Query, message: bytes) -> bytes:
        key = (connection_id, sub_id)
        self.close(connection_id, sub_id)
        self._refuse_too_many(connection_id)
        session = self._add(key)
        try:
            lease = await self._lease(connection_id, query)
            if session.is_closed:
                lease.release()
                raise NegRefusedError("closed", "it was closed while its set was read")
            session.lease = lease
            session.responder = Responder(lease.items, max_frame_bytes=self._answer_bytes)
            return await self._answer(key, session, message)
        except BaseException:
            self._drop(key, session)
            raise

    async def go_on(self, connection_id: str, sub_id: str, message: bytes) -> bytes:
        key = (connection_id, sub_id)
        session = self._sessions.get(key)
        if session is None or session.responder is None:
            raise NegRefusedError("closed", "no reconciliation is open under this subscription id, or not any more")
        return await self._answer(key, session, message)

    def close(self, connection_id: str, sub_id: str) -> None:
        key = (connection_id, sub_id)
        session = self._sessions.get(key)
        if session is not None:
            self._drop(key, session)

    def gone(self, connection_id: str) -> None:
        for sub_id in tuple(self._of_connection.get(connection_id, ())):
            self.close(connection_id, sub_id)

    # What operators do

    def sessions(self) -> list[SessionInfo]:
        """The open ones, the longest idle first."""
        return [
            SessionInfo(
                connection_id=connection_id,
                sub_id=sub_id,
                created_at=session.created_at,
                last_activity=session.last_activity,
                rounds=session.rounds,
            )
            for (connection_id, sub_id), session in self._sessions.items()
        ]

    def close_all(self, sub_id: str, connection_id: str = "") -> int:
        """End those under a subscription id, of one connection or (empty) of all; returns how many there were."""
        keys = [key for key in self._sessions if key[1] == sub_id and connection_id in ("", key[0])]
        for key in keys:
            self.close(*key)
        return len(keys)

    def expire(self) -> int:
        """End those that were idle for too long; returns how many there were."""
        idle_since_s = self._monotonic_s() - self._timeout_s
        expired = []
        for key, session in self._sessions.items():
            if session.active_s > idle_since_s:
                break
            if not session.n_busy and session.responder is not None:
                expired.append((key, session))
        for key, session in expired:
            self._drop(key, session)
        return len(expired)

    async def aclose(self) -> None:
        """End all sessions and the thread."""
        for connection_id, sub_id in tuple(self._sessions):
            self.close(connection_id, sub_id)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        thread, self._thread = self._thread, None
        if thread is not None:
            await asyncio.to_thread(thread.shutdown)

    # Sessions

    def _refuse_too_many(self, connection_id: str) -> None:
        if len(self._of_connection.get(connection_id, ())) >= self._max_sessions_per_connection:
            raise NegRefusedError(
                "blocked", f"this connection has {self._max_sessions_per_connection} reconciliations open, the maximum"
            )
        if len(self._sessions) >= self._max_sessions:
            raise NegRefusedError(
                "blocked", f"{self._max_sessions} reconciliations are open, the maximum; try again later"
            )

    def _add(self, key: Key) -> _Session:
        session = self._sessions[key] = _Session(self._now_s(), self._monotonic_s())
        self._of_connection.setdefault(key[0], set()).add(key[1])
        if self._timer is None:
            self._set_timer(self._timeout_s)
        return session

    def _drop(self, key: Key, session: _Session) -> None:
        """End a session, and forget it unless another has taken its place."""
        session.close()
        if self._sessions.get(key) is session:
            del self._sessions[key]
            own = self._of_connection[key[0]]
            own.discard(key[1])
            if not own:
                del self._of_connection[key[0]]

    def _touch(self, key: Key, session: _Session) -> None:
        session.last_activity = self._now_s()
        session.active_s = self._monotonic_s()
        if self._sessions.get(key) is session:
            self._sessions[key] = self._sessions.pop(key)

    def _set_timer(self, delay_s: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self.expire()
        oldest = next(iter(self._sessions.values()), None)
        if oldest is not None:
            idle_s = self._monotonic_s() - oldest.active_s
            self._set_timer(max(self._timeout_s - idle_s, self._timeout_s / 10))

    # Answers

    async def _lease(self, connection_id: str, query: Query) -> Lease:
        try:
            return await self._keeper.lease(query, connection_id)
        except SetsFullError as error:
            raise NegRefusedError("blocked", str(error)) from None
        except CountTooLargeError:
            most = self._keeper.max_items
            raise NegRefusedError("blocked", f"too many query results, the maximum is {most} events", most) from None
        except StoreError as error:
            raise NegRefusedError("error", str(error)) from None

    async def _answer(self, key: Key, session: _Session, message: bytes) -> bytes:
        session.n_busy += 1
        self._touch(key, session)
        try:
            async with session.lock:
                if session.is_closed:
                    raise NegRefusedError("closed", "it was closed before this message was answered")
                answer = await self._compute(session, message)
        except NegentropyError as error:
            self._drop(key, session)
            raise NegRefusedError("invalid", str(error)) from None
        finally:
            session.n_busy -= 1
            self._touch(key, session)
        session.rounds += 1
        return answer

    async def _compute(self, session: _Session, message: bytes) -> bytes:
        assert session.responder is not None
        if len(message) <= INLINE_MESSAGE_BYTES:
            return session.responder.answer(message)
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "orly-negentropy")
        return await asyncio.get_running_loop().run_in_executor(self._thread, session.responder.answer, message)
