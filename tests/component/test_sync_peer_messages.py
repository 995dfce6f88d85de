"""What a relay says: read without decoding events, whatever white space and nonsense there is."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.factory import fake_event

from orly.sync.peer_messages import (
    Answer,
    Challenge,
    Closed,
    EndOfStored,
    Events,
    Junk,
    Notice,
    PeerMessage,
    ReconcileAnswer,
    ReconcileEnd,
    bare_reason,
    read_messages,
)

ID = "ab" * 32
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(min_value=-(2**53), max_value=2**53) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


def text(*parts: Any, **options: Any) -> bytes:
    return json.dumps(parts, **options).encode()


@pytest.mark.parametrize(
    ("message", "read"),
    [
        (b'["OK","%b",true,""]' % ID.encode(), Answer(ID, True, "")),
        (b'["OK","%b",false,"blocked: no"]' % ID.encode(), Answer(ID, False, "blocked: no")),
        (text("OK", ID.upper(), False, 'a "b" \\'), Answer(ID, False, 'a "b" \\')),
        (text("OK", ID, True), Answer(ID, True, "")),
        (text("EOSE", "s"), EndOfStored("s")),
        (text("CLOSED", "s", "error: x"), Closed("s", "error: x")),
        (text("CLOSED", "s"), Closed("s", "")),
        (text("NOTICE", "hello"), Notice("hello")),
        (text("AUTH", "c"), Challenge("c")),
        (text("NEG-MSG", "n", "6100ff"), ReconcileAnswer("n", b"\x61\x00\xff")),
        (text("NEG-ERR", "n", "blocked: x", 5), ReconcileEnd("n", "blocked: x", 5)),
        (text("NEG-ERR", "n", "blocked: x", "5"), ReconcileEnd("n", "blocked: x", None)),
        (text("NEG-ERR", "n", "blocked: x", True), ReconcileEnd("n", "blocked: x", None)),
        (text("NEG-ERR", "n", "blocked: x", -1), ReconcileEnd("n", "blocked: x", None)),
        (text("NEG-ERR", "n"), ReconcileEnd("n", "", None)),
        (b' [ "EVENT" , "s" , {"a": 1} ] ', Events("s", [b'{"a": 1}'])),
        (b'["EVENT","s",{}]', Events("s", [b"{}"])),
        (b'["EVENT","\\u0061\\"",{"a":1}]', Events('a"', [b'{"a":1}'])),
    ],
)
def test_messages(message: bytes, read: PeerMessage) -> None:
    assert read_messages([message]) == [read]


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"null",
        b"{}",
        b"[]",
        b"[1]",
        b"hello",
        b'["EVENT"]',
        b'["EVENT","s"]',
        b'["EVENT","s",1]',
        b'["EVENT",{}]',
        b'["EVENT","\x01",{}]',
        b'["EVENT","s,{}]',
        b'["OK"]',
        b'["OK",1,true,""]',
        b'["OK","x","true",""]',
        b'["EOSE"]',
        b'["EOSE",1]',
        b'["NEG-MSG","n","zz"]',
        b'["NEG-MSG","n"]',
        b'["NOTICE"]',
        b'["AUTH",1]',
        b'["COUNT","s",{"count":1}]',
        b'["HELLO","s"]',
        b"[" * 100_000,
    ],
)
def test_junk(message: bytes) -> None:
    (read,) = read_messages([message])
    assert isinstance(read, Junk)
    assert len(read.excerpt) <= 80


@given(st.lists(JSON, max_size=5).map(json.dumps).map(str.encode) | st.binary(max_size=60))
def test_anything_is_read(message: bytes) -> None:
    assert len(read_messages([message])) == 1


def test_events_are_gathered_by_subscription_between_other_messages() -> None:
    events = [fake_event(content=str(number)).raw for number in range(6)]
    read = read_messages(
        [
            b'["EVENT","a",%b]' % events[0],
            b'["EVENT","b",%b]' % events[1],
            b'["EVENT","a",%b]' % events[2],
            b'[ "EVENT","b",%b]' % events[3],
            b'["EVENT","a",%b]' % events[4],
            b'["EOSE","b"]',
            b'["EVENT","b",%b]' % events[5],
        ]
    )
    assert read == [
        Events("a", [events[0], events[2], events[4]]),
        Events("b", [events[1], events[3]]),
        EndOfStored("b"),
        Events("b", [events[5]]),
    ]


SUB_IDS = st.text(alphabet='ab"\\ ,{', max_size=4)


@given(st.lists(st.tuples(SUB_IDS, st.text(max_size=5), st.booleans(), st.booleans()), max_size=12))
def test_cutting_events_agrees_with_decoding_the_message(said: list[tuple[str, str, bool, bool]]) -> None:
    messages = []
    expected: dict[str, list[Any]] = {}
    for sub_id, content, spaced, ascii_only in said:
        event = {"content": content, "tags": [["}]", content]]}
        separators = (", ", ": ") if spaced else (",", ":")
        messages.append(text("EVENT", sub_id, event, separators=separators, ensure_ascii=ascii_only))
        expected.setdefault(sub_id, []).append(event)
    found: dict[str, list[Any]] = {}
    for read in read_messages(messages):
        assert isinstance(read, Events)
        found.setdefault(read.sub_id, []).extend(map(json.loads, read.rows))
    assert found == expected


def test_bare_reason() -> None:
    assert bare_reason("ERROR: auth-required: x") == "auth-required: x"
    assert bare_reason("error: x") == "error: x"
