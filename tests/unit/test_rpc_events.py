import msgspec
import pytest
from hypothesis import given
from tests.factory import KEYS, make_event
from tests.strategies import QUICK, events, filters

from orly.nostr.event import MAX_CREATED_AT, EncodedEvent, EventError
from orly.nostr.filter import MAX_LIMIT, Filter, FilterError, matches
from orly.pb.orlydb.v1 import types_pb2
from orly.rpc.events import filter_from_pb, filter_to_pb, from_pb, to_pb

KEY = bytes.fromhex(KEYS[0])
EVENT = make_event(tags=[["e", "00" * 32], ["p", KEYS[1], "wss://é"], ["d"], ["-"]], content="𝄞\x00")


@QUICK
@given(event=events())
def test_an_event_comes_back_as_it_was(event: EncodedEvent) -> None:
    message = types_pb2.Event.FromString(to_pb(event.event).SerializeToString())
    assert from_pb(message) == event.event


def test_what_a_message_holds() -> None:
    message = to_pb(EVENT.event)
    assert (message.id, message.pubkey, message.sig) == (EVENT.id, EVENT.pubkey, EVENT.sig)
    assert message.content == "𝄞\x00".encode()
    assert [list(tag.values) for tag in message.tags] == [
        [b"e", b"00" * 32],
        [b"p", KEYS[1].encode(), "wss://é".encode()],
        [b"d"],
        [b"-"],
    ]


@pytest.mark.parametrize(
    ("tag", "read"),
    [
        ([b"e", KEY + b"\x00"], ["e", KEYS[0]]),
        ([b"p", KEY + b"\x00", b"hint"], ["p", KEYS[0], "hint"]),
        ([b"p", b"x" * 32 + b"\x01"], ["p", "x" * 32 + "\x01"]),
        ([b"p", b"x" * 31 + b"\x00"], ["p", "x" * 31 + "\x00"]),
        ([b"p", b"x" * 33 + b"\x00"], ["p", "x" * 33 + "\x00"]),
        ([b"p", b"", b"x" * 32 + b"\x00"], ["p", "", "x" * 32 + "\x00"]),
        ([b"q", b"x" * 32 + b"\x00"], ["q", "x" * 32 + "\x00"]),
        ([b"P", b"x" * 32 + b"\x00"], ["P", "x" * 32 + "\x00"]),
        ([b"e"], ["e"]),
        ([], []),
    ],
)
def test_binary_values_are_read_in_e_and_p_tags_only(tag: list[bytes], read: list[str]) -> None:
    message = to_pb(EVENT.event)
    del message.tags[:]
    message.tags.add(values=tag)
    assert from_pb(message).tags == [read]


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("id", bytes(31), "id has 31 bytes, not 32"),
        ("id", bytes(33), "id has 33 bytes, not 32"),
        ("pubkey", b"", "pubkey has 0 bytes, not 32"),
        ("sig", bytes(63), "sig has 63 bytes, not 64"),
        ("sig", bytes(65), "sig has 65 bytes, not 64"),
        ("content", b"\xff", "content is not valid UTF-8"),
    ],
)
def test_a_wrong_field_is_named(field: str, value: bytes, problem: str) -> None:
    message = to_pb(EVENT.event)
    setattr(message, field, value)
    with pytest.raises(EventError, match=f"^{problem}$"):
        from_pb(message)


@pytest.mark.parametrize("values", [[b"\xff"], [b"e", b"\xff"], [b"e", b"", b"\xff"], [b"q", KEY + b"\xff"]])
def test_tags_that_are_no_text_are_named(values: list[bytes]) -> None:
    message = to_pb(EVENT.event)
    message.tags.add(values=values)
    with pytest.raises(EventError, match=r"^tags are not valid UTF-8$"):
        from_pb(message)


@QUICK
@given(wanted=filters())
def test_a_filter_comes_back_as_it_was(wanted: Filter) -> None:
    message = types_pb2.Filter.FromString(filter_to_pb(wanted).SerializeToString())
    read = filter_from_pb(message)
    if wanted.matches_nothing():
        assert read.limit == 0
    else:
        assert read == wanted


def test_absent_and_zero_are_told_apart() -> None:
    assert filter_from_pb(types_pb2.Filter()) == Filter()
    zeros = filter_from_pb(types_pb2.Filter(since=0, until=0, limit=0))
    assert (zeros.since, zeros.until, zeros.limit) == (0, 0, 0)


@pytest.mark.parametrize(
    ("message", "read"),
    [
        (types_pb2.Filter(since=-5, until=-5), Filter(since=0, until=-1)),
        (types_pb2.Filter(since=MAX_CREATED_AT, until=MAX_CREATED_AT), Filter(since=MAX_CREATED_AT)),
        (types_pb2.Filter(limit=2**32 - 1), Filter(limit=MAX_LIMIT)),
        (types_pb2.Filter(search=b""), Filter()),
    ],
)
def test_extremes_are_read_as_in_json(message: types_pb2.Filter, read: Filter) -> None:
    assert filter_from_pb(message) == read


def tags_message(**sets: list[bytes]) -> types_pb2.Filter:
    return types_pb2.Filter(
        tags={key.replace("hash_", "#"): types_pb2.TagSet(values=values) for key, values in sets.items()}
    )


def test_keys_of_tags_may_have_a_hash_and_values_may_be_binary() -> None:
    read = filter_from_pb(tags_message(e=[KEY + b"\x00", b"plain"], hash_e=[b"more"], hash_t=[b"x" * 32 + b"\x00"]))
    assert read.tags == {"e": frozenset({KEYS[0], "plain", "more"}), "t": frozenset({"x" * 32 + "\x00"})}


def test_values_are_joined_by_or_and_keys_by_and() -> None:
    read = filter_from_pb(tags_message(t=[b"a", b"b"], p=[KEY + b"\x00"]))
    one = make_event(tags=[["t", "b"], ["p", KEYS[0]]])
    other = make_event(tags=[["t", "a"], ["t", "b"]])
    assert matches(read, one.event)
    assert not matches(read, other.event)


def test_an_empty_set_of_values_matches_nothing() -> None:
    assert filter_from_pb(tags_message(t=[])).matches_nothing()


@pytest.mark.parametrize(
    ("message", "problem", "unsupported"),
    [
        (types_pb2.Filter(ids=[bytes(32), bytes(31)]), "filter ids must hold 32 bytes each, not 31", False),
        (types_pb2.Filter(authors=[bytes(33)]), "filter authors must hold 32 bytes each, not 33", False),
        (types_pb2.Filter(kinds=[1, 65_536]), "filter kinds must hold integers from 0 to 65535", False),
        (types_pb2.Filter(search=b"cat"), "filter key 'search' is not supported", True),
        (tags_message(tt=[b"x"]), "filter key 'tt' is not supported", True),
        (types_pb2.Filter(tags={"": types_pb2.TagSet()}), "filter key '' is not supported", True),
        (types_pb2.Filter(tags={"##e": types_pb2.TagSet()}), "filter key '##e' is not supported", True),
        (tags_message(t=[b"\xff"]), "filter tags 't' must hold UTF-8 only", False),
    ],
)
def test_a_wrong_filter_is_named(message: types_pb2.Filter, problem: str, unsupported: bool) -> None:
    with pytest.raises(FilterError) as caught:
        filter_from_pb(message)
    assert (str(caught.value), caught.value.unsupported) == (problem, unsupported)


def test_the_largest_kind_is_allowed() -> None:
    assert filter_from_pb(types_pb2.Filter(kinds=[65_535])).kinds == frozenset({65_535})


@pytest.mark.parametrize("name", ["ids", "authors", "kinds"])
def test_a_list_that_must_be_empty_travels_as_a_limit_of_nothing(name: str) -> None:
    wanted = msgspec.structs.replace(Filter(limit=5), **{name: frozenset()})
    assert filter_to_pb(wanted).limit == 0
