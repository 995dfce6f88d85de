"""What the benchmark takes for an answer: a refusal or a wrong count must never be counted as work done."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from typing import cast

import pytest
from tests.bench.client import Channel, ok_verdict, reply_name, sub_of
from tests.bench.errors import BenchError
from tests.bench.handlers import Publisher, Requester, Subscribers
from tests.bench.measure import ProcessTree, percentile
from tests.bench.workload import Workload

_IDS = tuple(f"{n:064x}" for n in range(6))
_WORK = Workload(
    events=(b"{}",) * 6, frames=tuple(f"<{n}>".encode() for n in range(6)), ids=_IDS, library=0, heavy=(), frequent=()
)


class _Channel:
    """Records what a handler writes."""

    def __init__(self, slot: int = 0) -> None:
        self.slot = slot
        self.handler: object = None
        self.written = b""

    def write(self, data: bytes) -> None:
        self.written += data


def _new(slot: int = 0) -> tuple[_Channel, Channel]:
    channel = _Channel(slot)
    return channel, cast(Channel, channel)


def _run(test: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await test()

    asyncio.run(main())


def _ok(event_id: str, rest: str = 'true,""') -> bytes:
    return f'["OK","{event_id}",{rest}]'.encode()


def test_an_ok_is_read_with_and_without_white_space() -> None:
    tight = _ok(_IDS[1])
    assert ok_verdict(b"junk" + tight + b"junk", 4, 4 + len(tight)) == _IDS[1]
    loose = f'[ "OK", "{_IDS[1]}", true, "" ]'.encode()
    assert ok_verdict(loose, 0, len(loose)) == _IDS[1]
    eose = b'["EOSE","a"]'
    assert ok_verdict(eose, 0, len(eose)) is None


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (_ok(_IDS[0], 'false,"invalid: no"'), "invalid: no"),
        (_ok(_IDS[0], 'true,"duplicate: have it"'), "another --seed"),
        (b"nonsense", "no JSON array"),
        (b'["OK"]', "without a body"),
    ],
)
def test_an_answer_that_is_no_plain_ok_is_an_error(message: bytes, words: str) -> None:
    with pytest.raises(BenchError, match=words):
        ok_verdict(message, 0, len(message))


def test_a_notice_or_closed_is_an_error_and_a_subscription_id_is_found() -> None:
    for message in (b'["NOTICE","slow down"]', b'["CLOSED","s","blocked: no"]'):
        with pytest.raises(BenchError, match=r"slow down|blocked: no"):
            reply_name(message, 0, len(message))
    for message in (b'["EVENT","s1",{}]', b'["EOSE","s1"]', b'["EOSE", "s1"]'):
        assert sub_of(message, 0, len(message)) == "s1"


def test_the_publisher_keeps_its_window_and_gives_back_what_it_did_not_send() -> None:
    async def test() -> None:
        record, channel = _new()
        publisher = Publisher(_WORK, range(6), window=2, deadline=time.perf_counter() + 60)
        publisher.start([channel])
        assert record.written == b"<0><1>"
        for answered in (_ok(_IDS[1]), _ok(_IDS[0])):
            publisher.text(channel, answered, 0, len(answered))
        publisher.drained(channel)
        assert record.written == b"<0><1><2><3>"
        with pytest.raises(BenchError, match="not waiting"):
            publisher.text(channel, _ok(_IDS[0]), 0, len(_ok(_IDS[0])))
        assert publisher.next == 4
        assert not publisher.done.done()

    _run(test)


def test_a_req_with_a_missing_event_is_an_error_and_a_complete_one_is_followed_by_the_next() -> None:
    async def test() -> None:
        record, channel = _new()
        requests = [(f"{n:08d}", f"<req {n}>".encode(), f"<close {n}>".encode()) for n in range(3)]
        requester = Requester(requests, expected=1, per_channel=1, deadline=time.perf_counter() + 60)
        requester.start([channel])
        event, eose = b'["EVENT","00000000",{}]', b'["EOSE","00000000"]'
        requester.text(channel, event, 0, len(event))
        requester.text(channel, eose, 0, len(eose))
        requester.drained(channel)
        assert record.written == b"<req 0><close 0><req 1>"
        late = b'["EOSE","00000001"]'
        with pytest.raises(BenchError, match="returned 0 events before EOSE instead of 1"):
            requester.text(channel, late, 0, len(late))
        with pytest.raises(BenchError, match="not open"):
            requester.text(channel, eose, 0, len(eose))

    _run(test)


def test_deliveries_are_checked_per_subscriber() -> None:
    async def test() -> None:
        (_, first), (_, second), (_, publisher) = _new(0), _new(1), _new()
        handler = Subscribers(_WORK, range(6), window=1)
        opening = asyncio.ensure_future(handler.subscribe([first, second], b"<req>"))
        await asyncio.sleep(0)
        eose = b'["EOSE","all"]'
        for channel in (first, second):
            handler.text(channel, eose, 0, len(eose))
        handler.drained(second)
        await opening
        handler.publish(publisher, deadline=time.perf_counter() + 60)
        event, ok = f'["EVENT","all",{{"id":"{_IDS[0]}"}}]'.encode(), _ok(_IDS[0])
        handler.text(publisher, ok, 0, len(ok))
        handler.text(first, event, 0, len(event))
        with pytest.raises(BenchError, match="deliveries per subscriber"):
            handler.check()
        handler.text(second, event, 0, len(event))
        handler.check()
        with pytest.raises(BenchError, match="twice"):
            handler.text(first, event, 0, len(event))

    _run(test)


def test_the_cpu_time_of_a_tree_includes_children_that_have_ended() -> None:
    burn = "import time\nwhile time.process_time() < 0.3: pass\n"
    child = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {burn!r}])\n"
    code = f"{child}{burn}print(flush=True)\nsys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        tree = ProcessTree(process.pid)
        assert 0.55e9 < tree.cpu_ns() < 3e9
        assert tree.memory().anonymous_bytes < tree.memory().rss_bytes
        process.communicate(b"")
    with pytest.raises(BenchError, match="no process"):
        ProcessTree(process.pid)


def test_percentiles_of_few_values() -> None:
    assert percentile([], 0.5) == 0.0
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile([1.0, 2.0], 0.99) == 2.0
