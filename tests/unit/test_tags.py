"""Reading tags: first values, indexed letters, addresses, expiration, protection."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.factory import KEYS, address_of, expiring_event, fake_event
from tests.strategies import QUICK, events, texts

from orly.nostr.event import MAX_CREATED_AT, EncodedEvent
from orly.nostr.tags import (
    TAG_LETTERS,
    Address,
    d_value,
    event_address,
    expiration,
    first_value,
    indexed,
    is_protected,
    parse_address,
    values,
)

_KEY = KEYS[0]


def test_the_first_tag_of_a_name_counts_even_if_it_is_bare() -> None:
    event = fake_event(tags=[["x", "no"], ["d", "one", "more"], ["d", "two"], ["D", "three"]]).event
    assert (first_value(event, "d"), d_value(event), list(values(event, "d"))) == ("one", "one", ["one", "two"])
    bare = fake_event(tags=[["d"], ["d", "two"]]).event
    assert (first_value(bare, "d"), d_value(bare), list(values(bare, "d"))) == (None, "", ["two"])
    without = fake_event(tags=[["dd", "x"], ["", "x"]]).event
    assert (first_value(without, "d"), d_value(without), list(values(without, "d"))) == (None, "", [])


def test_single_ascii_letters_are_indexed_by_their_first_value() -> None:
    tags = [
        ["e", "1", "2"], ["e", "1"], ["E", "1"], ["t", ""], ["t"],
        ["ee", "1"], ["é", "1"], ["1", "1"], ["-"], ["", "1"],
    ]  # fmt: skip
    assert indexed(fake_event(tags=tags).event) == {("e", "1"), ("E", "1"), ("t", "")}
    assert all(letter.isascii() and letter.isalpha() and len(letter) == 1 for letter in TAG_LETTERS)


@pytest.mark.parametrize(
    ("kind", "tags", "expected"),
    [
        (0, [["d", "x"]], (0, _KEY, "")),
        (3, [], (3, _KEY, "")),
        (10_000, [["d", "x"]], (10_000, _KEY, "")),
        (30_000, [["d", "x"]], (30_000, _KEY, "x")),
        (30_000, [["d", ""]], (30_000, _KEY, "")),
        (30_000, [["d"]], (30_000, _KEY, "")),
        (30_000, [], (30_000, _KEY, "")),
        (39_999, [["d", "a:b"]], (39_999, _KEY, "a:b")),
        (1, [["d", "x"]], None),
        (20_000, [["d", "x"]], None),
        (40_000, [["d", "x"]], None),
    ],
)
def test_an_event_has_the_address_of_its_kind(kind: int, tags: list[list[str]], expected: Address | None) -> None:
    assert event_address(fake_event(kind=kind, tags=tags).event) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"0:{_KEY}:", (0, _KEY, "")),
        (f"0:{_KEY}", (0, _KEY, "")),
        (f"10002:{_KEY}:", (10_002, _KEY, "")),
        (f"19999:{_KEY}", (19_999, _KEY, "")),
        (f"30000:{_KEY}:", (30_000, _KEY, "")),
        (f"30000:{_KEY}:x", (30_000, _KEY, "x")),
        (f"39999:{_KEY}:a:b::", (39_999, _KEY, "a:b::")),
        (f"30023:{_KEY}: \n😀", (30_023, _KEY, " \n😀")),
        (f"30023:{_KEY}:\n", (30_023, _KEY, "\n")),
    ],
)
def test_an_address_is_read(text: str, expected: Address) -> None:
    assert parse_address(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "::",
        "30000",
        "30000:",
        f"30000:{_KEY}",
        f"{_KEY}:30000:x",
        f":{_KEY}:x",
        f"1:{_KEY}:x",
        f"9999:{_KEY}:",
        f"20000:{_KEY}:x",
        f"40000:{_KEY}:x",
        f"65535:{_KEY}:x",
        f"99999:{_KEY}:x",
        f"300000:{_KEY}:x",
        f"-1:{_KEY}:x",
        f"+30000:{_KEY}:x",
        f" 30000:{_KEY}:x",
        f"030000:{_KEY}:x",
        f"03:{_KEY}:",
        f"00:{_KEY}:",
        f"3e4:{_KEY}:x",
        f"\u0663:{_KEY}:x",
        f"30000:{_KEY[:-1]}:x",
        f"30000:{_KEY}0:x",
        f"30000:{_KEY.upper()}:x",
        f"30000:{'z' * 64}:x",
        f"30000:{'é' * 64}:x",
        f"30000: {_KEY[1:]}:x",
        f"30000:{_KEY}\n:x",
        f"3:{_KEY}:x",
        f"3:{_KEY}\n",
        f"3:{_KEY}::",
        "9" * 100_000,
    ],
    ids=lambda text: text[:24],
)
def test_what_is_the_address_of_no_event_is_refused(text: str) -> None:
    assert parse_address(text) is None


@QUICK
@given(events(kind=st.sampled_from([0, 1, 3, 10_002, 20_001, 30_000, 30_023, 39_999])))
def test_the_address_of_an_event_reads_as_that_address(event: EncodedEvent) -> None:
    expected = event_address(event.event)
    if expected is None:
        assert parse_address(address_of(event)) is None
    else:
        kind, pubkey, d = expected
        assert parse_address(f"{kind}:{pubkey}:{d}") == expected


@QUICK
@given(st.one_of(texts(100), st.tuples(st.integers(), texts(80)).map(lambda pair: f"{pair[0]}:{pair[1]}")))
def test_no_address_raises(text: str) -> None:
    found = parse_address(text)
    assert found is None or text.startswith(f"{found[0]}:{found[1]}")


@pytest.mark.parametrize("seconds", [0, 1, 1_700_000_000, MAX_CREATED_AT - 1, MAX_CREATED_AT])
def test_an_expiration_is_a_second(seconds: int) -> None:
    assert expiration(expiring_event(seconds).event) == seconds


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("007", 7),
        (str(MAX_CREATED_AT + 1), MAX_CREATED_AT),
        ("9" * 20, MAX_CREATED_AT),
        ("9" * 21, None),
        ("9" * 100_000, None),
        ("", None),
        ("-1", None),
        ("+1", None),
        ("1.5", None),
        ("1e3", None),
        (" 1", None),
        ("1\n", None),
        ("1_0", None),
        ("never", None),
        ("\u0661", None),
        ("\u00b2", None),
    ],
    ids=lambda value: str(value)[:24],
)
def test_an_unreadable_expiration_means_never(text: str, expected: int | None) -> None:
    assert expiration(fake_event(tags=[["expiration", text]]).event) == expected


def test_the_first_expiration_counts() -> None:
    assert expiration(fake_event().event) is None
    assert expiration(fake_event(tags=[["expiration"]]).event) is None
    assert expiration(fake_event(tags=[["expiration", "5"], ["expiration", "3"]]).event) == 5
    assert expiration(fake_event(tags=[["Expiration", "5"], ["expiration ", "3"]]).event) is None


@QUICK
@given(texts())
def test_no_expiration_raises(text: str) -> None:
    found = expiration(fake_event(tags=[["expiration", text]]).event)
    assert found is None or 0 <= found <= MAX_CREATED_AT


@pytest.mark.parametrize(
    ("tags", "expected"),
    [([["-"]], True), ([["e", "x"], ["-"]], True), ([["-", "x"]], True), ([], False), ([["--"]], False),
     ([["e", "-"]], False), ([[""]], False)],
)  # fmt: skip
def test_a_dash_protects(tags: list[list[str]], expected: bool) -> None:
    assert is_protected(fake_event(tags=tags).event) is expected
