"""A write policy that is a program of the operator's: it is asked about every event, and kept running."""

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import StrEnum
from typing import Final, assert_never

import msgspec

from orly.intake.plugin_ledger import Call, Ledger
from orly.intake.plugin_lines import Asked, Judgement, PluginLineError, Ruling, parse_answer
from orly.intake.plugin_process import PluginProcess
from orly.nostr.reason import Prefix, Refusal

__all__ = ["CANNOT_ASK", "MAX_JUNK_BYTES", "MAX_JUNK_LINES", "OnFailure", "PluginOptions", "WritePlugin"]

CANNOT_ASK: Final = Refusal(Prefix.ERROR, "the write policy cannot be asked")

MAX_JUNK_LINES: Final = 1000
"""Lines in a row that answer nothing it was asked; ten for each event in flight, if that is more. A program may print
some with each event, but one that has no end of them takes the time of everybody."""

MAX_JUNK_BYTES: Final = 1024 * 1024
"""The same in bytes."""

_FIRST_PAUSE_S: Final = 0.1
"""Before the first new start; it doubles with each until an event is judged."""

_LONGEST_PAUSE_S: Final = 10.0
"""A program that does not come up costs a start this often."""

_GRACE_S: Final = 2.0
"""For a program whose input was closed to end by itself."""

_MOMENT_S: Final = 0.5
"""A program that has answered, or run for so long, has been started; one that cannot be run ends before."""

_JUNK_PAUSE_S: Final = 10.0
"""Between records about lines that are no answers: a program may print one with each event."""

_TICK_S: Final = 0.001
"""The loop's timers count in milliseconds and may be early by one."""

_SHOWN_BYTES: Final = 200

log = logging.getLogger(__name__)


class OnFailure(StrEnum):
    """What becomes of an event about which the program could not be asked."""

    REFUSE = "refuse"
    ACCEPT = "accept"


class PluginOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How to ask a write policy.

    Attributes:
        command: For `/bin/sh -c`. Without a space it is a path; when that file changes the program is started anew.
        timeout_s: What an event may take, and how long one waits for a program that is down.
        max_in_flight: Events that the program has at once.
        on_failure: What becomes of events about which it could not be asked.
        hidden_variables: Of the environment, what the program does not get.
    """

    command: str
    timeout_s: float = 10.0
    max_in_flight: int = 100
    on_failure: OnFailure = OnFailure.REFUSE
    hidden_variables: tuple[str, ...] = ()


class WritePlugin:
    """Asks one program about events; made on an event loop and used from it, any number of calls at once.

    The program speaks strfry's protocol for plugins (see `orly.intake.plugin_lines`), but gets the next events before
    it has answered the last, and may answer in any order. It is started at the first event, and again when it ends,
    when it does not answer in time and when its answers make no sense.
    """

    def __init__(self, options: PluginOptions, *, monotonic_s: Callable[[], float]) -> None:
        """`monotonic_s` is the clock of all waiting."""
        self._options = options
        self._monotonic_s = monotonic_s
        self._loop = asyncio.get_running_loop()
        self._ledger = Ledger(timeout_s=options.timeout_s, max_in_flight=options.max_in_flight)
        self._failed = _failed(options.on_failure)
        self._child: PluginProcess | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._start_timer: asyncio.TimerHandle | None = None
        self._pause_s = _FIRST_PAUSE_S
        self._modified_ns: int | None = None
        self._is_outdated = False
        self._junk_after_s = float("-inf")
        self._n_junk = 0
        self._max_junk_lines = max(MAX_JUNK_LINES, 10 * options.max_in_flight)
        self._junk_lines = self._junk_bytes = 0

    @property
    def n_in_flight(self) -> int:
        """Events that the program has and has not answered."""
        return self._ledger.n_in_flight

    def start(self) -> None:
        """Start the program, if it was not started yet, so that the first event does not wait for it."""
        if self._keeper is None and not self._closing.is_set():
            self._keeper = self._loop.create_task(self._keep())

    async def judge(self, asked: Sequence[Asked]) -> list[Judgement]:
        """What becomes of events: one judgement for each, in their order."""
        if not asked or self._closing.is_set():
            return [self._failed] * len(asked)
        self.start()
        self._look_at_file()
        call = Call(asked, [self._failed] * len(asked), self._monotonic_s(), self._loop.create_future())
        self._ledger.add(call)
        self._pump()
        if self._timer is None:
            self._timer = self._loop.call_later(self._options.timeout_s, self._on_timer)
        try:
            await call.done
        finally:
            self._ledger.drop(call)
        return call.judgements

    async def aclose(self) -> None:
        """End the program and wait until it is gone. Who waits for a judgement gets one at once: it has failed."""
        self._closing.set()
        if self._timer is not None:
            self._timer.cancel()
        self._release()
        self._ledger.give_up()
        if self._keeper is not None:
            await asyncio.shield(self._keeper)

    async def _keep(self) -> None:
        """Start the program, again and again."""
        while not self._closing.is_set():
            if await self._live():
                continue
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), self._pause_s)
            self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)

    async def _live(self) -> bool:
        """One life of the program; whether it ends because we want it to."""
        self._modified_ns, self._is_outdated = _modified_ns(self._options.command), False
        self._junk_lines = self._junk_bytes = 0
        try:
            unset = f"unset {' '.join(self._options.hidden_variables)}; " if self._options.hidden_variables else ""
            command = unset + self._options.command
            child = await PluginProcess.start(command, on_lines=self._on_lines, on_writable=self._pump)
        except OSError as error:
            log.error("the write policy `%s` cannot be started: %s", self._options.command, error)
            return False
        try:
            self._child = child
            self._start_timer = self._loop.call_later(_MOMENT_S, self._has_started)
            if self._closing.is_set():
                self._release()
            self._pump()
            self._lose(await child.over)
            is_wanted = self._closing.is_set() or self._is_outdated
            await child.end(grace_s=_GRACE_S if is_wanted else 0)
        finally:
            child.abandon()
        return is_wanted

    def _has_started(self) -> None:
        """It is there: say so, once."""
        if self._start_timer is not None:
            self._start_timer.cancel()
            self._start_timer = None
            log.info("the write policy `%s` was started", self._options.command)

    def _lose(self, why: str) -> None:
        """The program is of no more use; what it was asked has failed."""
        if self._child is None:
            return
        self._release(why)
        self._is_outdated = False
        log.warning(
            "the write policy `%s` %s; %d events are %s, and it is started again in %g s",
            self._options.command,
            why,
            self._ledger.lose_in_flight(),
            "refused" if self._options.on_failure is OnFailure.REFUSE else "taken without its judgement",
            self._pause_s,
        )

    def _release(self, why: str = "was ended") -> None:
        """Have no more to do with the program; its keeper ends it."""
        if self._child is not None:
            self._child.stop(why)
            self._child = None
        if self._start_timer is not None:
            self._start_timer.cancel()
            self._start_timer = None

    def _look_at_file(self) -> None:
        """Find out whether the program has changed; if so it answers what it was asked, and then has a successor."""
        if self._child is None or self._is_outdated:
            return
        modified_ns = _modified_ns(self._options.command)
        if modified_ns is not None and modified_ns != self._modified_ns:
            log.info("the write policy `%s` has changed: it is started anew", self._options.command)
            self._is_outdated = True
            self._release_idle()

    def _release_idle(self) -> None:
        if self._is_outdated and not self._ledger.n_in_flight:
            self._release()

    def _pump(self) -> None:
        """Write what can be written."""
        child = self._child
        if child is None or self._is_outdated:
            return
        now_s = self._monotonic_s()
        while child.is_writable and (line := self._ledger.next_line(now_s)) is not None:
            child.write(line)

    def _on_lines(self, lines: list[bytes]) -> None:
        now_s = self._monotonic_s()
        for line in lines:
            if fault := self._take_line(line, now_s):
                self._lose(fault)
                return
        self._release_idle()
        self._pump()

    def _take_line(self, line: bytes, now_s: float) -> str:
        """Settle what a line answers; returns why the program is of no more use, empty if it is."""
        try:
            event_id, judgement = parse_answer(line)
        except PluginLineError as error:
            if error.event_id is None:
                self._tell_junk(line, error, now_s)
                return self._count_junk(line)
            if self._ledger.is_in_flight(error.event_id):
                return f"made no sense about event {error.event_id}: {error}"
        else:
            if self._ledger.answer(event_id, judgement, now_s):
                self._pause_s = _FIRST_PAUSE_S
                self._junk_lines = self._junk_bytes = 0
                self._has_started()
                return ""
        log.debug("an answer about an event that was not asked about: %s", _shown(line))
        return self._count_junk(line)

    def _count_junk(self, line: bytes) -> str:
        self._junk_lines += 1
        self._junk_bytes += len(line) + 1
        if self._junk_lines <= self._max_junk_lines and self._junk_bytes <= MAX_JUNK_BYTES:
            return ""
        return f"wrote {self._junk_lines} lines in a row, {self._junk_bytes} bytes, that answer nothing it was asked"

    def _on_timer(self) -> None:
        self._timer = None
        now_s = self._monotonic_s()
        if self._ledger.expire(now_s):
            self._lose(f"did not answer within {self._options.timeout_s:g} s")
        deadline_s = self._ledger.deadline_s()
        if deadline_s is not None:
            self._timer = self._loop.call_later(max(deadline_s - now_s, _TICK_S), self._on_timer)

    def _tell_junk(self, line: bytes, error: PluginLineError, now_s: float) -> None:
        if not line.strip():
            return
        if now_s < self._junk_after_s:
            self._n_junk += 1
            return
        before = f" (and {self._n_junk} more since the last record of this kind)" if self._n_junk else ""
        log.warning("a line of the write policy is passed over, %s: %s%s", error, _shown(line), before)
        self._n_junk, self._junk_after_s = 0, now_s + _JUNK_PAUSE_S


def _failed(on_failure: OnFailure) -> Judgement:
    match on_failure:
        case OnFailure.REFUSE:
            return CANNOT_ASK
        case OnFailure.ACCEPT:
            return Ruling.ACCEPTED
        case _:
            assert_never(on_failure)


def _modified_ns(command: str) -> int | None:
    """When the program's file was changed last; None if the command is more than a path, or there is no such file."""
    if " " in command:
        return None
    try:
        return os.stat(command).st_mtime_ns
    except OSError:
        return None


def _shown(line: bytes) -> str:
    return line[:_SHOWN_BYTES].decode("utf-8", "backslashreplace")
