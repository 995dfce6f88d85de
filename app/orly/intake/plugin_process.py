"""One life of a write policy's program: its process group, its pipes and its end."""

import asyncio
import logging
import os
import signal
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import IO, Final, Self, cast

from orly.intake.plugin_lines import LineCutter

__all__ = ["LINES_PER_TURN", "MAX_ANSWER_BYTES", "MAX_MESSAGE_BYTES", "PluginProcess"]

LINES_PER_TURN: Final = 100
"""Lines of answer handled at a stretch, about a millisecond; then others on the event loop have their turn."""

MAX_ANSWER_BYTES: Final = 64 * 1024
"""A line of answer. One is some hundred bytes; who writes more writes no answers."""

MAX_MESSAGE_BYTES: Final = 4 * 1024
"""A line of standard error; the rest of a longer one is cut. It is to be read by people."""

_LAST_WORDS_S: Final = 1.0
"""How long a program whose pipes close may take to say the rest and to end; also the output of one that has ended."""

_TERM_S: Final = 1.0
"""From SIGTERM to SIGKILL: nobody is answered meanwhile."""

_KILL_S: Final = 5.0
"""From SIGKILL to giving up: a process in the hands of a dead disk does not go."""

log = logging.getLogger(__name__)


class PluginProcess(asyncio.SubprocessProtocol):
    """A running program; made by `start`.

    Attributes:
        over: Ends with the reason, a phrase such as "left with exit status 1", when no more answers are to be had:
            because the program has ended, or is of no use any more, or `stop` was called. Whoever started the program
            waits for this and then calls `end`.
    """

    def __init__(self, on_lines: Callable[[list[bytes]], None], on_writable: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_lines = on_lines
        self._on_writable = on_writable
        self.over: asyncio.Future[str] = self._loop.create_future()
        self._exited: asyncio.Future[None] = self._loop.create_future()
        self._drained: asyncio.Future[None] = self._loop.create_future()
        self._process: asyncio.SubprocessTransport | None = None
        self._outputs: list[asyncio.ReadTransport] = []
        self._input: asyncio.WriteTransport | None = None
        self._is_writable = False
        self._is_fading = False
        self._n_outputs = 2
        self._answers = LineCutter(MAX_ANSWER_BYTES)
        self._unheard: deque[bytes] = deque()
        self._turn_is_due = False
        self._is_held = False
        self._has_long_line = False
        self._no_more_answers = False
        self._messages = LineCutter(MAX_MESSAGE_BYTES)

    @classmethod
    async def start(
        cls, command: str, *, on_lines: Callable[[list[bytes]], None], on_writable: Callable[[], None]
    ) -> Self:
        """Run a shell command in a process group of its own.

        Args:
            command: For `/bin/sh -c`.
            on_lines: Takes lines that it wrote to its standard output, without their breaks.
            on_writable: Called when it takes input again.

        Raises:
            OSError: It could not be started.
        """
        made = cls(on_lines, on_writable)
        try:
            await made._spawn(command)
        except BaseException:
            made.abandon()
            raise
        return made

    async def _spawn(self, command: str) -> None:
        # Pipes of our own: those of uvloop are sockets, which a program cannot open as /dev/stderr or /dev/stdin.
        with ExitStack() as theirs, ExitStack() as ours:
            stdin, our_stdin = _pipe(theirs, ours)
            our_stdout, stdout = _pipe(ours, theirs)
            our_stderr, stderr = _pipe(ours, theirs)
            self._process, _ = await self._loop.subprocess_exec(
                lambda: self,
                *("/bin/sh", "-c", command),
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )
            ours.pop_all()
            self._input, _ = await self._loop.connect_write_pipe(
                lambda: _Input(self._input_paused, self._fade), our_stdin
            )
            await self._listen(our_stdout, self._take_answers, self._answers_ended)
            await self._listen(our_stderr, self._take_messages, self._messages_ended)
        self._is_writable = not self._is_fading

    async def _listen(self, pipe: IO[bytes], take: Callable[[bytes], None], ended: Callable[[], None]) -> None:
        await self._loop.connect_read_pipe(lambda: _Output(self._outputs.append, take, ended), pipe)

    @property
    def is_writable(self) -> bool:
        """Whether it takes input now; at most one line more than a pipe and its buffer hold is taken."""
        return self._is_writable

    def write(self, line: bytes) -> None:
        """Give it a line; only while it is writable."""
        assert self._input is not None
        self._input.write(line)

    def stop(self, why: str) -> None:
        """Take no more from it."""
        self._is_writable = False
        self._is_fading = True
        self._unheard.clear()
        if not self.over.done():
            self.over.set_result(why)

    async def end(self, *, grace_s: float) -> None:
        """See to it that it has ended: close its input, wait, then SIGTERM to its group, then SIGKILL.

        Args:
            grace_s: How long it may take to end by itself.
        """
        self.stop("was ended")
        if self._input is not None:
            self._input.close()
        for number, patience_s in ((None, grace_s), (signal.SIGTERM, _TERM_S), (signal.SIGKILL, _KILL_S)):
            if number is not None:
                self._signal(number)
            if await _happens(self._exited, patience_s):
                await _happens(self._drained, _LAST_WORDS_S)
                break
        else:
            log.error("process %d of the write policy does not end, not even by SIGKILL", self._pid)
        self.abandon()

    def abandon(self) -> None:
        """Kill it if it still runs, and let go of it without waiting."""
        self.stop("was ended")
        if not self._exited.done():
            self._signal(signal.SIGKILL)
        if self._input is not None:
            self._input.abort()
        for pipe in self._outputs:
            pipe.close()
        if self._process is not None:
            self._process.close()

    @property
    def _pid(self) -> int:
        return 0 if self._process is None else self._process.get_pid()

    def _signal(self, number: signal.Signals) -> None:
        if self._pid:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._pid, number)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It runs, and may end before whoever starts it is told so."""
        self._process = cast(asyncio.SubprocessTransport, transport)

    def process_exited(self) -> None:
        """It has ended: what it left behind in its group ends too, or would hold the pipes open."""
        self._signal(signal.SIGKILL)
        if not self._exited.done():
            self._exited.set_result(None)
        self._fade()

    def _input_paused(self, is_paused: bool) -> None:
        """The buffer of its input is full, or has room again."""
        self._is_writable = not is_paused and not self._is_fading
        if self._is_writable:
            self._on_writable()

    def _answers_ended(self) -> None:
        self._no_more_answers = True
        if not self._turn_is_due:
            self._all_heard()

    def _all_heard(self) -> None:
        self._output_ended()
        self._fade()

    def _messages_ended(self) -> None:
        self._take_messages(b"\n")
        self._output_ended()

    def _output_ended(self) -> None:
        self._n_outputs -= 1
        if not self._n_outputs:
            self._drained.set_result(None)
            if self._exited.done():
                self._expire()

    def _fade(self) -> None:
        """It ends, or is going to: what it still has to say is heard, for a while."""
        self._is_writable = False
        if self._exited.done() and self._drained.done():
            self._expire()
        elif not self._is_fading:
            self._loop.call_later(_LAST_WORDS_S, self._expire)
        self._is_fading = True

    def _expire(self) -> None:
        if self._exited.done() and self._process is not None:
            self.stop(_how_it_ended(self._process.get_returncode()))
        else:
            self.stop("closed its standard input or output")

    def _take_answers(self, data: bytes) -> None:
        if self.over.done():
            return
        lines = self._answers.feed(data)
        fits = [len(line) <= MAX_ANSWER_BYTES for line in (*lines, self._answers.rest)]
        n_good = fits.index(False) if False in fits else len(lines)
        self._unheard += lines[:n_good]
        self._has_long_line = not all(fits)
        if not self._turn_is_due:
            self._turn()

    def _turn(self) -> None:
        """Hand on what was read, some lines at a time; nothing more is read until all of it was."""
        if lines := [self._unheard.popleft() for _ in range(min(len(self._unheard), LINES_PER_TURN))]:
            self._on_lines(lines)
        self._turn_is_due = bool(self._unheard)
        if self._turn_is_due:
            self._hold(True)
            self._loop.call_soon(self._turn)
            return
        if self._has_long_line:
            self.stop(f"wrote a line of more than {MAX_ANSWER_BYTES} bytes")
        self._hold(False)
        if self._no_more_answers:
            self._all_heard()

    def _hold(self, is_held: bool) -> None:
        """Read from its standard output, or do not."""
        pipe = self._outputs[0]
        if is_held is self._is_held or pipe.is_closing():
            return
        self._is_held = is_held
        if is_held:
            pipe.pause_reading()
        else:
            pipe.resume_reading()

    def _take_messages(self, data: bytes) -> None:
        for line in self._messages.feed(data):
            text = line[:MAX_MESSAGE_BYTES].decode("utf-8", "backslashreplace").rstrip()
            if text:
                log.warning("%s%s", text, " [the rest was cut]" if len(line) > MAX_MESSAGE_BYTES else "")


class _Input(asyncio.BaseProtocol):
    """What hears of the pipe to the program."""

    def __init__(self, paused: Callable[[bool], None], ended: Callable[[], None]) -> None:
        self._paused = paused
        self._ended = ended

    def pause_writing(self) -> None:
        self._paused(True)

    def resume_writing(self) -> None:
        self._paused(False)

    def connection_lost(self, error: Exception | None) -> None:
        self._ended()


class _Output(asyncio.Protocol):
    """What hears of a pipe from the program."""

    def __init__(
        self,
        begun: Callable[[asyncio.ReadTransport], None],
        take: Callable[[bytes], None],
        ended: Callable[[], None],
    ) -> None:
        self._begun = begun
        self._take = take
        self._ended = ended

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._begun(cast(asyncio.ReadTransport, transport))

    def data_received(self, data: bytes) -> None:
        self._take(data)

    def connection_lost(self, error: Exception | None) -> None:
        self._ended()


def _pipe(reading: ExitStack, writing: ExitStack) -> tuple[IO[bytes], IO[bytes]]:
    """A pipe, its ends closed with what they are given to."""
    read_fd, write_fd = os.pipe()
    return (
        reading.enter_context(os.fdopen(read_fd, "rb", buffering=0)),
        writing.enter_context(os.fdopen(write_fd, "wb", buffering=0)),
    )


async def _happens(event: "asyncio.Future[None]", within_s: float) -> bool:
    await asyncio.wait((event,), timeout=within_s)
    return event.done()


def _how_it_ended(status: int | None) -> str:
    if status is None:
        return "is gone"
    if status < 0:
        with suppress(ValueError):
            return f"was ended by {signal.Signals(-status).name}"
    if status in (126, 127):
        return f"cannot be run (exit status {status}, see what the shell said)"
    return f"left with exit status {status}"
