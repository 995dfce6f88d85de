"""Crowds that the relay must bear: idle ones, ones that never read, ones that send rubbish; others are served."""

import asyncio
import json
import random
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from typing import Any, Final

import uvloop
from tests.factory import event_fields, make_event
from tests.load.crowd import Crowd, Member, gathered, open_files, probing, text
from tests.process import RelayProcess, running_relay
from tests.wsclient import BINARY, CLOSE, CONTINUATION, PING, TEXT, connect, frame, until

KIB: Final = 1024
MIB: Final = 1024 * KIB
IDLE: Final = 2000
SLOW: Final = 200


def run(main: Coroutine[Any, Any, None]) -> None:
    """Runs a test on a fast loop: the crowd must not be what is slow."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main)


async def emptied(relay: RelayProcess, sockets: int) -> None:
    """Waits until the relay holds no more sockets than that."""
    await until(lambda: relay.open_sockets() <= sockets, f"the relay to be down to {sockets} sockets")


async def _idle_round(relay: RelayProcess) -> None:
    before = relay.anonymous_bytes()
    async with probing(relay.url) as probe, gathered(relay.url, IDLE) as crowd:
        assert crowd.count(101) == IDLE
        await probe.goes_on()
        assert relay.anonymous_bytes() - before < IDLE * 24 * KIB
        async with gathered(relay.url, 20) as too_many:
            assert too_many.count(503) == 20, "the relay says so when it is full"
        crowd.tell(text('["REQ","s",{"kinds":[1],"limit":0}]'))
        await crowd.heard(len('["EOSE","s"]') + 2)
        await probe.goes_on()


async def _come_and_go(relay: RelayProcess) -> None:
    async with gathered(relay.url, IDLE) as crowd:
        assert crowd.count(101) == IDLE


def test_two_thousand_idle_connections() -> None:
    async def main(relay: RelayProcess) -> None:
        at_rest = relay.open_sockets()
        after_round: list[int] = []
        for visit in (_idle_round, _idle_round, *[_come_and_go] * 5):
            await visit(relay)
            await emptied(relay, at_rest)
            after_round.append(relay.anonymous_bytes())
        grown = after_round[-1] - after_round[2]
        assert grown < 2 * MIB, f"8000 connections have come and gone and left {grown} bytes: {after_round}"

    limits = {"ORLY_MAX_GLOBAL_CONNECTIONS": str(IDLE + 1), "ORLY_MAX_SUBSCRIPTIONS": str(IDLE + 10)}
    with open_files(2 * IDLE + 500), running_relay(**limits) as relay:
        run(main(relay))


def _note(number: int, n_bytes: int) -> dict[str, object]:
    return event_fields(make_event(6, content=f"{number:08}" + "x" * n_bytes))


async def publish(url: str, events: list[dict[str, object]]) -> None:
    """Publishes through one connection, which reads its answers."""
    async with connect(url) as client:
        for start in range(0, len(events), 50):
            window = events[start : start + 50]
            for event in window:
                await client.send("EVENT", event)
            for event in window:
                assert await client.receive() == ["OK", event["id"], True, ""]


async def hear(url: str, events: list[dict[str, object]], listening: asyncio.Event) -> None:
    """A reader that does read gets every one of these events, in order, once."""
    async with connect(url) as client:
        await client.send("REQ", "all", {"authors": [make_event(6).event.pubkey], "limit": 0})
        assert await client.receive() == ["EOSE", "all"]
        listening.set()
        for event in events:
            assert await client.receive() == ["EVENT", "all", event]


async def _deaf_round(relay: RelayProcess, events: list[dict[str, object]]) -> int:
    """Publishes to a crowd that never reads and to one reader that does; the most memory seen."""
    peak = 0
    async with (
        probing(relay.url) as probe,
        gathered(relay.url, SLOW, is_remote=True) as crowd,
        asyncio.TaskGroup() as group,
    ):
        assert crowd.count(101) == SLOW
        crowd.tell(text('["REQ","everything",{"limit":0}]'))
        await crowd.heard(1)
        for member in crowd.members:
            member.stop_reading()
        listening = asyncio.Event()
        reader = group.create_task(hear(relay.url, events, listening))
        await listening.wait()
        writer = group.create_task(publish(relay.url, events))
        while not (reader.done() and writer.done()):
            peak = max(peak, relay.anonymous_bytes())
            await asyncio.wait([reader, writer], timeout=0.05)
        await probe.goes_on()
        for member in crowd.members:
            member.go_on_reading()
        await until(lambda: all(map(_is_dropped, crowd.members)), "slow readers to be dropped")
    return peak


def _is_dropped(member: Member) -> bool:
    """Told that it reads too slowly, or cut off where all of them together held too much."""
    return member.lost or member.tail.endswith(b"reading too slowly")


def test_two_hundred_readers_that_never_read_live_events() -> None:
    events = [_note(number, 16 * KIB) for number in range(400)]
    limits = {"ORLY_MAX_SEND_BACKLOG": "1MiB", "ORLY_MAX_TOTAL_SEND_BACKLOG": "24MiB"}

    async def main(relay: RelayProcess) -> None:
        at_rest = relay.open_sockets()
        before = relay.anonymous_bytes()
        after_round: list[int] = []
        for start in range(0, len(events), 100):
            assert await _deaf_round(relay, events[start : start + 100]) - before < (24 + 40) * MIB
            await emptied(relay, at_rest)
            after_round.append(relay.anonymous_bytes())
        assert after_round[-1] - before < (24 + 40) * MIB, f"four backlogs of 24 MiB have come and gone: {after_round}"

    with open_files(1000), running_relay(**limits) as relay:
        run(main(relay))


async def _waiting_round(relay: RelayProcess, answer_bytes: int) -> int:
    """A crowd asks four times for everything and reads nothing; one more client asks and reads.

    Returns:
        The memory held meanwhile.
    """
    before = relay.anonymous_bytes()
    async with (
        probing(relay.url) as probe,
        gathered(relay.url, SLOW, is_remote=True) as crowd,
        gathered(relay.url, 1) as readers,
    ):
        assert crowd.count(101) == SLOW
        for member in crowd.members:
            member.stop_reading()
        author = make_event(6).event.pubkey
        for name in range(4):
            request = text(f'["REQ","{name}",{{"authors":["{author}"],"limit":1500}}]')
            crowd.tell(request)
            readers.tell(request)
        await readers.heard(4 * answer_bytes)
        await probe.goes_on(20)
        held = relay.anonymous_bytes() - before
        assert not any(member.lost for member in crowd.members), "a reader is given its time"
    return held


def test_two_hundred_readers_that_never_read_stored_events() -> None:
    stored = [_note(number, 4 * KIB) for number in range(1500)]
    answer_bytes = sum(len(json.dumps(["EVENT", "0", event], separators=(",", ":"))) for event in stored)

    async def main(relay: RelayProcess) -> None:
        await publish(relay.url, stored)
        at_rest = relay.open_sockets()
        after_round: list[int] = []
        for _ in range(4):
            held = await _waiting_round(relay, answer_bytes)
            assert held < SLOW * MIB, "an answer of 24 MiB is not prepared for one who does not read it"
            await emptied(relay, at_rest)
            after_round.append(relay.anonymous_bytes())
        assert after_round[-1] - after_round[1] < 24 * MIB, after_round

    with open_files(1000), running_relay() as relay:
        run(main(relay))


_DICE: Final = random.Random(7)
_ENDLESS: Final = frame(TEXT, b"x" * 100, fin=False) + frame(CONTINUATION, b"y" * KIB, fin=False) * 500
_TOO_LARGE: Final = frame(TEXT, b" " * (MIB + 1))
_HUGE_HEAD: Final = b"\x81\xff" + (2**40).to_bytes(8, "big") + b"mask"

RUBBISH: Final = {
    "noise": _DICE.randbytes(64 * KIB),
    "binary": frame(BINARY, _DICE.randbytes(4 * KIB)),
    "too large": _TOO_LARGE,
    "a terabyte announced": _HUGE_HEAD + b"z" * 4 * KIB,
    "unmasked": frame(TEXT, b'["REQ","s",{}]', masked=False),
    "no UTF-8": frame(TEXT, b'["NOTICE","\xff\xfe"]'),
    "reserved bits": bytes([0xF1, 0x80]) + b"mask",
    "unknown opcode": frame(0x7, b"?"),
    "long ping": frame(PING, b"p" * 126),
    "continuation of nothing": frame(CONTINUATION, b"..."),
    "close with a bad code": frame(CLOSE, b"\x00\x01"),
}
"""Each of these ends the connection."""

TIRESOME: Final = {
    "no JSON": text("{[not json") * 300,
    "no message": text('["HELLO",{"a":[1,2,3]}]') * 300,
}
"""The relay bears this for a while, then says goodbye and waits a moment for the client to say it too."""

NUISANCE: Final = {
    "tiny frames": (frame(TEXT, b"", fin=False) + frame(CONTINUATION, b"", fin=False) * 40_000),
    "pings": frame(PING) * 20_000,
    "an endless message": _ENDLESS,
    "bad events": text('["EVENT",{"id":1,"kind":"x"}]') * 50,
    "bad filters": text('["REQ","s",{"ids":["z"],"since":-1}]') * 50,
    "closes of nothing": text('["CLOSE","nothing"]') * 3000,
    "deeply nested": text('["EVENT",' + "[" * 100_000) * 3,
    "half a frame": frame(TEXT, b"x" * KIB)[:-1],
}
"""A client may send these, if it must; it is the client that ends the connection."""


async def _flood_round(relay: RelayProcess) -> int:
    """Every kind of bad frames at once; the most memory seen."""
    peak = 0
    async with probing(relay.url) as probe, AsyncExitStack() as stack:
        crowds: dict[str, Crowd] = {}
        for kind, data in (RUBBISH | TIRESOME | NUISANCE).items():
            crowds[kind] = await stack.enter_async_context(gathered(relay.url, 4))
            crowds[kind].tell(data)
            peak = max(peak, relay.anonymous_bytes())
        for kind in RUBBISH:
            try:
                await crowds[kind].lost()
            except AssertionError as error:
                raise AssertionError(f"{kind}: {error}") from None
        told = [member for kind in TIRESOME for member in crowds[kind].members]
        await until(lambda: all(member.tail.endswith(b"too many unreadable messages") for member in told), "a goodbye")
        await probe.goes_on()
        peak = max(peak, relay.anonymous_bytes())
    return peak


def test_a_flood_of_bad_frames() -> None:
    async def main(relay: RelayProcess) -> None:
        at_rest = relay.open_sockets()
        before = relay.anonymous_bytes()
        after_round: list[int] = []
        for _ in range(8):
            assert await _flood_round(relay) - before < 32 * MIB
            await emptied(relay, at_rest)
            after_round.append(relay.anonymous_bytes())
        assert after_round[-1] - after_round[1] < 12 * MIB, after_round

    with open_files(1000), running_relay() as relay:
        run(main(relay))
