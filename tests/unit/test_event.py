"""Ids over every escape class, strict decoding, and one canonical encoding."""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.factory import FAKE_SIG, KEYS, event_fields, event_json, fake_event, make_event
from tests.strategies import QUICK, events, junk_json, mutated, respelled, signed_events, tag_lists, texts

from orly.nostr.event import (
    MAX_CREATED_AT,
    EventError,
    compute_id,
    decode_event,
    decode_stored,
    encode_event,
)
from orly.nostr.kinds import MAX_KIND

_VECTORS: Final[list[dict[str, Any]]] = json.loads(
    (Path(__file__).parents[1] / "vectors" / "nip01_ids.json").read_text()
)
_EVENT: Final = make_event(tags=[["e", "0" * 64], ["t", "x", "y"]], content="hello")
_CASES: Final = pytest.mark.parametrize("case", _VECTORS, ids=lambda case: case["name"])
_SHORT_ESCAPES: Final = {
    "\n": r"\n", '"': r"\"", "\\": r"\\", "\r": r"\r", "\t": r"\t", "\b": r"\b", "\f": r"\f",
}  # fmt: skip


def _quoted(text: str) -> str:
    """NIP-01's string, letter by letter."""
    out = ""
    for character in text:
        if character in _SHORT_ESCAPES:
            out += _SHORT_ESCAPES[character]
        elif ord(character) < 0x20:
            out += f"\\u{ord(character):04x}"
        else:
            out += character
    return f'"{out}"'


def _serialised(pubkey: str, created_at: int, kind: int, tags: list[list[str]], content: str) -> str:
    lists = ",".join("[" + ",".join(_quoted(item) for item in tag) + "]" for tag in tags)
    return f"[0,{_quoted(pubkey)},{created_at},{kind},[{lists}],{_quoted(content)}]"


def _from_case(case: dict[str, Any], id_name: str = "id") -> bytes:
    names = ("pubkey", "created_at", "kind", "tags", "content")
    fields = {"id": case[id_name], "sig": FAKE_SIG} | {name: case[name] for name in names}
    return json.dumps(fields).encode()


def _refusal(raw: bytes) -> EventError:
    with pytest.raises(EventError) as caught:
        decode_event(raw)
    assert str(caught.value)
    return caught.value


def _with_right_id(**changes: Any) -> bytes:
    """JSON of an event whose id fits its changed fields, so that nothing but the change can be refused."""
    fields: dict[str, Any] = event_fields(_EVENT) | changes
    named = (fields[name] for name in ("pubkey", "created_at", "kind", "tags", "content"))
    fields["id"] = changes.get("id", sha256(_serialised(*named).encode()).hexdigest())
    return json.dumps(fields).encode()


@_CASES
def test_an_id_is_the_hash_of_nip01s_text(case: dict[str, Any]) -> None:
    fields = (case["pubkey"], case["created_at"], case["kind"], case["tags"], case["content"])
    assert _serialised(*fields) == case["serialised"]
    assert sha256(case["serialised"].encode()).hexdigest() == case["id"]
    assert compute_id(*fields) == case["id"]


@_CASES
def test_an_event_with_odd_characters_is_read_and_kept_unchanged(case: dict[str, Any]) -> None:
    encoded = decode_event(_from_case(case))
    assert (encoded.event.content, encoded.event.tags) == (case["content"], case["tags"])
    assert encoded.id.hex() == case["id"]
    assert decode_stored(encoded.raw) == encoded.event
    assert json.loads(encoded.raw) == event_fields(encoded)


def test_every_escape_class_has_a_vector() -> None:
    text = "".join(case["content"] + "".join(map("".join, case["tags"])) for case in _VECTORS)
    assert set(map(chr, range(0x20))) <= set(text)
    assert {'"', "\\", "/", "\x7f", "\u2028", "\u2029", "\U0010ffff"} <= set(text)


@pytest.mark.parametrize("case", [c for c in _VECTORS if "\x7f" in c["serialised"]], ids=lambda c: c["name"])
def test_del_may_be_hashed_in_its_escaped_form(case: dict[str, Any]) -> None:
    assert case["id_with_escaped_del"] != case["id"]
    encoded = decode_event(_from_case(case, "id_with_escaped_del"))
    assert encoded.id.hex() == encoded.event.id == case["id_with_escaped_del"]
    assert decode_event(encoded.raw) == encoded


def test_only_del_has_a_second_form() -> None:
    text = _serialised(KEYS[0], 1, 1, [], "a\x80/é\x7f")
    for character in ("\x80", "/", "é"):
        escaped = text.replace("\x7f", "\\u007f").replace(character, f"\\u{ord(character):04x}")
        raw = _with_right_id(
            pubkey=KEYS[0], created_at=1, kind=1, tags=[], content="a\x80/é\x7f",
            id=sha256(escaped.encode()).hexdigest(),
        )  # fmt: skip
        assert "id does not match" in str(_refusal(raw))


@QUICK
@given(st.integers(0, MAX_CREATED_AT), st.integers(0, MAX_KIND), tag_lists(), texts())
def test_ids_agree_with_a_slow_serialiser(created_at: int, kind: int, tags: list[list[str]], content: str) -> None:
    text = _serialised(KEYS[1], created_at, kind, tags, content)
    assert compute_id(KEYS[1], created_at, kind, tags, content) == sha256(text.encode()).hexdigest()


def test_a_decoded_event_holds_its_fields_as_bytes_too() -> None:
    assert _EVENT.id.hex() == _EVENT.event.id
    assert _EVENT.pubkey.hex() == _EVENT.event.pubkey == KEYS[0]
    assert _EVENT.sig.hex() == _EVENT.event.sig


def test_canonical_json_has_nip01s_keys_in_one_order_and_no_white_space() -> None:
    assert _EVENT.raw.startswith(b'{"id":"%s","pubkey":"' % _EVENT.event.id.encode())
    assert list(json.loads(_EVENT.raw)) == ["id", "pubkey", "created_at", "kind", "tags", "content", "sig"]
    assert b" " not in _EVENT.raw
    assert encode_event(_EVENT.event) == _EVENT.raw
    assert decode_event(_EVENT.raw).raw == _EVENT.raw


@QUICK
@given(st.data(), st.one_of(signed_events(), events()))
def test_canonical_json_does_not_depend_on_how_the_event_was_written(data: st.DataObject, event: Any) -> None:
    raw = data.draw(respelled(event_fields(event)))
    assert decode_event(raw) == event
    assert decode_event(event.raw) == event


def test_unknown_keys_are_dropped() -> None:
    assert decode_event(event_json(_EVENT, extra={"a": [1, 2.5, None]}, relay="x")) == _EVENT


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kind", 0),
        ("kind", MAX_KIND),
        ("created_at", 0),
        ("created_at", MAX_CREATED_AT),
        ("tags", []),
        ("tags", [[""]]),
        ("content", ""),
    ],
)
def test_the_ends_of_every_range_are_accepted(field: str, value: object) -> None:
    assert getattr(decode_event(_with_right_id(**{field: value})).event, field) == value


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kind", -1),
        ("kind", MAX_KIND + 1),
        ("kind", 2**64),
        ("created_at", -1),
        ("created_at", MAX_CREATED_AT + 1),
        ("created_at", 2**64),
        ("created_at", 10**4000),
        ("tags", [["e", "x"], []]),
        ("pubkey", KEYS[0].upper()),
        ("pubkey", KEYS[0][:-1]),
        ("pubkey", KEYS[0][:-2]),
        ("pubkey", KEYS[0] + "0"),
        ("pubkey", KEYS[0] + "00"),
        ("pubkey", KEYS[0][:-1] + "g"),
        ("pubkey", KEYS[0][:-2] + " 0"),
        ("pubkey", KEYS[0][:-2] + "0\n"),
        ("pubkey", KEYS[0][:-1] + "\uff11"),
        ("pubkey", "0x" + KEYS[0][2:]),
        ("pubkey", ""),
        ("sig", FAKE_SIG[:-2]),
        ("sig", FAKE_SIG + "00"),
        ("sig", FAKE_SIG.upper()),
        ("sig", FAKE_SIG[:-1] + " "),
        ("sig", " " + FAKE_SIG),
        ("id", _EVENT.event.id.upper()),
        ("id", _EVENT.event.id[:-2]),
        ("id", _EVENT.event.id[:-1] + " "),
        ("id", "0" * 64),
        ("id", ""),
    ],
)
def test_a_value_out_of_its_range_or_form_is_refused_by_name(field: str, value: object) -> None:
    raw = _with_right_id(**{field: value})
    error = _refusal(raw)
    assert str(error).startswith("tag" if field == "tags" else field)
    assert error.event_id == json.loads(raw)["id"]


@pytest.mark.parametrize("field", ["id", "pubkey", "created_at", "kind", "tags", "content", "sig"])
@pytest.mark.parametrize("value", [None, True, 1.0, 1e3, "1", [1], {}, [["a", None]], [None], [["a", 1]], ["a"]])
def test_a_value_of_the_wrong_type_is_refused_by_name(field: str, value: object) -> None:
    if isinstance(value, str) and field in {"id", "pubkey", "content", "sig"}:
        value = 1
    raw = event_json(_EVENT, **{field: value})
    error = _refusal(raw)
    assert field in str(error)
    assert error.event_id == (_EVENT.event.id if field != "id" else None)


@pytest.mark.parametrize("field", ["id", "pubkey", "created_at", "kind", "tags", "content", "sig"])
def test_a_missing_field_is_refused_by_name(field: str) -> None:
    fields = event_fields(_EVENT)
    del fields[field]
    error = _refusal(json.dumps(fields).encode())
    assert field in str(error)
    assert error.event_id == fields.get("id")


@pytest.mark.parametrize("number", [b"1.0", b"1e0", b"1E2", b"01", b"+1", b"NaN", b"Infinity", b"-Infinity", b"1e999"])
def test_a_number_that_is_no_json_integer_is_refused(number: bytes) -> None:
    _refusal(event_json(_EVENT, kind=12321).replace(b"12321", number))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b" ",
        b"null",
        b"[]",
        b"{}",
        b'"event"',
        b"12",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b"1" * 100_000,
        b"\x00",
        "{}".encode("utf-16"),
    ],
    ids=lambda raw: repr(raw[:10]),
)
def test_what_is_no_event_is_refused(raw: bytes) -> None:
    assert _refusal(raw).event_id is None


@pytest.mark.parametrize(
    ("before", "after"),
    [(b"\xef\xbb\xbf", b""), (b"", b"x"), (b"", b"{}"), (b"", b","), (b"", b"\x00"), (b"[", b"]")],
)
def test_anything_beside_the_object_is_refused(before: bytes, after: bytes) -> None:
    assert decode_event(b" " + _EVENT.raw + b"\n") == _EVENT
    _refusal(before + _EVENT.raw + after)


@pytest.mark.parametrize(
    "text",
    [b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x80", rb"\ud800", rb"\udc00\ud800",
     rb"\ud83dA", rb"\x41", rb"\u12", b"\n", b"\x00", b"\x1f"],
)  # fmt: skip
@pytest.mark.parametrize("field", ["content", "unknown"])
def test_text_that_is_not_unicode_is_refused_even_where_it_would_be_dropped(text: bytes, field: str) -> None:
    raw = event_json(_EVENT, **{field: "@@"})
    _refusal(raw.replace(b"@@", text))


@pytest.mark.parametrize(
    "extra",
    [
        b'"kind":1',
        b'"id":"%s"' % _EVENT.event.id.encode(),
        rb'"\u0069d":"%s"' % _EVENT.event.id.encode(),
        rb'"\u006bin\u0064" : 1',
        b'"tags":[]',
        b'"x":1,"x":1',
        rb'"x":1,"\u0078":2',
        b'"x":{"y":1,"y":2}',
        b'"x":[[{"y":[{"":0,"":0}]}]]',
        b'"":0,"":0',
    ],
)
@pytest.mark.parametrize("position", ["first", "last"])
def test_a_key_that_appears_twice_is_refused(extra: bytes, position: str) -> None:
    raw = b"{" + extra + b"," + _EVENT.raw[1:] if position == "first" else _EVENT.raw[:-1] + b", " + extra + b"}"
    error = _refusal(raw)
    assert "appears twice" in str(error)
    assert error.event_id == _EVENT.event.id


def test_white_space_does_not_hide_a_duplicate_key_nor_invent_one() -> None:
    fields = event_fields(_EVENT)
    assert decode_event(json.dumps(fields, indent=4).encode()) == _EVENT
    spaced = json.dumps(fields, indent=4).encode().replace(b'"kind"', b'"kind" :\t7,\r\n"kind"')
    assert "'kind' appears twice" in str(_refusal(spaced))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"[" * 100_000 + b"]" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested too deeply"),
        (b"9" * 100_000, "number that is out of range"),
    ],
    ids=["arrays", "objects", "digits"],
)
def test_an_unknown_field_may_not_be_excessive(value: bytes, reason: str) -> None:
    assert reason in str(_refusal(_EVENT.raw[:-1] + b',"x":' + value + b"}"))


def test_no_depth_of_nesting_raises_anything_else() -> None:
    """Two parsers read an unknown field, and each has its own bound."""
    outcomes: set[str] = set()
    for depth in range(10, 1200):
        for opening, closing in ((b"[", b"]"), (b'{"a":', b"}")):
            raw = _EVENT.raw[:-1] + b', "x":' + opening * depth + b"1" + closing * depth + b"}"
            try:
                outcomes.add(decode_event(raw).event.id)
            except EventError as error:
                outcomes.add(str(error).partition(" is ")[2])
    assert _EVENT.event.id in outcomes
    assert outcomes <= {_EVENT.event.id, "nested too deeply"}


def test_an_id_is_echoed_only_if_it_is_short_enough_for_one() -> None:
    assert _refusal(event_json(_EVENT, id="x" * 64)).event_id == "x" * 64
    assert _refusal(event_json(_EVENT, id="x" * 65)).event_id is None
    assert _refusal(event_json(_EVENT, id="x" * 65, kind=None)).event_id is None


def test_an_id_is_found_beside_fields_that_cannot_be_read() -> None:
    assert _refusal(b'{"id":"abc","kind":1e999,"x":%s}' % (b"9" * 5000)).event_id == "abc"


def test_a_changed_field_no_longer_fits_the_id() -> None:
    changes: list[dict[str, Any]] = [
        {"content": "x"},
        {"kind": 2},
        {"created_at": 1},
        {"tags": []},
        {"pubkey": KEYS[1]},
    ]
    for change in changes:
        assert str(_refusal(event_json(_EVENT, **change))) == "id does not match the event"


def test_the_signature_is_not_part_of_decoding() -> None:
    assert decode_event(fake_event().raw).sig.hex() == FAKE_SIG


def _decodes_or_refuses(raw: bytes) -> None:
    try:
        encoded = decode_event(raw)
    except EventError:
        return
    assert decode_event(encoded.raw) == encoded


@QUICK
@given(st.binary(max_size=60))
def test_random_bytes_raise_nothing_else(raw: bytes) -> None:
    _decodes_or_refuses(raw)


@QUICK
@given(mutated(signed_events().map(lambda event: event.raw)))
def test_damaged_events_raise_nothing_else(raw: bytes) -> None:
    _decodes_or_refuses(raw)


@QUICK
@given(junk_json(), st.sampled_from(["id", "pubkey", "created_at", "kind", "tags", "content", "sig", "x"]))
def test_random_json_raises_nothing_else(junk: Any, field: str) -> None:
    _decodes_or_refuses(json.dumps(junk).encode())
    _decodes_or_refuses(event_json(_EVENT, **{field: junk}))
