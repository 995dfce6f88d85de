"""Client messages: every verb, wrong arities, limits at their edges; and what the relay writes."""

import json
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.factory import KEYS, make_event
from tests.strategies import QUICK, filters, junk_json, mutated, signed_events, texts, to_json

from orly.nostr.event import EventError, decode_event
from orly.nostr.filter import Filter, FilterLimits
from orly.nostr.message import (
    MAX_SUBSCRIPTION_ID_LENGTH,
    AuthMessage,
    CloseMessage,
    CountMessage,
    EventMessage,
    MessageError,
    NegCloseMessage,
    NegMsgMessage,
    NegOpenMessage,
    ReqMessage,
    RequestLimits,
    auth_text,
    closed_text,
    count_text,
    eose_text,
    event_prefix,
    event_text,
    neg_err_text,
    neg_msg_text,
    notice_text,
    ok_text,
    parse_message,
)
from orly.nostr.reason import Prefix, Refusal

_LIMITS: Final = RequestLimits(max_filters=4, filter_limits=FilterLimits(max_values=5))
_EVENT: Final = make_event(content='a ]} "b"')
_VERBS: Final = ("EVENT", "REQ", "CLOSE", "COUNT", "AUTH", "NEG-OPEN", "NEG-MSG", "NEG-CLOSE")
_ODD_SUB_IDS: Final = ("x", '"', "\\", "\n\x00\x7f", "\u2028", "😀" * 64, "]", "%s{}", " ")


def _parse(*parts: object) -> object:
    return parse_message(json.dumps(parts).encode(), _LIMITS)


def _refusal(data: bytes) -> MessageError:
    with pytest.raises(MessageError) as caught:
        parse_message(data, _LIMITS)
    assert str(caught.value) == str(caught.value.refusal)
    return caught.value


def _refused(*parts: object) -> MessageError:
    return _refusal(json.dumps(parts).encode())


def test_every_verb_is_read() -> None:
    wanted = Filter(kinds=frozenset({1}))
    assert _parse("REQ", "s", {"kinds": [1]}, {}) == ReqMessage("s", (wanted, Filter()))
    assert _parse("COUNT", "s", {"kinds": [1]}) == CountMessage("s", (wanted,))
    assert _parse("CLOSE", "s") == CloseMessage("s")
    assert _parse("NEG-OPEN", "s", {"kinds": [1]}, "61aF") == NegOpenMessage("s", wanted, b"\x61\xaf")
    assert _parse("NEG-MSG", "s", "61") == NegMsgMessage("s", b"\x61")
    assert _parse("NEG-CLOSE", "s") == NegCloseMessage("s")


@pytest.mark.parametrize(("verb", "kind"), [("EVENT", EventMessage), ("AUTH", AuthMessage)])
def test_an_event_is_handed_on_as_the_bytes_it_came_as(verb: str, kind: type) -> None:
    spaced = json.dumps(json.loads(_EVENT.raw), indent=2).encode()
    for raw in (_EVENT.raw, spaced):
        message = parse_message(b' [ "%s" ,\n%s ] ' % (verb.encode(), raw), _LIMITS)
        assert isinstance(message, EventMessage | AuthMessage)
        assert type(message) is kind
        assert message.raw == raw
        assert decode_event(message.raw) == _EVENT


@pytest.mark.parametrize("verb", ["EVENT", "AUTH"])
@pytest.mark.parametrize("arguments", [[], [{}, {}], ["sub", {}], [{}, None]])
def test_event_and_auth_take_one_argument(verb: str, arguments: list[object]) -> None:
    error = _refused(verb, *arguments)
    assert error.sub_id is None
    assert str(error) == f"invalid: {verb} takes exactly one event, not {len(arguments)}"


@pytest.mark.parametrize("verb", ["REQ", "COUNT"])
def test_a_request_needs_a_filter(verb: str) -> None:
    error = _refused(verb, "s")
    assert (error.sub_id, str(error)) == ("s", f"invalid: {verb} needs at least one filter")


@pytest.mark.parametrize("verb", ["REQ", "COUNT", "CLOSE"])
class TestSubscriptionIds:
    """What every verb with a subscription id demands of it."""

    def test_it_must_be_there(self, verb: str) -> None:
        error = _refused(verb)
        assert error.sub_id is None
        assert verb in str(error)

    @pytest.mark.parametrize("sub_id", [None, 1, 1.5, True, [], ["s"], {}, {"s": 1}])
    def test_it_must_be_text(self, verb: str, sub_id: object) -> None:
        error = _refused(verb, sub_id, {})
        assert error.sub_id is None
        assert f"{verb} must be a string" in str(error)

    @pytest.mark.parametrize("letter", ["s", "é", "😀", '"', "\x00"])
    def test_it_has_1_to_64_characters(self, verb: str, letter: str) -> None:
        assert MAX_SUBSCRIPTION_ID_LENGTH == 64
        for length in (1, 64):
            message = _parse(verb, letter * length, {})
            assert isinstance(message, ReqMessage | CountMessage | CloseMessage)
            assert message.sub_id == letter * length
        for length in (0, 65, 10_000):
            error = _refused(verb, letter * length, {})
            assert error.sub_id is None
            assert "1 to 64 characters" in str(error)

    @pytest.mark.parametrize("text", [b"\xff", rb"\ud800", b"\xed\xa0\x80", b"9" * 5000])
    def test_it_must_be_unicode(self, verb: str, text: bytes) -> None:
        quoted = text if text.isdigit() else b'"' + text + b'"'
        assert _refusal(b'["%s",%s,{}]' % (verb.encode(), quoted)).sub_id is None


def test_more_than_a_close_needs_is_ignored() -> None:
    assert _parse("CLOSE", "s", "why", None) == CloseMessage("s")


@pytest.mark.parametrize("verb", ["REQ", "COUNT"])
class TestRequests:
    """Filters inside a request."""

    def test_there_may_be_as_many_filters_as_the_limit_and_no_more(self, verb: str) -> None:
        message = _parse(verb, "s", *[{}] * 4)
        assert isinstance(message, ReqMessage | CountMessage)
        assert len(message.filters) == 4
        error = _refused(verb, "s", *[{}] * 5)
        assert (error.sub_id, str(error)) == ("s", "invalid: 5 filters, the maximum is 4")

    def test_a_list_may_have_as_many_values_as_the_limit_and_no_more(self, verb: str) -> None:
        _parse(verb, "s", {"kinds": [1, 2, 3, 4, 5]})
        error = _refused(verb, "s", {}, {"kinds": [1, 2, 3, 4, 5, 6]})
        assert (error.sub_id, error.refusal.prefix) == ("s", Prefix.INVALID)
        assert "6 values, the maximum is 5" in str(error)

    @pytest.mark.parametrize(
        "bad", [None, 1, "x", [], {"ids": ["x"]}, {"kinds": [1.0]}, {"limit": -1}, {"since": True}]
    )
    def test_a_bad_filter_is_invalid_and_names_the_subscription(self, verb: str, bad: object) -> None:
        error = _refused(verb, "s", {}, bad)
        assert (error.sub_id, error.refusal.prefix) == ("s", Prefix.INVALID)

    @pytest.mark.parametrize("key", ["search", "#ab", "#1", "unknown"])
    def test_an_unknown_filter_key_is_unsupported(self, verb: str, key: str) -> None:
        error = _refused(verb, "s", {key: ["x"]})
        assert (error.sub_id, error.refusal.prefix) == ("s", Prefix.UNSUPPORTED)
        assert str(error).startswith("unsupported: ")

    @pytest.mark.parametrize(
        "text",
        [
            b'{"kinds":[1],"kinds":[2]}',
            rb'{"kinds":[1],"kind\u0073":[1]}',
            b'{ "since" : 1 , "until":2, "since":1}',
            b'{"#e":["x"],"#e":[]}',
            b'{"limit":1e300,"limit":1}',
        ],
    )
    def test_a_key_that_appears_twice_is_refused(self, verb: str, text: bytes) -> None:
        error = _refusal(b'["%s","s",{},%s]' % (verb.encode(), text))
        assert error.sub_id == "s"
        assert "appears twice" in str(error)

    @pytest.mark.parametrize(
        "text", [b'{"#e":["\xff"]}', b'{"#e":["\xed\xa0\x80"]}', b"1e999", b"9" * 5000, b"[1e999]"]
    )
    def test_what_cannot_be_decoded_still_names_the_subscription(self, verb: str, text: bytes) -> None:
        assert _refusal(b'["%s","s",%s]' % (verb.encode(), text)).sub_id == "s"

    def test_white_space_and_escapes_change_nothing(self, verb: str) -> None:
        plain = parse_message(b'["%s","sub",{"#e":["\xc3\xa9"],"limit":0}]' % verb.encode(), _LIMITS)
        text = rb' [ "%s" ,"s\u0075b", { "limit" : 0 , "\u0023e" : ["\u00e9" ] } ] ' % verb.encode()
        assert parse_message(text, _LIMITS) == plain

    def test_a_filter_that_matches_nothing_is_no_error(self, verb: str) -> None:
        message = _parse(verb, "s", {"kinds": []}, {"since": 2, "until": 1})
        assert isinstance(message, ReqMessage | CountMessage)
        assert all(wanted.matches_nothing() for wanted in message.filters)

    def test_tag_values_need_not_be_hex(self, verb: str) -> None:
        message = _parse(verb, "s", {"#e": ["not hex"], "#p": [KEYS[0]]})
        assert isinstance(message, ReqMessage | CountMessage)
        assert message.filters[0].tags == {"e": frozenset({"not hex"}), "p": frozenset({KEYS[0]})}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b" ",
        b"[]",
        b"{}",
        b"null",
        b"1",
        b'"REQ"',
        b'{"0":"REQ"}',
        b'["REQ","s",{}',
        b'["REQ","s",{}]]',
        b'["REQ","s",{}] x',
        b'["REQ","s",{},]',
        b"['REQ','s',{}]",
        b'\xef\xbb\xbf["REQ","s",{}]',
        b'["REQ","s",{}]\x00',
        b'["REQ","s",NaN]',
        b'["REQ","s",01]',
        b'["req","s",{}]',
        b'["REQ ","s",{}]',
        b'["","s",{}]',
        b'["OK","s",true,""]',
        b"[null]",
        b'[["REQ"],"s",{}]',
        b'[1e999,"s"]',
        b'["\xff"]',
        b"[" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 100_000,
        b'["REQ","s",' + b"[" * 100_000 + b"]" * 100_000 + b"]",
        b'["EVENT",' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"]",
        b'["REQ",' + b"[" * 100_000 + b"]" * 100_000 + b",{}]",
        '["REQ","s",{}]'.encode("utf-16"),
    ],
    ids=lambda data: repr(data[:24]),
)
def test_what_is_no_message_is_invalid_and_the_reason_is_short(data: bytes) -> None:
    error = _refusal(data)
    assert error.refusal.prefix is Prefix.INVALID
    assert len(str(error)) < 200
    str(error).encode()


def test_an_unknown_verb_is_named_but_not_repeated_in_full() -> None:
    assert 'unknown message type "PING"' in str(_refused("PING"))
    assert len(str(_refused("P" * 100_000))) < 100


@pytest.mark.parametrize("sub_id", _ODD_SUB_IDS)
def test_texts_about_a_subscription_are_json_for_any_id(sub_id: str) -> None:
    refusal = Refusal(Prefix.ERROR, 'it "broke" \\ \n 😀')
    reason = 'error: it "broke" \\ \n 😀'
    assert json.loads(eose_text(sub_id)) == ["EOSE", sub_id]
    assert json.loads(closed_text(sub_id, refusal)) == ["CLOSED", sub_id, reason]
    assert json.loads(count_text(sub_id, 2**40)) == ["COUNT", sub_id, {"count": 2**40}]
    assert json.loads(neg_err_text(sub_id, reason)) == ["NEG-ERR", sub_id, reason]
    assert json.loads(neg_err_text(sub_id, reason, 5)) == ["NEG-ERR", sub_id, reason, 5]
    assert json.loads(neg_msg_text(sub_id, b"\x61\xff")) == ["NEG-MSG", sub_id, "61ff"]
    assert json.loads(event_text(sub_id, _EVENT.raw)) == ["EVENT", sub_id, json.loads(_EVENT.raw)]
    assert event_text(sub_id, _EVENT.raw) == event_prefix(sub_id) + _EVENT.raw + b"]"


@pytest.mark.parametrize("text", [*_ODD_SUB_IDS, ""])
def test_texts_about_no_subscription_are_json(text: str) -> None:
    assert json.loads(notice_text(text)) == ["NOTICE", text]
    assert json.loads(auth_text(text)) == ["AUTH", text]
    assert json.loads(ok_text(text)) == ["OK", text, True, ""]


def test_an_ok_always_has_four_elements() -> None:
    refusal = Refusal(Prefix.DUPLICATE, "have it")
    event_id = _EVENT.event.id
    assert json.loads(ok_text(event_id)) == ["OK", event_id, True, ""]
    assert json.loads(ok_text(event_id, refusal)) == ["OK", event_id, False, "duplicate: have it"]
    assert json.loads(ok_text(event_id, refusal, accepted=True)) == ["OK", event_id, True, "duplicate: have it"]
    assert json.loads(ok_text(event_id, refusal, accepted=False)) == ["OK", event_id, False, "duplicate: have it"]
    assert json.loads(ok_text(event_id, accepted=False)) == ["OK", event_id, False, ""]


@pytest.mark.parametrize("prefix", Prefix)
def test_a_refusal_starts_with_a_known_word(prefix: Prefix) -> None:
    assert str(Refusal(prefix, "why")) == f"{prefix}: why"
    assert prefix in {
        "duplicate", "invalid", "blocked", "rate-limited", "pow", "restricted", "auth-required", "unsupported", "error",
    }  # fmt: skip


def _reads_or_refuses(data: bytes) -> None:
    try:
        message = parse_message(data, _LIMITS)
    except MessageError as error:
        json.loads(notice_text(str(error)))
        if error.sub_id is not None:
            json.loads(closed_text(error.sub_id, error.refusal))
        return
    if isinstance(message, EventMessage | AuthMessage):
        try:
            decode_event(message.raw)
        except EventError as error:
            json.loads(ok_text(error.event_id or "", Refusal(Prefix.INVALID, str(error))))


_requests = st.builds(
    lambda verb, sub_id, some: json.dumps([verb, sub_id, *map(to_json, some)]).encode(),
    st.sampled_from(_VERBS),
    texts(8),
    st.lists(filters(), max_size=2),
)
_messages = st.one_of(_requests, signed_events().map(lambda event: b'["EVENT",' + event.raw + b"]"))


@QUICK
@given(st.binary(max_size=60))
def test_random_bytes_raise_nothing_else(data: bytes) -> None:
    _reads_or_refuses(data)
    _reads_or_refuses(b'["REQ","s",' + data + b"]")


@QUICK
@given(mutated(_messages))
def test_damaged_messages_raise_nothing_else(data: bytes) -> None:
    _reads_or_refuses(data)


@QUICK
@given(st.sampled_from([*_VERBS, "PING"]), st.lists(junk_json(), max_size=3))
def test_random_json_raises_nothing_else(verb: str, arguments: list[Any]) -> None:
    for parts in ([verb, *arguments], [verb, "s", *arguments], arguments):
        _reads_or_refuses(json.dumps(parts).encode())


@QUICK
@given(texts(64).filter(bool), st.lists(filters(), min_size=1, max_size=4))
def test_a_request_is_read_as_it_was_written(sub_id: str, wanted: list[Filter]) -> None:
    limits = RequestLimits(max_filters=4, filter_limits=FilterLimits(max_values=20))
    written = json.dumps(["REQ", sub_id, *map(to_json, wanted)]).encode()
    assert parse_message(written, limits) == ReqMessage(sub_id, tuple(wanted))


# NIP-77


def _neg_refused(*parts: object) -> str:
    """What a NEG-ERR under the id `s` would say."""
    error = _refused(*parts)
    assert (error.sub_id, error.is_negentropy) == ("s", True)
    return str(error)


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        (("NEG-OPEN", "s"), "takes a subscription id, a filter and a message, 4 elements in all, not 2"),
        (("NEG-OPEN", "s", {}), "NEG-OPEN needs an initial message after the filter"),
        (("NEG-OPEN", "s", {}, 16, "61"), "five elements, an id size among them, is a form from before NIP-77"),
        (("NEG-OPEN", "s", {}, "61", "61", "61"), "not 6"),
        (("NEG-OPEN", "s", [], "61"), "the filter of NEG-OPEN must be one object"),
        (("NEG-OPEN", "s", [{}], "61"), "the filter of NEG-OPEN must be one object"),
        (("NEG-OPEN", "s", None, "61"), "the filter of NEG-OPEN must be one object"),
        (("NEG-OPEN", "s", "ab" * 32, "61"), "the filter of NEG-OPEN must be one object"),
        (("NEG-OPEN", "s", {"kinds": ["1"]}, "61"), "filter kinds must hold integers"),
        (("NEG-OPEN", "s", {"ids": ["ab" * 32] * 6}, "61"), "filter ids has 6 values, the maximum is 5"),
        (("NEG-OPEN", "s", {}, 61), "the message of NEG-OPEN must be a string"),
        (("NEG-OPEN", "s", {}, None), "the message of NEG-OPEN must be a string"),
        (("NEG-OPEN", "s", {}, ""), "the message of NEG-OPEN is empty"),
        (("NEG-OPEN", "s", {}, "6"), "is not hex, or has an odd number of digits"),
        (("NEG-OPEN", "s", {}, "6g"), "is not hex"),
        (("NEG-OPEN", "s", {}, "61 00"), "is not hex"),
        (("NEG-OPEN", "s", {}, "\u0661\u0661"), "is not hex"),
        (("NEG-MSG", "s"), "NEG-MSG takes a subscription id and a message, 3 elements in all, not 2"),
        (("NEG-MSG", "s", "61", "61"), "3 elements in all, not 4"),
        (("NEG-MSG", "s", ["61"]), "the message of NEG-MSG must be a string"),
        (("NEG-MSG", "s", "x"), "is not hex"),
        (("NEG-CLOSE", "s", "x"), "NEG-CLOSE takes a subscription id, 2 elements in all, not 3"),
    ],
)
def test_a_malformed_negentropy_message_is_refused_under_its_id(parts: tuple[object, ...], reason: str) -> None:
    text = _neg_refused(*parts)
    assert text.startswith("invalid: ")
    assert reason in text


def test_a_filter_that_is_not_supported_is_refused_under_its_id() -> None:
    assert _neg_refused("NEG-OPEN", "s", {"search": "x"}, "61").startswith("unsupported: ")


def test_a_filter_with_a_key_twice_is_refused_under_its_id() -> None:
    error = _refusal(b'["NEG-OPEN","s",{"kinds":[1],"kinds":[2]},"61"]')
    assert (error.sub_id, error.is_negentropy) == ("s", True)
    assert "kinds" in str(error)


def test_a_deep_filter_is_refused_under_its_id() -> None:
    error = _refusal(b'["NEG-OPEN","s",{"kinds":' + b"[" * 500 + b"]" * 500 + b'},"61"]')
    assert (error.sub_id, error.is_negentropy) == ("s", True)


@pytest.mark.parametrize("verb", ["NEG-OPEN", "NEG-MSG", "NEG-CLOSE"])
class TestNegentropyIds:
    """The answer goes under whatever text stands where the id should be; only without any there is none."""

    @pytest.mark.parametrize("sub_id", [None, 1, 1.5, True, [], ["s"], {}, ""])
    def test_without_an_id(self, verb: str, sub_id: object) -> None:
        for error in (_refused(verb), _refused(verb, sub_id, {}, "61")):
            assert (error.sub_id, error.is_negentropy) == (None, False)
            assert verb in str(error)

    @pytest.mark.parametrize("letter", ["s", "é", "😀", '"', "\x00"])
    def test_with_an_id_that_is_too_long(self, verb: str, letter: str) -> None:
        rest: tuple[object, ...] = {"NEG-OPEN": ({}, "61"), "NEG-MSG": ("61",), "NEG-CLOSE": ()}[verb]
        message = _parse(verb, letter * 64, *rest)
        assert isinstance(message, NegOpenMessage | NegMsgMessage | NegCloseMessage)
        assert message.sub_id == letter * 64
        error = _refused(verb, letter * 65, *rest)
        assert (error.sub_id, error.is_negentropy) == (letter * 65, True)
        assert "1 to 64 characters" in str(error)

    @pytest.mark.parametrize("text", [b"\xff", rb"\ud800", b"\xed\xa0\x80"])
    def test_with_an_id_that_is_no_text(self, verb: str, text: bytes) -> None:
        error = _refusal(b'["%s","%s",{},"61"]' % (verb.encode(), text))
        assert (error.sub_id, error.is_negentropy) == (None, False)


@pytest.mark.parametrize("n_digits", [131_072, 262_144])
def test_long_messages_are_read(n_digits: int) -> None:
    message = _parse("NEG-MSG", "s", "61" * (n_digits // 2))
    assert isinstance(message, NegMsgMessage)
    assert message.message == b"\x61" * (n_digits // 2)
