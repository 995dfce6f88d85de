import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.factory import KEYS, NOW_S, fake_event
from tests.strategies import QUICK, events, junk_json, mutated, texts

from orly.intake.plugin_lines import (
    MAX_REASON_CHARS,
    NO_REASON,
    Asked,
    Judgement,
    LineCutter,
    PluginLineError,
    Ruling,
    SourceType,
    parse_answer,
    question,
)
from orly.nostr.event import EncodedEvent
from orly.nostr.reason import Prefix, Refusal

ID = fake_event().event.id


def answer(**fields: object) -> Judgement:
    event_id, judgement = parse_answer(json.dumps({"id": ID, **fields}).encode())
    assert event_id == ID
    return judgement


def reject(message: object) -> Refusal:
    judgement = answer(action="reject", msg=message)
    assert isinstance(judgement, Refusal)
    return judgement


def test_a_question_is_written_as_strfry_writes_it() -> None:
    event = fake_event(content="hello")
    asked = Asked(event=event, received_at_s=NOW_S, source_type=SourceType.IP6, source_info="::1")
    line = b'{"type":"new","event":%b,"receivedAt":1700000000,"sourceType":"IP6","sourceInfo":"::1"}\n'
    assert question(asked) == line % event.raw
    authed = Asked(
        event=event, received_at_s=NOW_S, source_type=SourceType.SYNC, source_info="wss://x/", authed=KEYS[1]
    )
    assert question(authed) == (
        b'{"type":"new","event":%b,"receivedAt":1700000000,"sourceType":"Sync","sourceInfo":"wss://x/","authed":"%b"}\n'
    ) % (event.raw, KEYS[1].encode())


def test_the_words_for_sources_are_those_of_strfry() -> None:
    assert [each.value for each in SourceType] == ["IP4", "IP6", "Import", "Stream", "Sync"]


@QUICK
@given(
    event=events(),
    received_at_s=st.integers(0, 2**63 - 1),
    source_type=st.sampled_from(SourceType),
    source_info=texts(),
    authed=st.one_of(st.none(), st.sampled_from(KEYS)),
)
def test_a_question_is_one_line_for_whatever_reads_lines(
    event: EncodedEvent, received_at_s: int, source_type: SourceType, source_info: str, authed: str | None
) -> None:
    asked = Asked(
        event=event, received_at_s=received_at_s, source_type=source_type, source_info=source_info, authed=authed
    )
    line = question(asked).decode()
    assert line.endswith("}\n")
    assert not any(end in line[:-1] for end in "\n\r")
    assert not any(end in event.raw.decode() and end in line for end in "\u2028\u2029")
    told = json.loads(line)
    assert told == {
        "type": "new",
        "event": json.loads(event.raw),
        "receivedAt": received_at_s,
        "sourceType": source_type.value,
        "sourceInfo": source_info,
        **({} if authed is None else {"authed": authed}),
    }


def test_separators_that_some_programs_take_for_line_breaks_are_escaped() -> None:
    event = fake_event(content="a\u2028b\u2029c \u201d\u202a", tags=[["t", "\u2028"]])
    asked = Asked(event=event, received_at_s=NOW_S, source_type=SourceType.IP4, source_info="192.0.2.1")
    line = question(asked)
    assert rb"a\u2028b\u2029c " + "\u201d\u202a".encode() in line
    assert json.loads(line)["event"] == json.loads(event.raw)


def test_accepting_and_pretending_to() -> None:
    assert answer(action="accept") is Ruling.ACCEPTED
    assert answer(action="accept", msg=5) is Ruling.ACCEPTED
    assert answer(action="shadowReject", msg="unheard") is Ruling.SHADOWED


@pytest.mark.parametrize(
    ("message", "prefix", "detail"),
    [
        ("go away", Prefix.BLOCKED, "go away"),
        ("blocked: go away", Prefix.BLOCKED, "go away"),
        ("rate-limited: slow down: please", Prefix.RATE_LIMITED, "slow down: please"),
        ("auth-required:  who are you", Prefix.AUTH_REQUIRED, " who are you"),
        ("pow:26 bits", Prefix.POW, "26 bits"),
        ("Blocked: x", Prefix.BLOCKED, "Blocked: x"),
        (" pow: x", Prefix.BLOCKED, " pow: x"),
        ("nonsense: x", Prefix.BLOCKED, "nonsense: x"),
        (": x", Prefix.BLOCKED, ": x"),
        ("pow", Prefix.BLOCKED, "pow"),
        ("restricted: ", Prefix.RESTRICTED, NO_REASON),
        ("", Prefix.BLOCKED, NO_REASON),
        (" \n", Prefix.BLOCKED, NO_REASON),
        (None, Prefix.BLOCKED, NO_REASON),
    ],
)
def test_a_reason_gets_a_prefix_that_clients_know(message: str | None, prefix: Prefix, detail: str) -> None:
    assert reject(message) == Refusal(prefix, detail)


@pytest.mark.parametrize("prefix", list(Prefix))
def test_every_known_prefix_is_kept(prefix: Prefix) -> None:
    assert reject(f"{prefix.value}: why") == Refusal(prefix, "why")


def test_a_long_reason_is_cut() -> None:
    assert reject("é" * MAX_REASON_CHARS).detail == "é" * MAX_REASON_CHARS
    assert reject("é" * (MAX_REASON_CHARS + 1)).detail == "é" * MAX_REASON_CHARS
    assert str(reject("pow: " + "x" * MAX_REASON_CHARS)) == ("pow: " + "x" * MAX_REASON_CHARS)[:MAX_REASON_CHARS]


@QUICK
@given(prefix=st.sampled_from(Prefix), detail=texts(40))
def test_a_reason_that_has_a_prefix_reaches_the_client_as_it_is(prefix: Prefix, detail: str) -> None:
    told = str(reject(f"{prefix.value}: {detail}"))
    assert told == f"{prefix.value}: {detail if detail.strip() else NO_REASON}"


@QUICK
@given(message=st.one_of(texts(40), st.builds("{}:{}".format, st.sampled_from(Prefix), texts(4))))
def test_whatever_the_reason_the_client_finds_a_prefix(message: str) -> None:
    told = str(reject(message))
    assert told.partition(": ")[0] in list(Prefix)
    assert str(reject(told)) == told


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"", "no JSON: "),
        (b"hello", "no JSON: "),
        (b'{"id":"a","action":"accept"', "no JSON: "),
        (b'{"id":"\xff","action":"accept"}', "no JSON: "),
        (b'{"id":"a","action":"accept"} {}', "no JSON: "),
        (b'{"id":"a","x":' + b"[" * 60_000, "no JSON: "),
        (b"[]", "no answer: "),
        (b"null", "no answer: "),
        (b'{"action":"accept"}', "no answer: "),
        (b'{"id":null,"action":"accept"}', "no answer: "),
    ],
)
def test_what_is_no_answer(line: bytes, why: str) -> None:
    with pytest.raises(PluginLineError, match=f"^{why}.") as caught:
        parse_answer(line)
    assert caught.value.event_id is None


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({}, "an answer without an action"),
        ({"action": None}, "an answer without an action"),
        ({"action": "Accept"}, "unknown action 'Accept'"),
        ({"action": ""}, "unknown action ''"),
        ({"action": 1}, "unknown action 1"),
        ({"action": ["accept"]}, r"unknown action \['accept'\]"),
        ({"action": "x" * 1000}, "unknown action 'x{99}$"),
        ({"action": "reject", "msg": 5}, "msg is no text: 5"),
        ({"action": "reject", "msg": {}}, "msg is no text: {}"),
    ],
)
def test_an_answer_without_sense_says_which_event_it_is_about(fields: dict[str, object], why: str) -> None:
    with pytest.raises(PluginLineError, match=f"^{why}") as caught:
        answer(**fields)
    assert caught.value.event_id == ID


ANSWERS = st.builds(
    lambda action, msg: json.dumps({"id": ID, "action": action, "msg": msg}).encode(),
    st.one_of(st.sampled_from(["accept", "reject", "shadowReject"]), junk_json()),
    st.one_of(texts(), junk_json()),
)


@QUICK
@given(line=st.one_of(ANSWERS, mutated(ANSWERS), st.binary(max_size=60)))
def test_no_line_raises_anything_else(line: bytes) -> None:
    try:
        _, judgement = parse_answer(line)
    except PluginLineError:
        return
    assert isinstance(judgement, Ruling | Refusal)


MAX_BYTES = 5


@QUICK
@given(lines=st.lists(st.binary(max_size=12)), cuts=st.lists(st.integers(0, 200), max_size=8))
def test_it_does_not_matter_how_output_is_cut(lines: list[bytes], cuts: list[int]) -> None:
    lines = [line.replace(b"\n", b"") for line in lines]
    data = b"\n".join(lines)
    cutter = LineCutter(MAX_BYTES)
    ends = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    found = [line for start, end in pairwise(ends) for line in cutter.feed(data[start:end])]
    assert [*found, cutter.rest] == [line[: MAX_BYTES + 1] for line in lines or [b""]]


def test_a_line_without_end_takes_no_memory() -> None:
    cutter = LineCutter(MAX_BYTES)
    for _ in range(100):
        assert cutter.feed(b"x" * 1000) == []
        assert len(cutter.rest) == MAX_BYTES + 1
    assert cutter.feed(b"y\nz") == [b"xxxxxx"]
    assert cutter.rest == b"z"
