"""Commands and the entries they change: opposites, kinds, addresses, limits, and what no command may do."""

from collections.abc import Sequence
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.factory import KEYS
from tests.strategies import QUICK

from orly.access.commands import (
    MAX_INFO_CHARACTERS,
    MAX_REASON_CHARACTERS,
    AddKey,
    AllowKind,
    BlockAddress,
    Command,
    CommandError,
    DisallowKind,
    DropKey,
    Edit,
    Entry,
    Member,
    SetInfo,
    UnblockAddress,
    applies_in,
    change_of,
    edits_of,
    edits_of_all,
    read_address,
)
from orly.access.levels import Mode
from orly.access.snapshot import (
    EVENT_LISTS,
    KEY_LISTS,
    KIND_LISTS,
    KeyChange,
    ListName,
    Rules,
    Snapshot,
)

OWNER, ADMIN, KEY, OTHER = (bytes.fromhex(KEYS[n]) for n in range(4))
BY: Final = KEYS[5]
NOW_S: Final = 1_700_000_000
COMPUTED: Final = (ListName.FOLLOWED_PUBKEYS, ListName.PEER_PUBKEYS)
BY_HAND: Final = tuple(name for name in KEY_LISTS if name not in COMPUTED)
AGAINST_KEYS: Final = (ListName.BANNED_PUBKEYS, ListName.BLACKLISTED_PUBKEYS)
OPPOSITES: Final = (
    (ListName.ALLOWED_PUBKEYS, ListName.BANNED_PUBKEYS),
    (ListName.TRUSTED_PUBKEYS, ListName.BLACKLISTED_PUBKEYS),
    (ListName.ALLOWED_EVENTS, ListName.BANNED_EVENTS),
)
BOTH_WAYS: Final = OPPOSITES + tuple((second, first) for first, second in OPPOSITES)


def empty() -> Snapshot:
    return Snapshot(Rules(owners=frozenset({OWNER}), admins=frozenset({ADMIN})))


def edits(lists: Snapshot, command: Command) -> list[Edit]:
    return edits_of(lists, command, by=BY, now_s=NOW_S)


def carry_out(lists: Snapshot, *commands: Command) -> Snapshot:
    for command in commands:
        for edit in edits(lists, command):
            lists.apply(change_of(edit))
    return lists


def refused(command: Command, lists: Snapshot | None = None) -> str:
    with pytest.raises(CommandError) as caught:
        edits(lists or empty(), command)
    return str(caught.value)


# Keys and events


@pytest.mark.parametrize(("name", "opposite"), BOTH_WAYS)
def test_a_key_leaves_the_list_that_says_the_reverse(name: ListName, opposite: ListName) -> None:
    lists = carry_out(empty(), AddKey(opposite, KEY), AddKey(opposite, OTHER))
    entry = Entry(reason="why", added_s=NOW_S, by=BY)
    assert edits(lists, AddKey(name, KEY, "why")) == [Edit(name, KEY, entry), Edit(opposite, KEY, None)]
    carry_out(lists, AddKey(name, KEY, "why"))
    assert list(lists.keys[name]) == [KEY]
    assert list(lists.keys[opposite]) == [OTHER]
    assert edits(lists, AddKey(name, KEY, "again")) == [Edit(name, KEY, Entry(reason="again", added_s=NOW_S, by=BY))]


def test_other_lists_stay_as_they_are() -> None:
    lists = carry_out(empty(), *(AddKey(name, KEY) for name, _ in OPPOSITES), AddKey(ListName.SPAM_EVENTS, KEY))
    assert [name for name in KEY_LISTS if KEY in lists.keys[name]] == [
        ListName.ALLOWED_PUBKEYS,
        ListName.TRUSTED_PUBKEYS,
        ListName.ALLOWED_EVENTS,
        ListName.SPAM_EVENTS,
    ]


@pytest.mark.parametrize("name", BY_HAND)
def test_a_key_is_taken_off_one_list(name: ListName) -> None:
    lists = carry_out(empty(), AddKey(name, KEY), AddKey(name, OTHER))
    assert edits(lists, DropKey(name, KEY)) == [Edit(name, KEY, None)]
    assert list(carry_out(lists, DropKey(name, KEY), DropKey(name, KEY)).keys[name]) == [OTHER]


@pytest.mark.parametrize("name", COMPUTED)
def test_computed_lists_are_not_changed_by_hand(name: ListName) -> None:
    for command in (AddKey(name, KEY), DropKey(name, KEY)):
        assert refused(command) == f"{name.value} is made from events, it cannot be changed by hand"


@pytest.mark.parametrize("name", [*KIND_LISTS, ListName.BLOCKED_IPS])
def test_lists_of_something_else_take_no_keys(name: ListName) -> None:
    for command in (AddKey(name, KEY), DropKey(name, KEY)):
        assert refused(command) == f"{name.value} is no list of keys or events"


@pytest.mark.parametrize("n_bytes", [0, 31, 33, 64])
def test_a_key_has_32_bytes(n_bytes: int) -> None:
    for name in BY_HAND:
        what = "an event id" if name in EVENT_LISTS else "a key"
        for command in (AddKey(name, bytes(n_bytes)), DropKey(name, bytes(n_bytes))):
            assert refused(command) == f"{what} has 32 bytes, not {n_bytes}"


@pytest.mark.parametrize("name", AGAINST_KEYS)
def test_owners_and_admins_are_not_barred(name: ListName) -> None:
    assert refused(AddKey(name, OWNER)) == "this key is an owner's (ORLY_OWNERS) and cannot be banned"
    assert refused(AddKey(name, ADMIN)) == "this key is an admin's (ORLY_ADMINS) and cannot be banned"
    banned_before = Snapshot(Rules())
    carry_out(banned_before, AddKey(name, OWNER))
    banned_before.rules = empty().rules
    assert OWNER not in carry_out(banned_before, DropKey(name, OWNER)).keys[name]


@pytest.mark.parametrize("name", [name for name in BY_HAND if name not in AGAINST_KEYS])
def test_other_lists_take_every_key(name: ListName) -> None:
    for key in (OWNER, ADMIN, KEY):
        assert list(carry_out(empty(), AddKey(name, key)).keys[name]) == [key]


def test_what_is_said_of_an_entry_is_kept() -> None:
    (edit,) = edits(empty(), AddKey(ListName.SPAM_EVENTS, KEY, "buy", KEYS[2]))
    assert edit.entry == Entry(reason="buy", added_s=NOW_S, by=BY, pubkey=KEYS[2])
    for author in ("x", KEYS[2][1:], KEYS[2] + "0", KEYS[2].upper(), "z" * 64, KEYS[2] + "\n"):
        text = refused(AddKey(ListName.SPAM_EVENTS, KEY, "", author))
        assert text == f"the author must be 64 lower-case hex digits, not {author!r}"


# Limits


@pytest.mark.parametrize(
    "make",
    [lambda text: AddKey(ListName.BANNED_PUBKEYS, KEY, text), lambda text: BlockAddress("192.0.2.1", text)],
)
def test_the_length_of_reasons(make: type[BlockAddress]) -> None:
    longest = "ß" * MAX_REASON_CHARACTERS
    (edit,) = edits(empty(), make(longest))
    assert edit.entry is not None
    assert edit.entry.reason == longest
    assert MAX_REASON_CHARACTERS == 500
    assert refused(make(longest + "x")) == "the reason has more than 500 characters"


def test_the_length_of_what_the_relay_says_of_itself() -> None:
    assert MAX_INFO_CHARACTERS == 2_000
    assert edits(empty(), SetInfo("name", "ß" * MAX_INFO_CHARACTERS)) == []
    assert edits(empty(), SetInfo("icon", "")) == []
    text = refused(SetInfo("description", "x" * (MAX_INFO_CHARACTERS + 1)))
    assert text == "the description has more than 2000 characters"


# Kinds


@pytest.mark.parametrize(
    ("commands", "allowed", "disallowed"),
    [
        ([AllowKind(1)], {1}, set()),
        ([AllowKind(1), AllowKind(7)], {1, 7}, set()),
        ([DisallowKind(1)], set(), {1}),
        ([DisallowKind(1), DisallowKind(7)], set(), {1, 7}),
        ([DisallowKind(1), AllowKind(1)], set(), set()),
        ([AllowKind(1), DisallowKind(1)], set(), {1}),
        ([AllowKind(1), AllowKind(7), DisallowKind(1)], {7}, {1}),
        ([AllowKind(1), AllowKind(7), DisallowKind(1), DisallowKind(7)], set(), {1, 7}),
        ([AllowKind(1), DisallowKind(7)], {1}, {7}),
        ([AllowKind(1), DisallowKind(7), AllowKind(7)], {1, 7}, set()),
        ([DisallowKind(7), AllowKind(1)], {1}, {7}),
        ([DisallowKind(7), AllowKind(1), AllowKind(7)], {1, 7}, set()),
        ([DisallowKind(7), AllowKind(1), DisallowKind(1)], set(), {1, 7}),
        ([AllowKind(1), AllowKind(1)], {1}, set()),
        ([DisallowKind(1), DisallowKind(1)], set(), {1}),
        ([AllowKind(0), AllowKind(65_535)], {0, 65_535}, set()),
    ],
)
def test_kinds(commands: list[Command], allowed: set[int], disallowed: set[int]) -> None:
    lists = carry_out(empty(), *commands)
    assert lists.kinds == {ListName.ALLOWED_KINDS: allowed, ListName.DISALLOWED_KINDS: disallowed}


@pytest.mark.parametrize("kind", [-1, 65_536])
def test_kinds_that_are_none(kind: int) -> None:
    for command in (AllowKind(kind), DisallowKind(kind)):
        assert refused(command) == f"a kind is a number from 0 to 65535, not {kind}"


# Addresses


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        (" 192.0.2.1\n", "192.0.2.1"),
        ("2001:DB8:0:0::1", "2001:db8::1"),
        ("::1", "::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("::FFFF:c000:201", "192.0.2.1"),
        ("::", "::"),
    ],
)
def test_addresses(text: str, address: str) -> None:
    assert read_address(text) == address
    assert read_address(address) == address
    entry = Entry(reason="why", added_s=NOW_S, by=BY, until_s=NOW_S + 5)
    assert edits(empty(), BlockAddress(text, "why", NOW_S + 5)) == [Edit(ListName.BLOCKED_IPS, address, entry)]
    lists = carry_out(empty(), BlockAddress(text))
    assert lists.blocked == {address}
    assert edits(lists, UnblockAddress(text)) == [Edit(ListName.BLOCKED_IPS, address, None)]
    assert carry_out(lists, UnblockAddress(text)).blocked == set()


@pytest.mark.parametrize("text", ["", " ", "x", "192.0.2", "192.0.2.256", "192.0.2.1:80", "[::1]", "1:2:3", "١.1.1.1"])
def test_what_is_no_address(text: str) -> None:
    for command in (BlockAddress(text), UnblockAddress(text)):
        assert refused(command) == f"{text!r} is no IP address"
    assert len(refused(BlockAddress("9" * 1000))) < 120


@pytest.mark.parametrize(
    "text", ["192.0.2.1/24", "192.0.2.1/32", "2001:db8::/48", "2001:db8::1/128", "2001:db8::/x", "/", "fe80::1%eth0/64"]
)
def test_what_is_no_network_of_one_client(text: str) -> None:
    for command in (BlockAddress(text), UnblockAddress(text)):
        assert refused(command) == f"{text!r} is no IP address, and no IPv6 network of 64 bits"
    assert len(refused(BlockAddress("9/" * 1000))) < 160


def test_an_address_has_no_zone() -> None:
    for text in ("fe80::1%eth0", " fe80::1%" + "x" * 1000, "::ffff:192.0.2.1%1"):
        address = text.strip().partition("%")[0]
        assert refused(BlockAddress(text)) == f"write the address without its zone: {address}"


# Modes


@pytest.mark.parametrize(
    ("name", "modes"),
    [
        (ListName.FOLLOWED_PUBKEYS, {Mode.FOLLOWS}),
        (ListName.ALLOWED_PUBKEYS, {Mode.FOLLOWS, Mode.MANAGED}),
        (ListName.TRUSTED_PUBKEYS, {Mode.CURATING}),
        (ListName.BLACKLISTED_PUBKEYS, {Mode.CURATING}),
        (ListName.SPAM_EVENTS, {Mode.CURATING}),
        (ListName.PEER_PUBKEYS, set(Mode)),
        (ListName.BANNED_PUBKEYS, set(Mode)),
        (ListName.ALLOWED_EVENTS, set(Mode)),
        (ListName.BANNED_EVENTS, set(Mode)),
        (ListName.ALLOWED_KINDS, set(Mode)),
        (ListName.DISALLOWED_KINDS, set(Mode)),
        (ListName.BLOCKED_IPS, set(Mode)),
    ],
)
def test_where_a_list_means_something(name: ListName, modes: set[Mode]) -> None:
    assert {mode for mode in Mode if applies_in(mode, name)} == modes


# Whatever is done

keys = st.sampled_from([KEY, OTHER, bytes(32), b"\xff" * 32])
kinds = st.integers(0, 3)
addresses = st.sampled_from(["192.0.2.1", "::ffff:192.0.2.1", "2001:db8::1"])
reasons = st.sampled_from(["", "why"])
commands_: st.SearchStrategy[Command] = st.one_of(
    st.builds(AddKey, st.sampled_from(BY_HAND), keys, reasons),
    st.builds(DropKey, st.sampled_from(BY_HAND), keys),
    st.builds(AllowKind, kinds),
    st.builds(DisallowKind, kinds),
    st.builds(BlockAddress, addresses, reasons, st.sampled_from([0, NOW_S + 1])),
    st.builds(UnblockAddress, addresses),
    st.builds(SetInfo, st.sampled_from(["name", "icon"]), reasons),
)


class Model:
    """The lists as one dictionary, and what each command means said in another way."""

    def __init__(self) -> None:
        self.entries: dict[tuple[ListName, Member], str] = {}

    def has(self, name: ListName, member: Member) -> bool:
        return (name, member) in self.entries

    def put(self, name: ListName, member: Member, reason: str) -> None:
        self.entries[name, member] = reason

    def drop(self, name: ListName, member: Member) -> None:
        self.entries.pop((name, member), None)

    def members(self, name: ListName) -> set[Member]:
        return {member for listed, member in self.entries if listed is name}

    def takes(self, kind: int) -> bool:
        allowed = self.members(ListName.ALLOWED_KINDS)
        return (not allowed or kind in allowed) and not self.has(ListName.DISALLOWED_KINDS, kind)

    def carry_out(self, command: Command) -> None:
        match command:
            case AddKey(list=name, key=key, reason=reason):
                self.drop(dict(BOTH_WAYS).get(name, ListName.FOLLOWED_PUBKEYS), key)
                self.put(name, key, reason)
            case DropKey(list=name, key=key):
                self.drop(name, key)
            case AllowKind(kind=kind) if self.has(ListName.DISALLOWED_KINDS, kind):
                self.drop(ListName.DISALLOWED_KINDS, kind)
                if not self.takes(kind):
                    self.put(ListName.ALLOWED_KINDS, kind, "")
            case AllowKind(kind=kind):
                self.put(ListName.ALLOWED_KINDS, kind, "")
            case DisallowKind(kind=kind):
                self.drop(ListName.ALLOWED_KINDS, kind)
                self.put(ListName.DISALLOWED_KINDS, kind, "")
            case BlockAddress(address=address, reason=reason):
                self.put(ListName.BLOCKED_IPS, address.removeprefix("::ffff:"), reason)
            case UnblockAddress(address=address):
                self.drop(ListName.BLOCKED_IPS, address.removeprefix("::ffff:"))
            case SetInfo():
                pass


def everything(lists: Snapshot) -> set[tuple[ListName, Member]]:
    found: set[tuple[ListName, Member]] = {(name, key) for name in KEY_LISTS for key in lists.keys[name]}
    found |= {(name, kind) for name in KIND_LISTS for kind in lists.kinds[name]}
    return found | {(ListName.BLOCKED_IPS, address) for address in lists.blocked}


def kept(entries: dict[tuple[ListName, Member], str], changed: Sequence[Edit]) -> None:
    """What a store has of the lists afterwards."""
    for edit in changed:
        if edit.entry is None:
            entries.pop((edit.list, edit.member), None)
        else:
            entries[edit.list, edit.member] = edit.entry.reason


@QUICK
@given(st.lists(commands_, max_size=40))
def test_lists_are_what_the_commands_say(commands: list[Command]) -> None:
    lists, model = empty(), Model()
    stored: dict[tuple[ListName, Member], str] = {}
    for command in commands:
        changed = edits(lists, command)
        assert len(changed) <= 2
        for edit in changed:
            lists.apply(change_of(edit))
        kept(stored, changed)
        model.carry_out(command)
        assert stored == model.entries
        assert everything(lists) == set(model.entries)
        match command:
            case AllowKind(kind=kind):
                assert model.takes(kind)
            case DisallowKind(kind=kind):
                assert not model.takes(kind)
            case _:
                pass
    for first, second in (*OPPOSITES, KIND_LISTS):
        assert not model.members(first) & model.members(second)


@QUICK
@given(st.lists(commands_, max_size=12), st.lists(commands_, max_size=12))
def test_commands_at_once_do_what_they_do_one_by_one(before: list[Command], commands: list[Command]) -> None:
    lists = carry_out(empty(), *before)
    one_by_one = carry_out(carry_out(empty(), *before), *commands)
    stored: dict[tuple[ListName, Member], str] = dict.fromkeys(everything(lists), "")
    version = lists.version
    changed = edits_of_all(lists, commands, by=BY, now_s=NOW_S)
    assert lists.version == version
    assert len({(edit.list, edit.member) for edit in changed}) == len(changed) <= 2 * len(commands)
    for edit in changed:
        lists.apply(change_of(edit))
    assert lists == one_by_one
    kept(stored, changed)
    assert set(stored) == everything(lists)


def test_one_command_that_cannot_be_done_stops_all() -> None:
    commands = [AddKey(ListName.BANNED_PUBKEYS, KEY), AddKey(ListName.BANNED_PUBKEYS, OWNER)]
    with pytest.raises(CommandError, match="an owner's"):
        edits_of_all(empty(), commands, by=BY, now_s=NOW_S)


def test_a_wrong_key_among_several_commands_is_refused() -> None:
    commands = [AddKey(name, bytes(n)) for name in BY_HAND for n in (31, 33)]
    for command in commands:
        with pytest.raises(CommandError, match="has 32 bytes"):
            edits_of_all(empty(), [command], by=BY, now_s=NOW_S)


def test_edits_are_changes() -> None:
    assert change_of(Edit(ListName.SPAM_EVENTS, KEY, Entry())) == KeyChange(ListName.SPAM_EVENTS, KEY, True)
    assert change_of(Edit(ListName.SPAM_EVENTS, KEY, None)) == KeyChange(ListName.SPAM_EVENTS, KEY, False)
