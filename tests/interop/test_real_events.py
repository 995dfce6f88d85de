"""Events as they are found in the world, through every door: the relay and an obvious model agree on each of them."""

import asyncio
import json
import random
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest
from tests.factory import KEYS, address_of, delete_event, expiring_event, gift_wrap, make_event
from tests.interop.expected import JsonEvent, Model, Outcome, matching
from tests.process import run_orly, running_relay
from tests.wsclient import Client, connect

from orly.nostr.event import EncodedEvent

RECORDED: Final = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "real_events.jsonl"
"""Events collected from public relays, one a line; they lie beside the repository on some machines."""

PRIVATE: Final = frozenset({4, 13, 14, 15, 443, 1059, 1060, 10_051, 13_004, 30_078})
MAX_EVENT_BYTES: Final = 256 * 1024
MAX_EVENT_TAGS: Final = 5000
WINDOW: Final = 200
"""Events on their way to the relay at once."""


def recorded() -> list[bytes]:
    """The events of `RECORDED`."""
    return RECORDED.read_bytes().splitlines()


@cache
def generated() -> list[bytes]:
    """Events of every sort that meet each other in every way: replaced, deleted, expired, repeated, too large."""
    dice = random.Random(20_260_115)
    now_s = int(time.time())
    events = [_ordinary(dice, n, now_s) for n in range(500)]
    events += [event for event in dice.sample(events, 40) if event.event.kind < 20_000]  # sent again
    for _ in range(40):
        events.append(_deletion(dice, dice.choice(events), now_s))
    for key in (0, 1):
        events.append(expiring_event(now_s - 1000, key=key, created_at=now_s, signed=True))
        events.append(expiring_event(now_s + 100_000, key=key, created_at=now_s, signed=True))
    events += [_of_size(MAX_EVENT_BYTES + more, now_s) for more in (0, 1)]
    events += [make_event(3, 1, now_s, [("t", str(n)) for n in range(MAX_EVENT_TAGS + more)]) for more in (0, 1)]
    events += [make_event(4, 1, now_s + ahead_s, (), "dated ahead") for ahead_s in (600, 100_000)]
    dice.shuffle(events)
    return [event.raw for event in events]


def _ordinary(dice: random.Random, number: int, now_s: int) -> EncodedEvent:
    key, at_s = dice.randrange(5), now_s - dice.randrange(40)
    kind = dice.choice((0, 1, 1, 1, 3, 4, 7, 10_002, 20_001, 30_023, 30_078, 31_234, 1059))
    tags: list[tuple[str, ...]] = [("t", dice.choice(("a", "b", "ü\n"))), ("p", dice.choice(KEYS))]
    if 30_000 <= kind < 40_000:
        tags.append(("d", dice.choice(("", "x", "a:b", "é"))))
    if kind == 1059:
        return gift_wrap(dice.choice(KEYS[:5]), key=key, created_at=at_s, content=f"sealed {number}", signed=True)
    text = f'{number} quote " backslash \\ \x00\x01\x1f\x7f\u2028\u2029 漢字 \U0001f980'
    return make_event(key, kind, at_s, tags, text if dice.random() < 0.8 else "")


def _deletion(dice: random.Random, target: EncodedEvent, now_s: int) -> EncodedEvent:
    is_stranger = dice.random() < 0.3
    key = dice.randrange(5) if is_stranger else KEYS.index(target.event.pubkey)
    at_s = now_s - dice.randrange(40)
    if target.event.kind >= 10_000 and dice.random() < 0.6:
        return delete_event(key=key, created_at=at_s, addresses=[address_of(target)], signed=True)
    return delete_event(target, key=key, created_at=at_s, signed=True)


def _of_size(n_bytes: int, now_s: int) -> EncodedEvent:
    empty = make_event(2, 1, now_s, (), "")
    event = make_event(2, 1, now_s, (), "x" * (n_bytes - len(empty.raw)))
    assert len(event.raw) == n_bytes
    return event


SOURCES: Final = [generated, *([recorded] if RECORDED.exists() else [])]
each_source = pytest.mark.parametrize("source", SOURCES, ids=lambda source: str(source.__name__))
Source = Callable[[], list[bytes]]


def judged(events: list[JsonEvent], *, max_future_s: int | None = 15 * 60) -> tuple[Model, list[Outcome]]:
    """What the model makes of the events in this order."""
    model = Model(
        now_s=int(time.time()),
        max_event_bytes=MAX_EVENT_BYTES,
        max_event_tags=MAX_EVENT_TAGS,
        max_future_s=max_future_s,
    )
    return model, [model.take(event) for event in events]


async def publish(client: Client, lines: list[bytes]) -> list[list[Any]]:
    """Sends the events as they are, some at a time; the answers."""
    answers: list[list[Any]] = []
    for start in range(0, len(lines), WINDOW):
        window = lines[start : start + WINDOW]
        for line in window:
            await client.connection.send(b'["EVENT",%s]' % line, text=True)
        answers += [await client.receive() for _ in window]
    return answers


async def fetch(client: Client, *filters: dict[str, Any]) -> list[JsonEvent]:
    """The stored answer to a request."""
    await client.send("REQ", "q", *filters)
    *events, end = await client.receive_until("EOSE")
    assert end == ["EOSE", "q"]
    await client.send("CLOSE", "q")
    return [message[2] for message in events]


async def count(client: Client, wanted: dict[str, Any]) -> int:
    """What the relay counts."""
    await client.send("COUNT", "n", wanted)
    kind, name, answer = await client.receive()
    assert (kind, name) == ("COUNT", "n")
    return int(answer["count"])


def questions(visible: list[JsonEvent], dice: random.Random) -> list[dict[str, Any]]:
    """Filters that somebody may ask about these events: each finds something."""
    some = dice.sample(visible, min(60, len(visible)))
    times = [event["created_at"] for event in visible]
    found: list[dict[str, Any]] = [{"kinds": [kind]} for kind in sorted({event["kind"] for event in visible})]
    for event in some:
        found.append({"authors": [event["pubkey"]]})
        found.append({"authors": [event["pubkey"]], "kinds": [event["kind"], 1], "until": event["created_at"]})
        found += [{f"#{tag[0]}": [tag[1]]} for tag in event["tags"][:5] if len(tag) > 1 and tag[0] in LETTERS]
    found.append({"ids": [event["id"] for event in some]})
    found.append({"since": sorted(times)[len(times) // 2]})
    found.append({"kinds": [0, 1], "since": min(times), "until": sorted(times)[len(times) // 3]})
    return found


LETTERS: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")


@each_source
def test_every_event_is_answered_as_it_must_be_and_the_right_ones_are_found(source: Source) -> None:
    lines = source()
    events = [json.loads(line) for line in lines]

    async def main(url: str) -> Model:
        async with connect(url) as client:
            model, outcomes = judged(events)
            answers = await publish(client, lines)
            for event, outcome, answer in zip(events, outcomes, answers, strict=True):
                accepted, prefix = outcome.ok
                assert answer[:3] == ["OK", event["id"], accepted], (outcome, answer)
                assert answer[3].startswith(prefix), (outcome, answer)
                assert bool(answer[3]) == bool(prefix), (outcome, answer)
            visible = model.visible
            assert await fetch(client, {"limit": 5000}) == visible
            for question in questions(visible, random.Random(1)):
                expected = matching(visible, question)
                assert expected
                assert await count(client, question) == len(expected), question
                assert await fetch(client, question | {"limit": 5000}) == expected, question
                assert await fetch(client, question | {"limit": 3}) == expected[:3], question
        return model

    with running_relay(ORLY_PRIVILEGED_OPEN="true") as relay:
        model = asyncio.run(main(relay.url))
        beside = run_orly("export", data_dir=relay.data_dir)
    assert beside.returncode == 0, beside.stderr
    assert [json.loads(line) for line in beside.stdout.splitlines()] == model.visible


@each_source
def test_a_stranger_sees_no_private_event(source: Source) -> None:
    lines = source()

    async def main(url: str) -> None:
        async with connect(url) as client:
            model, _ = judged([json.loads(line) for line in lines])
            await publish(client, lines)
            public = [event for event in model.visible if event["kind"] not in PRIVATE]
            assert len(public) < len(model.visible), "there are private events to be hidden"
            assert await fetch(client, {"limit": 5000}) == public
            assert await count(client, {}) == len(public)
            assert await fetch(client, {"limit": 10}) == public[:10]
            ids = [event["id"] for event in model.visible]
            assert await fetch(client, {"ids": ids, "limit": 5000}) == public

    with running_relay() as relay:
        asyncio.run(main(relay.url))


@each_source
def test_import_and_export_agree_with_the_model_and_repeat_to_the_byte(source: Source, tmp_path: Path) -> None:
    lines = source()
    given = tmp_path / "given.jsonl"
    given.write_bytes(b"".join(line + b"\n" for line in lines))
    model, outcomes = judged([json.loads(line) for line in lines], max_future_s=None)
    has_bad_lines = any(outcome.is_bad_line for outcome in outcomes)

    imported = run_orly("import", given, data_dir=tmp_path / "first")
    assert imported.returncode == (1 if has_bad_lines else 0), imported.stderr
    reported = imported.stderr.decode()
    for number, outcome in enumerate(outcomes, 1):
        assert (f"line {number}: " in reported) == outcome.is_bad_line, (number, outcome, reported)

    first = tmp_path / "first.jsonl"
    exported = run_orly("export", first, data_dir=tmp_path / "first")
    assert exported.returncode == 0, exported.stderr
    assert [json.loads(line) for line in first.read_bytes().splitlines()] == model.visible

    again = run_orly("import", "-", data_dir=tmp_path / "second", stdin=first.read_bytes())
    assert again.returncode == 0, again.stderr
    second = run_orly("export", "-", data_dir=tmp_path / "second")
    assert second.returncode == 0, second.stderr
    assert second.stdout == first.read_bytes()

    repeated = run_orly("import", first, data_dir=tmp_path / "first")
    assert repeated.returncode == 0, repeated.stderr
    assert run_orly("export", data_dir=tmp_path / "first").stdout == first.read_bytes()
    for directory in ("first", "second"):
        checked = run_orly("check", "--signatures", data_dir=tmp_path / directory)
        assert checked.returncode == 0, checked.stderr


def test_the_generated_events_meet_every_outcome() -> None:
    _, outcomes = judged([json.loads(line) for line in generated()])
    assert set(outcomes) == set(Outcome)
