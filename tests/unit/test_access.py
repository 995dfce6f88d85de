"""Who may do what: every cell of the table, the levels, and changes of the lists."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final, assert_never

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.factory import KEYS, fake_event
from tests.strategies import QUICK

from orly.access.curating import CuratingConfig
from orly.access.decide import (
    Standing,
    Treatment,
    is_hidden,
    level_of,
    refuse_read,
    refuse_write,
    standing_of,
    treatment_of,
)
from orly.access.keyset import KeySet
from orly.access.levels import Level, Mode
from orly.access.snapshot import (
    KEY_LISTS,
    KIND_LISTS,
    AddressChange,
    Change,
    CuratingChange,
    DayChange,
    InfoChange,
    KeyChange,
    KindChange,
    ListName,
    Rules,
    Snapshot,
    UseChange,
)
from orly.nostr.event import EncodedEvent

TABLES: Final = Path(__file__).parents[2] / "docs" / "access.md"

WHO: Final = {
    "owner": 0,
    "admin": 1,
    "followed": 2,
    "allowed": 3,
    "trusted": 4,
    "blacklisted": 5,
    "banned": 6,
    "anybody else": 7,
}
"""Which of the test keys is who."""
BANNED_OWNER = "ab" * 32
PEER = "cd" * 32
FINE_IP, BLOCKED_IP = "192.0.2.1", "2001:db8::1"
ALLOWED_ID, BANNED_ID, SPAM_ID = b"\x01" * 32, b"\x02" * 32, b"\x03" * 32
KIND, UNCONFIGURED, DISALLOWED = 1, 1000, 1001
CONFIG: Final = CuratingConfig(kinds=(KIND,))


def pubkey(who: str) -> bytes:
    match who:
        case "banned owner":
            return bytes.fromhex(BANNED_OWNER)
        case "peer":
            return bytes.fromhex(PEER)
        case _:
            return bytes.fromhex(KEYS[WHO[who]])


def snapshot(mode: str, *, reads_restricted: bool = False) -> Snapshot:
    """The lists of all modes at once: the mode decides which of them count."""
    name, _, variant = mode.partition(", ")
    rules = Rules(
        mode=Mode(name),
        owners=frozenset({pubkey("owner"), pubkey("banned owner")}),
        admins=frozenset({pubkey("admin")}),
        reads_restricted=reads_restricted,
        throttles=variant == "throttled",
    )
    made = Snapshot(rules)
    for listed, *members in (
        (ListName.FOLLOWED_PUBKEYS, pubkey("followed")),
        (ListName.PEER_PUBKEYS, pubkey("peer")),
        (ListName.ALLOWED_PUBKEYS, pubkey("allowed")),
        (ListName.TRUSTED_PUBKEYS, pubkey("trusted")),
        (ListName.BLACKLISTED_PUBKEYS, pubkey("blacklisted")),
        (ListName.BANNED_PUBKEYS, pubkey("banned"), pubkey("banned owner")),
        (ListName.ALLOWED_EVENTS, ALLOWED_ID),
        (ListName.BANNED_EVENTS, BANNED_ID),
        (ListName.SPAM_EVENTS, SPAM_ID),
    ):
        for member in members:
            made.apply(KeyChange(listed, member, True))
    made.apply(KindChange(ListName.DISALLOWED_KINDS, DISALLOWED, True))
    made.apply(AddressChange(BLOCKED_IP, True))
    if variant != "not set up":
        made.apply(CuratingChange(CONFIG))
    return made


def event(who: str, kind: int = KIND, event_id: bytes | None = None) -> EncodedEvent:
    made = fake_event(kind=kind)
    return EncodedEvent(made.event, made.raw, event_id or made.id, pubkey(who), made.sig)


def named_event(name: str) -> EncodedEvent:
    match name:
        case "of anybody else":
            return event("anybody else")
        case "of a banned author" | "of a blacklisted author" | "of a banned owner":
            return event(name.removeprefix("of a ").removesuffix(" author"))
        case "banned event of an owner":
            return event("owner", event_id=BANNED_ID)
        case "spam of anybody else":
            return event("anybody else", event_id=SPAM_ID)
        case "allowed event of anybody else":
            return event("anybody else", event_id=ALLOWED_ID)
        case "allowed event of a banned author":
            return event("banned", event_id=ALLOWED_ID)
        case "disallowed kind of an owner":
            return event("owner", kind=DISALLOWED)
        case "kind that is not configured, of a trusted author":
            return event("trusted", kind=UNCONFIGURED)
        case "kind that is not configured, of an admin":
            return event("admin", kind=UNCONFIGURED)
        case _:
            raise AssertionError(name)


def connection(lists: Snapshot, who: str) -> Standing:
    keys, _, place = who.partition("from a blocked address")
    address = BLOCKED_IP if "blocked address" in who else FINE_IP
    assert not place
    names = [name.strip() for name in keys.split(" and ") if name.strip() not in ("", "nobody")]
    return standing_of(lists, [pubkey(name) for name in names], address)


def written(lists: Snapshot, offered: EncodedEvent, standing: Standing) -> str:
    refusal = refuse_write(lists, offered, standing)
    if refusal is not None:
        return refusal.prefix.value
    treatment = treatment_of(lists, offered, standing)
    match treatment:
        case Treatment.FREE:
            return "yes"
        case Treatment.THROTTLED:
            return "slow"
        case Treatment.COUNTED:
            return "counted"
        case _:
            assert_never(treatment)


def answer(section: str, row: str, mode: str) -> str:
    lists = snapshot(mode, reads_restricted="restricted" in section)
    nobody = standing_of(lists, [], FINE_IP)
    match section.partition(":")[0], section.partition(": ")[2].partition(",")[0]:
        case "Writing", "the author of the event":
            return written(lists, event(row), nobody)
        case "Writing", "who brings an event of anybody else":
            return written(lists, event("anybody else"), connection(lists, row))
        case "Writing", "the event itself":
            return written(lists, named_event(row), nobody)
        case (("Reading" | "Reading where reads are restricted"), _):
            refusal = refuse_read(connection(lists, row))
            return "yes" if refusal is None else refusal.prefix.value
        case "Seeing", _:
            return "hidden" if is_hidden(lists, named_event(row)) else "yes"
        case _:
            raise AssertionError(section)


def cells() -> Iterator[tuple[str, str, str, str]]:
    section, modes = "", [""]
    for line in TABLES.read_text().splitlines():
        columns = [column.strip() for column in line.strip("|").split("|")]
        if line.startswith("## "):
            section = ""
        elif line.startswith("### "):
            section, modes = line[4:], [""]
        elif not section or line.startswith("| ---") or not line.startswith("|"):
            continue
        elif modes == [""]:
            modes = columns[1:]
        else:
            assert len(columns) == len(modes) + 1, line
            yield from ((section, columns[0], mode, wanted) for mode, wanted in zip(modes, columns[1:], strict=True))


@pytest.mark.parametrize("section", sorted({section for section, *_ in cells()}))
def test_every_cell_of_the_table(section: str) -> None:
    of_section = [each for each in cells() if each[0] == section]
    wrong = [
        (row, mode, wanted, found)
        for _, row, mode, wanted in of_section
        if (found := answer(section, row, mode)) != wanted
    ]
    assert not wrong
    assert {Mode(mode.partition(",")[0]) for _, _, mode, _ in of_section} == set(Mode)


def test_the_table_is_whole() -> None:
    assert len(list(cells())) == 6 * (9 + 12 + 7 + 8 + 9 + 6)


# Levels


@pytest.mark.parametrize(
    ("who", "levels"),
    [
        ("owner", "owner owner owner owner owner owner"),
        ("banned owner", "owner owner owner owner owner owner"),
        ("admin", "admin admin admin admin admin admin"),
        ("followed", "write write write read read write"),
        ("allowed", "write write write write read write"),
        ("trusted", "write read read read read write"),
        ("blacklisted", "write read read read none none"),
        ("banned", "none none none none none none"),
        ("peer", "write read read read read write"),
        ("anybody else", "write read read read read write"),
    ],
)
def test_levels(who: str, levels: str) -> None:
    modes = ("none", "follows", "follows, throttled", "managed", "curating, not set up", "curating")
    for mode, wanted in zip(modes, levels.split(), strict=True):
        assert level_of(snapshot(mode), pubkey(who)).label == wanted, mode
        restricted = level_of(snapshot(mode, reads_restricted=True), pubkey(who))
        assert restricted.label == ("none" if wanted == "read" else wanted), mode


def test_a_list_of_allowed_kinds_shuts_out_all_others() -> None:
    lists = snapshot("none")
    nobody = standing_of(lists, [], FINE_IP)
    lists.apply(KindChange(ListName.ALLOWED_KINDS, 7, True))
    refusal = refuse_write(lists, event("owner"), nobody)
    assert str(refusal) == "blocked: kind 1 is not taken on this relay"
    assert refuse_write(lists, event("owner", kind=7), nobody) is None
    lists.apply(KindChange(ListName.ALLOWED_KINDS, 7, False))
    assert refuse_write(lists, event("owner"), nobody) is None


@pytest.mark.parametrize(
    ("config", "taken", "refused"),
    [
        (CuratingConfig(), (0, 1, 65_535), ()),
        (CuratingConfig(categories=("dm",)), (4, 14, 1059), (3, 5, 1058)),
        (CuratingConfig(ranges=((10, 12), (5, 5))), (5, 10, 11, 12), (4, 6, 9, 13)),
        (CuratingConfig(kinds=(1, 7), ranges=((10, 12),), categories=("dm",)), (1, 4, 7, 11), (0, 2, 13)),
    ],
)
def test_kinds_of_a_configuration(config: CuratingConfig, taken: tuple[int, ...], refused: tuple[int, ...]) -> None:
    assert [kind for kind in taken if not config.takes_kind(kind)] == []
    assert [kind for kind in refused if config.takes_kind(kind)] == []


# Changes

keys = st.integers(0, 20).map(lambda n: n.to_bytes(32, "big"))
changes: st.SearchStrategy[Change] = st.one_of(
    st.builds(KeyChange, st.sampled_from(KEY_LISTS), keys, st.booleans()),
    st.builds(KindChange, st.sampled_from(KIND_LISTS), st.integers(0, 9), st.booleans()),
    st.builds(AddressChange, st.sampled_from([FINE_IP, BLOCKED_IP]), st.booleans()),
    st.builds(CuratingChange, st.sampled_from([None, CuratingConfig(), CONFIG])),
    st.builds(InfoChange, st.sampled_from(["name", "icon"]), st.sampled_from(["", "x", "y"])),
    st.builds(UseChange, st.one_of(keys, st.sampled_from([FINE_IP, BLOCKED_IP])), st.integers(0, 9)),
    st.builds(DayChange, st.integers(0, 2)),
)


@QUICK
@given(st.lists(changes, max_size=40), st.lists(changes, max_size=40))
def test_a_snapshot_with_changes_equals_a_fresh_one(before: list[Change], after: list[Change]) -> None:
    listed: dict[ListName, set[bytes]] = {name: set() for name in KEY_LISTS}
    kinds: dict[ListName, set[int]] = {name: set() for name in KIND_LISTS}
    blocked: set[str] = set()
    config: CuratingConfig | None = None
    info: dict[str, str] = {}
    day = 0
    used: dict[bytes | str, int] = {}

    def fresh() -> Snapshot:
        made = Snapshot(Rules())
        for name, members in listed.items():
            made.put(name, KeySet.of(members))
        for name, numbers in kinds.items():
            made.put_kinds(name, numbers)
        made.blocked = set(blocked)
        made.curating = config
        made.info = dict(info)
        made.day = day
        made.used = dict(used)
        return made

    def note(change: Change) -> None:
        nonlocal config, day
        match change:
            case KeyChange(list=name, key=key, is_listed=is_listed):
                listed[name] = listed[name] | {key} if is_listed else listed[name] - {key}
            case KindChange(list=name, kind=kind, is_listed=is_listed):
                kinds[name] = kinds[name] | {kind} if is_listed else kinds[name] - {kind}
            case AddressChange(address=address, is_listed=is_listed):
                (blocked.add if is_listed else blocked.discard)(address)
            case CuratingChange(config=new):
                config = new
            case InfoChange(field=field, text=text):
                info[field] = text
                if not text:
                    del info[field]
            case UseChange(who=who, n_events=n_events):
                used[who] = n_events
            case DayChange(day=new_day):
                day = new_day
                used.clear()
            case _:
                assert_never(change)

    for change in before:
        note(change)
    kept = fresh()
    for change in after:
        note(change)
        kept.apply(change)
    assert kept == fresh()
    assert kept.version == len(after)


def test_snapshots_that_differ() -> None:
    empty = Snapshot(Rules())
    assert empty == Snapshot(Rules(), version=7)
    assert empty != Snapshot(Rules(throttles=True))
    assert empty != 0
    for change in (
        KeyChange(ListName.SPAM_EVENTS, SPAM_ID, True),
        KindChange(ListName.ALLOWED_KINDS, 1, True),
        AddressChange(FINE_IP, True),
        CuratingChange(CONFIG),
        InfoChange("name", "x"),
        UseChange(FINE_IP, 1),
        DayChange(1),
    ):
        other = Snapshot(Rules())
        other.apply(change)
        assert other != empty


def test_a_list_of_kinds_takes_no_keys() -> None:
    with pytest.raises(KeyError):
        Snapshot(Rules()).apply(KeyChange(ListName.ALLOWED_KINDS, SPAM_ID, True))


def test_levels_are_in_order() -> None:
    assert [level.label for level in sorted(Level)] == ["none", "read", "write", "admin", "owner"]
