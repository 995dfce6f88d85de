"""What `orly acl` makes of its command line, and how it words what it found."""

import asyncio
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from tests.settings_environment import NSEC
from typer.testing import CliRunner

from orly.access.commands import (
    MAX_REASON_CHARACTERS,
    AddKey,
    AllowKind,
    BlockAddress,
    Command,
    DisallowKind,
    DropKey,
    Entry,
    Member,
    UnblockAddress,
)
from orly.access.control import Listed
from orly.access.curating import CuratingConfig
from orly.access.levels import Mode
from orly.access.snapshot import (
    AddressChange,
    Change,
    CuratingChange,
    KeyChange,
    KindChange,
    ListName,
    Rules,
    Snapshot,
    UseChange,
)
from orly.cli import acl_run
from orly.cli.acl_actions import Sort, action_of, command_of, read_member
from orly.cli.acl_command import add_acl
from orly.cli.acl_input import Item, read_items
from orly.cli.acl_options import AclError, AclOptions, ChangeOptions, ListOptions, ShowOptions, Where
from orly.cli.acl_rows import Row, as_json, as_text, read_name, row_of
from orly.cli.acl_show import Finding, find
from orly.cli.acl_show_words import as_json as shown_as_json
from orly.cli.acl_show_words import sentences
from orly.process.exit_codes import ExitCode
from orly.settings import Loaded, load

KEY, OTHER, OWNER, ADMIN = (bytes([n]) * 32 for n in (0xAB, 0xCD, 1, 2))
ADDRESS = "192.0.2.1"
Parse = Callable[..., AclOptions | None]


@pytest.fixture
def parse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Parse:
    """Gives the options that a command line makes; None if it is refused."""
    seen: list[AclOptions] = []

    def take(loaded: Loaded, options: AclOptions) -> tuple[ExitCode, str]:
        seen.append(options)
        return ExitCode.OK, ""

    monkeypatch.setattr(acl_run, "run_acl", take)
    app = typer.Typer()
    add_acl(app, lambda: load({"HOME": str(tmp_path)}), lambda code, text: typer.Exit(code))
    app.command("other")(lambda: None)

    def run(*arguments: str) -> AclOptions | None:
        seen.clear()
        result = CliRunner().invoke(app, ["acl", *arguments])
        assert result.exit_code == (0 if seen else 2), result.output
        return seen[0] if seen else None

    return run


@pytest.mark.parametrize(
    ("line", "options"),
    [
        ("list", ListOptions()),
        ("list banned-pubkeys --json", ListOptions(name="banned-pubkeys", as_json=True)),
        ("list --server h:1", ListOptions(where=Where(server="h:1"))),
        ("show k", ShowOptions(key="k")),
        ("show k --ip ::1 --json", ShowOptions(key="k", address="::1", as_json=True)),
        ("ban a b", ChangeOptions(verb="ban", keys=("a", "b"))),
        ("ban a --reason because", ChangeOptions(verb="ban", keys=("a",), reason="because")),
        ("ban --event a", ChangeOptions(verb="ban", is_event=True, keys=("a",))),
        ("unban a --event", ChangeOptions(verb="unban", is_event=True, keys=("a",))),
        ("allow --file f", ChangeOptions(verb="allow", file=Path("f"))),
        ("unallow --file -", ChangeOptions(verb="unallow", file=Path("-"))),
        ("trust a --reason r", ChangeOptions(verb="trust", keys=("a",), reason="r")),
        ("untrust a", ChangeOptions(verb="untrust", keys=("a",))),
        ("blacklist a", ChangeOptions(verb="blacklist", keys=("a",))),
        ("unblacklist a", ChangeOptions(verb="unblacklist", keys=("a",))),
        ("spam a", ChangeOptions(verb="spam", keys=("a",))),
        ("unspam a", ChangeOptions(verb="unspam", keys=("a",))),
        ("block-ip a --for 1h --reason r", ChangeOptions(verb="block-ip", keys=("a",), duration="1h", reason="r")),
        ("unblock-ip a", ChangeOptions(verb="unblock-ip", keys=("a",))),
        ("allow-kind 1 2", ChangeOptions(verb="allow-kind", keys=("1", "2"))),
        ("disallow-kind 1", ChangeOptions(verb="disallow-kind", keys=("1",))),
        ("ban", ChangeOptions(verb="ban")),
        (
            "ban a --url wss://r --auth-key-file k",
            ChangeOptions(verb="ban", keys=("a",), where=Where(url="wss://r", auth_key_file=Path("k"))),
        ),
    ],
)
def test_a_command_line_makes_options(parse: Parse, line: str, options: AclOptions) -> None:
    assert parse(*line.split()) == options


@pytest.mark.parametrize(
    "line",
    [
        "",
        "nothing",
        "show",
        "show a b",
        "list a b",
        "unban a --reason r",
        "trust a --event",
        "spam a --event",
        "unblock-ip a --for 1h",
        "allow-kind 1 --reason r",
        "ban a --file",
    ],
)
def test_what_a_command_has_no_use_for_is_refused(parse: Parse, line: str) -> None:
    assert parse(*line.split()) is None


# Members and commands


@pytest.mark.parametrize(
    ("sort", "text", "member"),
    [
        (Sort.PUBKEY, "ab" * 32, KEY),
        (Sort.PUBKEY, "AB" * 32, KEY),
        (Sort.EVENT, "Ab" * 32, KEY),
        (Sort.ADDRESS, "192.0.2.1", "192.0.2.1"),
        (Sort.ADDRESS, "2001:DB8:0::1", "2001:db8::1"),
        (Sort.ADDRESS, "::ffff:192.0.2.1", "192.0.2.1"),
        (Sort.KIND, "0", 0),
        (Sort.KIND, "65535", 65535),
    ],
)
def test_a_member_is_read_as_people_write_it(sort: Sort, text: str, member: Member) -> None:
    assert read_member(sort, text) == member


@pytest.mark.parametrize("sort", list(Sort))
@given(text=st.text(max_size=70))
def test_anything_is_a_member_or_refused(sort: Sort, text: str) -> None:
    try:
        member = read_member(sort, text)
    except ValueError:
        return
    assert isinstance(member, {Sort.KIND: int, Sort.ADDRESS: str}.get(sort, bytes))


def test_a_secret_is_not_repeated() -> None:
    for sort in (Sort.PUBKEY, Sort.EVENT):
        with pytest.raises(ValueError, match=r"secret key|64 hex digits") as caught:
            read_member(sort, NSEC)
        assert NSEC[5:] not in str(caught.value)
    with pytest.raises(AclError) as refused:
        read_items(action_of("ban", is_event=False), ChangeOptions(verb="ban", keys=(NSEC,)))
    assert NSEC[5:] not in str(refused.value)


@pytest.mark.parametrize(
    ("verb", "is_event", "member", "command"),
    [
        ("ban", False, KEY, AddKey(ListName.BANNED_PUBKEYS, KEY, "r")),
        ("ban", True, KEY, AddKey(ListName.BANNED_EVENTS, KEY, "r")),
        ("unban", False, KEY, DropKey(ListName.BANNED_PUBKEYS, KEY)),
        ("unban", True, KEY, DropKey(ListName.BANNED_EVENTS, KEY)),
        ("allow", False, KEY, AddKey(ListName.ALLOWED_PUBKEYS, KEY, "r")),
        ("allow", True, KEY, AddKey(ListName.ALLOWED_EVENTS, KEY, "r")),
        ("unallow", False, KEY, DropKey(ListName.ALLOWED_PUBKEYS, KEY)),
        ("unallow", True, KEY, DropKey(ListName.ALLOWED_EVENTS, KEY)),
        ("trust", False, KEY, AddKey(ListName.TRUSTED_PUBKEYS, KEY, "r")),
        ("untrust", False, KEY, DropKey(ListName.TRUSTED_PUBKEYS, KEY)),
        ("blacklist", False, KEY, AddKey(ListName.BLACKLISTED_PUBKEYS, KEY, "r")),
        ("unblacklist", False, KEY, DropKey(ListName.BLACKLISTED_PUBKEYS, KEY)),
        ("spam", False, KEY, AddKey(ListName.SPAM_EVENTS, KEY, "r")),
        ("unspam", False, KEY, DropKey(ListName.SPAM_EVENTS, KEY)),
        ("block-ip", False, ADDRESS, BlockAddress(ADDRESS, "r", 9)),
        ("unblock-ip", False, ADDRESS, UnblockAddress(ADDRESS)),
        ("allow-kind", False, 1, AllowKind(1)),
        ("disallow-kind", False, 1, DisallowKind(1)),
    ],
)
def test_an_action_is_a_command(verb: str, is_event: bool, member: Member, command: Command) -> None:
    assert command_of(action_of(verb, is_event=is_event), member, "r", 9) == command


def items_in(tmp_path: Path, data: bytes, verb: str = "ban", **options: Any) -> dict[Member, Item]:
    file = tmp_path / "file"
    file.write_bytes(data)
    return read_items(action_of(verb, is_event=False), ChangeOptions(verb=verb, file=file, **options))


def test_lines_of_a_file(tmp_path: Path) -> None:
    key, other = KEY.hex().encode(), OTHER.hex().encode()
    assert items_in(tmp_path, b"") == {}
    assert items_in(tmp_path, b"\xef\xbb\xbf" + key) == {KEY: Item("", 1)}
    assert items_in(tmp_path, b"#" + key + b"\n\n  " + other + b" a b \r\n") == {OTHER: Item("a b", 3)}
    assert items_in(tmp_path, key + b" x\n" + key + b" y\n") == {KEY: Item("y", 2)}
    assert items_in(tmp_path, key + b" x\n" + other, reason="z") == {KEY: Item("x", 1), OTHER: Item("z", 2)}
    assert items_in(tmp_path, b"1 text\n2\n", "allow-kind") == {1: Item("", 1), 2: Item("", 2)}
    assert items_in(tmp_path, b"::1 far away", "block-ip") == {"::1": Item("far away", 1)}
    assert items_in(tmp_path, key + b" " + b"x" * MAX_REASON_CHARACTERS)


@pytest.mark.parametrize("line", [b"\xef\xbb\xbf\xef\xbb\xbf", b"\xff", b"x", b"ab" * 32 + b" " + b"y" * 501, b"\0"])
def test_a_bad_line_is_named(tmp_path: Path, line: bytes) -> None:
    with pytest.raises(AclError, match=r"^line 2 of .*/file: ") as caught:
        items_in(tmp_path, KEY.hex().encode() + b"\n" + line + b"\n" + OTHER.hex().encode())
    assert caught.value.code is ExitCode.USAGE
    assert str(caught.value).endswith("\nnothing was changed")


# Rows


def test_the_names_of_lists() -> None:
    assert [read_name(name.value) for name in ListName] == list(ListName)
    with pytest.raises(ValueError, match="there are: followed-pubkeys, peer-pubkeys, allowed-pubkeys, banned-pubkeys"):
        read_name("BANNED_PUBKEYS")


def test_what_a_list_tells_of_a_member() -> None:
    entry = Entry(reason="r", added_s=5, by="", pubkey="", until_s=0)
    assert row_of(ListName.BANNED_PUBKEYS, Listed(KEY, entry)) == Row(
        member=KEY.hex(), added_s=5, by="operator", reason="r"
    )
    assert row_of(ListName.PEER_PUBKEYS, Listed(KEY, Entry())) == Row(member=KEY.hex())
    assert row_of(ListName.BLOCKED_IPS, Listed(ADDRESS, Entry(by="limits"))) == Row(member=ADDRESS, by="limits")
    assert row_of(ListName.ALLOWED_KINDS, Listed(7, Entry(by="ff"))) == Row(member=7, by="ff")


@given(st.text(), st.text(min_size=1, max_size=70), st.integers(-(2**80), 2**80))
def test_a_row_is_one_line_whatever_it_holds(reason: str, by: str, number: int) -> None:
    row = Row(member="::1", added_s=number, by=by, reason=reason, until_s=number)
    for name in ListName:
        text = as_text(name, row).decode()
        assert text.splitlines() == [text[:-1]]
        assert text.count("\t") <= 3 + (name is ListName.BLOCKED_IPS)
        told = json.loads(as_json(name, row))
        assert (told["member"], told["by"], told["added"]) == ("::1", by, number)


# What a key may do


class Lists:
    """Lists of which everything is known that is in `entries`."""

    def __init__(self, snapshot: Snapshot, entries: dict[tuple[ListName, Member], Entry]) -> None:
        self.snapshot: Snapshot | None = snapshot
        self._entries = entries

    async def listed(self, name: ListName, *, after: Member | None = None, limit: int = 1000) -> Sequence[Listed]:
        raise NotImplementedError

    async def entry_of(self, name: ListName, member: Member) -> Entry | None:
        return self._entries.get((name, member))


def found(*changes: Change, key: bytes = KEY, address: str = "", mode: Mode = Mode.NONE, **rules: Any) -> Finding:
    snapshot = Snapshot(Rules(mode=mode, owners=frozenset({OWNER}), admins=frozenset({ADMIN}), **rules))
    for change in changes:
        snapshot.apply(change)
    entries: dict[tuple[ListName, Member], Entry] = {
        (ListName.BANNED_PUBKEYS, KEY): Entry(reason="bad\nmanners", added_s=1_700_000_000, by="ee" * 32),
        (ListName.TRUSTED_PUBKEYS, KEY): Entry(added_s=1_700_000_000),
        (ListName.BLOCKED_IPS, ADDRESS): Entry(reason="r", added_s=1_700_000_000, by="limits", until_s=1_700_003_600),
    }
    return asyncio.run(find(Lists(snapshot, entries), key, address))


def on(name: ListName, key: bytes = KEY) -> KeyChange:
    return KeyChange(name, key, True)


SINCE = "since 2023-11-14T22:13:20Z"
CONFIG = CuratingChange(CuratingConfig(daily_limit=50, ip_daily_limit=500))
TAKEN = "Its notes (kind 1) are taken."
MAY_READ = "It may read."
NOT = "Its notes (kind 1) are not taken: "


@pytest.mark.parametrize(
    ("changes", "rules", "level", "rest"),
    [
        ([], {}, "write", ["It is on no list.", TAKEN, MAY_READ]),
        (
            [on(ListName.BANNED_PUBKEYS)],
            {},
            "none",
            [
                f"It is on banned-pubkeys {SINCE}, by {'ee' * 32}: bad\\nmanners.",
                f"{NOT}blocked: the key you authenticated with is banned on this relay.",
                "It is told nothing: blocked: the key you authenticated with is banned on this relay.",
            ],
        ),
        (
            [on(ListName.TRUSTED_PUBKEYS)],
            {},
            "write",
            [
                f"It is on trusted-pubkeys {SINCE}, by an operator, without a reason; "
                "that has no effect in the mode none.",
                TAKEN,
                MAY_READ,
            ],
        ),
        (
            [KindChange(ListName.DISALLOWED_KINDS, 1, True)],
            {},
            "write",
            ["It is on no list.", f"{NOT}blocked: kind 1 is not taken on this relay.", MAY_READ],
        ),
        (
            [on(ListName.PEER_PUBKEYS)],
            {"mode": Mode.MANAGED},
            "read",
            ["It is on peer-pubkeys: it is the key of a relay that this one syncs with.", TAKEN, MAY_READ],
        ),
        (
            [],
            {"mode": Mode.MANAGED, "reads_restricted": True},
            "none",
            [
                "It is on no list.",
                f"{NOT}restricted: its author is not on the list of those who may write to this relay.",
                "It is told nothing: restricted: this relay answers only those who may write to it.",
            ],
        ),
        (
            [on(ListName.FOLLOWED_PUBKEYS)],
            {"mode": Mode.FOLLOWS},
            "write",
            ["It is on followed-pubkeys: an owner or admin follows it.", TAKEN, MAY_READ],
        ),
        (
            [],
            {"mode": Mode.FOLLOWS, "throttles": True},
            "read",
            [
                "It is on no list.",
                "Its notes (kind 1) are taken, but each makes it wait longer, by ORLY_FOLLOWS_THROTTLE.",
                MAY_READ,
            ],
        ),
        (
            [],
            {"mode": Mode.CURATING},
            "read",
            [
                "It is on no list.",
                f"{NOT}restricted: this relay is not set up yet: only those who run it may write.",
                MAY_READ,
            ],
        ),
        (
            [CONFIG, UseChange(KEY, 1)],
            {"mode": Mode.CURATING},
            "write",
            [
                "It is on no list.",
                "Its notes (kind 1) are taken, and counted.",
                "Of its 50 events of this day (UTC) 1 is used.",
                MAY_READ,
            ],
        ),
        (
            [CONFIG, UseChange(KEY, 50)],
            {"mode": Mode.CURATING},
            "write",
            [
                "It is on no list.",
                f"{NOT}rate-limited: 50 events a day are taken of an author who is not trusted.",
                "Of its 50 events of this day (UTC) 50 are used.",
                MAY_READ,
            ],
        ),
        (
            [CONFIG, UseChange(KEY, 50), on(ListName.TRUSTED_PUBKEYS)],
            {"mode": Mode.CURATING},
            "write",
            [f"It is on trusted-pubkeys {SINCE}, by an operator, without a reason.", TAKEN, MAY_READ],
        ),
        (
            [CONFIG, UseChange(ADDRESS, 500)],
            {"mode": Mode.CURATING, "address": ADDRESS},
            "write",
            [
                "It is on no list.",
                f"The address {ADDRESS} is not blocked.",
                f"{NOT}rate-limited: 500 events a day are taken of one address.",
                "Of its 50 events of this day (UTC) 0 are used.",
                "Of the 500 events of this day (UTC) from that address 500 are used.",
                MAY_READ,
            ],
        ),
        (
            [AddressChange(ADDRESS, True)],
            {"address": ADDRESS},
            "write",
            [
                "It is on no list.",
                f"The address {ADDRESS} is blocked until 2023-11-14T23:13:20Z, {SINCE}, by limits: r.",
                f"{NOT}blocked: your address is blocked on this relay.",
                "It is told nothing: blocked: your address is blocked on this relay.",
            ],
        ),
        (
            [on(ListName.BANNED_PUBKEYS, OWNER), AddressChange(ADDRESS, True)],
            {"key": OWNER, "address": ADDRESS},
            "owner",
            [
                "It is an owner's key, by ORLY_OWNERS.",
                "It is on banned-pubkeys, by an operator, without a reason; that has no effect on owners and admins.",
                f"The address {ADDRESS} is blocked until 2023-11-14T23:13:20Z, {SINCE}, by limits: r; "
                "that has no effect on owners and admins.",
                TAKEN,
                "It may read, also what is hidden from others.",
            ],
        ),
        (
            [],
            {"key": ADMIN, "mode": Mode.CURATING},
            "admin",
            [
                "It is an admin's key, by ORLY_ADMINS.",
                "It is on no list.",
                TAKEN,
                "It may read, also what is hidden from others.",
            ],
        ),
    ],
)
def test_a_key_is_explained(changes: list[Change], rules: dict[str, Any], level: str, rest: list[str]) -> None:
    finding = found(*changes, **rules)
    first, *others = sentences(finding)
    mode = rules.get("mode", Mode.NONE).value
    assert first.startswith(f"{rules.get('key', KEY).hex()} has the level {level} in the mode {mode}: ")
    assert others == rest
    told = json.loads(shown_as_json(finding))
    assert (told["mode"], told["level"]) == (mode, level)
    assert told["write"]["allowed"] is not any(line.startswith(NOT) for line in rest)
    assert told["read"]["allowed"] is any(line.startswith("It may read") for line in rest)
    assert all(told[door]["allowed"] is not bool(told[door]["reason"]) for door in ("read", "write"))
    assert (told["address"] is None) is ("address" not in rules)
    assert (told["owner"], told["admin"]) == (level == "owner", level == "admin")


def test_a_key_as_json() -> None:
    changes: list[Change] = [
        CONFIG,
        UseChange(KEY, 3),
        on(ListName.BANNED_PUBKEYS, OTHER),
        on(ListName.ALLOWED_PUBKEYS),
    ]
    told = json.loads(shown_as_json(found(*changes, mode=Mode.CURATING, address=ADDRESS)))
    assert told == {
        "pubkey": KEY.hex(),
        "mode": "curating",
        "level": "write",
        "owner": False,
        "admin": False,
        "lists": [{"list": "allowed-pubkeys", "applies": False, "added": None, "by": "operator", "reason": ""}],
        "address": {"ip": ADDRESS, "block": None, "day": {"used": 0, "limit": 500}},
        "write": {"allowed": True, "reason": "", "treatment": "counted"},
        "read": {"allowed": True, "reason": ""},
        "day": {"used": 3, "limit": 50},
    }
    followed = json.loads(shown_as_json(found(on(ListName.FOLLOWED_PUBKEYS), mode=Mode.FOLLOWS)))
    assert followed["lists"] == [{"list": "followed-pubkeys", "applies": True, "added": None, "by": None, "reason": ""}]
