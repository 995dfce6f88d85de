"""What the client does with replies, one handler per traffic pattern. Each ends by resolving `done`."""

import asyncio
import time
from collections import deque
from collections.abc import Sequence

from tests.bench.client import Channel, ok_verdict, reply_name, sub_of
from tests.bench.errors import BenchError
from tests.bench.workload import Workload

__all__ = ["SUB_WIDTH", "Publisher", "Requester", "Subscribers"]

SUB_WIDTH = 8
"""Length of the subscription ids of `Requester`, which finds them by position."""


class _Base:
    def __init__(self) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def failed(self, error: BenchError) -> None:
        if not self.done.done():
            self.done.set_exception(error)

    def _finish(self) -> None:
        if not self.done.done():
            self.done.set_result(None)


class Publisher(_Base):
    """Sends events, at most `window` unanswered per connection, and takes an OK true for each."""

    def __init__(self, workload: Workload, indexes: range, *, window: int, deadline: float) -> None:
        super().__init__()
        self.latencies_s: list[float] = []
        self.next = indexes.start
        self._end = indexes.stop
        self._workload = workload
        self._window = window
        self._deadline = deadline
        self._pending: dict[str, float] = {}
        self._credit: dict[int, int] = {}

    def start(self, channels: Sequence[Channel]) -> None:
        """Fill every window."""
        for channel in channels:
            channel.handler = self
        for channel in channels:
            self._send(channel, self._window)

    def text(self, channel: Channel, data: bytes, start: int, end: int) -> None:
        event_id = ok_verdict(data, start, end)
        if event_id is None:
            if reply_name(data, start, end) != "AUTH":
                raise BenchError(f"expected OK, got {data[start:end][:200]!r}")
            return
        sent_at = self._pending.pop(event_id, None)
        if sent_at is None:
            raise BenchError(f"an OK for an event that is not waiting for one: {event_id}")
        self.latencies_s.append(time.perf_counter() - sent_at)
        self._credit[channel.slot] = self._credit.get(channel.slot, 0) + 1

    def drained(self, channel: Channel) -> None:
        credit = self._credit.pop(channel.slot, 0)
        if credit and time.perf_counter() < self._deadline:
            self._send(channel, credit)
        if not self._pending:
            self._finish()

    def _send(self, channel: Channel, count: int) -> None:
        begin, end = self.next, min(self.next + count, self._end)
        if begin == end:
            return
        self.next = end
        self._pending.update(dict.fromkeys(self._workload.ids[begin:end], time.perf_counter()))
        channel.write(b"".join(self._workload.frames[begin:end]))


class Requester(_Base):
    """Keeps `per_channel` REQs in flight on each connection; after EOSE it sends CLOSE and the next REQ in one write.

    `requests` are (subscription id, REQ frame, CLOSE frame), used in rotation; ids are `SUB_WIDTH` characters
    and there are more of them than REQs in flight.
    """

    def __init__(
        self,
        requests: Sequence[tuple[str, bytes, bytes]],
        *,
        expected: int,
        per_channel: int,
        deadline: float,
    ) -> None:
        super().__init__()
        self.latencies_s: list[float] = []
        self.events = 0
        self._idle = deque(requests)
        self._expected = expected
        self._per_channel = per_channel
        self._deadline = deadline
        self._counts: dict[bytes, int] = {}
        self._open: dict[bytes, tuple[float, tuple[str, bytes, bytes]]] = {}
        self._out: list[bytes] = []

    def start(self, channels: Sequence[Channel]) -> None:
        """Send the first REQs."""
        for channel in channels:
            channel.handler = self
        for channel in channels:
            for _ in range(self._per_channel):
                self._out.append(self._request())
            self._flush(channel)

    def text(self, channel: Channel, data: bytes, start: int, end: int) -> None:
        if data.startswith(b'["EVENT","', start):
            sub = data[start + 10 : start + 10 + SUB_WIDTH]
            if sub in self._counts:
                self._counts[sub] += 1
                return
        name = reply_name(data, start, end)
        if name == "AUTH":
            return
        sub = sub_of(data, start, end).encode()
        if sub not in self._counts:
            raise BenchError(f"{name} for the subscription {sub!r}, which is not open")
        if name == "EVENT":
            self._counts[sub] += 1
        elif name == "EOSE":
            self._complete(sub)
        else:
            raise BenchError(f"expected EVENT or EOSE, got {data[start:end][:200]!r}")

    def drained(self, channel: Channel) -> None:
        self._flush(channel)
        if not self._counts:
            self._finish()

    def _complete(self, sub: bytes) -> None:
        count = self._counts.pop(sub)
        sent_at, request = self._open.pop(sub)
        self._idle.append(request)
        if count != self._expected:
            raise BenchError(f"REQ {sub!r} returned {count} events before EOSE instead of {self._expected}")
        self.events += count
        now = time.perf_counter()
        self.latencies_s.append(now - sent_at)
        self._out.append(request[2])
        if now < self._deadline:
            self._out.append(self._request())

    def _request(self) -> bytes:
        request = self._idle.popleft()
        key = request[0].encode()
        self._counts[key] = 0
        self._open[key] = (time.perf_counter(), request)
        return request[1]

    def _flush(self, channel: Channel) -> None:
        if self._out:
            channel.write(b"".join(self._out))
            self._out.clear()


class Subscribers(_Base):
    """Connections with one match-everything subscription each, and one publisher that waits for them.

    At most `window` events are under way; an event is, until its OK and all its deliveries have arrived.
    """

    def __init__(self, workload: Workload, indexes: range, *, window: int) -> None:
        super().__init__()
        self.latencies_s: list[float] = []
        self.next = indexes.start
        self.deliveries = 0
        self._begin = indexes.start
        self._end = indexes.stop
        self._workload = workload
        self._window = window
        self._deadline = 0.0
        self._oks = 0
        self._sent_at: list[float] = []
        self._counts: list[int] = []
        self._waiting_eose = 0
        self._publisher: Channel | None = None

    async def subscribe(self, channels: Sequence[Channel], frame: bytes) -> None:
        """Open the subscription on every connection and wait for all EOSEs."""
        self._counts = [0] * len(channels)
        self._waiting_eose = len(channels)
        for channel in channels:
            channel.handler = self
            channel.write(frame)
        await self.done
        self.done = asyncio.get_running_loop().create_future()
        self.deliveries = 0
        self._counts = [0] * len(channels)

    def publish(self, channel: Channel, *, deadline: float) -> None:
        """Start: `channel` is the publisher, with slot -1."""
        self._publisher = channel
        self._deadline = deadline
        channel.slot = -1
        channel.handler = self
        self._advance()

    def text(self, channel: Channel, data: bytes, start: int, end: int) -> None:
        if channel.slot == -1:
            if ok_verdict(data, start, end) is not None:
                self._oks += 1
            return
        name = reply_name(data, start, end)
        if name == "EVENT":
            self._delivered(channel.slot, data, start, end)
        elif name == "EOSE":
            self._waiting_eose -= 1

    def drained(self, channel: Channel) -> None:
        if self._publisher is None:
            if not self._waiting_eose:
                self._finish()
        else:
            self._advance()

    def check(self) -> None:
        """Every subscriber got every event exactly once.

        Raises:
            BenchError: one did not.
        """
        published = self.next - self._begin
        wrong = [count for count in self._counts if count != published]
        if wrong or self._oks != published:
            raise BenchError(
                f"{published} events gave {self._oks} OKs and {self._counts[:3]}... deliveries per subscriber"
            )

    def _delivered(self, slot: int, data: bytes, start: int, end: int) -> None:
        self.deliveries += 1
        self._counts[slot] += 1
        if slot == 0 and self._publisher is not None:
            order = self._counts[0] - 1
            if order >= len(self._sent_at):
                raise BenchError("the first subscriber got an event twice, or one that nobody sent")
            self.latencies_s.append(time.perf_counter() - self._sent_at[order])
            if self._window == 1 and data.find(self._workload.ids[self._begin + order].encode(), start, end) < 0:
                raise BenchError("the first subscriber got another event than the one published")

    def _advance(self) -> None:
        assert self._publisher is not None
        complete = min(self._oks, self.deliveries // len(self._counts))
        sent = self.next - self._begin
        now = time.perf_counter()
        room = self._window - (sent - complete)
        if now < self._deadline and room > 0 and self.next < self._end:
            end = min(self.next + room, self._end)
            self._sent_at += [now] * (end - self.next)
            self._publisher.write(b"".join(self._workload.frames[self.next : end]))
            self.next = end
        elif sent == complete:
            self._finish()
