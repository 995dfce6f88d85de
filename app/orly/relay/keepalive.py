"""What time does to a connection: pings, idle and slow readers, closes that do not end. One timer serves them all."""

from typing import Final

from websockets.frames import CloseCode

from orly.relay.outbox import Outbox

__all__ = ["Watched"]

_NEVER_S: Final = float("inf")


class Watched(Outbox):
    """An outbox that the hub checks for what is due.

    The hub calls `check` once `check_at_s` has come. That time may be too early, since reads and writes move what is
    due without touching it, but never too late: whatever brings something forward sets it back to 0.
    """

    __slots__ = ("_close_by_s", "_heard_at_s", "_pinged_at_s", "_unsent_bytes")

    def __init__(self) -> None:
        super().__init__()
        self._heard_at_s = self.hub.now_s
        self._pinged_at_s = 0.0
        self._unsent_bytes = 0
        self._close_by_s = _NEVER_S

    def check(self, now_s: float) -> None:
        """Does what is due at `now_s` and sets when to look again."""
        if not self._open:
            self.check_at_s = self._close_by_s
            if now_s >= self._close_by_s:
                self.abort()
        elif self._unsent(now_s):
            self.check_at_s = now_s
        else:
            due_at_s = min(self._check_silence(now_s), self._check_idle(now_s))
            if self._open and not self._paused:
                self.check_at_s = due_at_s

    def _set_close_deadline(self) -> None:
        self._close_by_s = self.hub.now_s + self.hub.limits.close_timeout_s
        self.check_at_s = 0.0

    def _unsent(self, now_s: float) -> bool:
        """Whether something waits for the reader; cuts it off when it has taken nothing for too long."""
        unsent = self._transport.get_write_buffer_size()
        timeout_s = self.hub.limits.send_timeout_s
        if unsent != self._unsent_bytes:
            self._unsent_bytes = unsent
            self.progress_at_s = now_s
        elif unsent and timeout_s and now_s - self.progress_at_s >= timeout_s:
            self._on_stuck()
            self.abort()
        return unsent > 0

    def _check_silence(self, now_s: float) -> float:
        """Pings a silent client, gives up on one that does not answer; returns when to look again."""
        limits = self.hub.limits
        if not limits.ping_interval_s:
            return _NEVER_S
        if not self._listens():
            return now_s + limits.ping_interval_s
        alive_at_s = max(self._heard_at_s, self.progress_at_s)
        if alive_at_s < self._pinged_at_s:
            give_up_at_s = self._pinged_at_s + limits.pong_timeout_s
            if now_s >= give_up_at_s:
                self.close(CloseCode.INTERNAL_ERROR, f"no answer to a ping within {limits.pong_timeout_s:g} s")
            return give_up_at_s
        if now_s - alive_at_s < limits.ping_interval_s:
            return alive_at_s + limits.ping_interval_s
        self._ping()
        self._pinged_at_s = now_s
        return now_s + limits.pong_timeout_s

    def _check_idle(self, now_s: float) -> float:
        """Closes a connection that is used for nothing; returns when to look again."""
        timeout_s = self.hub.limits.idle_timeout_s
        if not timeout_s:
            return _NEVER_S
        if now_s - self.message_at_s < timeout_s:
            return self.message_at_s + timeout_s
        if self._is_idle():
            self.close(CloseCode.NORMAL_CLOSURE, "idle")
        return now_s + timeout_s

    def close(self, code: int, reason: str) -> None:
        """Sends what is queued, then a close frame."""
        raise NotImplementedError

    def _listens(self) -> bool:
        """Whether the socket is being read; while it is not, silence says nothing about the client."""
        raise NotImplementedError

    def _is_idle(self) -> bool:
        """Whether the client has nothing under way."""
        raise NotImplementedError

    def _ping(self) -> None:
        """Sends a ping."""
        raise NotImplementedError

    def _on_stuck(self) -> None:
        """The reader has taken nothing for too long and is about to be cut off."""
        raise NotImplementedError
